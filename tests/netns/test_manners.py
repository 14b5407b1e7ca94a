"""Harmless by default: what a person types who does not know us yet changes nothing; what a pod runs is said."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from capture.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.rig import Pod

STREAMS = {"all": (0, 1, 2), "stdin": (0,), "stdout": (1,), "stderr": (2,)}


def at_a_terminal(
    pod: Pod, *arguments: str, streams: tuple[int, ...] = (0, 1, 2), env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """The status, and all that is said, of our tool whose streams of these numbers are a terminal."""
    ours, its = pty.openpty()
    read_end, write_end = os.pipe()
    with open(os.devnull, "rb") as nothing:
        given = [its if number in streams else (nothing.fileno(), write_end, write_end)[number] for number in range(3)]
        running = subprocess.Popen(
            ["ip", "netns", "exec", pod.inside.name, *pod.command(*arguments)],
            stdin=given[0],
            stdout=given[1],
            stderr=given[2],
            env={**pod.environ(), **(env or {})},
        )
        os.close(its)
        os.close(write_end)
        said = b""
        for end in (ours, read_end):
            while True:
                try:
                    part = os.read(end, 1 << 16)
                except OSError:  # the other end of a terminal was closed
                    break
                if not part:
                    break
                said += part
            os.close(end)
        return running.wait(60), said.decode()


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("name", [(), ("istio-iptables",)], ids=["bare", "the reference's name"])
def test_the_name_alone_at_a_terminal_touches_nothing(pod: Pod, name: tuple[str, ...], streams: str) -> None:
    """Whichever of the streams is one. It prints the usage and ends with 2, also beside variables that say nothing."""
    before = pod.state()
    link = {"ENVOY_PORT": "tcp://10.96.0.7:80", "PROXY_UID": "", "UNRELATED": "1"}
    status, said = at_a_terminal(pod, *name, streams=STREAMS[streams], env=link)
    assert status == 2
    assert said.startswith("usage: capture ")
    assert "capture apply" in said
    assert pod.state() == before


@pytest.mark.parametrize(
    ("arguments", "env"),
    [(["apply"], {}), (["-u", "1337"], {}), ([], {"PROXY_UID": "1337"}), ([], {"ISTIO_OUTBOUND_OWNER_GROUPS": ""})],
    ids=["the command", "a flag", "a variable", "an empty variable that counts"],
)
def test_who_says_anything_at_a_terminal_is_obeyed(pod: Pod, arguments: list[str], env: dict[str, str]) -> None:
    """A flag, a variable that is a setting, or the command by its name."""
    status, said = at_a_terminal(pod, *arguments, env=env)
    assert status == 0, said
    assert "The capture is in place" in said


@pytest.mark.parametrize("name", [(), ("istio-iptables",)], ids=["bare", "the reference's name"])
def test_an_entrypoint_without_a_terminal_captures(pod: Pod, name: tuple[str, ...]) -> None:
    """As a pod spec without arguments has it."""
    pod.applied(*name)
    assert ":ISTIO_OUTPUT -" in "\n".join(pod.saved())


@pytest.mark.parametrize("variable", ["_CAPTURE_COMPLETE", "_ISTIO_IPTABLES_COMPLETE"])
def test_asking_for_completion_as_click_says_never_applies_anything(pod: Pod, variable: str) -> None:
    """Whatever is asked for, and whatever stands behind the name."""
    before = pod.state()
    asked = ["bash_source", "zsh_source", "fish_source", "source", "source_bash", "bash_complete", "complete", "1", ""]
    for value, arguments in itertools.product(asked, ([], ["-u", "1337"], ["apply"], ["clean"])):
        result = pod.capture(*arguments, env={variable: value, "COMP_WORDS": "capture ", "COMP_CWORD": "1"})
        shell = value.removesuffix("_source").removeprefix("source_")
        if shell in ("bash", "zsh", "fish"):
            assert result.stdout == pod.capture("completion", shell).stdout
            assert result.status == 0
        else:
            assert result.status == 2
            assert "capture completion bash|zsh|fish" in result.stderr
    assert pod.state() == before


@pytest.mark.parametrize("arguments", [["-u", "1337"], ["-n"], ["--cleanup-only"], ["--run-validation"], ["clean"]])
def test_every_run_says_which_namespace_it_changes(pod: Pod, arguments: list[str]) -> None:
    """By the number that lsns shows, and by its name, also where --network-namespace names it."""
    number = pod.inside.output("readlink", "/proc/self/ns/net").strip()
    named = f'Network namespace: {number}, "{pod.inside.name}" of `ip netns`'
    assert named in pod.capture(*arguments).stderr
    asked = pod.capture(*arguments, "--network-namespace", pod.inside.name)
    assert f'Network namespace: {number}, "{pod.inside.name}" of --network-namespace' in asked.stderr


def test_no_list_of_variables_is_empty(pod: Pod) -> None:
    """Where no variable was read, the log does not speak of any."""
    assert "Environment:" not in pod.applied("-u", "1337").stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["trcae"], 'command "trcae": is not known; did you mean trace?'),
        (["help", "statsu"], 'command "statsu": is not known; did you mean status?'),
        (["bananas", "-p", "15001"], 'command "bananas": is not known; `capture --help` lists the commands'),
        (["status", "--outptu", "json"], "flag --outptu: is not known; did you mean --output?"),
        (["status", "--output", "jsn"], 'option --output "jsn": is not one of text, json, schema; did you mean json?'),
        (["trace", "--state=newish", ":80"], 'option --state "newish": is not one of new, '),
        (["watch", "--count", "0"], 'option --count "0": is not a number of at least 1'),
        (["watch", "--count", "many"], 'option --count "many": is not a number of at least 1'),
        (["completion", "bahs"], 'argument "bahs": is not one of bash, zsh, fish; did you mean bash?'),
        (["completion"], "argument: is missing: one of bash, zsh, fish"),
        (["settings", "-V"], "flag -V: is not known; `capture settings --help` lists the flags"),
        (["-V"], "flag -V: is not known; `capture apply --help` lists the flags"),
        (["clean", "--network-namespace", "nowhere"], 'cannot enter the network namespace "nowhere"'),
    ],
)
def test_every_error_has_one_form(pod: Pod, line: list[str], told: str) -> None:
    """Also those that click finds; what might have been meant is told once; JSON where the log is JSON."""
    before = pod.state()
    plain = pod.capture(*line)
    logged = pod.capture(*line, env={"LOG_AS_JSON": "true"})
    assert plain.status == logged.status in (1, 2)
    assert (plain.stdout, logged.stdout) == ("", "")
    assert plain.stderr.count("did you mean") <= 1
    assert told in plain.stderr
    assert "Usage:" not in plain.stderr
    assert re.match(r"error: |\d{4}-\d\d-\d\dT[\d:.]+Z\terror\t", plain.stderr)
    entries = [json.loads(entry) for entry in logged.stderr.splitlines()]
    assert all(list(entry) == ["time", "level", "scope", "msg"] and entry["level"] == "error" for entry in entries)
    assert told in entries[0]["msg"]
    assert pod.state() == before


def test_help_is_to_be_had_by_both_ways(pod: Pod) -> None:
    """`capture help COMMAND` is `capture COMMAND --help`; `capture help errors` has every status and error."""
    for command in ("trace", "clean", "completion"):
        assert pod.capture("help", command).stdout == pod.capture(command, "--help").stdout
    assert pod.capture("help").stdout == pod.capture("--help").stdout
    page = pod.capture("help", "errors").stdout
    assert all(word in page for word in ("ValidationFailed", "KernelRefused", "126", "UnknownCommand"))


def test_help_lists_what_a_command_takes(pod: Pod) -> None:
    """clean and status nothing of a capture, apply all; with the values of each, between words only."""
    for command in ("clean", "status"):
        text = pod.capture(command, "--help").stdout
        assert "--envoy-port" not in text
        assert "--network-namespace NAME|PATH|PID" in text
    text = pod.capture("apply", "--help").stdout
    assert "-u, --proxy-uid UID[,UID…]" in text
    assert text.index("The proxy:") < text.index("Inbound traffic:") < text.index("Outbound traffic:")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_is_as_wide_as_the_terminal_and_breaks_no_word(pod: Pod, columns: int) -> None:
    """No line is wider than that, but one whose only word is."""
    for command in ("apply", "trace", "watch"):
        wide = pod.capture(command, "--help", env={"COLUMNS": "10000"}).stdout.split()
        text = pod.capture(command, "--help", env={"COLUMNS": str(columns)}).stdout
        assert text.split() == wide
        assert not [line for line in text.splitlines() if len(line) > columns and len(line.split()) > 3]


@pytest.mark.parametrize("command", [*COMMANDS, "statsu"])
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_refusal_is_json_in_every_command_where_the_log_is(pod: Pod, command: str, by: str) -> None:
    """--log_as_json or its variable: every line of stderr is an object, for click's refusals as well as for ours."""
    bad = [command, "--no-such-flag", "-p", "0"]
    words = [*bad, "--log_as_json"] if by == "flag" else bad
    refused = pod.capture(*words, env={"LOG_AS_JSON": "true"} if by == "variable" else {})
    assert refused.status == 2, refused.stderr
    assert refused.stdout == ""
    entries = [json.loads(line) for line in refused.stderr.splitlines()]
    assert [entry["level"] for entry in entries][-1:] == ["error"]
