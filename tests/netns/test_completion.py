"""Completion, typed into the real shells."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest

from capture.completion.scripts import SHELLS
from tests.rig import Namespace
from tests.rig.pod import Pod, has

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STARTED = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(capture completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; source <(capture completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "capture completion fish | source"),
}
PATIENCE = 30.0
"""Seconds in which a shell answers, on a machine that is busy."""
TO_THE_START = "\x01"
ENDED = "typed-and-run"


class Shell:
    """An interactive shell in a namespace, with our programs on its PATH."""

    def __init__(self, name: str, namespace: Namespace, folder: Path) -> None:
        command, loading = STARTED[name]
        for program in ("capture", "istio-iptables"):
            (folder / program).write_text(f'#!/bin/sh\nexec {sys.executable} -m capture "$@"\n')
            (folder / program).chmod(0o755)
        self.ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        environ = {**Pod.environ(), "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "TERM": "vt100"}
        self.running = subprocess.Popen(
            ["ip", "netns", "exec", namespace.name, *command],
            stdin=its,
            stdout=its,
            stderr=its,
            env=environ,
            cwd=folder,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(its)
        self.said = ""
        self.type(f"{loading}\n")
        self.type(f"echo {ENDED[:5]}''{ENDED[5:]}\n")
        self.wait_for(ENDED)

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until the shell has shown this. Raises AssertionError if it does not."""
        until = time.monotonic() + PATIENCE
        while text not in self.said:
            ready, _, _ = select.select([self.ours], [], [], max(until - time.monotonic(), 0))
            assert ready, f"{text!r} was not shown, but {self.said!r}"
            self.said += os.read(self.ours, 1 << 16).decode(errors="replace")

    def completed(self, typed: str) -> str:
        """The command line that a Tab makes of what was typed."""
        mark = f"<{time.monotonic_ns()}>"
        # What was completed is printed instead of run. The quotes keep the echo of our typing from passing for it.
        self.type(f"{typed}\t{TO_THE_START}echo '{mark[:5]}''{mark[5:]}' \n")
        self.wait_for(mark)
        after = self.said.rpartition(mark)[2]
        while "\n" not in after:
            self.said += os.read(self.ours, 1 << 16).decode(errors="replace")
            after = self.said.rpartition(mark)[2]
        return after.partition("\n")[0].strip()

    def close(self) -> None:
        os.close(self.ours)
        self.running.kill()
        self.running.wait()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """Each of the shells that is installed."""
    name: str = request.param
    if has(name):
        pytest.skip(f"{name} is not installed")
    with Namespace("shell") as namespace:
        namespace.ip("addr", "add", "10.244.0.5/24", "dev", "lo")
        (tmp_path / "settings.yaml").touch()
        started = Shell(name, namespace, tmp_path)
        try:
            yield started
        finally:
            started.close()


@pytest.mark.parametrize("program", ["capture", "istio-iptables"])
def test_a_tab_completes_commands_settings_and_values(shell: Shell, program: str) -> None:
    """Each to the only word that it can be, in the shell as people have it; nothing is applied by any of them."""
    for typed, full in {
        "tra": "trace",
        "clean --outp": "clean --output",
        "trace --output j": "trace --output json",
        "-m TP": "-m TPROXY",
        "--istio-inbound-interception-mode=T": "--istio-inbound-interception-mode=TPROXY",
        "verify --exclude-outbound-ports-": "verify --exclude-outbound-ports-for-uids",
        "help err": "help errors",
        "completion fi": "completion fish",
        "--resolv-conf sett": "--resolv-conf settings.yaml",
        "diff --resolv-conf=sett": "diff --resolv-conf=settings.yaml",
        "clean --envoy": "clean --envoy",
    }.items():
        assert shell.completed(f"{program} {typed}") == f"{program} {full}"
