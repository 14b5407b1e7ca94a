"""Completion in shells: the scripts, and what they offer at the cursor."""

from __future__ import annotations

from capture.completion.scripts import SHELLS, script
from capture.errors import DONE, Refusal, UnknownCommand
from capture.output import print_for_programs


def answer_click(variable: str, value: str) -> int:
    """What the line in click's manual gets, `_CAPTURE_COMPLETE=bash_source capture`: the script. Never a run.

    Raises UnknownCommand for anything else that is asked for in this way.
    """
    shell = value.removesuffix("_source").removeprefix("source_")
    if shell not in SHELLS:
        reason = f"is not known; `capture completion {'|'.join(SHELLS)}` completes them"
        raise UnknownCommand([Refusal(f"environment {variable}", value, reason)])
    print_for_programs(script(shell))
    return DONE
