"""`capture apply`: the nameless command, by its name."""

from __future__ import annotations

import os
import sys

import click

from capture import init
from capture.commands.base import SettingsCommand, settings_given
from capture.log import Log


@click.command(cls=SettingsCommand)
def command() -> None:
    """Put the rules in place. The same as no command at all.

    Safe to repeat: what is in place already is left alone, and what differs is replaced without a gap.
    """
    # Only its help passes through here: `capture.__main__` takes `apply` for what it is, the nameless command.
    settings = settings_given()
    sys.exit(init.carry_out(settings, os.environ, Log(settings.log_output_level, as_json=settings.log_as_json)))
