"""A signal in the middle of a run: it finishes, or takes back what it did, and then ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.netns.test_apply import block
from tests.rig.pod import without_empty_legacy_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig import Pod

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@contextlib.contextmanager
def stopped_before(pod: Pod, folder: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run of ours that has started this program, which waits for a file named `go` before it does its work."""
    real = next(f"{place}/{program}" for place in ("/usr/sbin", "/sbin") if os.path.exists(f"{place}/{program}"))
    os.mkfifo(folder / "started")
    wrapper = folder / program
    wait = f"echo > {folder}/started; read _ < {folder}/go.pipe"
    wrapper.write_text(f'#!/bin/sh\n[ -e {folder}/go ] || {{ {wait}; }}\nexec {real} "$@"\n')
    os.mkfifo(folder / "go.pipe")
    wrapper.chmod(0o755)
    environ = {**pod.environ(), "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["ip", "netns", "exec", pod.inside.name, *pod.command(*arguments)]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            has_started(folder / "started", process)
            yield process
        finally:
            process.kill()


def has_started(pipe: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the program says so in this pipe; fail where it is never run."""
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert select.select([end], [], [], 30)[0], f"not started: {process.args!r}"
    finally:
        os.close(end)


def test_nobody_comes_in_while_a_killed_runs_child_still_works(pod: Pod, backend: str, tmp_path: Path) -> None:
    """SIGKILL leaves iptables-restore alone with its work. A removal waits for it, and then removes what it did."""
    before = pod.meaning()
    program = f"ip6tables-{backend}-restore"
    forced = f"--force-iptables-binary={backend}"
    with stopped_before(pod, tmp_path, program, "-u", "1337", "--dual-stack", forced) as process:
        process.kill()
        process.wait(timeout=30)
        command = ["ip", "netns", "exec", pod.inside.name, *pod.command("--cleanup-only")]
        with subprocess.Popen(command, env=pod.environ(), stderr=subprocess.PIPE, text=True) as next_run:
            with pytest.raises(subprocess.TimeoutExpired):
                next_run.wait(timeout=1)
            go(tmp_path)
            said = next_run.communicate(timeout=30)[1]
    assert next_run.returncode == 0, said
    assert without_empty_legacy_tables(pod.meaning()) == without_empty_legacy_tables(before)


def go(folder: Path) -> None:
    """Let the program that waits do its work, and all later ones without waiting."""
    (folder / "go").touch()
    (folder / "go.pipe").write_text("\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_told_to_end_finishes_first(pod: Pod, backend: str, tmp_path: Path, number: int) -> None:
    """The signal arrives while iptables-restore runs, also at it: afterwards the capture is whole."""
    arguments = ["-u", "1337", "--dual-stack", f"--force-iptables-binary={backend}"]
    with stopped_before(pod, tmp_path, f"ip6tables-{backend}-restore", *arguments) as process:
        os.killpg(process.pid, number)
        go(tmp_path)
        process.communicate(timeout=30)
    assert process.returncode == -number
    assert "already in place" in pod.applied(*arguments).stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_refused_run_that_is_told_to_end_takes_back_first(pod: Pod, tmp_path: Path, number: int) -> None:
    """IPv6 is in place, IPv4 is refused, and a signal waits: nothing is left of either."""
    block(pod, "ip")
    before = pod.state()
    arguments = ["-u", "1337", "--dual-stack", "--force-iptables-binary=nft"]
    with stopped_before(pod, tmp_path, "iptables-nft-restore", *arguments) as process:
        os.killpg(process.pid, number)
        go(tmp_path)
        process.communicate(timeout=30)
    assert process.returncode == -number
    assert pod.state() == before


def test_a_run_says_for_whom_it_waits(pod: Pod, tmp_path: Path) -> None:
    """The lock of iptables is held by somebody: the run names them, and goes on when the lock is free."""
    lock = tmp_path / "xtables.lock"
    environ = {**pod.environ(), "XTABLES_LOCKFILE": str(lock)}
    command = pod.command("-u", "1337", "--force-iptables-binary=legacy")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            ["ip", "netns", "exec", pod.inside.name, *command], env=environ, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr
            said = next(line for line in process.stderr if "waiting for the lock of iptables" in line)
            assert f"{lock}, up to 30 s: pid {os.getpid()} (" in said
            fcntl.flock(held, fcntl.LOCK_UN)
            rest = process.communicate(timeout=30)[1]
    assert process.returncode == 0, rest
    assert "The capture is in place" in rest
