"""The admission policies of docs/kubernetes/policy.yaml, evaluated: they do what `capture inject` does."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

import pytest
import yaml

from capture.errors import BadSettings
from capture.inject.injecting import injected
from capture.settings.declared import Settings
from rules.cni.annotations import FLAGS, INJECT, MODE, STATUS, STATUS_PORT
from tests.rig.pod import ROOT
from tests.unit.inject.manifests import POD, pod_with
from tests.unit.inject.test_inject import IMAGE, PLAIN
from tests.unit.inject.test_schemas import problems

cel = pytest.importorskip("cel", reason="not installed: requirements-kubernetes.lock")
POLICIES = {
    each["kind"]: each["spec"] for each in yaml.safe_load_all((ROOT / "docs/kubernetes/policy.yaml").read_text())
}
MUTATING, VALIDATING = POLICIES["MutatingAdmissionPolicy"], POLICIES["ValidatingAdmissionPolicy"]
"""The policy that writes our container, and the one that refuses annotations."""
TYPED = re.compile(r"\b(?:JSONPatch|Object(?:\.\w+)*)\{")
FIELD = re.compile(r"(?<=[{,\s])(\w+):(?=\s)")


def untyped(expression: str) -> str:
    """The expression with values of typed objects as maps, which this evaluator of CEL has: their fields in quotes."""
    return FIELD.sub(r'"\1":', TYPED.sub("{", expression)) if TYPED.search(expression) else expression


def mutated(pod: Any) -> Any:
    """The pod as an API server would have it with this policy. Not evaluated here: its selectors, which are labels'."""
    known: dict[str, Any] = {"object": pod, "variables": {}}
    if not all(cel.evaluate(condition["expression"], known) for condition in MUTATING["matchConditions"]):
        return pod
    for variable in MUTATING["variables"]:
        known["variables"][variable["name"]] = cel.evaluate(variable["expression"], known)
    changed = copy.deepcopy(pod)
    for mutation in MUTATING["mutations"]:
        for patch in cel.evaluate(untyped(mutation["jsonPatch"]["expression"]), known):
            assert patch["op"] == "add"
            *above, last = patch["path"].strip("/").split("/")
            at = changed
            for step in above:
                at = at[step]
            if last == "-":
                at.append(patch["value"])
            else:
                at[last] = patch["value"]
    return changed


VALUES = ("TPROXY", "80", "81", "10.0.0.0/8", "10.1.0.0/16", "443", "3306", "eth1", "eth2")
EACH = dict(zip(FLAGS, VALUES, strict=False))
ANNOTATIONS = [{}, *({name: value} for name, value in EACH.items()), {STATUS_PORT: "15999"}, {STATUS_PORT: "0"}, EACH]
"""What a pod may say, each alone, and all together."""


@pytest.mark.parametrize("said", ANNOTATIONS, ids=str)
@pytest.mark.parametrize("others", [None, [], [{"name": "wait", "image": "busybox"}]], ids=["none", "empty", "one"])
def test_the_policy_writes_what_inject_writes(said: dict[str, str], others: list[dict[str, str]] | None) -> None:
    """The same container in the same place; its arguments mean the same settings, as do the annotations."""
    pod = yaml.safe_load(POD)
    if said:
        pod["metadata"]["annotations"] = said
    if others is not None:
        pod["spec"]["initContainers"] = others
    wanted = yaml.safe_load(injected(yaml.safe_dump(pod), Settings.load([], {}), IMAGE))["spec"]["initContainers"]
    written = mutated(pod)
    assert problems(written, "1.37") == []
    found = written["spec"]["initContainers"]
    assert [each["name"] for each in found] == [each["name"] for each in wanted]
    assert {**found[-1], "args": [], "image": ""} == {**wanted[-1], "args": [], "image": ""}
    assert meaning(found[-1]["args"]) == meaning(wanted[-1]["args"])
    assert mutated(written) == written


def meaning(args: list[str]) -> dict[str, list[str]]:
    """The settings of a command line, lists in any order."""
    return {
        declared.name: sorted(map(str, value)) if isinstance(value, tuple) else [str(value)]
        for declared, value, _ in Settings.load(args, {}).given()
    }


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"hostNetwork": True}},
        {"spec": {"initContainers": [{"name": "istio-init", "image": "a"}]}},
        {"metadata": {"annotations": {INJECT: "false"}}},
        {"metadata": {"annotations": {MODE: "NONE"}}},
        {"metadata": {"annotations": {STATUS: "{}"}}},
    ],
    ids=str,
)
def test_the_policy_leaves_alone_what_inject_does_not_write(change: dict[str, dict[str, Any]]) -> None:
    """The node's network, what is captured already, and what asks for no capture."""
    pod = yaml.safe_load(POD)
    for part, values in change.items():
        pod[part] |= values
    assert mutated(pod) == pod
    with contextlib.suppress(BadSettings):  # that inject refuses it, which a mutation cannot
        assert yaml.safe_load(injected(yaml.safe_dump(pod), PLAIN, IMAGE)) == pod


def test_a_misspelt_annotation_is_denied() -> None:
    """By the second policy, as is a capture of the host's network; every annotation that is known passes."""
    host = {"metadata": {"labels": {INJECT: "true"}}, "spec": {"hostNetwork": True}}
    misspelt = yaml.safe_load(pod_with(annotations='    traffic.sidecar.istio.io/excludePorts: "1"\n'))
    known = {"metadata": {"annotations": EACH}, "spec": {}}
    for pod, denials in ((host, 1), (misspelt, 1), (known, 0), (yaml.safe_load(POD), 0)):
        answers = [cel.evaluate(each["expression"], {"object": pod}) for each in VALIDATING["validations"]]
        assert answers.count(False) == denials
