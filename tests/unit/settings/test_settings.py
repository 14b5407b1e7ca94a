"""What a command line and an environment mean: names, defaults, precedence, grammar, and the model of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from capture.errors import BadSettings
from capture.host.facts import Facts
from capture.intent.resolve import resolve
from capture.settings.argv import read_argv
from capture.settings.declared import (
    DECLARED,
    DECLARED_BY_FLAG,
    DECLARED_BY_NAME,
    FILED,
    FLAGS,
    LOOKING,
    MEANING,
    REMOVING,
    SWITCHES,
    Declaration,
    Settings,
)
from capture.settings.model import SettingsModel, config_schema
from capture.settings.parsers import Name
from rules.addresses import IPv4Network, IPv6Network
from rules.netfilter.values import ALL, Ports
from tests.rig.chance import share
from tests.rig.in_process import capture
from tests.rig.memory import Memory

CONTRACT: list[tuple[str, str, str, Any]] = [
    ("-p", "--envoy-port", "ENVOY_PORT", 15001),
    ("-z", "--inbound-capture-port", "INBOUND_CAPTURE_PORT", 15006),
    ("-e", "--inbound-tunnel-port", "INBOUND_TUNNEL_PORT", 15008),
    ("-u", "--proxy-uid", "PROXY_UID", None),
    ("-g", "--proxy-gid", "PROXY_GID", None),
    ("-m", "--istio-inbound-interception-mode", "ISTIO_INBOUND_INTERCEPTION_MODE", "REDIRECT"),
    ("-b", "--istio-inbound-ports", "ISTIO_INBOUND_PORTS", ALL),
    ("-d", "--istio-local-exclude-ports", "ISTIO_LOCAL_EXCLUDE_PORTS", ()),
    ("-c", "--istio-exclude-interfaces", "ISTIO_EXCLUDE_INTERFACES", ()),
    ("-i", "--istio-service-cidr", "ISTIO_SERVICE_CIDR", None),
    ("-x", "--istio-service-exclude-cidr", "ISTIO_SERVICE_EXCLUDE_CIDR", ()),
    ("-q", "--istio-outbound-ports", "ISTIO_OUTBOUND_PORTS", ()),
    ("-o", "--istio-local-outbound-ports-exclude", "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", ()),
    ("-k", "--kube-virt-interfaces", "KUBE_VIRT_INTERFACES", ()),
    ("-t", "--istio-inbound-tproxy-mark", "ISTIO_INBOUND_TPROXY_MARK", 1337),
    ("-r", "--istio-inbound-tproxy-route-table", "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", 133),
    ("-n", "--dry-run", "DRY_RUN", False),
    ("", "--iptables-probe-port", "IPTABLES_PROBE_PORT", 15002),
    ("", "--probe-timeout", "PROBE_TIMEOUT", 5.0),
    ("", "--skip-rule-apply", "SKIP_RULE_APPLY", False),
    ("", "--run-validation", "RUN_VALIDATION", False),
    ("", "--redirect-dns", "ISTIO_META_DNS_CAPTURE REDIRECT_DNS", False),
    ("", "--capture-all-dns", "CAPTURE_ALL_DNS", False),
    ("", "--drop-invalid", "INVALID_DROP DROP_INVALID", False),
    ("", "--dual-stack", "ISTIO_DUAL_STACK DUAL_STACK", False),
    ("", "--network-namespace", "NETWORK_NAMESPACE", ""),
    ("", "--cni-mode", "CNI_MODE", False),
    ("", "--reconcile", "RECONCILE", False),
    ("", "--cleanup-only", "CLEANUP_ONLY", False),
    ("", "--force-apply", "FORCE_APPLY", False),
    ("", "--native-nftables", "NATIVE_NFTABLES", False),
    ("", "--force-iptables-binary", "FORCE_IPTABLES_BINARY", ""),
    ("", "--log_output_level", "LOG_OUTPUT_LEVEL", "info"),
    ("", "--log_as_json", "LOG_AS_JSON", False),
    ("", "--log_target", "LOG_TARGET", "stderr"),
    ("", "--log_caller", "LOG_CALLER", ""),
    ("", "--log_stacktrace_level", "LOG_STACKTRACE_LEVEL", ""),
    ("", "--vklog", "VKLOG", ""),
    ("", "", "ISTIO_OUTBOUND_OWNER_GROUPS", ALL),
    ("", "", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", ()),
    ("", "", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", IPv4Network("127.0.0.1/32")),
    ("", "", "ENVOY_USER", "istio-proxy"),
    ("", "", "DRY_RUN_FILE_PATH", ""),
]
"""Section 2 of the contract: the names and defaults of istio-iptables, the variable that wins first."""


@pytest.mark.parametrize(("short", "long", "variables", "default"), CONTRACT, ids=[it[1] or it[2] for it in CONTRACT])
def test_a_setting_of_the_reference_has_its_names_and_default(
    short: str, long: str, variables: str, default: Any
) -> None:
    """Flags, variables in their order, and what it is if nobody says anything."""
    (setting,) = (it for it in DECLARED if (it.long == long if long else it.env == (variables,)))
    assert (setting.short, setting.long, " ".join(setting.env)) == (short, long, variables)
    assert getattr(load(), setting.name) == default
    assert setting.about.endswith(".")


def test_no_other_setting_has_a_short_flag() -> None:
    """Short flags are the reference's to give away: one of ours could mean something else there tomorrow."""
    assert {flag for flag in DECLARED_BY_FLAG if len(flag) == 2} == {short for short, *_ in CONTRACT if short}


