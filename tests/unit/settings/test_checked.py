"""The readers of texts: whatever they are given, the answer is a value that can reach a rule, or a sentence."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.settings import parsers
from capture.settings.declared import DECLARED
from capture.text import quoted
from tests.rig.chance import share

anything = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="0123456789abcdefx.:/,-+*\"'\\ \n\t!;_=#", max_size=30),
    st.text(alphabet="0123456789", max_size=30),
)
READERS = sorted({setting.read for setting in DECLARED}, key=str)


@settings(deadline=None, max_examples=share(1600))
@given(read=st.sampled_from(READERS), text=anything)
def test_a_reader_answers_or_raises_a_sentence(read: Any, text: str) -> None:
    """Nothing but ValueError, whose words follow upon the name of the value."""
    try:
        read(text)
    except ValueError as refused:
        said = str(refused).removeprefix(quoted(text)).removeprefix(" ")
        assert said
        assert not said.startswith(("invalid literal", "not enough values", "could not convert"))


@settings(deadline=None, max_examples=share(1600))
@given(text=anything)
def test_nothing_but_one_word_reaches_a_rule_as_an_interface(text: str) -> None:
    """No space, quote, backslash, control character or leading dash or exclamation mark."""
    with contextlib.suppress(ValueError):
        name = parsers.interface(text)
        assert name == text
        assert 1 <= len(name) <= 15
        assert not set(name) & set(" \t\n\"'\\!;/,*")
        assert name[0] not in "-+"
        assert name.isascii()
        assert name.isprintable()


@settings(deadline=None, max_examples=share(1600))
@given(text=anything)
def test_a_number_is_read_from_digits_alone(text: str) -> None:
    """A port and an id are decimal; a mark and a table take Go's notations, and nothing around them."""
    for read in (parsers.port, parsers.mark, parsers.routing_table):
        with contextlib.suppress(ValueError):
            assert 1 <= read(text) <= parsers.HIGHEST_U32
            assert text.isascii()
            assert text.isalnum() or "_" in text
            assert text == text.strip()
    with contextlib.suppress(ValueError):
        for owner in parsers.owners(text):
            assert isinstance(owner, parsers.Name) or 0 <= owner <= parsers.HIGHEST_ID


@settings(deadline=None)
@given(low=st.integers(1, 65535), high=st.integers(1, 65535), between=st.sampled_from("-:"))
def test_a_range_of_ports_is_read_in_both_spellings(low: int, high: int, between: str) -> None:
    """And refused, with the right way round, if it runs backwards."""
    if low <= high:
        read = parsers.port_range(f"{low}{between}{high}")
        assert (read.first, read.last) == (low, high)
    else:
        with pytest.raises(ValueError, match=f"give {high}-{low}"):
            parsers.port_range(f"{low}{between}{high}")


@settings(deadline=None)
@given(text=anything)
def test_a_list_drops_empty_entries_and_spaces_only(text: str) -> None:
    """Every other entry is read or refused; none is lost."""
    entries = [entry.strip(" ") for entry in text.split(",")]
    assert parsers.entries(text) == [entry for entry in entries if entry]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a b", '"a b"'),
        ("a\nb", '"a\\nb"'),
        ("\x1b[31m", '"\\x1b[31m"'),
        ("é", '"é"'),
        ("x" * 200, '"' + "x" * 77 + '…"'),
        ("\udcff", '"\\udcff"'),
    ],
)
def test_a_value_in_a_message_is_one_readable_line(value: str, shown: str) -> None:
    """Control characters are shown, so that no value can forge a line of the log."""
    assert quoted(value) == shown


def test_users_of_ports_are_some() -> None:
    """An exclusion for nobody would be accepted and do nothing."""
    assert parsers.port_of_users("tcp:80,443:1000-2000").protocols == ("tcp",)
    for text in ("tcp:80:", "tcp:80:,", "tcp", "", "tcp:80:x", "a:b:c:d", "icmp:80:5"):
        with pytest.raises(ValueError, match=r"\S"):
            parsers.port_of_users(text)
