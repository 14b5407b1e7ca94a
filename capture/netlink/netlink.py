"""Netlink: what a pod's start-up asks the kernel, and cannot afford a library or a child process for.

A netlink dump is a dozen lines; importing pyroute2 takes ten times the CPU of everything else on the init path,
and `nft list tables` or `ip rule` a fork each. What is written is in `capture.netlink.routing` and `ctnetlink`.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import sys
from contextlib import closing
from ipaddress import ip_address, ip_network

from capture.kernel.process import patiently
from capture.kernel.seam import primitive
from rules.netfilter.routing import (
    BLACKHOLE,
    GOTO,
    LOOKUP,
    NOP,
    PROHIBIT,
    REFUSALS,
    TABLE_LOCAL,
    TABLE_MAIN,
    UNREACHABLE,
    PolicyRule,
    Route,
)
from rules.netfilter.values import Family
from rules.plan.names import PASSTHROUGH
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
REQUEST_DUMP = 0x001 | 0x300
DUMP_INTERRUPTED = 0x010
"""NLM_F_DUMP_INTR: what is being told changed meanwhile, and may be told in part or twice."""
REQUEST_ACK = 0x001 | 0x004
AT_ONCE = 100
"""Requests that are sent before the answers are read, so that these fit into what may wait for us."""
NLMSG_ERROR, NLMSG_DONE = 2, 3
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NLMSGERR_ATTR_MSG = 270, 10, 11, 1
CREATE = 0x200 | 0x400
"""NLM_F_EXCL and NLM_F_CREATE."""
RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE = 22, 26, 34
IFA_ADDRESS, IFA_LOCAL, IFA_PROTO = 1, 2, 11
RTA_TABLE = 15
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY = 1, 4, 5, 6
KERNEL_TABLES = frozenset({TABLE_MAIN, TABLE_LOCAL})
"""The tables that are not read for what TPROXY needs: they can be large."""
ROUTE_KINDS = ("unspec", "unicast", "local", "broadcast", "anycast", "multicast", *REFUSALS, "throw", "nat", "xresolve")
"""RTN_* of linux/rtnetlink.h, by number."""
RTN_LOCAL = ROUTE_KINDS.index("local")
# linux/fib_rules.h
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 4, 6, 10
FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_UID_RANGE = 14, 15, 16, 17, 20
FRA_PROTOCOL, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE = 21, 22, 23, 24
FRA_SPOKEN = frozenset((1, 2, 3, 4, 6, 10, 14, 15, 16, 17, 18, 20, 21, 22, 23, 24))
"""The attributes above; 18 is padding."""
FRA_NAMES = {11: "realms", 12: "tun_id", 13: "suppress_ifgroup", 19: "l3mdev", 25: "dscp", 26: "flowlabel"}
"""Some of the others, in the words of ip-rule(8)."""
RULE_ACTIONS = {1: LOOKUP, 2: GOTO, 3: NOP, 6: BLACKHOLE, 7: UNREACHABLE, 8: PROHIBIT}
FIB_RULE_INVERT = 2
WHOLE, NONE = 0xFFFFFFFF, b"\xff" * 4
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE = 10 << 8 | 1, 10 << 8 | 4, 10 << 8 | 7
NFTA_TABLE_NAME, NFTA_TABLE_FLAGS = 1, 2
NFTA_CHAIN_TABLE, NFTA_CHAIN_HANDLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK = 1, 2, 3, 4
NFTA_CHAIN_POLICY, NFTA_CHAIN_USE, NFTA_CHAIN_TYPE = 5, 6, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS = 1, 2, 4
HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
FAMILIES = {2: Family.V4, 10: Family.V6}
"""AF_INET and AF_INET6, which are also NFPROTO_IPV4 and NFPROTO_IPV6."""

NUMBERS = {family: number for number, family in FAMILIES.items()}


class Address(Value):
    """An address of an interface in this namespace."""

    ip: IPv4Address | IPv6Address
    prefix: int
    protocol: int = 0
    """Who says to have put it there (IFA_PROTO, Linux 5.18 and later)."""
    interface: int = 0
    """The index of its interface."""

    @property
    def is_usable(self) -> bool:
        """Whether it is one that other hosts could reach: neither loopback, nor link-local, nor our own `::6`."""
        return not (self.ip.is_loopback or self.ip.is_link_local or self.ip in PASSTHROUGH[Family.V6])

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix}"


def addresses() -> tuple[Address, ...]:
    """Every address of this namespace, in the kernel's order: IPv4 before IPv6. Needs no privilege.

    Raises OSError if the kernel does not answer.
    """
    found = []
    for message in dump(NETLINK_ROUTE, RTM_GETADDR, bytes(8)):
        family, prefix = message[0], message[1]
        if family in FAMILIES:
            read = attributes(message[8:])
            # On a point-to-point link IFA_ADDRESS is the other end; the address itself is IFA_LOCAL.
            raw = read.get(IFA_LOCAL) or read.get(IFA_ADDRESS)
            if raw:
                protocol = number(read.get(IFA_PROTO))
                found.append(Address(ip_address(raw), prefix, protocol, number(message[4:8])))
    return tuple(found)


def policy_rules() -> tuple[PolicyRule, ...]:
    """The ip rules of this namespace, of each family in the order in which they are asked.

    Needs no privilege. Raises OSError if the kernel does not answer.
    """
    return tuple(
        policy_rule(message, attributes(message[12:]))
        for message in dump(NETLINK_ROUTE, RTM_GETRULE, bytes(12))
        if message[0] in FAMILIES
    )


def policy_rule(message: bytes, read: dict[int, bytes]) -> PolicyRule:
    """A rule from its message (struct fib_rule_hdr of linux/fib_rules.h)."""
    family, destination_length, source_length, tos, table, _, _, action = message[:8]
    mark, goto = number(read.get(FRA_FWMARK)), number(read.get(FRA_GOTO))
    suppressed = read.get(FRA_SUPPRESS_PREFIXLEN, NONE)
    # All bits are what stands for nothing in particular: no group, or every bit of a port.
    more = (kind for kind, raw in read.items() if kind not in FRA_SPOKEN and raw.strip(b"\xff"))
    return PolicyRule(
        FAMILIES[family],
        number(read.get(FRA_PRIORITY)),
        mark,
        goto or number(read.get(FRA_TABLE)) or table,
        number(read.get(FRA_PROTOCOL)),
        number(read.get(FRA_FWMASK)) or (WHOLE if mark else 0),
        RULE_ACTIONS.get(action, str(action)),
        bool(number(message[8:12]) & FIB_RULE_INVERT),
        network_of(read.get(FRA_SRC), source_length),
        network_of(read.get(FRA_DST), destination_length),
        text(read.get(FRA_IIFNAME, b"")),
        text(read.get(FRA_OIFNAME, b"")),
        number(read.get(FRA_IP_PROTO)),
        pair(read.get(FRA_SPORT_RANGE)),
        pair(read.get(FRA_DPORT_RANGE)),
        pair(read.get(FRA_UID_RANGE)),
        tos,
        None if suppressed == NONE else number(suppressed),
        tuple(FRA_NAMES.get(kind, f"attribute {kind}") for kind in more),
    )


def routes(*, passed_over: frozenset[int] = KERNEL_TABLES) -> tuple[Route, ...]:
    """The routes of this namespace, in the kernel's order, but for those tables. Needs no privilege. Raises OSError
    likewise.
    """
    found = []
    for message in dump(NETLINK_ROUTE, RTM_GETROUTE, bytes(12)):
        family, prefix, _, tos, table, protocol, _, kind = message[:8]
        if family in FAMILIES and table not in passed_over:
            read = attributes(message[12:])
            table = number(read.get(RTA_TABLE)) or table
            via, metric = read.get(RTA_GATEWAY), number(read.get(RTA_PRIORITY))
            place = (network_of(read.get(RTA_DST), prefix), ROUTE_KINDS[kind], metric, tos)
            device = name_of(number(read.get(RTA_OIF)))
            found.append(Route(FAMILIES[family], table, protocol, *place, device, ip_address(via) if via else None))
    return tuple(found)


def network_of(raw: bytes | None, length: int) -> IPv4Network | IPv6Network | None:
    """The network of an address attribute; None where every address is meant."""
    return ip_network((raw, length), strict=False) if raw and length else None


def pair(raw: bytes | None) -> tuple[int, int] | None:
    """A range: two numbers of one size, in this machine's byte order."""
    if not raw:
        return None
    half = len(raw) // 2
    return number(raw[:half]), number(raw[half:])


