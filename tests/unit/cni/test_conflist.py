"""Our place in a file of the container runtime: what is changed, and what is left as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from capture.cni.conflist import changed
from capture.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path


def with_version(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "cniVersion": "1.0.0"}


def test_a_file_is_exchanged_for_one_that_is_changed(tmp_path: Path) -> None:
    """With its mode, and nothing beside it; where nothing is to change the file stays as it is written."""
    file = tmp_path / "10-pods.conflist"
    file.write_text('{"name": "pods"}')
    file.chmod(0o640)
    assert changed(str(file), with_version)
    assert json.loads(file.read_text()) == {"name": "pods", "cniVersion": "1.0.0"}
    assert file.stat().st_mode & 0o777 == 0o640
    written = '{"cniVersion":   "1.0.0"}'
    file.write_text(written)
    assert not changed(str(file), with_version)
    assert file.read_text() == written
    assert list(tmp_path.iterdir()) == [file]


def test_what_somebody_writes_meanwhile_is_changed_in_its_turn(tmp_path: Path) -> None:
    file = tmp_path / "10-pods.conflist"
    file.write_text('{"name": "pods"}')
    looks: list[dict[str, Any]] = []

    def with_somebody_else(config: dict[str, Any]) -> dict[str, Any]:
        if not looks:
            file.write_text('{"name": "theirs"}')
        looks.append(config)
        return with_version(config)

    assert changed(str(file), with_somebody_else)
    assert json.loads(file.read_text()) == {"name": "theirs", "cniVersion": "1.0.0"}
    assert [look["name"] for look in looks] == ["pods", "theirs"]


def test_what_is_refused_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "10-pods.conflist"
    file.write_text('{"name": "pods"}')

    def refused(_: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("it has no plugins")

    with pytest.raises(CaptureError, match="it has no plugins"):
        changed(str(file), refused)
    assert file.read_text() == '{"name": "pods"}'
    assert list(tmp_path.iterdir()) == [file]
