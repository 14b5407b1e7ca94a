"""What the targets of others do, by the words that iptables prints."""

from __future__ import annotations

import pytest

from rules.meaning.foreign import target_meaning
from rules.netfilter.effects import Forget, Nothing, NoTrack, Remark, Retag, Unknown
from rules.netfilter.fields import CONNMARK, MARK
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
        ("-j MARK --set-xmark 0x1/0xff", Remark(MARK, 0xFFFFFF00, 0, 1)),
        ("-j MARK --set-mark 0x1/0xf0", Remark(MARK, 0xFFFFFF0E, 0, 1)),
        ("-j MARK --set-mark 5", Remark(MARK, 0, 0, 5)),
        ("-j MARK --and-mark 0xf0", Remark(MARK, 0xF0, 0, 0)),
        ("-j MARK --or-mark 0x3", Remark(MARK, 0xFFFFFFFC, 0, 3)),
        ("-j MARK --xor-mark 0x3", Remark(MARK, 0xFFFFFFFF, 0, 3)),
        ("-j MARK --other-mark 0x3", Unknown("-j MARK --other-mark 0x3")),
        ("-j CONNMARK --set-mark 5", Remark(CONNMARK, 0, 0, 5)),
        ("-j CONNMARK --save-mark", Remark(CONNMARK, 0, 0xFFFFFFFF, 0)),
        ("-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff", Remark(CONNMARK, 0xFFFFFF00, 0xF, 0)),
        ("-j CONNMARK --restore-mark --mask 0xff", Remark(MARK, 0xFFFFFF00, 0xFF, 0)),
        ("-j CONNMARK --save-mark --left-shift-mark 2", Forget(CONNMARK)),
        ("-j CONNMARK --restore-mark --right-shift-mark 2", Forget(MARK)),
    ],
)
def test_what_a_target_does(words: str, does: object) -> None:
    """As far as it decides where a packet goes, or what a later rule finds."""
    assert target_meaning(words.split()) == does
