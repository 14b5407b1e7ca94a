"""Networks are read by the C library where lists of them are long, and mean what `ipaddress` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from capture.settings.parsers import cidr, cidrs, host_bits
from rules.addresses import IPv4Address, IPv4Network
from rules.lists.networks import MANY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PARTS = st.integers(0, 300).map(str) | st.sampled_from(["", "01", "1 ", "+1", "x", "0x1", "\u0661"])
ADDRESSES = st.lists(PARTS, min_size=3, max_size=5).map(".".join) | st.ip_addresses(v=4).map(str)
LENGTHS = st.sampled_from(["", "/", "/8", "/024", "/1.2", "/99999999999", "\0"]) | st.integers(0, 34).map("/{}".format)


@given(address=ADDRESSES, length=LENGTHS)
def test_a_network_is_what_the_library_takes_for_one(address: str, length: str) -> None:
    """The same are taken and refused, and host bits are seen where there are any."""
    text = address + length
    try:
        expected = None if text[-1:] == "/" else IPv4Network(text, strict=False)
    except ValueError:
        expected = None
    try:
        found = cidr(text)
    except ValueError:
        found = None
    if length == "/1.2" or len(length) > 11:
        expected = None  # a netmask is no length here
    assert found == expected
    if expected:
        assert bool(cleared(text)) == (IPv4Address(address) != expected.network_address)


def cleared(text: str) -> list[str]:
    """What is said of the host bits in a list that can be read."""
    return list(host_bits(text, cidrs(text)))


LISTED = ADDRESSES | st.ip_addresses(v=6).map(str) | st.just("*") | st.just("::ffff:1.2.3.4")
ENTRIES = st.tuples(LISTED, LENGTHS | st.integers(0, 130).map("/{}".format)).map("".join)


@given(drawn=st.lists(ENTRIES, min_size=1, max_size=4), between=st.sampled_from([",", " , ", ",,"]))
def test_a_long_list_is_read_as_its_entries_are(drawn: list[str], between: str) -> None:
    """The same networks, the same sentence for what is refused, and the same host bits, whatever stands among them."""

    def one_by_one(read: Callable[[str], Iterable[Any]]) -> list[Any] | str:
        try:
            return [found for entry in drawn for found in read(f"{entry},") if entry]
        except ValueError as refused:
            return str(refused)

    def at_once(read: Callable[[str], Iterable[Any]]) -> list[Any] | str:
        try:
            found = list(read(between.join([*drawn, *plain])))
        except ValueError as refused:
            return str(refused)
        return [each for each in found if str(each) not in plain]

    plain = [f"7.77.{at}.0/24" for at in range(MANY)]  # which is drawn by nobody
    assert at_once(cidrs) == one_by_one(cidrs)
    if not isinstance(one_by_one(cidrs), str):
        assert at_once(cleared) == one_by_one(cleared)


def test_host_bits_of_a_list_are_not_those_of_the_list_before() -> None:
    """What was found of one list is said of no other."""
    plain = [f"10.0.{at}.0/24" for at in range(MANY)]
    for odd in ("10.1.0.0/24", "10.1.0.7/24", "10.2.0.0/24"):
        text = ",".join([*plain, odd])
        assert bool(cleared(text)) == (odd == "10.1.0.7/24")
        assert not cleared(",".join(plain))
