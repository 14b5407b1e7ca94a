"""The CNI plugin, called as containerd and CRI-O call it; connections are the judges of what it did."""

from __future__ import annotations

import itertools
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import PROXY
from tests.rig.runtime import SIDECAR, Answer, call, configuration, environment

if TYPE_CHECKING:
    from tests.rig import Pod

ARGS = ("-p", "15001", "-z", "15006", "-u", str(PROXY), "--ipv6=on")
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
TRAFFIC = "traffic.sidecar.istio.io/"


def asked(pod: Pod, verb: str, config: object, **environ: str | None) -> Answer:
    """The plugin's answer, with the pod as the container and the host outside as its node."""
    return call(pod.outside, environment(verb, pod.inside.path, **environ), config)


def added(pod: Pod, config: dict[str, Any], **environ: str | None) -> Answer:
    answer = asked(pod, "ADD", config, **environ)
    assert answer.status == 0, answer
    assert answer.result == config["prevResult"]
    return answer


def refused(pod: Pod, verb: str, config: object, code: int, *words: str, **environ: str | None) -> Answer:
    """The call fails with this code and these words, as the specification's error object, and changes nothing."""
    before = pod.state()
    answer = asked(pod, verb, config, **environ)
    assert answer.status != 0
    assert answer.result["code"] == code, answer
    assert set(answer.result) <= {"cniVersion", "code", "msg", "details"}
    # Runtimes show both on one line.
    told_twice = [
        line for line in answer.result.get("details", "").splitlines() if line.strip() in answer.result["msg"]
    ]
    assert told_twice == []
    assert all(word in f"{answer.result['msg']}\n{answer.result.get('details', '')}" for word in words), answer
    assert pod.state() == before
    return answer


@pytest.mark.parametrize("version", VERSIONS)
def test_add_captures_the_first_connection_and_hands_on_the_result(pod: Pod, version: str) -> None:
    """In every version: both directions land on the proxy, its own port for statistics does not; what the plugin
    before said is handed on as it was. A second ADD changes nothing; DEL takes all away, once and again."""
    before = pod.meaning()
    config = configuration(*ARGS, annotations=SIDECAR, version=version)
    assert added(pod, config).stderr == ""
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert str(pod.dial_in(9080)) == "pod:15006"
    assert str(pod.dial_in(15090)) == "pod:15090"
    after = pod.state()
    added(pod, config)
    assert pod.state() == after
    for _ in range(2):
        assert asked(pod, "DEL", config) == Answer(0, None, "")
        assert pod.meaning() == before


def test_check_finds_what_was_changed_and_nothing_else(pod: Pod) -> None:
    """CHECK is silent where all is as ADD left it, names the rule that is missing, and is silent after an ADD again."""
    config = configuration(*ARGS, annotations=SIDECAR)
    added(pod, config)
    assert asked(pod, "CHECK", config) == Answer(0, None, "")
    pod.inside.output("iptables-nft", "-t", "nat", "-F", "ISTIO_REDIRECT")
    refused(pod, "CHECK", config, 101, "ISTIO_REDIRECT")
    added(pod, config)
    assert asked(pod, "CHECK", config) == Answer(0, None, "")
    asked(pod, "DEL", config)
    refused(pod, "CHECK", config, 101, "nothing of the capture")
    assert asked(pod, "CHECK", configuration(*ARGS, annotations={})) == Answer(0, None, "")


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"CNI_CONTAINERID": None}, ["CNI_CONTAINERID"]),
        ({"CNI_CONTAINERID": "../etc"}, ["CNI_CONTAINERID", "../etc"]),
        ({"CNI_IFNAME": ""}, ["CNI_IFNAME"]),
        ({"CNI_IFNAME": "an-interface-too-long"}, ["CNI_IFNAME"]),
        ({"CNI_IFNAME": "eth/0"}, ["CNI_IFNAME"]),
        ({"CNI_NETNS": None}, ["CNI_NETNS"]),
        ({"CNI_NETNS": "pod"}, ["CNI_NETNS"]),
        ({"CNI_NETNS": "/run/netns/not-there"}, ["CNI_NETNS", "/run/netns/not-there"]),
        ({"CNI_NETNS": "/etc/passwd"}, ["CNI_NETNS", "not a network namespace"]),
        ({"CNI_ARGS": "K8S_POD_NAME"}, ["CNI_ARGS"]),
    ],
    ids=str,
)
def test_variables_that_mean_nothing_are_named(
    pod: Pod, verb: str, environ: dict[str, str | None], words: list[str]
) -> None:
    """By the code that the specification has for them."""
    refused(pod, verb, configuration(*ARGS, annotations=SIDECAR), 4, *words, **environ)


