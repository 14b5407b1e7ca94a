"""What has to come or go of ip rules and routes, from what is there to what is planned."""

from __future__ import annotations

from rules.plan.names import PROTOCOL
from rules.plan.plan import Routing
from rules.routing.policy import ip_command
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.routing.policy import PolicyRule, Route


class RoutingChange(Value):
    """The ip rule and the route by which packets with our mark stay on this host come, or go."""

    adds: bool
    routing: Routing
    rule_priority: int | None
    """Of the ip rule, or None if it stays as it is."""
    has_route: bool
    """Whether the route comes or goes."""

    def __str__(self) -> str:
        family = ip_command(self.routing.family)
        verb = "add" if self.adds else "del"
        lines = []
        if self.has_route:
            lines.append(f"{family} route {verb} local default dev lo table {self.routing.table}")
        if self.rule_priority is not None:
            mark = f"fwmark {self.routing.mark:#x} lookup {self.routing.table}"
            lines.append(f"{family} rule {verb} priority {self.rule_priority} {mark}")
        return ", ".join(lines)


def routing_to_add(
    rules: Sequence[PolicyRule], local_routes: Sequence[Route], planned: Sequence[Routing]
) -> Iterator[RoutingChange]:
    """What is planned and not there, whoever put there what is, or is there and asked too late.

    Where others leave no place for our ip rule, none is added, and the run says why.
    """
    if not planned:
        return
    from rules.live.routing import is_asked_first, place_for_ours  # for TPROXY only

    there = {(route.family, route.table) for route in local_routes}
    for wanted in planned:
        place = None if is_asked_first(rules, wanted) else place_for_ours(rules, wanted)
        lacks_route = (wanted.family, wanted.table) not in there
        if place is not None or lacks_route:
            yield RoutingChange(True, wanted, place, lacks_route)


def routing_to_remove(
    rules: Sequence[PolicyRule], local_routes: Sequence[Route], planned: Sequence[Routing]
) -> Iterator[RoutingChange]:
    """What carries our signature and is not planned."""
    tables = {(wanted.family, wanted.table) for wanted in planned}
    unwanted = {(route.family, route.table) for route in local_routes if route.protocol == PROTOCOL} - tables
    kept: list[PolicyRule | None] = []
    if planned:
        from rules.live.routing import ours_to_keep  # for TPROXY only

        kept = [ours_to_keep(rules, wanted) for wanted in planned]
    for rule in rules:
        if rule.protocol == PROTOCOL and rule not in kept:
            has_route = (rule.family, rule.table) in unwanted
            unwanted.discard((rule.family, rule.table))
            yield RoutingChange(False, Routing(rule.family, rule.mark, rule.table), rule.priority, has_route)
    for family, table in sorted(unwanted, key=str):
        yield RoutingChange(False, Routing(family, 0, table), None, True)
