"""What cannot mean anything is refused before anything is touched, in words that help."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig import Namespace, in_process
from tests.rig.memory import Memory
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.rig.in_process import Ended


def capture(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Ended:
    """Run the command line with no environment but this.

    A value that is not refused although it should be must not capture the machine that runs the tests: this is a
    dry run, on a kernel that is not there.
    """
    return in_process.capture(Memory(), *argv, environ={"DRY_RUN": "true", **(environ or {})})


PORTS = ["0", "65536", "-1", "80.5", "0x50", "80 -j ACCEPT", "80\n-A OUTPUT", "80;443", "http", "٨٠", "1e3", "8 0"]
PORT = "a number from 1 to 65535"
NUMBERS = "numbers from 1 to 65535"
NETWORK = "10.0.0.0/8, 2001:db8::/32"
LISTS = "means everything, which stands alone"
INTERFACE = "interface"
ID = "4294967294"
BOOLEAN = "true, false, 1 or 0"
MARK = "a number from 1 to 4294967295"
TABLE = "for example 133"
DURATION = "500ms, 5s or 1m30s"
LOOPBACK = "127.0.0.0/8"

FLAGS: list[tuple[str, str, str]] = [
    *((flag, text, PORT) for flag, text in zip("pze" * 4, PORTS, strict=True)),
    ("-iptables-probe-port", "99999", PORT),
    *(("d", text, NUMBERS) for text in PORTS),
    ("o", "*", LISTS),
    ("b", "*,80", LISTS),
    ("b", "80,*", LISTS),
    ("q", "80-", NUMBERS),
    ("q", "-80", NUMBERS),
    ("q", "1-2-3", NUMBERS),
    ("q", "100-70000", NUMBERS),
    ("o", "9000-8000", "runs backwards; give 8000-9000"),
    ("b", "22,0", NUMBERS),
    ("b", "9:8", "runs backwards; give 8-9"),
    *(
        ("x", text, NETWORK)
        for text in (
            "10.0.0.0/33",
            "2001:db8::/129",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/0.255.255.255",
            "fe80::1%eth0",
            "fe80::/10%eth0",
            "localhost",
            "10.0.0",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/-1",
            "10.0.0.0/٨",
            "10.0.0.010",
            "10.0.0.0 -j ACCEPT",
            "1.2.3.4/8/8",
            "1.2.3.4.5",
            "::1::",
            "!10.0.0.0/8",
        )
    ),
    ("x", "*", LISTS),
    ("i", "10.0.0.0/8,*", LISTS),
    *(
        ("c", text, INTERFACE)
        for text in (
            "eth 0",
            "sixteen-letters0",
            "eth+0",
            "+",
            'eth"0',
            "eth'0",
            "eth/0",
            "-j",
            "eth0;ls",
            "..",
            "eth0\n-j DROP",
            "ethé",
            "!eth0",
            "$eth",
        )
    ),
    ("k", "tap0,a b", INTERFACE),
    *(("u", text, ID) for text in ("-1", "4294967296", "4294967295", "13 37", "1337x", "0x539", "!1337", "٣")),
    ("u", "no-such-user-here", "no user on this host"),
    ("g", "no-such-group-here", "no group on this host"),
    ("g", "1337,-5", ID),
    *(("-dual-stack=", text, BOOLEAN) for text in ("maybe", "yes", "2", "tRue", "on", " true", "")),
    *(("t", text, MARK) for text in ("0", "4294967296", "-1", "0xg", "1.5", "08", "mark", "5 ", "5\n")),
    *(("r", text, TABLE) for text in ("0", "253", "254", "255", "4294967296", "main", "0xfe", "133\n")),
    *(("-probe-timeout", text, DURATION) for text in ("5", "-1s", "1x", "0s", "", "5 s", "s", "1s2", "1..5s", "∞s")),
    *(("m", text, "REDIRECT, TPROXY") for text in ("redirect", "TPROXY2", "NONE", "REDIRECT,TPROXY")),
    *(("-log_output_level", text, "debug, info, warn, error, fatal, none") for text in ("loud", "default:", "INFO")),
    *(("-force-iptables-binary", text, "nft, legacy") for text in ("nftables", "LEGACY", "iptables")),
]


def as_flag(name: str) -> str:
    return f"-{name}"


@pytest.mark.parametrize(("flag", "text", "right"), FLAGS, ids=[f"-{flag} {text!r}" for flag, text, _ in FLAGS])
def test_a_flag_that_cannot_mean_anything_is_refused(flag: str, text: str, right: str) -> None:
    """Exit status 2, nothing on stdout; the message names the flag, the value, and what would be right."""
    name = as_flag(flag.removesuffix("="))
    done = capture([f"{name}={text}"] if len(flag) == 1 or flag.endswith("=") else [name, text])
    refused(done, f"flag {name}", text, right)


def refused(done: Ended, source: str, text: str, right: str) -> None:
    assert done.status == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "nothing was touched" in done.stderr
    line = next(line for line in done.stderr.splitlines() if line.lstrip().startswith(source))
    assert shown(text) in line
    assert right in line


def shown(text: str) -> str:
    """A value as a message quotes it: on one line."""
    return text.replace("\n", "\\n")


VARIABLES: list[tuple[str, str, str]] = [
    ("ENVOY_PORT", "0", PORT),
    ("ENVOY_PORT", "tcp://10.96.7.7", PORT),
    ("INBOUND_CAPTURE_PORT", "15006 ", PORT),
    ("INBOUND_TUNNEL_PORT", "15008.0", PORT),
    ("PROXY_UID", "4294967295", ID),
    ("PROXY_GID", "-1", ID),
    ("ISTIO_INBOUND_INTERCEPTION_MODE", "tproxy", "REDIRECT, TPROXY"),
    ("ISTIO_INBOUND_PORTS", "*,80", LISTS),
    ("ISTIO_INBOUND_PORTS", "80 443", NUMBERS),
    ("ISTIO_LOCAL_EXCLUDE_PORTS", "15090,x", NUMBERS),
    ("ISTIO_SERVICE_CIDR", "10.0.0.0/40", NETWORK),
    ("ISTIO_SERVICE_EXCLUDE_CIDR", "*", LISTS),
    ("ISTIO_OUTBOUND_PORTS", "443-80", "runs backwards; give 80-443"),
    ("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "22\n-A OUTPUT -j ACCEPT", NUMBERS),
    ("ISTIO_EXCLUDE_INTERFACES", "eth0 -j RETURN", INTERFACE),
    ("KUBE_VIRT_INTERFACES", "net1/", INTERFACE),
    ("ISTIO_INBOUND_TPROXY_MARK", "0", MARK),
    ("ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "255", TABLE),
    ("DRY_RUN", "yes", BOOLEAN),
    ("INVALID_DROP", "enabled", BOOLEAN),
    ("ISTIO_DUAL_STACK", "2", BOOLEAN),
    ("ISTIO_META_DNS_CAPTURE", "TRue", BOOLEAN),
    ("PROBE_TIMEOUT", "5000", DURATION),
    ("FORCE_IPTABLES_BINARY", "nf_tables", "nft, legacy"),
    ("LOG_OUTPUT_LEVEL", "verbose", "debug, info"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", ",".join(map(str, range(65))), "at most 64"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "1,*", LISTS),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "-1", ID),
    ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "*", LISTS),
    ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "no-such-group-here", "no group on this host"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "10.0.0.0/8", LOOPBACK),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "::1/128", LOOPBACK),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "", LOOPBACK),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/7", LOOPBACK),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "126.0.0.1/32", LOOPBACK),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/33", NETWORK),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "*", NETWORK),
]


@pytest.mark.parametrize(
    ("name", "text", "right"), VARIABLES, ids=[f"{name}={text[:20]!r}" for name, text, _ in VARIABLES]
)
def test_a_variable_that_cannot_mean_anything_is_refused(name: str, text: str, right: str) -> None:
    """The same for variables: the reference reads many of these as false, 0, or straight into a rule."""
    refused(capture([], {name: text}), f"environment {name}", text[:70], right)


LINES: list[tuple[list[str], str, str]] = [
    (["-x", "-b", "*"], "flag -x", "the next word is the flag -b; for an empty value give"),
    (["-p", "--dual-stack"], "flag -p", "the next word is the flag --dual-stack"),
    (["-i", "-z15006"], "flag -i", "the next word is the flag -z15006"),
    (["-u", "--proxy-gid=5"], "flag -u", "the next word is the flag --proxy-gid=5"),
    (["--istio-inbound-port", "80"], "flag --istio-inbound-port", "did you mean --istio-inbound-ports?"),
    (["--proxy-id=5"], "flag --proxy-id", "did you mean --proxy-"),
    (["--nothing-like-it"], "flag --nothing-like-it", "is not known"),
    (["-Q", "80"], "flag -Q", "is not known"),
    (["-nQ"], "flag -Q", "is not known"),
    (["-p", "15001", "-x"], "flag -x", 'needs a value; "" is one that is empty'),
    (["--envoy-port"], "flag --envoy-port", "needs a value"),
    (["15001"], 'command "15001"', "is not known"),
    (["-n", "appply"], 'argument "appply"', "is not a flag"),
    (["-p", "15001", "istio-iptables"], 'argument "istio-iptables"', "is not a flag"),
    (["--dry-run", "false"], 'argument "false"', "is not a flag"),
    (["-n", "true"], 'argument "true"', "is not a flag"),
    (["--", "-p", "15001"], 'argument "-p"', "is not a flag"),
    (["-"], 'argument "-"', "is not a flag"),
    ([""], 'command ""', "is not known"),
    (["--="], "flag --", "is not known"),
    (["--envoy_port", "15001"], "flag --envoy_port", "did you mean --envoy-port?"),
    (["-p", "15001", "-z", "15001"], "flag -p", "is the port for both directions"),
    (["--native-nftables", "--force-iptables-binary", "legacy"], "flag --force-iptables-binary", "--native-nftables"),
]


@pytest.mark.parametrize(("argv", "source", "right"), LINES, ids=[" ".join(argv) for argv, _, _ in LINES])
def test_a_command_line_that_cannot_be_read_is_refused(argv: list[str], source: str, right: str) -> None:
    """Unknown flags, missing values, words that are no flags: named, with what was probably meant."""
    refused(capture(argv), source, "", right)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Flags, variables and the line itself; the count is in the first line."""
    done = capture(
        ["-p", "0", "-x", "10.0.0.0/33", "--nope", "stray", "-c", "a b"],
        {"ISTIO_INBOUND_PORTS": "http", "DRY_RUN": "maybe"},
    )
    assert done.status == 2
    assert "7 settings were refused; nothing was touched" in done.stderr
    for named in ("flag -p", "flag -x", "flag --nope", 'argument "stray"', "flag -c", "ISTIO_INBOUND_PORTS", "DRY_RUN"):
        assert sum(named in line for line in done.stderr.splitlines()[:-1]) == 1, named


