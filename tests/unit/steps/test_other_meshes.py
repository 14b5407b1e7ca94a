"""Tables of another mesh: taken away only if they can be put back."""

from __future__ import annotations

import pytest

from capture.errors import KernelRefused
from capture.kernel.process import Completed
from capture.log import Log
from capture.steps.other_meshes import DeleteTables

TABLES = ("inet istio-ambient", "ip consul")


class Nft:
    """It lists tables, and takes what it is given unless it is told to refuse."""

    def __init__(self, *, refuses: str = "") -> None:
        self.refuses = refuses
        self.given: list[str] = []

    def __call__(self, _: str, *arguments: str, text: str = "") -> Completed:
        if "list" in arguments:
            return Completed(0, f"table {' '.join(arguments[-2:])} {{\n}}\n", "")
        self.given.append(f"{'check: ' if '-c' in arguments else ''}{text}")
        is_refused = self.refuses == ("check" if "-c" in arguments else "delete")
        return Completed(int(is_refused), "", "Error: no" if is_refused else "")


DELETING = "delete table inet istio-ambient\ndelete table ip consul\n"
LISTED = "table inet istio-ambient {\n}\ntable ip consul {\n}\n"


def test_they_go_at_once_and_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nft lists is tried before anything is deleted, and given back to undo it."""
    nft = Nft()
    monkeypatch.setattr("capture.steps.other_meshes.run", nft)
    step = DeleteTables(TABLES)
    step.undo(Log())
    assert nft.given == []  # nothing was done yet
    step.do(Log())
    step.undo(Log())
    assert nft.given == [f"check: {DELETING}{LISTED}", DELETING, LISTED]


@pytest.mark.parametrize(("refuses", "calls"), [("check", 1), ("delete", 2)])
def test_what_is_refused_leaves_nothing_to_undo(monkeypatch: pytest.MonkeyPatch, refuses: str, calls: int) -> None:
    nft = Nft(refuses=refuses)
    monkeypatch.setattr("capture.steps.other_meshes.run", nft)
    step = DeleteTables(TABLES)
    with pytest.raises(KernelRefused):
        step.do(Log())
    step.undo(Log())
    assert len(nft.given) == calls
