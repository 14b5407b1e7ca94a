"""The ends of the walk: the two chains that hand a connection to the proxy."""

from __future__ import annotations

from rules.netfilter.rulesets import Block, when
from rules.netfilter.targets import Redirect
from rules.plan.flows.words import TCP, logged
from rules.plan.names import ISTIO_IN_REDIRECT, ISTIO_REDIRECT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.plan.intent import Intent


def to_outbound_listener(intent: Intent) -> Block:
    """ISTIO_REDIRECT: the proxy's outbound listener."""
    target = Redirect(intent.proxy_port)
    why = "outbound TCP goes to the proxy's outbound listener"
    rule = when(TCP).then(target, why=why, setting="proxy_port")
    return Block.of(ISTIO_REDIRECT, logged(intent, TCP, prefix="captured-outbound:"), [rule])


def to_inbound_listener(intent: Intent) -> Block:
    """ISTIO_IN_REDIRECT: the proxy's inbound listener."""
    target = Redirect(intent.inbound_capture_port)
    why = "inbound TCP goes to the proxy's inbound listener"
    rule = when(TCP).then(target, why=why, setting="inbound_capture_port")
    return Block.of(ISTIO_IN_REDIRECT, logged(intent, TCP, prefix="captured-inbound:"), [rule])
