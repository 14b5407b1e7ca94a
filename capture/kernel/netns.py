"""Entering a network namespace, in this process."""

from __future__ import annotations

import os

from capture.errors import NamespaceUnusable
from capture.kernel.files import open_regular
from capture.kernel.seam import primitive
from capture.text import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NAMED = "/run/netns"
"""Where ip-netns(8) keeps the namespaces that have a name."""
OURS = "/proc/thread-self/ns/net"
RESOLV_CONF = "/etc/resolv.conf"
FLAG, VARIABLE = "--network-namespace", "NETWORK_NAMESPACE"
LISTED = "-"
"""Stands for a list of namespaces on stdin, one a line."""
CLONE_NEWNET = 0x40000000
"""linux/sched.h: asks setns(2) to refuse what is not a network namespace."""


@primitive
def enter(namespace: str) -> None:
    """Make this process's sockets and child processes work in that namespace.

    `namespace` is a name of `ip netns`, a path (anything with a slash), or a pid. A name that is also a number
    is taken as the name if there is one. Raises NamespaceUnusable, with the reason, if it cannot be entered.
    """
    path = path_of(namespace)
    try:
        handle = open_regular(path)
        try:
            setns(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise NamespaceUnusable(
            f"cannot enter the network namespace {quoted(namespace)}: {path}: {error.strerror}",
            hint=hint(error, path),
        ) from error


def namespaces_in(argv: Sequence[str]) -> list[str]:
    """The values of the flag in a command line, as often as it stands there."""
    named = []
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, is_joined, value = word.partition("=")
        if flag == FLAG:
            named.append(value if is_joined else following)
    return named


def names_many(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether more than one namespace is named, or a list of them."""
    named = namespaces_in(argv) or [environ.get(VARIABLE, "")]
    return len(named) > 1 or named == [LISTED]


def described(asked: str) -> str:
    """The namespace that we are in: its number, as lsns(8) and `readlink` show it, and how it is called."""
    try:
        number = os.readlink(OURS)
    except OSError:
        number = "of unknown number (/proc is not mounted)"
    if asked:
        return f"{number}, {quoted(asked)} of --network-namespace"
    return f"{number}, {name_of_ours() or 'that of this process'}"


def name_of_ours() -> str:
    """What `ip netns` calls the namespace that we are in, with that word; empty if it has no name there."""
    try:
        here = os.stat(OURS)
        for name in os.listdir(NAMED):
            try:
                if os.path.samestat(os.stat(f"{NAMED}/{name}"), here):
                    return f"{quoted(name)} of `ip netns`"
            except OSError:
                continue
    except OSError:
        pass
    return ""


def path_of(namespace: str) -> str:
    """The file that stands for it (network_namespaces(7))."""
    if "/" in namespace:
        return namespace
    named = f"{NAMED}/{namespace}"
    if namespace.isascii() and namespace.isdigit() and not os.path.exists(named):
        return f"/proc/{namespace}/ns/net"
    return named


def is_our_lock(path: str) -> bool:
    """Whether this path is the file that a run locks anyway: some give it to iptables as its lock file."""
    try:
        return os.path.samestat(os.stat(path), os.stat(OURS))
    except OSError:
        return False


def resolv_conf(namespace: str) -> str:
    """The resolv.conf(5) of those who live in a namespace, as a path that we can read; ours for no namespace.

    A process that is named, by pid or by a path below its /proc, shows its own. A namespace that `ip netns` keeps may
    have one (ip-netns(8)); else whoever lives in it, with files of its own, shows it. Where nobody does, the result is
    ours for a name, because that is what `ip netns exec` would show; for a path, which a CNI plugin is given before
    anything runs in the pod, it is the file that would be the namespace's own, and is not there.
    """
    if not namespace:
        return RESOLV_CONF
    if namespace not in _resolv_confs:
        _resolv_confs[namespace] = resolv_conf_of(namespace)
    return _resolv_confs[namespace]


_resolv_confs: dict[str, str] = {}
"""By namespace. To import `functools` for its cache takes a pod's start as long as all of `capture.kernel`."""


def resolv_conf_of(namespace: str) -> str:
    """The same, looked up."""
    path = path_of(namespace)
    real = path if path.startswith("/proc/") else os.path.realpath(path)
    process, is_of_process, _ = real.rpartition("/ns/")
    if is_of_process and process.startswith("/proc/"):
        return f"{process}/root{RESOLV_CONF}"
    own = f"/etc/netns/{os.path.basename(real)}/resolv.conf"
    if os.path.dirname(real) == NAMED and os.path.exists(own):
        return own
    inhabitant = next(inhabitants(path), None)
    if inhabitant is not None:
        return f"/proc/{inhabitant}/root{RESOLV_CONF}"
    return own if "/" in namespace else RESOLV_CONF


def inhabitants(path: str) -> Iterator[int]:
    """The processes in this namespace that have files of their own, as a container has, the first one first."""
    try:
        wanted = os.stat(path)
        home = os.stat("/proc/self/ns/mnt")
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return
    for pid in pids:
        try:
            lives_here = os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), wanted)
            if lives_here and not os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), home):
                yield pid
        except OSError:
            continue  # it ended meanwhile, or we may not look at it


def setns(handle: int) -> None:
    """setns(2) for a network namespace. Raises OSError."""
    if hasattr(os, "setns"):
        os.setns(handle, CLONE_NEWNET)
        return
    # os.setns came with Python 3.12
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def hint(error: OSError, path: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "give a name that `ip netns list` shows, a path such as /proc/PID/ns/net, or the pid of a process in it"
    if isinstance(error, PermissionError):
        return "entering a namespace takes root, or CAP_SYS_ADMIN here and in the user namespace that owns it"
    return f"{path} is not a network namespace"