def load(*argv: str, **environ: str) -> Settings:
    return Settings.load(argv, environ)


def said(name: str, *argv: str, **environ: str) -> Any:
    """The value of one setting, and where it came from."""
    loaded = load(*argv, **environ)
    return getattr(loaded, name), str(loaded.origins[name])


# --- where a value comes from -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "environ", "value", "origin"),
    [
        ([], {}, False, "default"),
        ([], {"DROP_INVALID": "true"}, True, "environment DROP_INVALID"),
        ([], {"DROP_INVALID": "true", "INVALID_DROP": "false"}, False, "environment INVALID_DROP"),
        ([], {"DROP_INVALID": "true", "INVALID_DROP": ""}, True, "environment DROP_INVALID"),
        ([], {"DROP_INVALID": "", "INVALID_DROP": ""}, False, "default"),
        (["--drop-invalid"], {"INVALID_DROP": "false"}, True, "flag --drop-invalid"),
        (["--drop-invalid=false"], {"INVALID_DROP": "true"}, False, "flag --drop-invalid"),
        (["--drop-invalid=false", "--drop-invalid"], {}, True, "flag --drop-invalid"),
    ],
)
def test_a_flag_wins_over_a_variable_and_the_extra_name_over_the_derived_one(
    argv: list[str], environ: dict[str, str], value: bool, origin: str
) -> None:
    """An empty variable says nothing; a value that loses is not even read."""
    assert said("drop_invalid", *argv, **environ) == (value, origin)


def test_a_variable_that_a_flag_overrides_is_not_read() -> None:
    """Rubbish that nobody asks for refuses nothing."""
    assert said("proxy_port", "-p", "80", ENVOY_PORT="tcp://10.0.0.1:80") == (80, "flag -p")


def test_an_empty_flag_says_something_where_an_empty_variable_does_not() -> None:
    """`-i ""` captures nothing; `ISTIO_SERVICE_CIDR=` is as if it were not set."""
    assert said("outbound_cidrs", "-i", "") == ((), "flag -i")
    assert said("outbound_cidrs", ISTIO_SERVICE_CIDR="") == (None, "default")
    assert said("inbound_ports", "-b", "") == ((), "flag -b")
    assert said("inbound_ports", "-b=") == ((), "flag -b")
    assert said("inbound_ports", ISTIO_INBOUND_PORTS="") == (ALL, "default")


