"""What is found in settings, and that nothing is found where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.host.facts import Facts
from capture.host.place import Process
from capture.inspect.explanation import alternatives, explanation
from capture.intent.resolve import resolve
from capture.netlink.rtnetlink import Address
from capture.settings.declared import Settings
from rules.addresses import ip_address
from rules.analysis.reachability import Outcomes
from rules.explain import lint
from rules.explain.cost import FIGURES
from rules.netfilter.values import Family
from rules.plan.plan import plan
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from rules.explain.finding import Finding

POD = Facts((Address(ip_address("10.244.0.5"), 24),), resolv_conf="nameserver 10.96.0.10\n")
DUAL = POD.but(addresses=(*(POD.addresses or ()), Address(ip_address("fd00:244::5"), 64)))
SPEC = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*"]
SPEC += ["-d", "15090,15021,15020"]


def findings(*argv: str, facts: Facts = POD, env: dict[str, str] | None = None) -> list[Finding]:
    """What explain finds, but for what is true of every capture."""
    said = Settings.load(argv, env or {})
    return [it for it in explanation(said, facts, tuple(Family)).findings if it.code != "quic"]


def codes(*argv: str, facts: Facts = POD, env: dict[str, str] | None = None) -> list[str]:
    """The kinds of findings, each with the setting that is to change."""
    return [":".join([it.code, *it.settings[:1]]) for it in findings(*argv, facts=facts, env=env)]


def texts(*argv: str, facts: Facts = POD, env: dict[str, str] | None = None) -> str:
    return "\n".join(it.text for it in findings(*argv, facts=facts, env=env))


# --- no false alarms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        SPEC,
        ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "9080", "-d", ""],
        ["-u", "1337", "-g", "1337", "-x", "10.0.0.0/8", "-o", "22,3306", "-d", "22"],
        ["-i", "", "-q", "80,443", "-b", "8080"],
        ["-i", "10.0.0.0/8", "-x", "10.96.0.0/12", "-q", "443"],
        ["--redirect-dns", "--exclude-uids", "1000-1010", "-c", "eth9"],
        ["--redirect-dns", "--capture-all-dns", "--dns-capture-port", "5353"],
    ],
    ids=" ".join,
)
def test_sound_settings_are_not_found_fault_with(argv: list[str]) -> None:
    """Only what is true of every capture is noted: that UDP goes past the proxy."""
    assert codes(*argv) == []
    noted = explanation(Settings.load(argv, {}), POD, tuple(Family)).findings
    assert [(it.severity, it.code) for it in noted] == [("note", "quic")]


def test_quic_is_not_noted_where_it_is_refused() -> None:
    """Nor where nothing outbound is captured."""
    for argv in (["--udp", "443=reject"], ["--udp", "400-500=drop"], ["-i", ""]):
        assert "quic" not in [it.code for it in explanation(Settings.load(argv, {}), POD, tuple(Family)).findings]
    leaves = explanation(Settings.load(["--udp", "443=leave,443=drop"], {}), POD, tuple(Family)).findings
    assert "quic" in [it.code for it in leaves]


# --- without effect ---------------------------------------------------------------------------------------------

NO_EFFECT: list[tuple[str, str, str]] = [
    ("-b 80 -d 22", "inbound_ports_exclude", "flag -d is without effect: flag -b lists the captured ports already"),
    ("-d 15008", "inbound_ports_exclude", ""),
    ("-i= -x 10.0.0.0/8", "outbound_cidrs_exclude", "flag -i is empty"),
    ("-i 10.0.0.0/8 -x 9.9.9.9", "outbound_cidrs_exclude", "would not be captured anyway"),
    ("-x 2001:db8::/32", "outbound_cidrs_exclude", "names IPv6 networks only"),
    ("-i * -q 443", "outbound_ports", "captures every port already"),
    ("-i 10.0.0.0/8 -o 443 -q 443", "outbound_ports", "flag -o lets these ports go first"),
    ("-t 7", "tproxy_mark", "--istio-inbound-interception-mode is not TPROXY"),
    ("-r 7", "tproxy_route_table", "is not TPROXY"),
    ("-m TPROXY -b=", "interception_mode", "flag -b captures nothing inbound"),
    ("-i= -p 16001", "proxy_port", "nothing outbound is captured"),
    ("--capture-all-dns", "capture_all_dns", "without --redirect-dns"),
    ("--dns-capture-port 99", "dns_capture_port", "without --redirect-dns"),
    ("--nflog-group 9", "nflog_group", "--log-connections is not nflog"),
    ("--log-connections log --nflog-group 9", "nflog_group", "flag --log-connections is not nflog"),
    ("--log-connections-rate 9", "log_connections_rate", "--log-connections is not given"),
    ("--exclude-uids 1337", "exclude_uids", "the proxy's own users"),
    ("--udp 443=leave", "udp", "what happens anyway"),
    ("--capture-ssh", "capture_ssh", "no sshd was found"),
    ("--dual-stack", "dual_stack", "there is no usable IPv6 address"),
    ("--exclude-inbound-cidrs 10.0.0.0/8 -b=", "exclude_inbound_cidrs", "captures nothing inbound"),
    ("--ipv6 off", "ipv6", "with the addresses that are here"),
    (
        "--exclude-outbound-ports-for-uids udp:443:5",
        "exclude_outbound_ports_for_uids",
        "of UDP only DNS is ever captured",
    ),
    ("--resolv-conf /dev/null", "resolv_conf", "DNS is not captured"),
]


@pytest.mark.parametrize(("line", "name", "reason"), NO_EFFECT, ids=[case[0] for case in NO_EFFECT])
def test_a_setting_without_effect_is_found(line: str, name: str, reason: str) -> None:
    """Once, with its reason; and indeed nothing fares differently without it."""
    (one,) = [it for it in findings(*line.split()) if it.code == "no-effect"]
    assert one.settings[0] == name
    assert reason in one.text
    assert not one.entries
    assert one.severity == ("note" if name in ("capture_ssh", "dual_stack", "ipv6") else "surprise")


VARIABLES: list[tuple[str, dict[str, str], str]] = [
    ("", {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "1337"}, "the proxy's own groups"),
    (
        "",
        {"ISTIO_OUTBOUND_OWNER_GROUPS": "1", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "2"},
        "environment ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE is without effect: environment "
        "ISTIO_OUTBOUND_OWNER_GROUPS lists the captured groups already",
    ),
    ("-u 1337", {"ENVOY_USER": "root"}, "flag -u names the proxy's users already"),
]


@pytest.mark.parametrize(("line", "env", "reason"), VARIABLES)
def test_a_variable_without_effect_is_found(line: str, env: dict[str, str], reason: str) -> None:
    """The sentence calls it by its name."""
    (text,) = [it.text for it in findings(*line.split(), env=env) if it.code == "no-effect"]
    assert reason in text


ENTRIES: list[tuple[str, str, list[str], str]] = [
    ("-o 22,22", "outbound_ports_exclude", ["22"], "listed twice"),
    ("-o 20-30,22", "outbound_ports_exclude", ["22"], "20-30 contains it"),
    ("-x 10.0.0.0/8,10.1.0.0/16", "outbound_cidrs_exclude", ["10.1.0.0/16"], "10.0.0.0/8 contains it"),
    ("-x 10.0.0.0/8,fd00::/8", "outbound_cidrs_exclude", ["fd00::/8"], "IPv6 is not captured"),
    ("-i 10.0.0.0/8,9.9.9.9 -x 9.9.9.0/24", "outbound_cidrs", ["9.9.9.9/32"], "flag -x excludes it first"),
    ("-i 10.0.0.0/8 -q 80,443 -o 443", "outbound_ports", ["443"], "flag -o lets it go first"),
    ("-i 10.0.0.0/8 -x 10.1.0.0/16,9.9.9.9", "outbound_cidrs_exclude", ["9.9.9.9/32"], "not be captured anyway"),
    ("-b 80,15008", "inbound_ports", ["15008"], "the tunnel port"),
    ("-d 22,15008", "inbound_ports_exclude", ["15008"], "the tunnel port"),
    ("--exclude-uids 1337,1000", "exclude_uids", ["1337"], "the proxy's own"),
    ("--udp 400-500=drop,443=drop", "udp", ["443=drop"], "no connection fares differently"),
    (
        "--exclude-outbound-ports-for-uids udp:443:5;80:5",
        "exclude_outbound_ports_for_uids",
        ["udp:443:5"],
        "of UDP only DNS is ever captured",
    ),
    ("-c eth+,eth0", "exclude_interfaces", ["eth0"], "eth+ contains it"),
]


@pytest.mark.parametrize(("line", "name", "entries", "reason"), ENTRIES, ids=[case[0] for case in ENTRIES])
def test_an_entry_without_effect_is_found(line: str, name: str, entries: list[str], reason: str) -> None:
    """Of a list that has an effect as a whole."""
    (one,) = [it for it in findings(*line.split()) if it.code == "no-effect"]
    assert (one.settings[0], list(one.entries)) == (name, entries)
    assert reason in one.text


def test_entries_that_only_together_swallow_another_are_found() -> None:
    """Two halves leave nothing of the whole; the narrowest entries go first, so one half is what is left over."""
    assert codes("-o", "1-100,50-150,101-120") == ["no-effect:outbound_ports_exclude"]
    (one,) = findings("-x", "10.0.0.0/8,10.0.0.0/9,10.128.0.0/9")
    assert list(one.entries) == ["10.128.0.0/9", "10.0.0.0/9"]


def test_a_long_list_is_looked_through_for_what_it_contains() -> None:
    """Without planning again for each of its entries."""
    networks = ",".join(f"10.{at // 256}.{at % 256}.0/24" for at in range(1000))
    said = findings("-x", f"{networks},10.0.7.9/32,10.0.7.0/24")
    assert [(it.code, list(it.entries)) for it in said] == [
        ("no-effect", ["10.0.7.9/32"]),
        ("no-effect", ["10.0.7.0/24"]),
    ]


# --- everything else --------------------------------------------------------------------------------------------

FOUND: list[tuple[str, list[str]]] = [
    ("-x 0.0.0.0/0", ["captures-nothing:outbound_cidrs_exclude"]),
    ("-x 0.0.0.0/1,128.0.0.0/1", ["captures-nothing:outbound_cidrs_exclude"]),
    ("-i 10.1.0.0/16 -x 10.0.0.0/8", ["captures-nothing:outbound_cidrs_exclude"]),
    ("-i 2001:db8::/32", ["captures-nothing:outbound_cidrs"]),
    ("-o 1-65535", ["captures-nothing:outbound_ports_exclude"]),
    ("-o 1-65534", []),
    ("-b 15008", ["captures-nothing:inbound_ports"]),
    ("-b 80,15001", ["own-port:inbound_ports"]),
    ("-b 80,15006", ["own-port:inbound_ports"]),
    ("-o 15001", ["own-port-outbound:outbound_ports_exclude"]),
    ("-i 10.0.0.0/8 -q 15006", ["own-port-outbound:outbound_ports"]),
    ("--redirect-dns -o 53", ["dns-excluded:outbound_ports_exclude"]),
    ("-u 0 -g 1337", ["owner-clash:proxy_uid", "gid-behind-uid:proxy_gid"]),
    ("-u 1337 -g 0", ["owner-clash:proxy_gid", "gid-behind-uid:proxy_gid"]),
    ("-u 1000", ["owner-clash:proxy_uid"]),
    ("-u 1337 -g 202", ["gid-behind-uid:proxy_gid"]),
    ("-u 1337,1338 -g 202", []),
    ("--exclude-uids 1000-2000", ["proxy-excluded:exclude_uids"]),
    ("-c lo", ["lo-excluded:exclude_interfaces"]),
    ("-c lo+", ["lo-excluded:exclude_interfaces"]),
    ("-c low", []),
    ("-i 127.1.2.3,10.0.0.0/8", ["loopback-captured:outbound_cidrs"]),
    ("-b=", ["calls-to-itself:inbound_ports"]),
    ("-m TPROXY", ["tunnel-captured:inbound_tunnel_port"]),
    ("-m TPROXY -d 15008", []),
    ("-m TPROXY -b 80", []),
    ("-m TPROXY -b 80 -u 1337 -g 202", []),
    ("-m TPROXY -b 80 -k eth9", ["machines-behind-tproxy:virtual_interfaces"]),
    ("-k eth9", []),
    ("-k eth9 -x 10.0.0.0/8", ["machines-not-asked:virtual_interfaces"]),
    ("-k eth9 -c eth9", ["never-matches:exclude_interfaces"]),
    ("-i= -o 22", ["excludes-nothing:outbound_ports_exclude"]),
    ("--force-apply --cni-mode", ["no-effect:cni_mode", "no-effect:force_apply"]),
    ("--cni-mode=false", []),
]


@pytest.mark.parametrize(("line", "wanted"), FOUND, ids=[case[0] for case in FOUND])
def test_what_will_surprise_is_found(line: str, wanted: list[str]) -> None:
    """This and nothing else; and nothing where the settings differ in what matters."""
    assert codes(*line.split()) == wanted


def test_the_worst_comes_first() -> None:
    """Mistakes, surprises, notes."""
    severities = [it.severity for it in findings("-b", "15001,15008", "-t", "7", "-u", "1337", "-g", "202")]
    assert severities == ["mistake", "surprise", "surprise", "note"]


def test_owner_groups_that_are_the_proxys_alone_capture_nothing() -> None:
    """The proxy is let go before groups are asked about; beside another group the proxy's has no effect."""
    (one,) = findings(env={"ISTIO_OUTBOUND_OWNER_GROUPS": "1337"})
    assert (one.severity, one.code, one.settings[0]) == ("mistake", "captures-nothing", "owner_groups")
    (one,) = findings(env={"ISTIO_OUTBOUND_OWNER_GROUPS": "5,1337"})
    assert (one.code, list(one.entries)) == ("no-effect", ["1337"])
    assert findings(env={"ISTIO_OUTBOUND_OWNER_GROUPS": "5,6"}) == []
    (one,) = findings(env={"ISTIO_OUTBOUND_OWNER_GROUPS": ""})
    assert one.text == "environment ISTIO_OUTBOUND_OWNER_GROUPS is empty: nothing outbound is captured"


