"""Rules of nf_tables in the words of iptables, for those that iptables-save leaves out or prints in part."""

from __future__ import annotations

import struct
import sys

import pytest

from capture.iptables.nft_words import counted, led_to, left_out, text_of
from capture.netlink.messages import attribute, attributes
from rules.netfilter.values import Family
from tests.unit.nftables.test_nft import recorded

SHOWN = """\
nat OUTPUT [nf_tables 2] -p tcp [owner] -j RETURN
nat OUTPUT [nf_tables 6] -p tcp [lookup] -j ACCEPT
nat EARLY [nf_tables 4] -p tcp -m tcp --dport 80 -j REDIRECT
t c [nf_tables 5] -p tcp -m tcp --dport 80 -j ACCEPT
t o [nf_tables 7] [field] -s 1.1.1.1/32 -d 10.1.0.0/16 -p tcp [lookup] -j REDIRECT
t o [nf_tables 9] [field] [lookup] -j RETURN
t o [nf_tables 11] -p tcp [lookup]
t o [nf_tables 12] [field] [lookup] -p tcp -m tcp --dport 1 -j DNAT
t o [nf_tables 14] [field] -p tcp [lookup] -j ACCEPT
t o [nf_tables 15] -o eth+ -m mark --mark 0x1/0xff [bitwise] [meta]
t o [nf_tables 16] [field] [ct] [bitwise] [field] [ct]
t o [nf_tables 18] [numgen] [lookup] -j DNAT
t o [nf_tables 19] [fib] [field] [limit] -j DROP
t o [nf_tables 20] -p tcp [field] -j ACCEPT
t o [nf_tables 21] [field] -p tcp -j REDIRECT
t o [nf_tables 23] [ct] [lookup]
t o [nf_tables 24] [field] -d 10.0.0.0/24 -p tcp -m tcp ! --dport 80:90 -j ACCEPT
t o [nf_tables 27] [byteorder] [lookup] [lookup] -j DROP
t o [nf_tables 29] [field] -p tcp [lookup] -j DNAT
t o [nf_tables 31] [field] [lookup]
t o [nf_tables 32] -p tcp [field] -j ACCEPT
t o [nf_tables 33] -p udp -m udp --sport 5 --dport 53 [field] -j ACCEPT
t o [nf_tables 34] [exthdr] [field] -j ACCEPT
t o [nf_tables 35] [field] -j ACCEPT
t f [nf_tables 36] -p tcp -m tcp --dport 8080 -j TPROXY [meta] -j ACCEPT
t f [nf_tables 37] -j NOTRACK
t f [nf_tables 38] [ct]
t f [nf_tables 39] [field] [bitwise] [payload]
t f [nf_tables 40] -p tcp [payload]
t f [nf_tables 41] -j REJECT
asleep p [nf_tables 2] -j DROP
n i [nf_tables 2] [field] -d 9.9.9.9/32 -j DROP
"""
"""What is in brackets is a match that nobody takes for one that holds."""


def test_what_the_kernel_told_is_said_as_far_as_iptables_has_words() -> None:
    """Every rule of the recorded ruleset; each thing without words stands there by its name."""
    shown = []
    for message in recorded().rules:
        rule = attributes(message[4:])
        table, chain = (rule[key].rstrip(b"\0").decode() for key in (1, 2))
        shown.append(f"{table} {chain} {text_of(rule, Family.V4)}")
    assert "\n".join(shown) == SHOWN.rstrip()


# --- rules of our own making --------------------------------------------------------------------------------


def expression(name: str, *parts: tuple[int, bytes]) -> bytes:
    inner = b"".join(attribute(kind, value) for kind, value in parts)
    return attribute(1, attribute(1, name.encode() + b"\0") + attribute(2, inner))


def ruled(*expressions: bytes, handle: int = 5) -> dict[int, bytes]:
    return attributes(attribute(3, struct.pack(">Q", handle)) + attribute(4, b"".join(expressions)))


def big(number: int) -> bytes:
    return struct.pack(">I", number)


def meta(key: int) -> bytes:
    return expression("meta", (1, big(1)), (2, big(key)))


def payload(base: int, offset: int, size: int) -> bytes:
    return expression("payload", (1, big(1)), (2, big(base)), (3, big(offset)), (4, big(size)))


def cmp(op: int, data: bytes) -> bytes:
    return expression("cmp", (1, big(1)), (2, big(op)), (3, attribute(1, data)))


