"""What of others is in the way of our ip rule and our table, told from values alone."""

from __future__ import annotations

import pytest

from rules.live.drift import Kind
from rules.live.routing import ours_to_keep, place_for_ours, routing_in_the_way
from rules.netfilter.values import Family, network
from rules.plan.names import PROTOCOL, RULE_PRIORITY
from rules.plan.plan import Routing
from rules.routing.policy import PolicyRule, Route

OURS = Routing(Family.V4, 1337, 133)


def route(kind: str, *, table: int = 133, family: Family = Family.V4, metric: int = 0, to: str = "") -> Route:
    return Route(family, table, destination=network(to) if to else None, kind=kind, metric=metric)


def kinds(*routes: Route) -> list[Kind]:
    ours = PolicyRule(Family.V4, RULE_PRIORITY, 1337, 133, protocol=PROTOCOL)
    return [found.kind for found in routing_in_the_way([ours], routes, OURS)]


def test_a_route_counts_in_our_table_alone() -> None:
    """Of our family, and in our table: what others have elsewhere changes nothing for our packets."""
    assert kinds(route("unicast"), route("local", metric=5)) == [Kind.ROUTE_TAKES_ALL]
    assert kinds(route("unicast", table=254), route("unicast", family=Family.V6)) == []


@pytest.mark.parametrize(
    ("theirs", "kind"),
    [
        (route("blackhole", metric=5), Kind.ROUTE_BEHIND_OURS),
        (route("blackhole", to="192.0.2.0/24"), Kind.ROUTE_TAKES_SOME),
    ],
)
def test_a_route_beside_ours_takes_what_it_is_narrower_for(theirs: Route, kind: Kind) -> None:
    """A default route with a higher metric waits behind ours; one for a network takes that."""
    assert kinds(route("local"), theirs) == [kind]


def of_others(priority: int) -> PolicyRule:
    return PolicyRule(Family.V4, priority, 1337, 7)


def test_our_rule_stays_unless_others_came_before_it() -> None:
    """It moves only where there is a place before them: behind one of priority 0 there is none, so it stays."""
    ours = PolicyRule(Family.V4, RULE_PRIORITY, 1337, 133, protocol=PROTOCOL)
    assert ours_to_keep([ours], OURS) == ours
    assert ours_to_keep([ours, of_others(32766)], OURS) == ours
    assert ours_to_keep([of_others(100), ours], OURS) is None
    assert place_for_ours([of_others(100), ours], OURS) == 99
    assert ours_to_keep([of_others(0), ours], OURS) == ours
    assert place_for_ours([of_others(0), ours], OURS) is None
