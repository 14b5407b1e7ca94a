"""Which rules of others, above a jump of ours, take packets from it; which are narrower, and what excludes them."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address, ip_network
from rules.analysis.boxes import everything
from rules.analysis.reachability import Reachable
from rules.iptables.reading import tables
from rules.live.changes import Company
from rules.live.precedence import Precedent, ends, exclusions, is_end, precedents
from rules.netfilter.values import Family
from rules.plan.intent import Intent
from rules.plan.plan import ruleset

CHAINS = """\
:TAKES - [0:0]
:LETS_BE - [0:0]
:DEEP - [0:0]
:UDP - [0:0]
:SOME - [0:0]
:ROUND - [0:0]
:ABOUT - [0:0]
-A TAKES -d 10.0.0.0/8 -j RETURN
-A TAKES -j REDIRECT --to-ports 9
-A LETS_BE -d 10.0.0.0/8 -j RETURN
-A LETS_BE -j MARK --set-xmark 0x1/0xffffffff
-A LETS_BE -j DROP
-A DEEP -s 10.0.0.0/8 -j SOME
-A UDP -p udp -j ACCEPT
-A SOME -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9
-A ROUND -j ABOUT
-A ABOUT -j ROUND
"""
HERE = Company(interfaces=("eth0",), addresses=(ip_address("10.244.0.5"), ip_address("fd00::5")))
PLANNED = ruleset(Intent(), Family.V4)
WIDE = [
    "-j ACCEPT",
    "-j RETURN",
    "! -p udp -j ACCEPT",
    "-p tcp -m tcp ! --dport 22 -j REDIRECT --to-ports 9",
    "! -d 10.0.0.0/8 -p tcp -j DNAT --to-destination 192.0.2.2:80",
    "! -d 127.0.0.0/8 -j ACCEPT",
    "! -o lo -p tcp -j REDIRECT --to-ports 9",
    "-o eth+ -j ACCEPT",
    "-s 10.244.0.5/32 -j ACCEPT",
    "-m owner ! --uid-owner 5678 -j ACCEPT",
    "-m owner --uid-owner 0-4294967294 -j ACCEPT",
    "-m mark --mark 0x0/0xfff -j ACCEPT",
    "-m mark ! --mark 0x1 -j ACCEPT",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
    '-m comment --comment "-d 10.0.0.0/8" -j ACCEPT',
    "-m statistic --mode random --probability 0.50000000000 -j ACCEPT",
    "-m set ! --match-set some dst -j ACCEPT",
    "-p tcp -m tcp --dport 1:65535 -j ACCEPT",
    "-m addrtype ! --dst-type LOCAL -j ACCEPT",
    "-j NFQUEUE --queue-num 0",
    "-g LETS_BE",
    "-j TAKES",
]
NARROW = {
    "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9": "-o 80",
    "-p tcp -m multiport --dports 80,8000:8100 -j RETURN": "-o 80,8000-8100",
    "-d 192.0.2.1/32 -j DNAT --to-destination 192.0.2.2:80": "-x 192.0.2.1/32",
    "-d 192.0.2.0/24 -p tcp -m tcp --dport 80 -m owner --uid-owner 5 -j ACCEPT": "-x 192.0.2.0/24",
    "-m owner --uid-owner 5 -j ACCEPT": "--exclude-uids 5",
    "-m owner --uid-owner 5-9 -p tcp -m tcp --dport 443 -j ACCEPT": "--exclude-outbound-ports-for-uids tcp:443:5-9",
    "-m owner --gid-owner 7 -j ACCEPT": "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=7",
    "-o net1 -j RETURN": "-c net1",
    "-m iprange --dst-range 192.0.2.5-192.0.2.7 -j ACCEPT": "-x 192.0.2.5/32,192.0.2.6/31",
    "-d 192.0.2.0/24 -m iprange --dst-range 192.0.2.128-198.51.100.1 -j ACCEPT": "-x 192.0.2.128/25",
    "-d 192.0.2.1/255.0.255.255 -j ACCEPT": "",
    "-o net+ -p tcp -m tcp --dport 1024:65535 -j RETURN": "-o 1024-65535",
    "-o lo -m owner --gid-owner 1337 -p tcp -m tcp --dport 8080 -j RETURN": "",
    "-m mark --mark 0x1 -j ACCEPT": "",
    "-m mark --mark 0x10/0x10 -j ACCEPT": "",
    "-m set --match-set some dst -j ACCEPT": "",
    "-m addrtype --dst-type LOCAL -j ACCEPT": "",
    "-d 192.0.2.0/24 -p tcp -j TAKES": "-x 192.0.2.0/24",
    "-j SOME": "-o 80",
    "-j DEEP": "-o 80",
    "-o lo -m owner --uid-owner 1337 -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9": "",
}
NEITHER = [
    "-p udp -j ACCEPT",
    "-p udp -m udp --dport 53 -j RETURN",
    "! -p tcp -j ACCEPT",
    "-d 127.0.0.1/32 -j ACCEPT",
    "! -o lo -m owner --uid-owner 1337 -j ACCEPT",
    "-j LETS_BE",
    "-j UDP",
    "-j ROUND",
    "-j DROP",
    "-p tcp -j REJECT --reject-with tcp-reset",
    "-j MARK --set-xmark 0x1/0xffffffff",
    "-j CONNMARK --set-xmark 0x1/0xff",
    '-j LOG --log-prefix "x: "',
    "-j TCPMSS --clamp-mss-to-pmtu",
    "-m comment --comment counts",
]


def found(*theirs: str, hook: str = "OUTPUT", intent: Intent | None = None, company: Company = HERE) -> list[Precedent]:
    """What rules of others take in the nat table."""
    lines = "".join(f"-A {hook} {rule}\n" for rule in theirs)
    text = f"*nat\n{CHAINS}{lines}COMMIT\n"
    (table,) = tables(text)
    planned = ruleset(intent, Family.V4) if intent else PLANNED
    return list(precedents(table, hook, list(enumerate(table.chains()[hook], 1)), planned, company))


@pytest.mark.parametrize("rule", WIDE)
def test_what_leaves_us_nothing_is_passed(rule: str) -> None:
    """Whatever it says less than everything: what it leaves is not what comes every day, or only an exception."""
    assert [it.is_passed for it in found(rule)] == [True]


@pytest.mark.parametrize("rule", NARROW)
def test_what_is_narrower_is_kept_and_has_its_exclusion(rule: str) -> None:
    """For some destinations, ports, owners, marks or interfaces. What cannot be told is not taken for everything."""
    (precedent,) = found(rule)
    assert not precedent.is_passed
    assert exclusions(precedent, "OUTPUT", PLANNED) == NARROW[rule]


@pytest.mark.parametrize("rule", NARROW)
def test_ours_first_passes_what_is_narrower_too(rule: str) -> None:
    """That is what the setting is for."""
    assert [it.is_passed for it in found(rule, company=HERE.but(ours_first=True))] == [True]


@pytest.mark.parametrize("rule", NEITHER)
def test_what_decides_nothing_about_our_packets_is_none(rule: str) -> None:
    """Other packets, no verdict, a RETURN to where the walk goes on, or an end that lets nothing escape."""
    assert found(rule) == []


@pytest.mark.parametrize(
    ("rule", "excluded", "passed"),
    [
        ("-p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9", "-d 8080", False),
        ("-s 10.9.0.0/16 -j ACCEPT", "--exclude-inbound-cidrs 10.9.0.0/16", False),
        ("-i net1 -j ACCEPT", "--exclude-inbound-interfaces net1", False),
        ("-i eth0 -j ACCEPT", "", True),
        ("-d 10.244.0.5/32 -j ACCEPT", "", True),
        ("-m addrtype --dst-type LOCAL -j ACCEPT", "", True),
    ],
)
def test_what_arrives(rule: str, excluded: str, passed: bool) -> None:
    """The one interface and the one address by which everything comes are no exception."""
    (precedent,) = found(rule, hook="PREROUTING")
    assert precedent.is_passed is passed
    assert passed or exclusions(precedent, "PREROUTING", PLANNED) == excluded


def test_several_that_together_take_everything() -> None:
    """They are passed; one before them that adds nothing to it keeps what it takes."""
    halves = ["-d 0.0.0.0/1 -j ACCEPT", "-d 128.0.0.0/1 -j ACCEPT"]
    assert [it.is_passed for it in found("-d 192.0.2.0/24 -j ACCEPT", *halves)] == [False, True, True]
    assert [it.is_passed for it in found(*halves[:1], "-p tcp -m tcp --dport 80 -j ACCEPT")] == [False, False]


def test_what_is_excluded_already_is_not_taken() -> None:
    """With the setting that a rule of others is told to be excluded by, it takes nothing of ours."""
    theirs = "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j ACCEPT"
    groups = Intent(owner_groups_exclude=(7,))
    assert found("-m owner --gid-owner 7 -j ACCEPT", intent=groups) == []
    assert found(theirs)
    assert found(theirs, intent=Intent(outbound_cidrs_exclude=(ip_network("192.0.2.0/24"),))) == []


def test_it_is_told_in_words() -> None:
    """What is met on the way, and what becomes of it."""
    (precedent,) = found("-s 10.0.0.0/8 -m comment --comment x -j SOME")
    assert precedent.takes == "TCP from 10.0.0.0/8 to port 80 goes to port 9 on this host"


SERVICES = """*nat
:MARKS - [0:0]
:SERVICES - [0:0]
:ONE - [0:0]
:TWO - [0:0]
:NOTHING - [0:0]
-A OUTPUT -j SERVICES
-A SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j ONE
-A SERVICES -d 10.96.0.2/32 -p tcp -m tcp --dport 80 -j TWO
-A SERVICES -j NOTHING
-A SERVICES -p udp -g TWO
-A ONE ! -s 10.244.0.0/16 -j MARKS
-A ONE -m statistic --mode random --probability 0.5 -j TWO
-A ONE -s 10.244.0.7/32 -j RETURN
-A ONE -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
-A TWO -j MARKS
-A TWO -m owner --uid-owner 7 -j ACCEPT
-A TWO -p tcp -m tcp -j DNAT --to-destination 10.244.0.3:8080
-A MARKS -j MARK --set-xmark 0x4000/0x4000
-A NOTHING -j LOG
COMMIT
"""


def test_chains_in_which_nothing_is_decided_are_passed_over_and_nothing_else_is() -> None:
    """What is decided, with what was met on the way and how certain that is, does not depend on what is passed over."""
    chains, (rule,) = tables(SERVICES)[0].chains(), tables(SERVICES)[0].chains()["OUTPUT"]
    every, some = (Reachable(chains, Family.V4, matters) for matters in (None, is_end))
    found = [list(ends(below, "OUTPUT", rule, everything(Family.V4, "OUTPUT"))) for below in (every, some)]
    assert found[0] == found[1]
    assert [end.is_certain for end in found[0]] == [False, False, False, True, True, True]
    assert set(every.known) - set(some.known) == {"MARKS", "NOTHING"}
