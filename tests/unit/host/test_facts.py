"""A file behind the root of another process is looked for where that process would find it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from capture.host.facts import MOST_LINKS, within_its_root

if TYPE_CHECKING:
    from pathlib import Path

ROOT = f"/proc/{os.getpid()}/root"
"""Our own root, so that the kernel can say what each path leads to."""


@pytest.mark.parametrize(
    "path",
    [
        "file",
        "missing",
        "folder/../file",
        "./folder//nested",
        "relative",
        "absolute",
        "to-folder/nested",
        "to-folder/../file",
        "chain",
        "up",
        "dangling",
        "../../../../../../../../../../../../etc/../file",
    ],
)
def test_links_lead_where_they_lead_in_that_root(tmp_path: Path, path: str) -> None:
    """Absolute ones begin in that root and not in ours, relative ones where they stand, and `..` ends at the root."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "nested").touch()
    for name, target in {
        "relative": "folder/nested",
        "absolute": f"{tmp_path}/file",
        "to-folder": f"{tmp_path}/folder",
        "chain": "absolute",
        "up": "folder/../relative",
        "dangling": f"{tmp_path}/missing/further",
    }.items():
        (tmp_path / name).symlink_to(target)
    assert within_its_root(f"{ROOT}{tmp_path}/{path}") == f"{ROOT}{os.path.realpath(tmp_path / path)}"


def test_other_paths_stay_as_they_are(tmp_path: Path) -> None:
    """What is not behind the root of a process is looked up as the kernel does it."""
    (tmp_path / "link").symlink_to("/proc/1/root/file")
    for path in (str(tmp_path / "link"), "/proc/1/rooted/file", "/etc/resolv.conf", "/root/root/file"):
        assert within_its_root(path) == path


def test_links_that_lead_round_end(tmp_path: Path) -> None:
    """After as many steps as any path may take."""
    (tmp_path / "round").symlink_to(f"{tmp_path}/round")
    assert within_its_root(f"{ROOT}{tmp_path}/round").endswith("/round")
    assert MOST_LINKS >= 40, "what the kernel allows (MAXSYMLINKS of linux/namei.h)"
