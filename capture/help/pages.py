"""Pages of `capture help` that are about no single command."""

from __future__ import annotations

import textwrap

from capture import errors

STATUSES = (
    ("0", "done: in place, removed, printed, or as planned"),
    ("1", "the capture was not made, or it cannot be told; the namespace is as it was"),
    ("2", "a flag, a variable or a command was refused; nothing was touched"),
    ("3", "`status`, `verify`, `diff`, `graph --live`: nothing of ours is here"),
    ("4", "`verify`, `diff`, `watch`: it differs from what was asked for"),
    ("5", "`trace`, `escapes`: it depends on what cannot be told"),
    ("126", "--run-validation: the rules do not do what they should"),
    ("130, 143, 129", "ended by Ctrl-C, SIGTERM, SIGHUP, as a shell shows it"),
)
"""Every exit status, and what it means."""


def tree() -> str:
    """All that can go wrong, with the status of each: the tree in the docstring of `capture.errors`."""
    lines = (errors.__doc__ or "").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    "))
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith("    "))
    return textwrap.dedent("\n".join(lines[first:last]))


def errors_page() -> str:
    """`capture help errors`."""
    width = max(len(status) for status, _ in STATUSES)
    return "\n".join(
        [
            "Exit statuses:",
            *(f"  {status:<{width}}  {meaning}" for status, meaning in STATUSES),
            "",
            "What goes wrong, and the exit status of each:",
            *textwrap.indent(tree(), "  ").splitlines(),
            "",
            "An error is on stderr: what happened, what state things are in, and a hint of what to try. With",
            "--log_as_json it is a JSON object. Cause and cure of each message: docs/errors.md.",
        ]
    )
