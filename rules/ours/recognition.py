"""What of a live ruleset is ours: chains by their names, jumps and rules by where they stand and lead."""

from __future__ import annotations

from rules.netfilter.rulesets import Rule, TableRules, reached_from
from rules.netfilter.targets import Jump
from rules.plan.names import NOT_YET, OURS, is_note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.rulesets import Ruleset


NOBODY: frozenset[str] = frozenset()


def is_ours(table: TableRules, chain: str, also: frozenset[str] = NOBODY) -> bool:
    """Whether a chain of this name in this table is ours, or of those who are taken over."""
    return chain in also or (
        table.table in OURS
        and (chain.removesuffix(NOT_YET) in OURS[table.table] or is_note(chain))
        and chain not in table.not_ours
    )


def is_remnant(table: TableRules, chain: str) -> bool:
    """Whether this chain of ours is there for others only: it is empty, and something of theirs leads to it."""
    return chain in table.held and not table.chains()[chain]


def is_our_jump(table: TableRules, rule: Rule, also: frozenset[str] = NOBODY) -> bool:
    """Whether this rule of a built-in chain is ours: all that we put there are jumps to our chains."""
    return isinstance(rule.target, Jump) and is_ours(table, rule.target.chain, also)


def entered_from(table: TableRules, hook: str) -> tuple[str, ...]:
    """The chains that our jumps in a built-in one lead to, and those that they lead to, each once, nearest first."""
    chains = table.chains()
    jumps = (rule.target for rule in chains.get(hook, ()) if is_our_jump(table, rule))
    return reached_from(chains, (target.chain for target in jumps if isinstance(target, Jump)))


def is_our_rule(table: TableRules, chain: str, rule: Rule, also: frozenset[str] = NOBODY) -> bool:
    """Whether this rule of this built-in chain is ours, or of an older istio-iptables, which put more there."""
    return is_our_jump(table, rule, also) or (bool(table.older) and (chain, rule) in table.older)


def recognised(live: Ruleset, planned: Ruleset) -> Ruleset:
    """What is live, with what older versions of istio-iptables put into built-in chains known for what it is.

    Only where chains of ours are, or are to come: without them nothing tells it from the rules of others.
    """
    if not (planned.tables or any(map(holds_ours, live.tables))) or not holds_others(live):
        return live
    from rules.ours.older import older

    found = older(live)
    if not found:
        return live
    tables = (
        table.but(older=frozenset((chain, rule) for name, chain, rule in found if name == table.table))
        for table in live.tables
    )
    return live.but(tables=tuple(tables))


def as_judged(live: Ruleset, before: Ruleset) -> Ruleset:
    """What is live, with everything belonging to those to whom it belonged before."""
    judged = (
        table.but(not_ours=was.not_ours, older=was.older, held=was.held)
        for table, was in ((table, before.table(table.table)) for table in live.tables)
    )
    return live.but(tables=tuple(judged))


def holds_ours(table: TableRules) -> bool:
    """Whether anything of ours is in this table."""
    return any(is_ours(table, chain) and not is_remnant(table, chain) for chain in table.declared)


def holds_others(live: Ruleset) -> bool:
    """Whether there is any rule that is not in a chain of ours, and is no jump to one."""
    return any(
        not (table.is_built_in(block.chain) and is_our_jump(table, rule))
        for table in live.tables
        for block in table.blocks
        if not is_ours(table, block.chain)
        for rule in block.rules
    )


def ours_in(live: Ruleset, also: frozenset[str] = NOBODY) -> Ruleset:
    """Our part of what is live: our chains, and our jumps in the built-in ones."""
    found = (ours_in_table(table, also) for table in live.tables)
    return live.but(tables=tuple(table for table in found if table.declared))


def ours_in_table(table: TableRules, also: frozenset[str] = NOBODY) -> TableRules:
    chains = tuple(chain for chain in table.declared if is_ours(table, chain, also) and not is_remnant(table, chain))
    blocks = []
    for block in table.blocks:
        if block.chain in chains:
            blocks.append(block)
        elif table.is_built_in(block.chain):
            mine = tuple(rule for rule in block.rules if is_our_rule(table, block.chain, rule, also))
            if mine:
                blocks.append(block.but(rules=mine))
    return TableRules(table.table, chains, tuple(blocks))
