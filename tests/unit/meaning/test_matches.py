"""What our own matches ask of a packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.addresses import ip_network
from rules.meaning.spoken import conditions
from rules.netfilter import fields as f
from rules.netfilter import matches as m
from rules.netfilter.spans import one
from rules.netfilter.values import Ports

if TYPE_CHECKING:
    from rules.netfilter.spans import Span

NETWORK = ip_network("10.0.0.0/30")
FIRST = 10 << 24


@pytest.mark.parametrize(
    ("match", "field", "span"),
    [
        (m.Src(NETWORK), f.SOURCE, (FIRST, FIRST + 4)),
        (m.Dst(NETWORK), f.DESTINATION, (FIRST, FIRST + 4)),
        (m.InIface("eth0"), f.ARRIVED_ON, one("eth0")),
        (m.OutIface("eth0"), f.LEAVES_ON, one("eth0")),
        (m.DPort(Ports(80, 82)), f.DPORT, (80, 83)),
        (m.SPort(Ports(80, 82)), f.SPORT, (80, 83)),
        (m.DPorts((Ports(90, 90), Ports(80, 81))), f.DPORT, (80, 82, 90, 91)),
        (m.OwnerUid(1337), f.UID, (1337, 1338)),
        (m.OwnerUids(5, 7), f.UID, (5, 8)),
        (m.OwnerGid(1337), f.GID, (1337, 1338)),
        (m.Mark(7), f.MARK, (7, 8)),
        (m.ConnMark(7), f.CONNMARK, (7, 8)),
    ],
    ids=lambda it: type(it).__name__,
)
def test_each_match_asks_its_own_field_for_all_that_it_names(match: m.Match, field: int, span: Span) -> None:
    assert conditions(match) == (f.Among(field, span),)


def test_a_limit_cannot_be_told() -> None:
    assert conditions(m.Limit("1/sec")) == (f.Untold("-m limit --limit 1/sec"),)


def test_a_protocol_is_known_by_name_or_number() -> None:
    """A name that nobody knows is a question that cannot be answered."""
    assert conditions(m.Proto("tcp")) == conditions(m.Proto("6")) == (f.Among(f.PROTOCOL, one(6)),)
    assert conditions(m.Proto("nonesuch")) == (f.Untold("-p nonesuch"),)
