"""A neighbour that means harm: processes of uid 65534 in a pod's namespace, with tricks that take no capability."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
from typing import TYPE_CHECKING

from tests.rig.namespace import entered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.rig.namespace import Namespace

NOBODY = 65534
PR_SET_DUMPABLE, PR_SET_NAME = 4, 15
CLONE_NEWUSER = 0x10000000
FORGED = "2026-01-01T00:00:00.000000Z\tinfo\tThe capture is in place"
NETLINK_NETFILTER, NETLINK_ROUTE = 12, 0
SSH_PORT = 2222


def called(name: bytes) -> None:
    """Give this process a name, which may be any bytes, and hide what a debugger would see."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, ctypes.c_char_p(name))
    libc.prctl(PR_SET_DUMPABLE, 0)


def lock(path: str, how: int = fcntl.LOCK_EX) -> None:
    """Hold a lock of a file that everybody may open."""
    fcntl.flock(os.open(path, os.O_RDONLY), how | fcntl.LOCK_NB)


def lock_by_a_child(path: str) -> None:
    """The same lock, taken by a process that has ended: the descriptor is what holds it."""
    handle = os.open(path, os.O_RDONLY)
    child = os.fork()
    if not child:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os._exit(0)
    os.waitpid(child, 0)


def lock_as_root_of_its_own(path: str) -> None:
    """From a user namespace of its own, in which it has every capability."""
    if ctypes.CDLL(None).unshare(CLONE_NEWUSER):
        raise OSError("no user namespaces here")
    lock(path, fcntl.LOCK_SH)


def be_sshd() -> None:
    """A server that calls itself sshd."""
    called(b"sshd")
    server = socket.create_server(("", SSH_PORT))
    server.detach()


def squat_netlink_numbers() -> None:
    """Bind the numbers that the next processes would bind, as many as the limit of files allows."""
    for protocol in (NETLINK_NETFILTER, NETLINK_ROUTE):
        for ahead in range(1, 200):
            taken = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
            with contextlib.suppress(OSError):
                taken.bind((os.getpid() + ahead, 0))
            taken.detach()


def join_the_runs() -> None:
    """Pretend to be a run, which the kernel does not permit."""
    pretended = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    try:
        pretended.bind((0, 1 << 31))
    except PermissionError:
        pretended.detach()
        return
    raise AssertionError("the kernel let it")


def tricks(locks: Sequence[str]) -> list[Callable[[], None]]:
    """Every trick, each for a process of its own; `locks` are the files that it may lock."""
    found: list[Callable[[], None]] = [be_sshd, squat_netlink_numbers, join_the_runs]
    for path in locks:
        found += [lambda path=path: lock_by_a_child(path), lambda path=path: lock_as_root_of_its_own(path)]  # type: ignore[misc] # bound here
        found.append(lambda path=path: lock(path, fcntl.LOCK_SH))  # type: ignore[misc] # bound here
    names = (b"\x1b[2Jx", b"a\nb\tc", b"\xff\xfe", "\u202ee".encode(), FORGED[:15].encode())
    return found + [lambda name=name: called(name) for name in names]


@contextlib.contextmanager
def hostile(namespace: Namespace, locks: Sequence[str], *, uid: int = NOBODY) -> Iterator[list[int]]:
    """Processes without a capability, one for each trick, for as long as the block lasts: their pids."""
    pids: list[int] = []
    try:
        with entered(namespace):
            pids.extend(begun(trick, uid) for trick in tricks(locks))
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def begun(trick: Callable[[], None], uid: int) -> int:
    """A process that has done its trick and stays. Raises AssertionError if it could not do it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            trick()
            os.write(writing, b"ready")
            os.close(writing)
            signal.pause()
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(1)
    os.close(writing)
    said = os.read(reading, 1000).decode()
    os.close(reading)
    if said != "ready":
        os.waitpid(pid, 0)
        raise AssertionError(said)
    return pid
