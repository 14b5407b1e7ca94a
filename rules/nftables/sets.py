"""Sets and maps of nf_tables: what each of them holds."""

from __future__ import annotations

from rules.nftables.messages import Dump, attributes, number, text
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from rules.nftables.messages import Order

    Place: TypeAlias = tuple[int, str, str]
    """The number of a family, a table, and the name of a set in it."""


INTERVAL, IS_MAP = 4, 8
"""NFT_SET_INTERVAL and NFT_SET_MAP."""
INTERVAL_END, CATCH_ALL = 1, 2


class Elements(Value):
    """What a set or map holds: each key as bytes, with the first one behind its interval, and what it maps to."""

    is_interval: bool
    elements: tuple[tuple[bytes, bytes | None, dict[int, bytes] | None], ...]


class Sets:
    """The sets of one dump, each read when a rule first asks for it: one may have ten thousands of elements."""

    def __init__(self, dump: Dump) -> None:
        self.order: Order = dump.order
        self.flags: dict[Place, int] = {}
        self.raw: dict[Place, list[bytes]] = {}
        """The lists of elements, as the messages have them."""
        self.known: dict[Place, Elements] = {}
        for message in dump.sets:
            read = dict(attributes(message[4:], dump.order))
            self.flags[number(message[:1]), text(read.get(1)), text(read.get(2))] = number(read.get(3))
        for message in dump.elements:
            read = dict(attributes(message[4:], dump.order))
            place = (number(message[:1]), text(read.get(1)), text(read.get(2)))
            self.raw.setdefault(place, []).append(read.get(3, b""))

    def get(self, place: Place) -> Elements | None:
        """What this set holds, by number of its family, table and name; None if it is not there."""
        if place not in self.known and (place in self.flags or place in self.raw):
            self.known[place] = self.read(self.raw.get(place, []), self.flags.get(place, 0))
        return self.known.get(place)

    def read(self, lists: Sequence[bytes], flags: int) -> Elements:
        ends = None if flags & IS_MAP else plain_ends(lists, self.order)
        if ends is not None and flags & INTERVAL:
            return Elements(True, tuple(intervals(ends)))
        if ends is not None and all(begins for _, begins in ends):
            return Elements(False, tuple((key, None, None) for key, _ in ends))
        raw = [dict(attributes(each, self.order)) for some in lists for _, each in attributes(some, self.order)]
        return elements_of(raw, flags, self.order)


def plain_ends(lists: Sequence[bytes], order: Order) -> list[tuple[bytes, bool]] | None:
    """Each end of the intervals of a set, in order, and whether one begins there; None if there is more to it.

    A set without intervals is read in the same way: each of its elements begins, and none ends.

    Of an element nothing but its key, and a flag where an interval ends: so the kernel tells of each
    (`nf_tables_fill_setelem`), in so many bytes as the first. 50,000 networks are 100,000 of them.
    """
    first = lists[0] if lists else b""
    low, high = (0, 1) if order == "little" else (1, 0)
    if len(first) < HEADERS:
        return None
    size = (first[8 + low] | first[8 + high] << 8) - 4
    begins, more = end_heads(size, order, (first[2 + low] | first[2 + high] << 8) & NESTED)
    flagged = END_FLAG[order]
    ends: list[tuple[bytes, bool]] = []
    for some in lists:
        at, last = 0, len(some)
        while at < last:
            head = some[at : at + HEADERS]
            beyond = at + HEADERS + size
            if head == begins:
                ends.append((some[at + HEADERS : beyond], True))
                at = beyond
            elif head == more and some[beyond : beyond + 8] == flagged:
                ends.append((some[at + HEADERS : beyond], False))
                at = beyond + 8
            else:
                return None
    ends.sort()
    return ends


HEADERS = 12
"""Bytes before the key of an element: the headers of the element, of its key and of the key's value."""
END_FLAG: dict[Order, bytes] = {
    order: (8).to_bytes(2, order) + (3).to_bytes(2, order) + INTERVAL_END.to_bytes(4, "big")
    for order in ("little", "big")
}
"""The attribute NFTA_SET_ELEM_FLAGS with NFT_SET_ELEM_INTERVAL_END."""


NESTED = 0x8000
"""NLA_F_NESTED of linux/netlink.h, which the kernel sets or not, by its version."""


def end_heads(size: int, order: Order, nested: int) -> tuple[bytes, bytes]:
    """The headers of an element whose key has so many bytes: alone, and with flags behind it."""

    def header(length: int, kind: int) -> bytes:
        return length.to_bytes(2, order) + kind.to_bytes(2, order)

    inner = header(size + 8, nested | 1) + header(size + 4, 1)
    return header(size + HEADERS, nested | 1) + inner, header(size + HEADERS + 8, nested | 1) + inner


def intervals(ends: Sequence[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bytes | None, None]]:
    """The intervals between ends in order. Where one ends and the next begins, the end comes first."""
    for at, (key, begins) in enumerate(ends):
        if begins:
            yield key, ends[at + 1][0] if at + 1 < len(ends) else None, None


def elements_of(raw: Sequence[dict[int, bytes]], flags: int, order: Order) -> Elements:
    def value(part: bytes | None) -> bytes:
        return dict(attributes(part or b"", order)).get(1, b"")

    found: list[tuple[bytes, bytes | None, dict[int, bytes] | None]] = []
    if not flags & INTERVAL or any(10 in each for each in raw):
        for each in raw:
            data = dict(attributes(each[2], order)) if 2 in each else None
            if number(each.get(3)) & CATCH_ALL:
                found.append((b"", b"", data))
            else:
                last = value(each.get(10)) if 10 in each else None
                found.append((value(each.get(1)), last, data))
        return Elements(bool(flags & INTERVAL), tuple(found))
    ends = sorted(
        ((value(each.get(1)), number(each.get(3)) & INTERVAL_END, each) for each in raw if 1 in each),
        key=lambda end: (end[0], not end[1]),
    )
    for at, (key, is_end, each) in enumerate(ends):
        if not is_end:
            beyond = ends[at + 1][0] if at + 1 < len(ends) else None
            found.append((key, beyond, dict(attributes(each[2], order)) if 2 in each else None))
    catch_all = [each for each in raw if number(each.get(3)) & CATCH_ALL]
    found += [(b"", b"", dict(attributes(each[2], order)) if 2 in each else None) for each in catch_all]
    return Elements(True, tuple(found))
