"""The commands from one state to another, for each way in which the two can differ."""

from __future__ import annotations

import pytest

from rules.iptables.reading import tables
from rules.live.changes import changes, restore_text
from rules.netfilter.rulesets import Rule, Ruleset, TableRules
from rules.netfilter.targets import ForeignTarget, Jump
from rules.netfilter.values import Family
from rules.ours.recognition import holds_ours, is_our_jump, ours_in
from rules.plan.intent import Intent
from rules.plan.plan import ruleset

PLANNED = ruleset(Intent(), Family.V4)
SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:OTHERS - [0:0]
-A PREROUTING -j OTHERS
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -d 192.0.2.1/32 -m comment --comment "not ours" -j OTHERS
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -d 192.0.2.2/32 -j ACCEPT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
"""What a kernel with the rules of others and ours prints. Theirs stand before and behind ours."""


def live(text: str) -> Ruleset:
    return Ruleset(Family.V4, tables(text))


def commands(text: str, planned: Ruleset = PLANNED) -> list[str]:
    """The lines of the restore input from what this text says to what is planned."""
    return restore_text(changes(live(text), planned)).splitlines()


def test_equal_needs_nothing() -> None:
    """The kernel's spelling and the rules of others make no difference."""
    assert commands(SAVED) == []


def test_a_fresh_namespace_is_only_added_to() -> None:
    """`-N` and `-A` into a clean namespace: what nft does without waiting, and what fails if it is not clean."""
    lines = commands("")
    assert {line.split()[0] for line in lines} == {"*nat", "-N", "-A", "COMMIT"}
    udp = commands("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n")
    assert sorted(udp) == sorted(lines)
    accept = commands("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j ACCEPT\nCOMMIT\n")
    assert set(accept) - set(lines) == {"-I OUTPUT 1 -p tcp -j ISTIO_OUTPUT"}


OUTPUT_JUMP = "-A OUTPUT -p tcp -j ISTIO_OUTPUT\n"
IN_REDIRECT = "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n"
REFILLED = [":ISTIO_IN_REDIRECT - [0:0]", IN_REDIRECT.strip()]
DIFFERENCES: dict[str, tuple[str, list[str]]] = {
    "a stray rule": (SAVED.replace(IN_REDIRECT, IN_REDIRECT + "-A ISTIO_IN_REDIRECT -j RETURN\n"), REFILLED),
    "a rule twice": (SAVED.replace(IN_REDIRECT, IN_REDIRECT * 2), REFILLED),
    "another port": (SAVED.replace("--to-ports 15006", "--to-ports 15007"), REFILLED),
    "an empty chain": (SAVED.replace(IN_REDIRECT, ""), REFILLED),
    # The ACCEPT behind which it stands is narrower, and stood there first.
    "a jump gone": (SAVED.replace(OUTPUT_JUMP, ""), ["-A OUTPUT -p tcp -j ISTIO_OUTPUT"]),
    "a jump below an ACCEPT of everything": (
        SAVED.replace(OUTPUT_JUMP, "").replace("-d 192.0.2.2/32 -j ACCEPT\n", "-j ACCEPT\n" + OUTPUT_JUMP),
        ["-D OUTPUT -p tcp -j ISTIO_OUTPUT", "-I OUTPUT 2 -p tcp -j ISTIO_OUTPUT"],
    ),
    "a foreign REDIRECT above": (
        SAVED.replace(
            "-A PREROUTING -j OTHERS\n", "-A PREROUTING -p tcp -j REDIRECT --to-ports 9\n-A PREROUTING -j OTHERS\n"
        ),
        ["-D PREROUTING -p tcp -j ISTIO_INBOUND", "-I PREROUTING 1 -p tcp -j ISTIO_INBOUND"],
    ),
    "a wider jump": (
        SAVED.replace(OUTPUT_JUMP, "-A OUTPUT -j ISTIO_OUTPUT\n"),
        ["-D OUTPUT -j ISTIO_OUTPUT", "-I OUTPUT 2 -p tcp -j ISTIO_OUTPUT"],
    ),
    "a jump twice": (
        SAVED.replace(OUTPUT_JUMP, OUTPUT_JUMP * 2),
        ["-D OUTPUT -p tcp -j ISTIO_OUTPUT"] * 2 + ["-I OUTPUT 2 -p tcp -j ISTIO_OUTPUT"],
    ),
    "a jump of a former plan behind others": (
        SAVED.replace("-A OUTPUT -d 192.0.2.2/32 -j ACCEPT\n", "-A OUTPUT -d 192.0.2.2/32 -j ACCEPT\n" + OUTPUT_JUMP),
        ["-D OUTPUT -p tcp -j ISTIO_OUTPUT"] * 2 + ["-I OUTPUT 2 -p tcp -j ISTIO_OUTPUT"],
    ),
    "a commented jump": (
        SAVED.replace(OUTPUT_JUMP, '-A OUTPUT -p tcp -m comment --comment "mesh (1)" -j ISTIO_OUTPUT\n'),
        ['-D OUTPUT -p tcp -m comment --comment "mesh (1)" -j ISTIO_OUTPUT', "-I OUTPUT 2 -p tcp -j ISTIO_OUTPUT"],
    ),
    "a leftover chain": (
        SAVED.replace(":OTHERS", ":ISTIO_OUTPUT_DNS - [0:0]\n:OTHERS"),
        [":ISTIO_OUTPUT_DNS - [0:0]", "-X ISTIO_OUTPUT_DNS"],
    ),
    "a leftover chain with a jump from a hook": (
        SAVED.replace(":OTHERS", ":ISTIO_OUTPUT_DNS - [0:0]\n:OTHERS").replace(
            OUTPUT_JUMP, OUTPUT_JUMP + "-A OUTPUT -p udp -j ISTIO_OUTPUT_DNS\n"
        ),
        [
            ":ISTIO_OUTPUT_DNS - [0:0]",
            "-D OUTPUT -p tcp -j ISTIO_OUTPUT",
            "-D OUTPUT -p udp -j ISTIO_OUTPUT_DNS",
            "-I OUTPUT 2 -p tcp -j ISTIO_OUTPUT",
            "-X ISTIO_OUTPUT_DNS",
        ],
    ),
}


