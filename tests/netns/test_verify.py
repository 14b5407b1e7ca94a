"""Every way in which a capture drifts, planted in the kernel: verify tells, diff shows, and a rerun repairs it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from capture.netlink import routing
from tests.conftest import every_backend
from tests.rig import PROXY
from tests.rig.namespace import entered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.rig import Pod

REDIRECT = ["-u", str(PROXY), "-o", "22,23", "--dual-stack"]
TPROXY = [*REDIRECT, "-m", "TPROXY"]


@dataclass(frozen=True)
class Drift:
    """One thing that somebody did to a capture."""

    name: str
    commands: tuple[str, ...]
    """`ipt` stands for this backend's iptables."""
    kind: str
    """Of the finding in `capture verify`."""
    line: str
    """In `capture diff`."""
    settings: tuple[str, ...] = tuple(TPROXY)


DRIFTS = [
    Drift(
        "rule removed",
        ("ipt -t nat -D ISTIO_OUTPUT -p tcp --dport 22 -j RETURN",),
        "rule missing",
        "+-A ISTIO_OUTPUT -p tcp --dport 22 -j RETURN",
    ),
    Drift(
        "rule duplicated",
        ("ipt -t nat -I ISTIO_OUTPUT 3 -p tcp --dport 22 -j RETURN",),
        "rule doubled",
        "--A ISTIO_OUTPUT -p tcp --dport 22 -j RETURN",
    ),
    Drift(
        "rule reordered",
        (
            "ipt -t nat -D ISTIO_OUTPUT -p tcp --dport 22 -j RETURN",
            "ipt -t nat -I ISTIO_OUTPUT 4 -p tcp --dport 22 -j RETURN",
        ),
        "rule reordered",
        "+-A ISTIO_OUTPUT -p tcp --dport 22 -j RETURN",
    ),
    Drift(
        "jump moved below an ACCEPT",
        (
            "ipt -t nat -A OUTPUT -p tcp -j ACCEPT",
            "ipt -t nat -D OUTPUT -p tcp -j ISTIO_OUTPUT",
            "ipt -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT",
        ),
        "rule of others above ours",
        "+-A OUTPUT -p tcp -j ISTIO_OUTPUT",
        # With TPROXY it takes the proxy's calls to its own pod from below ours too, and verify says so.
        settings=tuple(REDIRECT),
    ),
    Drift(
        "jump removed",
        ("ipt -t nat -D OUTPUT -p tcp -j ISTIO_OUTPUT",),
        "jump missing",
        "+-A OUTPUT -p tcp -j ISTIO_OUTPUT",
    ),
    Drift(
        "jump doubled",
        ("ipt -t mangle -A PREROUTING -p tcp -j ISTIO_INBOUND",),
        "jump doubled",
        "--A PREROUTING -p tcp -j ISTIO_INBOUND",
    ),
    Drift(
        "foreign REDIRECT above",
        ("ipt -t nat -I OUTPUT -p tcp -j REDIRECT --to-ports 9999",),
        "rule of others above ours",
        "+-A OUTPUT -p tcp -j ISTIO_OUTPUT",
        # With TPROXY it takes the proxy's calls to its own pod from below ours too, and verify says so.
        settings=tuple(REDIRECT),
    ),
    Drift(
        "ip rule gone",
        ("ip rule del fwmark 0x539 lookup 133",),
        "ip rule missing",
        "+ip rule: 32765: fwmark 0x539 lookup 133",
    ),
    Drift(
        "ip rule doubled",
        ("ip rule add priority 100 fwmark 0x539 lookup 133 protocol 133",),
        "ip rule doubled",
        "-ip rule: 32765: fwmark 0x539 lookup 133",  # the one that is asked first stays
    ),
    Drift(
        "route gone",
        ("ip route del local default dev lo table 133",),
        "route missing",
        "+ip route: local default dev lo table 133",
    ),
    Drift("::6 gone", ("ip -6 addr del ::6/128 dev lo",), "address missing", "+ip -6 addr: ::6/128 dev lo"),
    Drift(
        "chain emptied and removed",
        ("ipt -t nat -D OUTPUT -p tcp -j ISTIO_OUTPUT", "ipt -t nat -F ISTIO_OUTPUT", "ipt -t nat -X ISTIO_OUTPUT"),
        "chain missing",
        "+:ISTIO_OUTPUT - [0:0]",
    ),
    Drift(
        "chain of another mode",
        ("ipt -t mangle -N ISTIO_DIVERT", "ipt -t mangle -A ISTIO_DIVERT -j ACCEPT"),
        "chain left over",
        "--A ISTIO_DIVERT -j ACCEPT",
        tuple(REDIRECT),
    ),
    Drift(
        "ip rule left",
        ("ip rule add priority 32765 fwmark 0x539 lookup 133 protocol 133",),
        "ip rule left over",
        "-ip rule: 32765: fwmark 0x539 lookup 133",
        tuple(REDIRECT),
    ),
    Drift(
        "route left",
        ("ip route add local default dev lo table 133 proto 133",),
        "route left over",
        "-ip route: local default dev lo table 133",
        tuple(REDIRECT),
    ),
]


