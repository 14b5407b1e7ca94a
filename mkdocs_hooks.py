"""The site's pages that lie beside `docs/`: README leads into it, and links between the two lead where they led."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
"""Pages of the repository's root, and what they are called on the site."""
LICENCE = "LICENSE"
"""Not Markdown: a link to it is one to a file."""


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs, which finds it in `mkdocs.yml`."""
    from mkdocs.structure.files import File

    for name, called in BESIDE.items():
        files.append(
            File.generated(config, called, content=moved_to_the_site((ROOT / name).read_text(encoding="utf-8")))
        )
    files.append(File.generated(config, LICENCE, content=(ROOT / LICENCE).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 # MkDocs' signature
    return moved_to_the_site(markdown)


def moved_to_the_site(markdown: str) -> str:
    """A page with its links as the site has them: without `docs/` and `../`."""

    def moved(link: re.Match[str]) -> str:
        name, mark, heading = link[1].partition("#")
        name = name.removeprefix("../").removeprefix("docs/")
        return f"]({BESIDE.get(name, name)}{mark}{heading})"

    return re.sub(r"\]\(((?!\w+:|#)[^)\s]+)\)", moved, markdown)
