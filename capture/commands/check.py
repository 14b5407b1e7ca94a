"""`capture check`: whether a run with these settings would work here, and what it would lack."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.errors import DONE, FAILED
from capture.output import say, say_json
from capture.preflight.check import check
from capture.preflight.facts import Checked, Fact
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from capture.schemas.answers import as_json
from capture.style import style

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
WIDTH = 100
COLOURS = {OK: "green", WARN: "yellow", MISSING: "red", UNKNOWN: "cyan"}


@click.command(cls=SettingsCommand)
@output_option("the facts", Checked)
@click.option(
    "--no-rehearsal",
    is_flag=True,
    help="Do not try the rules in a network namespace of their own, for which the kernel may load modules.",
)
def command(output: str, no_rehearsal: bool) -> None:
    """Tell whether a run with these settings would work here, and what it would lack. Changes nothing.

    Every fact that decides it, with a verdict and a remedy. Needs no root: what this user may not see is unknown. Where
    it may, the rules are tried in a network namespace of their own, which vanishes at once. Exit status 1 if something
    that these settings need is missing.
    """
    with reporting():
        checked = Checked(tuple(check(settings_given(), os.environ, rehearse=not no_rehearsal)))
    if output == "json":
        say_json(as_json(checked))
    else:
        say(*report(checked.facts))
    sys.exit(DONE if checked.works else FAILED)


def report(facts: Sequence[Fact]) -> Iterator[str]:
    """The table, those that are not ok with their remedies, and the answer."""
    names = max(len(fact.name) for fact in facts)
    area = ""
    for fact in facts:
        if fact.area != area:
            yield from ([""] if area else [])
            area = fact.area
            yield style(area, bold=True)
        word, colour = shown(fact)
        first = f"  {fact.name:<{names}}  {word:<10}  "
        lines = textwrap.wrap(fact.value, max(WIDTH - len(first), 30), break_on_hyphens=False) or [""]
        styled = f"  {fact.name:<{names}}  {style(f'{word:<10}', fg=colour)}  "
        yield styled + lines[0]
        for line in lines[1:]:
            yield " " * len(first) + line
    mind = [fact for fact in facts if fact.needed and fact.verdict != OK]
    if mind:
        yield ""
        yield style("findings", bold=True)
    for fact in sorted(mind, key=lambda fact: (MISSING, WARN, UNKNOWN).index(fact.verdict)):
        word, colour = shown(fact)
        yield from wrapped(f"{fact.name}: {fact.value}", style(f"  {word:<7}  ", fg=colour), 11)
        if fact.remedy:
            yield from wrapped(f"→ {fact.remedy}", " " * 11, 13)
    yield ""
    yield answer(facts)


def wrapped(text: str, first: str, indent: int) -> Iterator[str]:
    lines = textwrap.wrap(text, WIDTH - indent, break_on_hyphens=False)
    yield first + lines[0]
    for line in lines[1:]:
        yield " " * indent + line


def shown(fact: Fact) -> tuple[str, str]:
    """The verdict's word and colour; what is not needed is not judged."""
    if not fact.needed:
        return "not needed", "bright_black"
    return fact.verdict, COLOURS[fact.verdict]


def answer(facts: Sequence[Fact]) -> str:
    """The last line."""
    missing = [fact for fact in facts if fact.prevents]
    if missing:
        reasons = "; ".join(f"{fact.name}: {fact.value}" for fact in missing)
        return style(f"a run with these settings will fail: {reasons}", fg="red", bold=True)
    unknown = sum(fact.needed and fact.verdict == UNKNOWN for fact in facts)
    more = f", as far as can be told ({unknown} not known)" if unknown else ""
    return style(f"a run with these settings will work here{more}", fg="green", bold=True)
