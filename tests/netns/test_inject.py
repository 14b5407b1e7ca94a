"""`capture inject` as a command; and what it writes, run in a pod."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import yaml

from tests.rig import PROXY, Pod
from tests.unit.inject.manifests import GOOD, POD, pod_with

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def inject(pod: Pod, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return pod.inside.run(sys.executable, "-m", "capture", "inject", *arguments, text=text, env=pod.environ())


def test_what_is_written_captures(pod: Pod) -> None:
    """The arguments of the container in the output, run in a pod: its annotations and our flags decide."""
    text = pod_with(annotations='    traffic.sidecar.istio.io/excludeOutboundPorts: "22"\n')
    done = inject(pod, "-u", str(PROXY), "-d", "9080", text=text)
    assert (done.returncode, done.stderr) == (0, "")
    (container,) = yaml.safe_load(done.stdout)["spec"]["initContainers"]
    pod.applied(*container["args"])
    pod.open_listeners()
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial("9.9.9.9", 22))) == ("pod:15001", "ext:22")
    assert (str(pod.dial_in(8080)), str(pod.dial_in(9080))) == ("pod:15006", "pod:9080")


def test_files_settings_from_a_file_and_undo(pod: Pod, tmp_path: Path) -> None:
    """-f may be repeated; --config is read, and is no argument of the pod; --undo gives back each text."""
    (tmp_path / "a.yaml").write_text(GOOD["init containers and comments"])
    (tmp_path / "b.yaml").write_text(POD)
    (tmp_path / "capture.json").write_text('{"outbound_ports_exclude": ["25"], "log_as_json": true}')
    files = ["-f", str(tmp_path / "a.yaml"), "--filename", str(tmp_path / "b.yaml")]
    done = inject(pod, *files, "--config", str(tmp_path / "capture.json"), "--image", "example/capture:2")
    assert done.returncode == 0, done.stderr
    found = [each.get("spec", {}) for each in yaml.safe_load_all(done.stdout)]
    ours = [spec.get("template", {}).get("spec", spec)["initContainers"][-1] for spec in found]
    assert [(each["image"], each["args"][-2:]) for each in ours] == [
        ("example/capture:2", ["-o", "3306, 5432"]),
        ("example/capture:2", ["-o", "25"]),
    ]
    assert not any("--config" in word or "--log" in word for each in ours for word in each["args"])
    undone = inject(pod, "--undo", text=done.stdout)
    assert undone.stdout == f"{GOOD['init containers and comments']}---\n{POD}"


def test_a_refusal_writes_nothing(pod: Pod, tmp_path: Path) -> None:
    """Neither the pod that is refused nor the others; exit status 2, as for every setting that is refused."""
    (tmp_path / "bad.yaml").write_text(pod_with("  hostNetwork: true\n"))
    done = inject(pod, "-f", "-", "-f", str(tmp_path / "bad.yaml"), text=POD)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Pod web, line 6: it is on the host's network" in done.stderr
    for text, words in (("a: [", "no YAML"), ("\udcff", "not UTF-8")):
        done = inject(pod, text=text)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
    assert "cannot read" in inject(pod, "-f", str(tmp_path / "none.yaml")).stderr


def test_without_pyyaml_it_says_what_to_install(pod: Pod) -> None:
    """It is an extra: nothing else needs it."""
    code = "import sys; sys.modules['yaml'] = None; sys.argv = ['capture', 'inject']"
    code += "; from capture.__main__ import main; main()"
    done = pod.inside.run(sys.executable, "-c", code, text=POD, env=pod.environ())
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'traffic-capture[yaml]'" in done.stderr


def test_a_proxy_from_a_file(pod: Pod, tmp_path: Path) -> None:
    """It is in the pod, with its uid let through; a file that has none is told, and nothing is written."""
    (tmp_path / "envoy.yaml").write_text(f"name: envoy\nimage: b\nsecurityContext: {{runAsUser: {PROXY}}}\n")
    done = inject(pod, "--proxy-container", str(tmp_path / "envoy.yaml"), text=POD)
    assert (done.returncode, done.stderr) == (0, "")
    spec = yaml.safe_load(done.stdout)["spec"]
    assert [each["name"] for each in spec["containers"]] == ["web", "envoy"]
    environ = {each["name"]: each["value"] for each in spec["initContainers"][0]["env"]}
    pod.applied(*spec["initContainers"][0]["args"], env=environ)
    pod.open_listeners()
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial("9.9.9.9", 80, uid=PROXY))) == ("pod:15001", "ext:80")
    assert inject(pod, "--undo", text=done.stdout).stdout == POD
    (tmp_path / "envoy.yaml").write_text("[]")
    done = inject(pod, "--proxy-container", str(tmp_path / "envoy.yaml"), text=POD)
    assert (done.returncode, done.stdout) == (1, "")
    assert "envoy.yaml is no container" in done.stderr
