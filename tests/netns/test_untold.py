"""What cannot be read is never nothing: no answer, half an answer and an error end a command, and change nothing."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import pytest

from capture.netlink.messages import NETLINK_NETFILTER, NETLINK_ROUTE
from tests.rig import deny

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Pod, Result

COMMANDS = [["clean"], ["-u", "1338"], ["status"], ["clean", "-n"], ["--cleanup-only"]]
HALF = [
    "exit 0",
    "echo '# nothing to see'",
    "kill -9 $$",
    "$real | head -n 12",
    "$real | head -c 300",
    "$real | sed 's/COMMIT/&\\n/; /COMMIT/q' | grep -v COMMIT",
    "$real | grep -v uid-owner",
    "$real | tr A B",
    "$real | head -n 12; echo COMMIT",
    "echo 'Could not fetch rule set generation id: Too many open files in system' >&2; exit 4",
]
"""What an iptables-save may do instead of its work. That the legacy one loses single rules is not to be seen."""
WHOLE_RULES = [HALF[6], HALF[8]]


def refused(pod: Pod, result: Result, before: str) -> None:
    assert result.status == 1, result.stdout + result.stderr
    assert "nothing" not in result.stdout
    assert "Traceback" not in result.stderr
    assert "not tell" in result.stderr or "not known" in result.stderr or "cannot be run" in result.stderr
    assert pod.state() == before


@pytest.mark.parametrize("work", HALF)
def test_a_save_that_tells_less_than_there_is_ends_the_command(
    pod: Pod, backend: str, tmp_path: Path, work: str
) -> None:
    """Whether it was ended, cut off, or says that all is well: what it lacks is seen by what the kernel names."""
    if backend == "legacy" and work in WHOLE_RULES:
        pytest.skip("the kernel names legacy tables, not their rules")
    pod.applied(f"--force-iptables-binary={backend}")
    before = pod.state()
    for program in ("iptables", "ip6tables"):
        script = tmp_path / f"{program}-{backend}-save"
        script.write_text(f"#!/bin/sh\nPATH=$(echo $PATH | sed 's,{tmp_path}:,,')\nreal=${{0##*/}}\n{work}\n")
        script.chmod(0o755)
    for command in COMMANDS[:2]:
        refused(pod, pod.capture(*command, path=f"{tmp_path}:{os.environ['PATH']}"), before)


@pytest.mark.parametrize(
    ("number", "protocol"),
    [
        (errno.ENFILE, NETLINK_NETFILTER),
        (errno.ENOBUFS, NETLINK_NETFILTER),
        (errno.EIO, NETLINK_NETFILTER),
        (errno.ENOMEM, NETLINK_ROUTE),
    ],
)
def test_a_kernel_that_cannot_be_asked_ends_the_command(pod: Pod, number: int, protocol: int) -> None:
    """Above all, no second set of rules in the backend that can still be asked."""
    pod.applied()
    before = pod.state()
    for command in COMMANDS:
        denied = [sys.executable, deny.__file__, str(number), str(protocol), *pod.command(*command)]
        done = pod.inside.run(*denied, env=pod.environ())
        assert done.returncode == 1, done.stdout + done.stderr
        assert os.strerror(number) in done.stderr
        assert "nothing" not in done.stdout
    assert pod.state() == before


@pytest.mark.parametrize("number", [errno.EPROTONOSUPPORT, errno.EINVAL])
def test_a_kernel_without_nf_tables_has_none(pod: Pod, number: int) -> None:
    """Only an error that means so means so: then the rules go into the legacy backend, and are found there again."""
    denied = [sys.executable, deny.__file__, str(number), str(NETLINK_NETFILTER)]
    for _ in range(2):
        done = pod.inside.run(*denied, *pod.command("-u", "1337"), env=pod.environ())
        assert done.returncode == 0, done.stderr
    assert "already in place" in done.stderr
    done = pod.inside.run(*denied, *pod.command("clean"), env=pod.environ())
    assert done.stdout.endswith("nothing of ours is left\n")


def test_without_the_right_to_look_there_is_no_answer(pod: Pod, backend: str) -> None:
    """Neither a removal nor its dry run says that there is nothing."""
    pod.applied(f"--force-iptables-binary={backend}")
    before = pod.state()
    for command in COMMANDS:
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
        done = pod.inside.run(*nobody, *pod.command(*command), env=pod.environ())
        assert done.returncode == 1, done.stdout + done.stderr
        assert "not permitted" in done.stderr
    assert pod.state() == before
