"""What begins and ends with a `with` block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.kernel.blocks import contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def noted(notes: list[str], *, swallows: bool = False) -> Iterator[str]:
    """Says when it began and ended."""
    notes.append("begun")
    try:
        yield "it"
    except KeyError:
        if not swallows:
            raise
    finally:
        notes.append("ended")


def test_a_block_begins_and_ends_once() -> None:
    """As `contextlib` has it, name and docstring included."""
    notes: list[str] = []
    with noted(notes) as given:
        notes.append(given)
    assert notes == ["begun", "it", "ended"]
    assert (noted.__name__, noted.__doc__) == ("noted", "Says when it began and ended.")


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("b"), KeyboardInterrupt()])
def test_an_error_ends_the_block_and_goes_on(error: BaseException) -> None:
    """The same one, whatever it is."""
    notes: list[str] = []
    with pytest.raises(type(error)) as raised, noted(notes):
        raise error
    assert notes == ["begun", "ended"]
    assert raised.value is error


def test_an_error_may_be_dealt_with() -> None:
    """Then the program goes on behind the block."""
    notes: list[str] = []
    with noted(notes, swallows=True):
        raise KeyError
    assert notes == ["begun", "ended"]
