"""Long lists: what is kept as numbers, or made when it is asked for, is what a tuple of the same values would be."""

from __future__ import annotations

import pickle
from sys import getsizeof
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.settings.parsers import cidrs
from rules.addresses import IPv4Network
from rules.iptables import reading
from rules.iptables.printed import Expected
from rules.iptables.writing import appending, restore_rule
from rules.lists import joined
from rules.lists.long import Joined, Lines, Long, Made, Read, lots
from rules.lists.networks import MANY, Networks, code_of, fewest, network_of, outside, text_of
from rules.live.changes import changes, restore_text
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family, network
from rules.plan.intent import Intent
from rules.plan.names import OURS
from rules.plan.plan import ruleset
from tests.property.strategies import ipv4_networks, ipv6_networks
from tests.rig.work import growth, lines_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.netfilter.values import Network

FEW_BYTES = 40
"""A network of a list as it is kept, at most; as an object it takes 190."""


def listed(count: int) -> tuple[Network, ...]:
    """So many networks that no two can be merged."""
    return tuple(IPv4Network((0x0A000000 + 512 * at, 24)) for at in range(count))


def planned(networks: Sequence[Network], **more: Any) -> Ruleset:
    return ruleset(Intent(outbound_cidrs_exclude=networks, **more), Family.V4)


def kept(networks: Sequence[Network]) -> Networks:
    return Networks(map(code_of, networks))


@given(network=st.one_of(ipv4_networks, ipv6_networks))
def test_a_network_and_its_number(network: Network) -> None:
    """A number is one network's, which reads as it does."""
    assert network_of(code_of(network)) == network
    assert text_of(code_of(network)) == str(network)


@given(
    st.one_of(st.lists(ipv4_networks, max_size=12), st.lists(ipv6_networks, max_size=12)),
    st.lists(ipv4_networks, max_size=3),
)
def test_many_networks_are_a_tuple_of_them(networks: list[Network], others: list[Network]) -> None:
    """Equal to it, hashed like it, and what is left of them is the same."""
    many = kept(networks)
    assert many == tuple(networks) == tuple(many)
    assert hash(many) == hash(tuple(networks))
    assert pickle.loads(pickle.dumps(many)) == many  # noqa: S301 # our own
    assert tuple(fewest(many)) == tuple(fewest(networks))
    of_one = [each for each in networks if each.version == 4]
    assert tuple(many.of(4)) == tuple(dict.fromkeys(of_one))
    assert tuple(outside(kept(of_one), others)) == tuple(outside(of_one, others))


