"""Whether a run would work here, as a table with remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from capture.screen.lines import wrapped
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
        yield from wrapped(fact.value, f"  {fact.name:<{names}}  {style(f'{word:<10}', fg=colour)}  ")
    worth_saying = [fact for fact in facts if fact.needed and fact.verdict != OK]
    if worth_saying:
        yield ""
        yield style("findings", bold=True)
    for fact in sorted(worth_saying, key=lambda fact: (MISSING, WARN, UNKNOWN).index(fact.verdict)):
        word, colour = shown(fact)
        yield from wrapped(f"{fact.name}: {fact.value}", style(f"  {word:<7}  ", fg=colour))
        if fact.remedy:
            yield from wrapped(f"→ {fact.remedy}", " " * 11, 13)
    yield ""
    yield answer(facts)


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
