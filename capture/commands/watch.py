"""`capture watch`: counters and connections as they come, and drift when it happens."""

from __future__ import annotations

import os
import shutil
import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, output_option, reporting, said_settings, style
from capture.errors import DIFFERS, DONE, BadSettings, Refusal
from capture.host.facts import read_facts
from capture.intent.here import looked_up_or_without
from capture.kernel import netns
from capture.log import Log, timestamp
from capture.output import nobody_reads, say, say_json
from capture.schemas.answers import as_json
from capture.settings import parsers
from capture.settings.declared import BACKEND, LOOKING, MEANING
from capture.text import ESC, one_line
from capture.watch.watch import Event, Watch, against_plan, against_start, events_of, woken_by_signals
from capture.watch.words import of_connection, of_drift, of_row
from rules.iptables.writing import rule_text
from rules.live.drift import count
from rules.netfilter.values import Family
from rules.plan.plan import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capture.host.facts import Facts
    from capture.settings.declared import Settings
    from capture.watch.watch import Drift, Reference, Tick


SHORTEST = 0.05
"""Seconds of an interval, so that a watch stays cheap."""


RECENT = 12
"""Connections that the view on a terminal keeps."""


ENTER, LEAVE, HOME, TO_END_OF_LINE, TO_END = (
    f"{ESC}[?1049h{ESC}[?25l",
    f"{ESC}[?25h{ESC}[?1049l",
    f"{ESC}[H",
    f"{ESC}[K",
    f"{ESC}[J",
)


def seconds(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001 # click's signature
    """A duration as Go writes it."""
    if value is None:
        return None
    try:
        return float(parsers.duration(value))
    except ValueError as refused:
        with reporting():
            raise BadSettings([Refusal(f"option --{(option.name or '').rstrip('_')}", value, str(refused))]) from None
        raise


@click.command(cls=SettingsCommand, uses=MEANING, needs=lambda _: False)
@click.option("--interval", default="1s", callback=seconds, metavar="DURATION", help="How often to look. Default 1s.")
@click.option("--count", "most", type=click.IntRange(min=1), help="End after so many intervals.")
@click.option("--for", "for_", callback=seconds, metavar="DURATION", help="End after so long.")
@output_option("what is seen", Event)
def command(interval: float, most: int | None, for_: float | None, output: str) -> None:
    """Follow the capture: which rules count, who is captured and who bypasses the proxy, and drift as it happens.

    Drift is any difference from these settings or, if none are given, from what was there at the start. On a terminal
    a table is redrawn in place; elsewhere it is a line for each thing seen; `--output json` prints JSON lines. Ends
    at SIGINT or SIGTERM. Exit status 0: no drift, or none that is left; 4: drift is left; 1: cannot tell.
    """
    with reporting(), woken_by_signals() as wake:
        settings = said_settings()
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        facts, drifted = held_to(settings)
        watch = Watch(facts, log)
        try:
            drift = drifted or against_start(watch.start)
            until = None if for_ is None else time.monotonic() + for_
            view = views(output)(watch.notes, "the settings" if drifted else "the start")
            left = follow(watch, drift, view, max(interval, SHORTEST), most, until, wake)
        finally:
            watch.close()
    sys.exit(DIFFERS if left else DONE)


def held_to(settings: Settings) -> tuple[Facts, Drift | None]:
    """What the host answers, and what drift is measured against, if settings say it."""
    if is_meant(settings):
        settings, facts, resolved = looked_up_or_without(settings)
        return facts, against_plan(settings, plan(resolved.intent)) if is_meant(settings) else None
    if settings.network_namespace:
        netns.enter(settings.network_namespace)
    return read_facts(os.environ), None


def is_meant(settings: Settings) -> bool:
    """Whether these settings ask for any rule."""
    return any(setting.name not in LOOKING | BACKEND for setting, _, _ in settings.given())


def follow(
    watch: Watch, drifted: Drift, view: View, interval: float, most: int | None, until: float | None, wake: int
) -> bool:
    """Show interval after interval. Whether drift is left at the end."""
    left = False
    with view:
        for number, tick in enumerate(watch.ticks(interval, drifted, until=until, wake=wake)):
            left = bool(tick.drift)
            view.show(tick, is_first=not number)
            # Whoever read our output may have seen enough.
            if nobody_reads() or (most is not None and number >= most):
                break
    return left


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
        yield style(f"{'':4} {'fate':8} {'per s':>8} {'new':>8} {'total':>10}  rule and why", bold=True)
        for row in sorted(tick.rows, key=lambda row: -row.since_start)[: max(height - 10, 5)]:
            rate = row.packets / tick.seconds if tick.seconds else 0.0
            decision = row.decision
            fate = "captured" if decision.captures else "bypass"
            family = {Family.V4: "v4", Family.V6: "v6"}[row.family]
            why = decision.why or rule_text(decision.rule)
            line = f"{family:4} {fate:8} {rate:8.1f} {row.since_start:8} {row.total:10}  "
            line += f"{decision.table} {decision.chain} {decision.position}: {why}"
            yield style(line, bold=True) if row.packets else line


def cut(line: str, width: int) -> str:
    """The line as far as it fits; colours take no room."""
    plain = click.unstyle(line.replace(ESC, "\x1b"))
    return line if len(plain) <= width else f"{plain[: width - 1]}…"
