"""The pages say what the code does: generated ones are fresh, links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from capture.settings import groups
from capture.settings.declared import DECLARED
from tests import write_reference
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ELSEWHERE = ("/wo" "rk/", ".libr" "ary")  # fmt: skip
"""Places of a machine on which the project was written. Nobody else has them."""

CONTRACT_SHORT = "pzeugmbdcixqoktrn"
CONTRACT_LONG = """
envoy-port inbound-capture-port inbound-tunnel-port proxy-uid proxy-gid istio-inbound-interception-mode
istio-inbound-ports istio-local-exclude-ports istio-exclude-interfaces istio-service-cidr istio-service-exclude-cidr
istio-outbound-ports istio-local-outbound-ports-exclude kube-virt-interfaces istio-inbound-tproxy-mark
istio-inbound-tproxy-route-table dry-run iptables-probe-port probe-timeout skip-rule-apply run-validation redirect-dns
capture-all-dns drop-invalid dual-stack network-namespace cni-mode reconcile cleanup-only force-apply native-nftables
force-iptables-binary log_output_level log_as_json log_target log_caller log_stacktrace_level vklog
"""
CONTRACT_VARIABLES = """
ENVOY_PORT ISTIO_META_DNS_CAPTURE INVALID_DROP ISTIO_DUAL_STACK ISTIO_OUTBOUND_OWNER_GROUPS
ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR ENVOY_USER DRY_RUN_FILE_PATH
"""
"""What a pod spec written for istio-iptables may contain."""


# --- the generated page -----------------------------------------------------------------------------------


def test_the_reference_is_what_the_code_says_now() -> None:
    """`make docs` would change nothing."""
    assert write_reference.PAGE.read_text(encoding="utf-8") == write_reference.page(), "run `make docs`"


@pytest.mark.parametrize("flag", [*map("-{}".format, CONTRACT_SHORT), *map("--{}".format, CONTRACT_LONG.split())])
def test_every_flag_of_istio_iptables_is_in_the_reference(flag: str) -> None:
    """In a row of its own."""
    assert len([line for line in reference_rows() if f"`{flag}`" in line]) == 1


@pytest.mark.parametrize("variable", CONTRACT_VARIABLES.split())
def test_every_variable_of_istio_iptables_is_in_the_reference(variable: str) -> None:
    """Those that do not follow from a flag's name."""
    assert any(f"`{variable}`" in line for line in reference_rows())


def reference_rows() -> list[str]:
    return [line for line in write_reference.page().splitlines() if line.startswith("| `")]


def test_every_setting_is_in_a_group() -> None:
    """A new setting has a place; nothing is said twice, and what is gone is gone."""
    grouped = [name for names in groups.GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {setting.name for setting in DECLARED}


# --- links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and headings that are named are there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not heading or heading in headings(file), target


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def without_code(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_has_a_head(page: Path) -> None:
    """A line between two rows cuts a table in two, and the second half is shown as text."""
    text = without_code(page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert re.match(r"\|.*\n\|[-| :]+\|\n", table), table


# --- tests that are named as proof ------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page: Path) -> None:
    """`netns/test_apply.py::test_…` is a file below `tests/` with a test of that name."""
    for file, name in re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE), name


# --- what is nobody else's business -------------------------------------------------------------------------


def test_nothing_names_places_of_one_machine() -> None:
    """What the repository holds is true wherever it is checked out."""
    if not shutil.which("git"):
        pytest.skip("not installed: git")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git repository")
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    found = [
        f"{file.relative_to(ROOT)}: {place}"
        for file in files
        if file.is_file()
        for place in ELSEWHERE
        if place.encode() in file.read_bytes()
    ]
    assert found == []
