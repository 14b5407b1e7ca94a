"""The expressions of nf_tables to the byte, as the kernel tells them: what both of our writers have in common."""

from __future__ import annotations

import sys

from capture.netlink.messages import attribute
from rules.netfilter import targets as t
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.values import Network

# linux/netfilter/nf_tables.h
NFTA_RULE_EXPRESSIONS = 4
NFT_META_MARK, NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_L4PROTO = 3, 6, 7, 16
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
DROP, ACCEPT, JUMP, RETURN = 0, 1, -3, -5
ADDRESSES = {Family.V4: (12, 16), Family.V6: (8, 24)}
"""Where source and destination stand in the header of each family."""
SPORT, DPORT = 0, 2
STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
"""XT_CONNTRACK_STATE_* of linux/netfilter/xt_conntrack.h."""
WHOLE = 0xFFFFFFFF


class NotTold(Exception):
    """A rule of which nobody says here what becomes of it."""


def of_network(network: Network, at: int, *, differs: bool) -> bytes:
    """Of whole bytes only those are loaded; else all, and the rest is masked. Raises NotTold for all addresses."""
    length, rest = divmod(network.prefixlen, 8)
    address = network.network_address.packed
    if not network.prefixlen:
        raise NotTold  # which iptables takes for no question at all
    if not rest:
        return loaded(NETWORK_HEADER, at, length) + compared(address[:length], differs=differs)
    size = len(address)
    mask = ((1 << size * 8) - (1 << size * 8 - network.prefixlen)).to_bytes(size, "big")
    return loaded(NETWORK_HEADER, at, size) + masked(mask) + compared(address, differs=differs)


def masked(mask: bytes) -> bytes:
    """What was loaded, and only these bits of it."""
    both = attribute(4, attribute(1, mask)) + attribute(5, attribute(1, bytes(len(mask))))
    return expression("bitwise", be32(1, 1) + be32(2, 1) + be32(3, len(mask)) + be32(6, 0) + both)


def within(first: bytes, last: bytes, *, differs: bool) -> bytes:
    """Between two values in network order, these included, or not."""
    ends = attribute(3, attribute(1, first)) + attribute(4, attribute(1, last))
    return expression("range", be32(1, 1) + be32(2, int(differs)) + ends)


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, (value & WHOLE).to_bytes(4, "big"))


def big(*values: int) -> bytes:
    """Numbers of 16 bits in network order."""
    return b"".join(value.to_bytes(2, "big") for value in values)


def u16(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, sys.byteorder) for value in values)


def u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, sys.byteorder) for value in values)


def expression(name: str, about: bytes) -> bytes:
    return attribute(1, attribute(1, name.encode() + b"\0") + attribute(2, about))


def meta(key: int) -> bytes:
    return expression("meta", be32(2, key) + be32(1, 1))


def loaded(header: int, at: int, length: int) -> bytes:
    return expression("payload", be32(1, 1) + be32(2, header) + be32(3, at) + be32(4, length))


def compared(data: bytes, *, differs: bool = False) -> bytes:
    return expression("cmp", be32(1, 1) + be32(2, int(differs)) + attribute(3, attribute(1, data)))


def verdict(code: int, chain: bytes = b"") -> bytes:
    return expression("immediate", be32(1, 0) + attribute(2, attribute(2, be32(1, code) + chain)))


def jump(chain: str) -> bytes:
    return verdict(JUMP, attribute(2, chain.encode() + b"\0"))


VERDICTS = {t.Return: verdict(RETURN), t.Accept: verdict(ACCEPT), t.Drop: verdict(DROP)}
COUNTED = 20
"""Bytes of a counter that move: two numbers of eight, and the head of the second attribute between them."""
COUNTER = expression("counter", attribute(1, bytes(8)) + attribute(2, bytes(8)))[:-COUNTED]
"""Its expression up to them."""
