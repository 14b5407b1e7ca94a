"""What `capture inject` writes, and what docs/kubernetes shows, against Kubernetes' own schemas; and kustomize."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from capture.inject.injecting import FIRST, container, injected
from capture.inject.proxy import proxy_from
from capture.settings.declared import Settings
from tests.rig.pod import ROOT
from tests.unit.inject.manifests import GOOD
from tests.unit.inject.test_inject import IMAGE, PLAIN, PROXY, SIDECAR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="not installed: requirements-kubernetes.lock")
FOLDER = ROOT / "docs/kubernetes"
VERSIONS = ("1.29", "1.33", "1.37")
"""The first that has native sidecars, one between, and the newest whose schemas are there."""
SINCE = {
    "MutatingAdmissionPolicy": "1.36",
    "MutatingAdmissionPolicyBinding": "1.36",
    "ValidatingAdmissionPolicy": "1.30",
}
SINCE |= {"ValidatingAdmissionPolicyBinding": "1.30"}
BASELINE = {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"}
BASELINE |= {"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
"""What may be added at that level (https://kubernetes.io/docs/concepts/security/pod-security-standards)."""
KUSTOMIZE = {"Kustomization", "Component"}
MANIFESTS = sorted(path for path in FOLDER.rglob("*.yaml") if not path.name.startswith("append-"))


def problems(document: Any, version: str) -> list[str]:
    """What the schema of this version refuses; an unknown field is refused as well."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as refused:
        return [f"{'.'.join(map(str, refused.path))}: {refused.message}"]
    return []


def is_known(document: Any) -> bool:
    """Whether Kubernetes itself has this kind: Argo and Knative have schemas of their own."""
    group = document.get("apiVersion", "").rpartition("/")[0]
    return bool(document.get("apiVersion")) and "argoproj" not in group and "knative" not in group


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(FOLDER)))
@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_pass_the_schemas(version: str, path: Path) -> None:
    """Strictly: a field that is not known is refused."""
    for document in yaml.safe_load_all(path.read_text()):
        kind = document["kind"]
        if kind not in KUSTOMIZE:
            newest = max(version, SINCE.get(kind.removesuffix("Binding"), version))
            assert problems(document, newest) == []


def test_the_validator_refuses() -> None:
    """A misspelt field, and a wrong type: the tests above can fail."""
    pod = yaml.safe_load((FOLDER / "pod-1.20.1.yaml").read_text())
    changes: list[dict[str, Any]] = [{"initContainer": []}, {"hostNetwork": "yes"}, {"containers": {}}]
    for change in changes:
        assert problems({**pod, "spec": {**pod["spec"], **change}}, "1.37")


@pytest.mark.parametrize("proxy", [None, PROXY, SIDECAR], ids=["alone", "with a proxy", "with a native sidecar"])
@pytest.mark.parametrize("name", GOOD)
def test_what_is_injected_passes_the_schemas(name: str, proxy: str | None) -> None:
    """What was valid before is valid with our container, and with a proxy's."""
    if name == "aliases" and proxy == PROXY:
        pytest.skip("its containers stand elsewhere, which is refused")
    read = proxy_from(proxy, "proxy.yaml") if proxy else None
    written = injected(GOOD[name], Settings.load([], {}) if proxy else PLAIN, IMAGE, read)
    for before, after in zip(objects(GOOD[name]), objects(written), strict=True):
        if is_known(before):
            assert set(problems(after, "1.37")) <= set(problems(before, "1.37"))


def objects(text: str) -> Iterator[Any]:
    """Every object of a text, those of lists one by one."""
    for document in yaml.safe_load_all(text):
        yield from document["items"] if document and "List" in document["kind"] else [document] if document else []


def test_what_pod_security_says_of_the_manifests() -> None:
    """Our init container adds what `baseline` refuses; the pod of the CNI plugin is within `restricted`."""
    assert set(container("", FIRST, {})["securityContext"]["capabilities"]["add"]) - BASELINE == {
        "NET_ADMIN",
        "NET_RAW",
    }
    pod = yaml.safe_load((FOLDER / "cni-validation.yaml").read_text())["spec"]
    for each in (*pod["initContainers"], *pod["containers"]):
        context = each.get("securityContext", {})
        capabilities = context.get("capabilities", {})
        assert context.get("allowPrivilegeEscalation") is False
        assert capabilities.get("drop") == ["ALL"]
        assert set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}
        assert context.get("runAsNonRoot") or pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


# --- kustomize --------------------------------------------------------------------------------------------

COMPONENT = FOLDER / "kustomize/component"
EXAMPLE = FOLDER / "kustomize/example"
PROGRAM = (shutil.which("kustomize"), "build") if shutil.which("kustomize") else (shutil.which("kubectl"), "kustomize")


def test_the_component_appends_the_container_of_inject() -> None:
    """Each of its patches, for every kind that has a pod; the path is that of the list which its first patch makes."""
    patches = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["patches"]
    for makes, appends in zip(patches[::2], patches[1::2], strict=True):
        assert makes["target"] == appends["target"]
        ((patch,),) = [yaml.safe_load((COMPONENT / appends["path"]).read_text())]
        at = yaml.safe_load(makes["patch"])
        for step in patch["path"].removesuffix("/-").strip("/").split("/"):
            at = at[step]
        assert at == []
        assert {**patch["value"], "image": ""} == container("", FIRST, {})
    kinds = "|".join(each["target"]["kind"] for each in patches[::2]).split("|")
    assert sorted(kinds) == ["CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "StatefulSet"]


@pytest.mark.skipif(not PROGRAM[0], reason="not installed: kustomize, or a kubectl that has it")
def test_kustomize_puts_it_behind_the_others(tmp_path: Path) -> None:
    """Run by the program itself, over the example; and over one that has no init containers, and one of every kind."""
    (deployment,) = kustomized(EXAMPLE)
    pod = deployment["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["migrate", "capture-init"]
    assert problems(deployment, "1.37") == []
    shutil.copytree(COMPONENT, tmp_path / "component")
    (tmp_path / "all").mkdir()
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "cron job", "Job", "pod")
    (tmp_path / "all/all.yaml").write_text("---\n".join(GOOD[name] for name in kinds))
    known = {"kind": "Kustomization", "resources": ["all.yaml"], "components": ["../component"]}
    (tmp_path / "all/kustomization.yaml").write_text(yaml.safe_dump(known))
    found = list(kustomized(tmp_path / "all"))
    assert len(found) == len(kinds)
    for document in found:
        assert yaml.safe_dump(document).count("name: capture-init") == 1


def kustomized(folder: Path) -> Iterator[Any]:
    """What the program makes of this folder."""
    done = subprocess.run([*map(str, PROGRAM), str(folder)], capture_output=True, text=True, check=True)
    yield from yaml.safe_load_all(done.stdout)