def test_the_two_variables_whose_emptiness_counts() -> None:
    """ISTIO_OUTBOUND_OWNER_GROUPS: set and empty, no group is captured. An empty loopback network is refused."""
    with pytest.raises(BadSettings, match="ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"):
        load(ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR="")
    assert said("owner_groups", ISTIO_OUTBOUND_OWNER_GROUPS="") == ((), "environment ISTIO_OUTBOUND_OWNER_GROUPS")
    assert said("owner_groups_exclude", ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="") == ((), "default")
    assert [setting.name for setting in DECLARED if setting.empty_counts] == ["owner_groups", "ipv4_loopback_cidr"]


def test_the_origin_has_the_flag_as_it_was_typed() -> None:
    """So that a message names what the operator finds in the pod spec."""
    loaded = load("-p", "80", "--inbound-capture-port=90", INBOUND_TUNNEL_PORT="70")
    assert [(it.name, value, str(origin), origin.text) for it, value, origin in loaded.given()] == [
        ("proxy_port", 80, "flag -p", "80"),
        ("inbound_capture_port", 90, "flag --inbound-capture-port", "90"),
        ("inbound_tunnel_port", 70, "environment INBOUND_TUNNEL_PORT", "70"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ENVOY_PORT", "tcp://10.96.0.7:80"),
        ("ENVOY_PORT", "udp://10.96.0.7:80"),
        ("ENVOY_PORT", "sctp://[fd00::7]:80"),
        ("INBOUND_CAPTURE_PORT", "tcp://172.17.0.2:8080"),
        ("IPTABLES_PROBE_PORT", "tcp://10.96.0.7:80"),
        ("CAPTURE_DNS_CAPTURE_PORT", "tcp://10.96.0.7:80"),
    ],
)
def test_a_link_to_a_service_is_no_setting(name: str, text: str) -> None:
    """Kubernetes sets ENVOY_PORT for a Service called envoy: it is passed over, and a warning says so."""
    loaded = load(**{name: text})
    assert list(loaded.given()) == []
    (warning,) = loaded.warnings
    assert f'environment {name} "{text}" is a link to the Service' in str(warning)
    assert load("-p", "80", ENVOY_PORT="tcp://10.96.0.7:80").warnings == ()


@pytest.mark.parametrize("text", ["tcp://10.96.0.7", "tcp://:80", "http://10.96.0.7:80", "tcp://10.96.0.7:", "tcp:80"])
def test_what_is_no_link_is_refused_as_anything_else(text: str) -> None:
    """And no flag is a link."""
    with pytest.raises(BadSettings, match="is not a port"):
        load(ENVOY_PORT=text)
    with pytest.raises(BadSettings, match="is not a port"):
        load("-p", "tcp://10.96.0.7:80")


GARBAGE = {"ENVOY_PORT": "rubbish", "PROXY_UID": "-1", "INVALID_DROP": "perhaps", "FORCE_IPTABLES_BINARY": "best"}


@pytest.mark.parametrize("uses", [LOOKING, REMOVING])
def test_what_is_not_used_is_not_judged(uses: frozenset[str]) -> None:
    """Neither a variable nor a flag; what is used is, and a flag that does not exist."""
    arguments, unreadable = read_argv(["-z", "x", "-u", "²"], FLAGS, switches=SWITCHES)
    assert list(Settings.from_arguments(arguments, unreadable, GARBAGE, uses).given()) == []
    (warning,) = Settings.from_arguments([], [], {"LOG_AS_JSON": "perhaps"}, uses).warnings
    assert "LOG_AS_JSON" in str(warning)
    with pytest.raises(BadSettings, match="LOG_AS_JSON"):
        Settings.from_arguments([], [], {"LOG_AS_JSON": "perhaps"}, MEANING)
    with pytest.raises(BadSettings, match="--frobnicate"):
        Settings.from_arguments(*read_argv(["--frobnicate"], FLAGS, switches=SWITCHES), environ={}, uses=uses)


