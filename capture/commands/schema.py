"""`capture schema`: the JSON schema of what a command prints, or of the settings themselves."""

from __future__ import annotations

import click

from capture.commands.base import OUTPUT, group
from capture.output import say_json

CONFIG = "config"
"""What a file of settings is."""


PRINTING = ("check", "clean", "diff", "escapes", "explain", "settings", "status", "trace", "verify", "watch")
"""The commands that print JSON."""


@click.command()
@click.argument("what", type=click.Choice([*PRINTING, CONFIG]), metavar="COMMAND|config")
def command(what: str) -> None:
    """Print the JSON schema of what a command prints with --output json, every field explained.

    The same as `--output schema` of that command. `config` is the schema of the settings themselves: of a file for
    --config, and for those who generate pod specs.
    """
    if what == CONFIG:
        from capture.settings.model import config_schema

        say_json(config_schema())
    else:
        group.main([what, OUTPUT, "schema"], prog_name="capture", standalone_mode=False)
