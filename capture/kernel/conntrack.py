"""Conntrack itself: a setting that some meshes tune when they capture a pod, and how full it is."""

from __future__ import annotations

from capture.kernel.process import read_words
from capture.kernel.seam import primitive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.log import Log

CLOSE_WAIT = "net.netfilter.nf_conntrack_tcp_timeout_close_wait"
CLOSE_WAIT_FILE = f"/proc/sys/{CLOSE_WAIT.replace('.', '/')}"
DEFAULT_CLOSE_WAIT = 60
"""Seconds: what the kernel gives to a new namespace (tcp_timeouts of nf_conntrack_proto_tcp.c)."""


ENTRIES = "/proc/sys/net/netfilter/nf_conntrack_count"
"""How many connections conntrack knows in this namespace."""
MOST_ENTRIES = "/proc/sys/net/netfilter/nf_conntrack_max"
"""How many it may know in each; 0 for any number (__nf_conntrack_alloc of net/netfilter/nf_conntrack_core.c)."""
NEARLY = 0.9


def fullness(share: float = NEARLY) -> str:
    """That conntrack is as full as that, a share of 1, and what comes of it; empty if it is not, or nothing tells."""
    count, most = (next(iter(read_words(path) or []), "") for path in (ENTRIES, MOST_ENTRIES))
    if not (count.isdigit() and most.isdigit() and int(most) and int(count) >= share * int(most)):
        return ""
    return (
        f"conntrack knows {int(count):,} connections here and may know {int(most):,}: at that number the kernel drops "
        "the first packet of a new one, unless it can forget one that was never answered"
    )


def set_close_wait_timeout(seconds: int, log: Log) -> None:
    """How long conntrack remembers a connection that one side closed, in whole seconds.

    The kernel's default is a minute; a proxy that holds connections half open for longer finds them forgotten.
    See the kernel's Documentation/networking/nf_conntrack-sysctl.rst. Failing to set it is reported, not raised:
    the capture works without.
    """
    try:
        before = exchange(CLOSE_WAIT_FILE, str(seconds))
    except OSError as error:
        log.warn(f"cannot set {CLOSE_WAIT} to {seconds} s: {error.strerror}; the capture is in place without it")
        return
    log.info(f"{CLOSE_WAIT} is {seconds} s now, and was {before} s")


@primitive
def exchange(path: str, value: str) -> str:
    """Give a setting of the kernel this value; the one from before. Raises OSError."""
    with open(path, "r+", encoding="ascii") as file:
        before = file.read().strip()
        if before != value:
            file.seek(0)
            file.write(value)
    return before
