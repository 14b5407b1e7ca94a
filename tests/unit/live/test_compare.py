"""Differences in words: which rule, where, and what a rerun will do."""

from __future__ import annotations

import pytest

from rules.iptables.reading import tables
from rules.iptables.writing import rule_text
from rules.live.drift import Finding, Kind, aligned, compare, not_tracked
from rules.netfilter.matches import DPort
from rules.netfilter.rulesets import Rule, Ruleset
from rules.netfilter.targets import Return
from rules.netfilter.values import Family, Ports, network
from rules.plan.intent import Intent
from rules.plan.plan import ruleset
from tests.rig import kube
from tests.rig.work import growth

PLANNED = ruleset(Intent(outbound_ports_exclude=(Ports.one(22), Ports.one(23))), Family.V4)


def text_of(planned: Ruleset) -> list[str]:
    """The nat table as iptables-save would print it."""
    nat = planned.table("nat")
    lines = [
        "*nat",
        ":PREROUTING ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        *(f":{chain} - [0:0]" for chain in nat.declared),
    ]
    for chain, rules in nat.chains().items():
        lines += [f"-A {chain} {rule_text(rule)}" for rule in rules]
    return [*lines, "COMMIT"]


def live(lines: list[str]) -> Ruleset:
    return Ruleset(Family.V4, tables("\n".join(lines)))


def at(lines: list[str], text: str) -> int:
    return next(number for number, line in enumerate(lines) if line == text)


SSH = "-A ISTIO_OUTPUT -p tcp --dport 22 -j RETURN"
TELNET = "-A ISTIO_OUTPUT -p tcp --dport 23 -j RETURN"
HOOK = "-A OUTPUT -p tcp -j ISTIO_OUTPUT"


def test_what_is_as_planned_has_no_findings() -> None:
    """The text of the plan itself."""
    assert compare(live(text_of(PLANNED)), PLANNED) == ()


def only(lines: list[str]) -> str:
    (found,) = compare(live(lines), PLANNED)
    return str(found)


def test_a_missing_rule() -> None:
    """By its planned position, with its reason."""
    lines = text_of(PLANNED)
    lines.remove(SSH)
    assert only(lines) == (
        "IPv4 nat ISTIO_OUTPUT: the rule `-p tcp --dport 22 -j RETURN`, planned as rule 1, is missing "
        "(an excluded outbound port); a rerun puts it back"
    )


def test_a_doubled_rule() -> None:
    """By the position of the copy."""
    lines = text_of(PLANNED)
    lines.insert(at(lines, TELNET) + 1, SSH)
    assert only(lines).startswith("IPv4 nat ISTIO_OUTPUT 3: the rule `-p tcp --dport 22 -j RETURN` is there once too")


def test_an_unexpected_rule() -> None:
    """By where it stands."""
    lines = text_of(PLANNED)
    lines.insert(at(lines, TELNET), "-A ISTIO_OUTPUT -p tcp --dport 80 -j ACCEPT")
    assert only(lines) == (
        "IPv4 nat ISTIO_OUTPUT 2: the rule `-p tcp --dport 80 -j ACCEPT` is not planned; a rerun removes it"
    )


def test_a_rule_that_changed_places() -> None:
    """One finding for a rule that moved past others, with both positions."""
    lines = text_of(PLANNED)
    lines.remove(SSH)
    last = "-A ISTIO_OUTPUT -j ISTIO_REDIRECT"
    lines.insert(at(lines, last) + 1, SSH)
    found = only(lines)
    assert "ISTIO_OUTPUT 11: the rule `-p tcp --dport 22 -j RETURN` is not in its place, planned as rule 1" in found


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([], Kind.JUMP_MISSING),
        ([HOOK, HOOK], Kind.JUMP_DOUBLED),
        (["-A OUTPUT -p tcp -j ACCEPT", HOOK], Kind.OTHERS_ABOVE),
        ([HOOK, "-A OUTPUT -p udp -j ISTIO_OUTPUT"], Kind.JUMP_LEFT),
    ],
)
def test_jumps(lines: list[str], kind: Kind) -> None:
    """Missing, doubled, below a rule that could take their traffic, and not asked for."""
    text = text_of(PLANNED)
    place = at(text, HOOK)
    (found,) = compare(live([*text[:place], *lines, *text[place + 1 :]]), PLANNED)
    assert found.kind is kind