def test_a_removal_uses_what_a_removal_uses() -> None:
    """However it is asked for."""
    assert load("--cleanup-only", **GARBAGE).cleanup_only
    assert load(CLEANUP_ONLY="true", **GARBAGE).cleanup_only
    with pytest.raises(BadSettings, match="PROXY_UID"):
        load("--cleanup-only=false", **GARBAGE)
    with pytest.raises(BadSettings, match="--cleanup-only"):
        load("--cleanup-only=perhaps")


# --- the grammar of a command line ------------------------------------------------------------------------

LINES: list[tuple[str, dict[str, Any]]] = [
    ("-p 15009", {"proxy_port": 15009}),
    ("-p15009", {"proxy_port": 15009}),
    ("-p=15009", {"proxy_port": 15009}),
    ("--envoy-port 15009", {"proxy_port": 15009}),
    ("--envoy-port=15009", {"proxy_port": 15009}),
    ("-p 1 -p 2 --envoy-port 3", {"proxy_port": 3}),
    ("-n", {"dry_run": True}),
    ("-n=false", {"dry_run": False}),
    ("-n=true -p 80", {"dry_run": True, "proxy_port": 80}),
    ("-np80", {"dry_run": True, "proxy_port": 80}),
    ("-np 80", {"dry_run": True, "proxy_port": 80}),
    ("-nnp=80", {"dry_run": True, "proxy_port": 80}),
    ("--dry-run=0 --reconcile=T", {"dry_run": False, "reconcile": True}),
    ("istio-iptables -p 80", {"proxy_port": 80}),
    ("-p 80 --", {"proxy_port": 80}),
    ("", {}),
    (
        "-d=80,90 -o=22",
        {"inbound_ports_exclude": (Ports.one(80), Ports.one(90)), "outbound_ports_exclude": (Ports.one(22),)},
    ),
    ("--network-namespace=a=b", {"network_namespace": "a=b"}),
    ("--log_target -stdout", {"log_target": "-stdout"}),
]


@pytest.mark.parametrize(("line", "values"), LINES, ids=[line or "nothing" for line, _ in LINES])
def test_a_command_line_is_read_as_pflag_reads_it(line: str, values: dict[str, Any]) -> None:
    """Short and long, with a space, `=` or nothing between, switches behind one dash, the last of several."""
    loaded = load(*line.split())
    assert {setting.name: value for setting, value, _ in loaded.given()} == values


def test_a_pod_spec_of_each_release_is_understood() -> None:
    """The arguments that injectors of 1.0.5, 1.5.1 and 1.20.1 give, to the letter."""
    common = ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", ""]
    old = load(*common, "-b", "9080", "-d", "")
    assert (old.inbound_ports, old.inbound_ports_exclude, old.inbound_capture_port) == ((Ports.one(9080),), (), 15006)
    newer = load(*common, "-z", "15006", "-b", "*", "-d", "15090,15020")
    assert (newer.inbound_ports, len(newer.inbound_ports_exclude)) == (ALL, 2)
    newest = load(
        "istio-iptables",
        *common,
        "-z",
        "15006",
        "-b",
        "*",
        "-d",
        "15090,15021,15020",
        "--log_output_level=default:info",
    )
    assert (newest.outbound_cidrs, newest.outbound_cidrs_exclude, newest.log_output_level) == (ALL, (), "info")
    assert newest.proxy_uid == (1337,)


# --- values -----------------------------------------------------------------------------------------------

