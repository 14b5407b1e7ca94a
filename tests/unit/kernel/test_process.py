"""Programs that are run to their end."""

from __future__ import annotations

import os
import sys

import pytest

from capture.kernel.process import run


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_program_leaves_no_file_open() -> None:
    """Neither one that ends, nor one that cannot be started: a run for many namespaces starts thousands."""
    before = open_files()
    done = run(sys.executable, "-c", "import sys; print(sys.stdin.read()); sys.exit(3)", text="said")
    assert (done.status, done.stdout) == (3, "said\n")
    with pytest.raises(OSError, match="No such file"):
        run("/nowhere/program")
    assert open_files() == before


def test_what_it_says_is_kept_byte_by_byte() -> None:
    done = run(sys.executable, "-c", r"import sys; sys.stderr.buffer.write(b'\xff'); sys.stdout.buffer.write(b'a\r\n')")
    assert (done.status, done.stdout, done.stderr) == (0, "a\r\n", "\udcff")
