"""`capture status`: what is installed here now."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.errors import DONE, NOTHING_HERE
from capture.host.facts import read_facts
from capture.inspect.status import Status, status_of
from capture.inspect.verify import read
from capture.kernel import netns
from capture.log import Log
from capture.output import say_json
from capture.schemas.answers import as_json
from capture.screen.lines import show
from capture.screen.status import report
from capture.settings.declared import BACKEND, LOOKING

if TYPE_CHECKING:
    from capture.settings.declared import Settings


@click.command(cls=SettingsCommand, uses=LOOKING | BACKEND)
@output_option("what is installed", Status)
def command(output: str) -> None:
    """Show what is installed in the namespace now: what it captures, its rules with their counters, its routing.

    Needs no settings and compares with none; --network-namespace, those of the log, and those that ask for a backend
    count. Exit status 0: something of ours is here; 3: nothing; 1: cannot tell.
    """
    with reporting():
        found = status_here(settings_given())
    if output == "json":
        say_json(as_json(found))
    else:
        show(report(found))
    sys.exit(DONE if found.installed else NOTHING_HERE)


def status_here(settings: Settings) -> Status:
    """What the namespace holds, with counters. Raises CaptureError."""
    if settings.network_namespace:
        netns.enter(settings.network_namespace)
    log = Log(settings.log_output_level, as_json=settings.log_as_json)
    facts = read_facts(os.environ)
    return status_of(read(log, counters=True), facts, settings)
