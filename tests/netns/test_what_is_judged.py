"""A command judges only what it uses: a Service's variables and other rubbish refuse nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.rig import Pod

LINKS = {
    "ENVOY_PORT": "tcp://10.96.7.7:8080",
    "ENVOY_SERVICE_HOST": "10.96.7.7",
    "ENVOY_SERVICE_PORT": "8080",
    "ENVOY_PORT_8080_TCP": "tcp://10.96.7.7:8080",
    "ENVOY_PORT_8080_TCP_ADDR": "10.96.7.7",
    "INBOUND_CAPTURE_PORT": "tcp://10.96.7.8:80",
}
"""As the kubelet gives them to every container beside Services called envoy and inbound-capture."""
RUBBISH = {"ENVOY_PORT": "rubbish", "PROXY_UID": "-1", "INVALID_DROP": "perhaps", "ISTIO_SERVICE_CIDR": "10.0.0.0/40"}
UNKNOWN = ("-u", "nosuch", "--redirect-dns", "--resolv-conf", "/nonexistent")
"""Flags that can be read, and mean nothing on this host."""
USE_NOTHING = (["status"], ["trace", "--live", "9.9.9.9:80"], ["graph", "--live"], ["watch", "--count", "1"], ["clean"])


@pytest.mark.parametrize("command", USE_NOTHING, ids=lambda words: words[0])
def test_what_tells_what_is_there_needs_no_settings(pod: Pod, command: list[str]) -> None:
    """Neither links nor rubbish, from variables or flags, are in its way; what it was told in vain, it may say."""
    pod.applied("-u", "1337")
    asked = ["--interval", "50ms"] if command[0] == "watch" else []
    for arguments, environ in (([], LINKS), ([], RUBBISH), (["-p", "x"], {}), ([*UNKNOWN], {}), ([*UNKNOWN], RUBBISH)):
        got = pod.capture(*command, *asked, *arguments, env=environ)
        assert got.status == 0, (arguments, environ, got.stderr)
        if command[0] == "clean":
            pod.applied("-u", "1337")


LOGS = [
    ({"LOG_OUTPUT_LEVEL": "loud"}, []),
    ({"LOG_AS_JSON": "perhaps"}, []),
    ({}, ["--log_output_level=default:loud"]),
    ({"LOG_OUTPUT_LEVEL": "default:"}, ["--log_as_json=perhaps"]),
]


@pytest.mark.parametrize(
    "command", [*USE_NOTHING, ["escapes", "--live"], ["--cleanup-only"]], ids=lambda words: words[0]
)
def test_what_is_meant_for_the_log_stops_nobody_who_looks_or_removes(pod: Pod, command: list[str]) -> None:
    """A level that is none, and the like: a warning that names it, and the answer. A run that applies refuses it."""
    removes = command[0] in ("clean", "--cleanup-only")
    pod.applied("-u", "1337")
    asked = ["--interval", "50ms"] if command[0] == "watch" else []
    for environ, flags in LOGS:
        got = pod.capture(*command, *asked, *flags, env=environ)
        assert got.status == 0, got.stderr
        for value in (*environ.values(), *(flag.partition("=")[2] for flag in flags)):
            assert f'"{value}"' in got.stderr
        assert "left out of account" in got.stderr
        if removes:
            assert pod.capture("-u", "1337", *flags, env=environ).status == 2
            pod.applied("-u", "1337")


@pytest.mark.parametrize("environ", [LINKS, RUBBISH], ids=["links", "rubbish"])
def test_a_removal_needs_none_either(pod: Pod, environ: dict[str, str]) -> None:
    """`--cleanup-only`, as a flag or as a variable."""
    before = pod.state()
    for arguments, more in ((["--cleanup-only"], {}), ([], {"CLEANUP_ONLY": "true"})):
        pod.applied("-u", "1337")
        done = pod.applied(*arguments, *UNKNOWN, env={**environ, **more})
        assert "Nothing of ours is left" in done.stderr
        assert pod.state() == before


def test_a_link_to_a_service_captures_as_if_it_were_not_there(pod: Pod) -> None:
    """With a warning; the variables of links that are no settings of ours are not even mentioned."""
    linked = pod.applied("-u", "1337", env=LINKS)
    for name in ("ENVOY_PORT", "INBOUND_CAPTURE_PORT"):
        assert f'environment {name} "tcp://' in linked.stderr
    assert "is a link to the Service" in linked.stderr
    assert "SERVICE_HOST" not in linked.stderr
    assert "already in place" in pod.applied("-u", "1337").stderr
    assert pod.capture("verify", "-u", "1337", env=LINKS).status == 0


def test_what_is_used_is_judged(pod: Pod) -> None:
    """By what applies, and by what says what would be applied."""
    for command in ([], ["-n"], ["verify"], ["diff"], ["render"], ["explain"], ["trace", "9.9.9.9:80"], ["check"]):
        assert pod.capture(*command, env=RUBBISH).status == 2, command
    assert pod.capture("verify", "-u", "1337", env={"PROBE_TIMEOUT": "rubbish"}).status == 3
