"""The site's pages that lie beside `docs/`: README leads into it, and links between the two lead where they led."""

from __future__ import annotations

import posixpath
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
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, called, content=moved_to_the_site(text, name)))
    files.append(File.generated(config, LICENCE, content=(ROOT / LICENCE).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 # MkDocs' signature
    if page.file.src_uri in BESIDE.values():
        return markdown
    return moved_to_the_site(markdown, f"docs/{page.file.src_uri}")


def moved_to_the_site(markdown: str, source: str) -> str:
    """A page of the repository with its links as they are on the site, whose top is `docs/`, with others beside it."""
    there = source.removeprefix("docs/") if source not in BESIDE else BESIDE[source]

    def moved(link: re.Match[str]) -> str:
        name, mark, heading = link[1].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), name))
        target = BESIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(there) or '.')}{mark}{heading})"

    # In a table GitHub takes a bar in code for the next column unless it is escaped, and this site shows the escape.
    plain = re.sub(r"^\|.*\|$", lambda row: re.sub(r"`[^`]+`", unescaped, row[0]), markdown, flags=re.MULTILINE)
    return re.sub(r"\]\(((?!\w+:|#)[^)\s]+)\)", moved, plain)


def unescaped(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")