def name_of(index: int) -> str:
    """The name of an interface; empty if there is none."""
    try:
        return _socket.if_indextoname(index)
    except OSError:
        return ""


def number(raw: bytes | None) -> int:
    """An unsigned attribute in this machine's byte order; 0 if it is not there."""
    return int.from_bytes(raw or b"", sys.byteorder)


def nft_tables() -> tuple[dict[Family, frozenset[str]], frozenset[str]]:
    """The names of the nf_tables tables of this namespace: of the families that iptables has, and of all others.

    Raises PermissionError without CAP_NET_ADMIN, and another OSError if the kernel has no nf_tables.
    """
    found: dict[Family, set[str]] = {family: set() for family in Family}
    others = set()
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, bytes(4)):
        name = text(attributes(message[4:])[NFTA_TABLE_NAME])
        if message[0] in FAMILIES:
            found[FAMILIES[message[0]]].add(name)
        else:
            others.add(name)
    return {family: frozenset(names) for family, names in found.items()}, frozenset(others)


class NftChain(Value):
    """A chain of nf_tables."""

    use: int
    """How many rules and references it has."""
    handle: int
    """Its number in its table, in the order of their making."""
    base: tuple[str, int, int, int] | None = None
    """Of a base chain: its type, hook, priority and policy, 1 for accept."""


