"""Sets of packets against packets one by one: an evaluator that walks rules as the kernel does is the judge."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from rules.analysis.boxes import everything, fewer, remainder
from rules.analysis.reachability import Outcome, Outcomes, Walk, same_walks, unmet
from rules.explain.entries import shown
from rules.explain.lint import findings
from rules.explain.summary import summary
from rules.iptables.words import rule_words
from rules.netfilter import fields as f
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.spans import common, less, meet, united
from rules.netfilter.values import OUTPUT, PREROUTING, Family
from rules.plan.intent import Intent
from rules.plan.plan import Plan, plan, ruleset
from tests.property import strategies
from tests.rig.chance import share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.analysis.boxes import Box
    from rules.netfilter.rulesets import Rule, TableRules

SAMPLES = 60
FEW_RULES = 60
"""Rules through which all packets can be sent in no time."""


class Packet(NamedTuple):
    """One packet, in the order of the fields of `rules.netfilter.fields`."""

    protocol: int
    source: int
    destination: int
    sport: int
    dport: int
    uid: int
    gid: int
    arrived_on: str
    leaves_on: str
    state: int
    mark: int
    connmark: int
    tcp_flags: int
    rewritten: int


NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}


# --- the judge ------------------------------------------------------------------------------------------------


def holds(match: m.Match, packet: Packet) -> bool:
    """Whether one packet is what a match asks for."""
    match match:
        case m.Not(inner):
            return not holds(inner, packet)
        case m.Proto(name):
            return packet.protocol == NUMBERS[name]
        case m.Src(network):
            return 0 <= packet.source - int(network.network_address) < network.num_addresses
        case m.Dst(network):
            return 0 <= packet.destination - int(network.network_address) < network.num_addresses
        case m.InIface(name):
            return named(name, packet.arrived_on)
        case m.OutIface(name):
            return named(name, packet.leaves_on)
        case m.DPort(ports):
            return ports.first <= packet.dport <= ports.last
        case m.SPort(ports):
            return ports.first <= packet.sport <= ports.last
        case m.DPorts(ranges):
            return any(ports.first <= packet.dport <= ports.last for ports in ranges)
        case m.OwnerUid(uid):
            return packet.uid == uid
        case m.OwnerUids(first, last):
            return first <= packet.uid <= last
        case m.OwnerGid(gid):
            return packet.gid == gid
        case m.CtState(states):
            return f.STATES[packet.state] in states
        case m.Mark(value):
            return packet.mark == value
        case m.ConnMark(value):
            return packet.connmark == value
        case _:
            raise AssertionError(match)


def named(asked: str, name: str) -> bool:
    return name.startswith(asked[:-1]) if asked.endswith("+") else name == asked


class Judge:
    """The walk of one packet through one table, rule by rule."""

    def __init__(self, table: TableRules) -> None:
        self.chains = table.chains()
        self.zone: int | None = None
        self.packet: Packet

    def outcome(self, hook: str, packet: Packet) -> tuple[t.Target | None, int, int | None]:
        """The verdict, the mark, and the zone."""
        self.packet, self.zone = packet, None
        verdict = self.enter(hook)
        return (None if isinstance(verdict, t.Return) else verdict), self.packet.mark, self.zone

    def enter(self, chain: str) -> t.Target | None:
        for rule in self.chains[chain]:
            if not all(holds(match, self.packet) for match in rule.matches if not isinstance(match, m.Limit)):
                continue
            match rule.target:
                case t.Jump(name):
                    verdict = self.enter(name)
                    if verdict is not None and not isinstance(verdict, t.Return):
                        return verdict
                case t.SetMark(value):
                    self.packet = self.packet._replace(mark=value)
                case t.RestoreMark():
                    self.packet = self.packet._replace(mark=self.packet.connmark)
                case t.Zone(zone):
                    self.zone = zone if self.zone is None else self.zone
                case target if type(target).__name__ in ("Log", "Nflog", "SaveMark"):
                    pass
                case target:
                    return target
        return None


def packets_near(*rulesets: Ruleset, hook: str) -> Iterator[Packet]:
    """Packets at the edges of everything that is asked, where a mistake would show."""
    family = rulesets[0].family
    full = everything(family, hook)
    edges: list[set[Any]] = [{span[0]} if span[0] != "\0" else set() for span in full]
    edges[0] |= set(NUMBERS.values())
    edges[7] |= {"lo", "eth0"} if hook == PREROUTING else set()
    edges[8] |= {"lo", "eth0"} if hook == OUTPUT else set()
    edges[9] |= set(range(len(f.STATES)))
    for asked in rulesets:
        for _, _, rule in asked.rules():
            for match in rule.matches:
                at, values = edge(match.match if isinstance(match, m.Not) else match)
                edges[at] |= {value for value in values if inside(full[at], value)}
    choices = [sorted(values) for values in edges]
    chance = Random(len(choices[4]))
    for _ in range(SAMPLES):
        yield Packet(*map(chance.choice, choices))


def edge(match: Any) -> tuple[int, list[Any]]:
    match match:
        case m.Proto(name):
            return 0, [NUMBERS[name]]
        case m.Src(network):
            return 1, around(int(network.network_address), int(network.network_address) + network.num_addresses - 1)
        case m.Dst(network):
            return 2, around(int(network.network_address), int(network.network_address) + network.num_addresses - 1)
        case m.SPort(ports):
            return 3, around(ports.first, ports.last)
        case m.DPort(ports):
            return 4, around(ports.first, ports.last)
        case m.DPorts(ranges):
            return 4, [value for ports in ranges for value in around(ports.first, ports.last)]
        case m.OwnerUid(uid):
            return 5, around(uid, uid)
        case m.OwnerUids(first, last):
            return 5, around(first, last)
        case m.OwnerGid(gid):
            return 6, around(gid, gid)
        case m.InIface(name):
            return 7, [name.rstrip("+"), name.rstrip("+") + "0"]
        case m.OutIface(name):
            return 8, [name.rstrip("+"), name.rstrip("+") + "0"]
        case m.Mark(value):
            return 10, around(value, value)
        case m.ConnMark(value):
            return 11, around(value, value)
        case _:
            return 0, []


def around(first: int, last: int) -> list[int]:
    return [first - 1, first, last, last + 1]


def inside(span: tuple[Any, ...], value: Any) -> bool:
    """By counting, not by the search that is tested."""
    return bool(sum(end <= value for end in span) % 2)


def contains(box: Box, packet: Packet) -> bool:
    return all(inside(span, value) for span, value in zip(box, packet, strict=True))


# --- spans ----------------------------------------------------------------------------------------------------

spans = st.lists(st.integers(0, 40), unique=True, max_size=24).map(
    lambda ends: tuple(sorted(ends)[: len(ends) // 2 * 2])
)


@settings(max_examples=share(1600))
@given(one=spans, other=spans)
def test_spans_are_sets(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """What is common, and what is left, is that of the numbers inside; ends ascend, so that equal sets are equal."""
    for value in range(-1, 42):
        assert inside(common(one, other), value) == (inside(one, value) and inside(other, value))
        assert inside(less(one, other), value) == (inside(one, value) and not inside(other, value))
        assert inside(united(one, other), value) == (inside(one, value) or inside(other, value))
    assert meet(one, other) == bool(common(one, other))
    for made in (common(one, other), less(one, other), united(one, other)):
        assert list(made) == sorted(set(made))


# --- walks ----------------------------------------------------------------------------------------------------


@settings(max_examples=share(50))
@given(intent=strategies.intents, family=strategies.families)
def test_every_packet_has_the_outcome_that_the_judge_gives_it(intent: Intent, family: Family) -> None:
    """Each packet is in the boxes of one outcome, and that is its verdict and its zone."""
    planned = ruleset(intent, family)
    for table in planned.tables:
        walk, judge = Walk(table, family), Judge(table)
        for hook, outcomes in walk.outcomes.items():
            for packet in packets_near(planned, hook=hook) if walk.exact else ():
                verdict, _, zone = judge.outcome(hook, packet)
                # A mark that was changed on the way is not the mark with which the packet came.
                if any(
                    isinstance(target, t.SetMark | t.RestoreMark | t.SaveMark)
                    for outcome in outcomes
                    for target, _ in outcome.remarks
                ):
                    continue
                (outcome,) = [
                    outcome for outcome, boxes in outcomes.items() if any(contains(box, packet) for box in boxes)
                ]
                zones = [target.zone for target, _ in outcome.remarks if isinstance(target, t.Zone)]
                assert (outcome.verdict, zones[0] if zones else None) == (verdict, zone), packet


@settings(max_examples=share(50))
@given(intent=strategies.intents, family=strategies.families)
def test_a_rule_that_never_matches_never_decides(intent: Intent, family: Family) -> None:
    """Without it no packet fares otherwise; and what takes it before stands before it."""
    planned = ruleset(intent, family)
    for found in unmet(planned):
        table = planned.table(found.table)
        assert table.chains()[found.chain][found.position - 1] == found.rule
        assert all(before < found.position for before in found.by)
        judge, without = Judge(table), Judge(table)
        rules = list(without.chains[found.chain])
        del rules[found.position - 1]
        without.chains[found.chain] = tuple(rules)
        for hook in Walk(table, family).outcomes:
            for packet in packets_near(planned, hook=hook):
                assert judge.outcome(hook, packet) == without.outcome(hook, packet), (found, packet)


@given(data=st.data(), family=strategies.families, table=st.sampled_from(("nat", "mangle", "filter")))
def test_a_rule_of_others_that_never_matches_is_behind_one_that_does(
    data: st.DataObject, family: Family, table: str
) -> None:
    """Tables as others leave them can be walked, with matches and targets that we do not speak."""
    live = data.draw(strategies.live_tables(table, family))
    for found in unmet(Ruleset(family, (live,))):
        assert live.chains()[found.chain][found.position - 1] == found.rule
        for before in found.by:
            assert before < found.position


FIELDS = tuple(strategies.FIELDS)


@settings(max_examples=share(60))
@given(intent=strategies.intents, other=strategies.intents, field=st.sampled_from(FIELDS))
def test_plans_of_the_same_outcomes_do_the_same(intent: Intent, other: Intent, field: str) -> None:
    """With one field changed: if the outcomes are the same, every packet has the same verdict, mark and zone."""
    changed = intent.but(**{field: getattr(other, field)})
    one, two = plan(intent), plan(changed)
    if not Outcomes(one).same_as(two):
        return
    assert (one.routing, one.passthrough_address) == (two.routing, two.passthrough_address)
    for mine, its in zip(one.rulesets, two.rulesets, strict=True):
        for name in ("raw", "mangle", "nat", "filter"):
            judge, other_judge = Judge(mine.table(name)), Judge(its.table(name))
            for hook in (PREROUTING, OUTPUT):
                for each in (judge, other_judge):
                    each.chains.setdefault(hook, ())
                for packet in packets_near(mine, its, hook=hook):
                    assert judge.outcome(hook, packet) == other_judge.outcome(hook, packet), packet


@settings(max_examples=share(100))
@given(intent=strategies.intents, other=strategies.intents, field=st.sampled_from(FIELDS))
def test_only_what_comes_to_a_difference_can_fare_differently(intent: Intent, other: Intent, field: str) -> None:
    """Plans are compared by the packets that come to where they differ: as if all had been sent through both."""
    one, two = plan(intent), plan(intent.but(**{field: getattr(other, field)}))
    for mine, its in zip(one.rulesets, two.rulesets, strict=False):
        for name in ("raw", "mangle", "nat", "filter"):
            tables = mine.table(name), its.table(name)
            if mine.family is its.family and all(sum(map(len, it.chains().values())) < FEW_RULES for it in tables):
                walks = [Walk(table, mine.family) for table in tables]
                assert Outcomes(one).same_table(mine, its, name) is same_walks(*walks)


@given(intent=strategies.intents)
def test_a_plan_has_the_outcomes_of_itself(intent: Intent) -> None:
    """Compared walk by walk, not by the rules being equal; a walk with too many boxes to be exact says so."""
    for planned in plan(intent).rulesets:
        for table in planned.tables:
            walk = Walk(table, planned.family)
            assert same_walks(walk, Walk(table, planned.family)) == walk.exact
    assert Outcomes(Plan(())).same_as(Plan(()))
    assert Outcome(None) == Outcome(None, ())


@settings(max_examples=share(20))
@given(intent=strategies.intents)
def test_whatever_is_found_can_be_said_and_is_so(intent: Intent) -> None:
    """A finding names settings that exist; without what has no effect, entries together, every outcome is the same."""
    given = {
        field: intent.but(**{field: getattr(Intent(), field)})
        for field in strategies.FIELDS
        if getattr(intent, field) != getattr(Intent(), field)
    }
    outcomes = Outcomes(plan(intent))
    told = findings(intent, given)
    for finding in told:
        assert finding.text.format_map(dict.fromkeys(Intent.__match_args__, "it"))
        assert set(finding.settings) <= set(Intent.__match_args__)
        if finding.code == "no-effect" and not finding.entries:
            assert outcomes.same_as(plan(given[finding.settings[0]]))
    for name in {finding.settings[0] for finding in told if finding.entries}:
        idle = [entry for it in told if it.settings[0] == name for entry in it.entries]
        kept = [shown(entry) for entry in getattr(intent, name)]
        for entry in idle:
            kept.remove(entry)
        left = {shown(entry): entry for entry in getattr(intent, name)}
        assert outcomes.same_as(plan(intent.but(**{name: tuple(left[entry] for entry in kept)})))


# --- words ----------------------------------------------------------------------------------------------------


@given(intent=strategies.intents)
def test_every_rule_and_every_summary_can_be_said(intent: Intent) -> None:
    """In words that no brace, class name or double space is left in."""
    said = [rule_words(rule) for planned in plan(intent).rulesets for _, _, rule in planned.rules()]
    said += [point.text for point in summary(intent)]
    for words in said:
        assert words
        assert not {"  ", "{", "(first=", "Ports("} & {
            part for part in ("  ", "{", "(first=", "Ports(") if part in words
        }


@given(rule=strategies.families.flatmap(strategies.foreign_rules))
def test_a_rule_of_others_can_be_said(rule: Rule) -> None:
    """What we do not speak is quoted."""
    assert rule_words(rule)


@settings(max_examples=share(400))
@given(pairs=st.lists(st.tuples(spans, spans, spans), max_size=12))
def test_fewer_boxes_hold_the_same_packets(pairs: list[tuple[tuple[int, ...], ...]]) -> None:
    """Those that are joined hold neither less nor more."""
    whole = everything(Family.V4)
    boxes = [(mine[0], whole[1], mine[1], whole[3], mine[2], *whole[5:]) for mine in pairs if all(mine)]
    joined = fewer(boxes)
    assert len(joined) <= len(boxes)
    assert remainder(boxes, joined, 10_000) == []
    assert remainder(joined, boxes, 10_000) == []