def verified(pod: Pod, *arguments: str) -> tuple[int, list[str]]:
    """The exit status, and what kinds of differences there are."""
    result = pod.capture("verify", *arguments, "--output", "json")
    assert "Traceback" not in result.stderr
    return result.status, [found["kind"] for found in json.loads(result.stdout)["findings"]]


def planted(pod: Pod, backend: str, commands: Sequence[str]) -> None:
    for command in commands:
        pod.inside.output(*command.replace("ipt ", f"iptables-{backend} ", 1).split())


@pytest.mark.parametrize("drift", DRIFTS, ids=lambda drift: drift.name)
def test_drift_is_told_shown_and_repaired(pod: Pod, backend: str, drift: Drift) -> None:
    """Alone, each has the status 4 and its own name in verify, its line in diff, and is gone after a rerun."""
    settings = [*drift.settings, f"--force-iptables-binary={backend}"]
    pod.applied(*settings)
    assert verified(pod, *settings) == (0, [])
    assert pod.capture("diff", *settings).stdout == ""
    planted(pod, backend, drift.commands)
    status, kinds = verified(pod, *settings)
    assert status == 4
    assert drift.kind in kinds
    shown = pod.capture("diff", *settings)
    assert shown.status == 4
    assert drift.line in shown.stdout.splitlines()
    pod.applied(*settings)
    assert verified(pod, *settings) == (0, [])
    assert pod.capture("diff", *settings).status == 0


@every_backend
def test_an_address_that_is_left_is_told_shown_and_removed(pod: Pod, backend: str) -> None:
    """`::6` with our signature, which ip(8) of some distributions cannot give it, where IPv6 is not captured."""
    settings = ["-u", str(PROXY), f"--force-iptables-binary={backend}"]
    pod.applied(*settings)
    with entered(pod.inside):
        routing.add_passthrough_address()
    assert verified(pod, *settings) == (4, ["address left over"])
    assert "-ip -6 addr: ::6/128 dev lo" in pod.capture("diff", *settings).stdout.splitlines()
    pod.applied(*settings)
    assert verified(pod, *settings) == (0, [])


@every_backend
def test_nothing_of_ours_is_told_from_a_difference(pod: Pod, backend: str) -> None:
    """3 before the first run and after a removal; 4 for other settings."""
    forced = f"--force-iptables-binary={backend}"
    assert pod.capture("verify", *REDIRECT, forced).status == 3
    pod.applied(*REDIRECT, forced)
    assert pod.capture("verify", *REDIRECT, forced).stdout.startswith("as planned: IPv4 4 chains with ")
    result = pod.capture("verify", *TPROXY, forced)
    assert (result.status, result.stdout.splitlines()[0][:8]) == (4, "differs ")
    pod.applied("--cleanup-only")
    result = pod.capture("verify", *REDIRECT, forced)
    assert (result.status, result.stdout) == (3, "nothing of ours is here; a rerun puts all of it in place\n")


def test_what_is_left_in_the_other_backend_is_told(pod: Pod) -> None:
    """Both act on traffic, so rules in both are a difference; a rerun leaves those of one."""
    pod.applied(*REDIRECT, "--force-iptables-binary=legacy")
    saved = "\n".join(pod.saved("legacy")) + "\n"
    pod.inside.output("iptables-nft-restore", text=saved)
    status, kinds = verified(pod, *REDIRECT, "--force-iptables-binary=legacy")
    assert status == 4
    assert set(kinds) == {"jump left over", "chain left over"}
    pod.applied(*REDIRECT, "--force-iptables-binary=legacy")
    assert verified(pod, *REDIRECT) == (0, [])


def test_rules_that_turn_conntrack_off_are_beyond_a_rerun(pod: Pod, backend: str) -> None:
    """Nothing is captured although all rules of ours are in place, and a rerun changes nothing: verify tells so."""
    settings = [*REDIRECT, f"--force-iptables-binary={backend}"]
    pod.applied(*settings)
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    planted(pod, backend, ["ipt -t raw -A OUTPUT -p tcp --dport 80 -j CT --notrack"])
    assert str(pod.dial("9.9.9.9", 80)) != "pod:15001"
    for _ in range(2):
        result = pod.capture("verify", *settings)
        assert result.status == 4
        assert "differs in 1 place, 1 of which a rerun cannot repair" in result.stdout
        assert "a rerun cannot repair this" in result.stdout
        assert pod.capture("diff", *settings).status == 4
        pod.applied(*settings)


