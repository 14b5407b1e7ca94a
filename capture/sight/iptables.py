"""What iptables-nft-restore makes of a rule of ours, to the byte, as nf_tables tells it again.

It is that of iptables 1.8.8 to 1.8.11 (nft_ipv4_add, nft_ipv6_add and add_match in iptables/nft*.c); the last asks
for addresses first, and for the protocol of IPv4 in the header. Where another version writes another thing, or a rule
asks what is not told here, nothing is known at sight: then iptables-save is asked, and what it prints is read. So
nothing can be taken for what is planned but what is that to the last byte.
"""

from __future__ import annotations

from capture.netlink.messages import attribute
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
    WHOLE,
    NotTold,
    be32,
    big,
    compared,
    expression,
    jump,
    loaded,
    meta,
    of_network,
    u16,
    u32,
    within,
)
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
    from rules.netfilter.values import Ports

    T = TypeVar("T")
    R = TypeVar("R")

PROTOCOLS = {"tcp": 6, "udp": 17}
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
    return asked + within(big(ports.first), big(ports.last), differs=differs)


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
        case t.Return() | t.Accept() | t.Drop():
            return VERDICTS[type(target)]
        case t.Jump(chain):
            return jump(chain)
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


def module(name: str, revision: int, about: bytes, kind: str = "match") -> bytes:
    """A match or target of xtables, as large as XT_ALIGN makes it."""
    about += bytes(-len(about) % 8)
    return expression(kind, attribute(1, name.encode() + b"\0") + be32(2, revision) + attribute(3, about))


def does(name: str, revision: int, about: bytes) -> bytes:
    return module(name, revision, about, "target")


OF_META, OF_HEADER = meta(NFT_META_L4PROTO), loaded(NETWORK_HEADER, 9, 1)
"""The protocol, as it was found behind all headers, and as the header of IPv4 has it."""
