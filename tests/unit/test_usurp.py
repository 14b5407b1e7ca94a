"""Which rules of others, above a jump of ours, could take its traffic."""

from __future__ import annotations

import pytest

from rules.live.precedence import usurps
from rules.netfilter.iptables_parse import tables

CHAINS = """\
:TAKES - [0:0]
:LETS_BE - [0:0]
:DEEP - [0:0]
:UDP - [0:0]
-A TAKES -d 10.0.0.0/8 -j REDIRECT --to-ports 9
-A LETS_BE -d 10.0.0.0/8 -j RETURN
-A LETS_BE -j MARK --set-xmark 0x1/0xffffffff
-A LETS_BE -j DROP
-A DEEP -s 10.0.0.0/8 -j TAKES
-A UDP -p udp -j ACCEPT
"""
OURS = "-p tcp"
TAKES = [
    "-j ACCEPT",
    "-j RETURN",
    "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9",
    "-d 192.0.2.1/32 -j DNAT --to-destination 192.0.2.2:80",
    "! -p udp -j ACCEPT",
    "-m set --match-set some src -j ACCEPT",
    "-m owner --uid-owner 5 -j ACCEPT",
    "-j NFQUEUE --queue-num 0",
    "-g LETS_BE",
    "-j TAKES",
    "-j DEEP",
]
LETS_BE = [
    "-p udp -j ACCEPT",
    "-p udp -m udp --dport 53 -j RETURN",
    "! -p tcp -j ACCEPT",
    "-j LETS_BE",
    "-j UDP",
    "-j DROP",
    "-p tcp -j REJECT --reject-with tcp-reset",
    "-j MARK --set-xmark 0x1/0xffffffff",
    '-j LOG --log-prefix "x: "',
    "-j TCPMSS --clamp-mss-to-pmtu",
    "-m comment --comment counts",
]


def is_in_the_way(theirs: str, ours: str = OURS) -> bool:
    text = f"*nat\n{CHAINS}-A OUTPUT {theirs}\n-A OUTPUT {ours} -j TAKES\nCOMMIT\n"
    (table,) = tables(text)
    first, second = table.chains()["OUTPUT"]
    return usurps(table, first, second)


@pytest.mark.parametrize("rule", TAKES)
def test_a_verdict_about_some_of_our_packets_takes_them(rule: str) -> None:
    """In the rule itself or in a chain that it leads to. What may match, by a match that we do not speak, counts."""
    assert is_in_the_way(rule)


@pytest.mark.parametrize("rule", LETS_BE)
def test_what_decides_nothing_about_our_packets_is_not_in_the_way(rule: str) -> None:
    """Other packets, no verdict, a RETURN to where the walk goes on, or an end that lets nothing escape."""
    assert not is_in_the_way(rule)


@pytest.mark.parametrize(
    ("theirs", "ours", "both"),
    [
        ("-d 10.1.0.0/16", "-d 10.0.0.0/8", True),
        ("-d 10.1.0.0/16", "-d 10.2.0.0/16", False),
        ("-s 10.1.0.0/16", "-d 10.2.0.0/16", True),
        ("! -d 10.0.0.0/8", "-d 10.1.0.0/16", False),
        ("! -d 10.1.0.0/16", "-d 10.0.0.0/8", True),
        ("-o eth0", "-o eth1", False),
        ("-o eth+", "-o eth1", True),
        ("-p tcp -m tcp --dport 80", "-p tcp -m tcp --dport 1:79", False),
        ("-p tcp -m tcp --dport 80", "-p tcp -m multiport --dports 1,80", True),
        ("-p tcp -m tcp ! --dport 1:100", "-p tcp -m tcp --dport 80", False),
        ("-p tcp -m tcp --sport 80", "-p tcp -m tcp --sport 81", False),
        ("-m owner --uid-owner 1-9", "-m owner --uid-owner 5", True),
        ("-m owner ! --uid-owner 1-9", "-m owner --uid-owner 5", False),
        ("-m owner --gid-owner 1", "-m owner --gid-owner 2", False),
        ("-m mark --mark 0x1", "-m mark --mark 0x2", False),
        ("-m conntrack --ctstate NEW,RELATED", "-m conntrack --ctstate INVALID", False),
        ("-m conntrack ! --ctstate INVALID", "-m conntrack --ctstate INVALID", False),
    ],
)
def test_whether_a_packet_can_meet_both(theirs: str, ours: str, both: bool) -> None:
    """Told from every pair of matches, whichever of the two rules asks what."""
    assert is_in_the_way(f"{theirs} -j ACCEPT", ours) is both
    assert is_in_the_way(f"{ours} -j ACCEPT", theirs) is both


def test_chains_that_jump_in_a_circle_end_somewhere() -> None:
    """The kernel refuses them; text from elsewhere may have one."""
    text = "*nat\n:A - [0:0]\n:B - [0:0]\n-A OUTPUT -j A\n-A OUTPUT -p tcp -j B\n-A A -j B\n-A B -j A\nCOMMIT\n"
    (table,) = tables(text)
    first, second = table.chains()["OUTPUT"]
    assert not usurps(table, first, second)
