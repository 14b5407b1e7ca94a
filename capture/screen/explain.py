"""What settings mean, in words for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.host.choice import NATIVE, Choice
from capture.screen.lines import wrapped
from capture.style import style
from rules.explain.summary import CAPTURED, PASSES
from rules.iptables.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.inspect.explanation import Explanation, OfFamily, Point, WordedChain, WordedRule
    from rules.explain.finding import Finding

COLOURS = {"mistake": "red", "surprise": "yellow", "note": "cyan"}
HEADINGS = {CAPTURED: "Captured", PASSES: "Not captured", "refused": "Refused", "dropped": "Dropped"}


def text(told: Explanation) -> Iterator[str]:
    """The explanation for a terminal."""
    yield from points(told.points)
    yield from findings(told.findings)
    if told.backend == NATIVE:
        yield from backend(told)
    for family in told.families:
        yield from rules(family)


# --- what is captured ---------------------------------------------------------------------------------------


def points(told: Sequence[Point]) -> Iterator[str]:
    column = max(len(point.subject) for point in told) + 2
    for outcome in dict.fromkeys(point.outcome for point in told):
        yield heading(HEADINGS[outcome])
        for point in told:
            if point.outcome == outcome:
                given = ", ".join(option.shown for option in point.options if option.is_given)
                by = f" ({given})" if given else ""
                yield from wrapped(f"{point.text}{by}", f"  {point.subject:<{column}}")
        yield ""


# --- findings -----------------------------------------------------------------------------------------------


def findings(told: Sequence[Finding]) -> Iterator[str]:
    yield heading("Findings" if told else "Findings: none")
    column = max((len(finding.severity) for finding in told), default=0) + 2
    for finding in told:
        first, *rest = wrapped(finding.text, f"  {finding.severity:<{column}}")
        yield f"  {style(finding.severity, fg=COLOURS[finding.severity])}{first[2 + len(finding.severity) :]}"
        yield from rest
        if finding.advice:
            yield from wrapped(finding.advice, f"  {'':<{column}}→ ")
    yield ""


# --- rules --------------------------------------------------------------------------------------------------


def backend(told: Explanation) -> Iterator[str]:
    """Which backend holds what follows, where that is not iptables."""
    yield heading("Rules, as iptables would have them")
    yield from wrapped(Choice(told.backend, told.backend_reason).sentence, "  ")
    yield from wrapped("it holds the same with one rule for a list: `capture render` prints it", "  ")
    yield ""


def rules(family: OfFamily) -> Iterator[str]:
    if not family.ways:
        yield heading(f"{family.family.value}: no rules")
        yield ""
    for way in family.ways:
        yield heading(f"{family.family.value}, {way.what}")
        for chain in way.chains:
            yield from chain_text(chain)
        yield ""
    if family.besides:
        yield heading(f"{family.family.value}, besides rules")
        for besides in family.besides:
            yield from wrapped(besides, "  ")
        yield ""


def chain_text(chain: WordedChain) -> Iterator[str]:
    origin = f", from {listed(chain.sent_from)}" if chain.sent_from else ""
    yield style(f"  {chain.table} {chain.chain}{origin}", bold=True)
    if not chain.rules:
        yield "       no rules"
    for rule in chain.rules:
        yield from rule_lines(rule)


def rule_lines(rule: WordedRule) -> Iterator[str]:
    yield from wrapped(rule.words, f"  {rule.position:>4} ")
    option = rule.option.words() if rule.option else "always"
    yield from dimmed(wrapped(f"{rule.why} · {option}", "       "))
    if rule.never_matches:
        first = f"rule{'s' if len(rule.taken_by) > 1 else ''} {listed(list(map(str, rule.taken_by)))}"
        verb = "takes" if len(rule.taken_by) == 1 else "take"
        because = f"{first} {verb} that before" if rule.taken_by else "nothing of that kind comes here"
        yield from dimmed(wrapped(f"never matches: {because}", "       "))


# --- lines --------------------------------------------------------------------------------------------------


def heading(words: str) -> str:
    return style(words, bold=True)


def dimmed(lines: list[str]) -> Iterator[str]:
    return (style(line, dim=True) for line in lines)
