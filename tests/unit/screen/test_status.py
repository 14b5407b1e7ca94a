"""The rules of a chain with what they counted, as a terminal has room for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.inspect.status import CountedRule
from capture.screen import status
from capture.screen.lines import COLOUR
from capture.screen.status import MOST_RULES, listed
from rules.iptables.counters import Count
from rules.netfilter.matches import Proto
from rules.netfilter.rulesets import Rule
from rules.netfilter.targets import Jump, Return

if TYPE_CHECKING:
    import pytest

LONG = Rule((Proto("tcp"),), Jump("ISTIO_REDIRECT"), why="everything else goes to the proxy")
SHORT = Rule((), Return(), why="over loopback")


def told(*held: CountedRule) -> list[str]:
    return [COLOUR.sub("", line) for line in listed(held)]


def test_rules_stand_in_columns() -> None:
    """Numbers to the right, rules to the left, each why in one column."""
    assert told(CountedRule(9, SHORT, Count(5, 300)), CountedRule(10, LONG, Count(1234, 99))) == [
        "   9     5  -j RETURN                 over loopback",
        "  10  1234  -p tcp -j ISTIO_REDIRECT  everything else goes to the proxy",
    ]


def test_a_narrow_terminal_has_the_why_below_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set in beneath where the rule begins."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(status, "columns", lambda: 60)
    first, why = told(CountedRule(10, LONG, Count(1234, 99)))
    assert first == "  10  1234  -p tcp -j ISTIO_REDIRECT"
    assert why.strip() == LONG.why
    assert len(why) - len(why.lstrip()) == first.index("-p") + 2


def test_a_long_chain_is_told_by_its_beginning() -> None:
    """And how many more there are, with what they counted together."""
    held = [CountedRule(at, SHORT, Count(2, 120)) for at in range(1, MOST_RULES + 4)]
    assert len(told(*held[:MOST_RULES])) == MOST_RULES
    *lines, last = told(*held)
    assert len(lines) == MOST_RULES
    assert last.strip().startswith("… and 3 more with 6 packets")
