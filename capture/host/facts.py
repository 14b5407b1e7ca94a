"""What the host answers: addresses and users. Looking needs no privilege and changes nothing."""

from __future__ import annotations

import os

from capture.host import place
from capture.kernel import files
from capture.netlink import rtnetlink
from rules.netfilter.values import Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from capture.host.place import Process
    from capture.netlink.rtnetlink import Address

MOST_LINKS = 100
"""Parts of a path that are followed, links included. The kernel follows 40 links (path_resolution(7))."""
LOGS_OF_ALL = "/proc/sys/net/netfilter/nf_log_all_netns"
"""Shown in the first network namespace alone. In any other, LOG is silent unless it is 1 there (nf_log_syslog.c)."""
NAME_SERVICE = "/etc/nsswitch.conf"
"""Where the C library is told which files name users (nsswitch.conf(5))."""
LO_DISABLES_IPV6 = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"


class Facts(Value):
    """What we know of the namespace whose traffic is to be captured."""

    addresses: tuple[Address, ...] | None
    """Its addresses in the kernel's order, or None if the kernel would not say."""
    has_ipv6: bool = True
    """Whether the kernel has IPv6 at all."""
    lo_has_ipv6: bool = True
    """Whether lo may have IPv6 addresses (it may not where `disable_ipv6` is set)."""
    resolv_conf: str | None = None
    """The text of the file that names the nameservers, or None if it was not asked for or cannot be read."""
    resolv_conf_error: str = ""
    """Why it cannot be read."""
    processes: tuple[Process, ...] = ()
    """Who else is in the namespace, as far as we may look."""
    kernel_logs: bool = True
    """Whether the target LOG writes anything here: it does in the node's own namespace."""
    ssh_ports: tuple[tuple[int, str], ...] = ()
    """Ports by which somebody may be logged in here, and how each was found."""

    def usable(self, family: Family | None = None) -> tuple[Address, ...]:
        """The addresses that other hosts could reach, of one family or of both."""
        version = {Family.V4: 4, Family.V6: 6, None: None}[family]
        return tuple(
            address for address in self.addresses or () if address.is_usable and version in (None, address.ip.version)
        )


def read_facts(environ: Mapping[str, str], resolv_conf: str = "") -> Facts:
    """The facts of the namespace we are in; with a path, also what that file says of nameservers."""
    try:
        addresses = rtnetlink.addresses()
    except OSError:
        # A sandbox that forbids netlink sockets: a dry run does without.
        addresses = None
    try:
        has_ipv6, lo_has_ipv6 = True, files.read_text(LO_DISABLES_IPV6).strip() == "0"
    except OSError:
        has_ipv6 = lo_has_ipv6 = False
    text, error = read_text(resolv_conf) if resolv_conf else (None, "")
    processes = tuple(place.processes())
    ssh_ports = place.ssh_ports(processes, addresses or (), environ)
    kernel_logs = os.path.exists(LOGS_OF_ALL)
    return Facts(addresses, has_ipv6, lo_has_ipv6, text, error, processes, kernel_logs, ssh_ports)


def read_text(path: str) -> tuple[str | None, str]:
    """A file's text, or None and why it cannot be read."""
    try:
        return files.read_text(within_its_root(path)), ""
    except OSError as error:
        return None, f"{path}: {error.strerror}"


def within_its_root(path: str) -> str:
    """The same path; of a file below another process's root, where it is behind the links that lead there.

    The kernel takes a link that begins with a slash from our root, not from that of /proc/PID/root (proc_pid_root(5)).
    """
    process, is_below_root, rest = path.partition("/root/")
    if not (is_below_root and process.startswith("/proc/")):
        return path
    root, left, at = f"{process}/root", rest.split("/"), ""
    for _ in range(MOST_LINKS):
        if not left:
            break
        name = left.pop(0)
        if name == "..":
            at = at.rpartition("/")[0]
        elif name not in ("", "."):
            try:
                target = os.readlink(f"{root}{at}/{name}")
            except OSError:
                at = f"{at}/{name}"
                continue
            left = target.split("/") + left
            at = "" if target.startswith("/") else at
    return "/".join([root + at, *left])


def uid_of(name: str) -> int | None:
    """The uid of this user on this host, if there is one. Raises OSError for a file that would hang us."""
    import pwd  # a number is no name, and what injectors give is a number

    require_regular(NAME_SERVICE, "/etc/passwd")
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def gid_of(name: str) -> int | None:
    """The gid of this group on this host, if there is one. Raises OSError for a file that would hang us."""
    import grp

    require_regular(NAME_SERVICE, "/etc/group")
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def require_regular(*paths: str) -> None:
    """Raises OSError if the C library would read one of these files and it is none, but a FIFO or a device."""
    for path in paths:
        try:
            os.close(files.open_regular(path))
        except (FileNotFoundError, PermissionError):
            continue  # the C library goes on without it
