"""The keyboard under a watch: `q` ends it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDING = frozenset(b"qQ")


@contextmanager
def keys() -> Iterator[int | None]:
    """The descriptor on which keys come one by one, unseen; None where nobody types, or we are in the background."""
    import termios
    import tty

    try:
        typed = sys.stdin.fileno()
        if not os.isatty(typed) or os.tcgetpgrp(typed) != os.getpgrp():
            yield None
            return
        before = termios.tcgetattr(typed)
    except (OSError, ValueError, AttributeError, termios.error):
        yield None
        return
    tty.setcbreak(typed, termios.TCSANOW)
    try:
        yield typed
    finally:
        termios.tcsetattr(typed, termios.TCSANOW, before)


def ends(typed: int) -> bool:
    """Whether what was typed ends the watch; so does a terminal that went away."""
    try:
        read = os.read(typed, 64)
    except OSError:
        return True
    return not read or not ENDING.isdisjoint(read)
