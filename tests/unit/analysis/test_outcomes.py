"""Rules that nothing meets, in tables written by hand; and plans that do the same in other words."""

from __future__ import annotations

import pytest

from rules.addresses import IPv4Network
from rules.analysis.boxes import everything, outside, overlap, remainder
from rules.analysis.reachability import Outcome, Outcomes, Walk, unmet
from rules.iptables.reading import tables
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import Accept, Drop
from rules.netfilter.values import OUTPUT, PREROUTING, Family
from rules.plan.intent import Intent, Uids
from rules.plan.plan import plan

HOOK = "-A OUTPUT -j A"


def never(*rules: str, hook: str = HOOK, family: Family = Family.V4) -> list[tuple[str, int, tuple[int, ...]]]:
    """Chain, position and takers of each rule that nothing meets, of rules of chain A unless they say another."""
    lines = [rule if rule.startswith("-A ") else f"-A A {rule}" for rule in (hook, *rules)]
    text = "\n".join(["*nat", ":A - [0:0]", ":B - [0:0]", *lines, "COMMIT"])
    return [(it.chain, it.position, it.by) for it in unmet(Ruleset(family, tables(text + "\n")))]


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (["-p tcp --dport 22 -j RETURN", "-p tcp --dport 22 -j DROP"], [("A", 2, (1,))]),
        (["-p tcp --dport 20:30 -j RETURN", "-p tcp --dport 22 -j DROP"], [("A", 2, (1,))]),
        (["-p tcp --dport 22 -j RETURN", "-p tcp --dport 20:30 -j DROP"], []),
        (["-p udp --dport 22 -j RETURN", "-p tcp --dport 22 -j DROP"], []),
        (["-p tcp -m multiport --dports 22,80 -j RETURN", "-p tcp --dport 80 -j DROP"], [("A", 2, (1,))]),
        (["-d 10.0.0.0/8 -j RETURN", "-d 10.1.0.0/16 -p tcp -j DROP"], [("A", 2, (1,))]),
        (["-d 10.0.0.0/9 -j RETURN", "-d 10.128.0.0/9 -j RETURN", "-d 10.0.0.0/8 -j DROP"], [("A", 3, (1, 2))]),
        (["-s 10.0.0.0/8 -j RETURN", "-d 10.0.0.0/8 -j DROP"], []),
        (["-m owner --uid-owner 5 -j RETURN", "-m owner --uid-owner 0-9 -j DROP"], []),
        (["-m owner --uid-owner 0-9 -j RETURN", "-m owner --uid-owner 5 -j DROP"], [("A", 2, (1,))]),
        (["-m owner ! --uid-owner 5 -j RETURN", "-m owner --uid-owner 6 -j DROP"], [("A", 2, (1,))]),
        (["-m owner ! --uid-owner 5 -j RETURN", "-m owner --gid-owner 6 -j DROP"], []),
        (["-m owner --uid-owner 5 -j RETURN", "-m owner ! --uid-owner 5 -j RETURN", "-j DROP"], [("A", 3, (1, 2))]),
        (["-o eth+ -j RETURN", "-o eth0 -j DROP"], [("A", 2, (1,))]),
        (["-o eth0 -j RETURN", "-o eth+ -j DROP"], []),
        (["! -o lo -j RETURN", "-o eth0 -j DROP"], [("A", 2, (1,))]),
        (["-i eth0 -j DROP"], [("A", 1, ())]),
        (["-m conntrack --ctstate NEW,ESTABLISHED -j RETURN", "-m conntrack --ctstate NEW -j DROP"], [("A", 2, (1,))]),
        (["-m conntrack --ctstate NEW,SNAT -j RETURN", "-m conntrack --ctstate NEW -j DROP"], []),
        (["-m conntrack ! --ctstate SNAT -j RETURN", "-j DROP"], []),
        (["-j MARK --set-xmark 0x1/0xffffffff", "-m mark --mark 0x2 -j DROP"], [("A", 2, ())]),
        (
            [
                "-p udp -d 10.0.0.0/9 -j RETURN",
                "-d 10.0.0.0/9 -j DROP",
                "-d 10.128.0.0/9 -j DROP",
                "-d 10.0.0.0/8 -j DROP",
            ],
            [("A", 4, (2, 3))],
        ),
        (["-m mark --mark 0x2 -j RETURN", "-j CONNMARK --restore-mark", "-m mark --mark 0x2 -j DROP"], []),
        (["-m connmark --mark 0x2 -j RETURN", "-j CONNMARK --save-mark", "-m connmark --mark 0x2 -j DROP"], []),
        (["-j CONNMARK --restore-mark", "-m mark --mark 0x2 -j DROP"], []),
    ],
    ids=lambda it: " / ".join(it) if it and isinstance(it[0], str) else "",
)
def test_a_rule_is_shadowed_by_what_takes_all_it_asks_for(
    rules: list[str], found: list[tuple[str, int, tuple[int, ...]]]
) -> None:
    """By one rule before it, or by several together; and by nothing less."""
    assert never(*rules) == found


