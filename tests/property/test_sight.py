"""Two rules that iptables makes the same bytes of are one and the same."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given

from capture.sight.compiled import ORDERS, NotTold, compiled
from rules.netfilter.values import Family
from rules.plan.plan import ruleset
from tests.property import strategies

if TYPE_CHECKING:
    from rules.netfilter.rulesets import Rule
    from rules.plan.intent import Intent


@given(one=strategies.intents, other=strategies.intents)
def test_no_two_rules_look_alike(one: Intent, other: Intent) -> None:
    """Whatever two captures are made of: what is known at sight by its bytes is just that rule."""
    for family, order in product(Family, ORDERS):
        seen: dict[tuple[bytes, bytes], Rule] = {}
        for intent in (one, other):
            for _, _, rule in ruleset(intent, family).rules():
                try:
                    assert seen.setdefault(compiled(rule, family, order), rule) == rule
                except NotTold:
                    continue
