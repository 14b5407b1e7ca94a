"""Waiting for what comes by itself, and failing where it does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = 0.005
"""Seconds between two looks, so that what is waited for has the processor."""


def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Look again and again until this holds. Fails after so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it has not come within {seconds:g} s"
        time.sleep(STEP)