def test_a_rule_that_only_remarks_takes_nothing() -> None:
    """Nor does one of which it is not known whether it matches."""
    assert never("-j NFLOG --nflog-group 5 --nflog-prefix x", "-p tcp -j DROP") == []
    assert never("-m limit --limit 1/sec -j RETURN", "-p tcp -j DROP") == []
    assert never("-m length --length 1:100 -j ACCEPT", "-p tcp -j DROP") == []
    assert never("-p what-nobody-knows -j ACCEPT", "-p tcp -j DROP") == []
    assert never("-j NFLOG --nflog-group 5 --nflog-prefix x", "-p tcp -j ACCEPT", "-p tcp -j DROP") == [("A", 3, (2,))]


@pytest.mark.parametrize("target", ["NFQUEUE --queue-num 1", "WHAT-NOBODY-KNOWS"])
def test_behind_what_nobody_can_tell_all_may_come(target: str) -> None:
    """A program that answers, a target of others: what follows may be met, and nothing is shadowed by it."""
    assert never(f"-p tcp -j {target}", "-p tcp -j DROP") == []


def test_a_jump_takes_what_does_not_come_back() -> None:
    """What the other chain lets go comes back to the rule behind the jump."""
    assert never("-p tcp -j B", "-p tcp -j DROP", "-A B -p tcp -j RETURN") == []
    assert never("-p tcp -j B", "-p tcp -j DROP", "-A B -p tcp --dport 1 -j ACCEPT") == []
    assert never("-p tcp -j B", "-p tcp -j DROP", "-A B -j ACCEPT") == [("A", 2, (1,))]
    some = never("-p tcp -j B", "-p tcp --dport 1 -j DROP", "-p tcp -j ACCEPT", "-A B -p tcp --dport 1 -j ACCEPT")
    assert some == [("A", 2, (1,))]


@pytest.mark.parametrize(
    ("rules", "by"),
    [
        (["-p tcp --dport 5 -j B", "-p udp -j B", "-j B", "-p tcp --dport 3:5 -j DROP"], (1, 3)),
        (["-p tcp --dport 5 -j RETURN", "-p tcp -j B", "-p tcp -j B", "-p tcp --dport 3:5 -j DROP"], (1, 2)),
        (["-p tcp --dport 3 -j B", "-p tcp --dport 3:5 -j RETURN", "-p tcp --dport 5 -j DROP"], (2,)),
    ],
    ids=["the rest alone", "the first of two", "nothing is left"],
)
def test_who_takes_a_part_is_named_beside_the_jump_that_takes_the_rest(rules: list[str], by: tuple[int, ...]) -> None:
    """Of jumps from which some packets come back, those that packets of this kind meet."""
    found = never(*rules, "-A B -p tcp --dport 3:5 -j ACCEPT")
    assert [it for it in found if it[:2] == ("A", len(rules))] == [("A", len(rules), by)]


