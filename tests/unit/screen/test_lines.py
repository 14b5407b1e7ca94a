"""Lines on a terminal: as wide as it is, and never broken in the midst of a word."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from capture.screen.lines import COLOUR, folded
from capture.style import style

words = st.text(alphabet="abcdefg,-:äß", min_size=1, max_size=30)
lines = st.builds(
    lambda indent, said, colour: " " * indent + (style(" ".join(said), fg="red") if colour else " ".join(said)),
    st.integers(0, 8),
    st.lists(words, min_size=1, max_size=30),
    st.booleans(),
)


@given(line=lines, most=st.integers(20, 200))
def test_a_line_is_folded_between_words(line: str, most: int) -> None:
    """Nothing is lost, nothing is wider than the terminal but a word that is so itself, and only its commas part it."""
    parts = list(folded(line, most))
    plain = [COLOUR.sub("", part) for part in parts]
    assert re.sub(r"\s", "", "".join(plain)) == re.sub(r"\s", "", COLOUR.sub("", line))
    whole = COLOUR.sub("", line).split()
    for part in plain:
        assert len(part) <= most or len(re.split(r"(?<=,)", part.strip().rstrip(","))) == 1
    if all(len(word) < most // 2 for word in whole):
        assert " ".join(plain).split() == whole
        assert all(len(part) <= most for part in plain)


def test_what_follows_is_indented_as_its_beginning_is() -> None:
    """And a little more, so that the next line of the same kind is told from it."""
    assert list(folded("  one two three four", 12)) == ["  one two", "    three", "    four"]
