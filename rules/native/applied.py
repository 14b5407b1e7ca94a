"""What a ruleset is once changes were made to it."""

from __future__ import annotations

from rules.live.changes import Append, Delete, Fill, Insert, NewChain, Redeclare, RemoveChain
from rules.netfilter.rulesets import Block, Ruleset, TableRules
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.live.changes import Change


def applied(before: Ruleset, changes: Iterable[Change]) -> Ruleset:
    """What these changes make of it: what iptables-restore would make of a table that holds nothing of others."""
    tables = {table.table: table for table in before.tables}
    for change in changes:
        tables[change.table] = changed(tables.get(change.table) or TableRules(change.table, (), ()), change)
    return before.but(tables=tuple(table for table in tables.values() if table.declared or table.blocks))


def changed(table: TableRules, change: Change) -> TableRules:
    held = {chain: list(rules) for chain, rules in table.chains().items()}
    for command in change.commands:
        match command:
            case NewChain(chain) | Redeclare(chain):
                held[chain] = []
            case RemoveChain(chain):
                del held[chain]
            case Append(chain, rule):
                held.setdefault(chain, []).append(rule)
            case Fill(chain, rules):
                held.setdefault(chain, []).extend(rules)
            case Insert(chain, position, rule):
                held.setdefault(chain, []).insert(position - 1, rule)
            case Delete(chain, _, position):
                del held[chain][position - 1]
            case _:
                assert_never(command)
    declared = tuple(chain for chain in held if not table.is_built_in(chain))
    return table.but(
        declared=declared, blocks=tuple(Block(chain, tuple(rules)) for chain, rules in held.items() if rules)
    )
