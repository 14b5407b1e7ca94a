"""Packets told apart by single bits of a field, as `-d 0.0.0.9/0.0.0.255` does: no box holds just what it asks for.

All packets of a box that have the same bits, of those that any rule asks for, meet the same rules: one of each such
kind stands for them all.
"""

from __future__ import annotations

from itertools import product

from rules.meaning.spoken import conditions, effect
from rules.netfilter import fields as f
from rules.netfilter.effects import Choice, Then

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from rules.analysis.boxes import Box
    from rules.netfilter.effects import Effect
    from rules.netfilter.fields import Condition
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.spans import Span

    Bits: TypeAlias = tuple[int, int]
    """A mask, and what the bits in it are to be."""
    Asked: TypeAlias = Mapping[int, Sequence[Bits]]
    """What rules ask for of each field."""

CHOSEN = (f.SOURCE, f.DESTINATION, f.SPORT, f.DPORT, f.UID, f.GID)
"""The fields of which whoever sends a packet chooses the bits."""
MOST_BITS = 6
"""Masks of all fields together of which every combination is looked at."""
MOST_VALUES = 64
"""Values of an interval that are tried, where some bits are not to be as asked."""


class Undecided(Exception):
    """It was not found out whether there is such a packet."""


def asked_for(rules: Iterable[Rule]) -> dict[int, tuple[Bits, ...]]:
    """The bits that these rules ask for, each once."""
    found: dict[int, dict[Bits, None]] = {}
    for rule in rules:
        asked = (each for match in rule.matches for each in conditions(match))
        for field, bits in (*in_conditions(asked), *in_effect(effect(rule.target))):
            if field in CHOSEN:
                found.setdefault(field, {})[bits] = None
    return {field: tuple(bits) for field, bits in found.items()}


def in_conditions(asked: Iterable[Condition]) -> Iterator[tuple[int, Bits]]:
    for each in asked:
        if isinstance(each, f.Masked):
            yield each.field, (each.mask, each.value)
        elif isinstance(each, f.AnyOf):
            for way in each.ways:
                yield from in_conditions(way)


def in_effect(does: Effect) -> Iterator[tuple[int, Bits]]:
    if isinstance(does, Choice):
        for asked, chosen in does.cases:
            yield from in_conditions(asked)
            yield from in_effect(chosen)
    elif isinstance(does, Then):
        yield from in_effect(does.first)
        yield from in_conditions(does.conditions)
        yield from in_effect(does.second)


def kinds(box: Box, asked: Asked, usual: Mapping[int, Sequence[int]]) -> Iterator[dict[int, int]]:
    """A value of each of these fields for every kind of packet in the box; a usual one, where there is one of the kind.

    Raises Undecided.
    """
    its = {field: bits for field, bits in asked.items() if box[field]}
    if sum(map(len, its.values())) > MOST_BITS:
        raise Undecided
    ways = [list(values(box[field], bits, usual.get(field, ()))) for field, bits in its.items()]
    for chosen in product(*ways):
        yield dict(zip(its, chosen, strict=True))


def values(span: Span, asked: Sequence[Bits], usual: Sequence[int] = ()) -> Iterator[int]:
    """A number of the span for each combination of these bits that any has. Raises Undecided."""
    for answers in product((False, True), repeat=len(asked)):
        found = value_with(span, list(zip(asked, answers, strict=True)), usual)
        if found is not None:
            yield found


def value_with(span: Span, asked: Sequence[tuple[Bits, bool]], usual: Sequence[int] = ()) -> int | None:
    """A number of the span that has these bits, or, where that is False, has others. Raises Undecided."""
    mask = value = 0
    for (its, wanted), is_so in asked:
        if is_so:
            if (value ^ wanted) & mask & its:
                return None
            mask, value = mask | its, value | wanted
    others = [bits for bits, is_so in asked if not is_so]
    if any(its & ~mask == 0 and value & its == wanted for its, wanted in others):
        return None

    def fits(number: int) -> bool:
        return number & mask == value and all(number & its != wanted for its, wanted in others)

    for number in usual:
        if fits(number) and any(span[at] <= number < span[at + 1] for at in range(0, len(span), 2)):
            return number
    is_sure = True
    for at in range(0, len(span), 2):
        number, end = least(span[at], mask, value), span[at + 1]
        for _ in range(MOST_VALUES):
            if number >= end:
                break
            if fits(number):
                return number
            number = least(number + 1, mask, value)
        else:
            is_sure = False
    if is_sure:
        return None
    raise Undecided


def least(first: int, mask: int, value: int) -> int:
    """The least number from this one on that has these bits; of any length."""
    number = first & ~mask | value
    if number == first:
        return number
    highest = (number ^ first).bit_length() - 1
    if number < first:
        # The next one above has a bit more, at the lowest free place over the one where this falls behind.
        highest += 1
        while mask >> highest & 1 or first >> highest & 1:
            highest += 1
        number = number >> highest << highest | 1 << highest
    below = (1 << highest) - 1
    return number & ~below | value & below
