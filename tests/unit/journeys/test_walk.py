"""What becomes of all packets: verdict maps, and ip rules that ask whose a packet is when OUTPUT has it routed anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.addresses import IPv4Address, ip_address, ip_network
from rules.iptables.reading import tables
from rules.journeys.journeys import Journeys, universe
from rules.meaning.lists import LONG
from rules.netfilter.effects import Choice
from rules.netfilter.fields import DESTINATION, DPORT, PROTOCOL, PROTOCOLS, UID, Among, AnyOf
from rules.netfilter.hooks import BaseChain, NativeTable
from rules.netfilter.matches import DPort, Dst, Native, OwnerUid, Proto
from rules.netfilter.rulesets import Rule, Ruleset
from rules.netfilter.spans import meet, one
from rules.netfilter.targets import Accept, Drop, NativeTarget, Redirect, SetMark
from rules.netfilter.values import Family, Ports
from rules.packets.packet import Direction, Host, Local, Packet
from rules.packets.trace import Became
from rules.routing.policy import Policy, PolicyRule, Route
from rules.simulator.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.analysis.boxes import Box

V4 = Family.V4
TCP = one(PROTOCOLS["tcp"])
HOST = Host((Local("eth0", ip_address("10.244.0.5"), 24),), "eth0")


def outcomes(
    rules: Sequence[Rule],
    *,
    port: int,
    uid: int,
    kind: str = "filter",
    host: Host = HOST,
    to: IPv4Address | None = None,
) -> set[Became]:
    """What becomes of TCP that leaves for this port (and address), by this user, between these rules in OUTPUT."""
    base = BaseChain("ip", "theirs", "out", kind, "OUTPUT", -150, handle=1)
    table = NativeTable("ip", "theirs", False, (base,), (("out", tuple(rules)),))
    journeys = Journeys((), V4, host, (table,))
    return {
        end.became
        for end in journeys.ends(journeys.started(universe(V4, host, passing=False)))
        if end.now.direction is Direction.OUT and not end.now.is_local
        for box in end.boxes
        if meet(box[PROTOCOL], TCP) and meet(box[DPORT], one(port)) and meet(box[UID], one(uid))
        if to is None or meet(box[DESTINATION], one(int(to)))
    }


@pytest.mark.parametrize(("port", "outcome"), [(80, Became.DROPPED), (443, Became.BYPASSED), (22, Became.BYPASSED)])
def test_what_a_verdict_map_does_not_name_goes_on(port: int, outcome: Became) -> None:
    """`tcp dport vmap { 80 : drop, 443 : accept }`: the others come to the next rule."""
    verdicts = Choice((((Among(DPORT, one(80)),), Drop()), ((Among(DPORT, one(443)),), Accept())))
    rule = Rule((Proto("tcp"),), NativeTarget(verdicts, "tcp dport vmap { 80 : drop, 443 : accept }"))
    assert outcomes([rule], port=port, uid=1000) == {outcome}


@pytest.mark.parametrize(("uid", "is_marked", "is_lost"), [(0, False, True), (1000, False, False), (1000, True, True)])
def test_what_is_routed_anew_is_roots(uid: int, is_marked: bool, is_lost: bool) -> None:
    """ip_route_me_harder of net/ipv4/netfilter.c has forgotten whose a packet is: an ip rule takes it for uid 0."""
    policy = Policy(
        (
            PolicyRule(V4, 50, table=200, mask=0, uids=(0, 0)),
            PolicyRule(V4, 100, table=255, mask=0),
            PolicyRule(V4, 32766, table=254, mask=0),
        ),
        (
            Route(V4, 200, kind="unreachable"),
            Route(V4, 255, destination=ip_network("10.244.0.5/32"), device="eth0"),
            Route(V4, 254, kind="unicast", device="eth0"),
        ),
    )
    rules = [Rule((), SetMark(9))] if is_marked else []
    found = outcomes(rules, port=80, uid=uid, kind="route", host=HOST.but(policy=policy))
    assert found == {Became.DROPPED if is_lost else Became.BYPASSED}


@pytest.mark.parametrize(("port", "outcome"), [(80, Became.DROPPED), (443, Became.DROPPED), (22, Became.BYPASSED)])
def test_all_rules_of_a_long_chain_that_name_an_address_are_asked(port: int, outcome: Became) -> None:
    """Those for other addresses are passed over, and not what the same address is asked next."""
    address = IPv4Address("9.9.9.9")
    rules = [
        Rule((Dst(ip_network(each)), Proto("tcp"), DPort(Ports(asked, asked))), Drop())
        for asked in (80, 443)
        for each in (address, *(address + further for further in range(1, 30)))
    ]
    assert outcomes(rules, port=port, uid=1000, to=address) == {outcome}


@pytest.mark.parametrize("others", [LONG, LONG * 2])
@pytest.mark.parametrize("reordered", [False, True])
def test_of_a_long_chain_every_rule_for_an_address_is_met(others: int, *, reordered: bool) -> None:
    """One that the first rule for its address misses meets the second, between rules for others and for any address."""
    ours = [
        Rule((Proto("tcp"), Dst(ip_network("10.96.0.1/32")), DPort(Ports(port, port))), Drop())
        for port in (80, 443, 8080)
    ]
    theirs = [Rule((Dst(ip_network(f"10.97.0.{number}/32")),), Accept()) for number in range(1, others + 1)]
    everybodys = Rule((Proto("tcp"), DPort(Ports(22, 22))), Drop())
    half = len(theirs) // 2
    rules = [*ours[:1], *theirs[:half], ours[1], everybodys, *theirs[half:], ours[2]]
    rules = rules[::-1] if reordered else rules
    to = IPv4Address("10.96.0.1")
    for port in (80, 443, 8080, 22):
        assert outcomes(rules, port=port, uid=1000, to=to) == {Became.DROPPED}, port
    assert outcomes(rules, port=81, uid=1000, to=to) == {Became.BYPASSED}
    assert outcomes(rules, port=80, uid=1000, to=IPv4Address("10.97.0.1")) == {Became.BYPASSED}


@pytest.mark.parametrize("hook", ["PREROUTING", "INPUT"])
def test_what_arrives_over_lo_has_no_owner_any_more(hook: str) -> None:
    """The socket that sent it is forgotten on the way (loopback_xmit), so that a rule by uid does not meet it there."""
    rules = (Rule((OwnerUid(1000),), Drop()),)
    table = NativeTable(
        "ip", "theirs", False, (BaseChain("ip", "theirs", "c", "filter", hook, 0, handle=1),), (("c", rules),)
    )
    journeys = Journeys((), V4, HOST, (table,))
    ends = [
        end
        for end in journeys.ends(journeys.started(universe(V4, HOST, passing=False)))
        if end.now.direction is Direction.OUT and end.now.is_local
    ]
    assert {end.became for end in ends if any(meet(box[UID], one(1000)) for box in end.boxes)} == {Became.DELIVERED}


@pytest.mark.parametrize(("to", "becomes"), [("fd00::6", "fd00::5"), ("fe80::6", "fe80::5"), ("febf::6", "fe80::5")])
def test_what_is_redirected_on_its_way_in_gets_an_address_of_its_own_scope(to: str, becomes: str) -> None:
    """The first of the interface that it came in by; link-local ones of IPv6 apart (nf_nat_redirect_ipv6)."""
    addresses = ("fe80::5", "fd00::5", "fd00::6", "fe80::6", "febf::6")
    host = Host(tuple(Local("eth0", ip_address(address), 64) for address in addresses), "eth0")
    bases = (
        BaseChain("ip6", "theirs", "first", "nat", "PREROUTING", -100, handle=1),
        BaseChain("ip6", "theirs", "then", "filter", "INPUT", 0, handle=2),
    )
    redirect = Rule((Proto("tcp"),), Redirect(15006))
    drop = Rule((Proto("tcp"), Dst(ip_network(f"{becomes}/128"))), Drop())
    table = NativeTable("ip6", "theirs", False, bases, (("first", (redirect,)), ("then", (drop,))))
    journeys = Journeys((), Family.V6, host, (table,))
    arriving = [
        end
        for end in journeys.ends(journeys.started(universe(Family.V6, host, passing=False)))
        if end.now.direction is Direction.IN and any(asked_of(box, to) for box in end.boxes)
    ]
    assert {end.became for end in arriving} == {Became.DROPPED}


@pytest.mark.parametrize(("protocol", "outcome"), [("tcp", Became.DROPPED), ("icmp", Became.REDIRECTED)])
def test_what_has_no_ports_gets_none_from_a_redirection(protocol: str, outcome: Became) -> None:
    """A rule that asks for the new port is not met by it (`dnat to` without a protocol, as netlink takes it)."""
    bases = (
        BaseChain("ip", "theirs", "first", "nat", "OUTPUT", -100, handle=1),
        BaseChain("ip", "theirs", "then", "filter", "INPUT", 0, handle=2),
    )
    chains = (("first", (Rule((), Redirect(15006)),)), ("then", (Rule((DPort(Ports(15006, 15006)),), Drop()),)))
    journeys = Journeys((), V4, HOST, (NativeTable("ip", "theirs", False, bases, chains),))
    ends = journeys.ends(journeys.started(universe(V4, HOST, passing=False)))
    sent = [end for end in ends if end.now.direction is Direction.OUT]
    number = one(PROTOCOLS[protocol])
    assert {end.became for end in sent if any(meet(box[PROTOCOL], number) for box in end.boxes)} == {outcome}


def asked_of(box: Box, to: str) -> bool:
    """Whether TCP to this address is in the box, as it was sent."""
    return meet(box[PROTOCOL], TCP) and meet(box[DESTINATION], one(int(ip_address(to))))


@pytest.mark.parametrize(
    ("port", "uid", "outcome"),
    [(80, 1000, Became.DROPPED), (22, 5, Became.DROPPED), (80, 5, Became.DROPPED), (22, 1000, Became.BYPASSED)],
)
def test_what_meets_none_of_several_goes_on(port: int, uid: int, outcome: Became) -> None:
    """A rule that asks for one thing or another; what follows in it is asked of those alone that meet one."""
    either = AnyOf(((Among(DPORT, one(80)),), (Among(UID, one(5)),)))
    for asked in ((either,), (either, Among(PROTOCOL, TCP)), (Among(PROTOCOL, TCP), either)):
        assert outcomes([Rule((Native(asked, "either"),), Drop())], port=port, uid=uid) == {outcome}


OURS = """\
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 15000:15010 -m conntrack {}--ctstate DNAT -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
COMMIT
"""


@pytest.mark.parametrize("negated", ["", "! "])
@pytest.mark.parametrize("port", [15005, 15006, 15007])
def test_what_goes_where_it_went_anyway_is_not_changed_to_conntrack(negated: str, port: int) -> None:
    """Redirected to 15006, only what did not go there is DNAT: the boxes have both, and the simulator says the same."""
    ruleset = Ruleset(V4, tables(OURS.format(negated)))
    packet = Packet(Direction.IN, V4, "tcp", ip_address("192.0.2.1"), ip_address("10.244.0.5"), port, "eth0", 40000)
    is_dropped = simulate([ruleset], packet, HOST).became is Became.DROPPED
    assert is_dropped is ((port == 15006) is bool(negated))
    journeys = Journeys((ruleset,), V4, HOST, ())
    ends = {
        end.became
        for end in journeys.ends(journeys.started(universe(V4, HOST, passing=False)))
        if end.now.direction is Direction.IN
        for box in end.boxes
        if meet(box[PROTOCOL], TCP) and meet(box[DPORT], one(port))
        if meet(box[DESTINATION], one(int(packet.destination)))
    }
    assert ends == {Became.DROPPED if is_dropped else Became.CAPTURED_INBOUND}
