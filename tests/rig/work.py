"""How much work something is, in lines of Python that run: the same on a busy machine and on a slow one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from _typeshed import TraceFunction

Input = TypeVar("Input")


def lines_run(act: Callable[[], object]) -> int:
    """How many lines run while this is done; each turn of a loop counts, also one within a line."""
    count = 0

    def traced(_frame: FrameType, event: str, _about: object) -> TraceFunction:
        nonlocal count
        count += event == "line"
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def growth(act: Callable[[Input], object], small: Input, large: Input) -> float:
    """How many times as much work the large input is: at twice the size 2, or 4 where it grows with the square."""
    return lines_run(lambda: act(large)) / lines_run(lambda: act(small))
