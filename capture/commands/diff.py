"""`capture diff`: what a run would change, as a unified diff."""

from __future__ import annotations

import sys

import click

from capture.commands.base import SettingsCommand, answer, output_option, reporting, settings_given
from capture.inspect.hunks import Diff, diff
from capture.inspect.verify import STATUS, compared
from capture.intent.here import looked_up
from capture.log import Log
from capture.screen.diff import coloured, text
from capture.settings.declared import MEANING
from rules.plan.plan import plan


@click.command(cls=SettingsCommand, uses=MEANING)
@click.option("--why", is_flag=True, help="Say behind each rule that comes or goes what it is for.")
@output_option("the difference", Diff)
def command(why: bool, output: str) -> None:
    """Show what a run with these settings would change: from what is live to what is planned.

    Nothing is printed if nothing differs. Exit status 0: as planned; 3: nothing of ours is here; 4: it differs;
    1: cannot tell.
    """
    with reporting():
        settings = settings_given()
        _, resolved = looked_up(settings)
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        found = diff(compared(settings, plan(resolved.intent), log))
    answer(output, found, map(coloured, text(found, why=why)))
    sys.exit(STATUS[found.verdict])
