"""Lists that stand in files: `@PATH`, or `@-` for standard input, wherever a list is taken.

An argument of a command line holds 128 KiB (MAX_ARG_STRLEN of linux/binfmts.h), some 11,000 networks; a file more.
"""

from __future__ import annotations

import os

from capture.kernel.files import read_text
from capture.text import quoted
from rules.netfilter.values import All

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Reader = Callable[[str], Any]
    Surprises = Callable[[str, Any], Iterable[str]]

STDIN = "@-"
MOST_BYTES = 8 << 20
"""Of a list: 50,000 networks of IPv6, each on a line with a comment, have some 5 MiB."""
MOST_LINES_NAMED = 20
"""Of a list, in refusals and in warnings."""
STANDS_ALONE = "means everything, which stands alone, and not where something is excluded or named"
WHAT = "@PATH names a regular file of at most 8 MiB in UTF-8, and @- is standard input"


class Lists:
    """The lists of one command line and environment. Standard input is read once."""

    def __init__(self) -> None:
        self.stdin_of = ""
        """What standard input was read for."""

    def read(self, source: str, path: str, separator: str, read: Reader, surprises: Surprises) -> tuple[Any, list[str]]:
        """The value of a list that `source` gives as this path, and what in it will surprise.

        Raises ValueError with a sentence for each line that is refused.
        """
        text = self.text(source, path)
        listed = separator.join(all_entries(text, separator))
        try:
            value = read(listed)
        except ValueError as refused:
            lines = list(refusals(list(entries_of(text, separator)), read)) or [str(refused)]
            raise ValueError(*some(lines)) from None
        if not any(True for _ in surprises(listed, value)):
            return value, []
        found = (
            f"line {line}: {it}" for line, entry in entries_of(text, separator) for it in surprises(entry, read(entry))
        )
        return value, [f"{source} {quoted(path)}: {it}" for it in some(list(found))]

    def text(self, source: str, path: str) -> str:
        """Raises ValueError."""
        try:
            text = self.stdin(source) if path == STDIN else read_text(path[1:], MOST_BYTES, null_counts=False)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"cannot be read: {why}; {WHAT}") from None
        try:
            text.encode()
        except UnicodeEncodeError as error:
            line = text.count("\n", 0, error.start) + 1
            raise ValueError(f"line {line}: is not UTF-8; {WHAT}") from None
        return text.removeprefix("\ufeff")

    def stdin(self, source: str) -> str:
        """Raises OSError, or ValueError where it was read already or has no end in sight."""
        if self.stdin_of:
            raise ValueError(f"{self.stdin_of} has read standard input already, which there is once")
        self.stdin_of = source
        parts, left = [], MOST_BYTES
        while part := os.read(0, 1 << 16):
            left -= len(part)
            if left < 0:
                raise ValueError(f"it is larger than {MOST_BYTES} bytes")
            parts.append(part)
        return b"".join(parts).decode(errors="surrogateescape")


def all_entries(text: str, separator: str) -> Iterable[str]:
    """Each entry of `entries_of`. Where there is no comment, all of the text is such words."""
    if "#" in text:
        return (entry for _, entry in entries_of(text, separator))
    return text.replace(separator, " ").split()


def entries_of(text: str, separator: str) -> Iterator[tuple[int, str]]:
    """Each entry with its line. `#` begins a comment, but inside of a word, where a name may have it."""
    for number, line in enumerate(text.split("\n"), 1):
        for word in line.replace(separator, " ").split():
            if word[0] == "#":
                break
            yield number, word


def refusals(entries: list[tuple[int, str]], read: Reader) -> Iterator[str]:
    """A sentence for each entry that cannot stand in the list."""
    for line, entry in entries:
        try:
            value = read(entry)
            if isinstance(value, All) and len(entries) > 1:
                raise ValueError(STANDS_ALONE)
        except ValueError as refused:
            yield f"line {line}: {quoted(entry)} {refused}"


def some(lines: list[str]) -> list[str]:
    """The first of them, and how many there are more."""
    more = len(lines) - MOST_LINES_NAMED
    return lines if more <= 0 else [*lines[:MOST_LINES_NAMED], f"{more:,} more lines are like that"]