def masked(mask: bytes, xor: bytes) -> bytes:
    return expression("bitwise", (4, attribute(1, mask)), (5, attribute(1, xor)))


def verdict(code: int, chain: str = "") -> bytes:
    named = attribute(2, chain.encode() + b"\0") if chain else b""
    return expression("immediate", (2, attribute(2, attribute(1, struct.pack(">i", code)) + named)))


def port_range(op: int, first: int, last: int) -> bytes:
    ends = (attribute(1, struct.pack(">H", end)) for end in (first, last))
    return expression("range", (2, big(op)), *zip((3, 4), ends, strict=True))


IS, IS_NOT, LESS, AT_MOST, MORE, AT_LEAST = range(6)
TCP = (payload(1, 9, 1), cmp(IS, b"\x06"))
PORT = payload(2, 2, 2)
MARK_1 = (1).to_bytes(4, sys.byteorder)


@pytest.mark.parametrize(
    ("expressions", "said"),
    [
        ((*TCP, PORT, cmp(IS, b"\0\x50")), "-p tcp -m tcp --dport 80"),
        ((*TCP, payload(2, 0, 2), cmp(IS_NOT, b"\0\x50")), "-p tcp -m tcp ! --sport 80"),
        ((*TCP, PORT, cmp(AT_LEAST, b"\0\x50"), cmp(AT_MOST, b"\0\x5a")), "-p tcp -m tcp --dport 80:90"),
        ((*TCP, PORT, cmp(AT_MOST, b"\0\x50")), "-p tcp -m tcp --dport 0:80"),
        ((*TCP, PORT, port_range(IS, 80, 90)), "-p tcp -m tcp --dport 80:90"),
        ((PORT, port_range(IS, 80, 90)), "[th] --dport 80:90"),
        ((PORT, cmp(IS, b"\0\x50")), "[field]"),
        ((*TCP, payload(2, 0, 4), cmp(IS, b"\0\x05\0\x50")), "-p tcp -m tcp --sport 5 --dport 80"),
        ((payload(1, 9, 1), cmp(IS_NOT, b"\x06"), PORT, cmp(IS, b"\0\x50")), "! -p tcp [field]"),
        ((payload(1, 9, 1), cmp(IS, b"\x2f")), "-p 47"),
        ((payload(1, 16, 3), cmp(IS, b"\x0a\0\0")), "-d 10.0.0.0/24"),
        ((payload(1, 12, 4), masked(b"\xff\xf0\0\0", bytes(4)), cmp(IS_NOT, b"\xac\x10\0\0")), "! -s 172.16.0.0/12"),
        ((payload(1, 12, 4), masked(b"\xff\0\xff\0", bytes(4)), cmp(IS, b"\x0a\0\x01\0")), "[field]"),
        ((payload(1, 12, 4), masked(b"\xff\xff\0\0", b"\0\0\0\1"), cmp(IS, bytes(4))), "[bitwise] -s 0.0.0.0/32"),
        ((payload(1, 12, 4), cmp(MORE, b"\x0a\0\0\0")), "[range]"),
        ((meta(6), cmp(IS, b"eth0\0")), "-i eth0"),
        ((meta(6), cmp(IS, b"eth0".ljust(16, b"\0"))), "-i eth0"),
        ((meta(7), cmp(IS_NOT, b"eth")), "! -o eth+"),
        ((meta(3), cmp(IS, MARK_1)), "-m mark --mark 0x1"),
        ((meta(3), masked(b"\xff" * 4, bytes(4)), cmp(IS, MARK_1)), "-m mark --mark 0x1/0xffffffff"),
        ((meta(16), cmp(IS, b"\x11"), PORT, cmp(IS, b"\0\x35")), "-p udp -m udp --dport 53"),
        ((meta(3),), "[load]"),
        ((meta(3), expression("lookup")), "[lookup]"),
        ((expression("counter"), expression("log"), verdict(0)), "-j DROP"),
        ((verdict(1),), "-j ACCEPT"),
        ((verdict(-1),), ""),
        ((verdict(-5),), "-j RETURN"),
        ((verdict(-3, "NEXT"),), "-j NEXT"),
        ((verdict(-4, "NEXT"),), "-g NEXT"),
        ((verdict(-2),), "[verdict -2]"),
        ((expression("nat", (1, big(1))),), "-j DNAT"),
        ((expression("nat", (1, big(0))),), "-j SNAT"),
        ((expression("masq"),), "-j MASQUERADE"),
    ],
)
def test_a_rule_is_said_in_words_of_iptables(expressions: tuple[bytes, ...], said: str) -> None:
    """Or not at all: what asks for less, or for more, than any words is in brackets."""
    assert text_of(ruled(*expressions), Family.V4) == f"[nf_tables 5] {said}".rstrip()


