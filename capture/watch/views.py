"""How a watch shows what it sees: lines, JSON, or a table that is drawn again and again."""

from __future__ import annotations

import shutil
import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import click

from capture.log import timestamp
from capture.output import say, say_json
from capture.schemas.answers import as_json
from capture.style import style
from capture.text import ESC, one_line
from capture.watch.watch import events_of
from capture.watch.words import of_connection, of_drift, of_row
from rules.iptables.writing import rule_text
from rules.live.drift import count
from rules.netfilter.values import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capture.watch.watch import Reference, Tick


RECENT = 12
"""Connections that the view on a terminal keeps."""


ENTER, LEAVE, HOME, TO_END_OF_LINE, TO_END = (
    f"{ESC}[?1049h{ESC}[?25l",
    f"{ESC}[?25h{ESC}[?1049l",
    f"{ESC}[H",
    f"{ESC}[K",
    f"{ESC}[J",
)


def views(output: str) -> Callable[[Sequence[str], Reference], View]:
    if output == "json":
        return JsonLines
    return Screen if sys.stdout.isatty() else Lines


class View(ABC):
    """How what is seen is shown."""

    def __init__(self, notes: Sequence[str], against: Reference) -> None:
        self.notes = notes
        self.against = against

    def __enter__(self) -> None:  # noqa: B027 # most views need nothing before and after
        pass

    def __exit__(self, *_: object) -> None:  # noqa: B027 # likewise
        pass

    @abstractmethod
    def show(self, tick: Tick, *, is_first: bool) -> None:
        """Show what happened in an interval."""


class Lines(View):
    """A line for each thing seen."""

    def show(self, tick: Tick, *, is_first: bool) -> None:
        now = time.strftime("%H:%M:%S")
        if is_first:
            for note in self.notes:
                say(f"{now} note: {note}")
            if not tick.drift:
                say(f"{now} no drift from {self.against}")
        for seen in tick.seen:
            say(f"{now} {of_connection(seen)}")
        if tick.more:
            say(f"{now} and at least {count(tick.more, 'connection')} more")
        for row in tick.rows:
            if row.packets:
                say(f"{now} counted {of_row(row)}")
        if tick.drift_is_new:
            for line in of_drift(tick, self.against):
                say(f"{now} {line}")


class JsonLines(View):
    """A JSON object for each thing seen."""

    def show(self, tick: Tick, *, is_first: bool) -> None:
        now = timestamp(time.time_ns())
        for event in events_of(tick, now, self.notes if is_first else (), self.against, is_first=is_first):
            say_json(as_json(event), indent=None)


class Screen(View):
    """A table, redrawn in place."""

    def __init__(self, notes: Sequence[str], against: Reference) -> None:
        super().__init__(notes, against)
        self.recent: list[str] = []
        self.last: Tick | None = None

    def __enter__(self) -> None:
        sys.stdout.write(ENTER)

    def __exit__(self, *_: object) -> None:
        sys.stdout.write(LEAVE)
        if self.last:
            say(*self.table(self.last, 10_000))

    def show(self, tick: Tick, *, is_first: bool) -> None:  # noqa: ARG002 # the table is the same from the start
        self.last = tick
        self.recent = [*self.recent, *map(of_connection, tick.seen)][-RECENT:]
        size = shutil.get_terminal_size()
        lines = list(self.table(tick, size.lines - 1))
        if self.recent:
            lines += ["", style("new connections", bold=True), *self.recent]
        shown = [cut(one_line(line), size.columns) + TO_END_OF_LINE for line in lines[: size.lines - 1]]
        sys.stdout.write(HOME + "\n".join(shown) + TO_END)

    def table(self, tick: Tick, height: int) -> Iterator[str]:
        """Drift above all, then the rules that decide, those that counted last first in bold."""
        if tick.drift:
            yield style(f"drift: {count(len(tick.drift), 'difference')} from {self.against}", fg="red", bold=True)
            for found in tick.drift[:5]:
                yield style(f"  {found}", fg="red")
            if len(tick.drift) > 5:
                yield style(f"  and {len(tick.drift) - 5} more", fg="red")
        else:
            yield style(f"no drift from {self.against}", fg="green")
        yield from (style(f"note: {note}", dim=True) for note in self.notes)
        yield ""
        yield style(f"{'':4} {'outcome':8} {'per s':>8} {'new':>8} {'total':>10}  rule and why", bold=True)
        for row in sorted(tick.rows, key=lambda row: -row.since_start)[: max(height - 10, 5)]:
            rate = row.packets / tick.seconds if tick.seconds else 0.0
            decision = row.decision
            outcome = "captured" if decision.captures else "bypass"
            family = {Family.V4: "v4", Family.V6: "v6"}[row.family]
            why = decision.why or rule_text(decision.rule)
            line = f"{family:4} {outcome:8} {rate:8.1f} {row.since_start:8} {row.total:10}  "
            line += f"{decision.table} {decision.chain} {decision.position}: {why}"
            yield style(line, bold=True) if row.packets else line


def cut(line: str, width: int) -> str:
    """The line as far as it fits; colours take no room."""
    plain = click.unstyle(line.replace(ESC, "\x1b"))
    return line if len(plain) <= width else f"{plain[: width - 1]}…"
