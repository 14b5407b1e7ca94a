"""The man page: fresh, complete, and without a complaint of who renders it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from capture.commands import COMMANDS
from capture.settings.declared import DECLARED
from tests import write_man


def test_the_man_page_is_what_the_code_says_now() -> None:
    """`make docs` would change nothing."""
    assert write_man.PAGE.read_text(encoding="utf-8") == write_man.page(), "run `make docs`"
    assert write_man.ALIAS.read_text(encoding="utf-8") == ".so man1/capture.1\n"


@pytest.mark.skipif(not shutil.which("groff"), reason="not installed: groff, which renders man pages")
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_man_page_renders(columns: int) -> None:
    """Without a warning, with every command and setting, at any width."""
    words = ["groff", "-k", "-man", "-Tutf8", "-ww", f"-rLL={columns}n", "-P-c", "-P-b", "-P-u", str(write_man.PAGE)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "break line" not in done.stderr or columns < 80
    assert [line for line in done.stderr.splitlines() if not line.endswith(" line")] == []
    text = " ".join(done.stdout.replace("−", "-").replace("‐", "-").split())
    for command in COMMANDS:
        assert f"capture {command}" in text
    for setting in DECLARED:
        assert all(name in text for name in (setting.short, setting.long, *setting.env[:1]))
    assert "`" not in text
