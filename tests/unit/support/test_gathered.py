"""What a report gathers of the place that it is made in."""

from __future__ import annotations

import os
from pathlib import Path

from capture.support.gathered import processes


def test_a_process_is_told_by_its_effective_user() -> None:
    """By which the owner match knows a sender: pid, that of the parent, uid and name."""
    own = next(line.split() for line in processes().splitlines() if line.startswith(f"{os.getpid()} "))
    name = Path("/proc/self/comm").read_text().strip()
    assert own == [str(os.getpid()), str(os.getppid()), str(os.geteuid()), *name.split()]
