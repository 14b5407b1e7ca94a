"""What commands print for programs: JSON that agrees with its schema, whatever state the namespace is in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from capture.commands.schema import PRINTING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig import Pod

SETTINGS = ["-p", "15001", "-z", "15006", "-u", "1337"]
NATIVE = """
table inet theirs {
    set ports { type inet_service; elements = { 80, 443 }; }
    chain out { type nat hook output priority -50; policy accept; tcp dport @ports counter redirect to :9999; }
}
"""


def nothing(_: Pod) -> None:
    """No rule at all."""


def captured(*arguments: str) -> Callable[[Pod], None]:
    def make(pod: Pod) -> None:
        pod.applied(*SETTINGS, *arguments)

    return make


def drifted(pod: Pod) -> None:
    """A rule is gone, another one has come."""
    captured()(pod)
    pod.inside.output("iptables-nft", "-t", "nat", "-D", "ISTIO_OUTPUT", "1")
    pod.inside.output("iptables-nft", "-t", "nat", "-I", "ISTIO_INBOUND", "-p", "tcp", "--dport", "99", "-j", "ACCEPT")


def others(pod: Pod) -> None:
    """Somebody redirects before we do, and one packet has counted."""
    captured()(pod)
    pod.inside.output("iptables-nft", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "9999")
    pod.open_listeners()
    pod.dial("9.9.9.9", 80)


def routed(pod: Pod) -> None:
    """TPROXY, and an ip rule and a route of others."""
    captured("-m", "TPROXY")(pod)
    pod.inside.ip("rule", "add", "uidrange", "1000-2000", "lookup", "200", "priority", "100")
    pod.inside.ip("route", "add", "blackhole", "10.9.0.0/16")


def another_mesh(pod: Pod) -> None:
    for chain in ("KUMA_MESH_OUTBOUND", "KUMA_MESH_INBOUND"):
        pod.inside.output("iptables-nft", "-t", "nat", "-N", chain)


def native(pod: Pod) -> None:
    captured()(pod)
    pod.inside.output("nft", "-f", "-", text=NATIVE)


STATES: dict[str, Callable[[Pod], None]] = {
    "nothing": nothing,
    "captured": captured("--force-iptables-binary=nft"),
    "legacy": captured("--force-iptables-binary=legacy"),
    "both families, DNS": captured("--dual-stack", "--redirect-dns", "--capture-all-dns"),
    "TPROXY": captured("-m", "TPROXY", "--drop-invalid", "--ipv6=on"),
    "drifted": drifted,
    "rules of others": others,
    "routes of others": routed,
    "another mesh": another_mesh,
    "native tables": native,
}
SCHEMAS: dict[str, Any] = {}
"""Those that were asked for already."""
COMMANDS: dict[str, list[list[str]]] = {
    "check": [["check", *SETTINGS, "--no-rehearsal"]],
    "clean": [["clean", "-n"], ["clean"]],
    "diff": [["diff", *SETTINGS]],
    "escapes": [["escapes", *SETTINGS], ["escapes", "--live"]],
    "explain": [["explain", *SETTINGS, "-x", "10.0.0.1/8"]],
    "settings": [["settings", *SETTINGS, "-i", "*", "--exclude-outbound-ports-for-uids", "80:1000"]],
    "status": [["status"]],
    "trace": [["trace", "9.9.9.9:80", *SETTINGS], ["trace", "--live", "9.9.9.9:80"]],
    "verify": [["verify", *SETTINGS]],
    "watch": [["watch", "--count", "1", "--interval", "100ms", *SETTINGS]],
}


def validator(pod: Pod, command: str) -> Draft202012Validator:
    """Of the schema that `capture schema COMMAND` prints."""
    if command not in SCHEMAS:
        of_command = json.loads(pod.applied("schema", command).stdout)
        Draft202012Validator.check_schema(of_command)
        SCHEMAS[command] = Draft202012Validator(of_command)
    return SCHEMAS[command]


@pytest.mark.parametrize("state", STATES)
def test_every_command_prints_what_its_schema_says(pod: Pod, state: str) -> None:
    """Each command that prints JSON, in each of ten states, with the rights of a run; `clean` comes last."""
    STATES[state](pod)
    assert set(COMMANDS) == set(PRINTING)
    for command in sorted(COMMANDS, key=lambda name: name == "clean"):
        for line in COMMANDS[command]:
            result = pod.capture(*line, "--output", "json")
            assert result.status in (0, 1, 3, 4, 5), result.stderr
            assert result.stdout, f"{line}: {result.stderr}"
            texts = result.stdout.splitlines() if command == "watch" else [result.stdout]
            for text in texts:
                validator(pod, command).validate(json.loads(text))


def test_the_schema_of_a_command_is_to_be_had_in_two_ways(pod: Pod) -> None:
    """`capture schema COMMAND` and `--output schema`; that of settings themselves as `config`."""
    for command in ("status", "settings", "watch"):
        shown = pod.capture("schema", command)
        assert shown.status == 0, shown.stderr
        assert shown.stdout == pod.capture(command, "--output", "schema").stdout
        assert json.loads(shown.stdout) == validator(pod, command).schema
    of_settings = pod.capture("schema", "config")
    assert of_settings.stderr == ""
    described = json.loads(of_settings.stdout)["properties"]
    assert described["outbound_cidrs"]["description"]
    assert described["inbound_ports"]["default"] == "*"


def test_a_dry_removal_tells_what_would_go_and_touches_nothing(pod: Pod) -> None:
    """`clean -n --output json` names what `clean` then removes."""
    pod.applied(*SETTINGS)
    before = pod.state()
    foreseen = json.loads(pod.applied("clean", "-n", "--output", "json").stdout)
    assert pod.state() == before
    assert foreseen["dry_run"] is True
    done = json.loads(pod.applied("clean", "--output", "json").stdout)
    assert done["dry_run"] is False
    assert foreseen["removed"]
    assert all(thing in done["removed"] for thing in foreseen["removed"])
