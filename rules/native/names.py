"""What our own table of nf_tables is called, and its chains.

One table for each family, and nobody else's rules in it: one transaction makes or replaces all of it, and `nft delete
table` takes all of it away. Its chains are those that iptables would have, each named with the table it would be in.
"""

from __future__ import annotations

from rules.netfilter.hooks import PRIORITIES, kind_of
from rules.netfilter.values import BUILT_IN
from rules.plan.names import NATIVE_TABLE, NOT_YET, OURS

TABLE = NATIVE_TABLE


def chain_name(table: str, chain: str) -> str:
    """What a chain is called there: `nat-ISTIO_OUTPUT`."""
    return f"{table}-{chain}"


def place_of(name: str) -> tuple[str, str] | None:
    """The table and chain of iptables that it stands for; None if it is none of ours."""
    table, _, chain = name.partition("-")
    known = chain.removesuffix(NOT_YET) in OURS.get(table, ()) or chain in BUILT_IN.get(table, ())
    return (table, chain) if known else None


def hooked(table: str, chain: str) -> tuple[str, str, int]:
    """The type, hook and priority of a base chain: those of the same chain of iptables."""
    return kind_of(table, chain), chain, PRIORITIES[table]
