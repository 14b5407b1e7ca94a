"""What is captured and what is not, and that an explanation leaves nothing out."""

from __future__ import annotations

import json

import pytest

from capture.inspect.explanation import Explanation, Option, explanation
from capture.intent.resolve import resolve
from capture.schemas.answers import as_json
from capture.schemas.derive import model
from capture.settings.declared import Settings
from rules.explain.summary import summary
from rules.iptables.writing import rule_text
from rules.netfilter.values import Family, Ports
from rules.plan.plan import plan
from tests.unit.explain.test_lint import DUAL, POD


def said(line: str, **changed: object) -> dict[str, list[tuple[str, str]]]:
    """The list, by subject."""
    intent = resolve(Settings.load(line.split(), {}), DUAL if "--ipv6" in line else POD).intent.but(**changed)
    points: dict[str, list[tuple[str, str]]] = {}
    for point in summary(intent):
        points.setdefault(point.subject, []).append((point.outcome, point.text))
    return points


REJECTED = "TCP and UDP that applications begin beyond the link; what arrives is not captured"
POINTS: list[tuple[str, str, tuple[str, str] | None]] = [
    ("", "outbound TCP", ("captured", "IPv4 to everywhere: goes to the proxy's port 15001")),
    ("--ipv6 on", "outbound TCP", ("captured", "IPv4 and IPv6 to everywhere: goes to the proxy's port 15001")),
    ("-i 10.0.0.0/8", "outbound TCP", ("captured", "IPv4 to 10.0.0.0/8: goes to the proxy's port 15001")),
    ("-q 80", "outbound TCP", ("captured", "IPv4 to port 80 everywhere: goes to the proxy's port 15001")),
    ("-i=", "outbound TCP", ("not captured", "none of it goes to the proxy")),
    ("-x 0.0.0.0/0", "outbound TCP", ("not captured", "none of it goes to the proxy")),
    ("-b=", "inbound TCP", ("not captured", "none of it goes to the proxy")),
    ("-b 80,15008", "inbound TCP", ("captured", "IPv4 to port 80: goes to the proxy's port 15006")),
    ("-b 80", "inbound ports", ("not captured", "every other port")),
    ("-d 22", "inbound ports", ("not captured", "port 15008 (the proxy's tunnel) and port 22")),
    ("-m TPROXY -d 22", "inbound ports", ("not captured", "port 22")),
    ("-m TPROXY", "inbound ports", None),
    ("-b=", "inbound ports", None),
    ("-c eth0,br-+", "interfaces", ("not captured", "what arrives or leaves on eth0 and br-…")),
    ("-c lo", "a call to itself", None),
    (
        "-k eth0",
        "virtual machines",
        ("captured", "TCP that arrives on eth0, to a captured destination: goes to the proxy's port 15001"),
    ),
    (
        "-k eth0 -q 80",
        "virtual machines",
        ("not captured", "nothing that arrives on eth0 goes to the proxy as outbound"),
    ),
    ("-u 1,2 -g 3", "the proxy itself", ("not captured", "what uid 1 or 2 or gid 3 sends to others: it would loop")),
    ("-x 10.0.0.0/8,fd00::/8", "destinations", ("not captured", "what goes to 10.0.0.0/8")),
    ("-i 10.0.0.0/8", "destinations", ("not captured", "everywhere else")),
    ("-o 22", "outbound ports", ("not captured", "what goes to port 22, wherever it is")),
    ("-i= -o 22", "outbound ports", None),
    ("--redirect-dns -o 53", "DNS", ("not captured", "port 53 is excluded")),
    (
        "--redirect-dns",
        "DNS",
        ("captured", "queries to 10.96.0.10, UDP and TCP port 53: go to the proxy's resolver on loopback, port 15053"),
    ),
    ("--redirect-dns --capture-all-dns", "DNS to others", None),
    ("--udp 443=reject", "UDP", ("refused", "what leaves for port 443, the proxy's own aside")),
    (
        "--ipv6 reject",
        "IPv6",
        ("refused", REJECTED),
    ),
    ("--ipv6 on", "IPv6", None),
    ("", "IPv6", ("not captured", "all of it, in both directions")),
    ("--drop-invalid", "invalid packets", ("dropped", "what arrives and conntrack cannot place")),
    (
        "--exclude-outbound-ports-for-uids tcp:80,443:5;*:6",
        "ports of users",
        ("not captured", "what uid 5 sends to TCP ports 80 and 443 and uid 6 sends to TCP and UDP ports"),
    ),
]


