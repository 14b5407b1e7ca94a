"""What the simulator says of every plan, and of every state that a namespace may be in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from rules.addresses import IPv4Address, IPv6Address
from rules.netfilter.fields import NEVER, STATES
from rules.netfilter.matches import Foreign, Native
from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
from rules.netfilter.values import Family
from rules.packets.packet import Direction, Host, Local, Packet
from rules.packets.trace import Became
from rules.plan.flows import outbound
from rules.plan.plan import plan, ruleset
from rules.simulator.simulate import simulate
from tests.property import strategies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.packets.trace import Trace
    from rules.plan.intent import Intent
    from rules.simulator.simulate import Address

LOCAL = (
    Local("eth0", IPv4Address("10.244.0.5"), 24),
    Local("eth0", IPv6Address("fd00:244::5"), 64),
    Local("lo", IPv6Address("::6"), 128),
)
OUTSIDE: dict[Family, st.SearchStrategy[Address]] = {
    Family.V4: st.sampled_from(("9.9.9.9", "10.0.7.7", "10.96.0.10", "192.0.2.53", "10.244.0.9")).map(IPv4Address),
    Family.V6: st.sampled_from(("2001:db8::1", "fd00::a", "fd00:244::9")).map(IPv6Address),
}
OWN: dict[Family, st.SearchStrategy[Address]] = {
    Family.V4: st.sampled_from(("10.244.0.5", "127.0.0.1", "127.0.0.6", "127.1.2.3")).map(IPv4Address),
    Family.V6: st.sampled_from(("fd00:244::5", "::1", "::6")).map(IPv6Address),
}


@st.composite
def packets(draw: st.DrawFn, family: Family, *, intent: Intent | None = None, outward: bool = False) -> Packet:
    """A packet from the pod or to it; with `outward` from the pod to somebody outside."""
    host = Host(LOCAL)
    sent = outward or draw(st.booleans())
    to = draw(OUTSIDE[family] if outward else st.one_of(OUTSIDE[family], OWN[family]))
    named = [*intent.proxy_uid, *intent.proxy_gid, *(u.first for u in intent.exclude_uids)] if intent else []
    ids = st.one_of(st.sampled_from(named), strategies.ids) if named else strategies.ids
    return Packet(
        Direction.OUT if sent else Direction.IN,
        family,
        draw(st.sampled_from(("tcp", "tcp", "udp", "icmp"))),
        host.source_to(family, to) if sent else draw(OUTSIDE[family]),
        to,
        draw(strategies.port_numbers),
        host.leaves_on(family, to) if sent else draw(st.sampled_from(("eth0", "eth9", "veth1"))),
        draw(st.one_of(st.none(), strategies.port_numbers)),
        draw(ids) if sent else None,
        draw(ids) if sent else None,
        draw(st.sampled_from((0, 0, 7, 1337, 1338))),
        draw(st.sampled_from(STATES)),
    )


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_the_proxy_is_never_captured_on_its_way_out(data: st.DataObject, intent: Intent, family: Family) -> None:
    """Whatever the settings: what the proxy sends to others comes back to none of its ports."""
    packet = data.draw(packets(family, intent=intent, outward=True))
    uid, gid = data.draw(
        st.one_of(
            st.tuples(st.sampled_from(intent.proxy_uid), strategies.ids),
            st.tuples(strategies.ids, st.sampled_from(intent.proxy_gid)),
        )
    )
    planned = plan(intent)
    # A socket of the proxy's with the mark is its call to the application, which is kept in the pod on purpose.
    trace = simulate(planned.rulesets, packet.but(uid=uid, gid=gid, mark=0), Host(LOCAL, "eth0", planned.routing))
    assert not trace.became.is_captured
    assert trace.became is Became.BYPASSED


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_what_becomes_of_a_packet_is_always_known_between_our_own_rules(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """It never depends; each captured packet was captured by a rule of ours, with a reason."""
    planned = plan(intent)
    trace = simulate(planned.rulesets, data.draw(packets(family, intent=intent)), Host(LOCAL, "eth0", planned.routing))
    assert trace.became not in (Became.DEPENDS, Became.REDIRECTED)
    assert trace.decided or trace.reason
    if trace.became.is_captured:
        assert trace.decided
        assert trace.decided.rule.why


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_nothing_is_captured_on_loopback_unless_it_is_asked_for(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """An application that talks to itself is left alone, DNS apart."""
    packet = data.draw(packets(family, intent=intent))
    to = data.draw(OWN[family])
    sent = packet.but(direction=Direction.OUT, source=to, destination=to, interface="lo", uid=65533, gid=65533, mark=0)
    named = {*intent.proxy_uid, *intent.proxy_gid}
    if (
        not outbound.captures_loopback(intent)
        and 65533 not in named
        and not (packet.port == 53 and intent.redirect_dns)
    ):
        assert not simulate(plan(intent).rulesets, sent, Host(LOCAL)).became.is_captured


UNTOLD = ("-m set --match-set allowed src", "-m statistic")
"""The drawn matches of others that the simulator cannot tell, of any packet."""
MISSED = Native((NEVER,), "never")


def settled(table: TableRules, answers: Iterator[bool]) -> TableRules:
    """The table if each rule that cannot be asked did match, or did not.

    One that did not is still there: it may be what switches conntrack on.
    """
    blocks = []
    for block in table.blocks:
        rules = []
        for rule in block.rules:
            known = tuple(m for m in rule.matches if not (isinstance(m, Foreign) and m.text.startswith(UNTOLD)))
            if known == rule.matches:
                rules.append(rule)
            else:
                rules.append(Rule(known if next(answers) else (*known, MISSED), rule.target))
        blocks.append(Block(block.chain, tuple(rules)))
    return table.but(blocks=tuple(blocks))


def ends_of(trace: Trace) -> set[tuple[Became, Address | None, int | None]]:
    """What could become of the packet."""
    return {(way.became, way.address, way.port) for way in trace.ways or (trace,)}


@given(data=st.data(), family=strategies.families)
def test_an_answer_holds_whatever_the_rules_that_cannot_be_asked_would_say(data: st.DataObject, family: Family) -> None:
    """In every state, with rules of others in it: an answer other than "depends" is the answer in each case, and what
    becomes of the packet in a case is always among what could become of it."""
    live = Ruleset(
        family, tuple(data.draw(strategies.possible_tables(name, family)) for name in ("mangle", "nat", "filter"))
    )
    packet = data.draw(packets(family))
    trace = simulate((live,), packet, Host(LOCAL))
    answers = iter(lambda: data.draw(st.booleans()), None)
    case = live.but(tables=tuple(settled(table, answers) for table in live.tables))
    found = simulate((case,), packet, Host(LOCAL))
    expected = ends_of(trace)
    if (Became.DEPENDS, None, None) not in expected:
        assert ends_of(found) <= expected


@given(intent=strategies.intents, family=strategies.families)
def test_a_family_without_rules_is_left_alone(intent: Intent, family: Family) -> None:
    """What is not captured is not touched."""
    if not ruleset(intent, family).tables:
        to = IPv4Address("9.9.9.9") if family is Family.V4 else IPv6Address("2001:db8::1")
        packet = Packet(Direction.OUT, family, "tcp", LOCAL[0].address, to, 80, "eth0", None, 1000, 1000)
        assert simulate(plan(intent).rulesets, packet, Host(LOCAL)).became is Became.BYPASSED
