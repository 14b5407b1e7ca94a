"""What the targets of others do, by the words that iptables prints."""

from __future__ import annotations

import pytest

from rules.meaning.foreign import target_meaning
from rules.netfilter.effects import Nothing, NoTrack, Retag, Unknown
from rules.netfilter.targets import Zone


@pytest.mark.parametrize(
    ("words", "does"),
    [
        ("", Nothing()),
        ("-j CT --zone 7", Zone(7)),
        ("-j CT --zone 0", Nothing()),
        ("-j CT --notrack", NoTrack()),
        ("-j NOTRACK", NoTrack()),
        ("-j CT --helper ftp", Nothing()),
        ("-j LOG --log-prefix x", Nothing()),
        ("-j TTL --ttl-set 9", Nothing()),
        ("-j DSCP --set-dscp 0x0a", Retag("-j DSCP --set-dscp 0x0a")),
        ("-j DSCP --set-dscp 0x00", Nothing()),
        ("-j TOS --set-tos 0x00/0xff", Nothing()),
        ("-j HL --hl-set 9", Retag("-j HL --hl-set 9")),
        ("-j SYNPROXY", Unknown("-j SYNPROXY")),
    ],
)
def test_what_a_target_does(words: str, does: object) -> None:
    """As far as it decides where a packet goes, or what a later rule finds."""
    assert target_meaning(words.split()) == does
