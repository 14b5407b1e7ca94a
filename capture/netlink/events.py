"""What the kernel tells by itself: new connections, changes of rules, and changes of ip rules, routes and addresses.

Multicast groups of netlink, read without a library: a watch may run for weeks beside an application.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from capture.netlink import ctnetlink, messages
from rules.connections.attribution import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_tables.h, linux/rtnetlink.h
CONNTRACK_NEW, NFTABLES = 1, 7
"""NFNLGRP_CONNTRACK_NEW and NFNLGRP_NFTABLES."""
ROUTING_GROUPS = (7, 8, 9, 11, 19)
"""RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE."""
NFT_MSG_NEWGEN = 10 << 8 | 15
NFTA_GEN_PROC_NAME = 3
CTA_ZONE = 18
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
ROOM = 4 << 20
"""Bytes of messages that may wait for us."""
SO_RCVBUFFORCE = 33
"""asm-generic/socket.h"""


class Subscription:
    """Messages of some groups, as they come."""

    def __init__(self, protocol: int, *groups: int) -> None:
        """Raises OSError, PermissionError where the capability is lacking."""
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self.lost = 0
        """How often messages were dropped because too many waited."""
        try:
            self.socket.setblocking(False)
            self.socket.bind((0, 0))
            for group in groups:
                self.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
            except OSError:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        except OSError:
            self.socket.close()
            raise

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def waiting(self) -> Iterator[tuple[int, bytes]]:
        """The messages that have come: type and body. None more when nothing waits."""
        while True:
            try:
                received = self.socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            at = 0
            while at + messages.HEADER.size <= len(received):
                length, kind, _, _, _ = messages.HEADER.unpack_from(received, at)
                yield kind, received[at + messages.HEADER.size : at + length]
                at += max(length + 3 & ~3, messages.HEADER.size)


SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1


def connections() -> Subscription:
    """New connections of this namespace. Raises OSError."""
    return Subscription(messages.NETLINK_NETFILTER, CONNTRACK_NEW)


def rule_changes() -> Subscription:
    """Changes in nf_tables. Raises OSError."""
    return Subscription(messages.NETLINK_NETFILTER, NFTABLES)


def routing_changes() -> Subscription:
    """Changes of ip rules, routes and IPv6 addresses. Raises OSError."""
    return Subscription(messages.NETLINK_ROUTE, *ROUTING_GROUPS)


def connection(kind: int, body: bytes) -> Connection | None:
    """The connection that a message tells of, if it has ports."""
    if kind != ctnetlink.IPCTNL_MSG_CT_NEW or body[:1] not in (b"\x02", b"\x0a"):
        return None
    read = messages.attributes(body[ctnetlink.NFGENMSG :])
    began, answers = (
        ctnetlink.flow_of(read.get(which, b"")) for which in (ctnetlink.CTA_TUPLE_ORIG, ctnetlink.CTA_TUPLE_REPLY)
    )
    if began is None or answers is None:
        return None
    return Connection(
        began.family,
        PROTOCOLS.get(began.protocol, str(began.protocol)),
        began.source,
        began.source_port,
        began.destination,
        began.destination_port,
        answers.source,
        answers.source_port,
        messages.big(read.get(CTA_ZONE)),
    )


def who_changed(kind: int, body: bytes) -> str | None:
    """The name of the process that committed a change of nf_tables, where the kernel tells."""
    if kind != NFT_MSG_NEWGEN:
        return None
    read = messages.attributes(body[ctnetlink.NFGENMSG :])
    return read.get(NFTA_GEN_PROC_NAME, b"").rstrip(b"\0").decode(errors="replace")
