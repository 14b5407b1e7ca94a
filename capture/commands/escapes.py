"""`capture escapes`: everything that does not reach the proxy, and what lets it go."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, answer, output_option, reporting, settings_given
from capture.errors import DEPENDS
from capture.settings.declared import MEANING
from capture.style import style
from capture.trace.escapes import Escapes, found
from rules.proof.escapes import UNTOLD

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command(cls=SettingsCommand, uses=MEANING, needs=lambda asked: not asked["live"])
@click.option("--live", is_flag=True, help="Ask the rules that the namespace holds, not those of the settings.")
@output_option("what escapes", Escapes)
def command(live: bool, output: str) -> None:
    """List everything that does not reach the proxy, as sets of packets, with the rule and the setting that let it go.

    The list is exact: the first packet of a connection that begins or ends here is in one of the sets exactly if the
    proxy does not get it. With --live of the rules that are there, of both backends and of others, which takes the
    rights to read them. Ends with status 5 if it depends on rules of others that cannot be asked.
    """
    with reporting():
        told = found(settings_given(), live=live)
    answer(output, told, lines(told))
    if any(escape.outcome == UNTOLD for escape in told.escapes):
        sys.exit(DEPENDS)


def lines(told: Escapes) -> Iterator[str]:
    """The list for a terminal."""
    heading = ""
    for escape in told.escapes:
        if escape.family.value != heading:
            heading = escape.family.value
            yield style(heading, bold=True)
        yield f"  {escape.sentence}"
        yield from (f"    {packets.words}" for packets in escape.packets)
    if not told.escapes:
        yield "nothing escapes"
    yield from told.notes
