"""The plugin called as a runtime calls it, for a pod that is in memory: what it answers, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from capture.iptables.iptables import NFT
from rules.netfilter.values import Family
from tests.rig.in_process import capture_cni
from tests.rig.memory import Memory, everything
from tests.rig.runtime import CAPABILITY, PREVIOUS, SIDECAR, Answer, configuration, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGS = ("-p", "15001", "-z", "15006", "-u", "1337", "--ipv6=on")
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
TRAFFIC = "traffic.sidecar.istio.io/"
NETNS = __file__
"""A path that is there. What it stands for is in memory."""


@pytest.fixture
def pod() -> Memory:
    return Memory("127.0.0.1/8", "::1/128", "10.244.0.5/24", "fd00:244::5/64")


def call(pod: Memory, environ: Mapping[str, str], config: object) -> Answer:
    """Call the plugin on the node of this pod. A configuration that is text already is given as it stands."""
    node = Memory("10.0.0.1/24")
    node.others[NETNS] = pod
    text = config if isinstance(config, str) else json.dumps(config)
    done = capture_cni(node, environ=environ, stdin=text)
    return Answer(done.status, json.loads(done.stdout) if done.stdout else None, done.stderr)


def asked(pod: Memory, verb: str, config: object, **environ: str | None) -> Answer:
    """The pod in memory has all its addresses on lo, so that is the interface that comes and goes."""
    return call(pod, environment(verb, NETNS, **{"CNI_IFNAME": "lo"} | environ), config)


def added(pod: Memory, config: dict[str, Any], **environ: str | None) -> Answer:
    answer = asked(pod, "ADD", config, **environ)
    assert answer.status == 0, answer
    assert answer.result == config["prevResult"]
    return answer


def refused(pod: Memory, verb: str, config: object, code: int, *words: str, **environ: str | None) -> Answer:
    """The call fails with this code and these words, as the specification's error object, and changes nothing."""
    before = everything(pod)
    answer = asked(pod, verb, config, **environ)
    assert answer.status != 0
    assert answer.result["code"] == code, answer
    assert set(answer.result) <= {"cniVersion", "code", "msg", "details"}
    assert all(word in f"{answer.result['msg']}\n{answer.result.get('details', '')}" for word in words), answer
    assert everything(pod) == before
    return answer


@pytest.mark.parametrize("version", VERSIONS)
def test_what_add_brings_is_checked_and_del_takes_it_away(pod: Memory, version: str) -> None:
    """ADD hands on what the plugin before said; a second one changes nothing; DEL leaves nothing, once and again."""
    before = everything(pod)
    config = configuration(*ARGS, annotations=SIDECAR, version=version)
    assert added(pod, config).stderr == ""
    after = everything(pod)
    assert {(family, len(table.chains["ISTIO_OUTPUT"])) for (_, family, _), table in pod.tables.items()} == {
        (Family.V4, 9),
        (Family.V6, 9),
    }
    pod.acts.clear()
    added(pod, config)
    assert (everything(pod), pod.acts) == (after, ["lock", "unlock"])
    if version >= "0.4.0":
        assert asked(pod, "CHECK", config) == Answer(0, None, "")
        rules = pod.tables[(NFT, Family.V4, "nat")].chains["ISTIO_REDIRECT"]
        rule = rules.pop()
        refused(pod, "CHECK", config, 101, "the capture is not as planned", "ISTIO_REDIRECT")
        rules.append(rule)
    for _ in range(2):
        assert asked(pod, "DEL", config) == Answer(0, None, "")
        assert everything(pod) == before
    if version >= "0.4.0":
        refused(pod, "CHECK", config, 101, "nothing of the capture is there")
        assert asked(pod, "CHECK", configuration(*ARGS, annotations={})) == Answer(0, None, "")


def test_del_of_one_of_two_interfaces_leaves_the_capture(pod: Memory) -> None:
    """A pod may be taken off a second network while it goes on: what it sends is still captured."""
    config = configuration(*ARGS, annotations=SIDECAR)
    added(pod, config)
    before = everything(pod)
    assert asked(pod, "DEL", config, CNI_IFNAME="net1") == Answer(0, None, "")
    assert everything(pod) == before


