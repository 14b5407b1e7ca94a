"""Many namespaces by one command line: each as if it were alone, and none held up by what fails in another."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.rig import Namespace
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pods() -> Iterator[list[Namespace]]:
    with ExitStack() as stack:
        made = [stack.enter_context(Namespace(f"many{number}")) for number in range(5)]
        for pod in made:
            pod.ip("addr", "add", "10.244.0.5/32", "dev", "lo")
        yield made


@pytest.fixture
def outside() -> Iterator[Namespace]:
    """Where the command is given: whatever goes wrong, it is not the machine's own namespace that is captured."""
    with Namespace("outside") as made:
        yield made


def capture(outside: Namespace, *arguments: str, text: str = "", path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", outside.name, sys.executable, "-m", "capture", *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None,
    )


def named(pods: list[Namespace]) -> list[str]:
    return [f"--network-namespace={pod.name}" for pod in pods]


def is_captured(pod: Namespace) -> bool:
    return "ISTIO_OUTPUT" in pod.output("iptables-nft-save")


def test_each_is_captured_and_says_so_in_a_line(outside: Namespace, pods: list[Namespace]) -> None:
    """By repeated flags and by a list on stdin, with comments and empty lines in it; and released so as well."""
    first = capture(outside, "-u", "1337", *named(pods[:3]))
    assert first.returncode == 0, first.stderr
    assert set(first.stdout.splitlines()) == {f"{pod.name}: The capture is in place" for pod in pods[:3]}
    listed = "# pods\n\n" + "".join(f"  {pod.name}\n" for pod in pods)
    again = capture(outside, "apply", "-u", "1337", "--network-namespace", "-", text=listed)
    assert again.returncode == 0, again.stderr
    said = "The capture is already in place: nothing was changed"
    assert set(again.stdout.splitlines()) == {
        *(f"{pod.name}: {said}" for pod in pods[:3]),
        *(f"{pod.name}: The capture is in place" for pod in pods[3:]),
    }
    assert all(map(is_captured, pods))
    gone = capture(outside, "--cleanup-only", "--log_as_json", "--network-namespace=-", text=listed)
    assert [json.loads(line)["exit_status"] for line in gone.stdout.splitlines()] == [0] * len(pods)
    assert not any(map(is_captured, (*pods, outside)))


def test_what_fails_in_one_stops_no_other_and_the_worst_status_counts(
    outside: Namespace, pods: list[Namespace]
) -> None:
    """One that is not there, and one where another mesh captures."""
    pods[1].output("iptables-nft", "-t", "nat", "-N", "PROXY_INIT_OUTPUT")
    done = capture(outside, "-u", "1337", "--network-namespace", "nowhere-at-all", *named(pods))
    assert done.returncode == 1
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["nowhere-at-all"].startswith("failed with status 1: cannot enter the network namespace")
    assert lines[pods[1].name].startswith("failed with status 1: the chains of another mesh are here (Linkerd)")
    assert [is_captured(pod) for pod in (outside, *pods)] == [False, True, False, True, True, True]
    assert f"{pods[1].name}: the chains of another mesh" in done.stderr
    assert "4 of 6 namespaces are done, 2 failed" in done.stderr


def test_a_worker_that_is_ended_leaves_no_namespace_unsaid(
    outside: Namespace, pods: list[Namespace], tmp_path: Path
) -> None:
    """Each has its line, and the status is that of a failure."""
    killer = tmp_path / "iptables-nft-restore"
    killer.write_text("#!/bin/sh\nkill -9 $PPID\n")
    killer.chmod(0o755)
    done = capture(outside, "-u", "1337", *named(pods), path=str(tmp_path))
    assert done.returncode == 1
    said = "failed with status 1: not done: the process that worked for it was ended"
    assert set(done.stdout.splitlines()) == {f"{pod.name}: {said}" for pod in pods}
    assert not any(map(is_captured, pods))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "--network-namespace=a", "--network-namespace=b"], "flag -n: prints the rules of one namespace"),
        (["--network-namespace=a", "--network-namespace="], "names no namespace, among others that are named"),
        (["--network-namespace", "-", "-x", "@-"], "flag -x has read standard input, which there is once"),
    ],
)
def test_what_cannot_be_meant_for_many_is_refused(outside: Namespace, arguments: list[str], said: str) -> None:
    """Before anything is touched."""
    done = capture(outside, "-u", "1337", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not is_captured(outside)


def test_each_namespace_is_taken_by_one_worker(outside: Namespace) -> None:
    """Twenty thousand that are not there, which workers go through as fast as they can."""
    names = [f"capture-rig-none-{at}" for at in range(20_000)]
    done = capture(outside, "-u", "1337", "--network-namespace=-", "--log_output_level=none", text="\n".join(names))
    assert done.returncode == 1, done.stderr
    assert sorted(line.partition(":")[0] for line in done.stdout.splitlines()) == sorted(names)


def test_a_list_from_stdin_is_for_all_of_them(outside: Namespace, pods: list[Namespace]) -> None:
    """Settings are read once, so what only can be read once is not lost on the second namespace."""
    done = capture(outside, "-u", "1337", "-x", "@-", *named(pods), text="192.0.2.0/24\n")
    assert done.returncode == 0, done.stderr
    assert all("-d 192.0.2.0/24" in pod.output("iptables-nft-save") for pod in pods)


def test_one_import_is_enough_for_all(outside: Namespace, pods: list[Namespace]) -> None:
    """A namespace among others costs at most half the CPU of a run of its own (12 ms where that takes 30)."""

    def cost(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert capture(outside, "-u", "1337", *arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    alone = min(cost(f"--network-namespace={pods[0].name}") for _ in range(3))
    together = min(cost(*named(pods)) for _ in range(3))
    assert (together - alone) / (len(pods) - 1) < alone / 2
