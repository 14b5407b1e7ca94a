"""The TCP and UDP sockets of this namespace, as sock_diag(7) lists them. Looking needs no privilege."""

from __future__ import annotations

import _socket
import struct

from capture.netlink import messages
from rules.addresses import IPv4Address, IPv6Address
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

# linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
PROTOCOLS: dict[Literal["tcp", "udp"], int] = {"tcp": 6, "udp": 17}
REQUEST = struct.Struct("=BBBxI48x")
"""struct inet_diag_req_v2: family, protocol, extensions, states as a mask, and no socket in particular."""
MESSAGE = struct.Struct("=BBxx2s2s16s16sIIIIIIII")
"""struct inet_diag_msg: family, state, ports, addresses, interface, cookie, expiry, queues, uid and inode."""
INET_DIAG_SKV6ONLY, INET_DIAG_SOCKOPT = 11, 22
FREEBIND, TRANSPARENT = 1 << 2, 1 << 5
"""Bits of struct inet_diag_sockopt."""
IP_FREEBIND, IPV6_FREEBIND = 15, 78
"""linux/in.h, linux/in6.h"""
LISTENING, UNCONNECTED, TIME_WAIT = 10, 7, 6
"""TCP_LISTEN; TCP_CLOSE, which is the state of a UDP socket that hears anybody; and TCP_TIME_WAIT."""
OPEN = 0xFFF & ~(1 << TIME_WAIT)
"""As a mask: any state of a TCP socket but that of one whose connection has ended. A busy pod has tens of thousands."""


class Socket(Value):
    """A socket, and whose it is."""

    protocol: Literal["tcp", "udp"]
    address: IPv4Address | IPv6Address
    port: int
    peer: IPv4Address | IPv6Address
    """Whom it is connected with; the wildcard if with nobody."""
    peer_port: int
    state: int
    uid: int
    """Who opened it; 0 for one that the kernel keeps after its end, or that nobody has accepted yet."""
    inode: int
    """0 for one that the kernel keeps after its end, or that nobody has accepted yet."""
    only_ipv6: bool = False
    """Whether a listener of IPv6 hears no IPv4 (IPV6_V6ONLY)."""
    is_transparent: bool = False
    """Whether it may have an address that is not ours (IP_TRANSPARENT)."""
    is_stand_in: bool = False
    """Whether it is a listener of a validation: see `mark_as_stand_in`."""


def mark_as_stand_in(opened: _socket.socket) -> None:
    """Have others know a listener on loopback as one that stands in for the proxy for the length of a validation.

    IP_FREEBIND (ip(7)) makes no difference to an address that is there, takes no privilege, and is told by sock_diag.
    """
    if opened.family == _socket.AF_INET6:
        opened.setsockopt(_socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        opened.setsockopt(_socket.IPPROTO_IP, IP_FREEBIND, 1)


def listeners() -> tuple[Socket, ...]:
    """The TCP sockets that listen, and the UDP sockets that hear anybody. Raises OSError."""
    return (*sockets("tcp", 1 << LISTENING), *sockets("udp", 1 << UNCONNECTED))


def connections(*, ended: bool = False) -> tuple[Socket, ...]:
    """Both ends of every TCP connection, as far as they are here; on demand where it has just ended. Raises OSError."""
    states = OPEN & ~(1 << LISTENING) & ~(1 << UNCONNECTED) | ended << TIME_WAIT
    return tuple(sockets("tcp", states))


def sockets(protocol: Literal["tcp", "udp"], states: int) -> Iterator[Socket]:
    """The sockets of this protocol, of both families, that are in one of these states. Raises OSError."""
    for family in messages.FAMILIES:
        request = REQUEST.pack(family, PROTOCOLS[protocol], 0, states)
        for message in messages.dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, request):
            kind, state, port, peer_port, address, peer, *_, uid, inode = MESSAGE.unpack_from(message)
            more = messages.attributes(message[MESSAGE.size :])
            options = more.get(INET_DIAG_SOCKOPT, b"\0")[0]
            own = read_address(kind, address)
            yield Socket(
                protocol,
                own,
                int.from_bytes(port, "big"),
                read_address(kind, peer),
                int.from_bytes(peer_port, "big"),
                state,
                uid,
                inode,
                more.get(INET_DIAG_SKV6ONLY) == b"\1",
                bool(options & TRANSPARENT),
                bool(options & FREEBIND and own.is_loopback),
            )


def read_address(family: int, raw: bytes) -> IPv4Address | IPv6Address:
    """An address; one of IPv4 that a socket of IPv6 has as well."""
    if messages.FAMILIES[family].value == "IPv4":
        return IPv4Address(raw[:4])
    address = IPv6Address(raw)
    return address.ipv4_mapped or address
