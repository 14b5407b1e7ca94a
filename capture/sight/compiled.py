"""What iptables-nft-restore makes of a rule of ours, to the byte, as nf_tables tells it again.

It is that of iptables 1.8.8 to 1.8.11 (nft_ipv4_add, nft_ipv6_add and add_match in iptables/nft*.c); the last asks
for addresses first, and for the protocol of IPv4 in the header. Where another version writes another thing, or a rule
asks what is not told here, nothing is known at sight: then iptables-save is asked, and what it prints is read. So
nothing can be taken for what is planned but what is that to the last byte.
"""

from __future__ import annotations

import sys

from capture.netlink.messages import attribute
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Network, Ports

    T = TypeVar("T")
    R = TypeVar("R")

# linux/netfilter/nf_tables.h
NFTA_RULE_EXPRESSIONS = 4
NFT_META_MARK, NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_L4PROTO = 3, 6, 7, 16
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
DROP, ACCEPT, JUMP, RETURN = 0, 1, -3, -5
PROTOCOLS = {"tcp": 6, "udp": 17}
ADDRESSES = {Family.V4: (12, 16), Family.V6: (8, 24)}
"""Where source and destination stand in the header of each family."""
SPORT, DPORT = 0, 2
STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
"""XT_CONNTRACK_STATE_* of linux/netfilter/xt_conntrack.h."""
WHOLE = 0xFFFFFFFF


OWNER_UID, OWNER_GID = 1, 2
OF_MODULE, ARRIVES, LEAVES, PROTOCOL, SOURCE, DESTINATION = range(6)
"""What is asked: by a module, behind what any rule can ask and in the order of the rule; or what any rule can."""
INTERFACES_FIRST = (ARRIVES, LEAVES, PROTOCOL, SOURCE, DESTINATION)
ADDRESSES_FIRST = (SOURCE, DESTINATION, ARRIVES, LEAVES, PROTOCOL)
ORDERS = (INTERFACES_FIRST, ADDRESSES_FIRST)
"""In which iptables asks: up to 1.8.10, and since 1.8.11."""


def remembered(make: Callable[[T, Family], R]) -> Callable[[T, Family], R]:
    """The same, which makes once what many rules ask or do."""
    made: dict[tuple[T, Family], R] = {}

    def known(given: T, family: Family) -> R:
        if (given, family) not in made:
            made[given, family] = make(given, family)
        return made[given, family]

    return known


class NotTold(Exception):
    """A rule of which nobody says here what iptables makes of it."""


def compiled(rule: Rule, family: Family, order: Sequence[int]) -> tuple[bytes, bytes]:
    """What stands before and behind the numbers that the rule counted (COUNTED bytes), in one of ORDERS.

    Raises NotTold.
    """
    before = questions(rule.matches, family, order) + COUNTER
    behind = answer(rule.target, family)
    return attribute(NFTA_RULE_EXPRESSIONS, before + bytes(COUNTED) + behind)[: 4 + len(before)], behind


def questions(asked: Sequence[Match], family: Family, order: Sequence[int]) -> bytes:
    """The expressions of all matches: first what any rule can ask, in iptables' order; then by module."""
    general: dict[int, bytes] = {}
    modules: list[bytes] = []
    ports: dict[int, Ports] = {}
    for match in asked:
        place, made = question(match, family)
        if place in general:
            raise NotTold
        if place == PROTOCOL and family is Family.V4 and order == ADDRESSES_FIRST:
            made = made.replace(OF_META, OF_HEADER, 1)
        if place == OF_MODULE:
            modules.append(made)
        else:
            general[place] = made
        if isinstance(match, m.SPort | m.DPort):
            ports[SPORT if isinstance(match, m.SPort) else DPORT] = match.ports
    if len(ports) == 2:
        modules = [both_ports(ports, modules)]
    return b"".join([*(general[place] for place in order if place in general), *modules])