def test_addresses_of_ipv6_are_found_where_its_header_has_them() -> None:
    prefix = bytes.fromhex("fd000244")
    expressions = (payload(1, 24, 4), cmp(IS, prefix), payload(1, 6, 1), cmp(IS, b"\x3a"))
    assert text_of(ruled(*expressions), Family.V6) == "[nf_tables 5] -d fd00:244::/32 -p ipv6-icmp"
    assert text_of(ruled(payload(1, 16, 4), cmp(IS, prefix)), Family.V6) == "[nf_tables 5] [field]"


def extension(kind: str, name: str, info: bytes, revision: int = 0) -> bytes:
    return expression(kind, (1, name.encode() + b"\0"), (2, big(revision)), (3, info))


def native(number: int, size: int) -> bytes:
    return number.to_bytes(size, sys.byteorder)


def ends(flags: int, first: int, last: int) -> bytes:
    return bytes(4) + native(flags, 4) + bytes(8) + struct.pack(">HH", first, last)


def of_ipv6(flags: int, first: int, last: int) -> bytes:
    return native(flags, 4) + bytes(32) + struct.pack(">HH", first, last)


def asked_states(flags: int, inverted: int, states: int) -> bytes:
    return bytes(146) + native(flags, 2) + native(inverted, 2) + native(states, 2) + bytes(8)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (extension("target", "REDIRECT", ends(2, 15001, 15001)), "-j REDIRECT --to-ports 15001"),
        (extension("target", "REDIRECT", ends(2, 80, 90)), "-j REDIRECT --to-ports 80-90"),
        (extension("target", "REDIRECT", ends(0, 0, 0)), "-j REDIRECT"),
        (extension("target", "REDIRECT", of_ipv6(2, 80, 90)), "-j REDIRECT --to-ports 80-90"),
        (extension("target", "REDIRECT", bytes(12)), "-j REDIRECT [options]"),
        (extension("target", "TRACE", b""), "-j TRACE"),
        (extension("target", "LOG", bytes(8)), "-j LOG [options]"),
        (extension("match", "comment", b"to be kept\0" + bytes(16)), '-m comment --comment "to be kept"'),
        (extension("match", "conntrack", asked_states(1, 0, 6), 3), "-m conntrack --ctstate ESTABLISHED,RELATED"),
        (extension("match", "conntrack", asked_states(1, 1, 8), 3), "-m conntrack ! --ctstate NEW"),
        (extension("match", "conntrack", asked_states(3, 0, 8), 3), "[conntrack]"),
        (extension("match", "conntrack", asked_states(1, 0, 8 | 64), 3), "[conntrack]"),
        (extension("match", "conntrack", asked_states(1, 0, 8), 2), "[conntrack]"),
        (extension("match", "owner", bytes(40)), "[owner]"),
    ],
)
def test_an_extension_of_iptables_is_said_where_its_struct_is_known(one: bytes, said: str) -> None:
    assert text_of(ruled(one), Family.V4) == f"[nf_tables 5] {said}"


def test_what_iptables_leaves_out_is_told_from_what_it_prints() -> None:
    """Sets, and fields that are compared by size; what it has brackets for itself it does not leave out."""
    rule = ruled(*TCP, PORT, expression("lookup"), payload(1, 12, 4), cmp(LESS, bytes(4)), expression("quota"))
    assert left_out(rule, Family.V4) == "[lookup] [range]"
    assert left_out(ruled(*TCP, verdict(1)), Family.V4) == ""


def test_a_jump_and_a_counter_are_found_wherever_they_stand() -> None:
    rule = ruled(expression("counter", (1, struct.pack(">Q", 1500)), (2, struct.pack(">Q", 25))), verdict(-4, "NEXT"))
    assert (led_to(rule), counted(rule)) == ("NEXT", "[25:1500] ")
    assert (led_to(ruled(verdict(1))), counted(ruled(verdict(1)))) == ("", "[0:0] ")
