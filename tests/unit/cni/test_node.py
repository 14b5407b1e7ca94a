"""`capture-cni install`, `uninstall` and `repair`: files in folders, and namespaces in memory."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from capture.cni import repairing
from rules.connections.flow import LISTEN
from tests.rig import PROXY
from tests.rig.in_process import Ended, capture_cni
from tests.rig.memory import Memory, everything
from tests.rig.node import BRIDGE, CHAIN, SETTINGS, Folders

if TYPE_CHECKING:
    from pathlib import Path


class Node(Folders):
    """A node, and our plugin on it."""

    def run(self, verb: str, *more: str, kernel: Memory | None = None) -> Ended:
        places = ["--conf-dir", str(self.conf), *(["--bin-dir", str(self.bin)] if verb != "repair" else [])]
        return capture_cni(kernel or Memory(), verb, *places, *more)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_it_stands_behind_the_last_plugin_of_the_first_chain(node: Node) -> None:
    """As runtimes choose: by name. All else stays as it was; again changes nothing; uninstall takes it all out."""
    node.write("10-pods.conflist", CHAIN)
    node.write("20-other.conflist", CHAIN)
    os.chmod(node.conf / "10-pods.conflist", 0o640)
    done = node.run("install", *SETTINGS)
    assert (done.status, done.stderr) == (0, "")
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
    assert node.run("uninstall").status == 0
    assert node.config("10-pods.conflist") == CHAIN
    assert list(node.bin.iterdir()) == []
    assert sorted(path.name for path in node.conf.iterdir()) == ["10-pods.conflist", "20-other.conflist"]
    assert "not installed" in node.run("uninstall").stdout


def test_a_configuration_of_one_plugin_becomes_a_chain(node: Node) -> None:
    """Under the name that makes a runtime read it as one."""
    single = {"cniVersion": "0.4.0", "name": "pods", **BRIDGE}
    node.write("10-pods.conf", single)
    assert node.run("install", *SETTINGS).status == 0
    assert [path.name for path in node.conf.iterdir()] == ["10-pods.conflist"]
    config = node.config("10-pods.conflist")
    assert (config["cniVersion"], config["name"], config["plugins"][0]) == ("0.4.0", "pods", BRIDGE)
    assert node.run("uninstall").status == 0
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
    assert done.status == 1
    assert words in done.stderr
    assert [(path.name, path.read_bytes()) for path in node.conf.iterdir()] == before


def test_settings_that_are_refused_are_not_installed(node: Node) -> None:
    """A node on which no pod starts is worse than one without the plugin."""
    node.write("10-pods.conflist", CHAIN)
    for settings in (["-p", "0"], ["-n"], ["--cleanup-only"], ["--network-namespace", "a"]):
        done = node.run("install", "--", *settings)
        assert (done.status, list(node.bin.iterdir())) == (2, []), done
        assert settings[0] in done.stderr
    assert node.run("install", "--in-container").status == 2
    assert node.config("10-pods.conflist") == CHAIN


def test_somebody_elses_program_is_not_removed(node: Node) -> None:
    """It may have our name."""
    (node.bin / "capture-cni").write_text("#!/bin/sh\n")
    assert node.run("uninstall").status == 1
    assert (node.bin / "capture-cni").exists()


@pytest.mark.parametrize("more", [["--in-container"], ["--out-at-end"]])
def test_what_goes_with_a_watcher_is_refused_without_one(node: Node, more: list[str]) -> None:
    """Said with the flag that is missing; nothing is installed."""
    node.write("10-pods.conflist", CHAIN)
    done = node.run("install", *more)
    assert (done.status, "--watch" in done.stderr) == (2, True)
    assert (node.config("10-pods.conflist"), list(node.bin.iterdir())) == (CHAIN, [])


def test_the_program_can_be_executed_and_is_written_once(node: Node) -> None:
    """By everybody; one that was changed, or that cannot be executed, is put back."""
    node.write("10-pods.conflist", CHAIN)
    program = node.bin / "capture-cni"
    node.run("install", *SETTINGS)
    text, made = program.read_text(), program.stat()
    assert stat.S_IMODE(made.st_mode) == 0o755
    assert "from capture.cni.program import main" in text
    node.run("install", *SETTINGS)
    assert program.stat().st_ino == made.st_ino
    program.chmod(0o644)
    node.run("install", *SETTINGS)
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    program.write_text("#!/bin/sh\n")
    node.run("install", *SETTINGS)
    assert program.read_text() == text
    done = capture_cni(Memory(), "install", "--conf-dir", str(node.conf), "--bin-dir", str(node.bin / "none"))
    assert (done.status, "--bin-dir names the plugins' folder" in done.stderr) == (1, True)
    assert node.run("uninstall").stdout.count("\n") == 2


@pytest.fixture
def nodes(node: Node, monkeypatch: pytest.MonkeyPatch) -> tuple[Memory, Memory]:
    """A node and a pod on it. What is done to the pod stays in this process."""
    node.write("10-pods.conflist", CHAIN)
    node.run("install", *SETTINGS)
    of_node, pod = Memory(), Memory("127.0.0.1/8", "10.244.0.5/24")
    of_node.others["/run/netns/pod"] = pod
    monkeypatch.setattr(repairing, "visited", repairing.repaired)
    return of_node, pod


def test_a_pod_that_came_before_the_plugin_is_found_and_captured(node: Node, nodes: tuple[Memory, Memory]) -> None:
    """By its proxy, which listens while nothing is captured; reported first, captured on request, and then no more."""
    of_node, pod = nodes
    only = ["--netns", "/run/netns/pod"]
    assert node.run("repair", *only, kernel=of_node) == Ended(0, "", "")
    pod.sockets = [(LISTEN, 15001, 0)]
    pod.uid = PROXY
    before = everything(pod)
    found = "/run/netns/pod: a process of uid 1337 listens on port 15001, and nothing is captured"
    said = f"{found}; `capture-cni repair --capture` captures it\n"
    assert node.run("repair", *only, kernel=of_node) == Ended(3, said, "")
    assert node.run("repair", *only, "--", "-u", "4711", kernel=of_node) == Ended(0, "", "")
    assert node.run("repair", *only, "--", "-u", "1337", "-p", "1", kernel=of_node) == Ended(0, "", "")
    assert everything(pod) == before
    assert node.run("repair", *only, "--capture", kernel=of_node) == Ended(0, f"{found}: it is now\n", "")
    assert everything(pod) != before
    assert node.run("repair", *only, "--capture", kernel=of_node) == Ended(0, "", "")


def test_settings_of_a_repair_are_those_of_the_chain_or_are_given(node: Node) -> None:
    """Where neither is there, or a plugin could not use them, nothing is looked into."""
    node.write("10-pods.conflist", CHAIN)
    done = node.run("repair")
    assert (done.status, "does not have the plugin" in done.stderr) == (1, True)
    assert node.run("repair", "--", "-n").status == 2


@pytest.mark.parametrize(("statuses", "worst"), [([0, 0], 0), ([0, 3], 3), ([3, 1, 0], 1), ([1, 3], 1)], ids=str)
def test_the_worst_of_many_pods_counts(monkeypatch: pytest.MonkeyPatch, statuses: list[int], worst: int) -> None:
    """One that could not be captured before those that are only reported."""
    ended = iter(statuses)
    monkeypatch.setattr(repairing, "visited", lambda *_, **__: next(ended))
    monkeypatch.setattr(repairing, "namespaces", lambda: map(str, statuses))
    assert repairing.repair([], captures=False) == worst
