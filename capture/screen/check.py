"""Whether a run would work here, as a table with remedies."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from capture.screen.lines import width
from capture.style import style

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.preflight.facts import Fact

COLOURS = {OK: "green", WARN: "yellow", MISSING: "red", UNKNOWN: "cyan"}


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
        lines = textwrap.wrap(
            fact.value, max(width() - len(first), 20), break_on_hyphens=False, break_long_words=False
        ) or [""]
        styled = f"  {fact.name:<{names}}  {style(f'{word:<10}', fg=colour)}  "
        yield styled + lines[0]
        for line in lines[1:]:
            yield " " * len(first) + line
    worth_saying = [fact for fact in facts if fact.needed and fact.verdict != OK]
    if worth_saying:
        yield ""
        yield style("findings", bold=True)
    for fact in sorted(worth_saying, key=lambda fact: (MISSING, WARN, UNKNOWN).index(fact.verdict)):
        word, colour = shown(fact)
        yield from wrapped(f"{fact.name}: {fact.value}", style(f"  {word:<7}  ", fg=colour), 11)
        if fact.remedy:
            yield from wrapped(f"→ {fact.remedy}", " " * 11, 13)
    yield ""
    yield answer(facts)


def wrapped(text: str, first: str, indent: int) -> Iterator[str]:
    lines = textwrap.wrap(text, width() - indent, break_on_hyphens=False, break_long_words=False)
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
