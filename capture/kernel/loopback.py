"""Whether lo is up, and putting it up: what is redirected to this host leaves by it."""

from __future__ import annotations

import fcntl
import socket
import struct

from capture.kernel.seam import primitive

LO = b"lo"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
"""linux/sockios.h and linux/if.h."""
IFREQ = struct.Struct("16sh14x")


@primitive
def lo_is_up() -> bool | None:
    """Whether lo is up in the namespace we are in; None if the kernel would not say."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            return bool(flags_of_lo(asking) & IFF_UP)
    except OSError:
        return None


def raise_lo() -> None:
    """`ip link set lo up`. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = IFREQ.pack(LO, flags_of_lo(asking) | IFF_UP)
        fcntl.ioctl(asking, SIOCSIFFLAGS, request)


def flags_of_lo(asking: socket.socket) -> int:
    answer = fcntl.ioctl(asking, SIOCGIFFLAGS, IFREQ.pack(LO, 0))
    flags: int = IFREQ.unpack(answer)[1]
    return flags
