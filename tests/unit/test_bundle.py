"""The modules of a run in one file: used where they are what the sources say, and passed over where they are not."""

from __future__ import annotations

import marshal
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from capture.bundling import LEADERS
from tests.rig import Namespace
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOADED = """
from capture.bundle import use
use()
import capture.init, capture.text
for name in ("capture.init", "rules.plan.plan", "capture.text"):
    print(name, type(sys.modules[name].__loader__).__name__, sys.modules[name].__file__)
print(getattr(capture.text, "MARK", ""))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Our packages somewhere else, with the file made."""
    for package in ("capture", "rules"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.bundle"))
    run(tmp_path, "from capture.bundling import make\nmake()")
    return tmp_path


def run(folder: Path, code: str, within: Sequence[str] = ()) -> list[str]:
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    command = [*within, sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def bundle(folder: Path) -> Path:
    (file,) = (folder / "capture/__pycache__").glob("*.bundle")
    return file


def test_what_every_run_loads_comes_from_the_file(installed: Path) -> None:
    """With the names and files that the modules have otherwise."""
    assert run(installed, LOADED)[:3] == [
        f"{name} Bundle {installed}/{name.replace('.', '/')}.py"
        for name in ("capture.init", "rules.plan.plan", "capture.text")
    ]


def test_a_source_that_was_changed_since_is_what_counts(installed: Path) -> None:
    """That module alone is loaded as ever, and has what was written into it."""
    with (installed / "capture/text.py").open("a", encoding="utf-8") as source:
        source.write('\nMARK = "changed"\n')
    first, _, third, mark = run(installed, LOADED)
    assert " Bundle " in first
    assert " SourceFileLoader " in third
    assert mark == "changed"


@pytest.mark.parametrize(
    "content", [b"", b"x", marshal.dumps(1), marshal.dumps((1, {})), None], ids=["empty", "no", "one", "old", "gone"]
)
def test_a_file_that_is_none_is_passed_over(installed: Path, content: bytes | None) -> None:
    """Cut off, of another version of Python, or not there: Python finds the modules as ever."""
    if content is None:
        bundle(installed).unlink()
    else:
        bundle(installed).write_bytes(content)
    assert all(" SourceFileLoader " in line for line in run(installed, LOADED)[:3])


TOGETHER = """
import importlib.util
from capture.bundle import use
use()
asked = []
sys.addaudithook(lambda event, its: asked.append(its[0]) if event == "import" else None)
import capture.init
asked = [name for name in asked if name.partition(".")[0] in ("capture", "rules")]
assert asked == ["capture.init"], asked
for name, module in sys.modules.items():
    if name.startswith(("capture.", "rules.")) and name != "capture.bundle":
        parent, _, last = name.rpartition(".")
        assert getattr(sys.modules[parent], last) is module, name
        assert module.__package__ == (name if hasattr(module, "__path__") else parent), name
        assert importlib.util.find_spec(name) is module.__spec__, name
        print(type(module.__loader__).__name__)
"""


def test_what_is_always_loaded_together_is_run_in_one_go(installed: Path) -> None:
    """Python is asked for one module, and the others are where it would have put them."""
    told = run(installed, TOGETHER)
    assert set(told) == {"Bundle"}
    assert len(told) > 50


def test_each_leader_can_be_the_first_that_is_loaded(installed: Path) -> None:
    """A command that people type loads them in another order than a run does."""
    for leader in LEADERS:
        code = f"from capture.bundle import use\nuse()\nimport {leader}\nprint(type({leader}.__loader__).__name__)"
        assert run(installed, code) == ["Bundle"], leader


MODE = """
import os
from capture.bundle import use
use()
from capture.init import run
status = run({argv!r}, {{"LOG_OUTPUT_LEVEL": "none", "PATH": os.environ["PATH"]}})
assert status == 0, status
for name, module in sys.modules.items():
    if name.partition(".")[0] in ("capture", "rules") and name not in ("capture", "capture.bundle"):
        if type(module.__loader__).__name__ != "Bundle":
            print(name)
"""


@pytest.mark.netns
@pytest.mark.parametrize(
    "mode",
    [
        [],
        ["--redirect-dns"],
        ["--dual-stack"],
        ["-m", "TPROXY", "--dual-stack", "--drop-invalid"],
        ["--native-nftables"],
        ["--native-nftables", "-m", "TPROXY", "--dual-stack", "--redirect-dns"],
        ["--force-iptables-binary=legacy", "-m", "TPROXY"],
    ],
    ids=["plain", "DNS", "dual stack", "TPROXY", "native", "native, all", "legacy"],
)
def test_all_that_a_run_loads_is_in_the_file(installed: Path, mode: list[str]) -> None:
    """In each mode, the first time, again, and to take it away."""
    with Namespace("modules") as namespace:
        namespace.ip("link", "set", "lo", "up")
        for address in ("10.244.0.5/32", "fd00::5/128"):
            namespace.ip("addr", "add", address, "dev", "lo")
        namespace.set_resolv_conf("nameserver 10.96.0.10\n")
        within = ["ip", "netns", "exec", namespace.name]
        for argv in (["-u", "1337", *mode], ["-u", "1337", *mode], ["--cleanup-only"]):
            assert run(installed, MODE.format(argv=argv), within) == []


def test_a_traceback_shows_our_lines(installed: Path) -> None:
    """For people who report what went wrong."""
    code = "from capture.bundle import use\nuse()\nimport capture.text, traceback\n"
    code += "try: capture.text.quoted(None)\nexcept TypeError: print(traceback.format_exc())"
    assert "return f'\"{spelled_out(text if len(text) <= 80" in "\n".join(run(installed, code))


def test_unchecked_it_is_used_wherever_it_was_moved(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As in the image, whose sources get other times and another place than where they were compiled."""
    run(installed, "from capture.bundling import make\nmake(is_checked=False)")
    moved = tmp_path_factory.mktemp("image")
    for package in ("capture", "rules"):
        shutil.copytree(installed / package, moved / package, copy_function=shutil.copyfile)
    assert run(moved, LOADED)[0] == f"capture.init Bundle {moved}/capture/init.py"


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_the_file_never_stands_where_a_stream_was_closed(installed: Path, closed: int) -> None:
    """What is printed would go into it, or what is in it be read as a list of somebody's."""
    program = f"""
import os, sys
sys.path.insert(0, {str(installed)!r})
os.close({closed})
from capture.bundle import Bundle, use
use()
from capture.output import open_streams
open_streams()
told = [os.readlink("/proc/self/fd/" + str(number)) for number in range(3)]
os.write({2 if closed == 1 else 1}, " ".join(told).encode())
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    told = (done.stdout or done.stderr).split()
    assert told[closed] == "/dev/null"
    assert not any("bundle" in each for each in told)


@pytest.mark.parametrize("command", ["check", "status", "verify", "clean", "-u"])
@pytest.mark.parametrize("is_stale", [True, False], ids=["stale", "made"])
def test_with_one_open_file_more_than_the_streams_it_says_what_is_short(
    installed: Path, command: str, is_stale: bool
) -> None:
    """The file of modules takes that one; what is not in it, and the words for that, have to be opened."""
    if is_stale:
        for source in installed.rglob("*.py"):
            os.utime(source, (1, 1))
    path = [str(installed), *sys.path]
    program = f"import sys; sys.path[:0] = {path!r}; sys.argv[1:] = [{command!r}, '1337']\n"
    program += "import capture.__main__ as it; it.main()"
    limited = ["sh", "-c", 'ulimit -n 4; exec "$@"', "sh", sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(limited, env={}, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2), done
    assert "error" in done.stderr
    assert "Traceback" not in done.stderr
