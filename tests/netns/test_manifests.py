"""The manifests of docs/kubernetes do what they say: their arguments and annotations, in a pod."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from capture.cni.node import group
from tests.rig import PROXY
from tests.rig.pod import ROOT
from tests.rig.runtime import call, configuration, environment

if TYPE_CHECKING:
    from tests.rig import Pod

FOLDER = ROOT / "docs/kubernetes"


def spec(name: str) -> Any:
    """The pod of a manifest."""
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return found["spec"].get("template", found)["spec"]


@pytest.mark.parametrize(
    ("name", "passed"),
    [
        ("pod-1.20.1", [15090, 15021, 15020]),
        ("pod-1.5.1", [15090, 15020]),
        ("deployment-1.0.5", [8080]),
        ("native-sidecar", [15090, 15021, 15020]),
    ],
)
def test_a_pod_is_captured_by_its_init_container(pod: Pod, name: str, passed: list[int]) -> None:
    """Both directions; what it excludes inbound is not."""
    container = spec(name)["initContainers"][0]
    pod.applied(*container.get("args", container.get("command", [])))
    pod.open_listeners()
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial("9.9.9.9", 80, uid=PROXY))) == ("pod:15001", "ext:80")
    assert str(pod.dial_in(9080)) == "pod:15006"
    assert [str(pod.dial_in(port)) for port in passed] == [f"pod:{port}" for port in passed]


def test_a_pod_of_the_plugin_is_captured_and_proved(pod: Pod) -> None:
    """The DaemonSet's arguments are the plugin's; the pod's annotations decide, and its validation proves it or ends
    with 126 where the plugin was not there."""
    validation = spec("cni-validation")["initContainers"][0]["args"]
    assert pod.capture(*validation).status == 126
    annotations = yaml.safe_load((FOLDER / "cni-validation.yaml").read_text())["metadata"]["annotations"]
    config = configuration(*spec("cni")["containers"][0]["args"], annotations=annotations)
    answer = call(pod.outside, environment("ADD", pod.inside.path), config)
    assert answer.status == 0, answer
    assert pod.capture(*validation).status == 0
    pod.open_listeners()
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial("9.9.9.9", 3306))) == ("pod:15001", "ext:3306")


def test_the_daemon_sets_command_is_one_of_ours() -> None:
    """Every option is known, and the last word leaves the rest to the settings."""
    program, command, *options, last = spec("cni")["containers"][0]["command"]
    assert (program, last) == ("capture-cni", "--")
    known = {name for option in group.commands[command].params for name in option.opts}
    assert {word for word in options if word.startswith("--")} <= known
