"""Which of our chains something of others leads to, told from rules and from what the kernel counts."""

from __future__ import annotations

from rules.iptables.reading import tables
from rules.live.changes import NewChain, RemoveChain, changes
from rules.netfilter.rulesets import Ruleset, TableRules
from rules.netfilter.values import Family
from rules.ours.held import held_in, with_held
from rules.ours.recognition import holds_ours, ours_in
from rules.plan.intent import Intent
from rules.plan.plan import plan

OURS = """\
*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:THEIRS - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
{theirs}COMMIT
"""
USES = {"ISTIO_OUTPUT": 2, "ISTIO_REDIRECT": 2}
"""A rule each, and a jump."""


def nat(theirs: str = "") -> TableRules:
    (table,) = tables(OURS.format(theirs=theirs))
    return table


def test_our_own_rules_hold_nothing() -> None:
    """Nor does a count that is explained by them, or is lower: somebody took a rule away meanwhile."""
    assert held_in(nat(), {}) == held_in(nat(), USES) == held_in(nat(), {"ISTIO_OUTPUT": 1}) == frozenset()


def test_a_rule_of_others_holds_what_it_leads_to() -> None:
    """By a jump or by -g, with any matches; in a built-in chain a jump is ours, and -g is not."""
    for rule in ("-A THEIRS -d 10.0.0.1/32 -j ISTIO_REDIRECT", "-A THEIRS -g ISTIO_REDIRECT"):
        assert held_in(nat(f"{rule}\n"), {}) == {"ISTIO_REDIRECT"}
    assert held_in(nat("-A OUTPUT -d 10.0.0.1/32 -j ISTIO_REDIRECT\n"), {}) == frozenset()
    assert held_in(nat("-A OUTPUT -g ISTIO_REDIRECT\n"), {}) == {"ISTIO_REDIRECT"}


def test_what_no_rule_shows_holds_a_chain_that_the_kernel_counts_more_for() -> None:
    """An element of a verdict map with a name: no rule need ask it."""
    assert held_in(nat(), USES | {"ISTIO_REDIRECT": 3}) == {"ISTIO_REDIRECT"}


def test_a_held_chain_is_emptied_and_then_nobodys() -> None:
    """A removal leaves it; a second one finds nothing of ours; a run fills it without making it."""
    live = with_held(Ruleset(Family.V4, (nat("-A THEIRS -j ISTIO_OUTPUT\n"),)), {})
    (change,) = changes(live, Ruleset(Family.V4))
    assert [command for command in change.commands if isinstance(command, RemoveChain)] == [
        RemoveChain("ISTIO_REDIRECT")
    ]
    (left,) = tables("*nat\n:ISTIO_OUTPUT - [0:0]\n:THEIRS - [0:0]\n-A THEIRS -j ISTIO_OUTPUT\nCOMMIT\n")
    emptied = with_held(Ruleset(Family.V4, (left,)), {})
    assert changes(emptied, Ruleset(Family.V4)) == ()
    assert not any(map(holds_ours, emptied.tables))
    assert ours_in(emptied).tables == ()
    planned, *_ = plan(Intent()).rulesets
    (change,) = changes(emptied, planned)
    assert NewChain("ISTIO_REDIRECT") in change.commands
    assert NewChain("ISTIO_OUTPUT") not in change.commands