VALUES: list[tuple[str, str, Any]] = [
    ("-d", " 80 , ,90,", (Ports.one(80), Ports.one(90))),
    ("-d", ",", ()),
    ("-d", "80-90,100:110", (Ports(80, 90), Ports(100, 110))),
    ("-d", "80-80", (Ports.one(80),)),
    ("-b", " * ", ALL),
    ("-b", "1-65535", (Ports(1, 65535),)),
    ("-x", "10.1.2.3", (IPv4Network("10.1.2.3/32"),)),
    ("-x", "2001:db8::1", (IPv6Network("2001:db8::1/128"),)),
    ("-x", "10.1.2.3/8,::/0", (IPv4Network("10.0.0.0/8"), IPv6Network("::/0"))),
    ("-i", "*", ALL),
    ("-c", "eth0,br-+,veth@if2", ("eth0", "br-+", "veth@if2")),
    ("-c", "fifteen-letters", ("fifteen-letters",)),
    ("-u", "0,4294967294,root", (0, 4294967294, Name("root"))),
    ("-m", "", "REDIRECT"),
    ("-m", "TPROXY", "TPROXY"),
    ("-t", "0x539", 1337),
    ("-t", "02471", 1337),
    ("-t", "0b1", 1),
    ("-t", "1_337", 1337),
    ("-t", "4294967295", 4294967295),
    ("-r", "252", 252),
    ("-r", "0x100", 256),
    ("--probe-timeout", "500ms", 0.5),
    ("--probe-timeout", "1m30s", 90.0),
    ("--probe-timeout", "1.5h", 5400.0),
    ("--probe-timeout", "2us", 2e-6),
    ("--log_output_level", "debug", "debug"),
    ("--log_output_level", "default:warn", "warn"),
    ("--log_output_level", "grpc:error,default:warn", "warn"),
    ("--log_output_level", "all:none", "none"),
    ("--log_output_level", "grpc:error", "info"),
    ("--force-iptables-binary", "", ""),
    *(("--dual-stack", f"={text}", True) for text in ("1", "t", "T", "TRUE", "true", "True")),
    *(("--dual-stack", f"={text}", False) for text in ("0", "f", "F", "FALSE", "false", "False")),
]


@pytest.mark.parametrize(("flag", "text", "value"), VALUES, ids=[f"{flag} {text!r}" for flag, text, _ in VALUES])
def test_a_text_is_read_as_the_reference_or_better(flag: str, text: str, value: Any) -> None:
    """Lists, ranges, bare addresses, Go's numbers, durations and booleans."""
    argv = [flag + text] if text.startswith("=") else [flag, text]
    read = getattr(load(*argv), DECLARED_BY_FLAG[flag].name)
    assert read == (pytest.approx(value) if isinstance(value, float) else value)
    assert type(read) is type(value)


def test_a_duration_has_an_end() -> None:
    """Go's longest is 292 years; an infinite one would be no timeout, and cannot be waited for."""
    assert load("--probe-timeout", "2562047h").probe_timeout == pytest.approx(2562047 * 3600)
    with pytest.raises(BadSettings):
        load("--probe-timeout", "9" * 400 + "s")


def test_host_bits_are_cleared_with_a_warning() -> None:
    """What was taken is said; a bare address and a proper network are no surprise."""
    loaded = load("-x", "10.1.2.3/8,10.0.0.0/8,10.9.9.9", "-i", "*", ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR="127.1.2.3/8")
    assert tuple(map(str, loaded.warnings)) == (
        "flag -x: 10.1.2.3/8 has host bits, which mean nothing to a rule: taken as 10.0.0.0/8",
        "environment ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: 127.1.2.3/8 has host bits, which mean nothing to a rule: "
        "taken as 127.0.0.0/8",
    )


# --- resolved against a host ------------------------------------------------------------------------------


