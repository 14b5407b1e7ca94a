"""The messages of nf_tables and their attributes (linux/netfilter/nf_tables.h, nfnetlink(7))."""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal, TypeAlias

    Order: TypeAlias = Literal["little", "big"]
    Expression: TypeAlias = tuple[str, dict[int, bytes]]
    """One step of a native rule: its name and its attributes."""


FAMILY_NAMES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""NFPROTO_* of linux/netfilter.h."""


class Dump(Value):
    """The messages of the kernel about tables, chains, rules, sets and their elements, without netlink headers."""

    tables: tuple[bytes, ...] = ()
    chains: tuple[bytes, ...] = ()
    rules: tuple[bytes, ...] = ()
    sets: tuple[bytes, ...] = ()
    elements: tuple[bytes, ...] = ()
    interfaces: tuple[tuple[int, str], ...] = ()
    """The names of interfaces by index, by which `meta iif` asks."""
    order: Order = "little"
    """This machine's byte order."""


def attributes(raw: bytes, order: Order = "little") -> Iterator[tuple[int, bytes]]:
    """The attributes of a message, in order; a list has several of one type."""
    low, high = (0, 1) if order == "little" else (1, 0)
    at, last = 0, len(raw) - 4
    while at <= last:
        length = raw[at + low] | raw[at + high] << 8
        if length < 4:
            return
        yield (raw[at + 2 + low] | raw[at + 2 + high] << 8) & 0x3FFF, raw[at + 4 : at + length]
        at += length + 3 & ~3


def family_of(message: bytes) -> str:
    """The family of nf_tables that a message is about; empty for one that nobody knows."""
    return FAMILY_NAMES.get(number(message[:1]), "")


def number(raw: bytes | None) -> int:
    """An attribute of nf_tables, which are all big-endian; 0 if it is not there."""
    return int.from_bytes(raw or b"", "big")


def signed(raw: bytes | None) -> int:
    return int.from_bytes(raw or b"", "big", signed=True)


def text(raw: bytes | None) -> str:
    return (raw or b"").partition(b"\0")[0].decode("utf-8", "surrogateescape")
