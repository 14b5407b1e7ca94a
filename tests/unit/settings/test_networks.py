"""Networks are read by the C library where lists of them are long, and mean what `ipaddress` says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capture.settings.parsers import cidr, host_bits
from rules.addresses import IPv4Address, IPv4Network

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
        assert bool(list(host_bits(text))) == (IPv4Address(address) != expected.network_address)