def test_nameservers_of_a_family_that_is_not_captured_are_found() -> None:
    """A mistake if all are; none if every query is captured, or the family is."""
    six = POD.but(resolv_conf="nameserver fd00::a\n")
    both = POD.but(resolv_conf="nameserver 10.96.0.10\nnameserver fd00::a\n")
    (one,) = findings("--redirect-dns", facts=six)
    assert (one.severity, one.code) == ("mistake", "dns-past-the-proxy")
    (one,) = findings("--redirect-dns", facts=both)
    assert (one.severity, one.code) == ("surprise", "dns-past-the-proxy")
    assert "fd00::a go past" in one.text
    assert codes("--redirect-dns", "--capture-all-dns", facts=six) == []
    assert codes("--redirect-dns", "--ipv6", "on", facts=both) == []


def test_a_family_without_destinations_is_noted() -> None:
    """Where both are captured, and -i names networks of one."""
    assert codes("--dual-stack", "-i", "10.0.0.0/8", facts=DUAL) == ["family-without-destinations:outbound_cidrs"]
    assert codes("--dual-stack", "-i", "10.0.0.0/8,fd00::/8", facts=DUAL) == []


# --- what apply warns of ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "-b 80,15001 -d 22",
        "-u root",
        "--capture-all-dns",
        "--dual-stack",
        "-x 10.0.0.1/8",
        "--probe-timeout 3s",
        "-u 4242",
        "--redirect-dns",
    ],
)
def test_what_apply_warns_of_is_found_once(line: str) -> None:
    """In the words of the warning."""
    facts = DUAL if line == "--dual" else POD.but(processes=(Process(7, "app", 4242),), resolv_conf="")
    said = Settings.load(line.split(), {})
    warnings = [str(warning) for warning in resolve(said, facts).warnings]
    assert warnings
    told = texts(*line.split(), facts=facts)
    for warning in warnings:
        assert told.count(warning) == 1
    assert len(findings(*line.split(), facts=facts)) == len(warnings)


