"""Runs commands for the bench and measures them: a program apart, because a child is charged with its parent's memory.

At exec the kernel notes the memory that the process had until then, and until then it is a copy of its parent
(`exec_mmap` in fs/exec.c). So the parent is this: Python with next to nothing imported.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

from capture.kernel.netns import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Order: TypeAlias = tuple[str, str, list[str], dict[str, str]]
    """The namespace, the file that stdin is read from, the command line, the environment."""
    Outcome: TypeAlias = tuple[int, float, float, float, int]
    """The fields of `tests.bench.Measured`."""


def measured(order: Order) -> Outcome:
    """Run one command with its output thrown away. The CPU time includes that of all its children."""
    namespace, stdin, command, environ = order
    began = time.perf_counter()
    child = os.fork()
    if not child:
        try:
            enter(namespace)  # the child alone: a run looks at who else is there, and in a pod that is nobody
            os.dup2(os.open(stdin, os.O_RDONLY), 0)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            os.execve(command[0], command, environ)  # noqa: S606 # no shell is wanted
        finally:
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - began
    return os.waitstatus_to_exitcode(status), usage.ru_utime, usage.ru_stime, wall, usage.ru_maxrss


def main() -> None:
    """Orders come in on stdin and results go out on stdout, one after the other, until stdin ends."""
    while True:
        try:
            order = marshal.load(sys.stdin.buffer)  # noqa: S302 # both ends are this program's own
        except EOFError:
            return
        marshal.dump(measured(order), sys.stdout.buffer)
        sys.stdout.buffer.flush()