def nft_chains() -> dict[tuple[Family, str], dict[str, NftChain]]:
    """The chains of each nf_tables table that has any. Raises OSError as `nft_tables`."""
    found: dict[tuple[Family, str], dict[str, NftChain]] = {}
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETCHAIN, bytes(4)):
        if message[0] in FAMILIES:
            read = attributes(message[4:])
            table = found.setdefault((FAMILIES[message[0]], text(read[NFTA_CHAIN_TABLE])), {})
            use, handle, policy = map(read.get, (NFTA_CHAIN_USE, NFTA_CHAIN_HANDLE, NFTA_CHAIN_POLICY))
            base = None
            if NFTA_CHAIN_HOOK in read:
                hook = attributes(read[NFTA_CHAIN_HOOK])
                at, priority = big(hook.get(NFTA_HOOK_HOOKNUM)), big(hook.get(NFTA_HOOK_PRIORITY), signed=True)
                base = text(read.get(NFTA_CHAIN_TYPE, b"")), at, priority, big(policy)
            table[text(read[NFTA_CHAIN_NAME])] = NftChain(big(use), big(handle), base)
    return found


def nft_table_flags(family: Family, table: str) -> int | None:
    """The flags of an nf_tables table, 1 for a dormant one; None if it is not there. Raises OSError as `nft_tables`."""
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, bytes(4)):
        read = attributes(message[4:])
        if FAMILIES.get(message[0]) is family and text(read[NFTA_TABLE_NAME]) == table:
            return big(read.get(NFTA_TABLE_FLAGS))
    return None


def big(raw: bytes | None, *, signed: bool = False) -> int:
    """An attribute of nf_tables, in network order; 0 if it is not there."""
    return int.from_bytes(raw or b"", "big", signed=signed)


def nft_rules(family: Family) -> dict[tuple[str, str], list[dict[int, bytes]]]:
    """The rules of each nf_tables chain of this family that has any, by table and chain, as their attributes.

    Raises OSError as `nft_tables`.
    """
    found: dict[tuple[str, str], list[dict[int, bytes]]] = {}
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETRULE, bytes([NUMBERS[family], 0, 0, 0])):
        read = attributes(message[4:])
        found.setdefault((text(read[NFTA_RULE_TABLE]), text(read[NFTA_RULE_CHAIN])), []).append(read)
    return found


