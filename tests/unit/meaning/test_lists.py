"""Lists of rules that are asked as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from rules.lists.long import Joined, Made, Read
from rules.lists.networks import Networks, code_of
from rules.meaning.lists import LONG, List, lists
from rules.meaning.spoken import conditions
from rules.netfilter.matches import Dst, Proto, Src
from rules.netfilter.rulesets import Rule, when
from rules.netfilter.targets import Jump, Return
from tests.property import strategies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.netfilter.values import Network


def meant(asked: List) -> object:
    """What such a list asks and does, and which rules it stands for."""
    every = frozenset(each for match in asked.rule.matches for each in conditions(match))
    return every, asked.rule.target, asked.rule.why, asked.places, asked.field, asked.spans


@settings(deadline=None)
@given(
    networks=st.sampled_from([strategies.ipv4_networks, strategies.ipv6_networks]).flatmap(
        lambda family: st.lists(family, min_size=LONG - 1, max_size=LONG + 8, unique=True)
    ),
    by=st.sampled_from([Dst, Src]),
    target=st.sampled_from([Return(), Jump("ISTIO_REDIRECT")]),
    around=st.integers(0, 3),
)
def test_rules_of_a_long_list_come_to_what_they_come_to_one_by_one(
    networks: Sequence[Network], by: type[Dst | Src], target: Return | Jump, around: int
) -> None:
    """Made of networks, behind and before others, they are the same lists, at the same places."""

    def made(network: Network) -> Rule:
        return when(Proto("tcp"), by(network)).then(target, why="listed", setting="")

    other = when(Proto("udp")).then(Return(), why="another", setting="")
    beside = (other,) * around
    rules = Joined([beside, Made(Networks(map(code_of, networks)), made), beside])
    assert list(map(meant, lists(rules))) == list(map(meant, lists(tuple(rules))))
    read = Read(rules, lambda rule: rule.but(text="as printed"))
    assert list(map(meant, lists(read))) == list(map(meant, lists(tuple(read))))


def test_none_of_a_long_list_is_made() -> None:
    """Only the first of them, to see what they ask."""
    made_of = []

    def made(network: Network) -> Rule:
        made_of.append(network)
        return when(Dst(network)).then(Return(), why="listed", setting="")

    networks = Networks((10 << 24 | at << 8) << 8 | 24 for at in range(LONG + 1))
    for rules in (Made(networks, made), Read(Made(networks, made), lambda rule: rule)):
        made_of.clear()
        (only,) = lists(rules)
        assert (len(only.places), len(only.spans), made_of) == (LONG + 1, LONG + 1, [networks[0]])
