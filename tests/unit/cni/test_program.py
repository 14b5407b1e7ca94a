"""The entry of `capture-cni`: what it reads of a runtime."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from capture.cni import program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("size", [0, 1, 63, 64])
def test_a_configuration_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Up to the size that is allowed."""
    assert given(tmp_path, monkeypatch, "x" * size) == "x" * size


@pytest.mark.parametrize("size", [65, 1000])
def test_one_that_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """From the first byte too many."""
    with pytest.raises(OSError, match="larger than 64 bytes") as refused:
        given(tmp_path, monkeypatch, "x" * size)
    assert refused.value.errno == errno.EFBIG


def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """What is read where this is standard input."""
    (tmp_path / "stdin").write_text(text)
    monkeypatch.setattr(program, "LARGEST", 64)
    before, file = os.dup(0), os.open(tmp_path / "stdin", os.O_RDONLY)
    try:
        os.dup2(file, 0)
        return program.stdin()
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(file)
