"""Addresses, ip rules and routes, as rtnetlink(7) lists them. Looking needs no privilege."""

from __future__ import annotations

import _socket

from capture.netlink.messages import FAMILIES, NETLINK_ROUTE, attributes, dump, number, text
from rules.addresses import ip_address, ip_network
from rules.netfilter.values import Family
from rules.plan.names import PASSTHROUGH
from rules.routing.policy import (
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
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.addresses import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# linux/rtnetlink.h, linux/if_addr.h
RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE = 22, 26, 34
IFA_ADDRESS, IFA_LOCAL, IFA_PROTO = 1, 2, 11
RTA_TABLE = 15
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
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
    if the kernel does not answer.
    """
    found = []
    for message in dump(NETLINK_ROUTE, RTM_GETROUTE, bytes(12)):
        family, prefix, _, tos, table, protocol, _, kind = message[:8]
        if family in FAMILIES and table not in passed_over:
            read = attributes(message[12:])
            table = number(read.get(RTA_TABLE)) or table
            metric, device = number(read.get(RTA_PRIORITY)), name_of(number(read.get(RTA_OIF)))
            place = (network_of(read.get(RTA_DST), prefix), ROUTE_KINDS[kind], metric, tos)
            named = (ip_address(raw) if raw else None for raw in map(read.get, (RTA_GATEWAY, RTA_PREFSRC)))
            found.append(Route(FAMILIES[family], table, protocol, *place, device, *named))
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
