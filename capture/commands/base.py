"""What all commands share. The one that pods run has no name and does not pass through here: see `capture.__main__`.

Settings are read by `capture.settings.declared` in every command, because their grammar is pflag's and their
declarations are needed where click is not; click does the commands, their own options, and the help.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from capture import __version__
from capture.commands import COMMANDS
from capture.errors import DONE, BadSettings, CaptureError, Refusal, UnknownCommand, did_you_mean
from capture.help.layout import WIDEST, Context, write_commands, write_settings
from capture.help.refusals import refusal_of
from capture.intent.here import leave_out
from capture.log import Log, complain
from capture.output import colour, say, say_json
from capture.schemas.answers import as_json
from capture.screen.lines import show
from capture.settings.argv import FORMER_NAME, read_argv
from capture.settings.declared import DECLARED, FLAGS, LOOKING, SWITCHES, UNRESOLVED, Settings, asks_for_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from capture.settings.argv import Argument

    F = TypeVar("F", bound=Callable[..., Any])


OUTPUT = "--output"
SETTINGS_KEY = "capture.settings.declared"


class SettingsCommand(click.Command):
    """A command that takes every setting, besides options and words of its own.

    It `uses` some, which its help lists, and takes no notice of the others. Where it does not `need` them, those that
    cannot be understood are left out, but for the `least`.
    """

    context_class = Context

    def __init__(
        self,
        *arguments: Any,
        uses: frozenset[str] | None = None,
        least: frozenset[str] = LOOKING,
        needs: Callable[[dict[str, Any]], bool] = lambda _: True,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self.uses = uses
        self.least = least
        self.needs = needs

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        own = {name: option for option in options for name in option.opts}
        switches = {name for name, option in own.items() if option.is_flag}
        arguments, unreadable = read_argv(
            args, FLAGS | own.keys(), switches=SWITCHES | switches, command=str(ctx.info_name)
        )
        for_click = []
        for argument in arguments:
            if argument.flag in switches:
                for_click.append(argument.flag)
            elif argument.flag in own:
                for_click += [argument.flag, argument.value]
        if any(isinstance(option, click.Argument) for option in self.get_params(ctx)):
            for_click += ["--", *(refusal.value or "" for refusal in unreadable if refusal.source == "argument")]
            unreadable = [refusal for refusal in unreadable if refusal.source != "argument"]
        try:
            rest = super().parse_args(ctx, for_click)
        except click.BadParameter as refused:
            typed = {argument.flag: argument.value for argument in arguments}
            raise BadSettings([*unreadable, refusal_of(refused, typed)]) from refused
        said = [argument for argument in arguments if argument.flag not in own]
        with reporting():
            ctx.meta[SETTINGS_KEY] = self.settings(said, unreadable, ctx.params)
        return rest

    def settings(self, said: list[Argument], unreadable: list[Refusal], asked: dict[str, Any]) -> Settings:
        """Raises BadSettings."""
        try:
            settings = Settings.from_arguments(said, unreadable, os.environ, self.uses)
            if self.uses is not None and self.uses <= UNRESOLVED:  # nobody else says what will surprise
                log = Log(settings.log_output_level, as_json=settings.log_as_json)
                for warning in settings.warnings:
                    log.warn(str(warning))
            return settings
        except BadSettings as refused:
            if self.needs(asked):
                raise
            settings = Settings.from_arguments(said, unreadable, os.environ, self.least)
            leave_out(settings, refused)
            return settings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        used = [setting for setting in DECLARED if self.uses is None or setting.name in self.uses]
        write_settings(used, formatter)


class reporting:  # noqa: N801 # reads as a statement: with reporting()
    """Turns what the operator can act on into words and an exit status."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CaptureError):
            context = click.get_current_context(silent=True)
            settings = context.meta.get(SETTINGS_KEY) if context else None
            as_json = settings.log_as_json if settings else asks_for_json(sys.argv[1:], os.environ)
            complain(error, as_json=as_json)
            sys.exit(error.exit_status)


def output_option(what: str, kind: Any, more: Sequence[str] = ()) -> Callable[[F], F]:
    """`--output text|json|schema` and `--color`, as every command that looks has them, and what `more` it can print.

    `kind` is the kind of value, or the union of them, that is printed; its schema is printed here, and that is all.
    """

    def answered(ctx: click.Context, option: click.Parameter, output: str) -> str:  # noqa: ARG001 # click's signature
        if output == "schema":
            from capture.schemas.derive import schema

            with reporting():
                say_json(schema(str(ctx.info_name), kind))
            ctx.exit()
        return output

    def coloured(ctx: click.Context, option: click.Parameter, wanted: str) -> None:  # noqa: ARG001 # click's signature
        colour(wanted)

    of_output = click.option(
        OUTPUT,
        type=click.Choice(["text", "json", *more, "schema"]),
        default="text",
        is_eager=True,
        callback=answered,
        help=f"Print {what} as text or as JSON; `schema` prints the JSON schema of that.",
    )
    of_colour = click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        callback=coloured,
        expose_value=False,
        help="Colour the text. `auto`: on a terminal, unless NO_COLOR is set or TERM is dumb.",
    )
    return lambda command: of_output(of_colour(command))


def answer(output: str, told: Any, lines: Iterable[str]) -> None:
    """Print what a command found: as JSON, or in these lines for whoever sits at a terminal."""
    if output == "json":
        say_json(as_json(told))
    else:
        show(lines)


def settings_given() -> Settings:
    """The settings of the command that is running."""
    settings: Settings = click.get_current_context().meta[SETTINGS_KEY]
    return settings


class Commands(click.Group):
    """The commands by name. A command's module, and what that needs, is loaded when the command is named."""

    context_class = Context

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 # click's signature
        write_commands(COMMANDS, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 # click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 # click's signature
        if cmd_name not in COMMANDS:
            near = did_you_mean(cmd_name, COMMANDS) or "; `capture --help` lists the commands"
            raise UnknownCommand([Refusal("command", cmd_name, f"is not known{near}")])
        found: click.Command = import_module(f"capture.commands.{cmd_name}").command
        found.name = cmd_name
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST})
@click.version_option(__version__, prog_name="capture")
def group() -> None:
    """Send a pod's TCP connections to its proxy, as istio-iptables does, and with its flags.

    Without a command, `capture -p 15001 -z 15006 -u 1337` applies the rules; with -n it prints what it would do.
    """


def main(argv: Sequence[str]) -> NoReturn:
    """Run the command that this line names. Ends the process. Raises CaptureError."""
    arguments = list(argv)
    if arguments[0] == FORMER_NAME:
        del arguments[0]
    match arguments:
        case ["help"]:
            arguments = ["--help"]
        case ["help", "errors"]:
            from capture.help.pages import errors_page

            say(*errors_page().splitlines())
            sys.exit(DONE)
        case ["help", command, *_]:
            arguments = [command, "--help"]
        case ["version", *rest]:
            arguments = ["--version", *rest]
        case [first, *_] if first.startswith("-") and first not in ("--help", "-h", "--version"):
            # `capture -p 15001 --help`: the nameless command is `apply`
            arguments.insert(0, "apply")
        case _:
            pass
    try:
        # click's own way of telling errors is not ours.
        status = group.main(arguments, prog_name="capture", standalone_mode=False)
    except click.BadParameter as error:
        raise BadSettings([refusal_of(error, {})]) from error
    except click.UsageError as error:
        raise BadSettings([Refusal("command line", None, error.format_message().rstrip("."))]) from error
    sys.exit(status if isinstance(status, int) else DONE)
