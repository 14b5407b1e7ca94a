"""The rig's own promise: its namespaces are gone afterwards, also those of a run that was killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.rig.namespace import PREFIX, ip, listed, made_by, that_waits
from tests.rig.pod import ROOT

WORKERS = 8
REMOVE = "from tests.rig.namespace import remove_those_of_the_dead as remove; input(); remove()"


def test_workers_of_one_run_remove_what_a_killed_run_left_side_by_side() -> None:
    """Each of them looks when it starts. One that finds nothing any more has no reason to fail: all its tests would."""
    with subprocess.Popen(["true"]) as ended:
        pass
    for number in range(12):
        ip("netns", "add", f"{PREFIX}-{ended.pid}-{number}-pod")
    workers = [
        subprocess.Popen([sys.executable, "-c", REMOVE], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        for _ in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdin
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    assert [worker.communicate()[1].decode()[-200:] for worker in workers] == [""] * WORKERS
    assert made_by(ended.pid) == []


def test_a_namespace_of_a_living_run_stays() -> None:
    """Another run on this machine may be at work in it."""
    with subprocess.Popen(["sleep", "60"]) as living:
        name = f"{PREFIX}-{living.pid}-0-pod"
        ip("netns", "add", name)
        try:
            subprocess.run([sys.executable, "-c", REMOVE], input=b"\n", cwd=ROOT, check=True)
            assert name in listed()
        finally:
            ip("netns", "del", name)
            living.kill()


WAITING = {
    ("iptables-legacy", "-N", "NEW"): ["iptables-legacy", "-w", "30", "-N", "NEW"],
    ("sh", "-ec", "true; ip6tables-legacy -N NEW"): ["sh", "-ec", "true; ip6tables-legacy -w 30 -N NEW"],
    ("iptables-legacy-restore",): ["iptables-legacy-restore", "-w", "30"],
    ("iptables-legacy-save", "-c"): ["iptables-legacy-save", "-c"],
    ("iptables-nft", "-S"): ["iptables-nft", "-S"],
}


@pytest.mark.parametrize(("command", "waiting"), WAITING.items(), ids=" ".join)
def test_a_legacy_command_waits_for_the_lock_of_the_machine(command: tuple[str, ...], waiting: list[str]) -> None:
    """Another test may hold it for a moment, or another checkout. iptables 1.8.11 gives up at once, 1.8.9 does not."""
    assert that_waits(command) == waiting