@remembered
def question(match: Match, family: Family) -> tuple[int, bytes]:
    """The expressions of a match, with its place among those that any rule can ask. Raises NotTold."""
    inner, differs = (match.match, True) if isinstance(match, m.Not) else (match, False)
    match inner:
        case m.InIface(name):
            return ARRIVES, meta(NFT_META_IIFNAME) + compared(interface(name), differs=differs)
        case m.OutIface(name):
            return LEAVES, meta(NFT_META_OIFNAME) + compared(interface(name), differs=differs)
        case m.Proto(name) if name in PROTOCOLS:
            return PROTOCOL, OF_META + compared(bytes([PROTOCOLS[name]]), differs=differs)
        case m.Src(network):
            return SOURCE, of_network(network, ADDRESSES[family][0], differs=differs)
        case m.Dst(network):
            return DESTINATION, of_network(network, ADDRESSES[family][1], differs=differs)
        case m.SPort(ports):
            return OF_MODULE, of_port(ports, SPORT, differs=differs)
        case m.DPort(ports):
            return OF_MODULE, of_port(ports, DPORT, differs=differs)
        case m.Mark(value):
            return OF_MODULE, meta(NFT_META_MARK) + compared(u32(value), differs=differs)
        case m.ConnMark(value):
            return OF_MODULE, module("connmark", 1, u32(value, WHOLE) + bytes([differs]))
        case m.OwnerUid(uid):
            return OF_MODULE, of_owner(uid, uid, 0, 0, OWNER_UID, differs=differs)
        case m.OwnerUids(first, last):
            return OF_MODULE, of_owner(first, last, 0, 0, OWNER_UID, differs=differs)
        case m.OwnerGid(gid):
            return OF_MODULE, of_owner(0, 0, gid, gid, OWNER_GID, differs=differs)
        case m.DPorts(ranges):
            return OF_MODULE, of_ports(ranges, differs=differs)
        case m.CtState(states) if STATES.keys() >= states:
            bits = sum(STATES[state] for state in states)
            return OF_MODULE, module("conntrack", 3, bytes(146) + u16(1, differs, bits) + bytes(12))
        case _:
            raise NotTold


def both_ports(ports: dict[int, Ports], modules: list[bytes]) -> bytes:
    """Source and destination port are asked at once, if it is one of each and nothing else. Raises NotTold."""
    first, second = ports[SPORT], ports[DPORT]
    alone = [of_port(ports[at], at, differs=False) for at in (SPORT, DPORT)]
    if sorted(alone) != sorted(modules) or first.first != first.last or second.first != second.last:
        raise NotTold
    return loaded(TRANSPORT_HEADER, SPORT, 4) + compared(big(first.first, second.first))


def of_port(ports: Ports, at: int, *, differs: bool) -> bytes:
    asked = loaded(TRANSPORT_HEADER, at, 2)
    if ports.first == ports.last:
        return asked + compared(big(ports.first), differs=differs)
    ends = attribute(3, attribute(1, big(ports.first))) + attribute(4, attribute(1, big(ports.last)))
    return asked + expression("range", be32(1, 1) + be32(2, int(differs)) + ends)


def of_ports(ranges: Sequence[Ports], *, differs: bool) -> bytes:
    """struct xt_multiport_v1: a range takes two places, the first of which has a flag."""
    places: list[int] = []
    flags = bytearray()
    for ports in ranges:
        is_range = ports.first != ports.last
        places += (ports.first, ports.last) if is_range else (ports.first,)
        flags += bytes([1, 0]) if is_range else b"\0"
    empty = m.MULTIPORT_PLACES - len(places)
    about = bytes([1, len(places)]) + u16(*places, *[0] * empty) + bytes(flags) + bytes(empty) + bytes([differs])
    return module("multiport", 1, about)


def of_owner(uid: int, last_uid: int, gid: int, last_gid: int, which: int, *, differs: bool) -> bytes:
    """struct xt_owner_match_info: what it asks about is a bit, and so is what shall not be so."""
    return module("owner", 1, u32(uid, last_uid, gid, last_gid) + bytes([which, which if differs else 0]))