def test_rules_of_others_that_take_nothing_are_not_told() -> None:
    """Above or below our jump."""
    text = text_of(PLANNED)
    place = at(text, HOOK)
    others = ["-A OUTPUT -p udp -j ACCEPT", HOOK, "-A OUTPUT -p tcp -j ACCEPT"]
    assert compare(live([*text[:place], *others, *text[place + 1 :]]), PLANNED) == ()


@pytest.mark.parametrize(("now", "wanted", "stay"), [("23141", "1234", 3), ("1212", "21", 2), ("", "12", 0)])
def test_as_few_rules_as_possible_are_called_moved(now: str, wanted: str, stay: int) -> None:
    """Of 2 3 1 4 1 beside 1 2 3 4, three stay in place: 2, 3 and 4."""

    def rules(ports: str) -> list[Rule]:
        return [Rule((DPort(Ports.one(int(port))),), Return()) for port in ports]

    assert len(aligned(rules(now), rules(wanted))) == stay


def test_equal_rules_beyond_reason_are_compared_all_the_same() -> None:
    """Ten thousand times the same rule, planned and live, which nobody would ask for."""

    def kept(size: int) -> int:
        many = [Rule((DPort(Ports.one(7)),), Return())] * size
        other = Rule((DPort(Ports.one(8)),), Return())
        return len(aligned([other, *many[1:], other], [*many[1:], other, *many[:1]]))

    assert kept(10_000) == 10_000
    assert growth(kept, 1000, 2000) < 2.5


def test_chains_missing_and_left_over() -> None:
    """Each is one finding, however many rules it has; a name that only begins like one of ours is nobody's."""
    text = text_of(PLANNED)
    kept = [line for line in text if "ISTIO_INBOUND" not in line]
    kept.insert(3, ":ISTIO_OUTPUT_DNS - [0:0]")
    kept.insert(3, ":ISTIO_FOUND_PO - [0:0]")
    kept.insert(3, ":ISTIO_FOUND_IT - [0:0]")
    kinds = [found.kind for found in compare(live(kept), PLANNED)]
    assert kinds == [Kind.JUMP_MISSING, Kind.CHAIN_MISSING, Kind.CHAIN_LEFT, Kind.CHAIN_LEFT]


def raw(*lines: str) -> Ruleset:
    return live(["*raw", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":OTHERS - [0:0]", *lines, "COMMIT"])


@pytest.mark.parametrize(
    "lines",
    [
        ["-A OUTPUT -p tcp -j NOTRACK"],
        ["-A PREROUTING -j CT --notrack"],
        ["-A OUTPUT -d 192.0.2.0/24 -p tcp -m tcp --dport 443 -j CT --notrack"],
        ["-A PREROUTING -p tcp -j OTHERS", "-A OTHERS -m comment --comment x -j NOTRACK"],
        ["-A OUTPUT -g OTHERS", "-A OTHERS -j NOTRACK"],
    ],
)
def test_rules_that_turn_conntrack_off_are_found(lines: list[str]) -> None:
    """Whatever way the packet takes there."""
    (found,) = not_tracked(raw(*lines), PLANNED)
    assert found.kind is Kind.NOT_TRACKED
    assert not found.repaired_by_rerun
    assert "cannot repair" in str(found)


