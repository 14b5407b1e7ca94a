"""Running programs to their end, with as little as that takes."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what `signal` wraps, which takes its time to import
import errno
import os
import time
from itertools import islice

from capture.kernel.files import read_text
from capture.kernel.seam import primitive
from rules.netfilter.values import Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    R = TypeVar("R")

LEGACY_TABLES = {
    Family.V4: "/proc/thread-self/net/ip_tables_names",
    Family.V6: "/proc/thread-self/net/ip6_tables_names",
}
"""Where the kernel names the legacy tables of a namespace, to uid 0."""
SUPERUSER_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where iptables is, whatever PATH an unprivileged user was given."""
LONGEST_CHILD = 30
"""Seconds that a program of ours may take. Reading or writing 20,000 rules takes one, under a CPU limit of 100m."""
MUCH = 1 << 19
"""Bytes of what a program is given: some 10,000 rules, for which iptables-nft-restore needs 15 MiB."""
FOLDERS = ("/dev/shm", "/run", "/tmp")  # noqa: S108 # what is put there has no name
KILLED = 0.05
"""Seconds after which one that was killed has gone, if it can go at all."""


class Completed(Value):
    """How a child process ended. What it said that is no UTF-8 is kept as surrogates (PEP 383), byte for byte."""

    status: int
    stdout: str
    stderr: str


@primitive
def run(
    program: str,
    *arguments: str,
    text: str = "",
    lines: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end. Raises OSError if it cannot be started, TimeoutError if it does not end in time.

    It is given the text, or the lines, of which nothing is kept: with a long list it needs the memory itself. Its three
    streams are anonymous files rather than pipes: nothing can block, so neither threads nor `select` are needed, nor
    the `subprocess` module, which would cost the init path 5 ms.
    """
    files: list[int] = []
    try:
        files += map(anonymous, ("stdin", "stdout", "stderr"))
        write_all(files[0], text.encode(errors="surrogateescape"))
        write_lines(files[0], lines)
        if os.lseek(files[0], 0, os.SEEK_CUR) >= MUCH:
            give_memory_back()
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
        words = [argument.encode(errors="surrogateescape") for argument in arguments]
        status = to_its_end((program, *words), os.environ if environ is None else environ, actions)
        return Completed(os.waitstatus_to_exitcode(status), read_all(files[1]), read_all(files[2]))
    finally:
        for file in files:
            os.close(file)


def to_its_end(
    words: tuple[str | bytes, ...], environ: Mapping[str, str], actions: Sequence[tuple[int, int, int]]
) -> int:
    """Start a program in a group of its own and wait for it: its wait status. Raises as `run`."""
    former = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGCHLD,))
    try:
        pid = os.posix_spawn(words[0], words, environ, file_actions=actions, setpgroup=0, setsigmask=former)
        until = time.monotonic() + LONGEST_CHILD
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            left = until - time.monotonic()
            if left <= 0:
                # With what it has started, which would hold our locks on.
                os.killpg(pid, _signal.SIGKILL)
                time.sleep(KILLED)
                os.waitpid(pid, os.WNOHANG)
                raise TimeoutError(errno.ETIMEDOUT, f"it did not end within {LONGEST_CHILD} s, and was killed")
            # Another thread, where there is one, may be told in our place.
            _signal.sigtimedwait((_signal.SIGCHLD,), min(left, 0.05))
        return ended[1]
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, former)


def give_memory_back() -> None:
    """Give the kernel the memory that we no longer use, of which the C library keeps some megabytes for later.

    With a long list the program that we are about to start needs most of what a container may have.
    """
    try:
        import ctypes  # takes two milliseconds, which is little beside what such a program takes

        ctypes.CDLL(None).malloc_trim(0)
    except (ImportError, OSError, AttributeError):
        return  # a C library without that, as musl


def anonymous(name: str) -> int:
    """A file without a name that goes with its last descriptor. Raises OSError."""
    try:
        return os.memfd_create(name)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        refused = error
    for folder in FOLDERS:
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            continue
    raise refused


def patiently(ask: Callable[[], R]) -> R:
    """The answer to a question that changes nothing, asked again where the host only cannot answer for the moment.

    Raises OSError for any other reason, and if it cannot for a third of a second.
    """
    pause = SHORTEST_PAUSE
    while True:
        try:
            return ask()
        except OSError as error:
            if error.errno not in FOR_THE_MOMENT or pause > LONGEST_PAUSE:
                raise
        time.sleep(pause)
        pause *= 2


FOR_THE_MOMENT = frozenset(
    {errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EBADMSG}
)
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.16
"""Seconds."""


def write_lines(file: int, lines: Iterable[str]) -> None:
    """Write each with a line feed behind it, some at a time."""
    left = iter(lines)
    while some := list(islice(left, AT_ONCE)):
        some.append("")
        write_all(file, "\n".join(some).encode(errors="surrogateescape"))


AT_ONCE = 500
"""Lines."""


def write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def read_all(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    parts = []
    while part := os.read(file, 1 << 20):
        parts.append(part)
    return b"".join(parts).decode(errors="surrogateescape")


@primitive
def locate(program: str) -> str | None:
    """The full path of an executable, from PATH and the usual places."""
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), *SUPERUSER_PATH):
        path = os.path.join(folder, program)
        if folder and os.access(path, os.X_OK):
            return path
    return None


@primitive
def read_words(path: str) -> list[str] | None:
    """The words in a file of the kernel; none if it does not exist, None if we may not read it.

    Raises OSError if the host cannot answer for longer than a moment.
    """
    try:
        return patiently(lambda: read_text(path).split())
    except FileNotFoundError:
        # Without its folder nothing can be told: /proc is not mounted.
        return [] if os.path.isdir(os.path.dirname(path)) else None
    except OSError as error:
        if error.errno in FOR_THE_MOMENT:
            raise
        return None
