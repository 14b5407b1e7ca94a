"""What others do to what we capture: each rule that takes is named, with a packet that it takes, and no other is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.iptables.reading import tables
from rules.live.drift import Finding, Kind
from rules.netfilter.effects import Bind, NoTrack
from rules.netfilter.fields import DESTINATION, DPORT, MARK, PROTOCOL, UID, Among, AnyOf, Masked, Untold
from rules.netfilter.hooks import BaseChain, NativeTable
from rules.netfilter.matches import Native
from rules.netfilter.rulesets import Rule, Ruleset
from rules.netfilter.spans import joined, one
from rules.netfilter.targets import Accept, Drop, NativeTarget
from rules.netfilter.values import Family
from rules.plan.intent import TPROXY, Intent
from rules.plan.plan import plan
from rules.proof.neighbours import found_among_others
from tests.rig import predicted

if TYPE_CHECKING:
    from rules.netfilter.fields import Condition

HERE = predicted.host()
TCP = Among(PROTOCOL, one(6))
ELSEWHERE = NativeTarget(Bind(((None, one(9999)),), is_here=True), "redirect to :9999")


def native(*rules: Rule, priority: int = -101, hook: str = "OUTPUT", kind: str = "nat") -> NativeTable:
    base = BaseChain("inet", "theirs", "base", kind, hook, priority)
    return NativeTable("inet", "theirs", False, (base,), (("base", rules),))


def asking(*conditions: Condition, done: NativeTarget | Accept | Drop = ELSEWHERE) -> Rule:
    return Rule((Native((TCP, *conditions), "tcp"),), done)


def found(
    *natives: NativeTable, text: str = "", intent: Intent | None = None, backend: str = "nft"
) -> tuple[Finding, ...]:
    """What is in the way of a plan beside these native tables, and these rules in the nft backend."""
    planned, *_ = plan(intent or Intent()).rulesets
    return found_among_others(planned, (("nft", Ruleset(Family.V4, tables(text))),), natives, HERE, backend)


def kinds(*natives: NativeTable, text: str = "", intent: Intent | None = None, backend: str = "nft") -> list[Kind]:
    return [each.kind for each in found(*natives, text=text, intent=intent, backend=backend)]


@pytest.mark.parametrize(
    ("conditions", "kind", "example"),
    [
        ((), Kind.OTHERS_TAKE_ALL, "TCP to 192.0.2.1 port 80 goes to 127.0.0.1:9999"),
        ((Among(DPORT, one(8080)),), Kind.OTHERS_TAKE_SOME, "TCP to 192.0.2.1 port 8080 goes to 127.0.0.1:9999"),
        ((Among(DPORT, one(31)),), Kind.OTHERS_TAKE_SOME, "TCP to 192.0.2.1 port 31 goes to 127.0.0.1:9999"),
        ((Among(UID, one(77)),), Kind.OTHERS_TAKE_SOME, "TCP to 192.0.2.1 port 80 by uid 77 goes to 127.0.0.1:9999"),
        (
            (Among(UID, one(1337)),),
            Kind.OTHERS_TAKE_SOME,
            "TCP to 10.244.0.5 port 80 by uid 1337 goes to 127.0.0.1:9999",
        ),
        ((Among(UID, (0, 1 << 32)),), Kind.OTHERS_TAKE_ALL, "TCP to 192.0.2.1 port 80 goes to 127.0.0.1:9999"),
        (
            (Masked(MARK, 0xF, 0x8),),
            Kind.OTHERS_TAKE_SOME,
            "TCP to 192.0.2.1 port 80 with mark 0x8 goes to 127.0.0.1:9999",
        ),
        (
            (Masked(MARK, 0x6, 0x0, negated=True), Masked(MARK, 0x1, 0x1)),
            Kind.OTHERS_TAKE_SOME,
            "TCP to 192.0.2.1 port 80 with mark 0x7 goes to 127.0.0.1:9999",
        ),
        ((Untold("limit"),), Kind.OTHERS_TAKE_ALL, "it may be that TCP to 192.0.2.1 port 80 goes to 127.0.0.1:9999"),
    ],
)
def test_a_base_chain_that_is_asked_before_ours_is_named(
    conditions: tuple[Condition, ...], kind: Kind, example: str
) -> None:
    """With a connection that it takes: some of what we capture, or all of it."""
    (told,) = found(native(asking(*conditions)))
    assert (told.kind, told.table, told.chain, told.position, told.why) == (kind, "inet theirs", "base", 1, example)


@pytest.mark.parametrize(
    "neighbour",
    [
        native(asking(), priority=-99),
        native(asking(done=Accept())),
        native(asking(Among(DPORT, one(31)), done=Drop()), kind="filter", priority=-200),
        native(asking(done=Drop()), kind="filter", hook="FORWARD", priority=0),
        native(),
        native(asking()).but(is_dormant=True),
    ],
    ids=["behind ours", "accepts", "drops some", "of what passes through", "empty", "asleep"],
)
def test_one_that_takes_nothing_of_ours_is_not(neighbour: NativeTable) -> None:
    """Accept in one chain of type nat keeps no other from being asked; and what a firewall drops is not our doing."""
    assert found(neighbour) == ()


def test_each_of_several_rules_is_named_that_share_what_they_take() -> None:
    """One takes the ports that come every day, those behind it what it leaves: other ports, or other addresses."""
    ports, others = Among(DPORT, joined([(1, 2000), (8080, 8081)])), Among(DESTINATION, (9 << 24, 10 << 24))
    rules = asking(ports, Among(DPORT, (0, 9000))), asking(Among(DPORT, (1, 3000)), others), asking()
    assert {each.position for each in found(native(*rules))} == {1, 2, 3}


def test_a_rule_is_named_that_asks_for_an_address_and_a_port_at_once() -> None:
    """A set of pairs, of which each is tried: one of them is what the proxy's rules let go."""
    pairs = [
        (Among(DESTINATION, one(at)), Among(DPORT, one(port))) for at, port in ((127 << 24 | 1, 81), (9 << 24, 82))
    ]
    (only,) = found(native(asking(AnyOf(tuple(pairs)))))
    assert (only.kind, only.position) == (Kind.OTHERS_TAKE_SOME, 1)
    assert "TCP to 9.0.0.0 port 82" in only.why