def test_del_succeeds_without_a_namespace(pod: Pod) -> None:
    """The specification wants it: the namespace went, was never there, or is not named. Settings do not matter."""
    bad = configuration("-p", "none", annotations={f"{TRAFFIC}includeInboundPort": "1"}, prevResult=None)
    for netns in (None, "", "/run/netns/went-away", "/etc/passwd"):
        assert asked(pod, "DEL", bad, CNI_NETNS=netns).status == 0
    refused(pod, "DEL", "{", 6)


def test_del_of_one_of_two_interfaces_leaves_the_capture(pod: Pod) -> None:
    """A pod may be taken off a second network while it goes on: what it sends is still captured."""
    config = configuration(*ARGS, annotations=SIDECAR)
    added(pod, config)
    before = pod.state()
    assert asked(pod, "DEL", config, CNI_IFNAME="net1").status == 0
    assert pod.state() == before


def test_the_node_itself_is_never_captured(pod: Pod) -> None:
    """CNI_NETNS is the plugin's own namespace: refused as libcni does, and nothing is there afterwards."""
    before = pod.outside.output("nft", "list", "ruleset")
    for verb in ("ADD", "DEL"):
        refused(pod, verb, configuration(*ARGS), 8, "CNI_NETNS", CNI_NETNS=pod.outside.path)
    assert pod.outside.output("nft", "list", "ruleset") == before


@pytest.mark.parametrize(
    ("annotations", "is_captured"),
    [
        (SIDECAR, True),
        ({}, False),
        ({"sidecar.istio.io/inject": "true"}, False),
        ({**SIDECAR, "sidecar.istio.io/inject": "true"}, True),
        ({**SIDECAR, "sidecar.istio.io/inject": "false"}, False),
        ({**SIDECAR, "sidecar.istio.io/inject": "No"}, False),
        ({**SIDECAR, "sidecar.istio.io/interceptionMode": "NONE"}, False),
        ({**SIDECAR, f"{TRAFFIC}includeOutboundIPRanges": ""}, False),
        (None, True),
    ],
    ids=str,
)
def test_pods_without_a_sidecar_are_left_alone(pod: Pod, annotations: dict[str, str] | None, is_captured: bool) -> None:
    """By the injector's own mark. A runtime that hands over no annotations: the configuration alone decides, said."""
    answer = added(pod, configuration(*ARGS, annotations=annotations))
    assert ("by the plugin's configuration alone" in answer.stderr) == (annotations is None)
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == ("pod:15001" if is_captured else "ext:80")


