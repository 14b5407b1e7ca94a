"""Lists as few rules: nothing more is asked for, nothing less, and nothing twice."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.addresses import IPv4Network, ip_network
from rules.analysis.reachability import unmet
from rules.lists.networks import fewest, outside
from rules.netfilter.values import Family, Ports
from rules.plan.intent import Intent, Uids
from rules.plan.lists import widest, widest_names
from rules.plan.plan import ruleset
from tests.property.strategies import ipv4_networks, ipv6_networks, port_lists
from tests.rig.chance import share
from tests.rig.work import growth

if TYPE_CHECKING:
    from rules.netfilter.values import Network

near: st.SearchStrategy[Network] = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0x0A000000, 0x0A000020),
    st.integers(26, 32),
)
lists = st.one_of(st.lists(near, max_size=30), st.lists(ipv4_networks, max_size=8), st.lists(ipv6_networks, max_size=8))


def numbers(network: Network) -> range:
    first = int(network.network_address)
    return range(first, first + network.num_addresses)


def networks(*texts: str) -> list[Network]:
    return list(map(ip_network, texts))


@settings(deadline=None)
@given(asked=lists)
def test_as_few_networks_as_there_can_be(asked: list[Network]) -> None:
    """What `ipaddress.collapse_addresses` makes of them, whatever their order."""
    library = [ipaddress.ip_network(str(network)) for network in asked]
    assert sorted(fewest(asked)) == networks(*map(str, ipaddress.collapse_addresses(library)))  # type: ignore[type-var] # of one family each time


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        (("10.2.0.0/16", "10.0.0.0/16", "10.1.0.0/16"), ("10.2.0.0/16", "10.0.0.0/15")),
        (("10.9.0.0/16", "192.0.2.0/24", "10.0.0.0/8"), ("10.0.0.0/8", "192.0.2.0/24")),
        (("192.0.2.3", "10.0.0.0/8", "192.0.2.2", "192.0.2.0/31"), ("192.0.2.0/30", "10.0.0.0/8")),
        (("10.1.0.0/16", "10.2.0.0/16"), ("10.1.0.0/16", "10.2.0.0/16")),
        (("128.0.0.0/1", "0.0.0.0/1"), ("0.0.0.0/0",)),
        (("2001:db8:1::/48", "2001:db8::/48", "::1"), ("2001:db8::/47", "::1")),
        (("10.0.0.1", "10.0.0.1"), ("10.0.0.1",)),
    ],
)
def test_a_network_stands_where_the_first_that_it_holds_was_given(
    asked: tuple[str, ...], left: tuple[str, ...]
) -> None:
    """A list without neighbours reads as it was written."""
    assert fewest(networks(*asked)) == networks(*left)


@settings(deadline=None)
@given(asked=st.lists(near, max_size=12), others=st.lists(near, max_size=12))
def test_what_others_hold_whole_is_left_out(asked: list[Network], others: list[Network]) -> None:
    """Whole, be it in one of the others or in several that adjoin."""
    held = {number for other in others for number in numbers(other)}
    assert outside(asked, others) == [each for each in asked if not held.issuperset(numbers(each))]


ranges = st.tuples(st.integers(1, 40), st.integers(0, 9)).map(lambda it: Ports(it[0], it[0] + it[1]))


@settings(deadline=None)
@given(asked=st.lists(ranges, max_size=12), but=st.lists(ranges, max_size=4))
def test_a_range_that_another_holds_is_left_out(asked: list[Ports], but: list[Ports]) -> None:
    """Each that is left stands alone; what is gone is in one of those that are left, or was decided before."""
    left = widest(asked, but)
    assert [each for each in dict.fromkeys(asked) if each in left] == left

    def holds(wide: Ports, narrow: Ports) -> bool:
        return wide.first <= narrow.first and narrow.last <= wide.last

    for each in asked:
        others = [other for other in (*left, *but) if other is not each and holds(other, each)]
        assert (each in left) is (not [other for other in others if other != each or other in but])


def test_users_and_interfaces() -> None:
    """A range of users holds a user, a prefix the names that begin so."""
    assert widest([Uids(5, 5), Uids(1, 9), Uids(20, 20)], [Uids(20, 20)]) == [Uids(1, 9)]
    assert widest_names(["eth0", "eth+", "lo", "eth1+", "lo"]) == ["eth+", "lo"]


@settings(deadline=None, max_examples=share(240))
@given(
    included=st.lists(near, min_size=1, max_size=6),
    excluded=st.lists(near, max_size=6),
    ports=port_lists,
    more_ports=port_lists,
)
def test_no_rule_of_a_list_is_in_vain(
    included: list[Network], excluded: list[Network], ports: tuple[Ports, ...], more_ports: tuple[Ports, ...]
) -> None:
    """Of the destinations, each rule is met by some packet. Of the ports, each that no single other list decides."""
    intent = Intent(outbound_cidrs=tuple(included), outbound_cidrs_exclude=tuple(excluded))
    assert [it for it in unmet(ruleset(intent, Family.V4)) if it.rule.setting.startswith("outbound_cidrs")] == []
    intent = Intent(outbound_ports=ports, outbound_ports_exclude=more_ports[:15], outbound_cidrs=())
    in_vain = [it for it in unmet(ruleset(intent, Family.V4)) if it.rule.setting == "outbound_ports"]
    assert all(len(ports) > 15 or len(it.by) > 1 for it in in_vain)


def test_many_networks_are_merged_in_as_many_steps() -> None:
    """Every other /32, and all of them twice: one rule each, and then one; the work does not grow with the square."""

    def apart(size: int) -> list[Network]:
        return [IPv4Network((0x0A000000 + 2 * at, 32)) for at in range(size)]

    def doubled(size: int) -> list[Network]:
        return [IPv4Network((0x0A000000 + at % size, 32)) for at in range(2 * size)]

    assert fewest(apart(5000)) == apart(5000)
    assert fewest(doubled(4096)) == networks("10.0.0.0/20")
    for networks_of in (apart, doubled):
        assert growth(fewest, networks_of(1024), networks_of(2048)) < 2.5
