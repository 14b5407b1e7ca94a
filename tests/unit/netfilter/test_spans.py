"""Spans against the numbers that are in them, one by one: sets of Python are the judge."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from rules.netfilter.spans import FEW, LONG, common, joined, less, meet, of_any, points, united

if TYPE_CHECKING:
    from rules.netfilter.spans import Span

LENGTHS = (0, 1, 2, FEW // 2, FEW // 2 + 1, FEW * 2, LONG // 4 + 1)
"""Intervals of a span: either side of each number of them at which another way is taken."""
DRAWS = 12


def drawn(chance: Random, intervals: int, widest: int) -> Span:
    """Some that nearly touch, some far apart, begun anywhere."""
    ends = [chance.randrange(widest)]
    while len(ends) < 2 * intervals:
        ends.append(ends[-1] + chance.randint(1, widest))
    return tuple(ends) if intervals else ()


def numbers(span: Span) -> set[int]:
    return {value for at in range(0, len(span), 2) for value in range(span[at], span[at + 1])}


def is_span(span: Span) -> bool:
    """Whether no interval is empty, and none touches the next."""
    return len(span) % 2 == 0 and list(span) == sorted(set(span))


@pytest.mark.parametrize("ours", LENGTHS)
@pytest.mark.parametrize("theirs", LENGTHS)
def test_two_spans_are_joined_cut_and_compared_as_their_numbers_are(ours: int, theirs: int) -> None:
    """Of every length, where they cross, touch, hold one another and lie apart."""
    chance = Random(f"{ours} {theirs}")
    for draw in range(DRAWS):
        mine, other = (drawn(chance, length, 2 + draw % 5) for length in (ours, theirs))
        one, two = numbers(mine), numbers(other)
        results = {"common": common(mine, other), "less": less(mine, other), "united": united(mine, other)}
        assert {name: numbers(span) for name, span in results.items()} == {
            "common": one & two,
            "less": one - two,
            "united": one | two,
        }
        assert all(map(is_span, results.values()))
        assert meet(mine, other) is bool(one & two)
        assert of_any((mine, other, mine)) == results["united"]


def test_what_is_remembered_of_long_spans_is_of_both() -> None:
    """What came of one pair is not taken for what comes of another that shares a span with it, nor for another act."""
    chance = Random(1)
    spans = [drawn(chance, LONG // 2, 5) for _ in range(3)]
    for _ in range(2):
        for mine in spans:
            for other in spans:
                assert numbers(common(mine, other)) == numbers(mine) & numbers(other)
                assert numbers(less(mine, other)) == numbers(mine) - numbers(other)


def test_intervals_that_touch_or_overlap_are_one() -> None:
    """In ascending order, whether the longer of two comes first or last."""
    assert joined([(1, 3), (3, 4), (6, 9), (7, 8), (20, 21)]) == (1, 4, 6, 9, 20, 21)


@pytest.mark.parametrize(("most", "listed"), [(3, None), (4, [1, 2, 3, 9]), (5, [1, 2, 3, 9])])
def test_the_numbers_of_a_span_are_told_where_they_are_few(most: int, listed: list[int] | None) -> None:
    """And an empty span has none, however few are wanted; names are not numbers."""
    found = points((1, 4, 9, 10), most)
    assert (found if found is None else list(found)) == listed
    assert list(points((), 0) or ()) == []
    assert points(("eth0", "eth0\0"), 9) is None
