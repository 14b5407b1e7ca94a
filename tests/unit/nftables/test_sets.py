"""Sets of intervals with ten thousands of elements are read by their shape, all others attribute by attribute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.nftables.messages import attributes
from rules.nftables.sets import INTERVAL, INTERVAL_END, NESTED, elements_of, intervals, plain_ends

if TYPE_CHECKING:
    from rules.nftables.messages import Order

ORDERS: tuple[Order, ...] = ("little", "big")
keys = st.sampled_from((2, 4, 16)).flatmap(
    lambda size: st.lists(
        st.tuples(st.integers(0, 300).map(lambda number: number.to_bytes(size, "big")), st.booleans()), max_size=20
    )
)


def attribute(kind: int, value: bytes, order: Order) -> bytes:
    header = (4 + len(value)).to_bytes(2, order) + kind.to_bytes(2, order)
    return header + value + bytes(-len(value) % 4)


def element(key: bytes, order: Order, *, is_end: bool = False, more: bytes = b"", nested: int = 0) -> bytes:
    flags = attribute(3, INTERVAL_END.to_bytes(4, "big"), order) if is_end else b""
    return attribute(nested | 1, attribute(nested | 1, attribute(1, key, order), order) + flags + more, order)


@pytest.mark.parametrize("order", ORDERS)
@given(ends=keys, nested=st.sampled_from((0, NESTED)))
def test_what_is_read_by_its_shape_is_what_its_attributes_say(
    order: Order, ends: list[tuple[bytes, bool]], nested: int
) -> None:
    """Whatever the size of the key, and in whatever order the kernel tells of them, in one message or two."""
    all_of_them = [element(key, order, is_end=is_end, nested=nested) for key, is_end in ends]
    lists = [b"".join(all_of_them[:7]), b"".join(all_of_them[7:])]
    by_attribute = elements_of(
        [dict(attributes(each, order)) for some in lists for _, each in attributes(some, order)], INTERVAL, order
    )
    found = plain_ends(lists, order)
    if found is None:
        assert not ends or len(ends[0][0]) == 2, "a key of two bytes has filling behind it"
    else:
        assert tuple(intervals(found)) == by_attribute.elements


@pytest.mark.parametrize("order", ORDERS)
def test_what_has_another_shape_is_left_to_its_attributes(order: Order) -> None:
    """An element with a comment, one that maps to something, one cut off, and one of everything."""
    plain = element(b"\1\2\3\4", order)
    assert plain_ends([plain], order) == [(b"\1\2\3\4", True)]
    for other in (
        element(b"\1\2\3\4", order, more=attribute(6, b"said", order)),
        element(b"\1\2\3\4", order, is_end=True, more=attribute(6, b"said", order)),
        element(b"\1\2\3\4\5\6\7\x08", order),
        attribute(1, attribute(3, (2).to_bytes(4, "big"), order), order),
        plain[:10],
    ):
        assert plain_ends([plain + other], order) is None
    assert plain_ends([], order) is None
