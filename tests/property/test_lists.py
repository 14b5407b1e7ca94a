"""Lists that are asked as one rule: every packet fares as if each of their rules were asked by itself."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from rules.addresses import IPv4Network
from rules.analysis.reachability import Walk, same_walks, unmet
from rules.meaning import lists as meaning
from rules.meaning.lists import Members, lists, those_met
from rules.netfilter.matches import DPort, DPorts, Dst, Limit, Mark, Not, OwnerUid, Proto, Src
from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
from rules.netfilter.spans import joined, less, meet
from rules.netfilter.targets import Accept, Drop, Jump, Redirect, Return, SetMark
from rules.netfilter.values import OUTPUT, Family, Ports
from rules.proof.escapes import escapes
from tests.rig import predicted
from tests.rig.chance import share
from tests.rig.sets import is_listed

if TYPE_CHECKING:
    from rules.netfilter.matches import Match
    from rules.netfilter.targets import Target

small = st.integers(0, 12)
networks = st.builds(lambda at, bits: IPv4Network((0x0A000000 + at, bits), strict=False), small, st.integers(29, 32))
ports = st.builds(lambda first, more: Ports(1 + first, 1 + first + more), small, st.integers(0, 2))
protocols: st.SearchStrategy[tuple[Match, ...]] = st.sampled_from(((), (Proto("tcp"),), (Proto("udp"),)))
others: st.SearchStrategy[tuple[Match, ...]] = st.sampled_from(
    ((), (), (), (Mark(1),), (Limit("3/sec"),), (OwnerUid(5),))
)
wanted: st.SearchStrategy[tuple[Match, ...]] = st.one_of(
    networks.map(lambda it: (Dst(it),)),
    networks.map(lambda it: (Src(it),)),
    networks.map(lambda it: (Not(Dst(it)),)),
    ports.map(lambda it: (DPort(it),)),
    st.tuples(ports, ports).map(lambda it: (DPorts(it),) if it[0].last < it[1].first else (DPort(it[0]),)),
    st.tuples(networks, ports).map(lambda it: (Dst(it[0]), DPort(it[1]))),
    small.map(lambda uid: (OwnerUid(uid),)),
)
targets: st.SearchStrategy[Target] = st.sampled_from(
    (Return(), Return(), Drop(), Accept(), Redirect(7), Jump("TAKES"), Jump("MARKS"), SetMark(1))
)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Rule, ...]:
    """A few lists after each other, of which each has one target, and here and there another rule between them."""
    rules: list[Rule] = []
    for _ in range(draw(st.integers(1, 4))):
        target, besides = draw(targets), draw(others)
        kinds = draw(st.lists(protocols, min_size=1, max_size=2))
        members = draw(st.lists(st.tuples(wanted, st.sampled_from(kinds)), min_size=1, max_size=9))
        rules += (Rule((*kind, *its, *besides), target) for its, kind in members)
    return tuple(rules)


def table(rules: tuple[Rule, ...]) -> TableRules:
    """A new one each time, as what was found of a table is remembered."""
    takes = Block("TAKES", (Rule((Proto("tcp"),), Redirect(9)),))
    marks = Block("MARKS", (Rule((Proto("tcp"),), SetMark(1)), Rule((DPort(Ports(3, 5)),), Drop())))
    hook = Block(OUTPUT, (Rule((), Jump("ISTIO_OUTPUT")), Rule((Mark(1),), Drop())))
    return TableRules("nat", ("ISTIO_OUTPUT", "TAKES", "MARKS"), (hook, Block("ISTIO_OUTPUT", rules), takes, marks))


def longer_than(rules: int) -> mock._patch[int]:
    return mock.patch.object(meaning, "LONG", rules)


@settings(max_examples=share(200), deadline=None)
@given(rules=chains())
def test_a_list_is_met_by_whom_its_rules_are_met(rules: tuple[Rule, ...]) -> None:
    """The same outcomes, the same rules that nothing meets, and the same rules that take what they ask for."""
    with longer_than(10_000):
        apart = Walk(table(rules), Family.V4)
        in_vain = list(unmet(Ruleset(Family.V4, (table(rules),))))
    with longer_than(1):
        together = Walk(table(rules), Family.V4)
        in_vain_together = list(unmet(Ruleset(Family.V4, (table(rules),))))
        assert sorted(at for each in lists(rules) for at in each.places) == list(range(len(rules)))
    assert apart.exact
    assert same_walks(apart, together)
    assert apart.met == together.met
    assert [it.but(by=()) for it in in_vain] == [it.but(by=()) for it in in_vain_together]
    assert [bool(it.by) for it in in_vain] == [bool(it.by) for it in in_vain_together]


spans = st.lists(st.tuples(small, st.integers(1, 4)), min_size=1, max_size=3).map(
    lambda parts: joined(sorted((first, first + size) for first, size in parts))
)


@given(members=st.lists(spans, min_size=1, max_size=12), coming=spans)
def test_of_a_list_those_are_met_that_get_anything(members: list[tuple[int, ...]], coming: tuple[int, ...]) -> None:
    """As one takes after the other; and whoever has any of some values is found."""
    left, met = coming, set()
    for at, span in enumerate(members):
        if meet(left, span):
            met.add(at)
            left = less(left, span)
    assert those_met(members, coming) == met
    assert Members(members).of(coming) == [at for at, span in enumerate(members) if meet(span, coming)]


@settings(max_examples=share(40), deadline=None)
@given(rules=chains())
def test_what_escapes_by_a_list_escapes_by_its_rules(rules: tuple[Rule, ...]) -> None:
    """The same packets with the same outcome, of which more are told of together."""
    here = predicted.host(())
    held = Ruleset(Family.V4, (table(rules),))
    with longer_than(10_000):
        apart = escapes([("nft", held)], Family.V4, here)
    with longer_than(1):
        together = escapes([("nft", held)], Family.V4, here)
    assert len(together) <= len(apart)
    for at, port, uid, proto in product((0, 3, 4, 8, 13), (1, 4, 9, 14), (5, 6), ("tcp", "udp")):
        packet = predicted.sent(here, f"10.0.0.{at}", port, proto=proto, uid=uid)
        for outcome in {each.outcome for each in (*apart, *together)}:
            of_each = [[each for each in told if each.outcome == outcome] for told in (apart, together)]
            assert len({is_listed(packet, its) for its in of_each}) == 1, (packet, outcome)
