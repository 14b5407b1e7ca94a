"""--network-namespace: a name, a path or a pid, entered by the process itself."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig import Namespace
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("named") as made:
        yield made


def capture(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "capture", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("kind", ["name", "path", "pid"])
def test_the_rules_go_into_the_namespace_that_was_named(namespace: Namespace, kind: str) -> None:
    """And not into ours, which holds what it held before."""
    ours = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    with subprocess.Popen(["ip", "netns", "exec", namespace.name, "sleep", "60"]) as inhabitant:
        try:
            until_inside(inhabitant.pid, namespace)
            named = {"name": namespace.name, "path": namespace.path, "pid": str(inhabitant.pid)}[kind]
            done = capture("-p", "15001", "--network-namespace", named)
        finally:
            inhabitant.kill()
    assert done.returncode == 0, done.stderr
    assert "ISTIO_REDIRECT" in namespace.output("iptables-nft-save")
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout == ours


def until_inside(pid: int, namespace: Namespace) -> None:
    """Wait until `ip netns exec` has entered."""
    wanted = os.stat(namespace.path).st_ino
    while os.stat(f"/proc/{pid}/ns/net").st_ino != wanted:
        os.sched_yield()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("no-such-namespace", "/run/netns/no-such-namespace: No such file or directory"),
        ("/proc/self/ns/mnt", "is not a network namespace"),
        ("/etc/hostname", "is not a network namespace"),
        ("4194999", "/proc/4194999/ns/net: No such file or directory"),
    ],
)
def test_what_cannot_be_entered_is_refused_by_name(named: str, said: str) -> None:
    """The message has the name as it was given, the file that stands for it, and what to give instead."""
    done = capture("-n", "--network-namespace", named)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f'cannot enter the network namespace "{named}"' in done.stderr
    assert said in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
