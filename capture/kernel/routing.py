"""What is written through rtnetlink: ip rules, routes and addresses.

pyroute2 does the talking. Importing it takes longer than everything else on the init path together, so this module
imports it when something is to be written, which an IPv4 capture never needs.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager

from capture.kernel import netlink
from capture.kernel.seam import primitive
from rules.netfilter.values import Family
from rules.plan.names import LOOPBACK_INTERFACE, PASSTHROUGH, PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyroute2 import IPRoute

PASSTHROUGH_ADDRESS = PASSTHROUGH[Family.V6]
HOST_SCOPE = 254
"""RT_SCOPE_HOST of linux/rtnetlink.h, which an IPv4 route of type local must have."""
RTN_LOCAL = netlink.RTN_LOCAL


@primitive
def add_passthrough_address() -> None:
    """`ip -6 addr add ::6/128 dev lo`. Raises OSError; it is no error if it is there already."""
    address, prefix = str(PASSTHROUGH_ADDRESS.network_address), PASSTHROUGH_ADDRESS.prefixlen
    with talking(harmless=errno.EEXIST) as kernel:
        kernel.addr("add", index=index_of_lo(kernel), address=address, prefixlen=prefix, proto=PROTOCOL)


@primitive
def remove_passthrough_address() -> None:
    """`ip -6 addr del ::6/128 dev lo`. Raises OSError; it is no error if it is not there."""
    address, prefix = str(PASSTHROUGH_ADDRESS.network_address), PASSTHROUGH_ADDRESS.prefixlen
    with talking(harmless=errno.EADDRNOTAVAIL) as kernel:
        kernel.addr("del", index=index_of_lo(kernel), address=address, prefixlen=prefix)


@primitive
def add_route(family: Family, table: int) -> None:
    """`ip route add local default dev lo table TABLE`. Raises OSError; it is no error if it is there already."""
    with talking(harmless=errno.EEXIST) as kernel:
        kernel.route("add", **route(kernel, family, table))


@primitive
def remove_route(family: Family, table: int) -> None:
    """The same with `del`. Raises OSError; it is no error if it is not there."""
    with talking(harmless=errno.ESRCH) as kernel:
        kernel.route("del", **route(kernel, family, table))


def route(kernel: IPRoute, family: Family, table: int) -> dict[str, object]:
    scope = {"scope": HOST_SCOPE} if family is Family.V4 else {}
    return {
        "family": netlink.NUMBERS[family],
        "dst": "default",
        "type": RTN_LOCAL,
        "oif": index_of_lo(kernel),
        "table": table,
        "proto": PROTOCOL,
        **scope,
    }


@primitive
def add_rule(family: Family, priority: int, mark: int, table: int) -> None:
    """`ip rule add priority N fwmark MARK lookup TABLE`. Raises OSError; it is no error if it is there already."""
    with talking(harmless=errno.EEXIST) as kernel:
        kernel.rule("add", **rule(family, priority, mark, table))


@primitive
def remove_rule(family: Family, priority: int, mark: int, table: int) -> None:
    """The same with `del`. Raises OSError; it is no error if it is not there."""
    with talking(harmless=errno.ENOENT) as kernel:
        kernel.rule("del", **rule(family, priority, mark, table))


def rule(family: Family, priority: int, mark: int, table: int) -> dict[str, object]:
    return {
        "family": netlink.NUMBERS[family],
        "priority": priority,
        "fwmark": mark,
        "table": table,
        "protocol": PROTOCOL,
    }


@contextmanager
def talking(*, harmless: int) -> Iterator[IPRoute]:
    """A conversation with rtnetlink in which one error number is none. Raises OSError for any other."""
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as kernel:
        try:
            yield kernel
        except NetlinkError as error:
            if error.code != harmless:
                raise OSError(error.code, str(error)) from error


def index_of_lo(kernel: IPRoute) -> int:
    found: list[int] = list(kernel.link_lookup(ifname=LOOPBACK_INTERFACE))
    return found[0]
