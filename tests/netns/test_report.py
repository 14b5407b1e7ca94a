"""`capture report`: one archive for an issue, which says what is in it and what is not."""

from __future__ import annotations

import json
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from capture.support.archive import contents
from capture.support.gathered import PROGRAMS, Thing, asked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Pod

SETTINGS = ["-u", "1337", "-x", "10.0.0.0/8"]


def unpacked(file: Path) -> dict[str, str]:
    """Each member by its name below the one folder."""
    with tarfile.open(file) as archive:
        bodies = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        texts = {name: body.read().decode() for name, body in bodies.items() if body}
    assert len({name.partition("/")[0] for name in texts}) == 1
    return {name.partition("/")[2]: text for name, text in texts.items()}


def test_a_report_holds_what_it_says_and_changes_nothing(pod: Pod, tmp_path: Path) -> None:
    """Versions, our commands' answers, live rules, routes, processes, kernel log; readable by its owner alone."""
    pod.applied("-u", "1337", "--force-iptables-binary=nft")
    before = pod.state()
    file = tmp_path / "it.tar.gz"
    done = pod.applied("report", *SETTINGS, "--file", str(file), env={"PROXY_GID": "1337", "SECRET": "swordfish"})
    assert pod.state() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = unpacked(file)
    listed = {line.split()[0] for line in found["README"].partition("In it:")[2].splitlines() if line.startswith("  ")}
    assert found.keys() - {"README"} <= listed
    assert {name for name, *_ in PROGRAMS} <= listed
    assert found["README"] == done.stdout.split("\n", 1)[1]
    assert "-j ISTIO_REDIRECT" in found["rules/nft.v4"]
    assert "# exit status 4" in found["verify"], "an exclusion is asked for that is not there"
    assert "-d 10.0.0.0/8 -j RETURN" in found["diff"]
    assert json.loads(found["status.json"])["installed"]
    assert {it["name"]: it["source"] for it in json.loads(found["settings.json"])}[
        "proxy_gid"
    ] == "environment PROXY_GID"
    assert found["environment"] == "PROXY_GID='1337'\n"
    assert "swordfish" not in "".join(found.values())
    assert "Nothing is blacked out" in found["README"]


def test_a_report_leaves_files_of_others_alone(pod: Pod, tmp_path: Path) -> None:
    """One that is there already is not written over."""
    file = tmp_path / "it.tar.gz"
    file.write_text("mine")
    done = pod.capture("report", "--file", str(file))
    assert (done.status, file.read_text()) == (1, "mine")
    assert done.stderr == f"error: {file}: File exists\n"


def test_what_cannot_be_had_is_told(pod: Pod, tmp_path: Path) -> None:
    """Settings that mean nothing, and a PATH without programs: the rest is there all the same."""
    file = tmp_path / "it.tar.gz"
    done = pod.capture("report", "-p", "rubbish", "--file", str(file), env={"PATH": "/usr/bin"})
    assert done.status == 0, done.stderr
    found = unpacked(file)
    assert "is not a port" in found["settings.yaml"]
    missing = found["README"].partition("Not to be had here:")[2]
    assert {name for name, *_ in PROGRAMS} - found.keys() <= set(missing.split())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file", "nft"), "nft is not there"),
        (PermissionError(1, "Not permitted"), "Not permitted"),
    ],
)
def test_why_a_thing_is_missing_is_part_of_the_list(error: OSError, said: str) -> None:
    def tell() -> str:
        raise error

    lines = contents([Thing("a", "about it", "text"), asked("b", "about that", tell)])
    assert "  a        4 B  about it" in lines
    assert f"  b  {said}" in lines
