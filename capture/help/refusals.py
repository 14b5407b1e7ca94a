"""What click refuses, in the words in which we refuse settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from capture.errors import Refusal, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


def refusal_of(refused: click.BadParameter, typed: Mapping[str, str]) -> Refusal:
    """What click refuses, in the words in which we refuse settings. `typed` has the value of each flag as given."""
    option = refused.param
    names = option.opts if option else []
    name = next((name for name in names if name in typed), max(names, key=len, default=""))
    value = typed.get(name)
    source = f"option {name}" if name.startswith("-") else "argument"
    if value is None and "' is not one of" in refused.message:
        value = refused.message.partition("' is not one of")[0].removeprefix("'")
    match option.type if option else None:
        case click.Choice(choices=words):
            wanted, known = "is not" if value is not None else "is missing:", [str(word) for word in words]
            return Refusal(source, value, f"{wanted} one of {', '.join(known)}{did_you_mean(value or '', known)}")
        case click.IntRange(min=least):
            return Refusal(source, value, f"is not a number of at least {least}")
        case _:
            return Refusal(source, value, refused.message.rstrip(".").lower())
