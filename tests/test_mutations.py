"""Broken lines in the evaluator and in the boxes are noticed by tests that need no root.

A sample is drawn, which CAPTURE_SEED draws again; with CAPTURE_TESTS=all each line is broken in turn.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.rig.chance import ALL, SEED
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLE = 1
JUDGES = (
    "tests/unit/netfilter",
    "tests/unit/journeys",
    "tests/unit/analysis",
    "tests/unit/proof",
    "tests/unit/simulator/test_simulate.py",
    "tests/property/test_journeys.py",
    "tests/property/test_outcomes.py",
)
"""From the quickest to the slowest: the first that fails is enough."""

WITHOUT_SHRINKING = """
from hypothesis import Phase

settings.register_profile("once", settings.get_profile("capture"), phases=[Phase.generate])
settings.load_profile("once")
"""
"""That something fails is enough."""


class Broken(NamedTuple):
    """A line, and what it becomes."""

    file: str
    line: str
    becomes: str


FIELDS, SPANS = "rules/netfilter/fields.py", "rules/netfilter/spans.py"
BOXES, WALK = "rules/analysis/boxes.py", "rules/analysis/reachability.py"
JOURNEYS, PROOF, SPOKEN = "rules/journeys/journeys.py", "rules/proof/proof.py", "rules/meaning/spoken.py"
LINES = (
    Broken(
        FIELDS, "return False if not both else True if both == mine else None", "return False if not both else True"
    ),
    Broken(FIELDS, "    return None if untold else True\n", "    return True\n"),
    Broken(
        SPANS,
        "low, high = bisect_right(span, first), bisect_left(span, end)",
        "low, high = bisect_left(span, first), bisect_left(span, end)",
    ),
    Broken(SPANS, "max(mine[at], other[beside]), min(", "mine[at], min("),
    Broken(SPANS, "return (*((first,) if low % 2 else ()), *span", "return (first, *span"),
    Broken(BOXES, "box = (*box[:at], common(box[at], span), *box[at + 1 :])", "pass"),
    Broken(
        BOXES,
        "alike.setdefault((*box[:field], *box[field + 1 :]), []).append(box[field])",
        "alike[(*box[:field], *box[field + 1 :])] = [box[field]]",
    ),
    Broken(BOXES, "        if not span and mine != its:\n            return None\n", ""),
    Broken(WALK, "coming = (missed if not untold else", "coming = (missed if untold else"),
    Broken(WALK, "missed += ((piece, remarks) for piece in outside(its, box))", "pass"),
    Broken(SPOKEN, "return f.Among(f.UID, (first, last + 1))", "return f.Among(f.UID, (first, last))"),
    Broken(SPOKEN, "return e.Remark(f.CONNMARK, 0, WHOLE, 0)", "return e.Remark(f.MARK, 0, WHOLE, 0)"),
    Broken(JOURNEYS, "out.append(((*box[:field], less(mine, condition.span), *box[field + 1 :]), False))", "pass"),
    Broken(
        JOURNEYS, "add(back, now.with_field(f.UID, one(-1)).with_field(f.GID, one(-1)), boxes)", "add(back, now, boxes)"
    ),
    Broken(JOURNEYS, "if not now.is_tracked and now.seen[f.STATE] == INVALID:", "if not now.is_tracked:"),
    Broken(
        JOURNEYS,
        "following = [n for n in (*self.by_address[way], *self.any) if n > at]",
        "following = [n for n in self.any if n > at]",
    ),
    Broken(PROOF, "return not arrives or (end.address, end.port) != (tag.address, tag.port)", "return not arrives"),
    Broken(PROOF, "return end.became.is_captured\n", "return False\n"),
    Broken(
        SPANS,
        "return (*span[:low], *((first,) if low % 2 else ()), *((end,) if high % 2 else ()), *span[high:])",
        "return (*span[:low], *span[high:])",
    ),
    Broken(SPANS, "if low % 2 or (low < len(mine) and mine[low] < other[at + 1]):", "if low % 2:"),
)


def drawn() -> list[Broken]:
    chance = random.Random(SEED)
    return list(LINES) if ALL else chance.sample(LINES, SAMPLE)


def test_every_line_is_there() -> None:
    """Also those that are not drawn."""
    assert [each for each in LINES if each.line not in (ROOT / each.file).read_text()] == []


@pytest.mark.parametrize("broken", drawn(), ids=lambda it: f"{it.file}: {it.line.strip()[:40]}")
def test_a_broken_line_is_noticed(broken: Broken, tmp_path: Path, tell: Callable[[str], None]) -> None:
    """By a test that passes with the line as it is."""
    tell(f"CAPTURE_SEED={SEED}")
    for name in ("rules", "capture", "tests", "pyproject.toml"):
        copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copied(ROOT / name, tmp_path / name)
    source = (tmp_path / broken.file).read_text()
    (tmp_path / broken.file).write_text(source.replace(broken.line, broken.becomes, 1))
    profile = tmp_path / "tests" / "property" / "conftest.py"
    profile.write_text(profile.read_text() + WITHOUT_SHRINKING)
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *JUDGES]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "failed" in done.stdout.splitlines()[-1]