def test_a_list_is_kept_as_numbers_from_a_length_on() -> None:
    """The reader of networks gives the same entries either way, also with host bits, bare addresses, and IPv6."""
    texts = ["10.1.2.3/8", "192.0.2.1", "2001:db8::5/32", "::1", *map(str, listed(MANY))]
    many, few = cidrs(",".join(texts)), cidrs(",".join(texts[:4]))
    assert isinstance(many, Networks)
    assert few == many[:4]
    assert few == tuple(map(network, ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128")))


@pytest.mark.parametrize(
    "wrong", ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0", "::1/129", "fe80::1%lo", "1.2.3.04", "*", "a"]
)
def test_a_long_list_is_refused_by_the_same_words(wrong: str) -> None:
    """The entry is named, whether it stands in a short list or a long one."""
    said = []
    for count in (2, MANY):
        with pytest.raises(ValueError, match=r"network|everything") as refused:
            cidrs(",".join([*map(str, listed(count)), wrong]))
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert wrong in said[0]


@given(st.lists(st.integers(0, 9), max_size=9), st.lists(st.integers(0, 9), max_size=4))
def test_what_is_made_when_asked_for_is_a_tuple(items: list[int], behind: list[int]) -> None:
    """By length, values, places, equality and hash; and whoever goes through it again finds the same objects."""
    made: Made[str] = Made(items, lambda item: f"value {item}")
    whole = joined(made, map("value {}".format, behind))
    expected = tuple(f"value {item}" for item in [*items, *behind])
    assert isinstance(whole, Long)
    assert whole == expected == tuple(whole)
    assert (len(whole), hash(whole), whole[1:3]) == (len(expected), hash(expected), expected[1:3])
    assert all(one is other for one, other in zip(whole, whole, strict=True))
    assert whole != (*expected, "more")
    assert sum(count for _, count in lots(whole)) == len(whole)
    read = Read(whole, str.upper)
    assert tuple(read) == tuple(map(str.upper, expected)) == tuple(each for part in read.parts() for each in part)
    text = "".join(f"{value}\n" for value in expected)
    assert Lines(f"before\n{text}behind", 7, 7 + len(text), len(expected)) == expected


@pytest.mark.parametrize("more", [{}, {"interception_mode": "TPROXY"}, {"redirect_dns": True, "capture_all_dns": True}])
@pytest.mark.parametrize("field", ["outbound_cidrs_exclude", "exclude_inbound_cidrs", "outbound_cidrs"])
def test_a_plan_is_the_same_whatever_keeps_its_list(field: str, more: dict[str, Any]) -> None:
    """The same rules, and the same text, to the letter."""
    asked: list[dict[str, Any]] = [{field: given, **more} for given in (listed(100), kept(listed(100)))]
    few, many = (ruleset(Intent(**each), Family.V4) for each in asked)
    assert few == many
    texts = [restore_text(changes(Ruleset(Family.V4), each)) for each in (few, many)]
    assert texts[0] == texts[1]
    for table in many.tables:
        for chain, rules in table.chains().items():
            lines = "\n".join(appending(chain, rules, restore_rule)).split("\n")
            assert lines == [f"-A {chain} {restore_rule(rule)}" for rule in rules]


def saved(held: Ruleset) -> str:
    """What iptables-save prints of it, as far as its reader looks."""
    text = ""
    for table in held.tables:
        text += f"*{table.table}\n:OUTPUT ACCEPT [0:0]\n" + "".join(f":{chain} - [0:0]\n" for chain in table.declared)
        for chain, rules in table.chains().items():
            text += "".join(f"{line}\n" for line in appending(chain, rules, restore_rule))
        text += "COMMIT\n"
    return text


CHANGED = [
    lambda text: text,
    lambda text: text.replace("10.0.4.0/24 -j RETURN", "10.0.4.0/24 -j DROP"),
    lambda text: text.replace("-A ISTIO_OUTPUT -d 10.0.4.0/24 -j RETURN\n", ""),
    lambda text: text.replace(
        "-A ISTIO_OUTPUT -d 10.0.4.0/24", '-A ISTIO_OUTPUT -m comment --comment "a\nb" -d 10.0.4.0/24'
    ),
    lambda text: text.replace("COMMIT", "-A ISTIO_OUTPUT\nCOMMIT"),
    lambda text: text.replace("COMMIT", "-A ISTIO_OUTPUT -j DROP\nCOMMIT"),
    lambda text: text.replace(":ISTIO_REDIRECT - [0:0]\n", ""),
    lambda text: text.replace(":OUTPUT", ":RETURN - [0:0]\n:OUTPUT"),
    lambda text: text.replace("-d 10.0.4.0/24 -j", "-d nonsense -j"),
    lambda text: text.replace("COMMIT", "-A OTHERS -d 1.2.3.4/32 -j RETURN\nCOMMIT"),
]


@pytest.mark.parametrize("count", [5, 200])
@pytest.mark.parametrize("change", range(len(CHANGED)))
def test_what_is_expected_is_read_as_without_it(count: int, change: int) -> None:
    """The same values and texts, rule by rule, whether all is as planned or a part, or the list is another."""
    wanted = planned(kept(listed(count)))
    text = CHANGED[change](saved(wanted))
    plain = reading.tables(text)
    for expected in (wanted, planned(kept(listed(count + 70))), Ruleset(Family.V4)):
        told = reading.tables(text, Expected(expected, OURS))
        assert told == plain
        for one, other in zip(told, plain, strict=True):
            assert one.declared == other.declared
            for chain, rules in other.chains().items():
                # `-m tcp` is the kernel's own spelling: here the text is ours.
                assert [it.target for it in one.chains()[chain]] == [it.target for it in rules]
                assert [it.why for it in one.chains()[chain]] == [it.why for it in rules]


def test_a_long_list_that_reads_as_planned_is_not_taken_apart() -> None:
    """Twice the list is less than twice the lines that run: what comes of it is one comparison of two texts."""

    def read(count: int) -> None:
        wanted = planned(kept(listed(count)))
        (nat,) = reading.tables(saved(wanted), Expected(wanted, OURS))
        assert not changes(Ruleset(Family.V4, (nat,)), wanted)

    assert growth(read, 1_000, 2_000) < 2.1
    wanted = planned(kept(listed(2_000)))
    text, expected = saved(wanted), Expected(wanted, OURS)
    assert lines_run(lambda: reading.tables(text, expected)) < 12 * 2_000


def test_a_long_list_takes_little_memory() -> None:
    """Neither networks nor rules of it are objects, until somebody asks for them."""
    many = kept(listed(1_000))
    assert sum(map(getsizeof, (many.codes, *many.codes))) <= FEW_BYTES * 1_000 + getsizeof(())
    (outbound,) = (rules for chain, rules in planned(many).table("nat").chains().items() if chain == "ISTIO_OUTPUT")
    assert isinstance(outbound, Joined)
    assert not any(hasattr(part, "kept") for part in (outbound, *outbound.parts))
