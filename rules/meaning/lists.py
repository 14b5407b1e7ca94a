"""Lists as rules: what does the same, for the same reason, to many values of one field is asked as one rule.

iptables has a rule for each excluded network, or for fifteen ports. Whoever asks what becomes of packets need not take
one after the other: together they are one rule with a set, and which of them a packet meets makes no difference to it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import accumulate

from rules.lists.long import Made, Read, parts_of
from rules.lists.networks import Networks, ends
from rules.meaning.spoken import conditions, effect
from rules.netfilter.effects import Bind, BindSource, Hand
from rules.netfilter.fields import DESTINATION, DPORT, GID, SOURCE, SPORT, UID, Among, AnyOf, OfType, Untold
from rules.netfilter.matches import Native
from rules.netfilter.spans import common, meet, of_any
from rules.netfilter.targets import Accept, Drop, Jump, Reject, Return
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, TypeAlias

    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.spans import Span

    Rest: TypeAlias = tuple[Match, ...]
    """What the rules of a list ask besides."""

LISTED = (DESTINATION, DPORT, SOURCE, SPORT, UID, GID)
"""The fields of which rules name many values."""
LONG = 24
"""Rules that are no list yet: each is asked by itself."""
MOST_KINDS = 4
"""Lists that may alternate, as one rule for TCP and one for UDP do."""


class List(Value):
    """Rules of a chain that are asked as one; most often it is one rule, as it stands."""

    rule: Rule
    """What they come to together."""
    places: tuple[int, ...]
    """Where each stands in its chain, counted from 0."""
    field: int = 0
    spans: tuple[Span, ...] = ()
    """What each of them asks of this field; empty if it is one rule."""


def lists(rules: Sequence[Rule]) -> Iterator[List]:
    """These rules of a chain, lists as one rule each, in an order in which every packet fares the same."""
    before = 0
    for part in rules.parts() if isinstance(rules, Read) else parts_of(rules):
        of_part = of_networks(part, before)
        yield from (of_part,) if of_part else of_some(part, before)
        before += len(part)


def of_networks(rules: Sequence[Rule], before: int) -> List | None:
    """Rules that were made of a long list of networks, so that none of them has to be; None if they are no list."""
    if not (isinstance(rules, Made) and isinstance(rules.items, Networks) and len(rules) > LONG):
        return None
    first, spans = next(rules.anew()), tuple(map(ends, rules.items.codes))
    for field in (DESTINATION, SOURCE) if is_final(first) else ():
        told = apart(first, field)
        if told and told[0] == spans[0]:
            asked = Native((Among(field, of_any(spans)),), "")
            places = tuple(range(before, before + len(rules)))
            return List(first.but(matches=(*told[1], asked)), places, field, spans)
    return None


def of_some(rules: Sequence[Rule], before: int) -> Iterator[List]:
    """The same for rules that are there, behind so many of their chain."""
    start = 0
    while start < len(rules):
        end, found = start + 1, None
        if len(rules) - start > LONG:
            for field in LISTED:
                after, tried = run(rules, start, field)
                if after > end:
                    end, found = after, (field, tried)
        if found is None or end - start <= LONG:
            yield from (List(rules[at], (before + at,)) for at in range(start, end))
        else:
            field, kinds = found
            for rest, members in kinds.items():
                spans = tuple(span for _, span in members)
                asked = Native((Among(field, of_any(spans)),), "")
                rule = rules[members[0][0]].but(matches=(*rest, asked))
                yield List(rule, tuple(before + at for at, _ in members), field, spans)
        start = end


def run(rules: Sequence[Rule], start: int, field: int) -> tuple[int, Mapping[Rest, Sequence[tuple[int, Span]]]]:
    """How far the rules from this one on are a list of this field, and its members by what they ask besides."""
    kinds: dict[Rest, list[tuple[int, Span]]] = {}
    first = rules[start]
    target = first.target
    alike = first.why, first.setting
    is_jump = isinstance(target, Jump)
    if not (is_jump or is_final(first)):
        return start, kinds
    at = start
    while at < len(rules):
        rule = rules[at]
        is_alike = (rule.target is target or rule.target == target) and (rule.why, rule.setting) == alike
        told = apart(rule, field) if is_alike else None
        if told is None:
            break
        span, rest = told
        if rest not in kinds and not (len(kinds) < (1 if is_jump else MOST_KINDS) and apart_from(rest, kinds)):
            break
        kinds.setdefault(rest, []).append((at, span))
        at += 1
    if is_jump and not all(map(is_disjoint, ([span for _, span in members] for members in kinds.values()))):
        return start, {}  # what comes back from one of them meets another
    return at, kinds


def is_final(rule: Rule) -> bool:
    """Whether what meets a rule with this target meets no other of the same, and nothing depends on which it was."""
    does = effect(rule.target)
    return isinstance(does, Return | Accept | Drop | Reject | Bind | BindSource) or (
        isinstance(does, Hand) and does.accepts
    )


def apart(rule: Rule, field: int) -> tuple[Span, Rest] | None:
    """What a rule asks of this field, and the rest; None if it is no member of any list."""
    span: Span | None = None
    rest: list[Match] = []
    for match in rule.matches:
        its = conditions(match)
        if span is None and len(its) == 1 and isinstance(its[0], Among) and its[0].field == field:
            span = its[0].span
        elif any(isinstance(each, Untold | AnyOf | OfType) for each in its):
            return None
        else:
            rest.append(match)
    return None if span is None else (span, tuple(rest))


def apart_from(rest: Rest, others: Mapping[Rest, object]) -> bool:
    """Whether no packet meets both this and one of the others, so that it does not matter which is asked first."""
    return all(any(excludes(match, other) for match in rest for other in its) for its in others)


def excludes(one: Match, other: Match) -> bool:
    mine, its = conditions(one), conditions(other)
    if len(mine) != 1 or len(its) != 1:
        return False
    (here,), (there,) = mine, its
    return (
        isinstance(here, Among)
        and isinstance(there, Among)
        and here.field == there.field
        and not common(here.span, there.span)
    )


def is_disjoint(spans: Sequence[Span]) -> bool:
    """Whether no value is in two of these."""
    parts = sorted((span[at], span[at + 1]) for span in spans for at in range(0, len(span), 2))
    return all(parts[at][1] <= parts[at + 1][0] for at in range(len(parts) - 1))


def those_met(spans: Sequence[Span], coming: Span) -> set[int]:
    """Which of these, asked in this order, get any of what comes."""
    starts = sorted(
        (span[at], place, span[at + 1]) for place, span in enumerate(spans) for at in range(0, len(span), 2)
    )
    bounds = sorted({*(first for first, _, _ in starts), *(end for _, _, end in starts)})
    found: set[int] = set()
    waiting: list[tuple[int, Any]] = []
    following = 0
    for at, first in enumerate(bounds[:-1]):
        while following < len(starts) and starts[following][0] == first:
            _, place, end = starts[following]
            insort(waiting, (place, end))
            following += 1
        while waiting and waiting[0][1] <= first:
            del waiting[0]
        if waiting and waiting[0][0] not in found and meet(coming, (first, bounds[at + 1])):
            found.add(waiting[0][0])
    return found


class Members:
    """The members of a list, to be asked which of them have any of some values."""

    def __init__(self, spans: Sequence[Span]) -> None:
        parts = ((span[at], span[at + 1], place) for place, span in enumerate(spans) for at in range(0, len(span), 2))
        self.parts = sorted(parts)
        self.firsts = [first for first, _, _ in self.parts]
        self.ends = list(accumulate((end for _, end, _ in self.parts), max))
        """The furthest end of all till this one."""

    def of(self, some: Span) -> list[int]:
        """Their places."""
        found: set[int] = set()
        for at in range(0, len(some), 2):
            low, high = bisect_right(self.ends, some[at]), bisect_left(self.firsts, some[at + 1])
            found.update(place for _, end, place in self.parts[low:high] if end > some[at])
        return sorted(found)
