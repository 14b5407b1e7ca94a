"""The second witness: libiptc reads from the kernel what iptables-legacy-save says, rule by rule."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from capture.errors import BackendUnusable, LiveStateUnreadable
from capture.host.live import Live, read_live
from capture.inspect.iproute import pyroute2_differences
from capture.inspect.libiptc import Difference, libiptc_differences
from capture.iptables.saved import Saved
from rules.iptables import reading
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family
from tests.netns.test_convergence import SETTINGS
from tests.netns.test_scenarios import SCENARIOS, plant_what_is_of_others
from tests.rig import Pod, entered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEGACY = "--force-iptables-binary=legacy"
EVERYTHING = ["-u", "1337", "-m", "TPROXY", "--dual-stack", "--redirect-dns", "--capture-all-dns", "--drop-invalid"]
NAMESERVERS = "nameserver 10.96.0.10\nnameserver fd00:96::a\n"

RUNS: dict[str, tuple[list[str], dict[str, str]]] = {
    **{" ".join(arguments): (arguments, {}) for arguments in SETTINGS},
    **{name: (scenario.arguments, scenario.environ) for name, scenario in SCENARIOS.items()},
}


def tables(pod: Pod) -> list[str]:
    """The legacy tables that there are, and what they hold."""
    names = [pod.inside.output("cat", f"/proc/net/{family}_tables_names") for family in ("ip", "ip6")]
    return [*names, *(line for version in (4, 6) for line in pod.saved("legacy", version=version))]


def live_of(pod: Pod) -> Live:
    with entered(pod.inside):
        return read_live()


def seen(pod: Pod, live: Live, backend: str = "legacy") -> list[Difference]:
    with entered(pod.inside):
        return libiptc_differences(live, backend)


@pytest.mark.parametrize(("arguments", "environ"), RUNS.values(), ids=list(RUNS))
def test_libiptc_sees_what_the_text_says(pod: Pod, arguments: list[str], environ: dict[str, str]) -> None:
    """In both families, in every table of ours; and looking changes nothing, and makes no table."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    both = [] if "--ipv6" in arguments else ["--dual-stack"]
    pod.applied(*arguments, *both, LEGACY, env=environ)
    before = tables(pod)
    live = live_of(pod)
    assert live.legacy[Family.V4].ruleset.table("nat").chains()["ISTIO_OUTPUT"]
    assert Family.V6 in live.legacy
    assert seen(pod, live) == []
    assert tables(pod) == before


def test_the_rules_of_others_are_compared_as_well(pod: Pod) -> None:
    """What we speak of them by its values; of what we do not speak, that it is there."""
    plant_what_is_of_others(pod, "legacy")
    for words in (
        ["-A", "INPUT", "-m", "comment", "--comment", "a b", "-p", "icmp", "!", "-s", "10.1.0.0/16", "-j", "DROP"],
        ["-A", "INPUT", "-p", "47"],
        ["-A", "INPUT", "!", "-i", "eth+", "-p", "udp", "-m", "udp", "--sport", "1:1024", "-j", "LOG"],
        ["-A", "FORWARD", "-m", "statistic", "--mode", "nth", "--every", "3", "--packet", "0", "-j", "ACCEPT"],
        ["-A", "FORWARD", "-s", "10.0.0.7/255.0.0.255", "-j", "REJECT"],
        ["-N", "OTHERS"],
        ["-A", "FORWARD", "!", "-p", "tcp", "-g", "OTHERS"],
        ["-A", "FORWARD", "-f", "-j", "OTHERS"],
        ["-P", "FORWARD", "DROP"],
    ):
        pod.inside.output("iptables-legacy", *words)
    pod.applied(*EVERYTHING, LEGACY)
    assert seen(pod, live_of(pod)) == []


def edited(live: Live, edit: Callable[[str], str]) -> Live:
    """The same, had iptables-legacy-save said something else of IPv4."""
    before = live.legacy[Family.V4].text
    text = edit(before)
    assert text != before
    return live.but(legacy={**live.legacy, Family.V4: Saved(Ruleset(Family.V4, reading.tables(text)), text)})


