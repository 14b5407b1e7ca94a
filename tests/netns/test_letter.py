"""What others put among our rules comes back to the letter, and never stops a command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Pod

AS_IT_WAS = "the namespace is as it was"
RULES = [
    ("ISTIO_OUTPUT", ["-j", "LOG", "--log-prefix", "ISTIO: ", "--log-uid"]),
    ("ISTIO_OUTPUT", ["-j", "LOG", "--log-prefix", 'q"\\ --x ']),
    ("ISTIO_IN_REDIRECT", ["-j", "NFLOG", "--nflog-prefix", "in istio", "--nflog-group", "2"]),
    ("ISTIO_OUTPUT", ["-m", "owner", "--uid-owner", "5", "--gid-owner", "3", "--suppl-groups", "-j", "RETURN"]),
    ("ISTIO_OUTPUT", ["-m", "limit", "--limit", "3/min", "--limit-burst", "7", "-j", "RETURN"]),
    ("ISTIO_OUTPUT", ["-m", "comment", "--comment", "caf\udce9 -j DROP", "-j", "RETURN"]),
    ("ISTIO_OUTPUT", ["-m", "comment", "--comment", "\x0b\x0c\x1c\r\x85\u2028", "-p", "tcp", "-j", "RETURN"]),
    ("ISTIO_OUTPUT", ["-m", "comment", "--comment", "a\n-A ISTIO_OUTPUT -j DROP", "-p", "tcp", "-j", "RETURN"]),
    ("ISTIO_REDIRECT", ["-m", "recent", "--name", "X", "--rcheck", "--seconds", "5"]),
    ("ISTIO_OUTPUT", ["-o", 'a"b', "-p", "tcp", "-m", "tcp", "--tcp-flags", "SYN,ACK", "SYN", "-g", "ISTIO_REDIRECT"]),
    ("OUTPUT", ["-m", "comment", "--comment", "-j", "-j", "ISTIO_OUTPUT"]),
    ("OUTPUT", ["-m", "comment", "--comment", '\n"\\', "-m", "connmark", "--mark", "5/0xf", "-j", "ISTIO_OUTPUT"]),
    ("PREROUTING", ["-m", "recent", "--name", "X", "--rcheck", "--seconds", "5", "-j", "ISTIO_INBOUND"]),
    ("PREROUTING", ["-m", "statistic", "--mode", "random", "--probability", "0.3", "-j", "ISTIO_INBOUND"]),
    ("OUTPUT", ["-o", 'a"b', "-j", "ISTIO_OUTPUT"]),
]
"""Chains of nat, and rules that a person or a program may add there."""


def saved(pod: Pod, backend: str) -> str:
    """What there is of IPv6, without counters, to the letter."""
    text = pod.inside.output(f"ip6tables-{backend}-save")
    kept = [line for line in text.split("\n") if not line.startswith("#")]
    return "\n".join(line.rpartition(" [")[0] if line.startswith(":") else line for line in kept)


def test_a_failed_run_puts_back_what_others_added(pod: Pod, backend: str, tmp_path: Path) -> None:
    """IPv6 is done and IPv4 is refused: every rule is there again, byte for byte and in its place."""
    pod.applied("--ipv6=on", f"--force-iptables-binary={backend}")
    for chain, rule in RULES:
        pod.inside.output(f"ip6tables-{backend}", "-t", "nat", "-I", chain, "2", *rule)
    before = saved(pod, backend)
    refusing = tmp_path / f"iptables-{backend}-restore"
    refusing.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    refusing.chmod(0o755)
    failed = pod.capture("-u", "1338", "--ipv6=on", path=f"{tmp_path}:{os.environ['PATH']}")
    assert (failed.status, AS_IT_WAS in failed.stderr) == (1, True), failed.stderr
    assert saved(pod, backend) == before
    pod.applied("-u", "1338", "--ipv6=on")
    assert "comment" not in saved(pod, backend)
    assert "recent" not in saved(pod, backend)


def test_removing_stops_at_no_rule(pod: Pod, backend: str) -> None:
    """Whatever matches a jump to our chains has, and whatever comments there are, of rules of ours and of others."""
    pod.applied("--ipv6=on", f"--force-iptables-binary={backend}")
    for chain, rule in RULES:
        pod.inside.output(f"ip6tables-{backend}", "-t", "nat", "-A", chain, *rule)
    theirs = ["-m", "comment", "--comment", '\nCOMMIT\n*raw\n"', "-d", "2001:db8::1", "-j", "RETURN"]
    for position in ("1", "3", "5"):
        pod.inside.output(f"ip6tables-{backend}", "-t", "nat", "-I", "OUTPUT", position, *theirs)
    removed = pod.capture("clean")
    assert (removed.status, removed.stdout.splitlines()[-1]) == (0, "nothing of ours is left"), removed.stderr
    left = saved(pod, backend)
    assert "ISTIO" not in left
    assert left.count('-A OUTPUT -d 2001:db8::1/128 -m comment --comment "\nCOMMIT\n*raw\n\\"" -j RETURN\n') == 3


def test_a_hint_can_be_typed(pod: Pod, backend: str) -> None:
    """The rule of others that keeps our chain here is printed as a command for a shell, which takes it away."""
    pod.applied(f"--force-iptables-binary={backend}")
    comment = "caf\udce9 $(touch /) `id` \n'\"\\ !x"
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-N", "ot'h$ers")
    rule = ["-p", "tcp", "-m", "comment", "--comment", comment, "-j", "ISTIO_REDIRECT"]
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-A", "ot'h$ers", *rule)
    told = [line for line in pod.applied("clean").stdout.split("\n") if "the chain ISTIO_REDIRECT, empty" in line]
    (command,) = [line.partition("to remove it: `")[2].removesuffix("`)") for line in told]
    pod.inside.output("bash", "-c", command)
    assert pod.applied("clean").stdout.endswith("nothing of ours is left\n")
