"""`capture-cni install`, `uninstall` and `repair`: the plugin's place on a node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.rig import PROXY
from tests.rig.node import BRIDGE, CHAIN, PORTMAP, SETTINGS, Folders
from tests.rig.pod import readable_source
from tests.rig.runtime import PROGRAM, SIDECAR, configuration, environment
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig import Namespace, Pod


class Node(Folders):
    """A node, and our plugin on it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.program = [sys.executable, str(PROGRAM)]

    def command(self, verb: str, *more: str) -> list[str]:
        return [*self.program, verb, "--bin-dir", str(self.bin), "--conf-dir", str(self.conf), *more]

    def run(self, verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(verb, *more), env=environ(), capture_output=True, text=True, check=False, timeout=30
        )

    @contextlib.contextmanager
    def watched(self, *more: str, within: Namespace | None = None) -> Iterator[subprocess.Popen[str]]:
        """A watcher at work, in a namespace or where we are: it changes files only."""
        inside = ["ip", "netns", "exec", within.name] if within else []
        command = [*inside, *self.command("install", "--watch", *more)]
        with subprocess.Popen(command, env=environ(), stderr=subprocess.PIPE, text=True) as watcher:
            try:
                yield watcher
            finally:
                watcher.send_signal(signal.SIGTERM)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": readable_source()}


@pytest.mark.parametrize("way", ["in place", "by renaming"])
def test_a_hundred_rewrites_by_another_program(node: Node, tmp_path: Path, way: str) -> None:
    """Whoever reads meanwhile finds JSON, but for what the other writes in place; in the end ours is in the chain,
    once, and the last of the other's changes as well."""
    path = node.conf / "10-pods.conflist"
    node.write(path.name, CHAIN)
    is_over, seen, broken = threading.Event(), 0, list[str]()

    def read() -> None:
        nonlocal seen
        while not is_over.is_set():
            text = path.read_text()
            seen += 1
            try:
                json.loads(text)
            except ValueError:
                broken.append(text)

    reader = threading.Thread(target=read)
    with node.watched(*SETTINGS):
        reader.start()
        for number in range(100):
            new = {**CHAIN, "plugins": [BRIDGE, {**PORTMAP, "number": number}]}
            if way == "in place":
                path.write_text(json.dumps(new))
            else:
                (tmp_path / "new").write_text(json.dumps(new))
                os.rename(tmp_path / "new", path)
            if number % 3 == 0:  # some come one after the other, some when ours is back
                until(lambda: "capture-cni" in path.read_text())
        until(lambda: "capture-cni" in path.read_text())
        is_over.set()
        reader.join()
    assert seen > 100
    if way == "by renaming":
        assert broken == []
    assert node.types(path.name) == ["bridge", "portmap", "capture-cni"]
    assert node.config(path.name)["plugins"][1]["number"] == 99
    assert [file.name for file in node.conf.iterdir()] == [path.name]


def test_a_watcher_waits_for_the_first_configuration(node: Node) -> None:
    """On a node that boots the main plugin may come later; and an executable that was removed comes back."""
    with node.watched(*SETTINGS):
        until((node.bin / "capture-cni").exists)
        node.write("10-pods.conflist", CHAIN)
        until(lambda: "capture-cni" in (node.conf / "10-pods.conflist").read_text())
        (node.bin / "capture-cni").unlink()
        until((node.bin / "capture-cni").exists)


def test_told_to_end_a_watcher_takes_the_plugin_out_if_it_is_to(node: Node) -> None:
    """By default it stays: with --in-container nothing comes up uncaptured while the container is replaced."""
    node.write("10-pods.conflist", CHAIN)
    for more, types in (["--out-at-end"], ["bridge", "portmap"]), ([], ["bridge", "portmap", "capture-cni"]):
        with node.watched(*more, *SETTINGS):
            until(lambda: "capture-cni" in (node.conf / "10-pods.conflist").read_text())
        assert node.types("10-pods.conflist") == types
        assert (node.bin / "capture-cni").exists() == ("capture-cni" in types)


def called(node: Node, pod: Pod) -> subprocess.CompletedProcess[str]:
    """ADD by the executable that was installed, with the environment that a runtime gives."""
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment("ADD", pod.inside.path)}
    config = {**configuration(annotations=SIDECAR), **node.config("10-pods.conflist")["plugins"][-1]}
    return pod.outside.run(str(node.bin / "capture-cni"), env=environ, text=json.dumps(config))


def test_what_is_installed_captures(node: Node, pod: Pod) -> None:
    """Called without a PATH to our Python, or anything else of ours in the environment."""
    node.write("10-pods.conflist", CHAIN)
    assert node.run("install", *SETTINGS).returncode == 0
    done = called(node, pod)
    assert done.returncode == 0, done
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


def test_in_a_container_the_plugin_enters_its_file_system(node: Node, pod: Pod, tmp_path: Path) -> None:
    """Where the node has no Python of ours; without the process that watches, pods do not start, as they should not."""
    node.write("10-pods.conflist", CHAIN)
    node.program = [str(tmp_path / "capture-cni")]
    lines = (f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {readable_source()!r})", PROGRAM.read_text())
    (tmp_path / "capture-cni").write_text("\n".join(lines))
    (tmp_path / "capture-cni").chmod(0o755)
    with node.watched("--in-container", *SETTINGS, within=pod.outside) as watcher:
        until(lambda: "capture-cni" in (node.conf / "10-pods.conflist").read_text())
        assert f"--target {watcher.pid} --mount" in (node.bin / "capture-cni").read_text()
        done = called(node, pod)
        assert done.returncode == 0, done
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert called(node, pod).returncode != 0


def repair(node: Node, pod: Pod, *more: str) -> subprocess.CompletedProcess[str]:
    """Only of this pod: others on this machine are other tests'."""
    folder = ["--conf-dir", str(node.conf), "--netns", pod.inside.path]
    return pod.outside.run(sys.executable, str(PROGRAM), "repair", *folder, *more, env=environ())


def test_a_pod_that_came_before_the_plugin_is_found_and_captured(node: Node, pod: Pod) -> None:
    """By its proxy, which listens while nothing is captured; reported first, captured on request, and then no more.
    The settings are those that the chain has."""
    node.write("10-pods.conflist", CHAIN)
    node.run("install", "--", "-u", str(PROXY), "-o", "22")
    assert (repair(node, pod).returncode, repair(node, pod).stdout) == (0, "")
    pod.open_listeners()
    before = pod.state()
    found = repair(node, pod)
    assert found.returncode == 3, found
    assert f"{pod.inside.path}: a process" in found.stdout
    assert f"of uid {PROXY} listens on port 15001, and nothing is captured" in found.stdout
    assert pod.state() == before
    captured = repair(node, pod, "--capture")
    assert (captured.returncode, "it is now" in captured.stdout) == (0, True), captured
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial("9.9.9.9", 22))) == ("pod:15001", "ext:22")
    assert (repair(node, pod).returncode, repair(node, pod).stdout) == (0, "")


def test_a_listener_that_is_not_the_proxys_is_no_sign_of_one(node: Node, pod: Pod) -> None:
    """Anybody may listen on port 15001."""
    pod.open_listeners()
    assert (repair(node, pod, "--", "-u", "4711").returncode, repair(node, pod, "--", "-u", "4711").stdout) == (0, "")