def text(raw: bytes) -> str:
    """A string attribute, which ends with a zero. Bytes that are no UTF-8 are surrogates, as in what a child says."""
    return raw.rstrip(b"\0").decode(errors="surrogateescape")


@primitive
def dump(protocol: int, question: int, payload: bytes) -> Sequence[bytes]:
    """The messages that answer a dump request, without their netlink headers (netlink(7)).

    Raises OSError if the kernel does not answer, after some attempts where it only cannot for the moment.
    """
    return patiently(lambda: list(dumped(protocol, question, payload)))


def dumped(protocol: int, question: int, payload: bytes) -> Iterator[bytes]:
    """The same, tried once. Raises InterruptedError where others changed what was being told."""
    with talking(protocol) as kernel:
        kernel.send(HEADER.pack(HEADER.size + len(payload), question, REQUEST_DUMP, 1, 0) + payload)
        while True:
            for kind, flags, _, body in messages(kernel.recv(1 << 16)):
                if flags & DUMP_INTERRUPTED:
                    raise InterruptedError(errno.EINTR, "it changes faster than it can be read")
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    error = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if error:
                        raise OSError(error, os.strerror(error))
                    return
                yield body


def talking(protocol: int) -> closing[_socket.socket]:
    """A netlink socket, closed behind the block. The `socket` module takes as long to import as half of our own."""
    return closing(_socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, protocol))


def is_absence(error: OSError) -> bool:
    """Whether this error means that the kernel has no such thing, and not that it could not be asked."""
    return error.errno in ABSENT


ABSENT = frozenset(
    {
        errno.EAFNOSUPPORT,
        errno.EINVAL,  # nfnetlink knows no such subsystem (nfnetlink_rcv_msg)
        errno.ENOENT,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
    }
)


@primitive
def acknowledged(protocol: int, requests: Sequence[tuple[int, int, bytes]]) -> list[OSError | None]:
    """Send requests, each a type, flags and a payload, one after the other. What each was refused with, or None.

    Raises OSError where the kernel cannot be asked at all.
    """
    errors: list[OSError | None] = []
    with talking(protocol) as kernel:
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            kernel.setsockopt(SOL_NETLINK, option, 1)
        for at in range(0, len(requests), AT_ONCE):
            some = requests[at : at + AT_ONCE]
            kernel.send(
                b"".join(
                    HEADER.pack(HEADER.size + len(body), kind, REQUEST_ACK | flags, number, 0) + body
                    for number, (kind, flags, body) in enumerate(some)
                )
            )
            while len(errors) < at + len(some):
                errors += [refusal(body) for kind, _, _, body in messages(kernel.recv(1 << 16)) if kind == NLMSG_ERROR]
    return errors


def refusal(answer: bytes) -> OSError | None:
    """What a request was refused with, in the kernel's own words if it has any; None if it was not.

    The answer is struct nlmsgerr, without the request's payload (NETLINK_CAP_ACK), and its attributes.
    """
    error = -struct.unpack_from("=i", answer)[0]
    words = text(attributes(answer[4 + HEADER.size :]).get(NLMSGERR_ATTR_MSG, b""))
    return OSError(error, words or os.strerror(error)) if error else None


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute of a request, as long as netlink(7) wants it."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def messages(received: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Each message in what was received: its type, its flags, the number of the request it answers, and its body.

    Raises OSError for what is cut off.
    """
    at = 0
    while at < len(received):
        length = HEADER.unpack_from(received, at)[0] if at + HEADER.size <= len(received) else 0
        if length < HEADER.size or at + length > len(received):
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        _, kind, flags, number, _ = HEADER.unpack_from(received, at)
        yield kind, flags, number, received[at + HEADER.size : at + length]
        at += length + 3 & ~3


def attributes(raw: bytes) -> dict[int, bytes]:
    """The attributes of a message, by type."""
    return dict(pairs(raw))


def pairs(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The same one by one, with their types: in a list all have one."""
    at = 0
    while at + ATTRIBUTE.size <= len(raw):
        length, kind = ATTRIBUTE.unpack_from(raw, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, raw[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
