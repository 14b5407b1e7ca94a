"""What surrounds a call of iptables: where it is, what it said, which lock it takes."""

from __future__ import annotations

import errno
import os
import re
import time
from typing import TYPE_CHECKING

import pytest

from capture.errors import BackendUnusable
from capture.host.live import Live
from capture.iptables import iptables
from capture.iptables.diagnosis import complaint, line_number, permission_hint
from capture.iptables.iptables import Iptables
from capture.kernel import process
from capture.kernel.process import Completed, locate, read_words, run
from capture.log import timestamp
from rules.netfilter.values import Family

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("stderr", "number"),
    [
        ("iptables-restore: line 5 failed\n", 5),
        ("iptables-restore v1.8.9 (nf_tables): \nline 7: RULE_APPEND failed (No such file): rule in chain X\n", 7),
        (
            "iptables-restore v1.8.9 (legacy): Bad argument `x'\nError occurred at line: 12\nTry `iptables-restore -h'",
            12,
        ),
        ("iptables-nft-restore: line 3 failed: No chain/target/match by that name.\n", 3),
        ("line 4: CHAIN_ADD failed\nline 9: RULE_APPEND failed\n", 9),
        ("Permission denied (you must be root)\n", None),
        ("the line is long\n", None),
        ("", None),
    ],
)
def test_the_line_that_was_refused_is_found(stderr: str, number: int | None) -> None:
    """In each of the wordings of both backends; the last one counts."""
    assert line_number(stderr) == number


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        ("refused\n\nTry `iptables -h' or 'iptables --help' for more information.\n", "refused"),
        ("one\ntwo\n", "one\ntwo"),
        ("", "nothing, and ended with status 4"),
        ("\n \n", "nothing, and ended with status 4"),
    ],
)
def test_what_a_child_said_is_told_without_its_advice(stderr: str, text: str) -> None:
    """An empty stderr is said to be empty."""
    assert complaint(Completed(4, "", stderr)) == text


@pytest.mark.parametrize(
    ("stderr", "helps"),
    [
        ("iptables-restore: Permission denied (you must be root)", True),
        ("Could not fetch rule set generation id: Operation not permitted", True),
        ("Fatal: can't open lock file /run/xtables.lock: Permission denied", True),
        ("No chain/target/match by that name.", False),
    ],
)
def test_a_missing_capability_is_named(stderr: str, helps: bool) -> None:
    """In whatever words the backend says that it may not."""
    assert ("CAP_NET_ADMIN" in permission_hint(stderr)) is helps


def program(folder: Path, name: str, *, mode: int = 0o755) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / name
    made.write_text("#!/bin/sh\n")
    made.chmod(mode)
    return str(made)


def test_a_program_is_found_on_the_path_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty entries are no folder, and what cannot be run is no program."""
    first, second = program(tmp_path / "a", "our-tool"), program(tmp_path / "b", "our-tool")
    monkeypatch.setenv("PATH", f":{tmp_path / 'none'}:{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert locate("our-tool") == first
    os.chmod(first, 0o644)
    assert locate("our-tool") == second
    assert locate("no-such-tool") is None
    monkeypatch.chdir(tmp_path / "b")
    monkeypatch.setenv("PATH", "")
    assert locate("our-tool") is None, "an empty PATH is not the working directory"


def test_without_a_path_the_superusers_folders_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unprivileged user's PATH lacks the folder where iptables is."""
    there = program(tmp_path / "sbin", "our-tool")
    monkeypatch.setattr(process, "SUPERUSER_PATH", (str(tmp_path / "sbin"),))
    monkeypatch.delenv("PATH")
    assert locate("our-tool") == there


@pytest.mark.parametrize("backend", iptables.OF_IPTABLES)
def test_a_plain_name_counts_only_if_it_is_known_to_be_of_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """`iptables-restore` may be either: where the link leads decides. The exact name wins over it."""
    monkeypatch.setattr(process, "SUPERUSER_PATH", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = Iptables(backend, Family.V4)
    plain = tmp_path / "iptables-restore"
    plain.symlink_to(program(tmp_path / "lib", "xtables-other-multi"))
    assert tool.path("restore") is None
    plain.unlink()
    plain.symlink_to(program(tmp_path / "lib", f"xtables-{backend}-multi"))
    assert tool.path("restore") == str(plain)
    exact = program(tmp_path, f"iptables-{backend}-restore")
    assert tool.path("restore") == exact
    assert not tool.is_installed, "save is missing"
    with pytest.raises(BackendUnusable, match=f"iptables-{backend}-save is not installed"):
        tool.command("save")


def test_a_child_has_a_lock_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """We hold the one that others look at. Not for nft, which has no lock; of what is no lock file, iptables speaks."""
    for chosen in ("", str(tmp_path / "xtables.lock"), "/dev/null"):
        monkeypatch.setenv("XTABLES_LOCKFILE", chosen)
        assert Iptables("legacy", Family.V4).environ()["XTABLES_LOCKFILE"].startswith(f"/proc/{os.getpid()}/fd/")
        assert Iptables("nft", Family.V4).environ()["XTABLES_LOCKFILE"] == chosen
    none = str(tmp_path / "none" / "xtables.lock")
    monkeypatch.setenv("XTABLES_LOCKFILE", none)
    assert Iptables("legacy", Family.V4).environ()["XTABLES_LOCKFILE"] == none


def test_a_child_gets_its_input_and_its_streams_are_kept_apart() -> None:
    """However much it is: the streams are files, so nobody waits for anybody."""
    big = "x" * 3_000_000
    done = run("/bin/sh", "-c", "cat; echo aside >&2; exit 3", text=big)
    assert (done.status, len(done.stdout), done.stderr) == (3, len(big), "aside\n")
    with pytest.raises(FileNotFoundError):
        run("/no/such/program")


def test_a_child_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it has started, and in time."""
    monkeypatch.setattr(process, "LONGEST_CHILD", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not end within 0\.3 s, and was killed"):
        run("/bin/sh", "-c", "sleep 100 & echo $! > /proc/self/fd/1; wait")
    assert time.monotonic() - began < 20
    assert run("/bin/sh", "-c", "exit 7").status == 7


@pytest.mark.parametrize("refused", [errno.EPERM, errno.ENOSYS])
def test_where_no_file_can_be_in_memory_it_is_one_without_a_name(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """As under a seccomp filter that does not know memfd_create(2)."""

    def memfd_create(_: str) -> int:
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    assert run("/bin/cat", text="through").stdout == "through"
    monkeypatch.setattr(process, "FOLDERS", ())
    with pytest.raises(OSError, match=os.strerror(refused)):
        run("/bin/cat")


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    """None is for one that we may not read."""
    assert read_words(str(tmp_path / "none")) == []
    (tmp_path / "names").write_text("nat\nraw\n")
    assert read_words(str(tmp_path / "names")) == ["nat", "raw"]
    assert read_words(str(tmp_path)) is None


def test_nothing_saved_is_an_empty_ruleset() -> None:
    """For a family and a backend that nobody used."""
    live = Live({}, {}, {family: frozenset() for family in Family}, None)
    for backend in iptables.BACKENDS:
        assert live.saved(Iptables(backend, Family.V6)).ruleset.tables == ()
        assert not live.holds_ours(backend)
        assert not live.holds_rules(backend)


def test_the_log_has_the_references_time() -> None:
    """UTC with six digits of the second, however many of them are zero."""
    assert timestamp(1703754528049813791) == "2023-12-28T09:08:48.049813Z"
    assert re.fullmatch(r"1970-01-01T00:00:00\.000000Z", timestamp(999))
