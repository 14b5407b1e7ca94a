"""What a report gathers of the place that it is made in."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from capture.support.gathered import of_netfilter, printed, processes, versions


def test_a_process_is_told_by_its_effective_user() -> None:
    """By which the owner match knows a sender: pid, that of the parent, uid and name."""
    own = next(line.split() for line in processes().splitlines() if line.startswith(f"{os.getpid()} "))
    name = Path("/proc/self/comm").read_text().strip()
    assert own == [str(os.getpid()), str(os.getppid()), str(os.geteuid()), *name.split()]


def test_every_library_is_told_with_its_version_or_that_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a run needs, and those that it can do without."""
    assert f"click {metadata.version('click')}" in versions().splitlines()

    def nowhere(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", nowhere)
    told = versions().splitlines()
    for package in ("click", "pydantic", "pyroute2", "python-iptables", "pyyaml"):
        assert f"{package} is not installed" in told
    assert any(line.startswith("CapEff:") for line in told)
    assert f"uid {os.geteuid()}, gid {os.getegid()}" in "\n".join(told)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('told')", "told\n"),
        ("import sys; print('told'); sys.exit(3)", "told\n# exit status 3\n"),
        ("import sys; sys.exit('refused')", "# it complained:\nrefused\n# exit status 1\n"),
        ("import sys; print('told'); sys.stderr.write('warned\\n')", "told\n# it complained:\nwarned\n"),
    ],
    ids=["well", "failed", "complained and failed", "complained"],
)
def test_what_a_program_says_stands_with_its_complaint_and_its_failure(code: str, expected: str) -> None:
    """Its status only where it failed, lest a good answer is taken for a bad one or the other way round."""
    assert printed(sys.executable, "-c", code) == expected


def test_processes_that_may_not_be_looked_at_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's; one that ended meanwhile is none."""
    stat, refused = os.stat, {"/proc/2/ns/net": PermissionError(), "/proc/3/ns/net": PermissionError()}

    def looked_at(path: str) -> os.stat_result:
        if path in refused:
            raise refused[path]
        if path == "/proc/4/ns/net":
            raise FileNotFoundError
        return stat(path)

    monkeypatch.setattr(os, "stat", looked_at)
    monkeypatch.setattr(os, "listdir", lambda _: ["2", "3", "4", "self", str(os.getpid())])
    *lines, last = processes().splitlines()
    assert [line.split()[0] for line in lines] == [str(os.getpid())]
    assert last == "2 more may not be seen by this user"


def test_of_the_kernels_log_only_what_concerns_netfilter() -> None:
    """The last of it, if it is much."""
    assert (
        of_netfilter("usb 1: new\nnf_conntrack: table full\nx_tables: bad\n")
        == "nf_conntrack: table full\nx_tables: bad\n"
    )
    assert of_netfilter("usb") == "none\n"
    assert len(of_netfilter("nft\n" * 9999).splitlines()) == 500
