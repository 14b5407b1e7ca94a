"""Write the configurations of docs/envoy into the pages that link them: `python -m tests.write_envoy`."""

from __future__ import annotations

import re

from tests.rig.pod import ROOT

FOLDER = ROOT / "docs/envoy"
SHOWN = re.compile(r"(\]\((\S+\.yaml)\)\n\n```yaml\n).*?(^```$)", re.MULTILINE | re.DOTALL)
"""A link to a configuration that ends a line, and the block below it."""


def with_configurations(page: str) -> str:
    return SHOWN.sub(lambda found: found[1] + (FOLDER / found[2]).read_text(encoding="utf-8") + found[3], page)


def main() -> None:
    """Write each page anew that shows one."""
    for page in FOLDER.glob("*.md"):
        page.write_text(with_configurations(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