@pytest.mark.parametrize(("line", "subject", "point"), POINTS, ids=[f"{line} {subject}" for line, subject, _ in POINTS])
def test_a_point_is_made_where_it_is_true(line: str, subject: str, point: tuple[str, str] | None) -> None:
    """The first one about this subject, or none."""
    found = said(line).get(subject, [None])
    assert found[0] == point


def test_quic_is_named_unless_it_is_refused() -> None:
    """By the first policy for port 443."""
    assert any("QUIC" in text for _, text in said("")["UDP"])
    assert not any("QUIC" in text for _, text in said("--udp 443=drop")["UDP"])


def test_the_port_of_ssh_is_named_where_it_is_let_go() -> None:
    """On a host; --capture-ssh captures it."""
    ports = (Ports.one(22),)
    assert said("", ssh_ports=ports, capture_ssh=False)["SSH"] == [
        ("not captured", "port 22, of the SSH server of this host")
    ]
    assert "SSH" not in said("", ssh_ports=ports, capture_ssh=True)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-i= -b=",
        "-m TPROXY --ipv6 on --redirect-dns --drop-invalid --udp 443=drop",
        "--ipv6 reject",
        "-k eth0 -c eth1 -u 1,2 -g 3",
    ],
)
def test_every_rule_is_explained_once(line: str) -> None:
    """With the place it has in the plan, whatever way packets come there."""
    settings = Settings.load(line.split(), {})
    told = explanation(settings, DUAL, tuple(Family))
    planned = [
        (ruleset.family.value, table.table, chain, at, rule_text(rule))
        for ruleset in plan(resolve(settings, DUAL).intent).rulesets
        for table in ruleset.tables
        for chain, rules in table.chains().items()
        for at, rule in enumerate(rules, 1)
    ]
    explained = [
        (family.family.value, chain.table, chain.chain, rule.position, rule_text(rule.rule))
        for family in told.families
        for way in family.ways
        for chain in way.chains
        for rule in chain.rules
    ]
    assert sorted(explained) == sorted(planned)
    shown = json.dumps(as_json(told))
    assert model(Explanation).model_validate_json(shown, strict=True).model_dump(mode="json") == json.loads(shown)


def test_the_option_behind_a_rule_has_its_value_and_origin() -> None:
    """Given by a flag or a variable, derived, or by default."""
    settings = Settings.load(["-u", "7", "-x", "10.0.0.0/8"], {"ISTIO_LOCAL_EXCLUDE_PORTS": "22"})
    told = explanation(settings, POD, (Family.V4,))
    options = {
        rule.option.name: rule.option.words()
        for way in told.families[0].ways
        for chain in way.chains
        for rule in chain.rules
        if rule.option
    }
    assert options["proxy_uid"] == 'flag -u "7"'
    assert options["proxy_gid"] == "--proxy-gid 7, derived from --proxy-uid"
    assert options["outbound_cidrs_exclude"] == 'flag -x "10.0.0.0/8"'
    assert options["inbound_ports_exclude"] == 'environment ISTIO_LOCAL_EXCLUDE_PORTS "22"'
    assert options["proxy_port"] == "--envoy-port 15001, by default"
    assert [family.family for family in told.families] == [Family.V4]


@pytest.mark.parametrize(("length", "shown"), [(40, 40 * "9"), (41, 39 * "9" + "…")])
def test_a_value_that_is_too_long_for_a_line_is_cut(length: int, shown: str) -> None:
    """To forty characters, the sign for what is cut among them."""
    option = Option("outbound_ports_exclude", "-o", length * "9", "flag")
    assert option.words() == f'flag -o "{shown}"'
