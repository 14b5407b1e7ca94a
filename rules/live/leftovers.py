"""What stood in a table of nf_tables before us, so that nothing is left behind of what iptables made for us.

iptables-nft makes a table, and a built-in chain in it, when the first rule needs it, and leaves both there, empty,
when the last one goes. Whether an empty one is our doing cannot be seen. So when we come to a table in which there
is an empty built-in chain already, or to a table that is all empty, an empty chain of ours keeps that in its name.
Where there is none, as in nearly every pod, all that is empty when we go was made for us.

A removal leaves such a chain until the emptied table has been taken away as well: whoever interrupts it, the next
one finds it and goes on. The legacy backend has nothing of this: the kernel cannot take back a legacy table.
"""

from __future__ import annotations

from rules.netfilter.values import BUILT_IN
from rules.plan.names import ISTIO_FOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rules.netfilter.rulesets import TableRules

LETTERS = {"PREROUTING": "P", "INPUT": "I", "FORWARD": "F", "OUTPUT": "O", "POSTROUTING": "S"}
"""A chain's name may have 28 characters (XT_EXTENSION_MAXNAMELEN, less the zero), so built-in chains get one each."""
NOTHING_FOUND = f"{ISTIO_FOUND}_NONE"
"""Says that nothing empty was there. Only made when a removal needs a chain to remember by."""


def memory_of(chains: Mapping[str, int]) -> str | None:
    """The name of the chain that remembers this table, or None if there is nothing to remember.

    `chains` are the table's chains with how many rules and references each has; none if the table is all empty.
    """
    empty = sorted(LETTERS[chain] for chain, used in chains.items() if chain in LETTERS and not used)
    if not chains:
        return ISTIO_FOUND
    return f"{ISTIO_FOUND}_{''.join(empty)}" if empty else None


def is_memory(chain: str) -> bool:
    return chain.startswith(ISTIO_FOUND)


def memory_in(table: TableRules) -> str | None:
    """The chain of this table that remembers, if there is one."""
    return next(filter(is_memory, table.declared), None)


def stood_before(memory: str | None) -> frozenset[str]:
    """The built-in chains that stood there, empty, before us."""
    if memory is None or memory in (ISTIO_FOUND, NOTHING_FOUND):
        return frozenset()
    letters = memory.removeprefix(f"{ISTIO_FOUND}_")
    return frozenset(chain for chain, letter in LETTERS.items() if letter in letters)


def table_stood_before(memory: str | None) -> bool:
    """Whether the table was there although nothing in it had a rule."""
    return memory is not None and memory != NOTHING_FOUND


def to_take_away(table: str, chains: Mapping[str, int], memory: str | None) -> tuple[str, ...]:
    """The built-in chains of an emptied table that were made for us."""
    kept = stood_before(memory)
    return tuple(chain for chain in sorted(BUILT_IN[table]) if chains.get(chain) == 0 and chain not in kept)


def with_memory(planned: TableRules, chain: str | None) -> TableRules:
    """The planned table with the chain that remembers beside the others."""
    return planned.but(declared=(*planned.declared, chain)) if chain else planned
