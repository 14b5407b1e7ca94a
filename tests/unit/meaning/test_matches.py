"""What our own matches ask of a packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.addresses import ip_network
from rules.meaning.spoken import conditions
from rules.netfilter.fields import (
    ARRIVED_ON,
    CONNMARK,
    DESTINATION,
    DPORT,
    GID,
    LEAVES_ON,
    MARK,
    PROTOCOL,
    SOURCE,
    SPORT,
    UID,
    Among,
    Untold,
)
from rules.netfilter.matches import (
    ConnMark,
    DPort,
    DPorts,
    Dst,
    InIface,
    Limit,
    Mark,
    OutIface,
    OwnerGid,
    OwnerUid,
    OwnerUids,
    Proto,
    SPort,
    Src,
)
from rules.netfilter.spans import one
from rules.netfilter.values import Ports

if TYPE_CHECKING:
    from rules.netfilter.matches import Match
    from rules.netfilter.spans import Span

NETWORK = ip_network("10.0.0.0/30")
FIRST = 10 << 24


@pytest.mark.parametrize(
    ("match", "field", "span"),
    [
        (Src(NETWORK), SOURCE, (FIRST, FIRST + 4)),
        (Dst(NETWORK), DESTINATION, (FIRST, FIRST + 4)),
        (InIface("eth0"), ARRIVED_ON, one("eth0")),
        (OutIface("eth0"), LEAVES_ON, one("eth0")),
        (DPort(Ports(80, 82)), DPORT, (80, 83)),
        (SPort(Ports(80, 82)), SPORT, (80, 83)),
        (DPorts((Ports(90, 90), Ports(80, 81))), DPORT, (80, 82, 90, 91)),
        (OwnerUid(1337), UID, (1337, 1338)),
        (OwnerUids(5, 7), UID, (5, 8)),
        (OwnerGid(1337), GID, (1337, 1338)),
        (Mark(7), MARK, (7, 8)),
        (ConnMark(7), CONNMARK, (7, 8)),
    ],
    ids=lambda it: type(it).__name__,
)
def test_each_match_asks_its_own_field_for_all_that_it_names(match: Match, field: int, span: Span) -> None:
    assert conditions(match) == (Among(field, span),)


def test_a_limit_cannot_be_told() -> None:
    assert conditions(Limit("1/sec")) == (Untold("-m limit --limit 1/sec"),)


def test_a_protocol_is_known_by_name_or_number() -> None:
    """A name that nobody knows is a question that cannot be answered."""
    assert conditions(Proto("tcp")) == conditions(Proto("6")) == (Among(PROTOCOL, one(6)),)
    assert conditions(Proto("nonesuch")) == (Untold("-p nonesuch"),)
