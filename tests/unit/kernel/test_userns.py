"""Which ids a user namespace maps, as /proc tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.kernel import userns

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("         0          0 4294967295\n", [(0, 4294967294)]),
        ("0 100000 65536\n65536 1000 1\n", [(0, 65535), (65536, 65536)]),
        ("", []),
    ],
)
def test_the_ids_inside_are_those_of_the_first_column(tmp_path: Path, text: str, ranges: list[tuple[int, int]]) -> None:
    """So many, from the first on (user_namespaces(7)); what they are outside is nobody's concern here."""
    (tmp_path / "uid_map").write_text(text)
    assert userns.mapped(str(tmp_path / "uid_map")) == ranges


def test_a_range_is_covered_from_end_to_end() -> None:
    """Or not at all."""
    assert userns.covers([(0, 65535)], 0, 65535)
    assert not userns.covers([(0, 65535)], 65535, 65536)
    assert not userns.covers([(10, 20), (21, 30)], 15, 25)
