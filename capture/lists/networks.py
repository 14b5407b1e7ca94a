"""Long lists of networks, read at once: entry by entry, 10,000 of them take longer than all else that a run does."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from rules.lists.networks import V6

AT_ONCE = 2_000
"""Entries that are taken out of the text at once: as texts all of them need more memory than as numbers."""
last_plain = ""
"""The list that was read last, if no network in it has host bits, until somebody asks for them."""


def codes(text: str) -> list[int]:
    """The number of each entry of this list (`code_of`), without its host bits.

    Raises ValueError or OSError if any is not spelled as networks mostly are: then they are to be read one by one.
    """
    global last_plain  # it only spares time
    v4 = {"": 0} | {f"/{length}": 32 - length for length in range(33)}
    v6 = {"": 0} | {f"/{length}": 128 - length for length in range(129)} if ":" in text else {}
    number_of, read = int.from_bytes, inet_pton
    found, has_none, rest = [], True, text
    try:
        while rest:
            some = rest.split(",", AT_ONCE)
            rest = some.pop() if len(some) > AT_ONCE else ""
            for entry in filter(None, some):
                address, slash, length = entry.strip(" ").partition("/")
                if ":" in address:
                    number, left, longest = number_of(read(AF_INET6, address), "big"), v6[slash + length], V6 | 128
                else:
                    number, left, longest = number_of(read(AF_INET, address), "big"), v4[slash + length], 32
                first = number >> left << left
                if first != number:
                    has_none = False
                found.append((first << 8 | longest) - left)
    except KeyError:
        raise ValueError("a length is spelled in another way") from None
    if has_none:
        last_plain = text
    return found


def is_plain(text: str) -> bool:
    """Whether this list was read last, and no network in it has host bits. That is told once."""
    global last_plain
    told, last_plain = last_plain == text, ""
    return told