def test_what_this_host_does_not_know_is_said_at_once() -> None:
    """Users and groups that do not exist are collected too, after all texts could be read."""
    done = capture(["-u", "no-such-user", "-g", "no-such-group"])
    assert done.status == 2
    assert "2 settings were refused" in done.stderr
    assert '"no-such-user"' in done.stderr
    assert '"no-such-group"' in done.stderr


def test_a_refused_value_of_a_list_is_quoted_out_of_it() -> None:
    """The entry that is wrong is named by itself, besides the whole list."""
    done = capture(["-x", "10.0.0.0/8,10.1.0.0/99,192.0.2.0/24"])
    assert 'flag -x "10.0.0.0/8,10.1.0.0/99,192.0.2.0/24": "10.1.0.0/99" is no network' in done.stderr


def test_a_very_long_value_is_cut() -> None:
    """A message stays readable whatever was given."""
    done = capture(["-p", "9" * 5000])
    assert done.status == 2
    assert all(len(line) < 300 for line in done.stderr.splitlines())


@pytest.mark.parametrize("command", ["apply", "render", "settings"])
def test_commands_refuse_the_same(command: str) -> None:
    """What click runs reads the settings by the same code, and ends with the same status."""
    done = capture([command, "-p", "0", "--nope"])
    assert done.status == 2
    assert done.stdout == ""
    assert 'flag -p "0": is not a port' in done.stderr
    assert "flag --nope: is not known" in done.stderr


