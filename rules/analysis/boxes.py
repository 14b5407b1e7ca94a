"""Sets of packets, exactly: what a rule asks for, what is left when rules before it took theirs.

A packet is a point in a dozen dimensions (protocol, addresses, ports, owner, interfaces …), a match cuts one of them,
so a rule asks for a box, and what some rules leave is a handful of boxes. In one dimension a set is a span: the
ascending ends of half-open intervals, `(22, 23, 80, 81)` for the ports 22 and 80. An interface name is a point between
strings, which makes `eth+` an interval like any other.
"""

from __future__ import annotations

from rules.netfilter.matches import (
    ConnMark,
    CtState,
    DPort,
    DPorts,
    Dst,
    Foreign,
    InIface,
    Limit,
    Mark,
    Not,
    OutIface,
    OwnerGid,
    OwnerUid,
    OwnerUids,
    Proto,
    SPort,
    Src,
)
from rules.netfilter.values import OUTPUT, PREROUTING, Family
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TypeAlias

    from rules.netfilter.matches import Match, Plain
    from rules.netfilter.values import Network, Ports

    Span: TypeAlias = tuple[Any, ...]
    """Ascending ends of half-open intervals, of numbers or of strings."""
    Box: TypeAlias = tuple[Span, ...]
    """A span for each dimension."""

PROTOCOL, SOURCE, DESTINATION, SPORT, DPORT, UID, GID, ARRIVED_ON, LEAVES_ON, STATE, MARK, CONNMARK = range(12)

LAST = "\U0010ffff"
"""Behind every name."""
STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
"""Those of which a packet has exactly one (iptables-extensions(8), conntrack). SNAT and DNAT come beside them."""
NAMES: Span = ("", LAST)
SOMEWHERE: Span = ("\0", LAST)
"""Every interface."""
NOWHERE: Span = ("", "\0")
"""The interface of a packet where it has none yet, or none any more."""
U32: Span = (0, 2**32)
PORTS: Span = (0, 2**16)
OWNERS: Span = (-1, 2**32)
"""-1 stands for a packet that has no socket on this host, and so no owner: `! --uid-owner` holds for it."""
NOBODY: Span = (-1, 0)
ADDRESSES: dict[Family, Span] = {Family.V4: (0, 2**32), Family.V6: (0, 2**128)}


def everything(family: Family, hook: str = "") -> Box:
    """All packets of a family that this built-in chain can see; without a name, all there are."""
    arrives = hook in (PREROUTING, "INPUT")
    owners = NOBODY if arrives else OWNERS
    came = NOWHERE if hook == OUTPUT else SOMEWHERE if arrives else NAMES
    leaves = NOWHERE if arrives else SOMEWHERE if hook in (OUTPUT, "POSTROUTING") else NAMES
    anywhere = ADDRESSES[family]
    states = (0, len(STATES))
    return NAMES, anywhere, anywhere, PORTS, PORTS, owners, owners, came, leaves, states, U32, U32


def asked(matches: Iterable[Match], family: Family) -> tuple[Box | None, tuple[Match, ...]]:
    """The box that these matches cut out together (None if nothing can be in it), and those that no box can tell."""
    box: Box | None = everything(family)
    untold: list[Match] = []
    for match in matches:
        cut = dimension(match, family)
        if cut is None:
            untold.append(match)
        elif box is not None:
            at, span = cut
            kept = common(box[at], span)
            box = (*box[:at], kept, *box[at + 1 :]) if kept else None
    return box, tuple(untold)


def dimension(match: Match, family: Family) -> tuple[int, Span] | None:
    """The dimension that a match cuts, and what it keeps; None for one that depends on more than the packet."""
    match match:
        case Foreign():
            return None
        case Not(inner):
            cut = plain(inner)
            return cut and (cut[0], less(everything(family)[cut[0]], cut[1]))
        case _:
            return plain(match)


