"""Long lists of networks, read at once: entry by entry, 10,000 of them take longer than all else that a run does."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from rules.lists.networks import V6, Networks

AT_ONCE = 2_000
"""Entries that are taken out of the text at once: as texts all of them need more memory than as numbers."""


def networks(text: str) -> Networks:
    """This list, read at once.

    Raises ValueError or OSError if any is not spelled as networks mostly are: then they are to be read one by one.
    """
    v4 = {"": 0} | {f"/{length}": 32 - length for length in range(33)}
    v6 = {"": 0} | {f"/{length}": 128 - length for length in range(129)} if ":" in text else {}
    number_of, read = int.from_bytes, inet_pton
    found, had_host_bits, rest = list[int](), False, text
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
                    had_host_bits = True
                found.append((first << 8 | longest) - left)
    except KeyError:
        raise ValueError("a length is spelled in another way") from None
    return Networks(found, had_host_bits=had_host_bits)
