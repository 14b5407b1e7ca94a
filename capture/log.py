"""What we say while we work: one line or one JSON object for each thing said, on stderr.

The layout is the reference's, because log pipelines know it: time in UTC with microseconds, level, message.
"""

from __future__ import annotations

import sys
import time

LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50, "none": 60}
SCOPE = "default"
TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes reads why a container ended: the default of its terminationMessagePath."""


class Log:
    """Says what is at or above a level."""

    def __init__(self, level: str = "info", *, as_json: bool = False) -> None:
        self.threshold = LEVELS[level]
        self.as_json = as_json

    def debug(self, message: str) -> None:
        self._say("debug", message)

    def info(self, message: str) -> None:
        self._say("info", message)

    def warn(self, message: str) -> None:
        self._say("warn", message)

    def error(self, message: str) -> None:
        self._say("error", message)

    def _say(self, level: str, message: str) -> None:
        if LEVELS[level] < self.threshold:
            return
        stamp = timestamp(time.time_ns())
        if self.as_json:
            import json

            line = json.dumps({"time": stamp, "level": level, "scope": SCOPE, "msg": message}, ensure_ascii=False)
        else:
            line = f"{stamp}\t{level}\t{message}"
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            # A full disk behind stderr, or a reader that went away: not being heard is no reason to stop half way. The
            # old object would try again when Python ends, and turn our exit status into 120.
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 # open to the end


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC, with microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"
