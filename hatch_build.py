"""How our wheel is built: `rules` is installed as `capture.rules`, for a project of that name is on PyPI.

Two wheels that bring one top-level package overwrite each other's files, and `pip check` sees nothing. In the
repository the thinking stays a folder of its own, so the imports are rewritten on the way into the wheel.
"""

from __future__ import annotations

import ast
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LEFT_OUT = shutil.ignore_patterns("__pycache__", "programs")


def renamed(source: str) -> str:
    """A module's source, in which what was imported from `rules` is imported from `capture.rules`."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rules":
            lines[node.lineno - 1] = lines[node.lineno - 1].replace("from rules", "from capture.rules", 1)
        if isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "rules" for alias in node.names):
            raise ValueError(f"line {node.lineno}: `import rules` would need a name of its own; write `from rules`")
    return "".join(lines)


class Hook(BuildHookInterface):  # type: ignore[type-arg] # it comes without types
    """Called by hatchling, which finds it in `pyproject.toml`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable installation reads the repository as it stands; a wheel gets what is written here."""
        if version == "editable":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="capture-wheel-"))
        root = Path(self.root)
        shutil.copytree(root / "capture", self.folder / "capture", ignore=LEFT_OUT)
        shutil.copytree(root / "rules", self.folder / "capture/rules", ignore=LEFT_OUT)
        for module in (self.folder / "capture").rglob("*.py"):
            module.write_text(renamed(module.read_text(encoding="utf-8")), encoding="utf-8")
        build_data["force_include"][str(self.folder / "capture")] = "capture"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 # hatchling's signature
        """Nothing is left behind."""
        if version != "editable":
            shutil.rmtree(self.folder)
