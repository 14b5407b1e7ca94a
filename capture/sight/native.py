"""What nft makes of a rule of our own tables, to the byte, as nf_tables tells it again.

It is that of nft 1.0.6 to 1.1.3 (netlink_gen_relational and netlink_gen_stmt of src/netlink_linearize.c); the last
asks for a range at once. As with iptables, nothing is known at sight of what is not told here or was written otherwise:
then the table is read.
"""

from __future__ import annotations

import sys

from capture.netlink.messages import NUMBERS, attribute
from capture.sight.expressions import (
    ADDRESSES,
    COUNTED,
    COUNTER,
    DPORT,
    NETWORK_HEADER,
    NFT_META_IIFNAME,
    NFT_META_L4PROTO,
    NFT_META_MARK,
    NFT_META_OIFNAME,
    NFTA_RULE_EXPRESSIONS,
    SPORT,
    STATES,
    TRANSPORT_HEADER,
    VERDICTS,
    NotTold,
    be32,
    big,
    compared,
    expression,
    jump,
    loaded,
    masked,
    meta,
    of_network,
    u16,
    u32,
    within,
)
from rules.meaning.spoken import conditions
from rules.native.names import chain_name
from rules.native.words import blocks, in_blocks, intervals, is_one, length_of, network_of, place_in_rule, shorter
from rules.netfilter import fields as f
from rules.netfilter import targets as t

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal, TypeAlias

    from rules.netfilter.rulesets import Rule
    from rules.netfilter.spans import Span
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Family

    Elements: TypeAlias = tuple[bool, set[bytes]]

# linux/netfilter/nf_tables.h
NFTA_RULE_USERDATA = 7
NFT_META_SKUID, NFT_META_SKGID = 10, 11
NFT_CT_STATE, NFT_CT_MARK, NFT_CT_ZONE = 0, 3, 17
GTE, LTE = 5, 3
NFT_NAT_DNAT, NF_NAT_RANGE_PROTO_SPECIFIED, ADDRESS_AND_PORT = 1, 2, 3
IFNAMSIZ = 16
NFT_LOOKUP_F_INV = 1
META = {
    f.PROTOCOL: NFT_META_L4PROTO,
    f.ARRIVED_ON: NFT_META_IIFNAME,
    f.LEAVES_ON: NFT_META_OIFNAME,
    f.MARK: NFT_META_MARK,
    f.UID: NFT_META_SKUID,
    f.GID: NFT_META_SKGID,
}
SIZES = {f.PROTOCOL: 1, f.SPORT: 2, f.DPORT: 2, f.UID: 4, f.GID: 4, f.MARK: 4, f.CONNMARK: 4}
"""The bytes of each field that is a number and no address."""
RANGES_AT_ONCE = (False, True)
"""Whether nft asks for a range at once: not in 1.0.6, but in 1.1.3. That a value is not in it is always one."""
IN_HOST_ORDER = (f.UID, f.GID, f.MARK, f.CONNMARK)
"""Those that are loaded as this machine has numbers. Intervals are in the order of the network."""
AT = {family: dict(zip((f.SOURCE, f.DESTINATION), places, strict=True)) for family, places in ADDRESSES.items()}
"""Where addresses stand in the header of each family."""


class Sets:
    """The sets into which the rule of a message looks, in order, and what each has to hold."""

    def __init__(self, message: bytes, *, ranges_at_once: bool) -> None:
        self.ranges_at_once = ranges_at_once
        """Whether one expression asks for both ends of a range, or one each: see RANGES_AT_ONCE."""
        heads = message.split(LOOKUP)[1:]
        # Behind the name of the expression come the heads of its attributes and of the first one, the name of the set.
        self.names = [head[2 * HEAD :].partition(b"\0")[0] for head in heads]
        self.wanted: list[Elements] = []

    def next_one(self, elements: Elements, *, differs: bool = False) -> bytes:
        """The expression that looks into the next set, which holds these. Raises NotTold if there is none."""
        at = len(self.wanted)
        if at == len(self.names):
            raise NotTold
        self.wanted.append(elements)
        return expression(
            "lookup", attribute(1, self.names[at] + b"\0") + be32(2, 1) + be32(5, NFT_LOOKUP_F_INV if differs else 0)
        )


