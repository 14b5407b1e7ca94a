"""Rules in words, to the letter."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address
from rules.iptables.reading import tables
from rules.iptables.words import becomes, listed, port_words, rule_words
from rules.netfilter.targets import Dnat, Redirect

SAID: list[tuple[str, str]] = [
    ("-p tcp --dport 22 -j RETURN", "TCP to port 22 is let go"),
    ("-j RETURN", "everything is let go"),
    ("! -p tcp -j DROP", "everything but TCP is dropped"),
    ("-p 47 -j ACCEPT", "protocol 47 is let through"),
    (
        "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j OURS",
        "TCP over lo by uid 1337, not to 127.0.0.1, not to port 15008, is sent to OURS",
    ),
    (
        "-m owner ! --uid-owner 1 -m owner ! --gid-owner 2 -j RETURN",
        "everything, not by uid 1, not by gid 2, is let go",
    ),
    ("-m owner --uid-owner 1000-2000 -j RETURN", "everything by uids 1000 to 2000 is let go"),
    (
        "-p udp -d 10.0.0.10/32 --dport 53 -j REDIRECT --to-ports 15053",
        "UDP to 10.0.0.10 port 53 goes to port 15053 on this host",
    ),
    (
        "-p udp -s fd00::/8 --sport 53 -j CT --zone 1",
        "UDP from fd00::/8 port 53 is kept in conntrack zone 1, and goes on",
    ),
    ("-p udp -s 10.0.0.1/32 --dport 53 -j DROP", "UDP from 10.0.0.1 to port 53 is dropped"),
    (
        "-p tcp -m multiport --dports 22,80,8000:8080 -j RETURN",
        "TCP to ports 22, 80 and 8000 to 8080 is let go",
    ),
    ("-p tcp --dport 8000:8080 -j RETURN", "TCP to ports 8000 to 8080 is let go"),
    ("-i eth+ -j RETURN", "everything that came in on an interface eth… is let go"),
    ("-o eth0 -j RETURN", "everything that leaves on eth0 is let go"),
    ("-m conntrack --ctstate INVALID -j DROP", "everything that conntrack cannot place is dropped"),
    (
        "-m mark --mark 0x539 -j CONNMARK --save-mark",
        "everything with mark 0x539 has its connection remember its mark, and goes on",
    ),
    (
        "-m connmark --mark 0x539 -j CONNMARK --restore-mark",
        "everything whose connection has mark 0x539 gets the mark of its connection, and goes on",
    ),
    (
        "-p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff",
        "TCP goes unchanged to the listener on port 15006, with mark 0x539",
    ),
    ("-j MARK --set-xmark 0x53a/0xffffffff", "everything gets mark 0x53a, and goes on"),
    ("-p tcp -j REJECT --reject-with tcp-reset", "TCP is refused with a reset"),
    ("-p udp -j REJECT --reject-with icmp-port-unreachable", "UDP is refused with an ICMP error"),
    (
        "-m limit --limit 10/sec -j LOG --log-prefix a: --log-uid",
        'everything up to 10/sec is logged as "a:", and goes on',
    ),
    ("-j NFLOG --nflog-group 5 --nflog-prefix a:", 'everything is logged to nflog group 5 as "a:", and goes on'),
    (
        "-m comment --comment x -j MASQUERADE",
        "everything for which `-m comment --comment x` holds meets `-j MASQUERADE`",
    ),
    ("-p icmp", "ICMP is counted, and goes on"),
]


@pytest.mark.parametrize(("rule", "words"), SAID, ids=[rule for rule, _ in SAID])
def test_a_rule_is_said_in_words(rule: str, words: str) -> None:
    """One sentence: what it asks for, and what becomes of that."""
    (table,) = tables(f"*nat\n:OURS - [0:0]\n-A OURS {rule}\nCOMMIT\n")
    assert rule_words(table.blocks[0].rules[0]) == words


def test_targets_that_save_text_does_not_have_here() -> None:
    """DNAT has an address."""
    assert becomes(Dnat(ip_address("10.0.0.9"), 53)) == "goes to 10.0.0.9 port 53"
    assert becomes(Redirect(1)) == "goes to port 1 on this host"


def test_lists_are_counted_where_they_are_long() -> None:
    """One more than the most is named, for it takes no more room than its count."""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c"], 2) == "a, b and c"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert port_words([]) == "no port"
