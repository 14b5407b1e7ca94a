"""Hostile neighbours: no process without CAP_NET_ADMIN holds up a run, deceives it, or speaks through it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from capture.kernel import locks
from tests.netns.test_apply import READ_ONLY, unprivileged
from tests.netns.test_signals import stopped_before
from tests.rig.deny import CALLS, MACHINE
from tests.rig.hostile import FORGED, NOBODY, SSH_PORT, hostile
from tests.rig.namespace import entered
from tests.rig.pod import ROOT, Result

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Pod

QUICK = 20
"""Seconds in which a run that waits for nobody ends on a busy machine; a lock is waited for 30 s."""
ON_A_TERMINAL = ("script", "-qec")


def said_raw(text: str) -> list[str]:
    """The characters in it that a terminal would obey or hide."""
    return sorted({c for c in text if not (c.isprintable() or c in "\n\t")})


@pytest.fixture
def open_lock(tmp_path: Path) -> Path:
    """A lock file of iptables that everybody may open, as a hostPath volume of type FileOrCreate makes it."""
    made = tmp_path / "xtables.lock"
    made.touch(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    return made


def test_a_hostile_pod_changes_nothing(pod: Pod, backend: str, open_lock: Path) -> None:
    """Every trick at once: apply, status and clean by root succeed, in time, and print nothing raw."""
    forced = f"--force-iptables-binary={backend}"
    environ = {"XTABLES_LOCKFILE": str(open_lock)}
    comment = f'x\x1b[2J\n{FORGED}\u202e"'
    with hostile(pod.inside, [pod.inside.path, str(open_lock)]):
        commands = (
            (["-u", "1337", "--dual-stack", "-m", "TPROXY", forced], 0),
            (["-u", str(NOBODY), forced], 0),
            (["status"], 0),
            (["check", "-u", str(NOBODY), forced], 0),
            (["verify", "-u", str(NOBODY), forced], 4),
            (["diff", "-u", str(NOBODY), forced], 4),
            (["watch", "--count", "1", "--interval", "50ms"], 0),
            (["trace", "--live", "9.9.9.9:80"], 0),
            (["graph", "--live", forced], 0),
            (["-u", "1337", forced], 0),
            (["clean"], 0),
        )
        for command, status in commands:
            if command[0] == "verify":
                pod.inside.output(
                    f"iptables-{backend}", "-t", "nat", "-I", "ISTIO_OUTPUT", "-m", "comment", "--comment", comment
                )
            began = time.monotonic()
            got = pod.capture(*command, env=environ)
            assert got.status == status, (command, got.stderr)
            assert time.monotonic() - began < QUICK, command
            assert said_raw(got.stdout + got.stderr) == [], command
            assert not any(line.startswith(FORGED[:10]) for line in (got.stdout + got.stderr).splitlines()), command


def test_a_terminal_is_told_nothing_raw(pod: Pod) -> None:
    """Where colours and the screen of a watch are ours, they are all that there is."""
    pod.applied("-u", "1337")
    comment = f"x\x1b]0;gone\x07\x9b2J\n{FORGED}"
    pod.inside.output("iptables-nft", "-t", "nat", "-I", "ISTIO_OUTPUT", "-m", "comment", "--comment", comment)
    for command in ("status", "verify", "diff", "watch --count 1", "trace --live 9.9.9.9:80", "check", "-u 1337"):
        line = " ".join([*pod.command(), command])
        done = pod.inside.run(*ON_A_TERMINAL, line, "/dev/null", env={**pod.environ(), "TERM": "xterm"})
        assert "\x1b]0;" not in done.stdout, command
        assert "\x07" not in done.stdout, command
        assert "\x9b" not in done.stdout, command
        assert not any(line.startswith(FORGED[:10]) for line in done.stdout.splitlines()), command


def test_only_roots_sshd_is_spared(pod: Pod) -> None:
    """Somebody else's is captured as everything is."""
    with hostile(pod.inside, []):
        applied = pod.applied("-u", "1337")
    assert f"port {SSH_PORT}" not in applied.stderr
    assert not any(f"--dport {SSH_PORT}" in line for line in pod.saved())


def test_who_holds_a_lock_and_may_not_is_named_and_passed_by(pod: Pod, open_lock: Path) -> None:
    """With pid and uid: an operator will want to know."""
    with hostile(pod.inside, [str(open_lock)]) as pids:
        applied = pod.applied("-u", "1337", "--force-iptables-binary=legacy", env={"XTABLES_LOCKFILE": str(open_lock)})
    warned = next(line for line in applied.stderr.splitlines() if "passed by the lock of iptables" in line)
    assert f"(uid {NOBODY}, " in warned
    assert any(f"pid {pid} " in warned for pid in pids)


