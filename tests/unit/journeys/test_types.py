"""The type of an address, as `fib` of IPv6 finds it beside ip rules of others: told where the routes tell it."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address, ip_network
from rules.journeys.journeys import Journeys, universe
from rules.netfilter.fields import DESTINATION, OfType
from rules.netfilter.hooks import BaseChain, NativeTable
from rules.netfilter.matches import Native
from rules.netfilter.rulesets import Rule
from rules.netfilter.spans import meet, one
from rules.netfilter.targets import Drop
from rules.netfilter.values import Family
from rules.packets.packet import Direction, Host, Local
from rules.packets.trace import Became
from rules.routing.policy import BLACKHOLE, Policy, PolicyRule, Route

V6 = Family.V6
RULES = (
    PolicyRule(Family.V4, 0, action=BLACKHOLE, mask=0),  # which is not asked about IPv6
    *(PolicyRule(V6, at, table=of, mask=0) for at, of in ((0, 255), (32766, 254))),
)
OWN = Route(V6, 255, destination=ip_network("fd00:244::5/128"), device="eth0")
DEFAULT = Route(V6, 254, kind="unicast", device="eth0")
ADDRESSES = (Local("eth0", ip_address("fd00:244::5"), 64),)
NOT_SURE = "cannot be told"


def outcomes(kind: str, routes: tuple[Route, ...], destination: str) -> set[object]:
    """What becomes of packets to this address, of which a rule drops those to a type of address."""
    asked = Native((OfType(DESTINATION, (kind,), negated=False, by_fib=True),), "fib")
    base = BaseChain("ip6", "theirs", "out", "filter", "OUTPUT", 0, handle=1)
    table = NativeTable("ip6", "theirs", False, (base,), (("out", (Rule((asked,), Drop()),)),))
    host = Host(ADDRESSES, "eth0").but(policy=Policy(RULES, (OWN, *routes)))
    journeys = Journeys((), V6, host, (table,))
    return {
        NOT_SURE if end.now.depends else end.became
        for end in journeys.ends(journeys.started(universe(V6, host, passing=False)))
        if end.now.direction is Direction.OUT
        and any(meet(box[DESTINATION], one(int(ip_address(destination)))) for box in end.boxes)
    }


@pytest.mark.parametrize(
    ("kind", "routes", "destination", "outcome"),
    [
        ("UNICAST", (DEFAULT,), "2001:db8::1", Became.DROPPED),
        ("UNICAST", (DEFAULT,), "fd00:244::5", Became.DELIVERED),
        ("UNICAST", (), "2001:db8::1", NOT_SURE),
        ("LOCAL", (DEFAULT,), "fd00:244::5", Became.DROPPED),
        ("LOCAL", (DEFAULT,), "2001:db8::1", Became.BYPASSED),
    ],
)
def test_a_type_is_told_where_the_routes_tell_it(
    kind: str, routes: tuple[Route, ...], destination: str, outcome: object
) -> None:
    """Without a default route it is not told apart from an address that nobody has a way to."""
    assert outcomes(kind, routes, destination) == {outcome}
