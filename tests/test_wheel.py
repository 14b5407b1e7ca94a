"""The wheel: what it installs, and that it works beside what others install."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from hatch_build import renamed
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DECOY = 'raise ImportError("this is somebody else\'s rules")\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True, capture_output=True, timeout=120)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_brings_no_top_level_package_but_capture(wheel: Path) -> None:
    """PyPI has a project called rules: two that bring the same files break each other, and nobody says so."""
    with zipfile.ZipFile(wheel) as content:
        tops = {name.split("/")[0] for name in content.namelist()}
        assert tops == {"capture", "traffic_capture-0.1.0.data", "traffic_capture-0.1.0.dist-info"}
        imports = [line for name in content.namelist() if name.endswith(".py") for line in imports_of(content, name)]
    assert not [line for line in imports if line.split()[1].split(".")[0] == "rules"]


def imports_of(content: zipfile.ZipFile, name: str) -> list[str]:
    lines = content.read(name).decode().splitlines()
    return [line.strip() for line in lines if line.strip().startswith(("import ", "from ")) and len(line.split()) > 1]


def test_the_wheel_has_all_that_the_repository_has(wheel: Path) -> None:
    """Every module of both folders, and the files that shells look for in their places."""
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "capture").rglob("*.py")}
    modules |= {f"capture/{file.relative_to(ROOT)}" for file in (ROOT / "rules").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    shared = "traffic_capture-0.1.0.data/data/share/"
    for place in (
        "bash-completion/completions/capture",
        "bash-completion/completions/istio-iptables",
        "zsh/site-functions/_capture",
        "fish/vendor_completions.d/capture.fish",
        "fish/vendor_completions.d/istio-iptables.fish",
        "man/man1/capture.1",
        "man/man1/istio-iptables.1",
    ):
        assert shared + place in names


@pytest.mark.netns
@pytest.mark.parametrize(
    "arguments",
    [["-n", "-u", "1337"], ["explain", "-u", "1337"], ["status", "--output", "schema"], ["completion", "bash"]],
    ids=" ".join,
)
def test_what_is_installed_runs_beside_a_package_called_rules(
    wheel: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """The init path, a command that thinks, one that reads its own source, and one that reads a file of the package."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "__init__.py").write_text(DECOY)
    # Only the namespace of its own keeps a run from ours.
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-P", "-m", "capture", *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_file_of_a_runs_modules_is_made_where_we_are_installed(wheel: Path, tmp_path: Path) -> None:
    """As the build of the image does: with the modules that only some runs load, by the names that they have there."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from capture.bundling import make; make(is_checked=False)"
    code += "; print(*sorted(name for name in sys.modules if 'rules' in name.split('.')))"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {name.split(".")[0] for name in done.stdout.split()} == {"capture"}


def test_imports_are_renamed_and_nothing_else() -> None:
    """Wherever they stand; not in a sentence that begins alike."""
    source = '"""Says:\nfrom rules.x import y\n"""\nif a:\n    from rules.x import (\n        y,\n    )\n'
    source += "from rulesets import z\n"
    wanted = source.replace("    from rules.x", "    from capture.rules.x")
    assert renamed(source) == wanted
    with pytest.raises(ValueError, match="import rules"):
        renamed("import rules.value\n")
