"""Sets of packets, exactly: what a rule asks for, what is left when rules before it took theirs.

A packet is a point in a dozen dimensions (protocol, addresses, ports, owner, interfaces …), a match cuts one of them,
so a rule asks for a box, and what some rules leave is a handful of boxes. In one dimension a set is a span: the
ascending ends of half-open intervals, `(22, 23, 80, 81)` for the ports 22 and 80. An interface name is a point between
strings, which makes `eth+` an interval like any other.
"""

from __future__ import annotations

from rules.meaning.spoken import conditions
from rules.netfilter import fields as f
from rules.netfilter.spans import common, less, meet, of_any
from rules.netfilter.values import OUTPUT, PREROUTING, Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from rules.netfilter.matches import Match
    from rules.netfilter.spans import Span

    Box: TypeAlias = tuple[Span, ...]
    """A span for each field."""


FEW = 16
"""So many boxes are carried along without an attempt to join them."""
JOINED = (
    f.DESTINATION,
    f.DPORT,
    f.SOURCE,
    f.UID,
    f.GID,
    f.PROTOCOL,
    f.LEAVES_ON,
    f.ARRIVED_ON,
    f.SPORT,
    f.STATE,
    f.MARK,
    f.CONNMARK,
)
"""The fields by which boxes are joined, in this order: first those of which rules name many values."""


def everything(family: Family, hook: str = "") -> Box:
    """All packets of a family that this built-in chain can see; without a name, all there are."""
    arrives = hook in (PREROUTING, "INPUT")
    owners = f.NOBODY if arrives else f.OWNERS
    came = f.NOWHERE if hook == OUTPUT else f.SOMEWHERE if arrives else f.NAMES
    leaves = f.NOWHERE if arrives else f.SOMEWHERE if hook in (OUTPUT, "POSTROUTING") else f.NAMES
    anywhere = f.ADDRESSES[family]
    states, byte = (0, len(f.STATES)), (0, 256)
    ends = (f.UNTOUCHED, f.BOTH + 1)
    return byte, anywhere, anywhere, f.PORTS, f.PORTS, owners, owners, came, leaves, states, f.U32, f.U32, byte, ends


def box_of(matches: Iterable[Match], family: Family) -> tuple[Box | None, tuple[Match, ...]]:
    """The box that these matches cut out together (None if nothing can be in it), and those that no box can tell."""
    box: Box | None = everything(family)
    untold: list[Match] = []
    for match in matches:
        cuts = [f.cut(condition) for condition in conditions(match)]
        if None in cuts:
            untold.append(match)
        for told in cuts:
            if told is not None and box is not None:
                kept = common(box[told.field], told.span)
                box = (*box[: told.field], kept, *box[told.field + 1 :]) if kept else None
    return box, tuple(untold)


# --- in all dimensions ------------------------------------------------------------------------------------


def overlap(one: Box, other: Box) -> Box | None:
    """The packets in both boxes; None if there are none. What neither has, a port say, keeps them apart no more."""
    if not meet(one[f.DESTINATION], other[f.DESTINATION]):
        return None  # what most often tells two of very many rules apart
    spans = []
    for mine, its in zip(one, other):  # noqa: B905 # as many; saying `strict` costs time
        span = mine if mine == its else common(mine, its)
        if not span and mine != its:
            return None
        spans.append(span)
    return tuple(spans)


def outside(box: Box, taken: Box) -> Iterator[Box]:
    """The packets of a box that are not in another one that overlaps it, as boxes that do not overlap."""
    for at, span in enumerate(taken):
        rest = less(box[at], span)
        if rest:
            yield (*box[:at], rest, *box[at + 1 :])
            box = (*box[:at], common(box[at], span), *box[at + 1 :])


def remainder(boxes: Iterable[Box], taken: Iterable[Box], most: int) -> list[Box] | None:
    """What is left of some boxes without others; None if that would take more boxes than `most`."""
    left = list(boxes)
    few = len(left)
    for its in taken:
        left = [piece for box in left for piece in (outside(box, its) if overlap(box, its) is not None else [box])]
        if len(left) > 2 * few + FEW:
            left = fewer(left)
            few = len(left)
        if len(left) > most:
            return None
    return left


def fewer(boxes: Iterable[Box]) -> list[Box]:
    """The same packets in fewer boxes: those that differ in one field only become one."""
    numbers: dict[Span, int] = {}
    """Spans can be long, and boxes are compared for every field: each is known by a number."""

    def number(span: Span) -> int:
        return numbers.setdefault(span, len(numbers))

    left = list(dict.fromkeys(tuple(map(number, box)) for box in boxes))
    for field in JOINED:
        alike: dict[tuple[int, ...], list[int]] = {}
        for box in left:
            alike.setdefault((*box[:field], *box[field + 1 :]), []).append(box[field])
        if len(alike) < len(left):
            spans = list(numbers)
            joined = (number(of_any([spans[at] for at in its])) for its in alike.values())
            left = [(*rest[:field], its, *rest[field:]) for rest, its in zip(alike, joined, strict=True)]
    spans = list(numbers)
    return [tuple(spans[at] for at in box) for box in left]