@pytest.mark.parametrize(("text", "lines"), DIFFERENCES.values(), ids=list(DIFFERENCES))
def test_a_difference_is_mended_where_it_is(text: str, lines: list[str]) -> None:
    """Only what differs is touched: our chain in one commit, our jumps where they stood."""
    assert text != SAVED
    assert commands(text) == ["*nat", *lines, "COMMIT"]


def test_a_jump_elsewhere_among_the_rules_of_others_is_no_difference() -> None:
    """Others may put their rules before ours, now or later."""
    moved = SAVED.replace(OUTPUT_JUMP, "").replace("-A OUTPUT -d 192.0.2.1", OUTPUT_JUMP + "-A OUTPUT -d 192.0.2.1")
    assert moved != SAVED
    assert commands(moved) == []


def test_removal_takes_ours_and_nothing_else() -> None:
    """Chains are emptied before their jumps go, and removed last."""
    lines = commands(SAVED, Ruleset(Family.V4))
    assert lines[1:5] == [f":{chain} - [0:0]" for chain in tables(SAVED)[0].declared[:4]]
    assert lines[5:7] == ["-D PREROUTING -p tcp -j ISTIO_INBOUND", "-D OUTPUT -p tcp -j ISTIO_OUTPUT"]
    assert lines[7:11] == [f"-X {chain}" for chain in tables(SAVED)[0].declared[:4]]
    assert not any("OTHERS" in line or "192.0.2" in line for line in lines)


def test_chains_of_our_names_in_tables_that_are_not_ours_are_spared() -> None:
    """A name is ours only in the tables in which we use it."""
    text = "*security\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n"
    assert commands(text, Ruleset(Family.V4)) == []
    assert ours_in(live(text)).tables == ()


def test_our_part_of_what_is_live_is_what_was_planned() -> None:
    """The rules of others are no part of it; without ours there is nothing."""
    assert ours_in(live(SAVED)) == PLANNED
    without = "\n".join(line for line in SAVED.splitlines() if "ISTIO" not in line)
    assert ours_in(live(without)) == Ruleset(Family.V4)
    assert not any(map(holds_ours, tables(without)))


NAT_TABLE = TableRules("nat", (), ())


def test_only_a_jump_to_one_of_our_chains_is_ours() -> None:
    """By the chain's name and the table, not by what the rule asks."""
    assert is_our_jump(NAT_TABLE, Rule((), Jump("ISTIO_OUTPUT")))
    assert not is_our_jump(NAT_TABLE, Rule((), Jump("ISTIO_TPROXY")))
    assert not is_our_jump(NAT_TABLE, Rule((), Jump("OTHERS")))
    assert not is_our_jump(NAT_TABLE, Rule((), ForeignTarget("-g ISTIO_OUTPUT")))
