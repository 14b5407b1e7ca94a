"""A second witness of ip rules, routes and addresses: pyroute2, beside the netlink messages that we read ourselves.

What TPROXY and `::6` stand on is read, and written, by a few dozen lines of our own, which no pod has to load a library
for. pyroute2 reads the same from the kernel with code that has nothing in common with them.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pyroute2 import IPRoute, NetlinkError

from capture.errors import LiveStateUnreadable
from capture.netlink.rtnetlink import KERNEL_TABLES, RTN_LOCAL
from rules.netfilter.values import Family
from rules.routing.policy import LOCAL, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.host.live import Live

FAMILIES = {int(socket.AF_INET): Family.V4, int(socket.AF_INET6): Family.V6}


def pyroute2_differences(live: Live) -> list[str]:
    """What only one of the two knows of, a sentence each; nothing if they agree.

    Compared are the ip rules with what ours ask for, the local routes outside of the kernel's own tables, and all
    addresses. For the namespace we are in. Raises LiveStateUnreadable if pyroute2 is not answered.
    """
    try:
        with IPRoute() as kernel:
            theirs = {*rules(kernel), *routes(kernel), *addresses(kernel)}
    except (NetlinkError, OSError) as error:
        raise LiveStateUnreadable(f"pyroute2 cannot read ip rules, routes and addresses: {error}") from error
    ours = set(of_live(live))
    return [
        *(f"{line}: we read it, and pyroute2 does not" for line in sorted(ours - theirs)),
        *(f"{line}: pyroute2 reads it, and we do not" for line in sorted(theirs - ours)),
    ]


def of_live(live: Live) -> Iterator[str]:
    """What we read ourselves, in the same words."""
    for rule in live.policy_rules:
        yield rule_line(rule.family, rule.priority, rule.mark, rule.mask, rule.table, rule.protocol)
    for route in live.routes:
        if route.kind == LOCAL:
            yield route_line(route.family, route.table, route.protocol, route.device)
    for address in live.addresses:
        yield f"address {address}"


def rules(kernel: IPRoute) -> Iterator[str]:
    for family, named in FAMILIES.items():
        for message in kernel.get_rules(family=family):
            mark, mask = message.get("fwmark") or 0, message.get("fwmask")
            mask = (WHOLE if mark else 0) if mask is None else mask
            table = message.get("goto") or message.get("table") or 0
            yield rule_line(named, message.get("priority") or 0, mark, mask, table, message.get("protocol") or 0)


def routes(kernel: IPRoute) -> Iterator[str]:
    for family, named in FAMILIES.items():
        for message in kernel.get_routes(family=family):
            table = message.get("table") or 0
            if message["type"] == RTN_LOCAL and table not in KERNEL_TABLES:
                yield route_line(named, table, message["proto"], socket.if_indextoname(message.get("oif")))


def addresses(kernel: IPRoute) -> Iterator[str]:
    for message in kernel.get_addr():
        if message["family"] in FAMILIES:
            yield f"address {message.get('local') or message.get('address')}/{message['prefixlen']}"


def rule_line(family: Family, priority: int, mark: int, mask: int, table: int, protocol: int) -> str:
    return f"{family.value} ip rule {priority}: fwmark {mark:#x}/{mask:#x} lookup {table} proto {protocol}"


def route_line(family: Family, table: int, protocol: int, device: str) -> str:
    return f"{family.value} route local dev {device} table {table} proto {protocol}"
