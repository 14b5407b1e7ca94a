"""What is told of a difference is what a run would change, in whatever state a namespace is."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from capture.apply import transaction
from capture.host.live import Live
from capture.inspect.hunks import of_ruleset
from capture.inspect.verify import findings
from capture.iptables.iptables import BACKENDS, Iptables
from capture.iptables.saved import Saved
from capture.netlink.rtnetlink import Address
from rules.iptables.writing import rule_text
from rules.live.changes import changes
from rules.live.drift import OF_CHAIN, Kind, aligned, compare, differences
from rules.netfilter.matches import DPort
from rules.netfilter.rulesets import Rule, Ruleset
from rules.netfilter.targets import Return
from rules.netfilter.values import BUILT_IN, Family, Ports
from rules.plan.names import PASSTHROUGH, PROTOCOL, RULE_PRIORITY
from rules.plan.plan import plan, ruleset
from rules.routing.policy import GOTO, LOCAL, LOOKUP, PROHIBIT, WHOLE, PolicyRule, Route
from tests.property import strategies
from tests.property.test_changes import converged, states

if TYPE_CHECKING:
    from rules.live.drift import Finding
    from rules.plan.intent import Intent

few = st.lists(st.integers(1, 6), max_size=12)


def rules(numbers: list[int]) -> list[Rule]:
    return [Rule((DPort(Ports.one(number)),), Return(), why=f"rule {number}") for number in numbers]


def repairable(live: Ruleset, planned: Ruleset) -> list[Finding]:
    """What is found, without what stays as it is: narrower rules of others that stood there first."""
    return [found for found in compare(live, planned) if found.repaired_by_rerun]


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_something_is_found_exactly_when_something_would_change(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """Before a run in any state, and after it."""
    live, planned = data.draw(states(family)), ruleset(intent, family)
    assert bool(repairable(live, planned)) == bool(changes(live, planned))
    assert repairable(converged(live, planned), planned) == []


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_findings_are_in_the_tables_and_chains_that_would_change(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """No table without a change has a finding, and none with one has none."""
    live, planned = data.draw(states(family)), ruleset(intent, family)
    assert {found.table for found in repairable(live, planned)} == {change.table for change in changes(live, planned)}


@given(few, few)
def test_the_rules_that_stay_are_as_many_as_can(now: list[int], wanted: list[int]) -> None:
    """Compared with the textbook's quadratic longest common subsequence; equal rules beyond four may cost some."""
    kept = aligned(rules(now), rules(wanted))
    assert all(now[at] == wanted[place] for at, place in kept)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(kept))
    if all(wanted.count(number) <= 4 for number in wanted):
        assert len(kept) == longest_common(now, wanted)


def longest_common(now: list[int], wanted: list[int]) -> int:
    lengths = [[0] * (len(wanted) + 1) for _ in range(len(now) + 1)]
    for i, one in enumerate(now):
        for j, other in enumerate(wanted):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if one == other else max(lengths[i][j + 1], lengths[i + 1][j])
    return lengths[-1][-1]


@given(few, few)
def test_findings_account_for_every_rule(now: list[int], wanted: list[int]) -> None:
    """Live rules less the unexpected and doubled, and with the missing, are the planned ones."""
    found = differences(list(enumerate(rules(now), 1)), rules(wanted), OF_CHAIN)
    left = list(now)
    for kind, position, _, rule in found:
        if kind in (Kind.RULE_UNEXPECTED, Kind.RULE_DOUBLED):
            left.remove(rule.matches[0].ports.first)  # type: ignore[union-attr] # a DPort
            assert now[position - 1] == rule.matches[0].ports.first  # type: ignore[union-attr] # a DPort
        elif kind is Kind.RULE_MISSING:
            left.append(rule.matches[0].ports.first)  # type: ignore[union-attr] # a DPort
    assert sorted(left) == sorted(wanted)
    assert (found == []) == (now == wanted)


