"""The transactions of `nft -f` that make our own tables hold what they should, and take them away."""

from __future__ import annotations

from rules.native.names import TABLE, chain_name, hooked
from rules.native.words import rule_words
from rules.netfilter.hooks import NAME
from rules.netfilter.values import BUILT_IN, OUTPUT, PREROUTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.values import Family


def chains_of(ruleset: Ruleset) -> dict[tuple[str, str], Sequence[Rule]]:
    """Every chain with its rules, by table of iptables and name, those that are jumped to first."""
    found: dict[tuple[str, str], Sequence[Rule]] = {}
    for table in ruleset.tables:
        held = table.chains()
        for chain in (*table.declared, *(chain for chain in held if is_base(table.table, chain))):
            found[table.table, chain] = held[chain]
    return found


OUR_HOOKS = (PREROUTING, OUTPUT)
"""Where our rules are hooked in."""


def is_base(table: str, chain: str) -> bool:
    """Whether a hook asks this chain."""
    return chain in BUILT_IN[table]


def transaction(now: Ruleset, becomes: Ruleset, *, anew: bool = False) -> Iterator[tuple[str, Rule | None]]:
    """What turns our table of one family from what it is into this: each line, with the rule that it makes.

    A chain that stays as it is is not named, so its counters go on. `anew` throws away whatever is there.
    """
    table = f"{NAME[becomes.family]} {TABLE}"
    before, after = ({} if anew else chains_of(now)), chains_of(becomes)
    if anew:
        yield f"add table {table}", None
        yield f"delete table {table}", None
    if before and not after:
        yield f"delete table {table}", None
        return
    differing = {place: rules for place, rules in after.items() if before.get(place) != rules}
    gone = [place for place in before if place not in after]
    for place in (*(place for place in differing if place in before), *gone):
        yield f"flush chain {table} {chain_name(*place)}", None
    left = {name for name, _ in before} - {name for name, _ in after}
    # Without a chain of type nat the kernel forgets how it changed what is open: a hook goes with the last chain.
    going = [place for place in gone if place[0] in left or not is_base(*place)]
    for place in ((name, hook) for name in sorted(left) for hook in OUR_HOOKS):
        if place not in before:  # it may be there, and empty
            yield f"add chain {table} {chain_name(*place)}", None
            going.append(place)
    for place in going:
        yield f"delete chain {table} {chain_name(*place)}", None
    if differing:
        yield f"table {table} {{", None
        for place, rules in differing.items():
            yield f"  chain {chain_name(*place)} {{", None
            if is_base(*place):
                kind, hook, priority = hooked(*place)
                yield f"    type {kind} hook {hook.lower()} priority {priority}; policy accept;", None
            for rule in rules:
                yield f"    {statement(rule, place[0], becomes.family)}", rule
            yield "  }", None
        yield "}", None


def statement(rule: Rule, table: str, family: Family) -> str:
    """A rule with its counter, and its why as a comment."""
    why = f' comment "{rule.why}"' if rule.why else ""
    return f"{rule_words(rule, table, family, 'counter')}{why}"