@pytest.mark.parametrize(
    ("annotations", "namespace", "is_captured"),
    [
        (SIDECAR, "shop", True),
        ({}, "shop", False),
        ({**SIDECAR, "sidecar.istio.io/inject": "No"}, "shop", False),
        ({**SIDECAR, "sidecar.istio.io/interceptionMode": "NONE"}, "shop", False),
        (None, "shop", True),
        (None, "kube-system", False),
    ],
    ids=str,
)
def test_who_is_left_alone(pod: Memory, annotations: dict[str, str] | None, namespace: str, is_captured: bool) -> None:
    """By annotations and namespaces; and why is said where the log asks for it."""
    config = configuration(*ARGS, annotations=annotations)
    answer = added(pod, config, CNI_ARGS=f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=cart-0")
    assert bool(pod.tables) == is_captured
    assert (f"{namespace}/cart-0 is captured by the plugin's configuration alone" in answer.stderr) == (
        annotations is None and is_captured
    )


def test_a_kernel_that_refuses_is_an_answer(pod: Memory) -> None:
    """Code 100, with the error's sentence and details; to DEL it is a warning, because the namespace goes anyway."""
    config = configuration(*ARGS, annotations=SIDECAR)
    pod.refuse = lambda act: 5 if act.startswith("iptables-nft-restore") else None
    refused(pod, "ADD", config, 100, "the kernel refused the IPv4 rules")
    pod.refuse = lambda _: None
    added(pod, config)
    pod.refuse = lambda act: 5 if "nft-restore" in act else None
    gone = asked(pod, "DEL", config)
    assert (gone.status, "goes with its namespace, and not before: the kernel refused" in gone.stderr) == (0, True)


def test_a_node_without_programs_is_not_ready(pod: Memory) -> None:
    """STATUS says so before any pod comes up: code 50, for the whole node."""
    config = configuration(*ARGS, version="1.1.0", prevResult=None)
    assert asked(pod, "STATUS", config).status == 0
    node = Memory()
    node.installed = set()
    done = capture_cni(node, environ=environment("STATUS", NETNS), stdin=json.dumps(config))
    assert (done.status, json.loads(done.stdout)["code"]) == (1, 50)


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_a_verb_that_the_version_has_not_is_refused(pod: Memory, verb: str, version: str) -> None:
    """By the code for versions that do not go together."""
    refused(pod, verb, configuration(*ARGS, version=version), 1, version, verb)


def test_gc_and_status_answer_without_a_container(pod: Memory) -> None:
    """GC has nothing to drop; STATUS says whether ADD would work: settings that are refused are told at once."""
    nobody = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"))
    config = configuration(*ARGS, version="1.1.0", prevResult=None)
    config["cni.dev/valid-attachments"] = [{"containerID": "3f9c0d6a7b1e", "ifname": "eth0"}]
    assert asked(pod, "GC", config, **nobody) == Answer(0, None, "")
    assert asked(pod, "STATUS", config, **nobody) == Answer(0, None, "")
    bad = configuration("-p", "0", version="1.1.0", prevResult=None)
    refused(pod, "STATUS", bad, 7, "-p", **nobody)


@pytest.mark.parametrize("text", ['{"cniVersion": "1.0.0"}', '{"cniVersion": "0.2.0"}', "{}", ""])
def test_version_lists_what_is_spoken(pod: Memory, text: str) -> None:
    """Whatever version is asked in, also by runtimes that say none."""
    answer = call(pod, {"CNI_COMMAND": "VERSION"}, text)
    assert (answer.status, answer.result["supportedVersions"]) == (0, list(VERSIONS))
    assert answer.result["cniVersion"] == (json.loads(text or "{}").get("cniVersion") or "1.1.0")


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ("", 6),
        ("{", 6),
        ("[]", 6),
        ('{"cniVersion": NaN}', 6),
        ("{} {}", 6),
        ("[" * 100_000, 6),
        (configuration(version="0.2.0"), 1),
        (configuration(version="2.0.0"), 1),
        (configuration(cniVersion=None), 1),
        (configuration(cniVersion=["1.0.0"]), 1),
        (configuration(name=None), 7),
        (configuration(name="a b"), 7),
        (configuration(prevResult=None), 7),
        (configuration(prevResult=[1]), 7),
        (configuration(capture=[]), 7),
        (configuration(capture={"args": "-p 15001"}), 7),
        (configuration(capture={"args": [15001]}), 7),
        (configuration(capture={"arguments": []}), 7),
        (configuration(capture={"env": {"ISTIO_META_DNS_CAPTURE": True}}), 7),
        (configuration(capture={"excludeNamespaces": "shop"}), 7),
        (configuration(runtimeConfig={CAPABILITY: ["sidecar.istio.io/inject"]}), 7),
        (configuration(runtimeConfig=[]), 7),
        (configuration("-p", "70000"), 7),
        (configuration("--envoy-prot", "1"), 7),
        (configuration("-u", "nobody-there"), 7),
        (configuration("-n"), 7),
        (configuration("--cleanup-only"), 7),
        (configuration("--network-namespace", "other"), 7),
        (configuration(capture={"env": {"DRY_RUN": "true"}}), 7),
        (configuration(capture={"env": {"INVALID_DROP": "perhaps"}}), 7),
    ],
    ids=str,
)
def test_a_configuration_that_means_nothing_is_refused(pod: Memory, config: object, code: int) -> None:
    """With the specification's code, before anything is touched."""
    refused(pod, "ADD", config, code)


@pytest.mark.parametrize("command", ["", "add", "CHECKS", None])
def test_a_verb_that_there_is_not_is_refused(pod: Memory, command: str | None) -> None:
    """CNI_COMMAND is named."""
    refused(pod, "ADD", configuration(*ARGS), 4, "CNI_COMMAND", CNI_COMMAND=command)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{TRAFFIC}includeInboundPorts", "80,http"),
        (f"{TRAFFIC}excludeInboundPorts", "0"),
        (f"{TRAFFIC}includeOutboundIPRanges", "10.0.0.0/33"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "*"),
        (f"{TRAFFIC}includeOutboundPorts", "70000"),
        (f"{TRAFFIC}excludeInterfaces", "eth0 -j ACCEPT"),
        (f"{TRAFFIC}excludeInboundPort", "22"),
        ("sidecar.istio.io/interceptionMode", "REDIRECTED"),
        ("sidecar.istio.io/inject", "perhaps"),
        ("status.sidecar.istio.io/port", "status"),
    ],
)
def test_an_annotation_that_means_nothing_fails_the_start(pod: Memory, name: str, value: str) -> None:
    """Our sentence names the annotation, and what would be right is in it; the pod stays as it was."""
    config = configuration(*ARGS, annotations={**SIDECAR, name: value})
    answer = refused(pod, "ADD", config, 7, f"annotation {name}")
    assert answer.result["msg"].startswith("capture failed: refused")


def test_a_result_is_handed_on_whatever_is_in_it(pod: Memory) -> None:
    """Text of every alphabet, control characters, great numbers and fractions: JSON that says the same."""
    odd = {**PREVIOUS, "odd": ["\x00\x1b\u2028\U0001f600", 10**30, 1.5e300, -0.25, None, True, {"": []}, '"\\/']}
    added(pod, configuration(*ARGS, annotations=SIDECAR, prevResult=odd))
