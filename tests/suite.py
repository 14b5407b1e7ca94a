"""`make test`: pytest as a child of ours, so that nothing of it is left however it ends, its workers included.

A worker of pytest-xdist goes on for as long as its test does, whoever ended the run; and a shell that runs us in the
background has SIGINT ignored, which is as we leave it to no child.
"""

from __future__ import annotations

import signal
import sys

from tests.guard import guarded


def tested() -> int:
    """The exit status of pytest with the arguments of the command line."""
    import pytest

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return int(pytest.main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(guarded(tested))
