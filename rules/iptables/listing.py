"""What `-S` in the input of iptables-restore prints, as iptables-save prints the same tables."""

from __future__ import annotations

from rules.iptables.quoting import lines
from rules.netfilter.values import BUILT_IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def asking(tables: Iterable[str]) -> Iterator[str]:
    """The input, line by line, that has iptables-legacy-restore list these tables and change nothing.

    Each is read from the kernel anew, so what the same input changed above is listed as the kernel has it.
    """
    for table in tables:
        yield from (f"*{table}", "-S", "COMMIT")


def as_saved(listing: str, tables: Sequence[str]) -> str:
    """The listings of these tables, in this order, as iptables-save prints them, without counters.

    Raises ValueError if these are not listings of as many tables, as where the text was cut off.
    """
    names = iter(tables)
    told: list[str] = []
    table, policies, has_policies_only = "", set[str](), False
    for _, line in lines(listing.removesuffix("\n")):
        verb, _, rest = line.partition(" ")
        chain, _, policy = rest.partition(" ")
        if verb == "-P":
            # A table begins with the policies of its built-in chains, and does not say its name.
            if not has_policies_only or chain in policies or chain not in BUILT_IN.get(table, ()):
                told += ["COMMIT"] if table else []
                table, policies, has_policies_only = next(names, ""), set(), True
                told.append(f"*{table}")
            policies.add(chain)
            told.append(f":{chain} {policy} [0:0]")
        else:
            has_policies_only = False
            told.append(f":{chain} - [0:0]" if verb == "-N" else line)
        if not table or (verb == "-P" and chain not in BUILT_IN.get(table, ())):
            raise ValueError(f"line {len(told)} is of none of the tables {', '.join(tables)}: {line!r}")
    if next(names, "") or not listing.endswith("\n"):
        raise ValueError(f"it ends before all of the tables {', '.join(tables)} are listed")
    return "\n".join((*told, "COMMIT", ""))