def compiled(rule: Rule, table: str, family: Family, sets: Sets) -> tuple[bytes, bytes]:
    """What stands before and behind the numbers that the rule counted, its comment included. Raises NotTold.

    `table` is that of iptables which its chain stands for; `sets` learns what the sets have to hold.
    """
    asked: list[tuple[int, Span]] = []
    for match in sorted(rule.matches, key=place_in_rule):
        condition, *more = conditions(match)
        if more or not isinstance(condition, f.Among):
            raise NotTold
        asked.append((condition.field, condition.span))
    before = b"".join(questions(asked, family, sets)) + COUNTER
    does = done(rule.target, table, family)
    remark = rule.why.encode() + b"\0"
    said = attribute(NFTA_RULE_USERDATA, bytes([0, len(remark)]) + remark) if rule.why else b""
    head = attribute(NFTA_RULE_EXPRESSIONS, before + bytes(COUNTED) + does)[: 4 + len(before)]
    return head, does + said


def questions(asked: Sequence[tuple[int, Span]], family: Family, sets: Sets) -> Iterator[bytes]:
    """The expressions of what is asked of each field. Raises NotTold."""
    of_ports = [span for field, span in asked if field in (f.SPORT, f.DPORT)]
    if len(of_ports) == 2 and all(map(is_one, of_ports)):
        # What stands side by side is loaded and compared at once.
        (source, _), (destination, _) = of_ports
        both = loaded(TRANSPORT_HEADER, SPORT, 4) + compared(big(source, destination))
        yield from (
            both if field == f.SPORT else question(field, span, family, sets)
            for field, span in asked
            if field != f.DPORT
        )
        return
    for field, span in asked:
        yield question(field, span, family, sets)


