"""What the kernel tells of nf_tables, from messages as it writes them: which bytes are asked for, and what is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.netlink import nftables
from capture.netlink.messages import NETLINK_NETFILTER, NUMBERS, attribute
from capture.netlink.nftables import NftChain, nft_chains, nft_rules, nft_table_flags, nft_tables
from rules.netfilter.values import Family

if TYPE_CHECKING:
    from collections.abc import Callable

V4, V6 = Family.V4, Family.V6
BRIDGE = 7


def told(number: int, *attributes: tuple[int, bytes]) -> bytes:
    """A message behind its netlink header: struct nfgenmsg, then attributes (linux/netfilter/nfnetlink.h)."""
    return bytes([number, 0, 0, 0]) + b"".join(attribute(kind, value) for kind, value in attributes)


def name(kind: int, value: str) -> tuple[int, bytes]:
    return kind, value.encode() + b"\0"


def number(kind: int, value: int) -> tuple[int, bytes]:
    return kind, value.to_bytes(4, "big", signed=value < 0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes]]:
    """Lets the kernel tell these messages; what it was asked is added to the list."""
    asked: list[bytes] = []

    def tells(*messages: bytes) -> list[bytes]:
        def dump(protocol: int, question: int, payload: bytes) -> list[bytes]:
            assert protocol == NETLINK_NETFILTER
            assert question >> 8 == 10  # NFNL_SUBSYS_NFTABLES
            asked.append(payload)
            return list(messages)

        monkeypatch.setattr(nftables, "dump", dump)
        return asked

    return tells


@pytest.mark.parametrize(
    ("ask", "header"),
    [
        (nft_tables, [0, 0, 0, 0]),
        (nft_chains, [0, 0, 0, 0]),
        (lambda: nft_table_flags(V6, "nat"), [0, 0, 0, 0]),
        (lambda: nft_rules(V4), [NUMBERS[V4], 0, 0, 0]),
        (lambda: nft_rules(V6), [NUMBERS[V6], 0, 0, 0]),
    ],
    ids=["tables", "chains", "flags", "rules of IPv4", "rules of IPv6"],
)
def test_each_question_is_a_whole_header(
    kernel: Callable[..., list[bytes]], ask: Callable[[], object], header: list[int]
) -> None:
    """Of four bytes, with the family first: a shorter one the kernel refuses, and of 0 it tells all families."""
    asked = kernel()
    ask()
    assert asked == [bytes(header)]


def test_tables_stand_with_their_family_and_those_of_others_apart(kernel: Callable[..., list[bytes]]) -> None:
    kernel(
        told(NUMBERS[V4], name(1, "nat"), number(2, 0)),
        told(NUMBERS[V6], name(1, "nat"), number(2, 1)),
        told(NUMBERS[V4], name(1, "raw"), number(2, 0)),
        told(BRIDGE, name(1, "filter"), number(2, 0)),
    )
    assert nft_tables() == ({V4: frozenset({"nat", "raw"}), V6: frozenset({"nat"})}, frozenset({"filter"}))


def test_the_flags_are_of_the_table_asked_for_in_its_family(kernel: Callable[..., list[bytes]]) -> None:
    """One without the attribute has none; one that is not there is told from it."""
    kernel(
        told(BRIDGE, name(1, "nat"), number(2, 4)),
        told(NUMBERS[V6], name(1, "nat"), number(2, 1)),
        told(NUMBERS[V4], name(1, "raw"), number(2, 2)),
        told(NUMBERS[V4], name(1, "nat")),
    )
    tables = [(V6, "nat"), (V4, "raw"), (V4, "nat"), (V6, "raw"), (V4, "filter")]
    assert [nft_table_flags(*table) for table in tables] == [1, 2, 0, None, None]


def test_a_base_chain_has_its_hook_and_another_chain_none(kernel: Callable[..., list[bytes]]) -> None:
    hook = attribute(*number(1, 3)) + attribute(*number(2, -100))
    ours = (name(1, "nat"), name(3, "ISTIO_OUTPUT"), number(2, 9), number(6, 4))
    built_in = (name(1, "nat"), number(2, 3), name(3, "OUTPUT"), (4, hook), number(5, 1), number(6, 2), name(7, "nat"))
    kernel(
        told(NUMBERS[V4], *built_in),
        told(NUMBERS[V4], *ours),
        told(NUMBERS[V6], *ours),
        told(BRIDGE, *ours),
    )
    other = NftChain(4, 9)
    base = NftChain(2, 3, ("nat", 3, -100, 1))
    assert nft_chains() == {(V4, "nat"): {"OUTPUT": base, "ISTIO_OUTPUT": other}, (V6, "nat"): {"ISTIO_OUTPUT": other}}


def test_rules_stand_in_their_chain_in_the_kernels_order(kernel: Callable[..., list[bytes]]) -> None:
    """Chains whose names begin alike, and chains of one name in two tables, are told apart."""
    places = [("nat", "A"), ("nat", "A"), ("nat", "AB"), ("raw", "A"), ("raw", "A")]
    kernel(
        *(
            told(NUMBERS[V4], name(1, table), name(2, chain), (3, at.to_bytes(8, "big")))
            for at, (table, chain) in enumerate(places)
        )
    )
    handles = {place: [int.from_bytes(rule[3], "big") for rule in rules] for place, rules in nft_rules(V4).items()}
    assert handles == {("nat", "A"): [0, 1], ("nat", "AB"): [2], ("raw", "A"): [3, 4]}
