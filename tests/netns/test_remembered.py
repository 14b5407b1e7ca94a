"""TPROXY beside rules of others that give connections our mark: verify names what the kernel lets hang."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netns.test_simulator import ready
from tests.rig.pod import GATEWAY, PROXY

if TYPE_CHECKING:
    from tests.rig import Pod

SETTINGS = ("-u", str(PROXY), "-m", "TPROXY", "-d", "15090", "--dual-stack")
MARKING = {
    "connmark": ["mangle -A PREROUTING -p tcp -j CONNMARK --set-mark 1337"],
    "some ports": ["mangle -A PREROUTING -p tcp --dport 80 -j CONNMARK --set-mark 1337"],
    "a port that is excluded": ["mangle -A PREROUTING -p tcp --dport 15090 -j CONNMARK --set-mark 1337"],
    "some bits": ["mangle -A PREROUTING -p tcp -j CONNMARK --or-mark 0x539"],
    "saved": [
        "raw -A PREROUTING -p tcp -j MARK --set-mark 0x539",
        "mangle -A PREROUTING -p tcp -j CONNMARK --save-mark",
        "mangle -A PREROUTING -p tcp -j MARK --set-mark 0",
    ],
    "behind TPROXY": ["mangle -A INPUT -p tcp -j CONNMARK --save-mark"],
    "in filter": ["filter -A INPUT -p tcp -j CONNMARK --set-mark 0x539"],
    "another mark": ["mangle -A PREROUTING -p tcp -j CONNMARK --set-mark 0x8"],
    "saved as it comes": ["mangle -A PREROUTING -j CONNMARK --save-mark"],
    "part of ours": ["mangle -A PREROUTING -p tcp -j CONNMARK --set-mark 0x39"],
}
"""Rules of others, of which some give the answers of a connection the mark that keeps them here."""


@pytest.mark.parametrize("rules", MARKING.values(), ids=list(MARKING))
def test_what_hangs_by_a_remembered_mark_is_named(pod: Pod, backend: str, rules: list[str]) -> None:
    """A captured or excluded inbound connection is answered exactly if verify says so; it names the rule, and `trace
    --live` says the same of each."""
    ready(pod)
    for program in (f"iptables-{backend}", f"ip6tables-{backend}"):
        for rule in rules:
            pod.inside.output(program, "-t", *rule.split())
    arguments = (*SETTINGS, f"--force-iptables-binary={backend}")
    pod.applied(*arguments)
    hangs = []
    for version in (4, 6):
        for port in (80, 15090):
            is_answered = str(pod.dial_in(port, version=version)) != "timeout"
            source = GATEWAY[version] if version == 4 else f"[{GATEWAY[version]}]:5000"
            traced = pod.capture("trace", "--live", *arguments, "--in", "--src", source, f":{port}")
            assert ("so it fails" in traced.stdout) is not is_answered, traced.stdout
            hangs += [] if is_answered else [(version, port)]
    verified = pod.capture("verify", *arguments)
    assert verified.status == (4 if hangs else 0), verified.stdout
    for version, port in hangs:
        assert f"IPv{version}: a connection fares otherwise than planned" in verified.stdout, port
    if hangs:
        assert any(rule.partition("-j ")[2].split()[0] in verified.stdout for rule in rules)