def question(field: int, span: Span, family: Family, sets: Sets) -> bytes:
    """The expressions that a field is in a span. Raises NotTold."""
    if field == f.STATE:
        bits = sum(STATES[f.STATES[value]] for first, end in intervals(span) for value in range(first, end))
        return of_conntrack(NFT_CT_STATE) + masked(u32(bits)) + compared(bytes(4), differs=True)
    said, differs = shorter(field, span, family)
    found = None if differs else in_blocks(field, span, family)
    if found:
        bits, is_exact = found
        mask = masked(((1 << length_of(family)) - (1 << bits)).to_bytes(length_of(family) // 8, "big")) if bits else b""
        firsts = [(value << bits, (value << bits) + 1) for some in blocks(span, bits) for value in some]
        in_one = load(field, family) + mask + sets.next_one(elements(field, firsts, family))
        if is_exact:
            return in_one
        return in_one + load(field, family) + sets.next_one(elements(field, intervals(said), family))
    if len(said) == 2:
        return among(field, said, family, differs=differs, at_once=differs or sets.ranges_at_once)
    some = intervals(said)
    turned = HOST_TO_NETWORK if field in IN_HOST_ORDER and has_ranges(some) else b""
    return load(field, family) + turned + sets.next_one(elements(field, some, family), differs=differs)


def has_ranges(some: Sequence[tuple[int, int]]) -> bool:
    return any(end - first > 1 for first, end in some)


def elements(field: int, some: Sequence[tuple[int, int]], family: Family) -> Elements:
    """Whether a set is one of intervals, and its elements as they are told, in any order. Raises NotTold."""
    is_of_intervals = has_ranges(some)
    size = len(key(field, 0, family))
    order = "big" if is_of_intervals or field not in IN_HOST_ORDER else sys.byteorder
    head = attribute(1, attribute(1, bytes(size)))[: 2 * HEAD]
    pad = bytes(-size % 4)
    begins = {head + first.to_bytes(size, order) + pad for first, _ in some}  # a list may have ten thousands
    if not is_of_intervals:
        return False, begins
    # An interval begins with one element and ends before the next; before the first one nothing is in the set.
    ends = [end for _, end in some if not end >> 8 * size]
    if some[0][0]:
        ends.append(0)
    if some[-1][1] >> 8 * size:
        begins.remove(head + some[-1][0].to_bytes(size, order) + pad)
        begins.add(head + some[-1][0].to_bytes(size, order) + pad + OPEN)
    return True, begins | {head + end.to_bytes(size, order) + pad + END for end in ends}


def load(field: int, family: Family) -> bytes:
    """The expression that loads a field. Raises NotTold."""
    match field:
        case f.SOURCE | f.DESTINATION:
            return loaded(NETWORK_HEADER, AT[family][field], length_of(family) // 8)
        case f.SPORT | f.DPORT:
            return loaded(TRANSPORT_HEADER, SPORT if field == f.SPORT else DPORT, 2)
        case f.CONNMARK:
            return of_conntrack(NFT_CT_MARK)
        case _ if field in META:
            return meta(META[field])
        case _:
            raise NotTold


def among(field: int, span: Span, family: Family, *, differs: bool, at_once: bool) -> bytes:
    """That a field is, or is not, in one interval, whose ends are asked for at once or not. Raises NotTold."""
    first, end = span
    if field in (f.ARRIVED_ON, f.LEAVES_ON):
        name = first.encode()
        return load(field, family) + compared(name.ljust(IFNAMSIZ, b"\0") if is_one(span) else name, differs=differs)
    network = network_of(first, end, family) if field in AT[family] else None
    if network:
        return of_network(network, AT[family][field], differs=differs)
    if is_one(span):
        return load(field, family) + compared(key(field, first, family), differs=differs)
    turned = HOST_TO_NETWORK if field in IN_HOST_ORDER else b""
    lowest, highest = (key(field, each, family, "big") for each in (first, end - 1))
    asked = within(lowest, highest, differs=differs) if at_once else at_least(lowest) + at_most(highest)
    return load(field, family) + turned + asked


def key(field: int, value: int, family: Family, order: Literal["big", "little"] | None = None) -> bytes:
    """A value as the field is loaded, or in this order of bytes. Raises NotTold."""
    if field not in SIZES and field not in AT[family]:
        raise NotTold
    own = sys.byteorder if field in IN_HOST_ORDER else "big"
    return value.to_bytes(SIZES.get(field) or length_of(family) // 8, order or own)


def at_least(value: bytes) -> bytes:
    return expression("cmp", be32(1, 1) + be32(2, GTE) + attribute(3, attribute(1, value)))


def at_most(value: bytes) -> bytes:
    return expression("cmp", be32(1, 1) + be32(2, LTE) + attribute(3, attribute(1, value)))


def of_conntrack(key: int) -> bytes:
    return expression("ct", be32(1, 1) + be32(2, key))


def done(target: Target, table: str, family: Family) -> bytes:
    """The expressions of a target. Raises NotTold."""
    match target:
        case t.Return() | t.Accept() | t.Drop():
            return VERDICTS[type(target)]
        case t.Jump(chain):
            return jump(chain_name(table, chain))
        case t.Redirect(port):
            ports = be32(1, 1) + be32(2, 1) + be32(3, NF_NAT_RANGE_PROTO_SPECIFIED)
            return known(big(port)) + expression("redir", ports)
        case t.Dnat(address, port):
            both = b"".join(be32(kind, register) for kind, register in ((3, 1), (4, 1), (5, 2), (6, 2)))
            to = be32(1, NFT_NAT_DNAT) + be32(2, NUMBERS[family]) + both + be32(7, ADDRESS_AND_PORT)
            return known(address.packed) + known(big(port), register=2) + expression("nat", to)
        case t.Tproxy(port, mark):
            to = expression("tproxy", be32(1, NUMBERS[family]) + be32(3, 1))
            return known(big(port)) + to + done(t.SetMark(mark), table, family) + VERDICTS[t.Accept]
        case t.SetMark(value):
            return known(u32(value)) + SET_MARK
        case t.SaveMark():
            return meta(NFT_META_MARK) + set_in_conntrack(NFT_CT_MARK)
        case t.RestoreMark():
            return of_conntrack(NFT_CT_MARK) + SET_MARK
        case t.Zone(zone):
            return known(u16(zone)) + set_in_conntrack(NFT_CT_ZONE)
        case _:
            raise NotTold


def known(value: bytes, register: int = 1) -> bytes:
    """A value for the next expression to use."""
    return expression("immediate", be32(1, register) + attribute(2, attribute(1, value)))


def set_in_conntrack(key: int) -> bytes:
    return expression("ct", be32(4, 1) + be32(2, key))


HEAD = 4
"""Bytes before the value of an attribute."""
LOOKUP = b"lookup\0\0"
"""The name of the expression, as long as netlink(7) wants it."""
END = be32(3, 1)
"""NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END."""
OPEN = attribute(6, bytes([1, 4]) + u32(1))
"""What nft notes beside an interval without an end (NFTNL_UDATA_SET_ELEM_FLAGS, SET_ELEM_F_INTERVAL_OPEN)."""
HOST_TO_NETWORK = expression("byteorder", be32(1, 1) + be32(2, 1) + be32(3, 1) + be32(4, 4) + be32(5, 4))
SET_MARK = expression("meta", be32(2, NFT_META_MARK) + be32(3, 1))