@pytest.mark.parametrize("said", [["--log_as_json"], ["--log_as_json=true"]], ids=" ".join)
def test_a_refusal_is_json_where_that_is_asked_for(said: list[str]) -> None:
    """A log pipeline that reads JSON gets JSON, also for what is wrong with the settings themselves."""
    done = capture([*said, "-p", "0"])
    assert done.status == 2
    assert done.stderr.startswith('{"time":')


@pytest.mark.netns
def test_a_refused_run_touches_nothing() -> None:
    """No table, chain, rule, address, route or legacy table comes to be, whatever was refused."""
    with Namespace("refused") as namespace:
        namespace.ip("addr", "add", "10.244.0.5/32", "dev", "lo")
        before = state(namespace)
        for argv in (["-p", "0"], ["-x", "*"], ["--nope"], ["-u", "no-such-user-here"], ["-t", "0", "-m", "TPROXY"]):
            done = namespace.run(
                sys.executable, "-m", "capture", *argv, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
            )
            assert done.returncode == 2, done.stderr
        assert state(namespace) == before


def state(namespace: Namespace) -> list[str]:
    """All that a run could change. The legacy tables are listed without being made (see /proc/net/ip_tables_names)."""
    asked = (
        ("nft", "list", "ruleset"),
        ("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"),
        ("ip", "addr"),
        ("ip", "rule"),
        ("ip", "-6", "rule"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
    )
    return [namespace.output(*command) for command in asked]
