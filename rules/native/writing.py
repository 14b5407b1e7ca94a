"""The transactions of `nft -f` that make our own tables hold what they should, and take them away."""

from __future__ import annotations

from rules.native.names import TABLE, chain_name, hooked
from rules.native.words import rule_words
from rules.netfilter.hooks import NAME
from rules.netfilter.rulesets import reached_from
from rules.netfilter.targets import Jump
from rules.netfilter.values import BUILT_IN, OUTPUT, PREROUTING
from rules.plan.names import NOT_YET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeAlias

    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.values import Family

    Place: TypeAlias = tuple[str, str]
    """A table of iptables and a chain."""
    Chains: TypeAlias = Mapping[Place, Sequence[Rule]]
    Counts: TypeAlias = Mapping[tuple[str, str, int], tuple[int, int]]
    """Packets and bytes by table of iptables, chain, and place from 1."""
    Line: TypeAlias = tuple[str, Rule | None]


NOTHING_COUNTED: Counts = {}


def chains_of(ruleset: Ruleset) -> dict[Place, Sequence[Rule]]:
    """Every chain with its rules, by table of iptables and name, those that are jumped to first."""
    found: dict[Place, Sequence[Rule]] = {}
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


def transaction(
    now: Ruleset, becomes: Ruleset, counts: Counts = NOTHING_COUNTED, *, anew: bool = False
) -> Iterator[Line]:
    """What turns our table of one family from what it is into this: each line, with the rule that it makes.

    A chain that stays as it is is not named, so its counters go on; those of another begin at `counts`. `anew` throws
    away whatever is there.
    """
    yield from lines({} if anew else chains_of(now), chains_of(becomes), becomes.family, counts, anew=anew)


def transactions(now: Ruleset, becomes: Ruleset, counts: Counts = NOTHING_COUNTED) -> tuple[list[Line], list[Line]]:
    """The same in two commits, if packets are on their way and one alone would have some of them miss a rule.

    A set of intervals is looked up in what is built when all else of its commit is there already (`nft_rbtree_commit`
    of net/netfilter/nft_set_rbtree.c, the same for `pipapo`): until then a rule that comes with it holds for nothing.
    So its chain is made beforehand, where no packet comes, under a name of its own if there is one of its name. The
    second commit has it take the place of that one. Without such a rule there is nothing to do beforehand.
    """
    # A chain that waits for a commit which never came is wanted by nobody.
    before, after = chains_of(now), {it: rules for it, rules in chains_of(becomes).items() if not is_waiting(it[1])}
    met = {(table, chain) for table, _ in after for chain in met_in(after, table)}
    new = [
        place for place, rules in after.items() if place in met and not is_base(*place) and before.get(place) != rules
    ]
    slow = {place for place in new if any(map(asks_for_intervals, after[place]))}
    if not slow:
        return [], list(lines(before, after, becomes.family, counts))
    moved = {(table, chain): f"{chain}{NOT_YET}" for table, chain in new if (table, chain) in slow & before.keys()}
    then = {(place[0], moved.get(place, place[1])): led(rules, place[0], moved) for place, rules in after.items()}
    unmet = [(place[0], moved.get(place, place[1])) for place in new if place in slow or place not in before]
    between = before | {place: then[place] for place in unmet}
    counts = {(table, moved.get((table, chain), chain), at): count for (table, chain, at), count in counts.items()}
    names = ((chain_name(table, name), chain_name(table, chain)) for (table, chain), name in moved.items())
    table = f"{NAME[becomes.family]} {TABLE}"
    renamed: list[Line] = [(f"rename chain {table} {name} {chain}", None) for name, chain in names]
    return (
        list(lines(before, between, becomes.family, counts)),
        [*lines(between, then, becomes.family, counts), *renamed],
    )


def is_waiting(chain: str) -> bool:
    """Whether it was made beforehand, and is not in its place yet."""
    return chain.endswith(NOT_YET)


def met_in(chains: Chains, table: str) -> tuple[str, ...]:
    """The chains of this table of iptables that packets come to."""
    held = {chain: rules for (of, chain), rules in chains.items() if of == table}
    return reached_from(held, (chain for chain in held if is_base(table, chain)))


def asks_for_intervals(rule: Rule) -> bool:
    """Whether nft makes a set of intervals for it: one in which a range or a network is."""
    sets = (part.partition("}")[0] for part in rule.text.split("{ ")[1:])
    return any("-" in values or "/" in values for values in sets)


def led(rules: Sequence[Rule], table: str, moved: Mapping[Place, str]) -> Sequence[Rule]:
    """The same rules, leading to the new one where there are two of a chain."""
    goals = [rule.target.chain if isinstance(rule.target, Jump) else "" for rule in rules]
    if not any((table, goal) in moved for goal in goals):
        return rules
    pairs = zip(rules, (moved.get((table, goal)) for goal in goals), strict=True)
    return tuple(rule.but(target=Jump(goal)) if goal else rule for rule, goal in pairs)


def lines(before: Chains, after: Chains, family: Family, counts: Counts, *, anew: bool = False) -> Iterator[Line]:
    """What turns these chains into those, in one commit."""
    table = f"{NAME[family]} {TABLE}"
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
    # Without a hook of type nat the kernel forgets how it changed what is open: the last one goes with the last chain.
    keeps_nat = any(name == "nat" and is_base(name, chain) for name, chain in after)
    going = [
        (name, chain) for name, chain in gone if name in left or not is_base(name, chain) or keeps_nat or name != "nat"
    ]
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
            for at, rule in enumerate(rules, 1):
                yield f"    {statement(rule, place[0], family, counts.get((*place, at)))}", rule
            yield "  }", None
        yield "}", None


def statement(rule: Rule, table: str, family: Family, count: tuple[int, int] | None) -> str:
    """A rule with its counter, and its why as a comment."""
    counter = f"counter packets {count[0]} bytes {count[1]}" if count else "counter"
    why = f' comment "{rule.why}"' if rule.why else ""
    return f"{rule_words(rule, table, family, counter)}{why}"
