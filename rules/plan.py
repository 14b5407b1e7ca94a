"""From what is meant to what the kernel should hold: one ruleset per family."""

from __future__ import annotations

from rules.flows import inbound, invalid, outbound, redirect
from rules.names import ISTIO_DROP, ISTIO_IN_REDIRECT, ISTIO_INBOUND, ISTIO_OUTPUT, ISTIO_REDIRECT
from rules.values import MANGLE, NAT, Family, Ruleset, TableRules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.intent import Intent


def plan(intent: Intent) -> tuple[Ruleset, ...]:
    """What each family should hold; nothing for a family that is not captured."""
    return tuple(ruleset(intent, family) if family in intent.families else Ruleset(family) for family in Family)


def ruleset(intent: Intent, family: Family) -> Ruleset:
    """What this family should hold, given that it is captured."""
    return Ruleset(family, tuple(tables(intent, family)))


def tables(intent: Intent, family: Family) -> Iterator[TableRules]:
    if intent.drop_invalid:
        yield TableRules(MANGLE, (ISTIO_DROP,), (invalid.drop(), invalid.hook()))
    yield nat(intent, family)


def nat(intent: Intent, family: Family) -> TableRules:
    """The nat table, written down in the order in which istio-iptables writes it, for those who compare."""
    return TableRules(
        NAT,
        (ISTIO_INBOUND, ISTIO_REDIRECT, ISTIO_IN_REDIRECT, ISTIO_OUTPUT),
        (
            inbound.never_captured(intent, family),
            redirect.to_outbound_listener(intent),
            redirect.to_inbound_listener(intent),
            inbound.hook(intent),
            inbound.captured(intent),
            outbound.hook(),
            outbound.outbound(intent, family),
        ),
    )
