"""`capture check`: whether a run with these settings would work here, and what it would lack."""

from __future__ import annotations

import os
import sys

import click

from capture.commands.base import SettingsCommand, answer, output_option, reporting, settings_given
from capture.errors import DONE, FAILED
from capture.preflight.check import check
from capture.preflight.facts import Checked
from capture.screen.check import report


@click.command(cls=SettingsCommand)
@output_option("the facts", Checked)
@click.option(
    "--no-rehearsal",
    is_flag=True,
    help="Do not try the rules in a network namespace of their own, for which the kernel may load modules.",
)
def command(output: str, no_rehearsal: bool) -> None:
    """Tell whether a run with these settings would work here, and what it would lack. Changes nothing.

    Every fact that decides it, with a verdict and a remedy. Needs no root: what this user may not see is unknown. Where
    it may, the rules are tried in a network namespace of their own, which vanishes at once. Exit status 1 if something
    that these settings need is missing.
    """
    with reporting():
        checked = Checked(tuple(check(settings_given(), os.environ, rehearse=not no_rehearsal)))
    answer(output, checked, report(checked.facts))
    sys.exit(DONE if checked.works else FAILED)
