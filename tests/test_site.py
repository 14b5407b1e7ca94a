"""The pages as a site: built with warnings as errors, every page listed, every link and picture there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from mkdocs_hooks import BESIDE, moved_to_the_site
from tests.rig.pod import ROOT
from tests.test_pages import OWN_TESTS

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ROOT / "mkdocs.yml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site. `make test` installs what builds it."""
    if not find_spec("material"):
        pytest.skip("not installed: mkdocs-material (the group `docs`)")
    folder = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--config-file",
        str(CONFIG),
        "-d",
        str(folder),
    ]
    done = subprocess.run(
        words, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return folder


class Links(HTMLParser):
    """What a page leads to and shows, and the places in it that may be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.leads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.places.add(value)
            if value and (name == "href" or (name == "src" and tag in ("img", "script"))):
                self.leads.append(value)


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    """Files and headings, below and beside docs/; and nothing is fetched from anywhere else to show a page."""
    pages = {page: Links(page.read_text(encoding="utf-8")) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) >= len(list((ROOT / "docs").glob("*.md"))) + len(BESIDE)
    for page, links in pages.items():
        for target in links.leads:
            if re.match(r"(https?|mailto):", target):
                continue
            name, _, heading = target.partition("#")
            file = (page.parent / name).resolve() if name and name != "." else page
            assert file.exists(), f"{page.name}: {target}"
            if heading and file in pages:
                assert heading in pages[file].places | {"__skip"}, f"{page.name}: {target}"
        fetched = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="(https?:[^"]+)', page.read_text()
        )
        assert not fetched


def test_no_code_on_the_site_shows_an_escape_of_markdown(site: Path) -> None:
    """A bar in the code of a table is a bar, as on GitHub."""
    for page in site.rglob("*.html"):
        assert not re.search(r"<code>[^<]*\\\|[^<]*</code>", page.read_text(encoding="utf-8")), page


def test_every_page_is_listed() -> None:
    """In the site's navigation, once, and on the README."""
    listed = re.findall(r": ([\w/-]+\.md)$", CONFIG.read_text(encoding="utf-8"), re.MULTILINE)
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")} | set(BESIDE.values())
    assert sorted(listed) == sorted(pages)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    of_flows = {"inbound.md", "outbound.md", "dns.md", "bypass.md", "tproxy.md"}
    of_experiments = {page.removeprefix("docs/") for page, test in OWN_TESTS.items() if test.endswith("/test_walks.py")}
    others = pages - of_flows - of_experiments - {"index.md"}
    assert {page for page in others if f"({page})" not in readme and f"(docs/{page})" not in readme} == set()


def test_links_lead_where_they_led() -> None:
    """Between README, docs/ and the folders in it, in each direction; links elsewhere are left alone."""
    for source, text, wanted in (
        ("README.md", "[a](docs/dns.md#x) ![b](docs/pictures/dns.svg)", "[a](dns.md#x) ![b](pictures/dns.svg)"),
        ("README.md", "[a](CHANGELOG.md)", "[a](CHANGELOG.md)"),
        ("docs/start.md", "[a](../README.md#install) [b](#here)", "[a](index.md#install) [b](#here)"),
        ("docs/start.md", "[a](kubernetes/README.md)", "[a](kubernetes/README.md)"),
        ("docs/kubernetes/README.md", "[a](../cni.md) [b](cni.yaml)", "[a](../cni.md) [b](cni.yaml)"),
        ("docs/kubernetes/README.md", "[a](../../README.md)", "[a](../index.md)"),
        ("docs/start.md", "[a](https://x.example/docs/a.md)", "[a](https://x.example/docs/a.md)"),
    ):
        assert moved_to_the_site(text, source) == wanted
