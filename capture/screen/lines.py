"""Lines as wide as the terminal, broken between words; elsewhere as they are, for those who search them."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from capture.output import say
from capture.text import ESC, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ELSEWHERE = 100
"""Columns of text that is laid out where there is no terminal."""
WIDEST = 120
"""Of text that is laid out on a terminal that has more."""
LEAST = 20
"""Columns that words have at least behind their beginning."""
COLOUR = re.compile(rf"{ESC}\[[0-9;]*m")


def columns() -> int:
    """How wide the terminal is."""
    return shutil.get_terminal_size().columns


def width() -> int:
    """How wide text is laid out."""
    return min(columns(), WIDEST) if sys.stdout.isatty() else ELSEWHERE


def show(lines: Iterable[str]) -> None:
    """Print these lines; on a terminal each on as many as it takes."""
    if sys.stdout.isatty():
        most = columns()
        lines = (part for line in lines for part in folded(one_line(line), most))
    say(*lines)


def wrapped(words: str, beginning: str, indent: int = 0) -> list[str]:
    """The words behind a beginning, on as many lines as they take; the others begin below the words, or at `indent`."""
    indent = indent or seen(beginning)
    most = max(width() - indent, LEAST)
    if len(words) <= most and " ".join(words.split()) == words:
        return [beginning + words]
    first, *more = textwrap.wrap(words, most, break_on_hyphens=False, break_long_words=False) or [""]
    return [beginning + first, *(" " * indent + line for line in more)]


def seen(text: str) -> int:
    """How many columns a text takes: colours take none."""
    return len(COLOUR.sub("", text)) if ESC in text else len(text)


def folded(line: str, most: int) -> Iterator[str]:
    """A line in parts no wider than this, broken at spaces, or behind commas of a word that is too long itself.

    What follows is indented as its beginning is, and a little more.
    """
    if seen(line) <= most:
        yield line
        return
    indent = " " * min(len(line) - len(line.lstrip(" ")) + 2, most // 2)
    words = [part for word in re.findall(r" *[^ ]+", line) for part in pieces(word, most - len(indent))]
    part = ""
    for word in words:
        if part and seen(part) + seen(word) > most:
            yield part
            part = indent + word.lstrip(" ")
        else:
            part += word
    yield part


def pieces(word: str, most: int) -> list[str]:
    """A word, or what its commas part it into, where it is wider than this."""
    return [word] if seen(word) <= most else re.findall(r"[^,]*,|[^,]+", word)
