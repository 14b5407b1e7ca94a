"""How a watch shows what it sees: lines, JSON, or a table that is drawn again and again."""

from __future__ import annotations

import os
import shutil
import sys
import time
from abc import ABC, abstractmethod
from itertools import chain
from typing import TYPE_CHECKING

from capture.log import timestamp
from capture.output import say, say_json
from capture.schemas.answers import as_json
from capture.screen.lines import folded
from capture.style import style
from capture.text import ESC, one_line
from capture.watch.flows import added
from capture.watch.watch import events_of
from capture.watch.words import of_drift, of_row
from rules.iptables.writing import rule_text
from rules.live.drift import count
from rules.netfilter.values import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from capture.watch.flows import Flow
    from capture.watch.watch import Reference, Seen, Tick
    from rules.connections.attribution import Decision


MOST_FLOWS, MOST_LINES = 12, 40
"""Flows of new connections that the view on a terminal keeps, and that an interval has lines for elsewhere."""
KEPT = 1000
"""Flows that are counted on while others come."""


ENTER, LEAVE, HOME, TO_END_OF_LINE, TO_END = (
    f"{ESC}[?1049h{ESC}[?25l",
    f"{ESC}[?25h{ESC}[?1049l",
    f"{ESC}[H",
    f"{ESC}[K",
    f"{ESC}[J",
)


def views(output: str) -> type[View]:
    if output == "json":
        return JsonLines
    # What has no colours has no cursor that moves.
    is_able = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Screen if is_able else Lines


def laid_out(lines: Iterable[str], columns: int) -> list[str]:
    """These lines, each on as many as it takes."""
    return [part for line in lines for part in folded(one_line(line), columns)]


class View(ABC):
    """How what is seen is shown."""

    has_keys = False
    """Whether somebody may end it by a key."""

    def __init__(self, notes: Sequence[str], against: Reference, where: str = "", most: int | None = None) -> None:
        self.notes = notes
        self.against = against
        self.where = where
        """The network namespace, as the log calls it."""
        self.most = most
        """Flows that are shown of an interval; None if nobody said."""

    def __enter__(self) -> None:  # noqa: B027 # most views need nothing before and after
        pass

    def __exit__(self, *_: object) -> None:  # noqa: B027 # most views need nothing before and after
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
        for flow in self.shown(tick):
            say(f"{now} {flow}")
        for row in tick.rows:
            if row.packets:
                say(f"{now} counted {of_row(row)}")
        if tick.drift_is_new:
            for line in of_drift(tick, self.against):
                say(f"{now} {line}")

    def shown(self, tick: Tick) -> Iterator[str]:
        """The flows with most connections, and how many connections there were besides."""
        flows = list(added({}, tick.seen).values())
        most = MOST_LINES if self.most is None else self.most
        if len(flows) > most:
            flows.sort(key=lambda flow: -flow.number)
        yield from map(str, flows[:most])
        rest = flows[most:]
        if rest:
            number = count(sum(flow.number for flow in rest) + tick.more, "connection")
            least = "at least " if tick.more else ""
            yield f"and {count(len(rest), 'flow')} more with {least}{number}; --limit says how many are listed"
        elif tick.more:
            yield f"and at least {count(tick.more, 'connection')} more"


class JsonLines(View):
    """A JSON object for each thing seen."""

    def show(self, tick: Tick, *, is_first: bool) -> None:
        now = timestamp(time.time_ns())
        if self.most is not None and len(tick.seen) > self.most:
            tick = tick.but(seen=tick.seen[: self.most], more=tick.more + len(tick.seen) - self.most)
        for event in events_of(tick, now, self.notes if is_first else (), self.against, is_first=is_first):
            say_json(as_json(event), indent=None)


class Screen(View):
    """A table, redrawn in place."""

    has_keys = True

    def __init__(self, notes: Sequence[str], against: Reference, where: str = "", most: int | None = None) -> None:
        super().__init__(notes, against, where, most)
        self.flows: dict[Seen, Flow] = {}
        self.rates: dict[tuple[Family, Decision], float] = {}
        """Packets a second of each rule, over the time that had passed when the counters were read last."""
        self.last: Tick | None = None

    def __enter__(self) -> None:
        sys.stdout.write(ENTER)

    def __exit__(self, *_: object) -> None:
        sys.stdout.write(LEAVE)
        if self.last:
            say(*self.table(self.last, 10_000))

    def show(self, tick: Tick, *, is_first: bool) -> None:  # noqa: ARG002 # the table is the same from the start
        self.last = tick
        if tick.seconds:
            self.rates = {(row.family, row.decision): row.packets / tick.seconds for row in tick.rows}
        self.flows = dict(list(added(self.flows, tick.seen).items())[-KEPT:])
        size = shutil.get_terminal_size()
        most = min(MOST_FLOWS if self.most is None else self.most, max(size.lines // 3, 1))
        heading = f"{style('network namespace', bold=True)} {self.where}" if self.where else ""
        lines = laid_out([heading, *self.table(tick, size.lines - 2 - most)], size.columns)
        if self.flows:
            shown = self.newest(most, size.lines - len(lines) - 3, size.columns)
            others = len(self.flows) - len(shown)
            besides = f", the last {len(shown)} of {count(len(self.flows), 'flow')}" if others else ""
            lines += ["", style(f"new connections{besides}", bold=True), *chain.from_iterable(shown)]
        lines = [*lines[: size.lines - 1], style("q ends, as Ctrl-C does", dim=True)]
        sys.stdout.write(HOME + "\n".join(f"{line}{TO_END_OF_LINE}" for line in lines) + TO_END)

    def newest(self, most: int, room: int, columns: int) -> list[list[str]]:
        """The lines of each of the flows that came last, as many as there is room for."""
        shown: list[list[str]] = []
        for flow in reversed(list(self.flows.values())[-most:] if most else []):
            lines = laid_out([str(flow)], columns)
            room -= len(lines)
            if room < 0:
                break
            shown.insert(0, lines)
        return shown

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
            decision, rate = row.decision, self.rates.get((row.family, row.decision), 0.0)
            outcome = "captured" if decision.captures else "bypass"
            family = {Family.V4: "v4", Family.V6: "v6"}[row.family]
            why = decision.why or rule_text(decision.rule)
            line = f"{family:4} {outcome:8} {rate:8.1f} {row.since_start:8} {row.total:10}  "
            line += f"{decision.table} {decision.chain} {decision.position}: {why}"
            yield style(line, bold=True) if rate else line