def test_root_without_the_capability_holds_up_nobody_either(pod: Pod, open_lock: Path) -> None:
    """As an application that runs as root in its container."""
    dropped = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]
    holders = [
        subprocess.Popen(
            ["ip", "netns", "exec", pod.inside.name, *dropped, "flock", path, "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for path in (pod.inside.path, str(open_lock))
    ]
    try:
        for holder in holders:
            assert holder.stdout
            holder.stdout.readline()
        began = time.monotonic()
        for backend in ("nft", "legacy"):
            pod.applied("-u", "1337", f"--force-iptables-binary={backend}", env={"XTABLES_LOCKFILE": str(open_lock)})
        assert time.monotonic() - began < QUICK
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


# --- who is at work -------------------------------------------------------------------------------------------


def test_another_run_is_waited_for_and_named(pod: Pod, tmp_path: Path) -> None:
    """With pid, uid and command; when it has ended, the next one goes on."""
    with stopped_before(pod, tmp_path, "iptables-nft-restore", "-u", "1337") as first:
        command = ["ip", "netns", "exec", pod.inside.name, *pod.command("-u", "1338")]
        with subprocess.Popen(command, env=pod.environ(), stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr
            said = next(line for line in second.stderr if "waiting for another run in this namespace" in line)
            assert "(uid 0, `" in said
            assert "-m capture -u 1337" in said
            assert f"pid {first.pid} " in said
            checked = pod.capture("check", "-u", "1337")
            told = " ".join(checked.stdout.split())
            assert "one is at work: pid " in told
            assert f"pid {first.pid} (uid 0" in told
            (tmp_path / "go").touch()
            (tmp_path / "go.pipe").write_text("\n")
            rest = second.communicate(timeout=60)[1]
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), rest
    assert any("--uid-owner 1338" in line for line in pod.saved())


def test_many_runs_at_once_are_done_one_after_the_other(pod: Pod, backend: str) -> None:
    """Whoever comes last decides; no run sees another's work half done."""
    forced = f"--force-iptables-binary={backend}"
    command = ["ip", "netns", "exec", pod.inside.name]
    runs = [
        subprocess.Popen(
            [*command, *pod.command("-u", str(2000 + number), forced)],
            env=pod.environ(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    ended: list[Result] = []
    for run in runs:
        said = run.communicate(timeout=60)[1]
        ended.append(Result(run.returncode, "", said))
    assert [run.status for run in ended] == [0] * len(runs), [run.stderr for run in ended if run.status]
    assert not any("trying again" in run.stderr for run in ended)
    owners = {line.partition("--uid-owner ")[2].split()[0] for line in pod.saved(backend) if "--uid-owner" in line}
    assert len(owners) == 1


@pytest.mark.skipif(not CALLS, reason=f"{MACHINE}: its numbers of system calls are not listed in tests/rig/deny.py")
def test_the_capability_is_all_that_keeping_others_out_takes(pod: Pod) -> None:
    """As uid 65534 with NET_ADMIN alone, where nothing can be written, and flock(2), setns(2) and more are refused."""
    pod.open_listeners()
    calls = ",".join(f"{name}:EPERM" for name in ("flock", "setns", "membarrier", "memfd_create"))
    within = (*READ_ONLY, sys.executable, str(ROOT / "tests/rig/deny.py"), calls)
    with hostile(pod.inside, [pod.inside.path]):
        for arguments, landing in ((["-u", "1337"], "pod:15001"), (["--cleanup-only"], "ext:80")):
            got = unprivileged(pod, *arguments, capabilities=("net_admin",), within=within)
            assert got.status == 0, got.stderr
            assert str(pod.dial("9.9.9.9", 80)) == landing


def test_two_are_never_at_work(pod: Pod, tmp_path: Path) -> None:
    """Twelve processes that come and go as fast as they can: whoever is in has the place for itself."""
    place = tmp_path / "place"

    def come_and_go() -> None:
        for _ in range(25):
            with locks.locked(print):
                os.close(os.open(place, os.O_CREAT | os.O_EXCL))
                time.sleep(0.001)
                place.unlink()

    with entered(pod.inside):
        pids = []
        for _ in range(12):
            pid = os.fork()
            if not pid:
                try:
                    come_and_go()
                    os._exit(0)
                finally:
                    os._exit(1)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


def test_a_real_holder_of_the_lock_of_iptables_is_named_in_the_error(pod: Pod, open_lock: Path) -> None:
    """A program that may change rules holds it for good: the run gives up, the namespace is as it was."""
    before = pod.state()
    with subprocess.Popen(["flock", str(open_lock), "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout
        holder.stdout.readline()
        refused = pod.capture("-u", "1337", "--force-iptables-binary=legacy", env={"XTABLES_LOCKFILE": str(open_lock)})
        holder.kill()
    assert refused.status == 1
    assert "waited 30 s for the lock of iptables" in refused.stderr
    assert "(uid 0, `" in refused.stderr
    assert pod.state() == before


# --- children -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["iptables-nft-save", "iptables-nft-restore"])
def test_a_child_that_hangs_is_killed_and_named(pod: Pod, tmp_path: Path, program: str) -> None:
    """With what it has started; nothing is left of it, or of ours."""
    pod.inside.output("iptables-nft", "-t", "nat", "-N", "THEIRS")
    before = pod.state()
    wrapper = tmp_path / program
    wrapper.write_text("#!/bin/sh\nsleep 1000\n")
    wrapper.chmod(0o755)
    refused = pod.capture("-u", "1337", path=f"{tmp_path}:{os.environ['PATH']}")
    assert refused.status == 1
    assert "did not end within 30 s, and was killed" in refused.stderr
    assert pod.state() == before
    pod.applied("-u", "1337")
