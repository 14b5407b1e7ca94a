"""What our own matches ask of a packet."""

from __future__ import annotations

from rules.meaning.spoken import conditions
from rules.netfilter.fields import PROTOCOL, Among, Untold
from rules.netfilter.matches import Proto
from rules.netfilter.spans import one


def test_a_protocol_is_known_by_name_or_number() -> None:
    """A name that nobody knows is a question that cannot be answered."""
    assert conditions(Proto("tcp")) == conditions(Proto("6")) == (Among(PROTOCOL, one(6)),)
    assert conditions(Proto("nonesuch")) == (Untold("-p nonesuch"),)
