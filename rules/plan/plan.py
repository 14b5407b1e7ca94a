"""From what is meant to what the kernel should hold: one ruleset per family, and the routing."""

from __future__ import annotations

from rules.netfilter.rulesets import Ruleset, TableRules
from rules.netfilter.values import FILTER, MANGLE, NAT, RAW, Family
from rules.plan.flows import bypass, dns, inbound, outbound, redirect
from rules.plan.names import (
    ISTIO_DIVERT,
    ISTIO_DROP,
    ISTIO_IN_REDIRECT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT,
    ISTIO_OUTPUT_DNS,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
)
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.plan.intent import Intent


class Routing(Value):
    """The ip rule and the route that TPROXY needs: packets with this mark are delivered here, whatever they say."""

    family: Family
    mark: int
    table: int
    """A routing table whose only route is `local default dev lo`."""


class Plan(Value):
    """What should be there of ours; nothing else of ours should."""

    rulesets: tuple[Ruleset, ...]
    """One for each family, empty for one that is not captured."""
    routing: tuple[Routing, ...] = ()
    passthrough_address: bool = False
    """Whether `::6` is to be on lo."""
    intent: Intent | None = None
    """What it is the plan of; None for a removal."""


NOTHING = Plan(tuple(map(Ruleset, Family)))
"""The plan of a removal."""


def plan(intent: Intent) -> Plan:
    """What these intentions mean for the kernel."""
    return Plan(
        tuple(ruleset(intent, family) for family in Family),
        tuple(routing(intent)),
        passthrough_address=Family.V6 in intent.families,
        intent=intent,
    )


def ruleset(intent: Intent, family: Family) -> Ruleset:
    """What this family should hold."""
    if family in intent.families:
        return Ruleset(family, tuple(tables(intent, family)))
    if family is Family.V6 and intent.ipv6 == "reject":
        return Ruleset(family, (refusing(intent),))
    return Ruleset(family)


def routing(intent: Intent) -> Iterator[Routing]:
    if intent.uses_tproxy:
        for family in intent.families:
            yield Routing(family, intent.tproxy_mark, intent.tproxy_route_table)


def tables(intent: Intent, family: Family) -> Iterator[TableRules]:
    """The tables in the order in which they are committed.

    Zones come first: a connection that is captured before it has its zone stays in the wrong one. Then the table
    that captures inbound traffic in this mode, so that a change of mode takes the new way before it leaves the old.
    """
    if intent.captures_dns(family):
        yield raw(intent, family)
    if intent.uses_tproxy:
        yield mangle(intent, family)
        yield nat(intent, family)
    else:
        yield nat(intent, family)
        if intent.drop_invalid:
            yield mangle(intent, family)
    if intent.udp:
        yield TableRules(FILTER, (ISTIO_OUTPUT,), (bypass.refused_udp(intent, family), bypass.hook("udp")))


def refusing(intent: Intent) -> TableRules:
    """What stands in for a capture of IPv6."""
    return TableRules(FILTER, (ISTIO_OUTPUT,), (bypass.refused_family(intent), bypass.hook("ipv6")))


def nat(intent: Intent, family: Family) -> TableRules:
    """The nat table, written down in the order in which istio-iptables writes it, for those who compare."""
    only_if_needed = []
    if outbound.captures_many_groups(intent):
        only_if_needed.append(outbound.of_captured_groups(intent, family))
    if intent.captures_dns(family):
        only_if_needed.append(dns.to_resolver(intent, family))
    always = (ISTIO_INBOUND, ISTIO_REDIRECT, ISTIO_IN_REDIRECT, ISTIO_OUTPUT)
    return TableRules(
        NAT,
        (*always, *(block.chain for block in only_if_needed)),
        (
            inbound.never_captured(intent, family),
            redirect.to_outbound_listener(intent),
            redirect.to_inbound_listener(intent),
            inbound.hook(intent),
            inbound.captured(intent, family),
            outbound.hook(intent),
            outbound.outbound(intent, family),
            *only_if_needed,
        ),
    )


def raw(intent: Intent, family: Family) -> TableRules:
    return TableRules(
        RAW,
        (ISTIO_INBOUND, ISTIO_OUTPUT_DNS),
        (*dns.hooks(), dns.answers(intent, family), dns.queries(intent, family)),
    )


def mangle(intent: Intent, family: Family) -> TableRules:
    from rules.plan.flows import invalid, tproxy  # a usual capture by REDIRECT has none

    chains: list[str] = []
    blocks = []
    if intent.drop_invalid:
        chains.append(ISTIO_DROP)
        blocks += [invalid.drop(intent), invalid.hook()]
    if intent.uses_tproxy:
        chains += [ISTIO_DIVERT, ISTIO_TPROXY, ISTIO_INBOUND, ISTIO_OUTPUT]
        blocks += [
            tproxy.divert(intent),
            tproxy.to_listener(intent, family),
            *tproxy.hooks(),
            tproxy.arriving(intent, family),
            tproxy.leaving(intent, family),
        ]
    return TableRules(MANGLE, tuple(chains), tuple(blocks))
