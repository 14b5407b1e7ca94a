"""What was read once is not read again, unless it means something else here."""

from __future__ import annotations

from rules.iptables.reading import tables
from rules.netfilter.targets import ForeignTarget, Jump

TEXT = """*nat
{}
-A OUTPUT -d 192.0.2.1/32 -p tcp -j TTL
COMMIT
"""


def test_rules_that_read_the_same_are_the_same_values() -> None:
    """Reading back what hardly differs costs little: neither parsing nor comparing."""
    first, again = (tables(TEXT.format(":TTL - [0:0]"))[0].blocks[0].rules[0] for _ in range(2))
    assert first is again


def test_words_are_read_anew_where_the_name_behind_j_is_a_chain_or_no_longer_one() -> None:
    """`-j TTL` is a jump where there is a chain of that name, and the target of that name elsewhere."""
    found = [tables(TEXT.format(declared))[0].blocks[0].rules[0].target for declared in ("", ":TTL - [0:0]", "")]
    assert found == [ForeignTarget("-j TTL"), Jump("TTL"), ForeignTarget("-j TTL")]