@pytest.mark.parametrize(
    "lines",
    [
        ["-A OUTPUT -p udp --dport 53 -j NOTRACK"],
        ["-A OUTPUT -p tcp --dport 22 -j NOTRACK"],
        ["-A OUTPUT -d 127.0.0.1/32 -p tcp -j NOTRACK"],
        ["-A OUTPUT -p tcp -m owner --uid-owner 1337 ! -o lo -j NOTRACK"],
        ["-A PREROUTING -p tcp -m tcp --dport 15008 -j CT --notrack"],
        ["-A OTHERS -j NOTRACK"],
        ["-A OUTPUT -j CT --zone 3"],
    ],
)
def test_rules_that_turn_conntrack_off_for_what_is_not_captured_are_not(lines: list[str]) -> None:
    """What bypasses the proxy may go untracked, and what nobody jumps to is never asked."""
    assert not_tracked(raw(*lines), PLANNED) == ()


@pytest.mark.parametrize(("port", "is_found"), [(15053, False), (8600, True)])
def test_what_has_its_zone_from_us_is_out_of_reach(port: int, is_found: bool) -> None:
    """Behind our jump conntrack cannot be turned off for DNS that has a zone; for what has none, it can."""
    planned = ruleset(Intent(redirect_dns=True, capture_all_dns=True, dns_capture_port=port), Family.V4)
    ours = [f":{chain} - [0:0]" for chain in planned.table("raw").declared]
    jump, off = "-A OUTPUT -p udp -j ISTIO_OUTPUT_DNS", "-A OUTPUT -p udp -j NOTRACK"
    assert bool(not_tracked(raw(*ours, jump, off), planned)) is is_found
    assert not_tracked(raw(*ours, off, jump), planned)


def test_the_work_of_a_comparison_grows_with_the_length_of_a_chain() -> None:
    """Reversed, doubled, emptied and with its first rule last; not with the square of the length."""

    def there(size: int) -> tuple[Ruleset, list[Ruleset]]:
        networks = tuple(network(f"{10 + at // 32768}.{at // 128 % 256}.{at % 128 * 2}.0/24") for at in range(size))
        planned = ruleset(Intent(outbound_cidrs_exclude=networks), Family.V4)
        text = text_of(planned)
        first = at(text, "-A ISTIO_OUTPUT -d 10.0.0.0/24 -j RETURN")
        lines = text[first : first + size]
        return planned, [live([*text[:first], *each, *text[first + size :]]) for each in variants(lines)]

    def counts(held: tuple[Ruleset, list[Ruleset]]) -> list[int]:
        return [len(compare(each, held[0])) for each in held[1]]

    assert counts(there(4_000)) == [3_999, 4_000, 4_000, 1]
    assert growth(counts, there(250), there(500)) < 2.6


def variants(lines: list[str]) -> list[list[str]]:
    return [lines[::-1], lines + lines, [], [*lines[1:], lines[0]]]


def test_the_work_of_a_comparison_grows_with_the_number_of_services() -> None:
    """Beside kube-proxy's rules, each of which takes one address and port from what is captured."""

    def beside(services: int) -> Ruleset:
        ours = [line for line in text_of(PLANNED) if "ISTIO" in line]
        return live([*kube.nat_table(services).splitlines()[:-1], *ours, "COMMIT"])

    assert [(each.kind, each.chain) for each in compare(beside(800), PLANNED)] == [
        (Kind.NARROWER_ABOVE, "PREROUTING"),
        (Kind.NARROWER_ABOVE, "OUTPUT"),
    ]
    assert growth(lambda held: compare(held, PLANNED), beside(50), beside(100)) < 2.6


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_every_kind_of_difference_has_a_sentence(kind: Kind) -> None:
    """Also those that only a namespace full of others has, with what a rerun does about it."""
    found = Finding(kind, Family.V4, "nat", rule="ip route: default table 133", why="TCP to 192.0.2.1")
    assert found.sentence.endswith(found.rerun)
    assert "{" not in found.sentence