def plain(match: Plain) -> tuple[int, Span] | None:
    """The same for a match as it stands."""
    match match:
        case Proto(name):
            # A protocol by its number may be one that another rule calls by its name.
            return None if name.isdigit() else (PROTOCOL, named(name))
        case Src(network):
            return SOURCE, addresses(network)
        case Dst(network):
            return DESTINATION, addresses(network)
        case InIface(name):
            return ARRIVED_ON, interfaces(name)
        case OutIface(name):
            return LEAVES_ON, interfaces(name)
        case DPort(ports):
            return DPORT, union([ports])
        case SPort(ports):
            return SPORT, union([ports])
        case DPorts(ranges):
            return DPORT, union(ranges)
        case OwnerUid(uid):
            return UID, (uid, uid + 1)
        case OwnerUids(first, last):
            return UID, (first, last + 1)
        case OwnerGid(gid):
            return GID, (gid, gid + 1)
        case CtState(states):
            if not states.issubset(STATES):
                return None
            return STATE, joined((at, at + 1) for at, state in enumerate(STATES) if state in states)
        case Mark(value):
            return MARK, (value, value + 1)
        case ConnMark(value):
            return CONNMARK, (value, value + 1)
        case Limit():
            return None
        case _:
            assert_never(match)


def named(name: str) -> Span:
    """This name alone."""
    return name, f"{name}\0"


def interfaces(name: str) -> Span:
    """This interface, or all whose names begin so."""
    return (name[:-1], name[:-1] + LAST) if name.endswith("+") else named(name)


def addresses(network: Network) -> Span:
    first = int(network.network_address)
    return first, first + network.num_addresses


def union(ranges: Iterable[Ports]) -> Span:
    return joined(sorted((ports.first, ports.last + 1) for ports in ranges))


def joined(intervals: Iterable[tuple[Any, Any]]) -> Span:
    """A span of intervals in ascending order, which may touch or overlap."""
    ends: list[Any] = []
    for first, end in intervals:
        if ends and first <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            ends += (first, end)
    return tuple(ends)


# --- in one dimension -------------------------------------------------------------------------------------


def common(one: Span, other: Span) -> Span:
    """What is in both."""
    if len(one) < len(other):
        one, other = other, one
    if len(other) <= FEW:
        return tuple(end for at in range(0, len(other), 2) for end in within(one, other[at], other[at + 1]))
    return swept(one, other, both=True)


def less(one: Span, other: Span) -> Span:
    """What is in the first and not in the second."""
    if len(other) > FEW:
        return swept(one, other, both=False)
    for at in range(0, len(other), 2):
        one = beside(one, other[at], other[at + 1])
    return one


FEW = 8
"""Ends of a span of which each is looked up in the other; of more, both are walked through once."""


def within(span: Span, first: Any, end: Any) -> Span:
    """The part of a span between two ends."""
    low, high = count(span, first, inclusive=True), count(span, end, inclusive=False)
    return (*((first,) if low % 2 else ()), *span[low:high], *((end,) if high % 2 else ()))


def beside(span: Span, first: Any, end: Any) -> Span:
    """The part of a span that is not between two ends."""
    low, high = count(span, first, inclusive=False), count(span, end, inclusive=True)
    return (*span[:low], *((first,) if low % 2 else ()), *((end,) if high % 2 else ()), *span[high:])


def count(span: Span, value: Any, *, inclusive: bool) -> int:
    """How many ends are below a value, or not above it. An odd number means that the value is inside."""
    low, high = 0, len(span)
    while low < high:
        middle = (low + high) // 2
        if span[middle] < value or (inclusive and span[middle] == value):
            low = middle + 1
        else:
            high = middle
    return low


def swept(one: Span, other: Span, *, both: bool) -> Span:
    """Walks through the ends of two spans at once, for what is in both, or in the first alone."""
    ends: list[Any] = []
    at = beyond = 0
    inside = False
    while at < len(one) or beyond < len(other):
        value = min((*one[at : at + 1], *other[beyond : beyond + 1]))
        at += at < len(one) and one[at] == value
        beyond += beyond < len(other) and other[beyond] == value
        now = bool(at % 2) and bool(beyond % 2) is both
        if now is not inside:
            ends.append(value)
            inside = now
    return tuple(ends)


# --- in all dimensions ------------------------------------------------------------------------------------


def overlap(one: Box, other: Box) -> Box | None:
    """The packets in both boxes; None if there are none."""
    spans = []
    for mine, its in zip(one, other, strict=True):
        span = mine if mine == its else common(mine, its)
        if not span:
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
    for its in taken:
        left = [piece for box in left for piece in (outside(box, its) if overlap(box, its) is not None else [box])]
        if len(left) > most:
            return None
    return left
