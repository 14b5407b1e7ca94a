"""Native rules of nf_tables as they are, to be put back where they were: iptables-restore has no words for them.

What the kernel tells of a rule it also takes. Two things it does not tell, or names anew: the protocol that a match of
iptables' own asks for (NFTA_RULE_COMPAT), which is that of the rule, and sets without a name, which go with their rule.
"""

from __future__ import annotations

import os
import struct

from capture.iptables.nft_words import (
    CMP_DATA,
    EXPR_DATA,
    EXPR_NAME,
    EXPRESSIONS,
    HANDLE,
    L4PROTO,
    META_KEY,
    expressions,
    number,
    string,
    value,
)
from capture.netlink import messages
from capture.netlink.messages import ATTRIBUTE, NETLINK_NETFILTER, NUMBERS, attributes, pairs
from capture.netlink.tidying import NFT_SUBSYSTEM, sent
from rules.iptables.quoting import MARKER
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from capture.iptables.nft_words import Attributes
    from rules.netfilter.values import Family

# linux/netfilter/nf_tables.h
NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_GETSET, NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM = 6, 9, 10, 12, 13
TABLE, CHAIN, COMPAT, USERDATA = 1, 2, 5, 7
COMPAT_PROTOCOL, COMPAT_FLAGS = 1, 2
SET_TABLE, SET_NAME, SET_FLAGS, SET_ID = 1, 2, 3, 10
SET_TAKEN = frozenset({*range(1, 10), 11, 12, 13, 15, 17, 18})
"""What of a set the kernel also takes. Its number and its count of elements, say, it only tells."""
ANONYMOUS, MAP = 1, 8
LIST_TABLE, LIST_SET, LIST_ELEMENTS, LIST_SET_ID = 1, 2, 3, 4
LOOKUP_SET, LOOKUP_SET_ID = 1, 4
CREATE_OR_REPLACE = 0x400 | 0x100
"""NLM_F_CREATE and NLM_F_REPLACE."""


class AnonymousSet(Value):
    """A set that exists for one rule."""

    name: str
    attributes: dict[int, bytes]
    elements: tuple[bytes, ...]
    """As the kernel tells them, each a list."""


class Native(Value):
    """A rule as the kernel tells it, with what goes when it goes."""

    rule: dict[int, bytes]
    sets: tuple[AnonymousSet, ...] = ()


def natives(family: Family, table: str, rules: Mapping[str, dict[int, bytes]]) -> dict[tuple[str, str], Native]:
    """These rules of a table, by its name and the handle of each. Raises OSError."""
    named: dict[str, AnonymousSet] = {}
    if any(name == "lookup" for rule in rules.values() for name, _ in expressions(rule)):
        named = {each.name: each for each in anonymous_sets(family, table)}
    return {
        (table, handle): Native(rule, tuple(named[name] for name in dict.fromkeys(looked_up(rule)) if name in named))
        for handle, rule in rules.items()
    }


def looked_up(rule: Attributes) -> Iterator[str]:
    return (string(read.get(LOOKUP_SET)) for name, read in expressions(rule) if name == "lookup")


def anonymous_sets(family: Family, table: str) -> Iterator[AnonymousSet]:
    of = header(family) + attribute(SET_TABLE, zeroed(table))
    for message in messages.dump(NETLINK_NETFILTER, NFT_SUBSYSTEM << 8 | NFT_MSG_GETSET, of):
        its = attributes(message[4:])
        if number(its.get(SET_FLAGS)) & ANONYMOUS and string(its.get(SET_TABLE)) == table:
            name = string(its.get(SET_NAME))
            payload = of + attribute(LIST_SET, zeroed(name))
            elements = messages.dump(NETLINK_NETFILTER, NFT_SUBSYSTEM << 8 | NFT_MSG_GETSETELEM, payload)
            lists = (attributes(each[4:]).get(LIST_ELEMENTS, b"") for each in elements)
            yield AnonymousSet(name, its, tuple(filter(None, lists)))


def handle_in(text: str) -> str:
    """The handle in the text of a rule that iptables has no words for."""
    return text.removeprefix(MARKER).partition("]")[0]


def put_back(family: Family, table: str, chain: str, instead_of: Attributes, native: Native) -> None:
    """Put a rule in the place of this one. Raises OSError."""
    requests = []
    names: dict[str, tuple[str, int]] = {}
    for index, each in enumerate(native.sets, 1):
        # The kernel gives it a number; the request is known by its own (NFTA_SET_ID).
        name = "__map%d" if number(each.attributes.get(SET_FLAGS)) & MAP else "__set%d"
        names[each.name] = name, index
        given = {kind: data for kind, data in each.attributes.items() if kind in SET_TAKEN}
        given |= {SET_NAME: zeroed(name), SET_ID: big(index)}
        requests.append(request(family, NFT_MSG_NEWSET, given))
        for elements in each.elements:
            of = {LIST_TABLE: zeroed(table), LIST_SET: zeroed(name), LIST_SET_ID: big(index), LIST_ELEMENTS: elements}
            requests.append(request(family, NFT_MSG_NEWSETELEM, of))
    rule = {
        TABLE: zeroed(table),
        CHAIN: zeroed(chain),
        HANDLE: instead_of[HANDLE],
        EXPRESSIONS: renamed(native.rule.get(EXPRESSIONS, b""), names),
        COMPAT: attribute(COMPAT_PROTOCOL, big(protocol(native.rule))) + attribute(COMPAT_FLAGS, big(0)),
    }
    if USERDATA in native.rule:
        rule[USERDATA] = native.rule[USERDATA]
    requests.append(request(family, NFT_MSG_NEWRULE, rule))
    refused = sent(requests, CREATE_OR_REPLACE)
    if refused:
        raise OSError(refused, os.strerror(refused))


def renamed(raw: bytes, names: Mapping[str, tuple[str, int]]) -> bytes:
    """The steps of a rule, whose look-ups ask the sets of this request."""
    steps = b""
    for kind, step in pairs(raw):
        read = attributes(step)
        data = attributes(read.get(EXPR_DATA, b""))
        found = names.get(string(data.get(LOOKUP_SET))) if string(read.get(EXPR_NAME)) == "lookup" else None
        if found:
            name, index = found
            data |= {LOOKUP_SET: zeroed(name), LOOKUP_SET_ID: big(index)}
            step = attribute(EXPR_NAME, read[EXPR_NAME]) + attribute(EXPR_DATA, joined(data))
        steps += attribute(kind, step)
    return steps


def protocol(rule: Attributes) -> int:
    """The transport protocol that it asks for; 0 if for none."""
    key = -1
    for name, read in expressions(rule):
        if name == "cmp" and key == L4PROTO:
            return number(value(read, CMP_DATA))
        key = number(read.get(META_KEY)) if name == "meta" else -1
    return 0


def request(family: Family, kind: int, given: Mapping[int, bytes]) -> bytes:
    return struct.pack("=H", NFT_SUBSYSTEM << 8 | kind) + header(family) + joined(given)


def header(family: Family) -> bytes:
    return struct.pack("=BBH", NUMBERS[family], 0, 0)


def joined(given: Mapping[int, bytes]) -> bytes:
    return b"".join(attribute(kind, data) for kind, data in given.items())


def attribute(kind: int, data: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def zeroed(text: str) -> bytes:
    return text.encode(errors="surrogateescape") + b"\0"


def big(whole: int) -> bytes:
    return whole.to_bytes(4, "big")
