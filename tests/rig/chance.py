"""What tests draw: one seed for all workers of a run, which is printed with each test that draws."""

from __future__ import annotations

import os
import random

SEED = int(
    os.environ.get("CAPTURE_SEED")
    # Workers collect each on its own, and have to collect the same.
    or int(os.environ.get("PYTEST_XDIST_TESTRUNUID", "0")[:8], 16)
    or random.SystemRandom().randrange(1 << 32)
)
"""CAPTURE_SEED draws the same again."""
ALL = os.environ.get("CAPTURE_TESTS") == "all"
"""Whether every case is wanted of which a sample is drawn otherwise: `make test-all`."""
QUICK = os.environ.get("CAPTURE_TESTS") == "quick"
"""Whether somebody waits for the answer: `make quick`."""


def share(count: int) -> int:
    """How many are drawn where that many are in `make test-all`: a quarter in `make test`, fewer in `make quick`."""
    return count if ALL else max(count // 16, 3) if QUICK else count // 4
