"""What we say while we work: one line or one JSON object for each thing said, on stderr.

The layout is the reference's, because log pipelines know it: time in UTC with microseconds, level, message.
"""

from __future__ import annotations

import sys
import time

from capture.output import json_text
from capture.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.errors import CaptureError

LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50, "none": 60}
SCOPE = "default"
TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads why a container ended: the default of its terminationMessagePath."""


class Log:
    """Says what is at or above a level."""

    def __init__(self, level: str = "info", *, as_json: bool = False) -> None:
        self.threshold = LEVELS[level]
        self.as_json = as_json

    def info(self, *lines: str, text: str = "") -> None:
        """`text` is said behind them, line by line as it is."""
        self._say("info", lines, text)

    def warn(self, *lines: str) -> None:
        self._say("warn", lines)

    def error(self, *lines: str) -> None:
        self._say("error", lines)

    def _say(self, level: str, lines: tuple[str, ...], text: str = "") -> None:
        """One thing in so many lines. What is in a line does not break it."""
        if LEVELS[level] < self.threshold:
            return
        stamp, message = timestamp(time.time_ns()), "\n".join((*map(one_line, lines), *([shown(text)] if text else [])))
        if self.as_json:
            line = json_text({"time": stamp, "level": level, "scope": SCOPE, "msg": message}, indent=None)
        else:
            line = f"{stamp}\t{level}\t{message}"
        print(line, file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """The text line by line, each on one line, whatever is in it. Rules can be very many, and have nothing in them."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "\n".join(map(one_line, text.split("\n")))


def complain(error: CaptureError, *, as_json: bool = False) -> None:
    """Say on stderr what went wrong, as every command does: in words for people, or as a line of the log in JSON."""
    first, *more = error.lines()
    if as_json:
        Log(as_json=True).error(first, *more)
    else:
        sys.stderr.write("".join(f"{line}\n" for line in (f"error: {first}", *more)))


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC, with microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"