def of_network(network: Network, at: int, *, differs: bool) -> bytes:
    """Of whole bytes only those are loaded; else all, and the rest is masked."""
    length, rest = divmod(network.prefixlen, 8)
    address = network.network_address.packed
    if not network.prefixlen:
        raise NotTold  # which iptables takes for no question at all
    if not rest:
        return loaded(NETWORK_HEADER, at, length) + compared(address[:length], differs=differs)
    size = len(address)
    mask = ((1 << size * 8) - (1 << size * 8 - network.prefixlen)).to_bytes(size, "big")
    masked = attribute(4, attribute(1, mask)) + attribute(5, attribute(1, bytes(size)))
    anded = expression("bitwise", be32(1, 1) + be32(2, 1) + be32(3, size) + be32(6, 0) + masked)
    return loaded(NETWORK_HEADER, at, size) + anded + compared(address, differs=differs)


def interface(name: str) -> bytes:
    """A name, or how it begins. Raises NotTold."""
    if name in ("", "+"):
        raise NotTold
    return name[:-1].encode() if name.endswith("+") else name.encode() + b"\0"


@remembered
def answer(target: Target, family: Family) -> bytes:
    """The expression of a target. Raises NotTold."""
    is_v4 = family is Family.V4
    match target:
        case t.Return():
            return verdict(RETURN)
        case t.Accept():
            return verdict(ACCEPT)
        case t.Drop():
            return verdict(DROP)
        case t.Jump(chain):
            return verdict(JUMP, attribute(2, chain.encode() + b"\0"))
        case t.Redirect(port):
            # struct nf_nat_ipv4_multi_range_compat: one range, of ports; struct nf_nat_range: of ports.
            about = u32(1, 2, 0, 0) + big(port, port) if is_v4 else u32(2) + bytes(32) + big(port, port)
            return does("REDIRECT", 0, about)
        case t.Dnat(address, port):
            # struct nf_nat_range2: of one address, and of ports.
            to = address.packed.ljust(16, b"\0")
            return does("DNAT", 2, u32(3) + to + to + big(port, port) + bytes(2))
        case t.Tproxy(port, mark):
            return does("TPROXY", 1, u32(WHOLE, mark) + bytes(16) + big(port))
        case t.SetMark(value):
            return does("MARK", 2, u32(value, WHOLE))
        case t.SaveMark() | t.RestoreMark():
            which = 1 if isinstance(target, t.SaveMark) else 2
            return does("CONNMARK", 2, u32(0, WHOLE, WHOLE) + bytes([0, 0, which]))
        case t.Zone(zone):
            return does("CT", 2, u16(0, zone) + bytes(68))
        case _:
            raise NotTold


# --- expressions -----------------------------------------------------------------------------------------


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


def module(name: str, revision: int, about: bytes, kind: str = "match") -> bytes:
    """A match or target of xtables, as large as XT_ALIGN makes it."""
    about += bytes(-len(about) % 8)
    return expression(kind, attribute(1, name.encode() + b"\0") + be32(2, revision) + attribute(3, about))


def does(name: str, revision: int, about: bytes) -> bytes:
    return module(name, revision, about, "target")


def verdict(code: int, chain: bytes = b"") -> bytes:
    return expression("immediate", be32(1, 0) + attribute(2, attribute(2, be32(1, code) + chain)))


COUNTED = 20
"""Bytes of a counter that move: two numbers of eight, and the head of the second attribute between them."""
COUNTER = expression("counter", attribute(1, bytes(8)) + attribute(2, bytes(8)))[:-COUNTED]
"""Its expression up to them."""
OF_META, OF_HEADER = meta(NFT_META_L4PROTO), loaded(NETWORK_HEADER, 9, 1)
"""The protocol, as it was found behind all headers, and as the header of IPv4 has it."""
