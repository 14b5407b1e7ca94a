"""The settings of the reference's golden files: our own tables and rules of iptables do the same, proved."""

from __future__ import annotations

import itertools

import pytest

from capture.host.facts import Facts
from capture.intent.resolve import resolve
from capture.netlink.rtnetlink import Address
from capture.settings.declared import Settings
from rules.native.compiled import compiled
from rules.plan.plan import Plan, plan
from rules.proof.proof import proved
from rules.simulator.simulate import simulate
from tests.rig import predicted
from tests.rig.pod import ADDRESSES, GATEWAY, OUTSIDE
from tests.rig.reference import CASES

LOCAL = tuple(Address(each.address, each.prefix) for each in predicted.host().addresses if not each.address.is_loopback)
PORTS = (53, 80, 4000, 6000, 15001, 15006, 15008, 32000)
USERS = ((1000, 1000), (1337, 1337), (3, 3), (1000, 1), (1000, 202))
HOSTS = {4: (*OUTSIDE[4], "10.7.7.7", ADDRESSES[4], "127.0.0.1", "127.0.0.53", "127.1.2.3"), 6: (*OUTSIDE[6], "::1")}


def planned(name: str) -> Plan:
    case = CASES[name]
    facts = Facts(LOCAL, resolv_conf=case.resolv_conf)
    return plan(resolve(Settings.load(case.arguments, case.env), facts).intent)


def test_there_are_as_many_as_the_reference_has() -> None:
    """Its 28."""
    assert len(CASES) == 28


@pytest.mark.parametrize("name", CASES)
def test_our_own_tables_are_proved_to_do_what_is_planned(name: str) -> None:
    """For the first packet of every connection, and the other way round: what they do, iptables does."""
    its = planned(name)
    host = predicted.host(its.routing, passthrough=its.passthrough_address)
    for ruleset in its.rulesets:
        own = compiled(ruleset)
        for wanted, held in ((ruleset, ("native", own)), (own, ("nft", ruleset))):
            assert proved(wanted, (held,), (), host, host).answer == "proved"


@pytest.mark.parametrize("name", CASES)
def test_packets_fare_alike(name: str) -> None:
    """From inside by several users, and from outside, to the ports that the settings name and to others."""
    its = planned(name)
    host = predicted.host(its.routing, passthrough=its.passthrough_address)
    own = tuple(map(compiled, its.rulesets))
    captured = set()
    places = [*itertools.product(("tcp",), PORTS), ("udp", 53), ("udp", 443)]
    for version, (uid, gid), (proto, port) in itertools.product((4, 6), USERS, places):
        asked = [predicted.sent(host, to, port, proto=proto, uid=uid, gid=gid) for to in HOSTS[version]]
        asked.append(predicted.arriving(ADDRESSES[version], port, source=GATEWAY[version], proto=proto))
        for packet in asked:
            traces = [simulate(held, packet, host) for held in (its.rulesets, own)]
            assert len({(it.became, it.address, it.port, it.marked, it.zone) for it in traces}) == 1, packet
            captured.add(traces[0].became.is_captured)
    assert captured == {True, False}