def test_ipv6_past_the_proxy_is_a_surprise() -> None:
    """With the addresses that the pod has."""
    (one,) = findings(facts=DUAL)
    assert (one.severity, one.code) == ("surprise", "warning")
    assert "fd00:244::5" in one.text


# --- the general question -----------------------------------------------------------------------------------------


def test_without_a_setting_means_with_what_is_derived_then() -> None:
    """-u alone decides the gid as well, and -q alone what -i means."""
    said = Settings.load(["-u", "5", "-q", "80"], {})
    resolved = resolve(said, POD)
    without = alternatives(said, POD, resolved)
    assert without["proxy_uid"] == resolved.intent.but(proxy_uid=(1337,), proxy_gid=(1337,))
    assert without["outbound_ports"] == resolve(Settings.load(["-u", "5"], {}), POD).intent
    assert resolved.intent.outbound_cidrs == ()


def test_a_setting_that_cannot_be_left_out_has_an_effect() -> None:
    """Without -p both directions would have one port, which is refused."""
    said = Settings.load(["-p", "15009", "-z", "15001"], {})
    assert alternatives(said, POD, resolve(said, POD))["proxy_port"] is None
    assert codes("-p", "15009", "-z", "15001") == []


def test_what_is_given_as_it_would_be_anyway_is_not_asked_about() -> None:
    """A pod spec that says what is the default surprises nobody."""
    said = Settings.load(SPEC, {})
    assert set(alternatives(said, POD, resolve(said, POD))) == {"inbound_ports_exclude"}


