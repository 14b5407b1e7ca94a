"""Two rules of which iptables, or nft, makes the same bytes are one and the same."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given

from capture.sight import native
from capture.sight.expressions import NotTold
from capture.sight.iptables import ORDERS, compiled
from capture.sight.native import HEAD, LOOKUP, RANGES_AT_ONCE, Sets
from rules.native.compiled import compiled as of_our_own
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


@given(one=strategies.intents, other=strategies.intents)
def test_no_two_rules_of_our_own_tables_look_alike(one: Intent, other: Intent) -> None:
    """The same of what nft makes, with what the sets hold that a rule looks into."""
    message = (LOOKUP + bytes(2 * HEAD) + b"__set0\0") * 8
    for family, at_once in product(Family, RANGES_AT_ONCE):
        seen: dict[object, Rule] = {}
        for intent in (one, other):
            for table, _, rule in of_our_own(ruleset(intent, family)).rules():
                sets = Sets(message, ranges_at_once=at_once)
                try:
                    made = native.compiled(rule, table, family, sets)
                except NotTold:
                    continue
                held = tuple((is_of_intervals, frozenset(its)) for is_of_intervals, its in sets.wanted)
                assert seen.setdefault((table, made, held), rule) == rule
