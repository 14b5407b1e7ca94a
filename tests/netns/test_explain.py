"""What explain claims of rules and settings, asked of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.analysis.reachability import unmet
from rules.iptables.counters import counters
from rules.iptables.reading import tables
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family
from tests.rig import PROXY, Call

if TYPE_CHECKING:
    from tests.rig import Landing, Pod

USERS = ((1000, 1000), (PROXY, PROXY), (PROXY, 1000), (1000, 202), (1000, 1337), (1500, 888), (0, 0))
OUTSIDE = ("9.9.9.9", "1.1.1.1", "10.96.0.10")
HERE = ("127.0.0.1", "127.0.0.6", "10.244.0.5")
PORTS = (22, 25, 80, 443, 15008)


def calls(pod: Pod) -> list[Call]:
    """Connections of every user to everywhere."""
    return [
        Call(pod.inside, host, port, uid, gid) for uid, gid in USERS for host in (*OUTSIDE, *HERE) for port in PORTS
    ] + [Call(pod.outside, "10.244.0.5", port) for port in PORTS]


def shown(landings: list[Landing]) -> list[str]:
    return [f"{landing} {landing.original if landing.where == 'pod' else ''}" for landing in landings]


CROWDED = [
    "-u 1337 -g 202 -o 20-30,22 -x 1.1.1.0/24,1.1.1.1",
    "-u 1337 -i 9.9.9.9,1.1.1.1 -x 0.0.0.0/1,128.0.0.0/1 -b 80,15008",
    "-u 1337 -c eth0 -k eth0",
    "-u 1337,1338 -g 202 --exclude-uids 1000-2000,1500 -q 443,80 -o 80 -c eth0 -k eth0",
]


@pytest.mark.parametrize("line", CROWDED)
def test_a_rule_that_is_said_to_never_match_counts_nothing(ipv4_pod: Pod, backend: str, line: str) -> None:
    """Whoever calls whatever from inside and outside; while other rules do count."""
    pod = ipv4_pod
    pod.applied(*line.split(), f"--force-iptables-binary={backend}")
    pod.open_listeners()
    pod.land(calls(pod))
    text = pod.inside.output(f"iptables-{backend}-save", "-c")
    live = Ruleset(Family.V4, tables(text))
    counted = counters(text)
    never = {(it.table, it.chain, it.position) for it in unmet(live)}
    assert never
    assert {place: counted[place].packets for place in never} == dict.fromkeys(never, 0)
    met = [place for place, count in counted.items() if count.packets and place[1].startswith("ISTIO")]
    assert len(met) >= 5


WITHOUT = [
    ("-u 1337 -b 80", "-d 22,443"),
    ("-u 1337 -i 9.9.9.9", "-x 1.1.1.1"),
    ("-u 1337 -i *", "-q 443"),
    ("-u 1337 -o 20-30", "-o 20-30,22"),
    ("-u 1337 -i=", "-x 9.9.9.9"),
]


@pytest.mark.parametrize(("line", "added"), WITHOUT)
def test_a_setting_that_is_said_to_be_without_effect_moves_no_connection(ipv4_pod: Pod, line: str, added: str) -> None:
    """With it and without it every connection lands in the same place, though the rules may differ."""
    pod = ipv4_pod
    told = pod.capture("explain", *line.split(), *added.split()).stdout
    assert "without effect" in told or "has no effect" in told
    pod.applied(*line.split())
    pod.open_listeners()
    before = shown(pod.land(calls(pod)))
    pod.applied(*line.split(), *added.split())
    assert shown(pod.land(calls(pod))) == before
    assert len(set(before)) > 5
