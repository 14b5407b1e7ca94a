"""Running programs to their end, with as little as that takes."""

from __future__ import annotations

import os

from capture.kernel.files import read_text
from capture.kernel.seam import primitive
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

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
    files = [os.memfd_create(stream) for stream in ("stdin", "stdout", "stderr")]
    try:
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
    """The words in a file of the kernel; none if it does not exist, None if we may not read it."""
    try:
        return read_text(path).split()
    except FileNotFoundError:
        return []
    except OSError:
        return None
