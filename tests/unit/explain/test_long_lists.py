"""Long lists: what is asked about them takes as many steps as they have entries, and not the square of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.inspect.explanation import explanation
from capture.screen.explain import text
from capture.settings.declared import Settings
from rules.addresses import IPv4Address, IPv4Network
from rules.explain.summary import summary
from rules.native.compiled import compiled
from rules.netfilter.values import Family, Ports
from rules.plan.intent import TPROXY, Intent
from rules.plan.plan import plan
from rules.proof.escapes import escapes
from rules.proof.proof import proved
from tests.rig import predicted
from tests.rig.work import growth
from tests.unit.explain.test_lint import POD

if TYPE_CHECKING:
    from collections.abc import Callable

    from rules.netfilter.rulesets import Ruleset

SIZES = 300, 600


def networks(size: int) -> tuple[IPv4Network, ...]:
    """Each stands alone."""
    return tuple(IPv4Network((0x0B000000 + 2 * at, 32)) for at in range(size))


def ports(size: int) -> tuple[Ports, ...]:
    """Fifteen of them share a rule."""
    return tuple(Ports.one(2 + 2 * at) for at in range(4 * size))


LISTS: dict[str, Callable[[int], Intent]] = {
    "-x": lambda size: Intent(outbound_cidrs_exclude=networks(size)),
    "-i": lambda size: Intent(outbound_cidrs=networks(size)),
    "-o": lambda size: Intent(outbound_ports_exclude=ports(size)),
    "-o and DNS": lambda size: Intent(outbound_ports_exclude=ports(size), redirect_dns=True, capture_all_dns=True),
    "-q": lambda size: Intent(outbound_ports=ports(size), outbound_cidrs=()),
    "-d": lambda size: Intent(inbound_ports_exclude=ports(size), interception_mode=TPROXY),
    "-b": lambda size: Intent(inbound_ports=ports(size)),
    "--exclude-inbound-cidrs": lambda size: Intent(exclude_inbound_cidrs=networks(size)),
}


def of_ipv4(intent: Intent) -> Ruleset:
    return plan(intent).rulesets[0]


@pytest.mark.parametrize("kind", LISTS)
def test_what_escapes_by_a_long_list(kind: str) -> None:
    """One entry, with its first and last rule."""

    def listed(intent: Intent) -> None:
        host = predicted.host(plan(intent).routing)
        told = escapes([("nft", of_ipv4(intent))], Family.V4, host)
        assert len(told) < 20
        if kind == "-x":
            (by_list,) = [each for each in told if each.setting == "outbound_cidrs_exclude"]
            assert by_list.last_position == (by_list.position or 0) + len(intent.outbound_cidrs_exclude) - 1
            assert f"by rules {by_list.position} to {by_list.last_position} of ISTIO_OUTPUT" in by_list.sentence

    small, large = map(LISTS[kind], SIZES)
    assert growth(listed, small, large) < 2.4


@pytest.mark.parametrize("kind", LISTS)
def test_the_proof_of_a_long_list(kind: str) -> None:
    """The rules that are there are those of iptables, or one with a set."""

    def is_proved(intent: Intent) -> None:
        ruleset = of_ipv4(intent)
        host = predicted.host(plan(intent).routing)
        for held in (ruleset, compiled(ruleset)):
            assert proved(ruleset, (("nft", held),), (), host, host).answer == "proved"

    small, large = map(LISTS[kind], SIZES)
    assert growth(is_proved, small, large) < 2.4


@pytest.mark.parametrize("kind", LISTS)
def test_the_summary_of_a_long_list(kind: str) -> None:
    """What is captured is found by walking through the rules."""
    small, large = map(LISTS[kind], SIZES)
    assert growth(summary, small, large) < 2.4


@pytest.mark.parametrize("flag", ["-x", "-i", "-o", "-q", "-d", "-b"])
def test_the_explanation_of_a_long_list(flag: str) -> None:
    """With all that will surprise and each rule in words."""

    def explained(size: int) -> None:
        entries = ports(size) if flag in ("-o", "-q", "-d", "-b") else networks(size)
        said = Settings.load(["-u", "1337", flag, ",".join(map(str, entries))], {})
        assert sum(1 for _ in text(explanation(said, POD, tuple(Family))))

    assert growth(explained, *SIZES) < 2.4


@pytest.mark.parametrize("flag", ["-x", "-o"])
def test_the_explanation_of_a_long_list_of_which_half_has_no_effect(flag: str) -> None:
    """Each entry that another one contains is named with that one, and nobody compares it with all others."""

    def explained(size: int) -> None:
        entries = [f"{at}-{at + 1},{at}" for at in range(1, 12 * size, 3)]
        if flag == "-x":
            entries = [f"{address}/31,{address}" for address in map(IPv4Address, range(0, 8 * size, 4))]
        said = Settings.load(["-u", "1337", flag, ",".join(entries)], {})
        told = [line for line in text(explanation(said, POD, tuple(Family))) if "contains it" in line]
        assert len(told) == len(entries)

    assert growth(explained, *SIZES) < 2.4