def test_what_does_not_come_to_a_chain_is_told_without_a_rule() -> None:
    """The hook decides who comes; a chain that nothing leads to is passed over."""
    assert never("-p udp -j DROP", hook="-A OUTPUT -p tcp -j A") == [("A", 1, ())]
    assert never("-m owner --uid-owner 5 -j DROP", hook="-A PREROUTING -j A") == [("A", 1, ())]
    assert never("-m owner ! --uid-owner 5 -j DROP", hook="-A PREROUTING -j A") == []
    assert never("-A B -j DROP", "-A B -j DROP") == []


def test_chains_that_jump_in_a_circle_end_the_walk() -> None:
    """The kernel refuses them; text may hold them."""
    assert never("-p tcp -j B", "-A B -j A") == []


def test_all_of_a_family_is_everything() -> None:
    """In IPv4 and in IPv6."""
    assert never("-d 0.0.0.0/1 -j DROP", "-d 128.0.0.0/1 -j DROP", "-j DROP") == [("A", 3, (1, 2))]
    six = never("-d ::/1 -j DROP", "-d 8000::/1 -j DROP", "-j DROP", family=Family.V6)
    assert six == [("A", 3, (1, 2))]


def test_the_outcomes_of_a_table_are_all_its_ends() -> None:
    """Accept for the one port, drop for the rest of TCP, and the policy for everything else."""
    text = "*filter\n-A OUTPUT -p tcp --dport 22 -j ACCEPT\n-A OUTPUT -p tcp -j DROP\nCOMMIT\n"
    outcomes = Walk(tables(text)[0], Family.V4).outcomes[OUTPUT]
    assert set(outcomes) == {Outcome(Accept()), Outcome(Drop()), Outcome(None)}
    assert sum(map(len, outcomes.values())) == 3


def test_boxes_are_taken_apart_without_overlap() -> None:
    """What is outside of a box and what is inside are together the whole."""
    whole = everything(Family.V4)
    box = (*whole[:1], (0, 5), (7, 9), *whole[3:])
    rest = list(outside(whole, box))
    assert len(rest) == 2
    assert overlap(rest[0], rest[1]) is None
    assert remainder([whole], [*rest, box], 9) == []
    assert remainder([whole], rest, 9) == [box]
    assert remainder([whole], rest, 0) is None
    assert overlap(everything(Family.V4, PREROUTING), everything(Family.V4, OUTPUT)) is None


def meant(**fields: object) -> Intent:
    return Intent(**fields)  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"outbound_cidrs": (IPv4Network("0.0.0.0/0"),)}, {}, True),
        ({"outbound_cidrs": ()}, {"outbound_cidrs_exclude": (IPv4Network("0.0.0.0/0"),)}, True),
        ({"outbound_cidrs": ()}, {"owner_groups": ()}, True),
        ({"outbound_cidrs": ()}, {}, False),
        ({"exclude_uids": (Uids(1, 5),)}, {"exclude_uids": (Uids(3, 5), Uids(1, 3))}, True),
        ({"exclude_uids": (Uids(1, 5),)}, {"exclude_uids": (Uids(1, 6),)}, False),
        ({"proxy_gid": (1337, 5)}, {"proxy_gid": (5, 1337)}, True),
        ({"tproxy_route_table": 7}, {}, True),
        ({"tproxy_route_table": 7, "interception_mode": "TPROXY"}, {"interception_mode": "TPROXY"}, False),
        ({"drop_invalid": True}, {}, False),
        ({"families": (Family.V4, Family.V6)}, {}, False),
        ({"log_connections": "log"}, {}, False),
        ({"log_connections": "log", "log_connections_rate": 11}, {"log_connections": "log"}, False),
    ],
)
def test_plans_that_do_the_same_are_known(one: dict[str, object], other: dict[str, object], same: bool) -> None:
    """Whatever their rules look like; and plans that do not are told apart, in both directions."""
    first, second = plan(meant(**one)), plan(meant(**other))
    assert Outcomes(first).same_as(second) is same
    assert Outcomes(second).same_as(first) is same
