"""The demo shows a working capture, notices one that is not, and leaves nothing behind, however it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import demo
from tests.rig.namespace import PREFIX
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEMO = [sys.executable, "-m", "tests.demo"]
OTHERWISE = "import sys, tests.demo as d; d.ARGUMENTS += tuple(sys.argv[1:]); sys.exit(d.main())"
"""The demo with more arguments for capture, of which the last counts."""


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def namespaces() -> set[str]:
    """Every rig's, by name."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split() if name.startswith(PREFIX)}


def made_by(process: subprocess.Popen[str]) -> set[str]:
    """The namespaces that children of this process have made so far."""
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children, encoding="ascii") as file:
        pids = file.read().split()
    return {name for name in namespaces() if name.removeprefix(f"{PREFIX}-").partition("-")[0] in pids}


@pytest.mark.netns
def test_everything_lands_where_a_mesh_wants_it() -> None:
    """The demo ends well, with a mark for each request, in plain text of at most 120 columns, and without noise."""
    done = subprocess.run(DEMO, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.count("✓") == len(demo.REQUESTS)
    assert "\033" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.netns
def test_each_rule_is_named_with_its_why() -> None:
    """A connection out, one back to the pod and one in name the rules that the kernel counted."""
    shown = subprocess.run(DEMO, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60).stdout
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    out = "app (1000) 10.244.0.5 9.9.9.9:80 proxy:15001 ISTIO_OUTPUT 9 everything else goes to the proxy"
    on = "proxy (1337) 10.244.0.5 9.9.9.9:80 outside:80 ISTIO_OUTPUT 4 the proxy's own traffic, or it would loop"
    assert rows[rows.index(out) + 1] == on
    assert "outside (0) 10.244.0.9 10.244.0.5:15021 proxy:15021 ISTIO_INBOUND 3 an excluded inbound port" in rows


@pytest.mark.netns
def test_what_a_mesh_does_not_want_is_marked() -> None:
    """With arguments that capture nothing inbound, the request from outside is marked and the status is 1."""
    command = [sys.executable, "-c", OTHERWISE, "-b", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ A client outside calls the app" in done.stdout
    assert "no counter moved: no rule was asked" in done.stdout
    assert "✗ it should have landed on proxy:15006, then app:8080" in done.stdout


@pytest.mark.netns
def test_a_proxy_that_captures_itself_is_stopped() -> None:
    """With another uid for the proxy's, its connections come back to it, and the demo ends nevertheless."""
    command = [sys.executable, "-c", OTHERWISE, "-u", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    looped = "proxy (1337)  10.244.0.5  192.0.2.10:443    proxy:15001  ISTIO_OUTPUT 9"
    assert done.stdout.count(looped) == demo.MOST_LEGS


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["a namespace is there", "the command is shown", "the first request is shown"])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, moment: str) -> None:
    """Whenever a signal comes, the namespaces go, and the exit status names the signal."""
    with started(DEMO) as process:
        assert process.stdout
        if moment == "a namespace is there":
            while not made_by(process):
                assert process.poll() is None
        else:
            sign = "$ capture" if moment == "the command is shown" else "✓"
            next(line for line in process.stdout if sign in line)
        made = made_by(process)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert not made & namespaces()
    if process.returncode:  # else it was over before the signal came
        assert process.returncode == 128 + number
        assert stderr == f"\n{number.name}: stopped, and everything was removed\n"


def test_without_root_it_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the status of a failure."""
    monkeypatch.setattr(demo, "is_root", lambda: False)
    assert demo.main() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "The demo makes network namespaces, which takes root: sudo make demo\n"


def test_colours_are_for_terminals_whose_owner_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is painted on a terminal, and not if NO_COLOR is set to anything."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert demo.painted("✓", demo.GREEN) == "\033[32m✓\033[m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert demo.painted("✓", demo.GREEN) == "✓"


@pytest.mark.parametrize(("argument", "more"), [("demo", False), ("", True)])
def test_only_what_the_demo_needs_is_installed_for_it(tmp_path: Path, argument: str, more: bool) -> None:
    """On a machine that has nothing but apt: the tests' compiler and container runtime are none of it."""
    script = bare_machine(tmp_path, 'echo "$@"')
    done = subprocess.run([script, argument], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    wanted = done.stdout.splitlines()[0].split()
    assert {"iptables", "nftables", "iproute2", "python3-venv"} <= set(wanted)
    assert ({"podman", "crun", "gcc"} <= set(wanted)) == more
    assert more or not {"podman", "crun", "gcc", "conntrack"} & set(wanted)


def test_two_at_once_do_not_both_install(tmp_path: Path) -> None:
    """apt refuses the second: it waits."""
    script = bare_machine(tmp_path, f"mkdir {tmp_path}/lock || exit 100; sleep 0.3; rmdir {tmp_path}/lock")
    for program in ("flock", "mkdir", "sleep", "rmdir"):
        (tmp_path / program).symlink_to(shutil.which(program) or pytest.skip(f"not installed: {program}"))
    both = [
        subprocess.Popen([script, "demo"], env={"PATH": str(tmp_path)}, stdout=subprocess.DEVNULL) for _ in range(2)
    ]
    assert [process.wait(60) for process in both] == [0, 0]


def bare_machine(folder: Path, apt: str) -> Path:
    """The script that installs packages, beside an apt-get that does this; nothing else is found on the PATH."""
    for name, said in {"id": "echo 0", "apt-get": apt, "python3": "exit 1"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{said}\n")
        (folder / name).chmod(0o755)
    script = folder / "system-packages"
    script.write_text((ROOT / "tests/setup" / script.name).read_text(encoding="utf-8").replace(":/usr/sbin:/sbin", ""))
    script.chmod(0o755)
    return script
