"""Numbers told apart by single bits, held against all numbers there are of few bits."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from rules.netfilter.spans import joined
from rules.proof.bits import least, value_with, values

BYTE = st.integers(0, 255)
BITS = st.tuples(BYTE, BYTE).map(lambda both: (both[0], both[0] & both[1]))
SPANS = st.lists(st.tuples(BYTE, st.integers(1, 90)), min_size=1, max_size=4).map(
    lambda parts: joined(sorted((first, min(first + length, 256)) for first, length in parts))
)


def members(span: tuple[int, ...]) -> list[int]:
    return [number for at in range(0, len(span), 2) for number in range(span[at], span[at + 1])]


@given(first=BYTE, bits=BITS)
def test_the_least_number_with_these_bits_is_the_first_of_them(first: int, bits: tuple[int, int]) -> None:
    """Counted up from there, into a place behind the byte if need be."""
    mask, value = bits
    assert least(first, mask, value) == next(n for n in range(first, 1 << 17) if n & mask == value)


@given(span=SPANS, asked=st.lists(BITS, max_size=4, unique=True), usual=st.lists(BYTE, max_size=3))
def test_there_is_one_number_for_every_combination(
    span: tuple[int, ...], asked: list[tuple[int, int]], usual: list[int]
) -> None:
    """Of each kind that the span has any of; a usual one, where there is one of the kind in it."""
    every = defaultdict(set)
    for number in members(span):
        every[tuple(number & mask == value for mask, value in asked)].add(number)
    found = {tuple(number & mask == value for mask, value in asked): number for number in values(span, asked, usual)}
    assert found.keys() == every.keys()
    for kind, number in found.items():
        assert number in every[kind]
        assert number in usual or not every[kind] & set(usual)


@given(span=SPANS, asked=st.lists(st.tuples(BITS, st.booleans()), max_size=4))
def test_no_number_is_found_where_there_is_none(
    span: tuple[int, ...], asked: list[tuple[tuple[int, int], bool]]
) -> None:
    """Also where the same bits are asked to be so and not to be."""
    fitting = [n for n in members(span) if all((n & mask == value) is is_so for (mask, value), is_so in asked)]
    found = value_with(span, asked)
    assert found in fitting if fitting else found is None
