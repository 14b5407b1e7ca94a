"""`capture-cni install`, `uninstall` and `repair`: the plugin's place on a node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import PROXY
from tests.rig.pod import readable_source
from tests.rig.runtime import PROGRAM, SIDECAR, configuration, environment
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig import Namespace, Pod

BRIDGE = {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "subnet": "10.244.0.0/24"}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "说明": "端口"}
CHAIN: dict[str, Any] = {"cniVersion": "1.0.0", "name": "pods", "plugins": [BRIDGE, PORTMAP]}
SETTINGS = ("--", "-u", str(PROXY), "-d", "15090")


class Node:
    """The folders of a node: where plugins are, and where networks are configured."""

    def __init__(self, root: Path) -> None:
        self.bin, self.conf = root / "bin", root / "net.d"
        self.program = [sys.executable, str(PROGRAM)]
        self.bin.mkdir()
        self.conf.mkdir()

    def write(self, name: str, config: object) -> None:
        (self.conf / name).write_text(json.dumps(config))

    def config(self, name: str) -> Any:
        return json.loads((self.conf / name).read_text())

    def types(self, name: str) -> list[str]:
        return [plugin["type"] for plugin in self.config(name)["plugins"]]

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


def test_it_stands_behind_the_last_plugin_of_the_first_chain(node: Node) -> None:
    """As runtimes choose: by name. All else stays as it was; again changes nothing; uninstall takes it all out."""
    node.write("10-pods.conflist", CHAIN)
    node.write("20-other.conflist", CHAIN)
    os.chmod(node.conf / "10-pods.conflist", 0o640)
    done = node.run("install", *SETTINGS)
    assert (done.returncode, done.stderr) == (0, "")
    *others, ours = node.config("10-pods.conflist")["plugins"]
    assert others == CHAIN["plugins"]
    assert ours["capture"] == {"args": [*SETTINGS[1:]]}
    assert ours["capabilities"] == {"io.kubernetes.cri.pod-annotations": True}
    assert (node.conf / "10-pods.conflist").stat().st_mode & 0o777 == 0o640
    assert node.config("20-other.conflist") == CHAIN
    as_it_was = (node.conf / "10-pods.conflist").stat()
    assert "nothing was changed" in node.run("install", *SETTINGS).stdout
    assert (node.conf / "10-pods.conflist").stat().st_ino == as_it_was.st_ino
    node.run("install", "--exclude-namespace", "batch", "--", "-u", "1338")
    assert node.types("10-pods.conflist") == ["bridge", "portmap", "capture-cni"]
    assert node.config("10-pods.conflist")["plugins"][-1]["capture"] == {
        "args": ["-u", "1338"],
        "excludeNamespaces": ["batch"],
    }
    assert node.run("uninstall").returncode == 0
    assert node.config("10-pods.conflist") == CHAIN
    assert list(node.bin.iterdir()) == []
    assert sorted(path.name for path in node.conf.iterdir()) == ["10-pods.conflist", "20-other.conflist"]
    assert "not installed" in node.run("uninstall").stdout


def test_a_configuration_of_one_plugin_becomes_a_chain(node: Node) -> None:
    """Under the name that makes a runtime read it as one."""
    single = {"cniVersion": "0.4.0", "name": "pods", **BRIDGE}
    node.write("10-pods.conf", single)
    assert node.run("install", *SETTINGS).returncode == 0
    assert [path.name for path in node.conf.iterdir()] == ["10-pods.conflist"]
    config = node.config("10-pods.conflist")
    assert (config["cniVersion"], config["name"], config["plugins"][0]) == ("0.4.0", "pods", BRIDGE)
    assert node.run("uninstall").returncode == 0
    assert node.config("10-pods.conflist")["plugins"] == [BRIDGE]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "has no configuration"),
        ([], "not an object"),
        ({"name": "pods"}, "neither a list of plugins nor a type"),
        ({**CHAIN, "plugins": []}, "no other plugin"),
        ({**CHAIN, "plugins": ["bridge"]}, "neither a list"),
        ({**CHAIN, "cniVersion": "0.2.0"}, "0.2.0"),
    ],
    ids=str,
)
def test_what_is_no_chain_is_left_as_it_is(node: Node, config: object, words: str) -> None:
    """And named."""
    if config is not None:
        node.write("10-pods.conflist", config)
    before = [(path.name, path.read_bytes()) for path in node.conf.iterdir()]
    done = node.run("install")
    assert done.returncode == 1
    assert words in done.stderr
    assert [(path.name, path.read_bytes()) for path in node.conf.iterdir()] == before


def test_settings_that_are_refused_are_not_installed(node: Node) -> None:
    """A node on which no pod starts is worse than one without the plugin."""
    node.write("10-pods.conflist", CHAIN)
    for settings in (["-p", "0"], ["-n"], ["--cleanup-only"], ["--network-namespace", "a"]):
        done = node.run("install", "--", *settings)
        assert (done.returncode, list(node.bin.iterdir())) == (2, []), done
        assert settings[0] in done.stderr
    assert node.run("install", "--in-container").returncode == 2
    assert node.config("10-pods.conflist") == CHAIN


def test_somebody_elses_program_is_not_removed(node: Node) -> None:
    """It may have our name."""
    (node.bin / "capture-cni").write_text("#!/bin/sh\n")
    assert node.run("uninstall").returncode == 1
    assert (node.bin / "capture-cni").exists()


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
