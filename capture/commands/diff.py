"""`capture diff`: what a run would change, as a unified diff."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.inspect.hunks import Diff, diff
from capture.inspect.verify import STATUS, compared
from capture.intent.here import looked_up
from capture.log import Log
from capture.output import say, say_json
from capture.schemas.answers import as_json
from capture.settings.declared import MEANING
from capture.style import style
from rules.plan.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.inspect.hunks import ChainDiff, Line

COLOURS = {"-": "red", "+": "green", "@": "cyan", "#": "yellow"}
HEADINGS = ("---", "+++")


@click.command(cls=SettingsCommand, uses=MEANING)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="Colour the text. `auto`: on a terminal, unless NO_COLOR is set.",
)
@click.option("--why", is_flag=True, help="Say behind each rule that comes or goes what it is for.")
@output_option("the difference", Diff)
def command(color: str, why: bool, output: str) -> None:
    """Show what a run with these settings would change: from what is live to what is planned.

    Nothing is printed if nothing differs. Exit status 0: as planned; 3: nothing of ours is here; 4: it differs;
    1: cannot tell.
    """
    with reporting():
        settings = settings_given()
        _, resolved = looked_up(settings)
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        found = diff(compared(settings, plan(resolved.intent), log))
    if output == "json":
        say_json(as_json(found))
    else:
        in_colour = {"always": True, "never": False}.get(color, False if os.environ.get("NO_COLOR") else None)
        say(*map(coloured, text(found, why=why)), in_colour=in_colour)
    sys.exit(STATUS[found.verdict])


def coloured(line: str) -> str:
    if line.startswith(HEADINGS):
        return style(line, bold=True)
    return style(line, fg=COLOURS[line[0]]) if line[0] in COLOURS else line


def text(found: Diff, *, why: bool = False) -> Iterator[str]:
    """The lines of the diff. What no run changes stands in comments at the end."""
    for chain in found.chains:
        yield from of_chain(chain, why=why)
    if found.ip:
        yield from heading("ip")
        yield from (shown(line, why=why) for line in found.ip)
    yield from (f"# {beyond}" for beyond in found.beyond_repair)


def heading(of: str) -> Iterator[str]:
    yield f"--- live     {of}"
    yield f"+++ planned  {of}"


def of_chain(diff: ChainDiff, *, why: bool) -> Iterator[str]:
    yield from heading(f"{diff.backend} {diff.family.value} {diff.table} {diff.chain}")
    if diff.change != "changed":
        yield f"{'+' if diff.change == 'made' else '-'}:{diff.chain} - [0:0]"
    for hunk in diff.hunks:
        yield f"@@ -{span(hunk.live_start, hunk.live_count)} +{span(hunk.planned_start, hunk.planned_count)} @@"
        yield from (shown(line, why=why) for line in hunk.lines)


def span(start: int, count: int) -> str:
    return str(start) if count == 1 else f"{start},{count}"


def shown(line: Line, *, why: bool) -> str:
    return f"{line.op}{line.text}{f'  # {line.why}' if why and line.why and line.op != ' ' else ''}"
