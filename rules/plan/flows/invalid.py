"""Packets that conntrack cannot place: PREROUTING and ISTIO_DROP of the mangle table.

A retransmission that arrives after its connection was forgotten is INVALID: nat does not see it, so it reaches the
application's port unredirected and is answered with a reset that ends the proxy's healthy connection.
"""

from __future__ import annotations

from rules.netfilter.matches import CtState
from rules.netfilter.rulesets import Block, when
from rules.netfilter.targets import Drop, Jump
from rules.netfilter.values import PREROUTING
from rules.plan.flows import inbound
from rules.plan.names import ISTIO_DROP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.plan.intent import Intent

INVALID = CtState(frozenset({"INVALID"}))


def hook() -> Block:
    why = "conntrack cannot place it, so it could not be captured"
    return Block(PREROUTING, (when(INVALID).then(Jump(ISTIO_DROP), why=why, setting="drop_invalid"),))


def drop(intent: Intent) -> Block:
    """ISTIO_DROP, which spares the interfaces on which nothing is captured."""
    return Block.of(
        ISTIO_DROP,
        inbound.excluded_interfaces(intent),
        [when().then(Drop(), why="an invalid packet is dropped", setting="drop_invalid")],
    )
