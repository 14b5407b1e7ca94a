"""Settings without effect among the recorded command lines of istio-iptables: all of them are found, and no others."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest

from capture.errors import BadSettings
from capture.host.facts import Facts
from capture.inspect.explanation import explanation
from capture.intent.resolve import resolve
from capture.netlink.rtnetlink import Address
from capture.settings.argv import read_argv
from capture.settings.declared import DECLARED_BY_FLAG, DECLARED_BY_NAME, FLAGS, SWITCHES, Settings
from rules.addresses import ip_address
from rules.analysis.reachability import Outcomes
from rules.netfilter.values import Family
from rules.plan.plan import plan
from tests.conftest import SHARED

if TYPE_CHECKING:
    from capture.inspect.explanation import Explanation
    from rules.plan.intent import Intent

RECORDS = SHARED / "conformance" / "cases.jsonl"

READ_BY_HAND = {
    "seed-1.20.1": {},
    "seed-1.5.1": {},
    "seed-1.0.5": {},
    "card": {},
    # -b lists 31000, which -e makes the tunnel port; -i names no IPv4 network, so 1.1.1.1 would not be captured.
    "drawn-1000": {"inbound_ports": ["31000"], "outbound_cidrs_exclude": ["1.1.1.1/32"]},
    "drawn-1001": {"inbound_ports_exclude": [], "outbound_cidrs_exclude": []},
    # -i 2001:db8::/32 -x fd00:96::/64
    "drawn-1002": {"outbound_cidrs_exclude": []},
    "drawn-1003": {},
    "drawn-1004": {},
    # -i 10.0.0.0/8 -x 1.1.1.0/24,172.16.0.0/12
    "drawn-1010": {"outbound_cidrs_exclude": []},
    "drawn-1017": {"inbound_ports_exclude": [], "outbound_ports": []},
    # -i 9.9.9.9/32,10.0.0.0/8 -x 9.9.9.9/32 -e 31000 -b 31000,80
    "drawn-1019": {"inbound_ports_exclude": [], "inbound_ports": ["31000"], "outbound_cidrs": ["9.9.9.9/32"]},
    # -c eth0 -k eth0,eth9: -c has an effect outbound
    "drawn-1021": {},
    # IPv6 is not captured, and -q alone would mean no -i
    "drawn-1024": {"outbound_cidrs": [], "outbound_cidrs_exclude": []},
    # -o 53 with DNS capture: the zones are still there, so neither is without effect
    "drawn-1035": {"outbound_cidrs_exclude": []},
    # -i fd00:96::/64,9.9.9.0/24 -x 10.0.0.0/8,9.9.9.9/32
    "drawn-1037": {"outbound_cidrs_exclude": ["10.0.0.0/8"]},
    "drawn-1044": {"interception_mode": []},
    "drawn-1065": {"inbound_ports_exclude": [], "outbound_cidrs_exclude": ["2001:db8::1/128"]},
    # -p 16001 -i "": nothing goes there
    "drawn-1072": {"proxy_port": [], "outbound_cidrs_exclude": []},
    # The virtual machines on -k still make use of 9.9.9.9 in -i, for -x is not asked of them
    "drawn-1074": {},
    "drawn-1076": {"proxy_port": [], "inbound_ports_exclude": [], "owner_groups_exclude": []},
    "drawn-1089": {"outbound_cidrs": ["fd00:96::/64"], "outbound_cidrs_exclude": []},
}
"""The settings without effect, by their names, with the entries if some have one."""


def recorded(*, by_hand: bool = False) -> list[Any]:
    if not RECORDS.is_file():
        skipped = pytest.mark.skip(reason="the records of the reference are not here")
        return [pytest.param({}, marks=skipped, id="no-records")]
    cases = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    return [pytest.param(case, id=case["id"]) for case in cases if not by_hand or case["id"] in READ_BY_HAND]


def facts_of(case: dict[str, Any]) -> Facts:
    addresses = [Address(ip_address("10.244.0.5"), 24)]
    if case["v6"]:
        addresses.append(Address(ip_address("fd00:244::5"), 64))
    return Facts(tuple(addresses), resolv_conf=case["resolv"])


@functools.cache
def found_in(line: str) -> Explanation:
    """What explain says of a recorded command line, given as JSON."""
    case = json.loads(line)
    return explanation(Settings.load(words_of(case), case["env"]), facts_of(case), tuple(Family))


def words_of(case: dict[str, Any]) -> list[str]:
    return [word for word in case["args"] if word != "istio-iptables"]


def meant(words: list[str], env: dict[str, str], facts: Facts) -> Intent | None:
    try:
        return resolve(Settings.load(words, env), facts).intent
    except BadSettings:
        return None


def line_without(name: str, case: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment with every mention of a setting taken out."""
    arguments, _ = read_argv(words_of(case), FLAGS, switches=SWITCHES)
    kept = [f"{it.flag}={it.value}" for it in arguments if DECLARED_BY_FLAG[it.flag].name != name]
    return kept, {k: v for k, v in case["env"].items() if k not in DECLARED_BY_NAME[name].env}


