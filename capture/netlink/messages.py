"""Netlink, as init can afford it: a question, a request, and the messages that answer (netlink(7)).

A dump is a dozen lines. Importing pyroute2 takes ten times the CPU of everything else on the init path, and `nft list
tables` or `ip rule` a fork each.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
from _struct import Struct, unpack_from  # what `struct` wraps, which takes its time to import

from capture.kernel.blocks import contextmanager
from capture.kernel.process import patiently
from capture.kernel.seam import primitive
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# linux/netlink.h
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
HEADER = Struct("=IHHII")
ATTRIBUTE = Struct("=HH")
FAMILIES = {2: Family.V4, 10: Family.V6}
"""AF_INET and AF_INET6, which are also NFPROTO_IPV4 and NFPROTO_IPV6."""
NUMBERS = {family: number for number, family in FAMILIES.items()}


def number(raw: bytes | None) -> int:
    """An unsigned attribute in this machine's byte order; 0 if it is not there."""
    return int.from_bytes(raw or b"", sys.byteorder)


def big(raw: bytes | None, *, signed: bool = False) -> int:
    """An attribute of nf_tables, in network order; 0 if it is not there."""
    return int.from_bytes(raw or b"", "big", signed=signed)


def text(raw: bytes) -> str:
    """A string attribute, which ends with a zero. Bytes that are no UTF-8 are surrogates, as in what a child says."""
    return raw.rstrip(b"\0").decode(errors="surrogateescape")


@primitive
def dump(protocol: int, question: int, payload: bytes) -> Sequence[bytes]:
    """The messages that answer a dump request, without their netlink headers (netlink(7)).

    Raises OSError if the kernel does not answer, after some attempts where it only cannot for the moment.
    """
    return patiently(lambda: dumped(protocol, question, payload))


def dumped(protocol: int, question: int, payload: bytes) -> list[bytes]:
    """The same, tried once. Raises InterruptedError where others changed what was being told."""
    found: list[bytes] = []
    with talking(protocol) as kernel:
        kernel.send(HEADER.pack(HEADER.size + len(payload), question, REQUEST_DUMP, 1, 0) + payload)
        while True:
            for kind, flags, _, body in messages(kernel.recv(1 << 16)):
                if flags & DUMP_INTERRUPTED:
                    raise InterruptedError(errno.EINTR, "it changes faster than it can be read")
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    error = -unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if error:
                        raise OSError(error, os.strerror(error))
                    return found
                found.append(body)


@contextmanager
def talking(protocol: int) -> Iterator[_socket.socket]:
    """A netlink socket, closed behind the block. The `socket` module takes as long to import as half of our own."""
    kernel = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, protocol)
    try:
        yield kernel
    finally:
        kernel.close()


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
    error = -unpack_from("=i", answer)[0]
    words = text(attributes(answer[4 + HEADER.size :]).get(NLMSGERR_ATTR_MSG, b""))
    return OSError(error, words or os.strerror(error)) if error else None


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute of a request, as long as netlink(7) wants it."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def messages(received: bytes) -> list[tuple[int, int, int, bytes]]:
    """Each message in what was received: its type, its flags, the number of the request it answers, and its body.

    Raises OSError for what is cut off.
    """
    found = []
    at, end, header, read = 0, len(received), HEADER.size, HEADER.unpack_from  # a list may have very many
    while at < end:
        length, kind, flags, number, _ = read(received, at) if at + header <= end else (0, 0, 0, 0, 0)
        if length < header or at + length > end:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        found.append((kind, flags, number, received[at + header : at + length]))
        at += length + 3 & ~3
    return found


def attributes(raw: bytes) -> dict[int, bytes]:
    """The attributes of a message, by type. Not by way of `pairs`: a node's rules have ten thousands of them."""
    found = {}
    at, end = 0, len(raw) - ATTRIBUTE.size
    while at <= end:
        length, kind = ATTRIBUTE.unpack_from(raw, at)
        if length < ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = raw[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def pairs(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The same one by one, with their types: in a list all have one."""
    at = 0
    while at + ATTRIBUTE.size <= len(raw):
        length, kind = ATTRIBUTE.unpack_from(raw, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, raw[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
