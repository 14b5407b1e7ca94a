"""Text of others on its way to a reader: nothing in it is obeyed by a terminal, or passes for a line of ours."""

from __future__ import annotations

ESC = "\ud81b"
"""Stands for the escape character in text of our own. No bytes are ever decoded to it: those that are no UTF-8 become
U+DC80 to U+DCFF (PEP 383), so nobody else can say it."""


def spelled_out(text: str, kept: str = "") -> str:
    """The text with everything that does not show spelled out, but for these characters."""
    if text.isprintable() or text.translate(dict.fromkeys(map(ord, kept))).isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The text on one line, whatever is in it."""
    return spelled_out(text, ESC)


def quoted(text: str) -> str:
    """The text in quotes as one readable line; a very long one is cut, but for @PATH, which names a file."""
    return f'"{spelled_out(text if len(text) <= 80 or text[:1] == "@" else f"{text[:77]}…")}"'


def on_one_line(value: str) -> str:
    """The value as it is, unless it could be taken for more than one line of the log."""
    return value if value.isprintable() else quoted(value)
