"""What click refuses of a command's own options, in our words."""

from __future__ import annotations

import click
import pytest

from capture.help.refusals import refusal_of

COMMAND = click.Command(
    "it",
    params=[
        click.Option(["-o", "--output"], type=click.Choice(["text", "json"])),
        click.Option(["--count"], type=click.IntRange(min=1)),
        click.Option(["--seconds"], type=float),
        click.Argument(["words"], nargs=1, type=click.Choice(["up", "down"])),
    ],
)


@pytest.mark.parametrize(
    ("argv", "typed", "expected"),
    [
        (
            ["--output", "jsn", "up"],
            {"--output": "jsn"},
            'option --output "jsn": is not one of text, json; did you mean json?',
        ),
        (["-o", "yaml", "up"], {"-o": "yaml"}, 'option -o "yaml": is not one of text, json'),
        (["--count", "0", "up"], {"--count": "0"}, 'option --count "0": is not a number of at least 1'),
        (["--seconds", "x", "up"], {"--seconds": "x"}, "option --seconds \"x\": 'x' is not a valid float"),
        (["upp"], {}, 'argument "upp": is not one of up, down; did you mean up?'),
        (["--output", "text"], {"--output": "text"}, "argument: is missing: one of up, down"),
    ],
)
def test_a_refusal_names_what_was_typed_and_what_would_be_right(
    argv: list[str], typed: dict[str, str], expected: str
) -> None:
    """The option in the spelling that was typed, short or long."""
    with pytest.raises(click.BadParameter) as refused:
        COMMAND.make_context("it", argv)
    assert str(refusal_of(refused.value, typed)) == expected


def test_what_is_refused_without_an_option_is_an_argument() -> None:
    assert str(refusal_of(click.BadParameter("No such thing."), {})) == "argument: no such thing"
