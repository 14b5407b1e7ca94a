"""`capture verify`: whether the namespace holds what settings ask for."""

from __future__ import annotations

import sys

import click

from capture.commands.base import SettingsCommand, answer, output_option, reporting, settings_given
from capture.errors import LiveStateUnreadable
from capture.inspect.verify import STATUS, Comparison, compared
from capture.intent.here import looked_up
from capture.log import Log
from capture.screen.verify import report
from capture.settings.declared import MEANING
from rules.plan.plan import plan


@click.command(cls=SettingsCommand, uses=MEANING)
@click.option(
    "--witness",
    type=click.Choice(["libiptc", "pyroute2"]),
    multiple=True,
    help="Read in a second way as well, libiptc the legacy tables, pyroute2 ip rules, routes and addresses; where the "
    "two disagree, it cannot be told. May be repeated.",
)
@click.option("--strict", is_flag=True, help="Count what only deserves a mention as a difference.")
@output_option("what was found", Comparison)
def command(witness: tuple[str, ...], strict: bool, output: str) -> None:
    """Say whether the namespace holds what these settings ask for, in every table, in order.

    Compares and changes nothing. Exit status 0: as planned; 3: nothing of ours is here; 4: it differs; 1: cannot tell.
    What of others only deserves a mention, or is narrower than ours and keeps what it takes, is listed, and is no
    difference without --strict.
    """
    with reporting():
        settings = settings_given()
        _, resolved = looked_up(settings)
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        found = compared(settings, plan(resolved.intent), log).but(strict=strict)
        for name in witness:
            confirm(found, name)
    answer(output, found, report(found))
    sys.exit(STATUS[found.verdict])


def confirm(found: Comparison, witness: str) -> None:
    """Raises CaptureError if this witness sees something else than we do, or cannot be asked."""
    if witness == "libiptc":
        from capture.inspect.libiptc import libiptc_differences

        what, differences = "the legacy tables", list(map(str, libiptc_differences(found.live, found.backend)))
    else:
        from capture.inspect.iproute import pyroute2_differences

        what, differences = "ip rules, routes and addresses", pyroute2_differences(found.live)
    if differences:
        raise LiveStateUnreadable(
            f"the two witnesses of {what} disagree, so what the namespace holds is not known",
            details=[("they say", "\n".join(differences))],
            hint="if a run was at work meanwhile, ask again",
        )