def test_at_our_own_priority_it_may_take() -> None:
    """Of two, the younger is asked first."""
    (told,) = found(native(asking(), priority=-100))
    assert told.kind is Kind.OTHERS_TAKE_ALL
    assert told.why.startswith("it may be that")


def test_what_keeps_packets_from_conntrack_takes_them() -> None:
    """Whatever the hook's chains of type nat say."""
    chain = native(asking(done=NativeTarget(NoTrack(), "notrack")), kind="filter", priority=-300)
    assert kinds(chain) == [Kind.OTHERS_TAKE_ALL]


def test_transparent_capture_is_looked_at_where_it_is() -> None:
    """In mangle, before nat: a redirection there changes nothing about whose socket gets it."""
    intent = Intent(interception_mode=TPROXY)
    assert kinds(native(asking(), hook="PREROUTING"), intent=intent) == []
    assert kinds(native(asking(), hook="PREROUTING")) == [Kind.OTHERS_TAKE_ALL]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (":INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n", [Kind.CAPTURED_IS_DROPPED]),
        (":INPUT DROP [0:0]\n", [Kind.DROPPED_ANYWAY]),
        (":INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 15006 -j ACCEPT\n", []),
        (":INPUT DROP [0:0]\n-A INPUT -s 10.7.0.0/16 -p tcp -m tcp --dport 15006 -j ACCEPT\n", []),
        ("-A INPUT -p tcp -m tcp --dport 15006 -j REJECT --reject-with tcp-reset\n", [Kind.CAPTURED_IS_DROPPED]),
        ("-A INPUT -s 203.0.113.9/32 -j DROP\n", []),
        ("-A INPUT ! -i lo -p tcp -m tcp --dport 15001 -j DROP\n", []),
    ],
)
def test_a_filter_that_drops_what_was_redirected_is_named(rules: str, expected: list[Kind]) -> None:
    """Where nobody gets through; one that keeps some out, or lets some in, does what it is for."""
    loopback = "-A INPUT -i lo -j ACCEPT\n"
    text = f"*filter\n{rules.replace('-A INPUT', loopback + '-A INPUT', 1) if 'INPUT DROP' not in rules else rules}"
    if "INPUT DROP" in rules:
        text += loopback
    assert kinds(text=f"{text}COMMIT\n") == expected


def test_a_dormant_table_of_ours_is_named() -> None:
    """In our backend, where we have rules; its sentence says what wakes it up."""
    planned, *_ = plan(Intent()).rulesets
    held = Ruleset(Family.V4, tuple(table.but(is_dormant=True) for table in planned.tables))
    (told,) = found_among_others(planned, (("nft", held),), (), HERE, "nft")
    assert told.kind is Kind.TABLE_DORMANT
    assert "`nft add table ip nat`" in told.sentence
    assert found_among_others(planned, (("nft", held),), (), HERE, "legacy") == ()


def test_a_zone_in_which_answers_are_not_known_is_named() -> None:
    """A narrow one as well; and what raw keeps from conntrack is told elsewhere."""
    text = "*raw\n-A PREROUTING -p tcp -m tcp --dport 8080 -j {}\nCOMMIT\n"
    (told,) = found(text=text.format("CT --zone 7"))
    assert (told.kind, told.table, told.chain, told.position) == (Kind.OTHERS_TAKE_SOME, "raw", "PREROUTING", 1)
    assert "in zone 0 of conntrack" in told.sentence
    assert found(text=text.format("CT --notrack")) == ()


def test_rules_of_others_in_the_other_backend_are_looked_at() -> None:
    """Which table is younger is not known, so they may take it."""
    text = "*nat\n-A OUTPUT -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9999\nCOMMIT\n"
    (told,) = found(text=text, backend="legacy")
    assert (told.kind, told.backend, told.table, told.chain, told.position) == (
        Kind.OTHERS_TAKE_SOME,
        "nft",
        "nat",
        "OUTPUT",
        1,
    )
    assert found(text=text) == ()  # those beside our jumps are told by `rules.live`
