"""From sockets to connections."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address
from rules.connections.captured import UNANSWERED, Entry, is_half_open
from rules.connections.flow import (
    CLOSE_WAIT,
    ESTABLISHED,
    LISTEN,
    SYN_SENT,
    TCP,
    TIME_WAIT,
    Flow,
    Socket,
    connections,
)
from rules.iptables import reading
from rules.meaning.tracking import needs_conntrack
from rules.netfilter.effects import Nothing
from rules.netfilter.matches import Native
from rules.netfilter.rulesets import Rule
from rules.netfilter.targets import NativeTarget
from rules.netfilter.values import Family


def flow(source: int, destination: int) -> Flow:
    return Flow(TCP, ip_address("10.0.0.1"), source, ip_address("10.0.0.2"), destination)


@pytest.mark.parametrize("state", [ESTABLISHED, SYN_SENT, CLOSE_WAIT])
def test_a_connection_went_to_the_port_that_somebody_listens_on(state: int) -> None:
    """What was accepted began at the peer; all else began here."""
    sockets = [Socket(flow(80, 0), LISTEN), Socket(flow(80, 5000), state), Socket(flow(5001, 80), state)]
    assert list(connections(sockets)) == [(flow(80, 5000).answered(), state), (flow(5001, 80), state)]


def test_what_has_ended_and_what_listens_is_not_open() -> None:
    """A listener, a socket that waits for late packets, and one of UDP that is not connected (7)."""
    assert list(connections([Socket(flow(80, 0), LISTEN), Socket(flow(1, 2), TIME_WAIT), Socket(flow(3, 0), 7)])) == []


HERE, CALLER = ip_address("10.0.0.2"), ip_address("10.0.0.1")
WAITING = Entry(flow(5000, 80), flow(5000, 80).answered(), UNANSWERED)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (WAITING, True),
        (WAITING.but(state=3), False),
        (WAITING.but(answers=flow(5000, 15006).answered()), False),
        (WAITING.but(began=WAITING.answers, answers=WAITING.began), False),
        (WAITING.but(began=WAITING.began.but(protocol=17)), False),
    ],
    ids=["inbound", "answered", "redirected", "outbound", "udp"],
)
def test_half_open_is_what_came_from_outside_and_nobody_has_answered(entry: Entry, *, expected: bool) -> None:
    """And what no rule has sent elsewhere, in a family that is asked about."""
    assert is_half_open(entry, {HERE}, {Family.V4}) is expected
    assert not is_half_open(entry, {HERE}, {Family.V6})
    assert not is_half_open(entry, {HERE, CALLER}, {Family.V4})


NEEDING = """\
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate NEW --ctproto 6 -j ACCEPT
-A INPUT -m state --state NEW -j ACCEPT
-A INPUT -p tcp -m tcp --dport 3 -m connlimit --connlimit-above 2 -j DROP
-A INPUT -p tcp -m connmark ! --mark 0x5 -j ACCEPT
-A INPUT -j CONNMARK --save-mark --nfmask 0x1 --ctmask 0x2
-A INPUT -j CT --helper ftp
-A INPUT -j CT --zone 7
-A INPUT -j MASQUERADE
-A INPUT -p tcp -j REDIRECT --to-ports 15001
-A INPUT -p tcp -j DNAT --to-destination 192.0.2.1:80
"""
DOING_WITHOUT = """\
-A INPUT -m comment --comment "-m state ct dnat" -j ACCEPT
-A INPUT -j MARK --set-xmark 0x1/0x2
-A INPUT -j CT --notrack
-A INPUT -j NOTRACK
-A INPUT -p tcp -m owner --uid-owner 7 -j RETURN
-A INPUT -p tcp -m multiport --dports 80,443 -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff
"""


def rules(lines: str) -> list[Rule]:
    (table,) = reading.tables(f"*filter\n:INPUT ACCEPT [0:0]\n{lines}COMMIT\n")
    return [rule for block in table.blocks for rule in block.rules]


def test_which_rules_switch_conntrack_on() -> None:
    """Those with a match or a target that needs it, whoever wrote them; the word in a comment is none."""
    assert all(map(needs_conntrack, rules(NEEDING)))
    assert not any(map(needs_conntrack, rules(DOING_WITHOUT)))
    for text in ("ct state established", "dnat to 192.0.2.1", "meta mark set ct mark", "redirect to :90", "masquerade"):
        assert needs_conntrack(Rule((), NativeTarget(Nothing(), text)))
    assert not needs_conntrack(Rule((Native((), "tcp dport 80"),), NativeTarget(Nothing(), "notrack")))
