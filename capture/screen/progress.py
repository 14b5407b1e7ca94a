"""A line on a terminal while something takes long: for how long, and which program is at work. It goes again."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what `signal` wraps, which takes its time to import
import atexit
import contextlib
import os
import sys
import time

from capture.kernel.files import read_text
from capture.output import Output

FIRST, EVERY = 2.0, 1.0
"""Seconds until it is shown, and until it is shown anew."""
BLANK = b"\r\x1b[K"


class Progress:
    """Woken by an alarm, so that neither a thread nor a process is needed; children inherit none."""

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self.began = time.monotonic()
        self.is_shown = False
        self.is_line_open = False

    def tell(self, *_: object) -> None:
        """Draw the line, unless half a line of the answer stands there, or the terminal is not ours now."""
        with contextlib.suppress(OSError):  # it went away, or is not the one that rules our processes
            if not self.is_line_open and os.tcgetpgrp(self.terminal) == os.getpgrp():
                took = f"{time.monotonic() - self.began:.0f} s: {at_work()}…"
                os.write(self.terminal, BLANK + took.encode() + b"\r")
                self.is_shown = True

    def make_room(self, data: bytes = b"") -> None:
        """Take the line away before this is written."""
        if self.is_shown:
            self.is_shown = False
            with contextlib.suppress(OSError):
                os.write(self.terminal, BLANK)
        self.is_line_open = bool(data) and not data.endswith(b"\n")


def at_work() -> str:
    """The program that runs for us, or what we do ourselves."""
    try:
        child = read_text(f"/proc/self/task/{os.getpid()}/children").split()[0]
        return f"{os.path.basename(read_text(f'/proc/{child}/cmdline').split(chr(0))[0])} is at work"
    except (OSError, IndexError):
        return "still at work"


def begin() -> None:
    """Show from now on how long it takes, if stderr is a terminal that can go back in a line."""
    if not isinstance(sys.stderr, Output) or os.environ.get("TERM", "dumb") == "dumb":
        return
    progress = Progress(sys.stderr.descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output) and stream.is_terminal:
            stream.make_room = progress.make_room
    atexit.register(progress.make_room)
    _signal.signal(_signal.SIGALRM, progress.tell)
    _signal.setitimer(_signal.ITIMER_REAL, FIRST, EVERY)
