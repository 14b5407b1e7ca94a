"""`capture completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click

from capture.commands import COMMANDS
from capture.completion.scripts import SHELLS, script
from capture.output import print_for_programs

CANDIDATES = "candidates"
"""What the scripts ask, in place of a shell."""


class Shell(click.Choice[str]):
    """One of the shells; and what their scripts ask, which is no word for people."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value if value == CANDIDATES else super().convert(value, param, ctx)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("shell", type=Shell(list(SHELLS)), metavar="bash|zsh|fish")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="")
def command(shell: str, words: tuple[str, ...]) -> None:
    """Print the script that completes commands, settings and their values in this shell.

    bash: `source <(capture completion bash)`. zsh: `source <(capture completion zsh)`. fish:
    `capture completion fish | source`. Packages and pip put the same files where the shells look for them.
    """
    if shell == CANDIDATES:
        from capture.commands.base import group
        from capture.completion.candidates import candidates

        print_for_programs("".join(f"{it}\n" for it in candidates(words, group, COMMANDS)))
    else:
        print_for_programs(script(shell))