def resolved(*argv: str, **environ: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The intent's fields, and what was derived, on a host whose addresses are not known."""
    found = resolve(load(*argv, **environ), Facts(None))
    intent: dict[str, Any] = {field: getattr(found.intent, field) for field in found.intent.__match_args__}
    return intent, {name: str(origin) for name, origin in found.derived.items()}


def test_the_proxy_is_1337_where_its_user_does_not_exist() -> None:
    """Both ids, and it is said what they were derived from."""
    intent, derived = resolved(ENVOY_USER="no-such-user-here")
    assert (intent["proxy_uid"], intent["proxy_gid"]) == ((1337,), (1337,))
    assert derived["proxy_uid"] == "derived (there is no user no-such-user-here)"
    assert derived["proxy_gid"] == "derived from --proxy-uid"


def test_the_proxy_is_the_user_that_envoy_user_names() -> None:
    """By its uid on this host."""
    intent, derived = resolved(ENVOY_USER="root")
    assert intent["proxy_uid"] == intent["proxy_gid"] == (0,)
    assert derived["proxy_uid"] == "derived from the user root"


def test_the_gid_is_the_uid_unless_it_is_given() -> None:
    """The value of -u, all of it; doubled ids count once."""
    assert resolved("-u", "5,6,5")[0]["proxy_gid"] == (5, 6)
    assert resolved("-u", "5", "-g", "7")[0]["proxy_gid"] == (7,)
    assert resolved("-u", "root", "-g", "root,5")[0]["proxy_gid"] == (0, 5)


@pytest.mark.parametrize(
    ("argv", "cidrs"),
    [
        ([], ALL),
        (["-q", "80"], ()),
        (["-q", ""], ALL),
        (["-q", "80", "-i", "*"], ALL),
        (["-i", ""], ()),
        (["-q", "80", "-i", "10.0.0.0/8"], (IPv4Network("10.0.0.0/8"),)),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
def test_destinations_are_everything_unless_ports_are_given(argv: list[str], cidrs: Any) -> None:
    """`-q` alone means those ports; `-i` always has its say."""
    assert resolved(*argv)[0]["outbound_cidrs"] == cidrs


# --- the model --------------------------------------------------------------------------------------------

texts = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="0123456789,-:. */abcdefxmshtT+_", max_size=12),
    st.sampled_from(("", "*", "80", "80-90", "10.0.0.0/8", "::/0", "true", "5s", "TPROXY", "root", "eth0", "0x10")),
)


@settings(deadline=None, max_examples=share(1200))
@given(setting=st.sampled_from(FILED), text=texts)
def test_the_model_reads_what_the_command_line_reads(setting: Declaration, text: str) -> None:
    """The same value from the same text, or the same sentence why not."""
    value, reason = read_or_refused(setting, text)
    if reason:
        with pytest.raises(ValidationError) as by_model:
            SettingsModel(**{setting.name: text})
        assert by_model.value.errors()[0]["msg"] == f"Value error, {reason}"
    else:
        model = SettingsModel(**{setting.name: text})
        assert getattr(model, setting.name) == value
        assert getattr(model.settings(), setting.name) == value


def read_or_refused(setting: Declaration, text: str) -> tuple[Any, str]:
    """What the command line makes of a text, or why it refuses it."""
    try:
        return setting.read(text), ""
    except ValueError as refused:
        return None, str(refused)


@settings(deadline=None, max_examples=share(1200))
@given(setting=st.sampled_from(FILED), text=texts)
def test_what_the_model_writes_it_reads_again(setting: Declaration, text: str) -> None:
    """Through JSON and back a value is the same: lists, names, ranges, durations and all."""
    try:
        model = SettingsModel(**{setting.name: text})
    except ValidationError:
        return
    again = SettingsModel.model_validate_json(model.model_dump_json())
    assert getattr(again, setting.name) == getattr(model, setting.name)


def test_the_model_refuses_what_is_no_setting() -> None:
    """A misspelt name is not ignored, and nothing can be set afterwards."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        SettingsModel.model_validate({"proxy_prot": 80})
    with pytest.raises(ValidationError, match="frozen"):
        SettingsModel().proxy_port = 80  # type: ignore[attr-defined] # made at run time


def test_the_models_defaults_are_the_command_lines() -> None:
    """Every setting, and no other."""
    assert set(SettingsModel.model_fields) == set(DECLARED_BY_NAME) - {"config"}
    model, loaded = SettingsModel(), load()
    assert all(getattr(model, name) == getattr(loaded, name) for name in SettingsModel.model_fields)


def capture_settings(*argv: str) -> str:
    done = capture(Memory(), "settings", *argv)
    assert done.status == 0, done.stderr
    return done.stdout


def test_settings_are_listed_as_json() -> None:
    """Each with its names, the value that counts, and where that came from."""
    listed = {it["name"]: it for it in json.loads(capture_settings("--output=json", "-x", "10.0.0.0/8", "-u", "5"))}
    assert list(listed) == list(DECLARED_BY_NAME)
    assert listed["outbound_cidrs_exclude"] == {
        "name": "outbound_cidrs_exclude",
        "flag": "--istio-service-exclude-cidr",
        "variables": ["ISTIO_SERVICE_EXCLUDE_CIDR"],
        "value": ["10.0.0.0/8"],
        "text": "10.0.0.0/8",
        "source": "flag -x",
    }
    assert (listed["proxy_gid"]["value"], listed["proxy_gid"]["source"]) == ([5], "derived from --proxy-uid")
    assert (listed["outbound_cidrs"]["value"], listed["outbound_cidrs"]["source"]) == ("*", "default")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["-u", ""],
        ["-u", "root"],
        ["--probe-timeout=100ns"],
        ["-d", "80-90", "-b", ""],
        ["--exclude-uids", "1000-2000", "--udp", "443=reject", "--close-wait-timeout", "30s"],
        ["--exclude-outbound-ports-for-uids", "tcp:80,443:1000-2000;53:5", "--dns-capture-address", "10.0.0.9"],
    ],
    ids=" ".join,
)
def test_whatever_was_said_can_be_listed(argv: list[str]) -> None:
    """As text, a line for each setting; and values are written as a flag would be given them."""
    lines = capture_settings(*argv).splitlines()
    assert len(lines) == len(DECLARED)
    for setting, line in zip(DECLARED, lines, strict=True):
        name, value, _ = line.split(maxsplit=2)
        assert name == setting.shown
        assert "(" not in value, "no value is shown as Python writes it"
    if argv == ["-u", ""]:
        assert next(line for line in lines if line.startswith("--proxy-uid")).split()[1] != '""'


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Whether JSON fits a schema, of which we use no more than this."""
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    kinds: dict[str, Any] = {
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "number": int | float,
        "null": type(None),
    }
    if not isinstance(value, kinds[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return False
    if schema["type"] == "array":
        return all(fits(schema["items"], entry) for entry in value)
    low, high = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
    return isinstance(value, str | bool | None) or low <= value <= high


DOCUMENTS: list[tuple[dict[str, Any], bool]] = [
    ({"proxy_port": 15001}, True),
    ({"proxy_port": 0}, False),
    ({"inbound_ports": "*"}, True),
    ({"inbound_ports": ["80", "90-100"]}, True),
    ({"outbound_cidrs_exclude": ["10.0.0.0/8"]}, True),
    ({"dual_stack": True}, True),
    ({"dual_stack": "maybe"}, False),
    ({"probe_timeout": 0.5}, True),
    ({"probe_timeout": "500ms"}, True),
    ({"tproxy_mark": 4294967296}, False),
    ({"proxy_uid": ["1337", "root"]}, True),
    ({"network_namespace": "pod"}, True),
]


@pytest.mark.parametrize(("document", "good"), DOCUMENTS, ids=lambda it: json.dumps(it))
def test_the_schema_agrees_with_the_model(document: dict[str, Any], good: bool) -> None:
    """What the schema lets through the model takes; of what it refuses, these the model refuses too."""
    schema = config_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(DECLARED_BY_NAME) - {"config"}
    assert all(fits(schema["properties"][name], value) for name, value in document.items()) is good
    if good:
        SettingsModel(**document)
    else:
        with pytest.raises(ValidationError):
            SettingsModel(**document)


def test_every_value_as_json_fits_the_schema() -> None:
    """What `settings --output=json` prints could be given back."""
    properties = config_schema()["properties"]
    for entry in json.loads(capture_settings("--output=json", "-u", "5,root", "-d", "80-90", "-x", "::/0")):
        value = [str(it) for it in entry["value"]] if isinstance(entry["value"], list) else entry["value"]
        if entry["name"] == "config":
            continue
        unsaid = value is None and properties[entry["name"]]["default"] is None
        assert unsaid or fits(properties[entry["name"]], value), entry["name"]
