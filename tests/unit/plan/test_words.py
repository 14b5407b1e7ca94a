"""Lists of ports as few matches, which together hold for exactly the ports of the list."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.netfilter.matches import DPort, DPorts, Dst, places
from rules.netfilter.values import Ports, network
from rules.plan.flows.words import ONE_RULE_EACH, going_to, merged, port_matches

near = st.tuples(st.integers(1, 400), st.integers(0, 3)).map(lambda it: Ports(it[0], it[0] + it[1]))
far = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda ends: Ports(min(ends), max(ends)))
lists = st.lists(st.one_of(near, far), max_size=60).map(tuple)
narrow = st.lists(near, max_size=60).map(tuple)


def numbers(ports: tuple[Ports, ...] | list[Ports]) -> set[int]:
    return set(chain.from_iterable(range(entry.first, entry.last + 1) for entry in ports))


def ranges(match: DPort | DPorts) -> tuple[Ports, ...]:
    return match.ranges if isinstance(match, DPorts) else (match.ports,)


@settings(deadline=None)
@given(ports=st.one_of(lists, narrow))
def test_the_matches_hold_for_exactly_the_ports_of_the_list(ports: tuple[Ports, ...]) -> None:
    """No port more and none less; each match fits into the kernel's fifteen places."""
    made = list(port_matches(ports))
    assert numbers([entry for match in made for entry in ranges(match)]) == numbers(ports)
    assert all(sum(map(places, ranges(match))) <= 15 for match in made)


@settings(deadline=None)
@given(ports=narrow)
def test_merged_ports_are_ascending_apart_and_the_same(ports: tuple[Ports, ...]) -> None:
    """Neighbours and overlaps are one entry, so no shorter list says the same."""
    joined = merged(ports)
    assert numbers(joined) == numbers(ports)
    assert all(before.last + 1 < after.first for before, after in pairwise(joined))


@settings(deadline=None)
@given(ports=narrow)
def test_a_long_list_needs_few_rules(ports: tuple[Ports, ...]) -> None:
    """No match of a packed list, the last aside, has two places or more to spare."""
    made = list(port_matches(ports))
    if len(ports) > ONE_RULE_EACH:
        assert all(sum(map(places, ranges(match))) >= 14 for match in made[:-1])


def test_a_short_list_reads_as_it_was_written() -> None:
    """One rule for each entry, in its order and once."""
    ports = (Ports.one(15090), Ports.one(22), Ports(5, 9), Ports.one(22))
    assert list(port_matches(ports)) == [DPort(Ports.one(15090)), DPort(Ports.one(22)), DPort(Ports(5, 9))]
    assert len(list(port_matches(tuple(Ports.one(2 * at + 1) for at in range(15))))) == 15
    assert len(list(port_matches(tuple(Ports.one(2 * at + 1) for at in range(16))))) == 2
    assert list(port_matches(())) == []


def test_a_thousand_ports_in_a_row_are_one_rule() -> None:
    """Whatever way they were listed."""
    assert list(port_matches(tuple(map(Ports.one, range(2000, 1000, -1))))) == [DPorts((Ports(1001, 2000),))]


@pytest.mark.parametrize("everything", ["0.0.0.0/0", "::/0"])
def test_all_of_a_family_is_no_match(everything: str) -> None:
    """The kernel would not keep it, and would print a rule other than the one that was asked for."""
    assert going_to(network(everything)) == ()
    assert going_to(network("128.0.0.0/1")) == (Dst(network("128.0.0.0/1")),)
