"""`make docs`: writes `docs/pictures/*.svg` as `capture graph` prints them, for a pod of fixed addresses."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from capture.commands.graph import live_picture, planned_pictures
from capture.host.facts import Facts
from capture.intent.resolve import resolve
from capture.netlink.rtnetlink import Address
from capture.settings.declared import Settings
from rules.addresses import IPv4Address
from rules.iptables.counters import counters
from rules.iptables.reading import tables
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family
from rules.ours.reasons import explained
from rules.picture.svg import svg
from rules.plan.plan import plan
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from rules.plan.intent import Intent

FOLDER = ROOT / "docs" / "pictures"
SAVED = ROOT / "tests" / "golden" / "live.save"
"""What `iptables-nft-save -c` printed in a pod in which others had been at work."""
COMMANDS = {
    "plain": "capture graph -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020",
    "tproxy": "capture graph -u 1337 -m TPROXY -b '*' -d 15090,15021,15020",
    "dns": "capture graph -u 1337 --redirect-dns",
    "exclusions": (
        "capture graph -u 1337 -o 22,3306,5432,6379,9092,9200 -x 10.0.0.0/8,172.16.0.0/12,192.168.0.0/16 "
        "-d 15090,15021 -c eth1 --exclude-uids 1000-1010"
    ),
    "owners": "ISTIO_OUTBOUND_OWNER_GROUPS=101,202 capture graph -u 1337,1338 --udp 443=reject --drop-invalid",
}
"""The command that prints each picture."""
LIVE = "capture graph --live -u 1337 -d 15090,15021 -o 22,3306 -x 10.0.0.0/8"
FACTS = Facts((Address(IPv4Address("10.244.0.5"), 32),), resolv_conf="nameserver 10.96.0.10\n")
"""A pod with one address and a nameserver."""


def said(command: str) -> tuple[Settings, Intent]:
    """The settings of a command line, variables first, and what they mean in that pod."""
    words = shlex.split(command)
    at = words.index("capture")
    environ = dict(word.split("=", 1) for word in words[:at])
    settings = Settings.load([word for word in words[at + 2 :] if word != "--live"], environ)
    return settings, resolve(settings, FACTS).intent


def pictures() -> dict[Path, str]:
    """Every picture by its file."""
    found = {}
    for name, command in COMMANDS.items():
        settings, intent = said(command)
        found[FOLDER / f"{name}.svg"] = svg(planned_pictures(settings, intent, [Family.V4]))
    text = SAVED.read_text(encoding="utf-8")
    wanted = plan(said(LIVE)[1]).rulesets[0]
    held = explained(Ruleset(Family.V4, tables(text)), wanted)
    found[FOLDER / "live.svg"] = svg([live_picture(held, counters(text), "", "nft", ["IPv6 has no rules."])])
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for file, text in pictures().items():
        file.write_text(text, encoding="utf-8")
        print(f"{file.relative_to(ROOT)}: {len(text):,} bytes")


if __name__ == "__main__":
    main()
