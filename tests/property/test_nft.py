"""Whatever the kernel tells of nf_tables is read: what is not understood is not told, and nothing ends a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from rules.iptables.writing import rule_text
from rules.netfilter.values import Family
from rules.nftables.tables import native_tables
from rules.simulator.simulate import in_any_order
from tests.rig.chance import share
from tests.unit.nftables.test_nft import HERE, IN, OUT, recorded

if TYPE_CHECKING:
    from random import Random

    from rules.nftables.messages import Dump

KINDS = ("tables", "chains", "rules", "sets", "elements")
TELLING = (0, 1, 2, 3, 5, 7, 8, 16, 255)
"""Numbers by which a length, a type, a register or an operator becomes another that exists."""


def mutated(message: bytes, chance: Random) -> bytes:
    """The message with some bytes changed, cut off, or put in."""
    changed = bytearray(message)
    match chance.randrange(4):
        case 0 | 1:
            for _ in range(chance.randint(1, 4)):
                changed[chance.randrange(4, len(changed))] = chance.choice((*TELLING, chance.randrange(256)))
        case 2:
            del changed[chance.randrange(len(changed)) :]
        case _:
            at = chance.randrange(len(changed))
            changed[at:at] = bytes(chance.randrange(256) for _ in range(4))
    return bytes(changed)


def told(chance: Random) -> Dump:
    dump = recorded()
    changed = {
        kind: tuple(mutated(each, chance) if chance.random() < 0.2 else each for each in getattr(dump, kind))
        for kind in KINDS
    }
    return dump.but(**changed)


@settings(max_examples=share(60), deadline=None)
@given(st.randoms(use_true_random=False))
def test_messages_that_nobody_expects_are_read(chance: Random) -> None:
    """And packets are followed through what was read."""
    dump = told(chance)
    for family in Family:
        natives = native_tables(dump, family)
        assert all(isinstance(rule_text(rule), str) for table in natives for _, rules in table.chains for rule in rules)
        if family is Family.V4:
            for packet in (OUT, IN, OUT.but(port=22), OUT.but(protocol="udp", port=53)):
                in_any_order((), packet, HERE, natives)
