"""A setting of conntrack itself, which some meshes tune when they capture a pod."""

from __future__ import annotations

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
        with open(CLOSE_WAIT_FILE, "r+", encoding="ascii") as file:
            before = file.read().strip()
            if before != str(seconds):
                file.seek(0)
                file.write(str(seconds))
    except OSError as error:
        log.warn(f"cannot set {CLOSE_WAIT} to {seconds} s: {error.strerror}; the capture is in place without it")
        return
    log.info(f"{CLOSE_WAIT} is {seconds} s now, and was {before} s")
