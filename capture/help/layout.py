"""How help is laid out: by the terminal's width, broken between words, settings by what they are about."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from capture.settings.groups import grouped, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from capture.settings.declared import Declaration

WIDEST = 120
"""Columns of help, on a terminal that has more."""


class Formatter(click.HelpFormatter):
    """Help as wide as the terminal, broken between words only."""

    def wrapped(self, text: str, first: str, rest: str) -> str:
        """Each paragraph as many lines as it takes."""
        return "\n\n".join(
            textwrap.fill(
                " ".join(paragraph.split()),
                max(self.width, len(rest) + 20),
                initial_indent=first,
                subsequent_indent=rest,
                break_on_hyphens=False,
                break_long_words=False,
            )
            for paragraph in text.split("\n\n")
        )

    def write_text(self, text: str) -> None:
        margin = " " * self.current_indent
        self.write(f"{self.wrapped(text, margin, margin)}\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        rows = list(rows)
        column = self.current_indent + min(max((len(first) for first, _ in rows), default=0), col_max) + col_spacing
        for first, second in rows:
            head = f"{'':{self.current_indent}}{first}"
            if len(head) + col_spacing > column:
                self.write(f"{head}\n")
                head = ""
            self.write(f"{self.wrapped(second, f'{head:{column}}', ' ' * column) or head}\n")


class Context(click.Context):
    """What click knows of a command that is running; its help is ours."""

    formatter_class = Formatter


def write_commands(commands: Mapping[str, str], formatter: click.HelpFormatter) -> None:
    """Every command and what it is for; and where there is more."""
    with formatter.section("Commands"):
        formatter.write_dl(commands.items())
    with formatter.section("More"):
        formatter.write_dl(
            [
                ("capture help COMMAND", "What a command takes; of `apply`, all settings, with their variables."),
                ("capture help errors", "Exit statuses, and what goes wrong."),
            ]
        )


def write_settings(settings: Iterable[Declaration], formatter: click.HelpFormatter) -> None:
    """A section for each group of these settings."""
    for title, members in grouped(settings):
        with formatter.section(title):
            formatter.write_dl([help_of(setting) for setting in members])


def help_of(setting: Declaration) -> tuple[str, str]:
    """A setting's line in the help: how it is given, and what it means."""
    from capture.settings.model import written

    default = written(setting, setting.default)
    known = f"default {default}" if default not in ("", "false") else ""
    if not setting.long:
        return f"${setting.env[0]}", " ".join(filter(None, (setting.about, f"[{known}]" if known else "")))
    flags = f"{setting.short}, {setting.long}" if setting.short else f"    {setting.long}"
    about = "; ".join(filter(None, (f"${', $'.join(setting.env)}", known)))
    return f"{flags} {value_of(setting)}".rstrip(), f"{setting.about} [{about}]"
