"""`capture settings`: every setting with its value and where it came from."""

from __future__ import annotations

import json

import click

from capture.commands.base import SettingsCommand, reporting, resolved_here, said_settings


@click.command(cls=SettingsCommand)
@click.option("--output", type=click.Choice(["text", "json", "schema"]), default="text", help="How to print them.")
def command(output: str) -> None:
    """List every setting with its value and where it came from.

    `schema` prints the JSON schema of the settings themselves, for those who generate pod specs.
    """
    from capture.settings import model

    if output == "schema":
        click.echo(json.dumps(model.SettingsModel.model_json_schema(), indent=2))
        return
    with reporting():
        said = said_settings()
        listed = model.listing(said, resolved_here(said))
    if output == "json":
        click.echo(json.dumps([entry.model_dump() for entry in listed], indent=2))
        return
    rows = [(entry.flag or entry.variables[0], entry.text or '""', entry.source) for entry in listed]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}")