UID = "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
LIES: dict[str, tuple[Callable[[str], str], list[str]]] = {
    "another port": (
        lambda text: text.replace("--to-ports 15001", "--to-ports 15009"),
        ["IPv4 nat ISTIO_REDIRECT rule 1: iptables-legacy-save says -p tcp -j REDIRECT --to-ports 15009; libiptc says "
         "-p tcp -j REDIRECT --to-ports 15001"],
    ),
    "a rule that is kept back": (
        lambda text: text.replace(UID, ""),
        ["IPv4 nat ISTIO_OUTPUT rule 5: iptables-legacy-save says nothing; libiptc says "
         "-m owner --uid-owner 1337 -j RETURN"],
    ),
    "a rule that is not there": (
        lambda text: text.replace(UID, UID + UID),
        ["IPv4 nat ISTIO_OUTPUT rule 5: iptables-legacy-save says -m owner --uid-owner 1337 -j RETURN; "
         "libiptc says nothing"],
    ),
    "another order": (
        lambda text: text.replace("-A ISTIO_DIVERT -j ACCEPT\n", "").replace(
            "-A ISTIO_DIVERT -j MARK", "-A ISTIO_DIVERT -j ACCEPT\n-A ISTIO_DIVERT -j MARK"
        ),
        ["IPv4 mangle ISTIO_DIVERT rule 1: iptables-legacy-save says nothing; libiptc says "
         "-j MARK --set-xmark 0x539/0xffffffff",
         "IPv4 mangle ISTIO_DIVERT rule 2: iptables-legacy-save says -j MARK --set-xmark 0x539/0xffffffff; "
         "libiptc says nothing"],
    ),
    "a negation that is lost": (
        lambda text: text.replace("! -d 127.0.0.1/32 -p tcp -j TPROXY", "-d 127.0.0.1/32 -p tcp -j TPROXY"),
        ["IPv4 mangle ISTIO_TPROXY rule 1: iptables-legacy-save says -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 "
         "--tproxy-mark 0x539/0xffffffff; libiptc says ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 "
         "--tproxy-mark 0x539/0xffffffff"],
    ),
    "another policy": (
        lambda text: text.replace(":FORWARD ACCEPT", ":FORWARD DROP"),
        ["IPv4 mangle FORWARD policy: iptables-legacy-save says DROP; libiptc says ACCEPT"],
    ),
    "an empty chain": (
        lambda text: text.replace("*raw\n", "*raw\n:ISTIO_OUTPUT - [0:0]\n"),
        ["IPv4 raw ISTIO_OUTPUT chain: iptables-legacy-save says ISTIO_OUTPUT; libiptc says nothing"],
    ),
    "a table that is not there": (
        lambda text: text + "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n",
        ["IPv4 filter table: iptables-legacy-save says filter; libiptc says nothing"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def captured() -> object:
    """A pod with rules in every table of the plan, which the tests below only look at."""
    with Pod() as made:
        made.applied(*EVERYTHING, LEGACY)
        yield made


@pytest.mark.parametrize(("edit", "wanted"), LIES.values(), ids=list(LIES))
def test_a_text_that_differs_is_caught(captured: Pod, edit: Callable[[str], str], wanted: list[str]) -> None:
    """Where it differs, with what each of the two says; and nothing else differs."""
    assert list(map(str, seen(captured, edited(live_of(captured), edit)))) == wanted


def test_a_table_that_the_text_keeps_back_is_caught(captured: Pod) -> None:
    """The whole family may be missing from what was read: libiptc looks all the same."""
    live = live_of(captured).but(legacy={})
    assert {str(found) for found in seen(captured, live)} == {
        f"{family} {table} table: iptables-legacy-save says nothing; libiptc says {table}"
        for family in ("IPv4", "IPv6")
        for table in ("raw", "mangle", "nat")
    }


def test_nft_rules_are_not_called_agreed(pod: Pod) -> None:
    """libiptc would show empty chains: refused, and no legacy table is made by asking."""
    pod.applied(*EVERYTHING, "--force-iptables-binary=nft")
    with pytest.raises(BackendUnusable, match="libiptc sees the legacy backend only"):
        seen(pod, live_of(pod), "nft")
    before = tables(pod)
    assert seen(pod, live_of(pod)) == []
    assert tables(pod) == before
    assert pod.inside.output("cat", "/proc/net/ip_tables_names") == ""


def test_a_missing_library_is_named(captured: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it."""
    (tmp_path / "iptc.py").write_text("raise ModuleNotFoundError(\"No module named 'iptc'\")")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnusable) as refused:
        seen(captured, live_of(captured))
    assert "python-iptables is not installed" in str(refused.value)
    assert "pip install 'traffic-capture[iptc]'" in str(refused.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal 9"),
        ("raise RuntimeError('libiptc is in a mood')", "libiptc is in a mood"),
    ],
)
def test_a_child_that_dies_is_no_agreement(
    captured: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    """The error says how it ended and what it said."""
    (tmp_path / "iptc.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LiveStateUnreadable) as refused:
        seen(captured, live_of(captured))
    assert said in str(refused.value)


def test_without_capabilities_it_says_what_it_takes(captured: Pod) -> None:
    """libiptc needs NET_ADMIN and NET_RAW: the child's refusal is told, not taken for empty tables."""
    done = captured.inside.run(
        *("setpriv", "--bounding-set=-all", sys.executable, "-m", "capture.inspect.libiptc", "ipv4"),
        env=captured.environ(),
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert "ermission denied" in done.stderr


# --- ip rules, routes and addresses ---------------------------------------------------------------------------


def routing_seen(pod: Pod, live: Live) -> list[str]:
    with entered(pod.inside):
        return pyroute2_differences(live)


def test_pyroute2_sees_the_routing_that_we_read_and_wrote(pod: Pod) -> None:
    """Ours in both families, `::6`, and rules of others with masks, tables and goto."""
    for rule in ("from 10.0.0.0/8 lookup 55", "fwmark 0x10/0xf0 lookup 1000", "pref 40 goto 32766"):
        pod.inside.ip("rule", "add", *rule.split())
    pod.inside.ip("route", "add", "local", "192.0.2.0/24", "dev", "lo", "table", "1000")
    pod.applied("-u", "1337", "-m", "TPROXY", "--dual-stack")
    live = live_of(pod)
    assert [rule.mark for rule in live.policy_rules].count(1337) == 2
    assert live.passthrough
    assert routing_seen(pod, live) == []
    assert (
        "as planned" in pod.capture("verify", "-u", "1337", "-m", "TPROXY", "--dual-stack", "--witness=pyroute2").stdout
    )


def test_routing_that_differs_is_caught(pod: Pod) -> None:
    """A rule, a route or an address that only one of the two knows of is named, with who does."""
    pod.applied("-u", "1337", "-m", "TPROXY", "--dual-stack")
    live = live_of(pod)
    ours = next(rule for rule in live.policy_rules if rule.mark == 1337)
    others = tuple(rule for rule in live.policy_rules if rule is not ours)
    line = f"IPv4 ip rule {ours.priority}: fwmark 0x539/0xffffffff lookup 133 proto 133"
    assert routing_seen(pod, live.but(policy_rules=others)) == [f"{line}: pyroute2 reads it, and we do not"]
    changed = line.replace("lookup 133", "lookup 134")
    assert routing_seen(pod, live.but(policy_rules=(*others, ours.but(table=134)))) == [
        f"{changed}: we read it, and pyroute2 does not",
        f"{line}: pyroute2 reads it, and we do not",
    ]
    assert routing_seen(pod, live.but(routes=()))[0].startswith("IPv4 route local dev lo table 133 proto 133")
    assert any(line.startswith("address ::6/128") for line in routing_seen(pod, live.but(addresses=())))
