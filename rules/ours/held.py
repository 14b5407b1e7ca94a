"""Our chains that something of others leads to: the kernel does not let them go, so they stay, empty.

Such a chain sends every packet back to where it came from. A run that needs it fills it again; with the rule of others
gone, the next run or removal takes it away.
"""

from __future__ import annotations

from rules.lists.long import lots
from rules.netfilter.targets import ForeignTarget, Jump, NativeTarget
from rules.ours.recognition import is_our_rule, is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rules.netfilter.rulesets import Rule, Ruleset, TableRules
    from rules.netfilter.targets import Target


def with_held(live: Ruleset, uses: Mapping[str, Mapping[str, int]]) -> Ruleset:
    """What is live, and in each table which of our chains others hold.

    `uses` is how many rules and references each chain has, by table, where the kernel tells that (nf_tables).
    """
    return live.but(tables=tuple(table.but(held=held_in(table, uses.get(table.table, {}))) for table in live.tables))


def held_in(table: TableRules, uses: Mapping[str, int]) -> frozenset[str]:
    """The chains of ours that a rule of others leads to, or something that no rule shows: a verdict map."""
    ours = [chain for chain in table.declared if is_ours(table, chain)]
    found = {chain for chain, _, _ in holders(table)}
    if any(chain in uses for chain in ours):
        chains = table.chains()
        shown = dict.fromkeys(ours, 0)
        for rules in chains.values():
            for rule, count in lots(rules):
                for to in counted(rule.target):
                    shown[to] = shown.get(to, 0) + count
        found.update(chain for chain in ours if uses.get(chain, 0) > len(chains[chain]) + shown[chain])
    return frozenset(found)


def holders(table: TableRules) -> Iterator[tuple[str, str, Rule]]:
    """Each rule of others that leads to a chain of ours: that chain, the one that the rule is in, and the rule."""
    for chain, rules in table.chains().items():
        for rule in () if is_ours(table, chain) else rules:
            if not (table.is_built_in(chain) and is_our_rule(table, chain, rule)):
                yield from ((to, chain, rule) for to in dict.fromkeys(led_to(rule.target)) if is_ours(table, to))


def led_to(target: Target) -> Iterator[str]:
    """The chains that a rule leads to: by a jump, by `-g`, or by the elements of a verdict map."""
    if isinstance(target, Jump):
        yield target.chain
    elif isinstance(target, ForeignTarget) and target.text.startswith("-g "):
        yield target.text.removeprefix("-g ")
    elif isinstance(target, NativeTarget):
        from rules.netfilter.effects import Goto, first_of  # nothing of ours is native beside iptables

        yield from (effect.chain for effect in first_of(target.effect) if isinstance(effect, Jump | Goto))


def counted(target: Target) -> Iterator[str]:
    """Those that the kernel counts for the rule. What a map with a name leads to counts for the map."""
    if not (isinstance(target, NativeTarget) and "vmap @" in target.text):
        yield from led_to(target)
