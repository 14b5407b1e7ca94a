"""`capture watch`: counters and connections as they come, and drift when it happens."""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.errors import DIFFERS, DONE, BadSettings, Refusal
from capture.host.facts import read_facts
from capture.intent.here import looked_up_or_without
from capture.kernel import netns
from capture.log import Log
from capture.output import nobody_reads
from capture.settings import parsers
from capture.settings.declared import BACKEND, LOOKING, MEANING
from capture.watch.keys import keys
from capture.watch.views import View, views
from capture.watch.watch import Event, Watch, against_plan, against_start, woken_by_signals
from rules.plan.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.host.facts import Facts
    from capture.settings.declared import Settings
    from capture.watch.watch import Tick
    from rules.plan.plan import Plan


SHORTEST = 0.05
"""Seconds of an interval, so that a watch stays cheap."""


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
@click.option(
    "--limit", type=click.IntRange(min=0), help="Show at most so many flows of new connections in an interval."
)
@output_option("what is seen", Event)
def command(interval: float, most: int | None, for_: float | None, limit: int | None, output: str) -> None:
    """Follow the capture: which rules count, who is captured and who bypasses the proxy, and drift as it happens.

    Drift is any difference from these settings or, if none are given, from what was there at the start. On a terminal
    a table is redrawn in place, until q is typed; elsewhere it is a line for each thing seen, in which connections
    between the same ends are one; `--output json` prints a JSON line for each. Ends at SIGINT or SIGTERM. Exit status
    0: no drift, or none that is left; 4: drift is left; 1: cannot tell.
    """
    gc.enable()  # this may run for weeks
    with reporting(), woken_by_signals() as wake:
        settings = settings_given()
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        facts, planned = facts_and_plan(settings)
        watch = Watch(facts, log, planned)
        try:
            drift = against_plan(settings, planned) if planned else against_start(watch.start)
            until = None if for_ is None else time.monotonic() + for_
            where = netns.described(settings.network_namespace)
            view = views(output)(watch.notes, "the settings" if planned else "the start", where, limit)
            with keys() if view.has_keys else nullcontext() as typed:
                ticks = watch.ticks(max(interval, SHORTEST), drift, until=until, wake=wake, typed=typed)
                left = follow(ticks, view, most)
        finally:
            watch.close()
    sys.exit(DIFFERS if left else DONE)


def facts_and_plan(settings: Settings) -> tuple[Facts, Plan | None]:
    """What the host answers, and what is planned, if settings say it."""
    if is_meant(settings):
        settings, facts, resolved = looked_up_or_without(settings)
        return facts, plan(resolved.intent) if is_meant(settings) else None
    if settings.network_namespace:
        netns.enter(settings.network_namespace)
    return read_facts(os.environ), None


def is_meant(settings: Settings) -> bool:
    """Whether these settings ask for any rule."""
    return any(setting.name not in LOOKING | BACKEND for setting, _, _ in settings.given())


def follow(ticks: Iterator[Tick], view: View, most: int | None) -> bool:
    """Show interval after interval. Whether drift is left at the end."""
    left = False
    with view:
        for number, tick in enumerate(ticks):
            left = bool(tick.drift)
            view.show(tick, is_first=not number)
            # Whoever read our output may have seen enough.
            if nobody_reads() or (most is not None and number >= most):
                break
    return left
