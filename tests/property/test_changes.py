"""From any state to any plan: the commands are carried out by a small interpreter and the outcome is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from rules.live.changes import (
    ALONE,
    Append,
    Company,
    Delete,
    Fill,
    Insert,
    NewChain,
    Redeclare,
    RemoveChain,
    changes,
    changes_back,
    precedents_of,
)
from rules.live.precedence import precedents
from rules.netfilter.rulesets import Rule, Ruleset, TableRules
from rules.netfilter.targets import Jump
from rules.netfilter.values import BUILT_IN, Family
from rules.ours.recognition import is_our_jump, is_ours
from rules.plan.plan import ruleset
from rules.value import assert_never
from tests.property import strategies
from tests.property.strategies import table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rules.live.changes import Command
    from rules.plan.intent import Intent

TABLES = ("raw", "mangle", "nat", "filter")


def carried_out(table: TableRules, commands: Iterable[Command]) -> TableRules:
    """The table after these commands, each of which must be one that the kernel takes."""
    chains = {chain: list(rules) for chain, rules in table.chains().items()}
    for chain in BUILT_IN[table.table]:
        chains.setdefault(chain, [])
    for command in commands:
        match command:
            case NewChain(chain):
                assert chain not in chains
                chains[chain] = []
            case Redeclare(chain):
                assert chain not in BUILT_IN[table.table]
                chains[chain] = []
            case RemoveChain(chain):
                assert chain not in BUILT_IN[table.table]
                assert chains.pop(chain) == []
                assert not any(rule.target == Jump(chain) for rules in chains.values() for rule in rules)
            case Append(chain, rule):
                assert may_hold(chains, rule)
                chains[chain].append(rule)
            case Fill(chain, rules):
                assert all(may_hold(chains, rule) for rule in rules)
                chains[chain] += rules
            case Insert(chain, position, rule):
                assert may_hold(chains, rule)
                assert 1 <= position <= len(chains[chain]) + 1
                chains[chain].insert(position - 1, rule)
            case Delete(chain, rule, position):
                assert chains[chain].index(rule) == position - 1
                chains[chain].remove(rule)
            case _:
                assert_never(command)
    return table_of(table.table, chains)


def may_hold(chains: dict[str, list[Rule]], rule: Rule) -> bool:
    return not isinstance(rule.target, Jump) or rule.target.chain in chains


def converged(live: Ruleset, planned: Ruleset, company: Company = ALONE) -> Ruleset:
    """What is live after the changes that lead to what is planned."""
    asked = {change.table: change.commands for change in changes(live, planned, company)}
    names = dict.fromkeys([*(table.table for table in live.tables), *asked])
    return Ruleset(live.family, tuple(carried_out(live.table(name), asked.get(name, ())) for name in names))


def ours(table: TableRules) -> dict[str, Sequence[Rule]]:
    """Our chains, and our jumps in each built-in one that has any."""
    found: dict[str, Sequence[Rule]] = {}
    for chain, rules in table.chains().items():
        if is_ours(table, chain):
            found[chain] = rules
        elif table.is_built_in(chain):
            jumps = tuple(rule for rule in rules if is_our_jump(table, rule))
            found |= {chain: jumps} if jumps else {}
    return found


def theirs(table: TableRules) -> dict[str, tuple[Rule, ...]]:
    """The chains of others, and their rules in the built-in ones, in order."""
    return {
        chain: tuple(rule for rule in rules if not (table.is_built_in(chain) and is_our_jump(table, rule)))
        for chain, rules in table.chains().items()
        if not is_ours(table, chain)
    }


def standing(table: TableRules) -> dict[str, tuple[Rule, ...]]:
    """The same without built-in chains that hold nothing of others."""
    return {chain: rules for chain, rules in theirs(table).items() if rules or not table.is_built_in(chain)}


def before_ours(table: TableRules, chain: str) -> int | None:
    """How many rules stand before our first one in a built-in chain, if there is one."""
    rules = table.chains().get(chain, ())
    return next((at for at, rule in enumerate(rules) if is_our_jump(table, rule)), None)


@st.composite
def states(draw: st.DrawFn, family: Family) -> Ruleset:
    """What a namespace may hold."""
    return Ruleset(family, tuple(draw(strategies.live_tables(table, family)) for table in TABLES))


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_every_state_converges_and_spares_the_rules_of_others(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """Afterwards ours is exactly what is planned, and the rules of others are the same, in the same order."""
    live, planned = data.draw(states(family)), ruleset(intent, family)
    after = converged(live, planned)
    for name in TABLES:
        assert ours(after.table(name)) == ours(planned.table(name)), name
        left, had = (standing(state.table(name)) for state in (after, live))
        assert left == had, name
    assert changes(after, planned) == ()


@given(data=st.data(), family=strategies.families)
def test_removal_spares_the_rules_of_others(data: st.DataObject, family: Family) -> None:
    """With nothing planned nothing of ours is left, whatever was there."""
    live = data.draw(states(family))
    after = converged(live, Ruleset(family))
    for name in TABLES:
        assert ours(after.table(name)) == {}
    assert changes(after, Ruleset(family)) == ()


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_no_rule_of_others_takes_everything_from_above_ours(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """Wherever our jumps stood before; and where ours go first, none takes anything."""
    live, planned = data.draw(states(family)), ruleset(intent, family)
    company = Company(ours_first=data.draw(st.booleans()))
    after = converged(live, planned, company)
    for name in TABLES:
        table = after.table(name)
        for chain in BUILT_IN[name]:
            found = precedents_of(table, chain, table.chains().get(chain, ()), planned, company)
            assert not found if company.ours_first else not any(it.is_passed for it in found)


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_our_jumps_stay_where_they_stood(data: st.DataObject, intent: Intent, family: Family) -> None:
    """New ones begin where the first old one stood, or behind all others; higher only if one of those is in the way."""
    live, planned = data.draw(states(family)), ruleset(intent, family)
    after = converged(live, planned)
    for name in TABLES:
        for chain in BUILT_IN[name]:
            stood, stands = before_ours(live.table(name), chain), before_ours(after.table(name), chain)
            if stands is not None:
                allowed = len(live.table(name).chains().get(chain, ())) if stood is None else stood
                assert stands <= allowed
                if stands < allowed:
                    rules = live.table(name).chains()[chain]
                    theirs = [rule for rule in rules if not is_our_jump(live.table(name), rule)][: stands + 1]
                    found = precedents(live.table(name), chain, list(enumerate(theirs)), planned, ALONE)
                    assert [it.position for it in found if it.is_passed] == [stands]


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_taking_back_restores_every_position(data: st.DataObject, intent: Intent, family: Family) -> None:
    """Whatever was there, drift and doubled jumps among the rules of others included."""
    live = data.draw(states(family))
    after = converged(live, ruleset(intent, family))
    asked = {change.table: change.commands for change in changes_back(after, live)}
    for name in TABLES:
        table = carried_out(after.table(name), asked.get(name, ()))
        had = {
            chain: rules for chain, rules in live.table(name).chains().items() if rules or chain not in BUILT_IN[name]
        }
        left = {chain: rules for chain, rules in table.chains().items() if rules or chain not in BUILT_IN[name]}
        assert left == had


@given(data=st.data(), first=strategies.intents, second=strategies.intents, family=strategies.families)
def test_going_there_and_back_leaves_nothing_changed(
    data: st.DataObject, first: Intent, second: Intent, family: Family
) -> None:
    """From one plan to another and back is the first plan again, jumps of others and order included."""
    live = converged(data.draw(states(family)), ruleset(first, family))
    there = converged(live, ruleset(second, family))
    back = converged(there, ruleset(first, family))
    for name in TABLES:
        assert ours(back.table(name)) == ours(live.table(name))
        assert standing(back.table(name)) == standing(live.table(name))
