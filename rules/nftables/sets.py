"""Sets and maps of nf_tables: what each of them holds."""

from __future__ import annotations

from rules.nftables.messages import Dump, attributes, number, text
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.nftables.messages import Order


INTERVAL, IS_MAP = 4, 8
"""NFT_SET_INTERVAL and NFT_SET_MAP."""
INTERVAL_END, CATCH_ALL = 1, 2


class Elements(Value):
    """What a set or map holds: each key as bytes, with the first one behind its interval, and what it maps to."""

    is_interval: bool
    elements: tuple[tuple[bytes, bytes | None, dict[int, bytes] | None], ...]


def elements_by_set(dump: Dump) -> dict[tuple[int, str, str], Elements]:
    flags: dict[tuple[int, str, str], int] = {}
    for message in dump.sets:
        read = dict(attributes(message[4:], dump.order))
        flags[number(message[:1]), text(read.get(1)), text(read.get(2))] = number(read.get(3))
    raw: dict[tuple[int, str, str], list[dict[int, bytes]]] = {place: [] for place in flags}
    for message in dump.elements:
        read = dict(attributes(message[4:], dump.order))
        place = (number(message[:1]), text(read.get(1)), text(read.get(2)))
        for _, element in attributes(read.get(3, b""), dump.order):
            raw.setdefault(place, []).append(dict(attributes(element, dump.order)))
    return {place: elements_of(those, flags.get(place, 0), dump.order) for place, those in raw.items()}


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
