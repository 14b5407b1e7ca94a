"""What ends a run of the tests ends all of it: workers, what they started in sessions of their own, namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.rig.pod import ROOT

pytestmark = pytest.mark.netns
PROGRAM = """
import subprocess, sys, time
from tests.guard import guarded
def work():
    own = subprocess.Popen(["setsid", "sleep", "600"])
    subprocess.Popen(["sleep", "600"])
    time.sleep(0.1)
    print("begun", flush=True)
    time.sleep(600)
    return 0
sys.exit(guarded(work))
"""


def sleeping(marker: str) -> list[int]:
    """The processes whose environment has this."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if marker.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("ignored", [True, False], ids=["SIGINT ignored, as in the background of a shell", "as usual"])
def test_whoever_is_told_to_end_takes_everything_along(number: signal.Signals, ignored: bool) -> None:
    """With the status of the signal, and at once; also what has a session of its own."""
    marker = f"CAPTURE_GUARD={os.getpid()}-{number}-{ignored}-{time.monotonic_ns()}"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        running = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={**os.environ, "CAPTURE_GUARD": marker.partition("=")[2]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"
    assert len(sleeping(marker)) == 4
    running.send_signal(number)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 128 + number
    assert said.decode().endswith(f"{number.name}: stopped, and everything was removed\n")
    assert sleeping(marker) == []
