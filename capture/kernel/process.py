"""Running programs to their end, with as little as that takes."""

from __future__ import annotations

import errno
import os
import time

from capture.kernel.files import read_text
from capture.kernel.seam import primitive
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    R = TypeVar("R")

SUPERUSER_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where iptables is, whatever PATH an unprivileged user was given."""


class Completed(Value):
    """How a child process ended. What it said that is no UTF-8 is kept as surrogates (PEP 383), byte for byte."""

    status: int
    stdout: str
    stderr: str


@primitive
def run(program: str, *arguments: str, text: str = "", environ: Mapping[str, str] | None = None) -> Completed:
    """Run a program to its end. Raises FileNotFoundError or PermissionError if it cannot be started.

    Its three streams are anonymous files rather than pipes: nothing can block, so neither threads nor `select`
    are needed, nor the `subprocess` module, which would cost the init path 5 ms.
    """
    files: list[int] = []
    try:
        files += map(os.memfd_create, ("stdin", "stdout", "stderr"))
        write_all(files[0], text.encode(errors="surrogateescape"))
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
        words = [argument.encode(errors="surrogateescape") for argument in arguments]
        pid = os.posix_spawn(
            program, (program, *words), os.environ if environ is None else environ, file_actions=actions
        )
        _, status = os.waitpid(pid, 0)
        return Completed(os.waitstatus_to_exitcode(status), read_all(files[1]), read_all(files[2]))
    finally:
        for file in files:
            os.close(file)


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