@pytest.mark.parametrize(
    ("namespace", "is_captured"), [("shop", True), ("kube-system", False), ("istio-system", False)]
)
def test_the_clusters_own_namespaces_are_left_alone(pod: Pod, namespace: str, is_captured: bool) -> None:
    """Most of all where no annotations are handed over, and the resolver of the cluster would be captured."""
    added(pod, configuration(*ARGS), CNI_ARGS=f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=a")
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == ("pod:15001" if is_captured else "ext:80")


OUT = ("9.9.9.9", 80)


@pytest.mark.parametrize(
    ("name", "value", "passed", "captured"),
    [
        (f"{TRAFFIC}includeOutboundIPRanges", "1.1.1.1/32", [OUT], [("1.1.1.1", 80)]),
        (f"{TRAFFIC}excludeOutboundIPRanges", "9.9.9.9/32, 10.96.0.0/16", [OUT], [("1.1.1.1", 80)]),
        (f"{TRAFFIC}excludeOutboundPorts", "80, 443", [OUT], [("9.9.9.9", 22)]),
        (f"{TRAFFIC}excludeInterfaces", "eth0", [OUT, 9080], []),
        (f"{TRAFFIC}includeInboundPorts", "9080", [8080], [9080, OUT]),
        (f"{TRAFFIC}includeInboundPorts", "", [8080, 9080], [OUT]),
        (f"{TRAFFIC}excludeInboundPorts", "9080", [9080, 15021, 15090], [8080]),
        ("status.sidecar.istio.io/port", "9080", [9080, 15090], [8080]),
        ("status.sidecar.istio.io/port", "0", [15090], [9080]),
        ("sidecar.istio.io/interceptionMode", "REDIRECT", [15090], [9080, OUT]),
    ],
)
def test_annotations_decide_for_their_pod(
    pod: Pod, name: str, value: str, passed: list[Any], captured: list[Any]
) -> None:
    """Each annotation of the injector, by connections from inside (address, port) and from outside (port)."""
    added(pod, configuration(*ARGS, annotations={**SIDECAR, name: value}))
    pod.open_listeners()
    for where, is_captured in [*((it, False) for it in passed), *((it, True) for it in captured)]:
        landing = pod.dial_in(where) if isinstance(where, int) else pod.dial(*where)
        assert (str(landing) in ("pod:15001", "pod:15006")) == is_captured, (where, str(landing))


def test_included_ports_beside_no_ranges(pod: Pod) -> None:
    """includeOutboundPorts adds to includeOutboundIPRanges."""
    ranges = {f"{TRAFFIC}includeOutboundIPRanges": "", f"{TRAFFIC}includeOutboundPorts": "443"}
    added(pod, configuration(*ARGS, annotations=SIDECAR | ranges))
    pod.open_listeners()
    assert (str(pod.dial("9.9.9.9", 443)), str(pod.dial("9.9.9.9", 80))) == ("pod:15001", "ext:80")


def test_tproxy_by_annotation_keeps_the_client(pod: Pod) -> None:
    """interceptionMode TPROXY of one pod, with a configuration that says nothing of it."""
    added(pod, configuration(*ARGS, annotations={**SIDECAR, "sidecar.istio.io/interceptionMode": "TPROXY"}))
    pod.open_listeners(transparent=True)
    assert str(pod.dial_in(9080)) == "pod:15006"
    assert "fwmark" in pod.inside.output("ip", "rule")


@pytest.mark.parametrize("name", ["kubevirtInterfaces", "reroute-virtual-interfaces", "redirect-virtual-interfaces"])
def test_virtual_interfaces_by_annotation(pod: Pod, name: str) -> None:
    """By all three names that they had."""
    whole = f"{TRAFFIC}{name}" if name == "kubevirtInterfaces" else f"istio.io/{name}"
    added(pod, configuration(*ARGS, annotations={**SIDECAR, whole: "net1"}))
    assert any("-i net1" in line for line in pod.saved())


def test_the_configuration_reads_no_variables_of_the_runtime(pod: Pod) -> None:
    """ISTIO_SERVICE_CIDR in containerd's environment means nothing to pods; in the configuration's `env` it does."""
    added(pod, configuration(*ARGS, annotations=SIDECAR), ISTIO_SERVICE_CIDR="10.0.0.0/8", DRY_RUN="true")
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    added(
        pod, configuration(annotations=SIDECAR, capture={"args": [*ARGS], "env": {"ISTIO_SERVICE_CIDR": "10.0.0.0/8"}})
    )
    assert str(pod.dial("9.9.9.9", 80)) == "ext:80"


def test_the_namespace_of_a_process_will_do(pod: Pod) -> None:
    """containerd's `ctr` gives /proc/PID/ns/net."""
    with subprocess.Popen(["ip", "netns", "exec", pod.inside.name, "sleep", "60"]) as sleeper:
        try:
            path = f"/proc/{sleeper.pid}/ns/net"
            own = pod.inside.output("readlink", "/proc/self/ns/net")
            while subprocess.run(["readlink", path], capture_output=True, text=True, check=True).stdout != own:
                pass
            added(pod, configuration(*ARGS), CNI_NETNS=path, CNI_ARGS="")
        finally:
            sleeper.terminate()
    assert any("ISTIO_REDIRECT" in line for line in pod.saved())


def test_many_at_once_do_not_disturb_each_other(pod: Pod) -> None:
    """Two calls for one pod at once: both succeed, and the rules are there once."""
    config = json.dumps(configuration(*ARGS, annotations=SIDECAR))
    added(pod, json.loads(config))
    once = pod.state()
    asked(pod, "DEL", json.loads(config))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda verb: asked(pod, verb, config), itertools.repeat("ADD", 4)))
    assert [answer.status for answer in answers] == [0] * 4, answers
    assert pod.state() == once
