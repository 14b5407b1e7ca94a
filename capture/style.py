"""Text in colour or bold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from capture.text import ESC, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    F = TypeVar("F", bound=Callable[..., Any])


def style(text: str, **how: Any) -> str:
    """The text in colour or bold, as `capture.output` lets it through."""
    return click.style(one_line(text), **how).replace("\x1b", ESC)
