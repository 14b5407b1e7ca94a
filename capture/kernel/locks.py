"""One run at a time in a network namespace; and who holds a lock, so that whoever waits can say for whom.

What anybody may lock, anybody may keep locked: a file that every process of a pod may open protects nothing against one
of them. So runs keep each other out by what the kernel gives to those only who may change the rules, and of locks that
are files we pass by those whose holder may not.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import time

from capture.errors import LiveStateUnreadable, LockHeld
from capture.kernel import netns
from capture.kernel.blocks import contextmanager
from capture.kernel.files import MOST, read_text
from capture.kernel.seam import primitive
from capture.text import one_line
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

NETLINK_NETFILTER, SOL_NETLINK = 12, 270
NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP = 1, 2
GROUP = 32
"""The multicast group of nfnetlink whose members are runs at work. Joining takes CAP_NET_ADMIN in the user namespace
that owns the network namespace (`netlink_allowed` in net/netlink/af_netlink.c). Nothing is ever sent to this one: the
kernel uses those up to NFNLGRP_MAX, and each protocol has 32 (`__netlink_kernel_create`)."""
MEMBERS = "/proc/thread-self/net/netlink"
LONGEST_WAIT = 60
"""Seconds that a run waits for another."""
PATIENCE = 0.5
"""Seconds after which it says for whom."""
NOT_THERE = {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL}
"""What says that there is no nfnetlink for us: a kernel or a sandbox without it. Then there is no nf_tables either."""
UNSEEN = 5
"""Seconds that we wait for a lock of a file whose holder cannot be seen from here."""
OLD_LOCK = "the lock of the namespace"
COURTESY = 5
"""Seconds that we wait for a run of an older version."""
LONGEST_COMMAND = 80
"""Characters of a command line that are shown."""
CAP_NET_ADMIN = 1 << 12
ALL_IDS = ["0", "0", "4294967295"]
"""The uid_map of the first user namespace."""


class Holder(Value):
    """A process that holds a lock."""

    pid: int
    uid: int
    command: str
    is_privileged: bool
    """Whether it has CAP_NET_ADMIN, in a user namespace in which that may concern us."""

    def __str__(self) -> str:
        return f"pid {self.pid} (uid {self.uid}, `{self.command}`)"


# --- runs -------------------------------------------------------------------------------------------------


@primitive
@contextmanager
def locked(say: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs of ours out of this network namespace; those in other namespaces do not wait.

    Nobody can leave it locked behind, and nobody without CAP_NET_ADMIN can hold it. If we are killed, the children that
    we started hold it until they have ended. `say` is told for whom we wait. Raises LockHeld if another run does not
    end in time, BackendUnusable without the capability.
    """
    member = enlisted()
    try:
        if member:
            until_alone(member, say)
        # Older versions hold a lock of the file that stands for the namespace. Without nfnetlink it is all there is;
        # with it, it is not worth a failure: a program that gets capabilities when it starts may be handed a lock.
        if member:
            with flocked(OLD_LOCK, netns.OURS, COURTESY, say, unseen=0, must=False):
                yield
        else:
            with flocked(OLD_LOCK, netns.OURS, LONGEST_WAIT, say):
                yield
    finally:
        if member:
            member.close()


def enlisted() -> _socket.socket | None:
    """A socket that can be a member of `GROUP`; None where there is no nfnetlink."""
    try:
        member = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, NETLINK_NETFILTER)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise LiveStateUnreadable(
            f"other runs cannot be kept out, for the kernel refuses a socket: {error.strerror}; nothing was touched"
        ) from error
    try:
        member.bind((0, 0))
        member.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GROUP)
    except OSError as error:
        member.close()
        if error.errno in (errno.EPERM, errno.EACCES):
            from capture.kernel.rights import not_permitted

            raise not_permitted() from error
        raise
    if member.getsockname()[0] not in members():
        member.close()
        return None  # a kernel that does not tell
    # Nothing is ever read from it; whoever inherits it holds it.
    os.set_inheritable(member.fileno(), True)
    return member


