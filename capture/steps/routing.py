"""What lets rules work beside them, and how it is undone: ip rules, routes, an address of lo.

A capture of IPv4 by REDIRECT needs none of it.
"""

from __future__ import annotations

from capture.errors import KernelRefused
from capture.netlink import routing, rtnetlink
from rules.netfilter.values import Family
from rules.routing.policy import ip_command
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from capture.iptables.iptables import Iptables, Told
    from capture.log import Log
    from rules.live.routing_changes import RoutingChange


class SetRouting(Value):
    """Make a change of ip rules and routes."""

    change: RoutingChange

    def __str__(self) -> str:
        return str(self.change)

    @property
    def families(self) -> tuple[Family]:
        return (self.change.routing.family,)

    @property
    def comparing(self) -> tuple[SetRouting]:
        return (self,)

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=self.change.adds)

    def check(self, log: Log, told: Mapping[Iptables, Told]) -> None:  # noqa: ARG002 # one signature with a restore
        """Raises KernelRefused if something else is in the place of what was added.

        The kernel knows a rule or a route by less than all that it says: to one that says something else it answers
        that ours is there already.
        """
        if not self.change.adds:
            return
        from rules.live.drift import REFUSED_FOR, REMEDY, Kind, sentence_of
        from rules.live.routing import is_like_ours, routing_in_the_way

        rules, routes, tool = rtnetlink.policy_rules(), rtnetlink.routes(), ip_command(self.change.routing.family)
        if not any(is_like_ours(rule, self.change.routing) for rule in rules):
            raise KernelRefused(
                f"an ip rule of somebody else's stands in the place of ours for fwmark {self.change.routing.mark:#x}",
                details=[("what is needed", str(self))],
                hint=f"see `{tool} rule`; remove it, or give -t and -r numbers that nobody uses",
            )
        for found in routing_in_the_way(rules, routes, self.change.routing):
            if found.kind in (*REFUSED_FOR, Kind.IP_RULE_BEFORE_OURS):
                hint = REMEDY.get(found.kind, "run it again: that rule was added meanwhile")
                raise KernelRefused(sentence_of(found), details=[("what is needed", str(self))], hint=hint)

    def undo(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=not self.change.adds)

    def set(self, *, adds: bool) -> None:
        """The route is there before a rule looks it up, and stays until none does."""
        family, mark, table = self.change.routing.family, self.change.routing.mark, self.change.routing.table
        if adds and self.change.has_route:
            routing.add_route(family, table)
        if self.change.rule_priority is not None:
            if adds:
                routing.add_rule(family, self.change.rule_priority, mark, table)
            else:
                routing.remove_rule(family, self.change.rule_priority, mark, table)
        if not adds and self.change.has_route:
            routing.remove_route(family, table)


class SetPassthroughAddress(Value):
    """`::6` on lo, from which the proxy hands inbound IPv6 to the application: add it, or remove it."""

    adds: bool

    @property
    def families(self) -> tuple[Family]:
        return (Family.V6,)

    def __str__(self) -> str:
        return f"ip -6 addr {'add' if self.adds else 'del'} ::6/128 dev lo"

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=self.adds)

    def undo(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=not self.adds)

    @staticmethod
    def set(*, adds: bool) -> None:
        if adds:
            routing.add_passthrough_address()
        else:
            routing.remove_passthrough_address()
