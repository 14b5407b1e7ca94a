"""What people see: colours where a terminal shows them, lines that break between words, a watch that ends by a key."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.rig import Pod

SETTINGS = [
    "-u",
    "1337",
    "-x",
    "10.0.0.0/8,192.168.0.0/16,172.16.0.0/12",
    "-o",
    ",".join(map(str, range(2000, 2090, 3))),
]
COMMANDS = {
    "status": ["status"],
    "verify": ["verify", *SETTINGS, "-d", "22"],
    "trace": ["trace", "9.9.9.9:80", *SETTINGS],
    "check": ["check", "--no-rehearsal", *SETTINGS],
    "explain": ["explain", *SETTINGS],
    "diff": ["diff", *SETTINGS, "-d", "22"],
    "escapes": ["escapes", *SETTINGS],
    "settings": ["settings", *SETTINGS],
}
PROGRESS = re.compile(r"\r\x1b\[K(\d+ s: [^\r]*\r)?")
"""What tells how long a slow run takes, and its going."""
PLAIN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def at_a_terminal(
    pod: Pod,
    *arguments: str,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    meanwhile: Callable[[int, Callable[[], str]], None] | None = None,
) -> tuple[int, str]:
    """The status, and what stays on a terminal so wide; `meanwhile` may type, and read all that was written."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    before = termios.tcgetattr(its)
    running = subprocess.Popen(
        ["setsid", "--ctty", "--wait", "ip", "netns", "exec", pod.inside.name, *pod.command(*arguments)],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**pod.environ(), "TERM": "xterm-256color", **(env or {})},
    )
    said = b""

    def heard() -> str:
        return said.decode(errors="replace")

    with contextlib.suppress(OSError):
        os.set_blocking(ours, False)
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            try:
                part = os.read(ours, 1 << 16)
                said += part
            except BlockingIOError:
                if running.poll() is not None:
                    break
                time.sleep(0.005)  # a terminal says nothing of its end while we hold its other side
            if meanwhile:
                meanwhile(ours, heard)
    assert termios.tcgetattr(its) == before, "the terminal is left as it was"
    os.close(its)
    os.close(ours)
    return running.wait(30), PROGRESS.sub("", heard()).replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_broken_in_the_midst_of_a_word(pod: Pod, command: str, columns: int, tmp_path: Path) -> None:
    """The same words as in a pipe, on lines no wider than the terminal, but for a word that is wider by itself."""
    pod.applied(*SETTINGS)
    lock = tmp_path / "xtables.lock"  # who holds that of this machine is told as well, and changes
    lock.touch()
    env = {"XTABLES_LOCKFILE": str(lock)}
    piped = pod.capture(*COMMANDS[command], env=env)
    status, said = at_a_terminal(pod, *COMMANDS[command], columns=columns, env=env)
    assert status == piped.status
    plain = PLAIN.sub("", said)
    logged = [line for line in plain.splitlines() if "\twarn\t" not in line]
    changing = re.compile(r"\d+(\.\d+)? ?(MiB|ms|s|kB)\b|pid \d+")
    words = [changing.sub("", " ".join(text.split())) for text in ("\n".join(logged), piped.stdout)]
    assert words[0].replace(" ", "") == words[1].replace(" ", "")
    for line in logged:
        assert len(line) <= columns or len(line.strip().rstrip(",").split(" ")) == 1, line


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "settings"])
def test_colours_come_where_they_can_be_seen(pod: Pod, command: str) -> None:
    """On a terminal, unless NO_COLOR or TERM=dumb say otherwise; --color wins over both; never in a pipe by itself."""
    if command == "diff":
        pod.applied("-u", "1337")
    else:
        pod.applied(*SETTINGS)
    line = COMMANDS[command]
    coloured = {
        "terminal": at_a_terminal(pod, *line)[1],
        "NO_COLOR": at_a_terminal(pod, *line, env={"NO_COLOR": "1"})[1],
        "NO_COLOR, empty": at_a_terminal(pod, *line, env={"NO_COLOR": ""})[1],
        "dumb": at_a_terminal(pod, *line, env={"TERM": "dumb"})[1],
        "never": at_a_terminal(pod, *line, "--color", "never")[1],
        "always": at_a_terminal(pod, *line, "--color=always", env={"NO_COLOR": "1"})[1],
        "pipe": pod.capture(*line).stdout,
        "pipe, always": pod.capture(*line, "--color", "always").stdout,
        "JSON, always": pod.capture(*line, "--color", "always", "--output", "json").stdout,
    }
    assert {how for how, said in coloured.items() if "\x1b[" in said} == {
        "terminal",
        "NO_COLOR, empty",
        "always",
        "pipe, always",
    }


