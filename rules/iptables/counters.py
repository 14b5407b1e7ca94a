"""The packet counters of a live ruleset, beside the rules and not in them: equal rules may have counted differently."""

from __future__ import annotations

from rules.iptables.quoting import command, lines
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Place: TypeAlias = tuple[str, str, int]
    """Table, chain, and position in the chain, counted from 1."""


class Count(Value):
    """What a rule has matched since it was made. In the nat table a packet stands for a connection."""

    packets: int
    """How many packets it matched; in the nat table each is the first of a connection."""
    bytes: int
    """How many bytes these had."""


def counters(text: str) -> dict[Place, Count]:
    """The counters in the text of `iptables-save -c`, by place. Lines without counters are passed over."""
    found: dict[Place, Count] = {}
    table = ""
    positions: dict[str, int] = {}
    for _, line in lines(text):
        if line.startswith("*"):
            table, positions = line[1:].strip(), {}
        elif line.startswith("["):
            packets, _, size = line[1:].partition("]")[0].partition(":")
            chain = command(line)[1]
            positions[chain] = positions.get(chain, 0) + 1
            if is_number(packets) and is_number(size):
                found[table, chain, positions[chain]] = Count(int(packets), int(size))
    return found


def is_number(text: str) -> bool:
    """Whether it is one of the kernel's, which have 64 bits."""
    return text.isascii() and text.isdigit() and len(text) <= 20
