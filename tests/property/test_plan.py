"""Planned rulesets: what each rule carries, and who is never captured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import assume, given

from capture.settings.declared import DECLARED_BY_NAME
from rules.iptables import reading
from rules.iptables.printed import printed
from rules.iptables.quoting import tokens
from rules.iptables.reading import tables
from rules.live.changes import changes, restore_text
from rules.netfilter.matches import Dst, Not, OwnerGid, OwnerUid
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import Jump, Return
from rules.netfilter.values import Family
from rules.ours.recognition import is_our_jump, ours_in
from rules.plan.flows.words import ON_LO
from rules.plan.intent import Intent
from rules.plan.names import ISTIO_IN_REDIRECT, ISTIO_OUTPUT, ISTIO_REDIRECT, OURS
from rules.plan.plan import plan, ruleset
from tests.property import strategies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.netfilter.rulesets import Rule


@given(intent=strategies.intents, family=strategies.families)
def test_what_is_rendered_is_parsed_back(intent: Intent, family: Family) -> None:
    """parse(render(r)) == r, for every ruleset that can be planned."""
    planned = ruleset(intent, family)
    text = restore_text(changes(Ruleset(family), planned))
    assert Ruleset(family, tables(text)) == planned


@given(intent=strategies.intents, family=strategies.families)
def test_what_is_known_at_sight_is_what_would_have_been_read(intent: Intent, family: Family) -> None:
    """Whatever spelling a planned rule is expected in, word by word it reads as that rule."""
    planned = ruleset(intent, family)
    for table in planned.tables:
        for block in table.blocks:
            for rule in block.rules:
                assert reading.rule(tokens(printed(rule)), table.declared) == rule


@given(intent=strategies.intents, family=strategies.families)
def test_what_is_planned_needs_no_change(intent: Intent, family: Family) -> None:
    """Nothing is to be done where what is live is what is planned, and all of it is known as ours."""
    planned = ruleset(intent, family)
    assert changes(planned, planned) == ()
    assert ours_in(planned) == planned


@given(intent=strategies.intents)
def test_a_family_that_is_not_captured_is_planned_empty(intent: Intent) -> None:
    """A plan has one ruleset for each family, and nothing in those that the intent leaves out."""
    planned = {ruleset.family: ruleset.tables for ruleset in plan(intent).rulesets}
    assert set(planned) == set(Family)
    refused = {Family.V6} if intent.ipv6 == "reject" else set()
    assert {family for family, held in planned.items() if held} == set(intent.families) | refused
    assert not any(table.table == "nat" for family in refused - set(intent.families) for table in planned[family])


@given(intent=strategies.intents)
def test_every_rule_says_why_and_which_setting_asked(intent: Intent) -> None:
    """Every rule has a reason, and a setting that is declared and a field of Intent, or none."""
    for planned in plan(intent).rulesets:
        for _, chain, rule in planned.rules():
            assert rule.why, (chain, rule)
            assert not rule.setting or {rule.setting} <= set(Intent.__match_args__) & set(DECLARED_BY_NAME), rule


@given(intent=strategies.intents, family=strategies.families)
def test_everything_of_ours_can_be_known_by_its_name(intent: Intent, family: Family) -> None:
    """Our chains are those that are listed as ours, every jump has a chain to go to, and every hook is a jump."""
    for table in ruleset(intent, family).tables:
        assert set(table.declared) <= OURS[table.table]
        for chain, rules in table.chains().items():
            assert chain in table.declared or table.is_built_in(chain)
            for rule in rules:
                assert not isinstance(rule.target, Jump) or rule.target.chain in table.declared
                assert is_our_jump(table, rule) or not table.is_built_in(chain)


@given(intent=strategies.intents, family=strategies.families)
def test_the_proxy_is_never_captured_beyond_loopback(intent: Intent, family: Family) -> None:
    """In ISTIO_OUTPUT each owner returns before anything is captured but calls over lo, however many there are."""
    rules = captured_output(intent, family)
    owners = owners_of(intent)
    last_release = max(rules_that_only_ask(rules, owner)[0] for owner in owners)
    for rule in rules[:last_release]:
        if isinstance(rule.target, Jump):
            assert rule.target.chain == ISTIO_IN_REDIRECT
            assert ON_LO in rule.matches
            assert Not(Dst(intent.loopback(family))) in rule.matches


def captured_output(intent: Intent, family: Family) -> Sequence[Rule]:
    """ISTIO_OUTPUT of the nat table, in a family that is captured."""
    return ruleset(intent.but(families=(family,)), family).table("nat").chains()[ISTIO_OUTPUT]


def owners_of(intent: Intent) -> set[OwnerUid | OwnerGid]:
    """Everyone who is the proxy."""
    return {*map(OwnerUid, intent.proxy_uid), *map(OwnerGid, intent.proxy_gid)}


def rules_that_only_ask(rules: Sequence[Rule], owner: OwnerUid | OwnerGid) -> list[int]:
    """Where the rules are that let this owner go, whatever else is true."""
    return [at for at, rule in enumerate(rules) if rule.matches == (owner,) and rule.target == Return()]


@given(intent=strategies.intents, family=strategies.families)
def test_no_owner_hides_the_loopback_rules_of_another(intent: Intent, family: Family) -> None:
    """Each owner's calls to itself are captured before any rule lets other owners go on lo, with several owners."""
    rules = captured_output(intent, family)
    owners = owners_of(intent)
    assume(len(owners) > 2)
    captures = [at for at, rule in enumerate(rules) if rule.target == Jump(ISTIO_IN_REDIRECT)]
    assert {owner for at in captures for owner in owners if owner in rules[at].matches} == owners
    others = [at for at, rule in enumerate(rules) if any(Not(owner) in rule.matches for owner in owners)]
    groups = [at for at in others if ON_LO in rules[at].matches]
    assert all(at > max(captures) for at in groups)
    assert len(groups) <= 1


@given(intent=strategies.intents, family=strategies.families)
def test_exclusions_come_before_what_they_exclude_from(intent: Intent, family: Family) -> None:
    """-o beats all, -x beats -q, -q beats -i: settings appear in ISTIO_OUTPUT in this order."""
    rules = captured_output(intent, family)
    order = ["outbound_ports_exclude", "proxy_uid", "proxy_gid", "owner_groups", "owner_groups_exclude"]
    order += ["ipv4_loopback_cidr", "outbound_cidrs_exclude", "outbound_ports", "outbound_cidrs"]
    ranks = [order.index(rule.setting) for rule in rules if rule.setting in order]
    owners = {1, 2}
    assert [1 if rank in owners else rank for rank in ranks] == sorted(1 if rank in owners else rank for rank in ranks)
    assert all(rule.target == Jump(ISTIO_REDIRECT) for rule in rules if rule.setting == "outbound_cidrs")
