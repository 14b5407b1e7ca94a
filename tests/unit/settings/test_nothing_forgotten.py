"""A setting that shapes rules is known everywhere: each test here says where one was forgotten."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from capture.settings.declared import DECLARED_BY_NAME
from capture.settings.groups import GROUPS
from rules.explain.summary import summary
from rules.ours.reasons import examples
from rules.plan.intent import Intent
from rules.plan.plan import plan
from tests.property import strategies
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

SHAPING = [field for field in Intent.__match_args__ if field in DECLARED_BY_NAME]
OF_ANOTHER = {
    "ipv6": "what it decides is in the families, and its own point names IPv6",
    "capture_all_dns": "the rules of DNS belong to redirect_dns",
    "dns_capture_address": "the rules of DNS belong to redirect_dns",
    "dns_capture_port": "the rules of DNS belong to redirect_dns",
    "interception_mode": "it decides which rules there are; the words of inbound traffic tell it",
    "ipv4_loopback_cidr": "it is what loopback means in the rules of others",
    "log_connections_rate": "the rules of logging belong to log_connections",
    "nflog_group": "the rules of logging belong to log_connections",
    "tproxy_route_table": "it is in the routing, not in a rule",
}
"""Settings that no rule goes back to, and why."""
UNTOLD = {
    "tproxy_mark": "it is how, not what",
    "log_connections": "it changes nothing for any packet",
}
"""Settings with rules of their own that `explain` has no point for, and why."""
EXAMPLES = {example: plan(example) for example in examples() if example.owner_groups != tuple(range(64))}
"""Every kind of rule, in both modes, each with its plan."""


@cache
def explained_settings() -> frozenset[str]:
    return frozenset(name for example in EXAMPLES for point in summary(example) for name in point.settings)


def shape_of(setting: str) -> str:
    declared = DECLARED_BY_NAME[setting]
    return declared.long or declared.env[0]


def is_given(setting: str, texts: Iterable[str]) -> bool:
    """Whether one of them gives the setting, by flag or variable."""
    declared = DECLARED_BY_NAME[setting]
    words = [word for word in (declared.long, declared.short, *declared.env) if word]
    return any(f"{word}{end}" in text for text in texts for word in words for end in " =\"'\n")


@pytest.mark.parametrize("setting", SHAPING)
def test_it_is_drawn(setting: str) -> None:
    """By every property test: `FIELDS` or `BY_READER` in tests/property/strategies.py."""
    assert setting in strategies.FIELDS, f"tests/property/strategies.py does not draw {setting}"


@pytest.mark.parametrize("setting", SHAPING)
def test_it_changes_the_plan(setting: str) -> None:
    """In some example of rules/ours/reasons.py another value than the default means another plan."""
    values = (getattr(Intent(), setting), other(setting))
    changes = any(planned != plan(one.but(**{setting: value})) for one, planned in EXAMPLES.items() for value in values)
    assert changes, f"no flow in rules/plan/flows/ asks for {setting}, or no example in rules/ours/reasons.py has it"


def other(setting: str) -> object:
    """A value that is not the default, for those that the examples leave alone."""
    default = getattr(Intent(), setting)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return tuple(value + 1 for value in default) if setting in ("proxy_uid", "proxy_gid") else default


@pytest.mark.parametrize("setting", [setting for setting in SHAPING if setting not in OF_ANOTHER])
def test_a_rule_goes_back_to_it(setting: str) -> None:
    """So that a trace, an error of the kernel and a finding can name it."""
    named = {
        rule.setting for planned in EXAMPLES.values() for ruleset in planned.rulesets for _, _, rule in ruleset.rules()
    }
    assert setting in named, f"no rule of rules/plan/flows/ says setting={setting!r}"


@pytest.mark.parametrize("setting", [setting for setting in SHAPING if setting not in OF_ANOTHER | UNTOLD])
def test_it_is_explained(setting: str) -> None:
    """`capture explain` has a point that names it."""
    assert setting in explained_settings(), f"no point of rules/explain/summary.py names {setting}"


@pytest.mark.parametrize("setting", DECLARED_BY_NAME)
def test_it_has_a_place_in_the_reference(setting: str) -> None:
    """And in the help and the man page."""
    assert any(setting in group for group in GROUPS.values()), f"no group of capture/settings/groups.py has {setting}"


@pytest.mark.parametrize("setting", SHAPING)
def test_it_has_a_golden_case(setting: str) -> None:
    """A case whose command line gives it."""
    cases = sorted((ROOT / "tests" / "golden" / "cases").glob("*.txt"))
    lines = [case.read_text().partition("\n")[0] + "\n" for case in cases]
    assert is_given(setting, lines), f"no case in tests/golden/cases gives {shape_of(setting)}"


@pytest.mark.parametrize("setting", SHAPING)
def test_it_was_tried_in_the_kernel(setting: str) -> None:
    """A test that sends packets, or compares what the kernel holds, gives it."""
    tried = [file.read_text() for folder in ("netns", "rig") for file in (ROOT / "tests" / folder).glob("*.py")]
    assert is_given(setting, tried), f"no test in tests/netns gives {shape_of(setting)}"
