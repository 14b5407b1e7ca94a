"""Long lists of networks, read at once: entry by entry, 10,000 of them take longer than all else that a run does."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from rules.lists.networks import V6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

last_plain = ""
"""The list that was read last, if no network in it has host bits: who asks for them next is spared looking again."""


def codes(text: str, given: Sequence[str]) -> list[int]:
    """The number of each entry of this list (`code_of`), without its host bits.

    Raises ValueError or OSError if any is not spelled as networks mostly are: then they are to be read one by one.
    """
    global last_plain  # it only spares time
    v4 = {"": 0} | {f"/{length}": 32 - length for length in range(33)}
    v6 = {"": 0} | {f"/{length}": 128 - length for length in range(129)} if ":" in text else {}
    number_of, read = int.from_bytes, inet_pton
    found, is_plain = [], True
    try:
        for entry in given:
            address, slash, length = entry.partition("/")
            if ":" in address:
                number, left, longest = number_of(read(AF_INET6, address), "big"), v6[slash + length], V6 | 128
            else:
                number, left, longest = number_of(read(AF_INET, address), "big"), v4[slash + length], 32
            first = number >> left << left
            if first != number:
                is_plain = False
            found.append((first << 8 | longest) - left)
    except KeyError:
        raise ValueError("a length is spelled in another way") from None
    if is_plain:
        last_plain = text
    return found
