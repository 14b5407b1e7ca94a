"""What is written through rtnetlink(7): ip rules, routes and addresses.

Three requests are all that dual stack and TPROXY need, and pyroute2 takes longer to import than all else together.
"""

from __future__ import annotations

import errno
import sys
from _socket import if_nametoindex

from capture.kernel.seam import primitive
from capture.netlink import messages, rtnetlink
from capture.netlink.messages import CREATE, NETLINK_ROUTE, NUMBERS, attribute
from rules.netfilter.values import Family
from rules.plan.names import LOOPBACK_INTERFACE, PASSTHROUGH, PROTOCOL

# linux/rtnetlink.h, linux/if_addr.h, linux/fib_rules.h
RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE = 20, 21, 24, 25, 32, 33
RT_SCOPE_UNIVERSE, RT_SCOPE_HOST = 0, 254
"""An IPv4 route of type local must be of the second."""
FR_ACT_TO_TBL = 1
"""The action of an ip rule that has a table looked up."""


@primitive
def add_passthrough_address() -> None:
    """`ip -6 addr add ::6/128 dev lo`. Raises OSError; it is no error if it is there already."""
    ask(RTM_NEWADDR, CREATE, passthrough_address(), harmless=errno.EEXIST)


@primitive
def remove_passthrough_address() -> None:
    """`ip -6 addr del ::6/128 dev lo`. Raises OSError; it is no error if it is not there."""
    ask(RTM_DELADDR, 0, passthrough_address(), harmless=errno.EADDRNOTAVAIL)


def passthrough_address() -> bytes:
    """`::6` on lo (struct ifaddrmsg)."""
    network = PASSTHROUGH[Family.V6]
    head = bytes([NUMBERS[Family.V6], network.prefixlen, 0, RT_SCOPE_UNIVERSE]) + index_of_lo()
    return (
        head + attribute(rtnetlink.IFA_ADDRESS, network.network_address.packed) + attribute(rtnetlink.IFA_PROTO, BY_US)
    )


@primitive
def add_route(family: Family, table: int) -> None:
    """`ip route add local default dev lo table TABLE`. Raises OSError; it is no error if it is there already."""
    ask(RTM_NEWROUTE, CREATE, route(family, table), harmless=errno.EEXIST)


@primitive
def remove_route(family: Family, table: int) -> None:
    """The same with `del`. Raises OSError; it is no error if it is not there."""
    ask(RTM_DELROUTE, 0, route(family, table), harmless=errno.ESRCH)


def route(family: Family, table: int) -> bytes:
    """Everything is local, by way of lo (struct rtmsg)."""
    scope = RT_SCOPE_HOST if family is Family.V4 else RT_SCOPE_UNIVERSE
    head = bytes([NUMBERS[family], 0, 0, 0, 0, PROTOCOL, scope, rtnetlink.RTN_LOCAL]) + bytes(4)
    return head + attribute(rtnetlink.RTA_TABLE, number(table)) + attribute(rtnetlink.RTA_OIF, index_of_lo())


@primitive
def add_rule(family: Family, priority: int, mark: int, table: int) -> None:
    """`ip rule add priority N fwmark MARK lookup TABLE`. Raises OSError; it is no error if it is there already."""
    ask(RTM_NEWRULE, CREATE, rule(family, priority, mark, table), harmless=errno.EEXIST)


@primitive
def remove_rule(family: Family, priority: int, mark: int, table: int) -> None:
    """The same with `del`. Raises OSError; it is no error if it is not there."""
    ask(RTM_DELRULE, 0, rule(family, priority, mark, table), harmless=errno.ENOENT)


def rule(family: Family, priority: int, mark: int, table: int) -> bytes:
    """What has this mark is looked up in this table (struct fib_rule_hdr)."""
    head = bytes([NUMBERS[family], 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL]) + bytes(4)
    wanted = {rtnetlink.FRA_PRIORITY: priority, rtnetlink.FRA_FWMARK: mark, rtnetlink.FRA_TABLE: table}
    payload = b"".join(attribute(kind, number(value)) for kind, value in wanted.items())
    return head + payload + attribute(rtnetlink.FRA_PROTOCOL, BY_US)


BY_US = bytes([PROTOCOL])


def number(value: int) -> bytes:
    """An unsigned 32-bit number in this machine's byte order."""
    return value.to_bytes(4, sys.byteorder)


def index_of_lo() -> bytes:
    return number(if_nametoindex(LOOPBACK_INTERFACE))


def ask(kind: int, flags: int, body: bytes, *, harmless: int) -> None:
    """Have rtnetlink do this. Raises OSError, but not for that error number."""
    (refused,) = messages.acknowledged(NETLINK_ROUTE, [(kind, flags, body)])
    if refused and refused.errno != harmless:
        raise refused
