"""Sets in one dimension: spans, the ascending ends of half-open intervals.

`(22, 23, 80, 81)` are the ports 22 and 80. An interface name is a point between strings, which makes `eth+` an interval
like any other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeAlias

    Span: TypeAlias = tuple[Any, ...]
    """Ascending ends of half-open intervals, of numbers or of strings."""

FEW = 8
"""Ends of a span of which each is looked up in the other; of more, both are walked through once."""

LONG = 1000
"""Ends of two spans together, from which on it is remembered what came of them."""
MOST_REMEMBERED = 16


def one(value: Any) -> Span:
    """This number or name alone."""
    return (value, f"{value}\0") if isinstance(value, str) else (value, value + 1)


def single(span: Span) -> bool:
    """Whether it is one number."""
    return len(span) == 2 and not isinstance(span[0], str) and bool(span[1] - span[0] == 1)


def joined(intervals: Iterable[tuple[Any, Any]]) -> Span:
    """A span of intervals in ascending order, which may touch or overlap."""
    ends: list[Any] = []
    for first, end in intervals:
        if ends and first <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            ends += (first, end)
    return tuple(ends)


def common(mine: Span, other: Span) -> Span:
    """What is in both."""
    if len(mine) < len(other):
        mine, other = other, mine
    if len(other) == 2:
        return within(mine, *other)
    if len(other) <= FEW:
        return tuple(end for at in range(0, len(other), 2) for end in within(mine, other[at], other[at + 1]))
    return remembered(in_both, mine, other)


def meet(mine: Span, other: Span) -> bool:
    """Whether anything is in both."""
    if len(mine) < len(other):
        mine, other = other, mine
    for at in range(0, len(other), 2):
        low = bisect_right(mine, other[at])
        if low % 2 or (low < len(mine) and mine[low] < other[at + 1]):
            return True
    return False


def less(mine: Span, other: Span) -> Span:
    """What is in the first and not in the second."""
    if len(other) > FEW:
        return remembered(in_the_first, mine, other)
    for at in range(0, len(other), 2):
        mine = beside(mine, other[at], other[at + 1])
    return mine


def united(mine: Span, other: Span) -> Span:
    """What is in either."""
    return of_any((mine, other))


def of_any(spans: Sequence[Span]) -> Span:
    """What is in any of these."""
    if len(spans) == 1:
        return spans[0]
    return joined(sorted((span[at], span[at + 1]) for span in spans for at in range(0, len(span), 2)))


def within(span: Span, first: Any, end: Any) -> Span:
    """The part of a span between two ends."""
    low, high = bisect_right(span, first), bisect_left(span, end)
    return (*((first,) if low % 2 else ()), *span[low:high], *((end,) if high % 2 else ()))


def beside(span: Span, first: Any, end: Any) -> Span:
    """The part of a span that is not between two ends."""
    low, high = bisect_left(span, first), bisect_right(span, end)
    return (*span[:low], *((first,) if low % 2 else ()), *((end,) if high % 2 else ()), *span[high:])


def remembered(act: Callable[[Span, Span], Span], mine: Span, other: Span) -> Span:
    """The same of two very long spans, of which the same few are mostly asked for again and again."""
    if len(mine) + len(other) < LONG:
        return act(mine, other)
    key = act, mine, other
    found = _remembered.get(key)
    if found is None:
        found = _remembered[key] = act(mine, other)
        if len(_remembered) > MOST_REMEMBERED:
            del _remembered[next(iter(_remembered))]
    return found


_remembered: dict[tuple[object, Span, Span], Span] = {}


def in_both(mine: Span, other: Span) -> Span:
    """What is in both of two long spans, by walking through them at once."""
    ends: list[Any] = []
    at = beside = 0
    while at < len(mine) and beside < len(other):
        first, end = max(mine[at], other[beside]), min(mine[at + 1], other[beside + 1])
        if first < end:
            ends += (first, end)
        if mine[at + 1] < other[beside + 1]:
            at += 2
        else:
            beside += 2
    return tuple(ends)


def in_the_first(mine: Span, other: Span) -> Span:
    """What is in the first of two long spans alone, in one walk over both."""
    ends: list[Any] = []
    beside = 0
    for at in range(0, len(mine), 2):
        first, end = mine[at], mine[at + 1]
        while beside < len(other) and other[beside] < end:
            if first < other[beside]:
                ends += (first, other[beside])
            first = max(first, other[beside + 1])
            if first >= end:
                break
            beside += 2
        if first < end:
            ends += (first, end)
    return tuple(ends)


def points(span: Span, most: int) -> Iterator[int] | None:
    """The numbers of a span, if they are not more than so many."""
    if not span or isinstance(span[0], str) or sum(span[1::2]) - sum(span[::2]) > most:
        return None if span else iter(())
    return (value for at in range(0, len(span), 2) for value in range(span[at], span[at + 1]))