def until_alone(member: _socket.socket, say: Callable[[str], None]) -> None:
    """Wait until we are the only member. Of any two that join, the later one sees the other: one at most goes on.

    Of those that have joined at once the one with the lowest number stays; the others leave until nobody is one.
    """
    own = member.getsockname()[0]
    began, has_joined, has_said = time.monotonic(), True, False
    while True:
        others = {number: inode for number, inode in members().items() if number != own}
        if not others:
            if has_joined:
                return
            member.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GROUP)
            has_joined = True
            continue
        if has_joined and min(others) < own:
            member.setsockopt(SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, GROUP)
            has_joined = False
        waited = time.monotonic() - began
        if waited > LONGEST_WAIT:
            raise LockHeld(
                f"another run has been at work in this namespace for {LONGEST_WAIT} s; nothing was touched",
                details=[("it is", in_words(holders_of_sockets(others.values())))],
                hint="see what it waits for, or end it",
            )
        if waited > PATIENCE and not has_said:
            has_said = True
            say(f"waiting for another run in this namespace: {in_words(holders_of_sockets(others.values()))}")
        time.sleep(0.005)


def members() -> dict[int, str]:
    """The members of `GROUP` in this namespace: their netlink numbers, and the inodes of their sockets."""
    found = {}
    try:
        lines = read_text(MEMBERS, MOST).split("\n")
    except OSError as error:
        raise no_proc(error) from error
    for words in filter(None, map(str.split, lines)):
        if words[1] == str(NETLINK_NETFILTER) and int(words[3], 16) >> GROUP - 1 & 1:
            found[int(words[2])] = words[9]
    return found


def no_proc(error: OSError) -> LiveStateUnreadable:
    return LiveStateUnreadable(
        f"{MEMBERS} cannot be read: {error.strerror}; nothing was touched",
        hint="mount /proc, of the pid namespace that this runs in",
    )


def runs_at_work() -> list[Holder | None]:
    """Runs in this namespace, those of older versions too; None for one that cannot be seen from here.

    Takes no lock. Raises LiveStateUnreadable without /proc.
    """
    older = (holder for holder in holders_of(netns.OURS) if holder and holder.is_privileged)
    return list(dict.fromkeys((*holders_of_sockets(members().values()), *older)))


# --- locks of files ---------------------------------------------------------------------------------------


