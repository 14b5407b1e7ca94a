"""The commands, in click. The one that pods run has no name and does not pass through here: see `capture.__main__`.

Settings are read by `capture.settings` in every command, because their grammar is pflag's and their declarations
are needed where click is not; click does the commands, their own options, and the help.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from capture import __version__, init, netns
from capture.argv import read_argv
from capture.errors import CaptureError
from capture.facts import read_facts
from capture.log import Log
from capture.resolve import resolve
from capture.settings import DECLARED, FLAGS, SWITCHES, Said, Settings
from rules.diff import changes, restore_text
from rules.plan import plan
from rules.values import Ruleset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.resolve import Resolved

SETTINGS_KEY = "capture.settings"


class SettingsCommand(click.Command):
    """A command that takes every setting, besides options of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        own = {name: option for option in options for name in option.opts}
        switches = {name for name, option in own.items() if option.is_flag}
        arguments, unreadable = read_argv(args, FLAGS | own.keys(), switches=SWITCHES | switches)
        for_click = []
        for argument in arguments:
            if argument.flag in switches:
                for_click.append(argument.flag)
            elif argument.flag in own:
                for_click += [argument.flag, argument.value]
        rest = super().parse_args(ctx, for_click)
        said = [argument for argument in arguments if argument.flag not in own]
        with reporting():
            ctx.meta[SETTINGS_KEY] = Settings.from_arguments(said, unreadable, os.environ)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Settings"):
            formatter.write_dl([help_of(setting) for setting in DECLARED])


class reporting:  # noqa: N801 # reads as a statement: with reporting()
    """Turns what the operator can act on into words and an exit status."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CaptureError):
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_status)


def help_of(setting: Said) -> tuple[str, str]:
    """A setting's line in the help: how it is given, and what it means."""
    flags = ", ".join(filter(None, (setting.short, setting.long)))
    where = f"variable {' or '.join(setting.env)}" if setting.env else ""
    default = as_written(setting, setting.default)
    about = "; ".join(filter(None, (where, f"default {default}" if default not in ("", "false") else "")))
    return flags or f"${setting.env[0]}", f"{setting.about}  [{about}]" if flags else setting.about


def as_written(setting: Said, value: Any) -> str:
    """A value as one would write it on a command line."""
    from capture.model import written

    return "" if value is None else written(setting, value)


def said_settings() -> Settings:
    """The settings of the command that is running."""
    settings: Settings = click.get_current_context().meta[SETTINGS_KEY]
    return settings


def resolved_here(settings: Settings) -> Resolved:
    """The settings resolved against this host, with what will surprise said on stderr."""
    if settings.network_namespace:
        netns.enter(settings.network_namespace)
    resolved = resolve(settings, read_facts(os.environ, settings.nameservers_file))
    log = Log(settings.log_output_level, as_json=settings.log_as_json)
    for warning in resolved.warnings:
        log.warn(warning)
    return resolved


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="capture")
def group() -> None:
    """Bend a pod's TCP to its proxy, as istio-iptables does, and with its flags.

    Without a command, `capture -p 15001 -z 15006 -u 1337` applies the rules; with -n it prints what it would do.
    """


@group.command(cls=SettingsCommand)
def apply() -> None:
    """Put the rules in place. The same as no command at all.

    Safe to repeat: what is in place already is left alone, and what differs is replaced without a gap.
    """
    # Only its help passes through here: `capture.__main__` takes `apply` for what it is, the nameless command.
    settings = said_settings()
    sys.exit(init.carry_out(settings, os.environ, Log(settings.log_output_level, as_json=settings.log_as_json)))


@group.command(cls=SettingsCommand)
@click.option("--family", type=click.Choice(["ipv4", "ipv6", "both"]), default="both", help="Only one family's rules.")
@click.option("--why", is_flag=True, help="Say above each rule what it is for.")
def render(family: str, why: bool) -> None:
    """Print the rules that these settings mean, for a namespace that holds none of ours.

    Looks at nothing but this host's addresses and users. What apply would do here and now is shown by -n.
    """
    with reporting():
        for planned in plan(resolved_here(said_settings()).intent).rulesets:
            one = planned.family
            if planned.tables and family in ("both", one.value.lower()):
                click.echo(f"# {one.value}")
                click.echo(annotated(planned) if why else restore_text(changes(Ruleset(one), planned)), nl=why)


def annotated(planned: Ruleset) -> str:
    """The restore text with the reason of each rule in a comment above it."""
    lines = []
    for change in changes(Ruleset(planned.family), planned):
        for line, command in change.lines():
            rule = getattr(command, "rule", None)
            if rule:
                lines.append(f"# {rule.why}")
            lines.append(line)
    return "\n".join(lines)


@group.command(cls=SettingsCommand)
@click.option("--output", type=click.Choice(["text", "json", "schema"]), default="text", help="How to print them.")
def settings(output: str) -> None:
    """List every setting with its value and where it came from.

    `schema` prints the JSON schema of the settings themselves, for those who generate pod specs.
    """
    from capture import model

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


def main(argv: Sequence[str]) -> None:
    """Run the command that this line names. Ends the process."""
    names = {"help": "--help", "version": "--version"}
    arguments = [names.get(word, word) if not at else word for at, word in enumerate(argv)]
    if arguments[0].startswith("-") and arguments[0] not in ("--help", "-h", "--version"):
        # `capture -p 15001 --help`: the nameless command is `apply`
        arguments.insert(0, "apply")
    group.main(arguments, prog_name="capture")
