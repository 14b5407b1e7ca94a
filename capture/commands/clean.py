"""`capture clean`: everything of ours out of the namespace, and what that was."""

from __future__ import annotations

import sys

import click

from capture.apply.clean import Cleaned, clean, foreseen
from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.dry_run import dry_run
from capture.errors import DONE, FAILED
from capture.host.choice import Choice
from capture.host.live import read_live
from capture.kernel import netns
from capture.log import Log
from capture.output import say_json
from capture.schemas.answers import as_json
from capture.screen.lines import show
from capture.settings.declared import REMOVING
from rules.plan.plan import NOTHING


@click.command(cls=SettingsCommand, uses=REMOVING)
@output_option("what was removed and what was left alone", Cleaned)
def command(output: str) -> None:
    """Remove all that capture put into this namespace, and say what that was, what was left alone, and why.

    Needs no settings: what is ours is known by itself, in both backends, whatever settings or version put it there.
    The same as --cleanup-only, which tells the log. Ends with 1 if anything of ours remains.
    """
    with reporting():
        settings = settings_given()
        if settings.network_namespace:
            netns.enter(settings.network_namespace)
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        log.info(f"Network namespace: {netns.described(settings.network_namespace)}")
        if settings.dry_run and output == "json":
            say_json(as_json(foreseen(read_live(), settings)))
            return
        if settings.dry_run:
            dry_run(settings, NOTHING, log)
            return
        # The answer is on stdout: of the log, what went wrong is enough from here.
        level = "warn" if settings.log_output_level == "info" else settings.log_output_level
        cleaned = clean(settings, Log(level, as_json=settings.log_as_json))
    if output == "json":
        say_json(as_json(cleaned))
    else:
        show(report(cleaned))
    sys.exit(FAILED if cleaned.remaining else DONE)


def report(cleaned: Cleaned) -> list[str]:
    lines = []
    choice = Choice(cleaned.backend, cleaned.backend_reason)
    for heading, things in (
        ("removed", cleaned.removed),
        ("left alone", cleaned.left),
        ("kept, because others lead there", cleaned.kept),
        ("STILL HERE", cleaned.remaining),
        ("reset, because they were captured", cleaned.reset),
        ("using", (choice,) if choice.backend else ()),
    ):
        if things:
            lines += [heading, *(f"  {thing}" for thing in things)]
    if not cleaned.removed:
        lines.append("nothing of ours was here")
    elif not cleaned.remaining:
        lines.append(f"nothing of ours is left{' but those empty chains' if cleaned.kept else ''}")
    return lines
