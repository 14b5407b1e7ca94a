"""Pages of `capture help` that are about no single command."""

from __future__ import annotations

import re

from capture import errors
from capture.errors import CaptureError
from capture.help.pages import STATUSES, errors_page, tree


def test_the_tree_of_errors_names_each_with_its_status() -> None:
    """In the words of the module, where they are declared, and no other line of it."""
    classes = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, CaptureError)]
    drawn = {name: int(status) for name, status in re.findall(r"^\W*(\w+) +(\d+)  ", tree(), re.MULTILINE)}
    assert drawn == {it.__name__: it.exit_status for it in classes}
    assert len(tree().splitlines()) == len(classes)


def test_the_page_has_every_exit_status() -> None:
    """Each on a line, its meaning below that of the others."""
    columns = {
        line.index(meaning) for status, meaning in STATUSES for line in errors_page().splitlines() if meaning in line
    }
    assert len(columns) == 1
    assert {int(status) for status in re.findall(r"^  (\d+)  ", errors_page(), re.MULTILINE)} >= {0, 1, 2, 3, 4, 5}