@primitive
@contextmanager
def flocked(
    lock: str, path: str, longest: float, say: Callable[[str], None], *, unseen: float = UNSEEN, must: bool = True
) -> Iterator[None]:
    """Hold a lock of this file (flock(2)), past holders that may not change rules: theirs protects nothing.

    Where it can be neither opened nor locked, there is nothing to wait for. `longest` and `unseen` are the seconds that
    we wait: for whom may change rules, and for who cannot be seen from here. `say` is told of `lock` and its holder.
    Raises LockHeld where it `must` be had.
    """
    handle = opened(path)
    try:
        if handle is not None:
            until_locked(handle, f"{lock}, {path}", longest, say, unseen, must=must)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def opened(path: str) -> int | None:
    """A descriptor of a lock file, which is made if it is not there as iptables makes it; None if that cannot be."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_CREAT, 0o600)
    except OSError:
        return None
    # Our children hold it as well: if we are killed, nobody comes in before the iptables that we started has ended.
    os.set_inheritable(handle, True)
    return handle


def until_locked(
    handle: int, lock: str, longest: float, say: Callable[[str], None], unseen: float, *, must: bool
) -> None:
    began = time.monotonic()
    look, has_said = began, False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError:
            return  # a sandbox without flock(2), or a file that cannot be locked
        now = time.monotonic()
        if now >= look:
            look = now + PATIENCE
            holders = holders_of_file(handle)
            real = [holder for holder in holders if holder is None or holder.is_privileged]
            if not real:
                say(f"passed by {lock}: held by {in_words(holders)}, who may not change rules")
                return
            if now - began >= (longest if any(real) else unseen) and not (must and any(real)):
                say(f"passed by {lock}: held by {in_words(real)} for too long")
                return
            if now - began >= longest:
                raise LockHeld(
                    f"waited {longest} s for {lock}, and did not get it",
                    details=[("held by", in_words(real))],
                    hint="see what that program waits for, or end it; then run it again",
                )
            if not has_said:
                has_said = True
                say(f"waiting for {lock}, up to {longest} s: {in_words(real)} holds it")
        # flock(2) knows no timeout, and an alarm would be a signal in the middle of everything else.
        time.sleep(0.005)


def holders_of_file(handle: int) -> list[Holder | None]:
    """Who holds the lock of this open file, which somebody does; None for who cannot be seen from here."""
    found = listed_holders(os.fstat(handle))
    if found and None not in found:
        return found
    # Whoever took it has ended, and left it to others; or their place has another name in /proc/locks.
    this = os.fstat(handle)
    return openers(lambda path: os.path.samestat(os.stat(path), this) and "\nlock:" in read_text(fdinfo(path)))


def holders_of(path: str) -> list[Holder | None]:
    """Who holds a lock of this file, by /proc/locks, if anybody does. Takes no lock itself."""
    try:
        return listed_holders(os.stat(path))
    except OSError:
        return []


def listed_holders(file: os.stat_result) -> list[Holder | None]:
    """Who holds a lock of this file, by /proc/locks; None for who has ended or cannot be seen from here."""
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    try:
        locks = [line.split() for line in read_text("/proc/locks", MOST).split("\n") if "->" not in line]
    except OSError:
        return [None]
    return [holder_of(words[4]) for words in locks if len(words) > 5 and words[5] == place]


# --- processes --------------------------------------------------------------------------------------------


def holders_of_sockets(inodes: Iterable[str]) -> list[Holder | None]:
    """Who has these sockets open; None for who cannot be seen from here."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return openers(lambda path: os.readlink(path) in wanted) if wanted else []


def openers(is_it: Callable[[str], bool]) -> list[Holder | None]:
    """The other processes with an open file of which this holds; None stands for those that we may not ask."""
    found: dict[str, Holder | None] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            files = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            found[""] = None
            continue
        except OSError:
            continue  # it has ended meanwhile
        if int(pid) != os.getpid() and any(holds(f"/proc/{pid}/fd/{name}", is_it) for name in files):
            found[pid] = holder_of(pid)
    return [*found.values()] or [None]


def holds(path: str, is_it: Callable[[str], bool]) -> bool:
    try:
        return is_it(path)
    except OSError:
        return False  # it was closed meanwhile


def fdinfo(path: str) -> str:
    """What the kernel says of an open file, the locks that it holds included (proc_pid_fdinfo(5))."""
    return path.replace("/fd/", "/fdinfo/")


def holder_of(pid: str) -> Holder | None:
    """What is to be known of a process; None if it has ended, or cannot be seen from here."""
    try:
        words = dict(line.split("\t", 1) for line in read_text(f"/proc/{pid}/status").split("\n") if "\t" in line)
        has_it = (int(words["CapEff:"], 16) | int(words["CapPrm:"], 16)) & CAP_NET_ADMIN
        is_privileged = bool(has_it) and not (is_first("self") and not is_first(pid))
        # Whoever may not change rules could keep us for ever by what stands behind its memory, where this is read from.
        command = read_text(f"/proc/{pid}/cmdline").replace("\0", " ") if is_privileged else ""
        uid = int(words["Uid:"].split()[1])
        return Holder(int(pid), uid, one_line(command.strip()[:LONGEST_COMMAND] or words["Name:"]), is_privileged)
    except (OSError, LookupError, ValueError):
        return None


def is_first(pid: str) -> bool:
    """Whether this process is in the first user namespace; a capability in another one is none here."""
    return read_text(f"/proc/{pid}/uid_map").split() == ALL_IDS


def in_words(holders: Sequence[Holder | None]) -> str:
    """The first few, and how many more."""
    shown = list(dict.fromkeys(str(holder or "a process that cannot be seen from here") for holder in holders))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