def test_rules_without_effect_and_settings_without_rules_are_told_apart() -> None:
    """-x beside -i: rules are there, but the outcomes are the same."""
    said = Settings.load(["-i", "10.0.0.0/8", "-x", "9.9.9.9"], {})
    resolved = resolve(said, POD)
    without = alternatives(said, POD, resolved)["outbound_cidrs_exclude"]
    assert without
    assert plan(without) != plan(resolved.intent)
    assert Outcomes(plan(without)).same_as(plan(resolved.intent))
    assert lint.findings(resolved.intent, {}) == tuple(
        it for it in lint.findings(resolved.intent, {"outbound_cidrs_exclude": without}) if it.code != "no-effect"
    )


def test_a_warning_is_known_by_its_code_and_not_by_its_words() -> None:
    """A value that reads like the sentence of another warning does not make a note of what is a surprise."""
    facts = POD.but(processes=(Process(7, "is without effect, has host bits", 4242),))
    (one,) = findings("-u", "4242", facts=facts)
    assert (one.severity, one.code) == ("surprise", "warning")
    (warning,) = resolve(Settings.load(["-u", "4242"], {}), facts).warnings
    assert (warning.code, warning.setting, warning.fix) == ("taken-for-the-proxy", "proxy_uid", "")


@pytest.mark.parametrize(
    ("count", "more", "is_noted"),
    [(99, (), False), (100, (), True), (100, ("--native-nftables",), False), (100, ("--ipv6", "off"), True)],
)
def test_a_list_that_a_set_would_make_cheaper_is_noted(count: int, more: tuple[str, ...], is_noted: bool) -> None:
    """With how many rules it makes, from how many on, and what was measured; not where sets are asked for."""
    networks = ",".join(f"10.{at}.0.0/24" for at in range(count))
    found = explanation(Settings.load(["-x", networks, *more], {}), POD, tuple(Family)).findings
    noted = [it for it in found if it.code == "long-list"]
    assert len(noted) == is_noted
    for it in noted:
        assert it.text.startswith("flag -x")
        assert "makes 100 rules" in it.text
        assert "13 for 10,000" in it.text
        assert "--native-nftables" in it.advice


def test_what_is_said_of_long_lists_is_what_was_measured() -> None:
    """The figures of the sentence are those of docs/dataplane.md, rounded."""
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs/dataplane.md").read_text().splitlines()]
    cells = {row[0]: row[1:] for row in rows if "; " in row[-1] and "(" in row[-1]}
    ratios = {size: [float(cell.partition("; ")[2].rstrip(")")) for cell in its] for size, its in cells.items()}
    native, nft, legacy = ({size: ratios[size][at] for size in ("100", "1,000", "10,000", "50,000")} for at in range(3))
    assert max(native.values()) <= 1.15
    assert nft["100"] > native["100"]
    assert legacy["1,000"] > native["1,000"]
    said = {"1.1 times": native["50,000"], "13 for 10,000": nft["10,000"], "2.4 for": legacy["10,000"]}
    assert all(words in FIGURES and abs(float(words.split()[0]) - ratio) < 0.1 * ratio for words, ratio in said.items())
