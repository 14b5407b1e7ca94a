"""`capture report`: where the archive is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from capture.commands import report

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(("flags", "name"), [((), "capture-report-7.tar.gz"), (("--file", "mine.tgz"), "mine.tgz")])
def test_the_archive_is_here_under_the_time_or_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, flags: Sequence[str], name: str
) -> None:
    """And its folder inside has the time in its name, wherever it is."""
    written: list[tuple[str, object]] = []
    monkeypatch.setattr(report, "asked", lambda *_: ())
    monkeypatch.setattr(report, "gathered", list)
    monkeypatch.setattr(report, "packed", lambda _, folder: folder)
    monkeypatch.setattr(report, "write", lambda path, packed: written.append((path, packed)))
    monkeypatch.setattr(report, "contents", lambda *_: [])
    monkeypatch.setattr("time.strftime", lambda _: "7")
    monkeypatch.setattr("sys.argv", ["capture", "report", *flags])
    CliRunner().invoke(report.command, list(flags))
    assert written == [(name, "capture-report-7")]
