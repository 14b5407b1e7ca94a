"""What is planned, counted for a terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from capture.screen.verify import summary
from rules.netfilter.values import Family
from rules.plan.intent import TPROXY, Intent
from rules.plan.plan import NOTHING, plan

if TYPE_CHECKING:
    from capture.inspect.verify import Comparison
    from rules.plan.plan import Plan

BOTH = (Family.V4, Family.V6)


def compared(planned: Plan) -> Comparison:
    """As far as iptables' rules are counted: as they are planned."""
    return cast("Comparison", SimpleNamespace(planned=planned, backend="nft"))


@pytest.mark.parametrize(
    ("intent", "families", "routing", "has_address"),
    [
        (Intent(), 1, "", False),
        (Intent(families=BOTH), 2, "", True),
        (Intent(interception_mode=TPROXY), 1, "1 ip rule with its route", False),
        (Intent(families=BOTH, interception_mode=TPROXY), 2, "2 ip rules with their routes", True),
    ],
)
def test_a_plan_is_told_by_its_parts(intent: Intent, families: int, routing: str, has_address: bool) -> None:
    """Chains and rules of each family, ip rules with routes, the address, and the backend."""
    told, _, backend = summary(compared(plan(intent))).rpartition("; ")
    held = [ruleset for ruleset in plan(intent).rulesets if ruleset.tables]
    assert backend == "in the nft backend"
    parts = told.split(", ")
    assert [part.split()[0] for part in parts[:families]] == [family.value for family in BOTH[:families]]
    for part, ruleset in zip(parts[:families], held, strict=True):
        rules = sum(1 for _ in ruleset.rules())
        chains = sum(len(table.declared) for table in ruleset.tables)
        assert part.endswith(f" {chains} chains with {rules} rules")
    assert parts[families:] == [*([routing] if routing else []), *(["::6 on lo"] if has_address else [])]


def test_nothing_is_told_as_nothing() -> None:
    """In no backend."""
    assert summary(compared(NOTHING)) == "nothing is to be captured"
