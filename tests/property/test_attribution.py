"""Which rule watch names for a connection, held to the simulator: it knows what conntrack does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rules.connections.attribution import Connection, decided_by
from rules.packets.packet import Direction, Host, Packet
from rules.packets.trace import Became
from rules.plan.names import OURS
from rules.plan.plan import plan
from rules.routing.policy import TABLE_MAIN, Policy, PolicyRule, Route
from rules.simulator.simulate import simulate
from tests.property import strategies
from tests.property.test_simulate import LOCAL, OWN, packets
from tests.rig.chance import share

if TYPE_CHECKING:
    from rules.netfilter.values import Family
    from rules.packets.trace import Trace
    from rules.plan.intent import Intent

ADDRESSES = frozenset(local.address for local in LOCAL)


def connection(packet: Packet, trace: Trace) -> Connection:
    """As conntrack books it."""
    to = packet.destination, packet.port
    return Connection(
        packet.family, packet.protocol, packet.source, packet.source_port or 40000, *to, *(trace.translated or to)
    )


@settings(max_examples=share(400))
@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_the_rule_that_decided_is_among_those_that_are_named(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """From the counters that the first packet moved: whatever captured it is named, and nothing that let it go.

    Beside an ip rule of others that delivers everything here as well.
    """
    packet = data.draw(packets(family, intent=intent)).but(state="NEW", mark=0)
    if data.draw(st.booleans()):
        to = data.draw(OWN[family])
        packet = packet.but(source=to, destination=to, interface="lo", direction=Direction.OUT)
    # Nothing arrives from outside at a loopback address (ip_route_input_slow, ip6_rcv_core).
    assume(packet.direction is Direction.OUT or not packet.destination.is_loopback)
    if packet.protocol not in ("tcp", "udp"):
        packet = packet.but(protocol="tcp")
    planned = plan(intent)
    here, routes = Host(LOCAL, "eth0", planned.routing), (Route(family, 201, device="lo"),)
    if not planned.routing and data.draw(st.booleans()):
        rules = (PolicyRule(family, 50, table=201, mask=0), PolicyRule(family, 32766, table=TABLE_MAIN, mask=0))
        here = here.but(policy=Policy(rules, routes))
    trace = simulate(planned.rulesets, packet, here)
    assume(trace.became is not Became.DROPPED)  # conntrack has no book of it
    counted = {(step.table, step.chain, step.position) for step in trace.matched}
    (ruleset,) = (each for each in planned.rulesets if each.family is family)
    named = decided_by(ruleset, connection(packet, trace), ADDRESSES, counted, routes if here.policy else ())
    assert {(each.table, each.chain, each.position) for each in named} <= counted
    if trace.became.is_captured:
        assert named
        assert all(each.captures for each in named)
        assert all(each.chain in OURS[each.table] for each in named)
    else:
        assert not any(each.captures for each in named)