def test_what_takes_long_tells_how_long_at_a_terminal_alone(pod: Pod, tmp_path: Path) -> None:
    """From two seconds on, with the program that is at work; nothing of it stays, and nothing of it is in a pipe."""
    slow = tmp_path / "iptables-nft-restore"
    slow.write_text(f'#!/bin/sh\nsleep 3\nexec {shutil.which(slow.name)} "$@"\n')
    slow.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    heard = ""

    def listen(_: int, everything: Callable[[], str]) -> None:
        nonlocal heard
        heard = everything()

    status, said = at_a_terminal(pod, "-u", "1337", env={"PATH": path}, meanwhile=listen)
    assert status == 0
    assert re.search(r"\r\x1b\[K[2-9] s: sh is at work…\r(.*\r)?\r\x1b\[K\d{4}-", heard, re.DOTALL)
    assert "at work" not in said
    pod.capture("clean")
    assert "at work" not in pod.capture("-u", "1337", path=path).stderr


@pytest.mark.parametrize("key", ["q", "Q"])
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_a_watch_ends_by_a_key(pod: Pod, key: str, env: dict[str, str]) -> None:
    """At once, whatever the interval is; it names the namespace and the key, and draws in place without colours too."""
    pod.applied("-u", "1337")
    typed: list[int] = []

    def type_when_drawn(terminal: int, heard: Callable[[], str]) -> None:
        if not typed and "q ends" in heard():
            typed.append(os.write(terminal, b"x" + key.encode()))

    begun = time.monotonic()
    status, said = at_a_terminal(pod, "watch", "--interval", "1h", env=env, meanwhile=type_when_drawn)
    assert status == 0
    assert time.monotonic() - begun < 20
    assert "\x1b[?1049h" in said
    assert "\x1b[?1049l" in said
    assert f'"{pod.inside.name}"' in said or pod.inside.name in said
    assert bool(re.search(r"\x1b\[\d+m", said)) is not bool(env)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_watch_leaves_out_no_word_where_the_terminal_is_narrow(pod: Pod, columns: int) -> None:
    """What does not fit stands on the next line; no line is wider than the terminal, and none too many for it.

    Where settings are given, a rule has the very reason for which they ask for it.
    """
    pod.applied("-u", "1337")
    told = "9.9.9.9:80 tcp, answered by 127.0.0.1:15001; ISTIO_OUTPUT 9: everything else goes to the proxy"
    frames = [""]
    done = False

    def call_and_read(terminal: int, heard: Callable[[], str]) -> None:
        nonlocal done, frames
        frames = [PLAIN.sub("", frame) for frame in heard().split("\x1b[H")]
        if len(frames) == 2 and "q ends" in frames[-1]:
            pod.dial("9.9.9.9", 80)
        if not done and any(told in " ".join(frame.split()) for frame in frames):
            done = os.write(terminal, b"q") > 0

    pod.open_listeners()
    status, _ = at_a_terminal(
        pod, "watch", "-u", "1337", "--interval", "100ms", columns=columns, meanwhile=call_and_read
    )
    assert done, frames[-1]
    assert status == 0
    for frame in frames[1:-1]:
        assert len(frame.splitlines()) <= 24
        assert all(len(line) <= columns for line in frame.splitlines()), frame


def test_a_watch_on_a_dumb_terminal_is_lines(pod: Pod) -> None:
    """TERM=dumb has no cursor that moves."""
    pod.applied("-u", "1337")
    status, said = at_a_terminal(pod, "watch", "--count", "1", "--interval", "100ms", env={"TERM": "dumb"})
    assert status == 0
    assert "\x1b" not in said
    assert "no drift from the start" in said
