"""--run-validation: what it proves, what it says it cannot prove, and that it fails when something is wrong."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.test_conformance import recorded
from tests.rig import PROXY, Pod, Result, entered

if TYPE_CHECKING:
    from collections.abc import Sequence

ALONE = ["--run-validation", "--skip-rule-apply"]
WITHOUT_CAPABILITIES = [
    "setpriv", "--reuid=1337", "--regid=1337", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
]  # fmt: skip


def paths(result: Result, word: str) -> list[str]:
    """The lines about paths with this result."""
    return [line for line in result.stderr.splitlines() if f"\t{word}: " in line]


@pytest.mark.parametrize(("case", "record"), recorded())
def test_what_the_reference_captures_is_proved(case: dict[str, Any], record: dict[str, Any], backend: str) -> None:
    """On every recorded case, right behind applying it: nothing fails, and something is proved."""
    assert record["rc"] == 0
    with Pod(ipv6=case["v6"]) as pod:
        pod.inside.set_resolv_conf(case["resolv"])
        arguments = [*case["args"], f"--force-iptables-binary={backend}", "--run-validation"]
        result = pod.capture(*arguments, env=case["env"])
    assert result.status == 0, result.stderr
    assert paths(result, "FAILED") == []
    assert paths(result, "proved") != []


SETTINGS: dict[str, Sequence[str]] = {
    "1.20.1": ["-u", "1337", "-b", "*", "-d", "15090,15021,15020", "-i", "*", "-x", ""],
    "lists": ["-u", "3", "-g", "202", "-b", "80,443", "-i", "9.9.9.0/24,10.0.0.0/8", "-q", "3306", "-o", "22"],
    "exclusions": ["-x", "1.1.1.1", "-o", "22", "--exclude-uids", "77", "--exclude-inbound-cidrs", "192.0.2.0/24"],
    "dns, dual stack": ["-u", "1337", "--redirect-dns", "--dual-stack"],
    "tproxy": ["-u", "1337", "-m", "TPROXY", "--dual-stack", "--drop-invalid"],
    "several proxies": ["-u", "1337,3", "-g", "1337,202", "--udp", "443=reject"],
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_any_rule_that_is_missing_is_found(settings: list[str], backend: str) -> None:
    """Each rule of each table is deleted in turn: exit status 126, and the rule is named with its reason."""
    with Pod() as pod:
        pod.inside.set_resolv_conf("nameserver 10.96.0.10\nnameserver fd00:96::a\n")
        arguments = [*settings, f"--force-iptables-binary={backend}"]
        pod.applied(*arguments)
        tried = 0
        for program in ("iptables", "ip6tables"):
            for table, chain, position, text in rules_of(pod, f"{program}-{backend}"):
                pod.inside.output(f"{program}-{backend}", "-t", table, "-D", chain, str(position))
                result = pod.capture(*arguments, *ALONE, "--probe-timeout", "200ms")
                assert result.status == 126, (table, text)
                assert f"{table}: -A {chain} " in result.stderr, (table, text)
                assert "its why:" in result.stderr
                put_back = re.sub(r"^-A \S+", "", text).split()
                pod.inside.output(f"{program}-{backend}", "-t", table, "-I", chain, str(position), *put_back)
                tried += 1
        assert tried > 12
        assert pod.capture(*arguments, *ALONE).status == 0


def rules_of(pod: Pod, program: str) -> list[tuple[str, str, int, str]]:
    """Every rule of ours: its table, chain, position and text."""
    found = []
    table, counted = "", dict[str, int]()
    for line in pod.inside.output(f"{program}-save").splitlines():
        if line.startswith("*"):
            table, counted = line[1:], {}
        elif line.startswith("-A "):
            chain = line.split()[1]
            counted[chain] = counted.get(chain, 0) + 1
            found.append((table, chain, counted[chain], line))
    return found


def test_long_lists_are_proved_by_their_first_entries(pod: Pod) -> None:
    """Thousands of networks and ports do not take thousands of sockets; each path names the rule that decides it."""
    networks = ",".join(f"10.{n // 250}.{n % 250}.0/25" for n in range(3000))
    ports = ",".join(str(20000 + 3 * n) for n in range(400))
    arguments = ["-u", "1337", "-x", networks, "-o", f"22,{ports}", "--redirect-dns", "--capture-all-dns"]
    pod.applied(*arguments)
    result = pod.capture(*arguments, *ALONE)
    assert result.status == 0, result.stderr[-3000:]
    assert len(paths(result, "proved")) < 100
    pod.inside.output(
        "iptables-nft", "-t", "nat", "-I", "ISTIO_OUTPUT", "1", "-p", "tcp", "--dport", "20006", "-j", "ISTIO_REDIRECT"
    )
    failed = pod.capture(*arguments, *ALONE)
    assert failed.status == 126
    assert "an excluded port" in paths(failed, "FAILED")[0]
    assert "--dports 22,20000,20003,20006" in failed.stderr


def test_missing_routing_is_found(pod: Pod) -> None:
    """What TPROXY needs besides rules: an ip rule or a route that is gone is named."""
    arguments = SETTINGS["tproxy"]
    pod.applied(*arguments)
    for gone, named in (
        (["rule", "del", "priority", "32765"], "ip rule add priority 32765 fwmark 0x539 lookup 133"),
        (["-6", "route", "del", "local", "default", "dev", "lo", "table", "133"], "ip -6 route add local default"),
    ):
        pod.inside.ip(*gone)
        result = pod.capture(*arguments, *ALONE)
        assert result.status == 126
        assert named in result.stderr
        assert "already in place" not in pod.applied(*arguments).stderr
    assert pod.capture(*arguments, *ALONE).status == 0


def test_what_comes_from_outside_is_listed_as_not_proved(pod: Pod) -> None:
    """For each captured family, with what is known of its rules."""
    pod.applied(*SETTINGS["dns, dual stack"])
    lines = paths(pod.capture(*SETTINGS["dns, dual stack"], *ALONE), "not proved")
    outside = [line for line in lines if "tcp, from outside" in line]
    assert ["IPv4" in line for line in outside] == [True, False]
    assert all("the rules for it are as planned" in line for line in outside)


BEHAVIOUR = {
    "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN": "the proxy sends (gid 1337)",
    "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN": "the proxy passes inbound traffic on",
    "-A ISTIO_OUTPUT -j ISTIO_REDIRECT": "an application sends",
    "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001": "an application sends",
    "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006": "the proxy calls its own pod",
    "-A OUTPUT -p tcp -j ISTIO_OUTPUT": "an application sends",
}
"""Rules of the 1.20.1 pod spec whose absence traffic shows, and by which path. Of the others some are met only by
what comes from outside, and some stand behind an equal rule for the gid of the same proxy."""


@pytest.mark.parametrize(("rule", "path"), BEHAVIOUR.items())
def test_traffic_shows_what_a_missing_rule_does(pod: Pod, backend: str, rule: str, path: str) -> None:
    """The path that fails is the one that the rule decides, with where it went instead."""
    arguments = [*SETTINGS["1.20.1"], f"--force-iptables-binary={backend}"]
    pod.applied(*arguments)
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-D", *rule.split()[1:])
    result = pod.capture(*arguments, *ALONE, "--probe-timeout", "300ms")
    assert result.status == 126
    assert any(path in line for line in paths(result, "FAILED")), result.stderr


def as_proxy(pod: Pod, *arguments: str) -> Result:
    """As a CNI installation runs it: uid 1337, no capabilities, nothing to write to."""
    read_only = ["unshare", "-m", "sh", "-c", 'mount --bind / /mnt && mount -o remount,bind,ro /mnt && exec "$@"', "sh"]
    command = [*read_only, "chroot", "/mnt", *WITHOUT_CAPABILITIES, sys.executable, "-B", "-m", "capture", *arguments]
    done = pod.inside.run(*command, env=pod.environ())
    return Result(done.returncode, done.stdout, done.stderr)


def test_the_proxys_user_without_capabilities_proves_its_own_paths(pod: Pod) -> None:
    """And lists as not proved those of applications, and the rules themselves."""
    pod.applied(*SETTINGS["1.20.1"])
    result = as_proxy(pod, *SETTINGS["1.20.1"], *ALONE)
    assert result.status == 0, result.stderr
    assert [("calls its own pod" in line, "sends" in line) for line in paths(result, "proved")].count(
        (True, False)
    ) == 1
    unproved = paths(result, "not proved")
    assert any("an application sends" in line and "CAP_SETUID" in line for line in unproved)
    assert any("the rules as such" in line for line in unproved)


def test_the_proxys_user_sees_that_nothing_is_captured(pod: Pod) -> None:
    """No rules at all: exit status 126, as a repair controller expects."""
    result = as_proxy(pod, *SETTINGS["1.20.1"], *ALONE, "--probe-timeout", "300ms")
    assert result.status == 126
    assert "Traceback" not in result.stderr
    assert any("the proxy calls its own pod" in line for line in paths(result, "FAILED"))


def test_the_timeout_bounds_it_and_success_does_not_wait_for_it(pod: Pod) -> None:
    """Well under a second when all is well; about the timeout when an answer is missing."""
    pod.applied(*SETTINGS["1.20.1"])
    began = time.monotonic()
    assert pod.capture(*SETTINGS["1.20.1"], *ALONE, "--probe-timeout", "1m").status == 0
    assert time.monotonic() - began < 30, "it waited for a time-out, when nothing was missing"
    pod.inside.output("iptables-nft", "-t", "nat", "-A", "ISTIO_OUTPUT", "-j", "RETURN")
    pod.inside.output("iptables-nft", "-t", "nat", "-D", "ISTIO_OUTPUT", "-j", "ISTIO_REDIRECT")
    began = time.monotonic()
    assert pod.capture(*SETTINGS["1.20.1"], *ALONE, "--probe-timeout", "1500ms").status == 126
    assert time.monotonic() - began > 1.5


def test_probes_may_share_a_port(pod: Pod) -> None:
    """With one free port for each address all of them have it, and none is taken for another."""
    pod.applied(*SETTINGS["1.20.1"])
    pod.inside.output("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40007")
    result = pod.capture(*SETTINGS["1.20.1"], *ALONE)
    assert result.status == 0, result.stderr
    assert len(paths(result, "proved")) == 7


def test_a_port_that_is_taken_is_said(pod: Pod) -> None:
    """Where the proxy runs already, what would arrive at its ports is not proved; the rest is."""
    pod.applied(*SETTINGS["1.20.1"])
    with entered(pod.inside):
        taken = socket.create_server(("127.0.0.1", 15001))
    with taken:
        result = pod.capture(*SETTINGS["1.20.1"], *ALONE)
    assert result.status == 0, result.stderr
    line = next(line for line in paths(result, "not proved") if "an application sends" in line)
    assert "cannot listen on port 15001: Address already in use" in line


def test_nothing_to_prove_is_no_success(ipv4_pod: Pod) -> None:
    """A run that could try nothing does not pass."""
    ipv4_pod.applied("-u", "1337")
    result = unprivileged_stranger(ipv4_pod)
    assert result.status == 126
    assert "nothing could be proved" in result.stderr


def unprivileged_stranger(pod: Pod) -> Result:
    done = pod.inside.run(
        "setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "--bounding-set=-all",
        *pod.command("-u", str(PROXY), *ALONE), env=pod.environ() | {"HOME": os.devnull},
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)
