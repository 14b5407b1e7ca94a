"""Our addresses and networks are the library's: `ipaddress` is the judge."""

from __future__ import annotations

import ipaddress
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules import addresses as ours

v4, v6 = st.ip_addresses(v=4).map(int), st.ip_addresses(v=6).map(int)
sparse = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0xFE80, 0xA00]), min_size=8, max_size=8).map(
    lambda groups: sum(group << 16 * at for at, group in enumerate(groups))
)
"""With runs of zeros, as which texts leave them out."""
mapped = v4.map(lambda number: 0xFFFF << 32 | number)
numbers = st.one_of(st.tuples(st.just(4), v4), *(st.tuples(st.just(6), some) for some in (v6, sparse, mapped)))
texts = st.one_of(
    st.text("0123456789abcdefF.:/%x -٣", max_size=24),
    st.lists(st.sampled_from(["", "0", "1", "00", "255", "256", "ffff", "fffff", "1.2.3.4"]), max_size=9).map(":".join),
    st.lists(st.sampled_from(["", "0", "1", "01", "255", "256", "1000", "٣"]), max_size=5).map(".".join),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda it: it.exploded.upper()),
    v4.map(lambda number: f"::ffff:{ipaddress.IPv4Address(number)}"),
)
BOTH: dict[int, tuple[Any, Any, Any, Any]] = {
    4: (ours.IPv4Address, ipaddress.IPv4Address, ours.IPv4Network, ipaddress.IPv4Network),
    6: (ours.IPv6Address, ipaddress.IPv6Address, ours.IPv6Network, ipaddress.IPv6Network),
}
OF_ADDRESS = ("version", "max_prefixlen", "packed", "is_loopback", "is_link_local", "is_multicast", "is_unspecified")
OF_NETWORK = ("version", "max_prefixlen", "prefixlen", "num_addresses", "is_loopback")
ENDS = ("network_address", "broadcast_address")


WITH_DOTS = re.compile(r"::ffff:(\d+)\.(\d+)\.(\d+)\.(\d+)")


def without_dots(text: str) -> str:
    """As the library wrote it before Python 3.13, which has dots in an address of IPv6 that stands for one of IPv4."""
    return WITH_DOTS.sub(hexadecimal, text)


def hexadecimal(found: re.Match[str]) -> str:
    first, second, third, fourth = map(int, found.groups())
    return f"::ffff:{first << 8 | second:x}:{third << 8 | fourth:x}"


def read(make: Any, *given: Any) -> str | None:
    """What it makes, as text; None if it refuses."""
    try:
        return without_dots(str(make(*given)))
    except ValueError:
        return None


@given(numbers)
def test_an_address_is_that_of_the_library(drawn: tuple[int, int]) -> None:
    """Its text, and all that can be asked of it; and it reads its own text, and comes back from a pickle."""
    version, number = drawn
    make, library, *_ = BOTH[version]
    one, other = make(number), library(number)
    assert (str(one), repr(one), int(one)) == (without_dots(str(other)), without_dots(repr(other)), number)
    # Of one that stands for an address of IPv4, the library tells since Python 3.13 what that is.
    asked = OF_ADDRESS if version == 4 or one.ipv4_mapped is None else OF_ADDRESS[:3]
    assert [getattr(one, name) for name in asked] == [getattr(other, name) for name in asked]
    if version == 6:
        assert str(one.ipv4_mapped) == str(other.ipv4_mapped)
    for again in (make(str(other)), make(other.packed), ours.ip_address(str(other)), pickle.loads(pickle.dumps(one))):  # noqa: S301 # our own
        assert again == one
        assert hash(again) == hash(one)


@given(texts)
def test_what_is_no_address_is_none_there_either(text: str) -> None:
    """But for the zone of IPv6, of which an address has none here."""
    for make, library, *_ in BOTH.values():
        assert read(make, text) == (None if "%" in text else read(library, text))
    for strict in (True, False):
        if "%" not in text and text.rpartition("/")[2].isdigit():
            assert read(ours.ip_network, text, strict) == read(ipaddress.ip_network, text, strict)


@given(numbers, st.integers(-1, 129), st.booleans())
def test_a_network_is_that_of_the_library(drawn: tuple[int, int], length: int, strict: bool) -> None:
    """Made from an address and a length, with and without host bits."""
    version, number = drawn
    _, _, make, library = BOTH[version]
    assert read(make, (number, length), strict) == read(library, (number, length), strict)
    if read(make, (number, length), False) is None:
        return
    one, other = make((number, length), strict=False), library((number, length), strict=False)
    assert repr(one) == without_dots(repr(other))
    asked = OF_NETWORK if version == 4 or one.network_address.ipv4_mapped is None else OF_NETWORK[:-1]
    assert [getattr(one, name) for name in asked] == [getattr(other, name) for name in asked]
    assert [str(getattr(one, name)) for name in ENDS] == [without_dots(str(getattr(other, name))) for name in ENDS]
    assert str(one[-1]) == without_dots(str(other[-1]))
    assert make(str(other)) == pickle.loads(pickle.dumps(one)) == one  # noqa: S301 # our own


near = st.tuples(st.integers(0x0A000000, 0x0A0000FF), st.integers(20, 32))


@given(near, near)
def test_two_networks_are_to_each_other_as_those_of_the_library(one: tuple[int, int], two: tuple[int, int]) -> None:
    """Which holds the other, which comes first, and whether they have anything in common."""
    mine = [ours.IPv4Network(it, strict=False) for it in (one, two)]
    its = [ipaddress.IPv4Network(it, strict=False) for it in (one, two)]
    for left, right in ((mine[0], mine[1]), (mine[1], mine[0])):
        theirs = [its[mine.index(each)] for each in (left, right)]
        assert (left == right, left < right) == (theirs[0] == theirs[1], theirs[0] < theirs[1])
        assert left.overlaps(right) == theirs[0].overlaps(theirs[1])
        assert left.subnet_of(right) == theirs[0].subnet_of(theirs[1])
        assert (left.network_address in right) == (theirs[0].network_address in theirs[1])


@given(st.sampled_from([4, 6]), st.data())
def test_a_range_is_as_few_networks_as_in_the_library(version: int, data: st.DataObject) -> None:
    """In the same order; the whole of a family is one."""
    make, library, *_ = BOTH[version]
    most = (1 << make.max_prefixlen) - 1
    ends = st.one_of(st.integers(0, most), st.integers(0, 300), st.integers(most - 300, most))
    low, high = sorted([data.draw(ends), data.draw(ends)])
    mine = ours.summarize_address_range(make(low), make(high))
    assert list(map(str, mine)) == list(map(str, ipaddress.summarize_address_range(library(low), library(high))))


def test_two_families_are_never_equal_and_have_no_order() -> None:
    """0.0.0.1 is not ::1, and neither is in the other's networks."""
    assert ours.IPv4Address(1) != ours.IPv6Address(1)
    assert ours.IPv4Network((0, 8)) != ours.IPv6Network((0, 8))
    assert ours.IPv4Address(1) not in ours.IPv6Network((0, 8))
    with pytest.raises(TypeError):
        _ = ours.IPv4Address(1) < ours.IPv6Address(1)  # type: ignore[operator] # what is refused
