"""A setting of conntrack itself, which some meshes tune when they capture a pod."""

from __future__ import annotations

from capture.kernel.seam import primitive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.log import Log

CLOSE_WAIT = "net.netfilter.nf_conntrack_tcp_timeout_close_wait"
CLOSE_WAIT_FILE = f"/proc/sys/{CLOSE_WAIT.replace('.', '/')}"
DEFAULT_CLOSE_WAIT = 60
"""Seconds: what the kernel gives to a new namespace (tcp_timeouts of nf_conntrack_proto_tcp.c)."""


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
