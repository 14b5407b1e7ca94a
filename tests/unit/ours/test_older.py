"""Rules of older istio-iptables in built-in chains: each kind is known by its shape, and what resembles it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.iptables.reading import tables
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family
from rules.ours.older import doubtful, older
from rules.ours.recognition import holds_ours, recognised
from rules.plan.intent import Intent
from rules.plan.plan import ruleset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.netfilter.rulesets import Rule

ISTIO_OUTPUT = "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN"
DNS_OF_PROXY = "-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN"
TO_AGENT = "-A OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"
TO_AGENT_OF_1_8 = "-A OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:15053"
SNAT_OF_1_8 = "-A POSTROUTING -p udp -m udp --dport 15053 -j SNAT --to-source 127.0.0.1"
ANSWERS = "-A PREROUTING -p udp -m udp --sport 53 -j CT --zone 1"
OF_PROXY = "-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1"
OF_AGENT = "-A OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2"
OF_APPS = "-A OUTPUT -p udp -m udp --dport 53 -j CT --zone 2"
WHOLE = "--nfmask 0xffffffff --ctmask 0xffffffff"
MARKED_PROXY = "-A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff"
SAVED = f"-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark {WHOLE}"
RESTORED = f"-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark {WHOLE}"
LET_GO = "-A OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN"
DIVERT = "-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff"
OF_1_9 = "-A OUTPUT ! -d 127.0.0.1/32 -s 127.0.0.1/32 -p tcp -j MARK --set-xmark 0x539/0xffffffff"
VIRTUAL = "-A PREROUTING -d 10.0.0.0/8 -i vif0 -p tcp -j ISTIO_REDIRECT"
BEHIND = "-A PREROUTING -i vif0 -j RETURN"


def live(**by_table: Iterable[str]) -> Ruleset:
    """Tables with these rules, in which every chain that they name is declared."""
    lines = []
    for table, rules in by_table.items():
        words = [word for rule in rules for word in rule.split() if word.startswith("ISTIO_")]
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in dict.fromkeys(words)), *rules, "COMMIT"]
    return Ruleset(Family.V4, tables("\n".join([*lines, ""])))


def texts(places: Iterable[tuple[str, str, Rule]]) -> list[str]:
    """The rules, each after its table."""
    return [f"{table} -A {chain} {rule.text}" for table, chain, rule in places]


def all_of(**by_table: Iterable[str]) -> list[str]:
    return [
        f"{table} {rule}" for table, rules in by_table.items() for rule in rules if not rule.startswith("-A ISTIO_")
    ]


KINDS: dict[str, dict[str, list[str]]] = {
    "DNS by REDIRECT": {"nat": [TO_AGENT]},
    "DNS by DNAT": {"nat": [TO_AGENT_OF_1_8]},
    "DNS of one nameserver": {"nat": [TO_AGENT.replace("-A OUTPUT", "-A OUTPUT -d 10.96.0.10/32")]},
    "answers of the agent": {"nat": [TO_AGENT_OF_1_8, SNAT_OF_1_8]},
    "DNS of groups that are let go": {"nat": [DNS_OF_PROXY, TO_AGENT, ISTIO_OUTPUT]},
    "zones": {"raw": [ANSWERS, OF_PROXY, OF_AGENT, OF_APPS]},
    "zones of a group": {"raw": [each.replace("uid", "gid") for each in (OF_PROXY, OF_AGENT)]},
    "zones of one nameserver": {
        "raw": [
            ANSWERS.replace("-A PREROUTING", "-A PREROUTING -s 10.96.0.10/32"),
            OF_AGENT,
            OF_APPS.replace("-A OUTPUT", "-A OUTPUT -d 10.96.0.10/32"),
        ]
    },
    "DNS of the proxy by its zones": {"raw": [OF_AGENT], "nat": [DNS_OF_PROXY]},
    "marks": {"mangle": [SAVED, LET_GO, RESTORED, MARKED_PROXY]},
    "marks of 1.9": {"mangle": [OF_1_9, DIVERT]},
    "KubeVirt": {"nat": [VIRTUAL, BEHIND]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_older_version_made_is_known(kind: str) -> None:
    """All of it, each rule once; what leads to a chain of ours is ours as any jump is."""
    expected = [rule for rule in all_of(**KINDS[kind]) if not rule.endswith("-j ISTIO_REDIRECT")]
    assert sorted(texts(older(live(**KINDS[kind])))) == sorted(expected)


RESEMBLING: dict[str, dict[str, list[str]]] = {
    "TCP": {"nat": [TO_AGENT.replace("udp", "tcp")]},
    "another port": {"nat": [TO_AGENT.replace("--dport 53", "--dport 54")]},
    "to another port": {"nat": [TO_AGENT.replace("15053", "15054")]},
    "to another host": {"nat": [TO_AGENT_OF_1_8.replace("127.0.0.1", "10.0.0.1")]},
    "a network of nameservers": {"nat": [TO_AGENT.replace("-A OUTPUT", "-A OUTPUT -d 10.96.0.0/16")]},
    "of an interface": {"nat": [TO_AGENT.replace("-A OUTPUT", "-A OUTPUT -o eth0")]},
    "DNS that is let go": {"nat": [DNS_OF_PROXY]},
    "SNAT alone": {"nat": [SNAT_OF_1_8]},
    "zones without the agent's": {"raw": [ANSWERS, OF_PROXY, OF_APPS]},
    "the agent's in another zone": {"raw": [OF_PROXY, OF_AGENT.replace("zone 2", "zone 3"), OF_APPS]},
    "the agent's of nobody": {"raw": ["-A OUTPUT -p udp -m udp --sport 15053 -j CT --zone 2", OF_APPS]},
    "of both a user and a group": {
        "raw": [OF_AGENT.replace("--uid-owner 1337", "--uid-owner 1337 --gid-owner 1337"), OF_APPS]
    },
    "marks without the proxy's": {"mangle": [SAVED, LET_GO, RESTORED]},
    "another mark of the proxy": {"mangle": [MARKED_PROXY.replace("0x53a", "0x53b"), SAVED]},
    "the proxy to everywhere": {"mangle": [MARKED_PROXY.replace("! -d 127.0.0.1/32 ", ""), SAVED]},
    "the proxy to loopback": {"mangle": [MARKED_PROXY.replace("! -d", "-d"), SAVED]},
    "of everybody": {"mangle": [MARKED_PROXY.replace("-m owner --uid-owner 1337 ", ""), SAVED]},
    "another mark than ISTIO_DIVERT's": {"mangle": [OF_1_9.replace("0x539", "0x53a"), DIVERT]},
    "a mark from elsewhere": {"mangle": [OF_1_9.replace("-s 127.0.0.1/32 ", ""), DIVERT]},
    "a mark without ISTIO_DIVERT": {"mangle": [OF_1_9]},
    "another interface": {"nat": [VIRTUAL, BEHIND.replace("vif0", "vif1")]},
    "ahead of what is captured": {"nat": [BEHIND, VIRTUAL]},
    "an interface and more": {"nat": [VIRTUAL, BEHIND.replace("-j", "-p tcp -j")]},
    "captured by others": {"nat": [VIRTUAL.replace("ISTIO_REDIRECT", "ACCEPT"), BEHIND]},
}


@pytest.mark.parametrize("kind", RESEMBLING)
def test_what_only_resembles_it_is_of_others(kind: str) -> None:
    """One word apart from what istio-iptables made."""
    assert texts(older(live(**RESEMBLING[kind]))) == []


@pytest.mark.parametrize(
    ("beside", "away"),
    [
        ("-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1000 -j RETURN", False),
        ("-A OUTPUT -p udp -m udp --dport 54 -m owner --uid-owner 1337 -j RETURN", False),
        ("-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j ACCEPT", False),
        (DNS_OF_PROXY, True),
    ],
)
def test_of_those_who_are_let_go_only_the_proxys_own_rule_is_known(beside: str, away: bool) -> None:
    """Beside the rules that nobody else makes."""
    found = texts(older(live(nat=[beside, TO_AGENT], raw=[OF_AGENT])))
    assert (f"nat {beside}" in found) == away
    assert f"nat {TO_AGENT}" in found


@pytest.mark.parametrize(
    ("rule", "table", "is_doubtful"),
    [
        ("-A PREROUTING -i eth1 -j RETURN", "nat", True),
        ("-A OUTPUT -o eth1 -j RETURN", "nat", True),
        ("-A PREROUTING -i eth1 -j RETURN", "mangle", True),
        ("-A PREROUTING -m conntrack --ctstate INVALID -j DROP", "mangle", True),
        ("-A PREROUTING -m conntrack --ctstate INVALID -j DROP", "nat", False),
        ("-A PREROUTING -i eth1 -p tcp -j RETURN", "nat", False),
        ("-A PREROUTING -i eth1 -j ACCEPT", "nat", False),
        ("-A PREROUTING -m conntrack --ctstate NEW -j DROP", "mangle", False),
        ("-A PREROUTING -m conntrack --ctstate INVALID -j ACCEPT", "mangle", False),
        ("-A PREROUTING -j RETURN", "nat", False),
    ],
)
def test_what_others_may_have_made_as_well_is_doubtful_beside_chains_of_ours(
    rule: str, table: str, is_doubtful: bool
) -> None:
    """For -c, -k and --drop-invalid: an interface alone, or what conntrack cannot place."""
    by_table = {"filter": [], "nat": [ISTIO_OUTPUT], "mangle": []}
    by_table[table].append(rule)
    assert texts(doubtful(live(**by_table))) == ([f"{table} {rule}"] if is_doubtful else [])


def test_without_chains_of_ours_only_the_shape_speaks_for_it() -> None:
    """Then all that looks like an older version's is doubtful, and what is known is not."""
    assert texts(doubtful(live(nat=[TO_AGENT, "-A OUTPUT -o eth1 -j RETURN"]))) == [f"nat {TO_AGENT}"]
    assert texts(doubtful(live(nat=[VIRTUAL, BEHIND, "-A PREROUTING -i eth1 -j RETURN"]))) == [
        "nat -A PREROUTING -i eth1 -j RETURN"
    ]


def test_it_is_recognised_where_chains_of_ours_are_or_are_to_come() -> None:
    """Each in its own table; elsewhere it stays what others made."""
    by_table = {"raw": [OF_AGENT], "nat": [TO_AGENT]}
    found = recognised(live(**by_table), ruleset(Intent(), Family.V4))
    assert {table.table: [rule.text for _, rule in table.older] for table in found.tables} == {
        table: [rule.removeprefix("-A OUTPUT ")] for table, (rule,) in by_table.items()
    }
    planned = Ruleset(Family.V4, ())
    assert not any(table.older for table in recognised(live(**by_table), planned).tables)
    with_ours = live(raw=[OF_AGENT], nat=[TO_AGENT, ISTIO_OUTPUT])
    assert any(map(holds_ours, with_ours.tables))
    assert [len(table.older) for table in recognised(with_ours, planned).tables] == [1, 1]
