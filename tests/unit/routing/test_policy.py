"""Where ip rules and routes send a packet, rule by rule (ip-rule(8))."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address, ip_network
from rules.netfilter.values import Family
from rules.packets.packet import Host
from rules.routing.policy import GOTO, LOCAL, LOOKUP, NOP, THROW, UNICAST, Flow, Policy, PolicyRule, Route, Way

V4, V6 = Family.V4, Family.V6
FLOW = Flow(V4, 0x539, ip_address("192.0.2.1"))
KEPT = Route(V4, 133)
OUT = Route(V4, 254, kind=UNICAST, device="eth0", source=ip_address("10.1.0.5"))
MAIN = PolicyRule(V4, 32766, table=254, mask=0)
FIRST = PolicyRule(V4, 100, mark=0x539, table=133)
LEAVES = Way(UNICAST, "eth0", MAIN, OUT.source)


def kinds(policy: Policy) -> list[tuple[str, str]]:
    return [(way.kind, way.device) for way in policy.way(FLOW)]


@pytest.mark.parametrize(
    ("rules", "routes", "expected"),
    [
        ((FIRST, MAIN), (KEPT, OUT), [(LOCAL, "")]),
        ((MAIN,), (KEPT, OUT), [(UNICAST, "eth0")]),
        ((FIRST.but(mark=1), MAIN), (KEPT, OUT), [(UNICAST, "eth0")]),
        ((FIRST.but(family=V6), MAIN), (KEPT, OUT), [(UNICAST, "eth0")]),
        ((FIRST, MAIN), (KEPT.but(family=V6), OUT), [(UNICAST, "eth0")]),
        ((FIRST, MAIN), (KEPT.but(kind=THROW), OUT), [(UNICAST, "eth0")]),
        ((FIRST, MAIN), (KEPT.but(destination=ip_network("198.51.100.0/24")), OUT), [(UNICAST, "eth0")]),
        ((FIRST.but(suppressed=0), MAIN), (KEPT, OUT), [(UNICAST, "eth0")]),
        ((FIRST.but(action="blackhole"), MAIN), (KEPT, OUT), [("blackhole", "")]),
        ((FIRST.but(action=NOP), MAIN), (KEPT, OUT), [(UNICAST, "eth0")]),
        ((FIRST.but(action=GOTO, table=32766), FIRST.but(priority=101), MAIN), (KEPT, OUT), [(UNICAST, "eth0")]),
        ((FIRST.but(action=GOTO, table=32767), MAIN), (KEPT, OUT), [(UNICAST, "eth0")]),
        ((FIRST.but(more=("l3mdev",)), MAIN), (KEPT, OUT), [(LOCAL, ""), (UNICAST, "eth0")]),
        ((FIRST,), (), [(UNICAST, "")]),
        ((FIRST, MAIN), (KEPT.but(kind="prohibit", device="lo"), OUT), [("prohibit", "")]),
    ],
)
def test_the_first_rule_with_a_route_decides(
    rules: tuple[PolicyRule, ...], routes: tuple[Route, ...], expected: list[tuple[str, str]]
) -> None:
    """A rule whose table has no route for the packet is passed over; of one that cannot be told both ways remain."""
    assert kinds(Policy(rules, routes)) == expected


LOCALS = PolicyRule(V4, 0, table=255, mask=0)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((LOCALS, MAIN), False),
        ((LOCALS, FIRST, MAIN), False),
        ((FIRST, LOCALS.but(priority=101), MAIN), True),
        ((MAIN, LOCALS.but(priority=32768)), True),
        ((FIRST, MAIN, LOCALS.but(priority=32768)), True),
        ((LOCALS.but(priority=100), MAIN), False),
        ((FIRST.but(family=V6), LOCALS, MAIN), False),
        ((LOCALS, FIRST, LOCALS.but(priority=101)), False),
        ((FIRST, MAIN), False),
        ((), False),
    ],
)
def test_what_is_asked_before_the_table_local_may_send_our_own_addresses_away(
    rules: tuple[PolicyRule, ...], *, expected: bool
) -> None:
    """A rule of this family in front of it, where somebody moved it behind his own, as Cilium does."""
    assert Host(policy=Policy(rules, ())).asks_before_local(V4) is expected
    assert Host().asks_before_local(V4) is False


def test_the_way_names_its_rule_and_its_source() -> None:
    """Also behind a rule that has nothing to say: nothing of that stays."""
    assert Policy((FIRST, MAIN), (OUT,)).way(FLOW) == (LEAVES,)
    assert Policy((FIRST, MAIN), (KEPT, OUT)).way(FLOW) == (Way(LOCAL, "", FIRST),)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"destination": ip_network("192.0.2.0/25")}, {"destination": ip_network("192.0.2.0/24")}),
        ({"destination": ip_network("192.0.2.0/24")}, {}),
        ({"metric": 1}, {"metric": 2}),
        ({"destination": ip_network("192.0.2.0/24"), "metric": 9}, {"metric": 1}),
    ],
)
def test_the_most_specific_route_is_the_best(better: dict[str, object], worse: dict[str, object]) -> None:
    """Wherever it stands; of two alike the one with the lower metric."""
    good, bad = OUT.but(device="good", **better), OUT.but(device="bad", **worse)
    assert kinds(Policy((MAIN,), (good, bad))) == kinds(Policy((MAIN,), (bad, good))) == [(UNICAST, "good")]
    assert MAIN.action == LOOKUP


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (KEPT, "local default table 133"),
        (OUT, "default dev eth0 table 254 src 10.1.0.5"),
        (
            OUT.but(via=ip_address("10.1.0.1"), metric=100),
            "default via 10.1.0.1 dev eth0 table 254 src 10.1.0.5 metric 100",
        ),
        (
            OUT.but(destination=ip_network("10.9.0.0/16"), tos=0x10, source=None),
            "10.9.0.0/16 tos 0x10 dev eth0 table 254",
        ),
        (Route(V4, 7, kind="blackhole", device="lo"), "blackhole default table 7"),
        (Route(V6, 7, kind=UNICAST, device="eth0", metric=1024), "default dev eth0 table 7"),
    ],
)
def test_a_route_reads_as_ip_route_lists_it(route: Route, words: str) -> None:
    """With its table; the metric of IPv6 is the kernel's own."""
    assert str(route) == words
