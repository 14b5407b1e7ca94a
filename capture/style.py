"""Text in colour or bold."""

from __future__ import annotations

from typing import Any

import click

from capture.text import ESC, one_line


def style(text: str, **how: Any) -> str:
    """The text in colour or bold, as `capture.output` lets it through."""
    return click.style(one_line(text), **how).replace("\x1b", ESC)
