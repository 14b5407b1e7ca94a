"""The scripts by which shells ask us what there is at the cursor."""

from __future__ import annotations

import os

SHELLS = {"bash": "capture.bash", "zsh": "_capture", "fish": "capture.fish"}
"""The shells that can be served, and the file of this room for each. Packages put them in their usual places."""


def script(shell: str) -> str:
    """The script for a shell."""
    with open(os.path.join(os.path.dirname(__file__), SHELLS[shell]), encoding="utf-8") as file:
        return file.read()
