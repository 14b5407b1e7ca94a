"""`capture clean`: everything of ours out of the namespace, and what that was."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from capture import init
from capture.apply.clean import clean
from capture.commands.base import SettingsCommand, output_option, reporting, said_settings
from capture.errors import DONE, FAILED
from capture.host.facts import read_facts
from capture.kernel import netns
from capture.log import Log
from capture.output import say, say_json
from rules.plan.plan import NOTHING

if TYPE_CHECKING:
    from pydantic import BaseModel

    from capture.apply.clean import Cleaned


@click.command(cls=SettingsCommand)
@output_option("what was removed and what was left alone")
def command(output: str) -> None:
    """Remove everything of ours, and say what that was, what was left alone, and why.

    Needs no settings: what is ours is known by itself, in both backends, whatever settings or version put it there.
    The same as --cleanup-only, which tells the log. Ends with 1 if anything of ours remains.
    """
    if output == "schema":
        say_json(model().model_json_schema())
        return
    with reporting():
        settings = said_settings()
        if settings.network_namespace:
            netns.enter(settings.network_namespace)
        facts = read_facts(os.environ)
        # The answer is on stdout: of the log, what went wrong is enough.
        log = Log("warn" if settings.log_output_level == "info" else settings.log_output_level)
        if settings.dry_run:
            init.dry_run(settings, facts, NOTHING, Log(settings.log_output_level))
            return
        cleaned = clean(settings, facts, log)
    if output == "json":
        say_json(model()(**as_json(cleaned)).model_dump(mode="json"))
    else:
        say(*told(cleaned))
    sys.exit(FAILED if cleaned.remaining else DONE)


def told(cleaned: Cleaned) -> list[str]:
    lines = []
    for heading, things in (
        ("removed", cleaned.removed),
        ("left alone", cleaned.left),
        ("STILL HERE", cleaned.remaining),
    ):
        if things:
            lines += [heading, *(f"  {thing}" for thing in things)]
    if not cleaned.removed:
        lines.append("nothing of ours was here")
    elif not cleaned.remaining:
        lines.append("nothing of ours is left")
    return lines


def as_json(cleaned: Cleaned) -> dict[str, list[dict[str, str]]]:
    return {
        name: [{field: getattr(thing, field) for field in thing.__match_args__} for thing in getattr(cleaned, name)]
        for name in cleaned.__match_args__
    }


def model() -> type[BaseModel]:
    """The JSON of this command. Made when it is asked for, because pydantic takes its time."""
    from capture.schemas.clean import CleanedModel

    return CleanedModel