def test_looking_changes_nothing(pod: Pod, backend: str) -> None:
    """In an empty namespace and in one that drifted: no table, chain or rule is made by looking."""
    settings = [*TPROXY, f"--force-iptables-binary={backend}"]

    def look() -> None:
        for command in ("verify", "diff", "status", "watch --count=1 --interval=50ms"):
            before = settled(pod)
            pod.capture(*command.split(), *settings)
            assert settled(pod) == before, command

    look()
    pod.applied(*settings)
    planted(pod, backend, DRIFTS[3].commands)
    look()


def settled(pod: Pod) -> str:
    """The state of a pod, once the kernel has proved that its link-local address is nobody else's."""
    last = time.monotonic() + 10
    while " tentative" in (state := pod.state()):
        assert time.monotonic() < last
    return state


@pytest.mark.parametrize("command", ["verify", "diff", "status", "watch"])
def test_who_may_not_look_is_told_what_it_takes(pod: Pod, command: str) -> None:
    """Exit status 1, in words that name the capability."""
    pod.applied(*REDIRECT)
    done = pod.inside.run(
        "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
        *pod.command(command, *REDIRECT),
        env=pod.environ(),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NET_ADMIN" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_root_but_with_the_capability_it_can_be_told(pod: Pod) -> None:
    """As for a run: NET_ADMIN is enough for nft, and what is not seen of legacy is said."""
    pod.applied(*REDIRECT)
    done = pod.inside.run(
        "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=+net_admin",
        "--ambient-caps=+net_admin", *pod.command("verify", *REDIRECT),
        env=pod.environ(),
    )  # fmt: skip
    assert (done.returncode, done.stdout[:10]) == (0, "as planned")
    assert "whether legacy tables hold anything is not known" in done.stderr


def test_ten_thousand_rules_are_verified_and_shown(pod: Pod, backend: str) -> None:
    """One that is missing among so many is found; neither command takes long."""
    networks = ",".join(f"10.{at // 256}.{at % 256}.0" for at in range(10_000))
    environ = {"ISTIO_SERVICE_EXCLUDE_CIDR": networks}
    settings = ["-u", str(PROXY), f"--force-iptables-binary={backend}"]
    pod.applied(*settings, env=environ)
    all_there = pod.capture("verify", *settings, env=environ)
    assert (all_there.status, "IPv4: proved" in all_there.stdout) == (0, True), all_there.stdout + all_there.stderr
    planted(pod, backend, ["ipt -t nat -D ISTIO_OUTPUT -d 10.9.9.0/32 -j RETURN"])
    assert pod.capture("verify", *settings, env=environ).status == 4
    shown = pod.capture("diff", *settings, env=environ)
    assert [line for line in shown.stdout.splitlines() if line.startswith(("+-A", "--A"))] == [
        "+-A ISTIO_OUTPUT -d 10.9.9.0/32 -j RETURN"
    ]


def test_a_second_witness_confirms_what_was_read(pod: Pod) -> None:
    """On legacy libiptc sees the same rules; on nft it sees none, and is not taken for a witness."""
    settings = ["verify", *TPROXY, "--witness", "libiptc"]
    pod.applied(*TPROXY, "--force-iptables-binary=legacy")
    confirmed = pod.capture(*settings)
    assert (confirmed.status, confirmed.stdout[:10]) == (0, "as planned"), confirmed.stderr
    pod.applied(*TPROXY, "--force-iptables-binary=nft")
    refused = pod.capture(*settings)
    assert refused.status == 1
    assert "nft" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_witnesses_that_disagree_tell_where(pod: Pod, tmp_path: Path) -> None:
    """A program that prints other rules than the kernel holds: neither is believed, and the difference is shown."""
    pod.applied(*REDIRECT, "--force-iptables-binary=legacy")
    liar = tmp_path / "iptables-legacy-save"
    liar.write_text("#!/bin/sh\n/usr/sbin/iptables-legacy-save \"$@\" | sed 's/--to-ports 15006/--to-ports 15007/'\n")
    liar.chmod(0o755)
    told = pod.capture("verify", *REDIRECT, "--witness", "libiptc", path=f"{tmp_path}:{os.environ['PATH']}")
    assert told.status == 1
    assert "the two witnesses of the legacy tables disagree" in told.stderr
    assert "15006" in told.stderr
    assert "15007" in told.stderr
