"""Runs a program that makes namespaces as a child, so that nothing of it is left however it ends, Ctrl-C included.

A signal that became an exception could strike anywhere: between making a namespace and noting it, or while the
process acts as another user. So the program has no handler at all. Its parent waits, ends it with everything it
started, and removes the namespaces that bear the pids of the dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

from tests.rig.namespace import remove_those_of_the_dead

if TYPE_CHECKING:
    from collections.abc import Callable

ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""


def guarded(work: Callable[[], int]) -> int:
    """The exit status of `work`, run in a process of its own; 128 and its number if a signal ended that first."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING | {signal.SIGCHLD})
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    sys.stdout.flush()
    worker = os.fork()
    if not worker:
        as_worker(work)
    status = None
    while status is None:
        came = signal.Signals(signal.sigwait(ENDING | {signal.SIGCHLD}))
        if came in ENDING:
            status = 128 + came
        elif os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    end(worker)
    remove_those_of_the_dead()
    if came in ENDING:
        print(f"\n{came.name}: stopped, and everything was removed", file=sys.stderr)
    return status


def as_worker(work: Callable[[], int]) -> None:
    """Do the work and end. The session is a new one, so that a terminal's Ctrl-C is the parent's to handle."""
    status = 1
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING | {signal.SIGCHLD})
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever read our output has seen enough
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(worker: int) -> None:
    """End the worker's session and what it started in others, and wait until the last is gone: orphans become ours."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for orphan in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            os.waitpid(-1, 0)


def children() -> list[int]:
    """The processes whose parent we are."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]