marks, tables, protocols = st.sampled_from((1337, 77)), st.sampled_from((133, 77)), st.sampled_from((0, 3, PROTOCOL))
policy_rules = st.builds(
    PolicyRule,
    strategies.families,
    st.sampled_from((0, 100, RULE_PRIORITY)),
    marks,
    tables,
    protocols,
    st.sampled_from((WHOLE, 0xFF)),
    st.sampled_from((LOOKUP, LOOKUP, GOTO, PROHIBIT)),
    st.booleans(),
)
local_routes = st.builds(Route, strategies.families, tables, protocols, kind=st.sampled_from((LOCAL, "unicast")))
SOME_RULE = PolicyRule(Family.V4, RULE_PRIORITY, 1337, 133, PROTOCOL)
SOME_ROUTE = Route(Family.V4, 133, PROTOCOL)
SIX = PASSTHROUGH[Family.V6].network_address
passthroughs = st.one_of(st.none(), protocols.map(lambda protocol: Address(SIX, 128, protocol)))


@given(data=st.data(), intent=strategies.intents, backend=st.sampled_from(BACKENDS))
def test_as_planned_is_exactly_where_a_run_has_nothing_to_do(data: st.DataObject, intent: Intent, backend: str) -> None:
    """Over both backends, ip rules, routes and ::6; beside what no run can repair."""
    planned = plan(intent.but(tproxy_mark=data.draw(marks), tproxy_route_table=data.draw(tables)))
    wanted = {ruleset.family: ruleset for ruleset in planned.rulesets}
    drifted = data.draw(st.sets(st.sampled_from(("rules", "routing", "address"))))
    # States take long to draw: one of the four holds the rules of others, and drift.
    drawn = data.draw(st.sampled_from([(name, family) for name in ("nft", "legacy") for family in Family]))

    def held(name: str, family: Family) -> Saved:
        tool = Iptables(name, family)
        clean = wanted[family] if name == backend else Ruleset(family)
        if (name, family) != drawn:
            return Saved(clean, str(tool))
        state = data.draw(states(family))
        is_clean = "rules" not in drifted or data.draw(st.booleans())
        return Saved(converged(state, clean) if is_clean else state, str(tool))

    both = [{family: held(name, family) for family in Family} for name in ("nft", "legacy")]
    rules = {PolicyRule(r.family, RULE_PRIORITY, r.mark, r.table, PROTOCOL) for r in planned.routing}
    routes = {Route(r.family, r.table, PROTOCOL) for r in planned.routing}
    if "routing" in drifted:
        rules = set(data.draw(st.lists(st.one_of(policy_rules, st.sampled_from([*rules, SOME_RULE])), max_size=3)))
        routes = set(data.draw(st.lists(st.one_of(local_routes, st.sampled_from([*routes, SOME_ROUTE])), max_size=3)))
    clean_address = Address(SIX, 128, PROTOCOL) if planned.passthrough_address else None
    live = Live(
        both[0],
        both[1],
        {family: frozenset() for family in Family},
        None,
        tuple(sorted(rules, key=lambda rule: rule.priority)),
        tuple(routes),
        data.draw(passthroughs) if "address" in drifted else clean_address,
    )
    found = [finding for finding in findings(live, planned, backend) if finding.repaired_by_rerun]
    assert bool(found) == bool(list(transaction.steps(live, planned, backend)))


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_a_diff_leads_from_what_is_live_to_what_is_planned(data: st.DataObject, intent: Intent, family: Family) -> None:
    """Its lines without the new ones are live rules at their positions, without the old ones those after a run."""
    live, planned = data.draw(states(family)), ruleset(intent, family)
    after = converged(live, planned)
    for diff in of_ruleset("nft", live, planned):
        for op, state in (("+", live), ("-", after)):
            chain = state.table(diff.table).chains().get(diff.chain, ())
            for hunk in diff.hunks:
                shown = [line.text for line in hunk.lines if line.op != op]
                start = hunk.live_start if op == "+" else hunk.planned_start
                begin = start - 1 if shown else start
                there = [f"-A {diff.chain} {rule_text(rule)}".rstrip() for rule in chain]
                assert words(there[begin : begin + len(shown)]) == words(shown)
        if diff.chain in BUILT_IN[diff.table]:
            assert all("-j ISTIO" in line.text for hunk in diff.hunks for line in hunk.lines if line.op != " ")


def words(lines: list[str]) -> list[list[str]]:
    """The order of matches in a rule means nothing."""
    return [sorted(line.split()) for line in lines]


@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_there_is_a_diff_exactly_where_a_run_changes_something(
    data: st.DataObject, intent: Intent, family: Family
) -> None:
    """Table by table."""
    live, planned = data.draw(states(family)), ruleset(intent, family)
    tables = {diff.table for diff in of_ruleset("nft", live, planned)}
    assert tables == {change.table for change in changes(live, planned)}
