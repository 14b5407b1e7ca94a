"""`capture settings`: every setting with its value and where it came from."""

from __future__ import annotations

import click

from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.config.writing import yaml_lines
from capture.intent.here import resolved_here
from capture.intent.listing import Listed, filed, listing
from capture.output import say, say_json
from capture.schemas.answers import as_json
from capture.screen.lines import show

WIDEST = 80
"""Characters of a value for which the column of those behind it makes room."""


@click.command(cls=SettingsCommand)
@output_option("them", tuple[Listed, ...], more=["yaml"])
def command(output: str) -> None:
    """List every setting with its value and where it came from.

    `--output yaml` prints those that were given, as a file for --config that means the same. `capture schema config`
    prints the JSON schema of such a file, for those who generate pod specs.
    """
    with reporting():
        said = settings_given()
        if output == "yaml":
            say(*yaml_lines(filed(said)))
            return
        listed = listing(said, resolved_here(said))
    if output == "json":
        say_json([as_json(entry) for entry in listed])
        return
    rows = [(entry.flag or entry.variables[0], entry.text or '""', entry.source) for entry in listed]
    widths = [max(len(row[column]) for row in rows if len(row[column]) <= WIDEST) for column in range(2)]
    show((f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows))