@pytest.mark.parametrize("case", recorded())
def test_exactly_the_settings_without_effect_are_found(case: dict[str, Any]) -> None:
    """What is found is what a command line without it shows, but for what is given as it would be anyway."""
    facts = facts_of(case)
    said = Settings.load(words_of(case), case["env"])
    intent = resolve(said, facts).intent
    found = {it.settings[0] for it in found_in(json.dumps(case)).findings if it.code == "no-effect" and not it.entries}
    for setting, _, _ in said.given():
        name = setting.name
        if name not in intent.__match_args__ and name != "dual_stack":
            assert name not in found
            continue
        without = meant(*line_without(name, case), facts)
        assert without, name
        same_rules = plan(without) == plan(intent)
        same_value = name != "dual_stack" and getattr(without, name) == getattr(intent, name)
        if same_value:
            assert same_rules
            assert name not in found
        else:
            same_outcomes = Outcomes(plan(without)).same_as(plan(intent))
            assert same_outcomes or not same_rules
            assert (name in found) == same_outcomes, name


@pytest.mark.parametrize("case", recorded())
def test_entries_without_effect_can_go_together(case: dict[str, Any]) -> None:
    """Without all of the entries that were found in a list, no packet fares differently."""
    facts = facts_of(case)
    said = Settings.load(words_of(case), case["env"])
    intent = resolve(said, facts).intent
    for finding in found_in(json.dumps(case)).findings:
        if finding.entries:
            name = finding.settings[0]
            kept = tuple(it for it in getattr(intent, name) if str(it).replace(":", "-") not in finding.entries)
            kept = tuple(it for it in kept if str(it) not in finding.entries)
            assert 0 < len(kept) < len(getattr(intent, name))
            assert Outcomes(plan(intent)).same_as(plan(intent.but(**{name: kept})))


@pytest.mark.parametrize("case", recorded(by_hand=True))
def test_what_was_read_by_hand_is_what_is_found(case: dict[str, Any]) -> None:
    """Case by case, for those that somebody thought about."""
    told = found_in(json.dumps(case)).findings
    assert {it.settings[0]: list(it.entries) for it in told if it.code == "no-effect"} == READ_BY_HAND[case["id"]]


def test_each_kind_of_finding_is_found_as_often_as_ever() -> None:
    """How many findings there are of each kind: a change that silences one shows here."""
    if not RECORDS.is_file():
        pytest.skip("the records of the reference are not here")
    counts: dict[str, int] = {}
    for line in RECORDS.read_text(encoding="utf-8").splitlines():
        for it in found_in(json.dumps(json.loads(line))).findings:
            counts[it.code] = counts.get(it.code, 0) + 1
    assert counts == {
        "calls-to-itself": 11,
        "captures-nothing": 3,
        "dns-excluded": 2,
        "dns-past-the-proxy": 1,
        "excludes-nothing": 3,
        "family-without-destinations": 9,
        "gid-behind-uid": 4,
        "loopback-captured": 3,
        "machines-behind-tproxy": 1,
        "machines-not-asked": 9,
        "never-matches": 2,
        "no-effect": 87,
        "quic": 81,
        "tunnel-captured": 5,
        "warning": 11,
    }
