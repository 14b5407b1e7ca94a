"""`capture inject`: our container in manifests of every kind and layout, and out again to the byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.errors import BadSettings
from capture.inject.editing import NAME
from capture.inject.injecting import injected, undone
from capture.inject.manifests import BadManifest, NotRead
from capture.inject.proxy import BadProxy, proxy_from
from capture.settings.declared import Settings
from tests.rig.chance import share
from tests.unit.inject.manifests import GOOD, POD, REFUSED, pod_with

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "registry.example/traffic-capture:1"
PLAIN = Settings.load(["-o", "22"], {})


def without_ours(value: Any) -> Any:
    """What a text means, without our container, and without lists of init containers that are empty then."""
    if isinstance(value, dict):
        return {
            k: rest for k, v in value.items() if (rest := without_ours(v)) not in ([], None) or k != "initContainers"
        }
    if isinstance(value, list):
        return [without_ours(each) for each in value if not isinstance(each, dict) or each.get("name") != NAME]
    return value


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a value, itself included, outer ones first."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from mappings(each)


def containers_of(text: str) -> list[dict[str, Any]]:
    """Every container of ours, and that it is the last of its pod's init containers."""
    lists = [listed for each in mappings(list(yaml.safe_load_all(text))) if (listed := each.get("initContainers"))]
    lists = [listed for listed in lists if isinstance(listed, list)]
    assert all([each["name"] for each in listed].index(NAME) == len(listed) - 1 for listed in lists)
    return [listed[-1] for listed in lists]


def check(text: str) -> None:
    """Injected it says the same and has our container; again it is the same text; undone the first."""
    written = injected(text, PLAIN, IMAGE)
    assert containers_of(written)
    for container in containers_of(written):
        assert container["image"] == IMAGE
        assert container["args"][-2:][0] in ("-o", "-m")
    assert "\r\n" not in text or written.count("\n") == written.count("\r\n")
    documents = zip(yaml.safe_load_all(text), yaml.safe_load_all(written), strict=True)
    assert all(without_ours(before) == without_ours(after) for before, after in documents)
    assert injected(written, PLAIN, IMAGE) == written
    assert undone(written) == text
    assert undone(text) == text
    other = injected(written, Settings.load(["-u", "4711"], {}), IMAGE)
    assert all(container["args"][5] == "4711" for container in containers_of(other))
    assert undone(other) == text


@pytest.mark.parametrize("name", GOOD)
def test_a_manifest_is_injected_and_undone_to_the_byte(name: str) -> None:
    """Comments in every alphabet, order, quotes, line ends and what is not known stay; again nothing changes."""
    check(GOOD[name])


LEAVES = st.none() | st.booleans() | st.integers(0, 99) | st.text("ab #:-|\n'\"中", max_size=8)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.sampled_from("xyz"), v, max_size=2)
)
OTHERS = st.lists(st.fixed_dictionaries({"name": st.sampled_from("pqr"), "v": VALUES}), max_size=2)
SPECS = st.fixed_dictionaries(
    {"containers": st.just([{"name": "web", "image": "nginx"}])},
    optional={"a": VALUES, "initContainers": OTHERS, "z": VALUES},
)
DUMPS = [
    *({"default_flow_style": style, "indent": indent} for style in (None, True, False) for indent in (2, 3, 5)),
    {"default_style": '"'},
]


@pytest.mark.parametrize(
    "item",
    [
        "- {name: p, v: '\n\n      #'}",
        '- {name: p, v: "\n      # x"}',
        '- name: p\n    v: "\n      # x"',
        "- name: p\n    v: '\n\n      # x'  # behind it",
        "- name: p\n    v: |\n      # x",
        "- {name: p, v: [a,\n    # inside\n    b]}",
        "- {name: p\n    # inside\n    }",
    ],
)
def test_what_begins_like_a_comment_within_an_item_is_part_of_it(item: str) -> None:
    """Within quotes that go over lines, a block of text, or between brackets; and with a comment behind it all."""
    check(f"kind: Pod\nspec:\n  initContainers:\n  {item}\n  # of what follows\n  containers:\n  - name: web\n")


@settings(max_examples=share(160), deadline=None)
@given(spec=SPECS, dump=st.sampled_from(DUMPS), order=st.permutations(("a", "initContainers", "containers", "z")))
def test_whatever_layout_a_library_writes(spec: dict[str, Any], dump: dict[str, Any], order: list[str]) -> None:
    """Drawn specs, as PyYAML lays them out in block style, between braces, or mixed, and as JSON."""
    pod = {"kind": "Pod", "spec": {key: spec[key] for key in order if key in spec}, "status": {}}
    check(yaml.safe_dump(pod, allow_unicode=True, sort_keys=False, **dump))
    check(json.dumps(pod, indent=dump.get("indent"), ensure_ascii=False))
    check(json.dumps(pod, separators=(",", ":")))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_is_named_and_refused(name: str) -> None:
    """The pod, its line, and why."""
    text, words = REFUSED[name]
    with pytest.raises(BadManifest) as refused:
        injected(text, PLAIN, IMAGE)
    (first, *_) = refused.value.refusals
    assert str(first).startswith("Pod web, line ")
    assert words in str(refused.value)
    assert undone(text) == text


def test_the_proxy_itself_may_run_as_the_proxy() -> None:
    """By its name or image; the uid is that of the settings."""
    proxy = (
        "  - {name: istio-proxy, image: proxyv2, securityContext: {runAsUser: 1337}}\n  - {name: web, image: nginx}\n"
    )
    check(pod_with(containers=proxy))
    other = pod_with(containers="  - {name: web, image: nginx, securityContext: {runAsUser: 5}}\n")
    check(other)
    with pytest.raises(BadManifest, match="uid 5"):
        injected(other, Settings.load(["-u", "5"], {}), IMAGE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# 空\n",
        "kind: Service\nspec: {ports: [{port: 80}]}\n",
        pod_with(annotations='    sidecar.istio.io/inject: "false"\n'),
        POD.replace("  name: web\nspec", "  name: web\n  labels: {sidecar.istio.io/inject: 'no'}\nspec"),
        pod_with(annotations="    sidecar.istio.io/interceptionMode: NONE\n"),
    ],
)
def test_what_has_no_pod_or_asks_for_none_is_left_as_it_is(text: str) -> None:
    """By annotation or by label."""
    assert injected(text, PLAIN, IMAGE) == text


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\x00", "- a\nb", "[" * 700])
def test_what_is_no_yaml_is_told(text: str) -> None:
    """With the parser's words, and no traceback."""
    with pytest.raises(NotRead):
        injected(text, PLAIN, IMAGE)


def test_settings_that_have_no_flag_become_variables() -> None:
    """And what is meant for the log of this run does not reach the pod."""
    settings = Settings.load(["--log_as_json", "--ipv6=on"], {"ISTIO_OUTBOUND_OWNER_GROUPS": "5"})
    (container,) = containers_of(injected(POD, settings, IMAGE))
    assert container["env"] == [{"name": "ISTIO_OUTBOUND_OWNER_GROUPS", "value": "5"}]
    assert container["args"][-1] == "--ipv6=on"


PROXY = """\
name: envoy # 代理
image: docker.io/envoyproxy/envoy:v1.36-latest
securityContext: {runAsUser: 1337, runAsGroup: 1337}
ports: [{containerPort: 15090}]
"""
SIDECAR = f"{PROXY}restartPolicy: Always\n"


@pytest.mark.parametrize("proxy", [PROXY, SIDECAR], ids=["container", "native sidecar"])
@pytest.mark.parametrize("name", [name for name in GOOD if name != "aliases"])
def test_a_proxy_is_put_in_and_taken_out_to_the_byte(name: str, proxy: str) -> None:
    """Behind the other containers, or behind ours where it is an init container that goes on; again nothing changes."""
    check_proxy(GOOD[name], proxy)


def check_proxy(text: str, proxy: str) -> None:
    settings = Settings.load([], {})
    read = proxy_from(proxy, "proxy.yaml")
    written = injected(text, settings, IMAGE, read)
    for pod in pods_of(written):
        first = [each["name"] for each in pod["initContainers"]]
        others = [each["name"] for each in pod["containers"]]
        assert (first if read.goes_on else others)[-1] == "envoy"
        assert first[-2 if read.goes_on else -1] == NAME
        assert (first + others).count("envoy") == 1
        assert (pod["initContainers"] if read.goes_on else pod["containers"])[-1] == read.container
    assert injected(written, settings, IMAGE, read) == written
    assert injected(written, settings, IMAGE) == injected(text, settings, IMAGE)
    assert undone(written) == text


def pods_of(text: str) -> list[dict[str, Any]]:
    """The specs of all pods in a text."""
    return [each for each in mappings(list(yaml.safe_load_all(text))) if isinstance(each.get("containers"), list)]


@settings(max_examples=share(80), deadline=None)
@given(spec=SPECS, dump=st.sampled_from(DUMPS), proxy=st.sampled_from([PROXY, SIDECAR]))
def test_a_proxy_in_whatever_layout_a_library_writes(spec: dict[str, Any], dump: dict[str, Any], proxy: str) -> None:
    """In block style, between braces, or mixed, and as JSON."""
    pod = {"kind": "Pod", "spec": spec, "status": {}}
    check_proxy(yaml.safe_dump(pod, allow_unicode=True, sort_keys=False, **dump), proxy)
    check_proxy(json.dumps(pod, indent=dump.get("indent"), ensure_ascii=False), proxy)
    check_proxy(json.dumps(pod, separators=(",", ":")), proxy)


WEB = "  - {name: web, image: nginx, ports: [{containerPort: %s}]}\n"
CONTRADICTIONS: dict[str, tuple[str, str, str]] = {
    "its uid": (POD, PROXY.replace("runAsUser: 1337", "runAsUser: 5"), "runs as uid 5, and -u is 1337"),
    "no uid": (POD, "{name: envoy, image: b}", "says no uid: give it securityContext.runAsUser: 1337"),
    "the uid of the pod": (pod_with("  securityContext: {runAsUser: 5}\n"), "{name: envoy, image: b}", "runs as uid 5"),
    "its name": (POD, PROXY.replace("envoy #", "web #"), "has the name of a container that is there"),
    "the name of an init container": (
        pod_with("  initContainers: [{name: envoy, image: b}]\n"),
        PROXY,
        "has the name of a container that is there",
    ),
    "a second proxy": (
        pod_with(containers="  - {name: a, image: envoyproxy/envoy}\n"),
        PROXY,
        "would be a second proxy beside a",
    ),
    "a port": (pod_with(containers=WEB % 15090), PROXY, "has port 15090/TCP, which the container web has"),
    "where connections are sent": (pod_with(containers=WEB % 15001), PROXY, "web has port 15001, where -p sends"),
    "where inbound connections are sent": (pod_with(containers=WEB % 15006), PROXY, "where -z sends"),
    "a volume": (POD, PROXY + "volumeMounts: [{name: config, mountPath: /etc/envoy}]\n", "mounts the volume config"),
    "containers that stand elsewhere": (
        pod_with("  volumes: &v [{name: a, image: b}]\n")
        .replace("  - {name: web, image: nginx}\n", "")
        .replace("containers:\n", "containers: *v\n"),
        PROXY,
        "containers is no list that stands there",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_proxy_that_contradicts_the_pod_is_refused(name: str) -> None:
    """With the name of the pod, and of what contradicts what."""
    text, proxy, words = CONTRADICTIONS[name]
    with pytest.raises(BadManifest) as refused:
        injected(text, Settings.load([], {}), IMAGE, proxy_from(proxy, "proxy.yaml"))
    assert words in str(refused.value)
    assert str(refused.value.refusals[0]).startswith("Pod web, line ")


@pytest.mark.parametrize(
    "more",
    [
        "env: [{name: BUILT, value: 2026-11-26}]\n",
        "args:\n- |\n  # 不是注释\n  a: b\n- 'it''s: {x}'\n- \"\\u0007\\\"\"\n",
        "env: &e [{name: A, value: '1'}]\nx: *e\n",
        "livenessProbe: {tcpSocket: {port: 15021}, periodSeconds: 0x10}\n",
        "resources: {limits: {cpu: 1.5}, requests: null}\n",
    ],
)
def test_whatever_a_proxys_container_holds(more: str) -> None:
    """Dates as texts, blocks of text, aliases, numbers: what is written means what the file means."""
    for name in ("pod", "JSON", "init containers between brackets", "pod with the lines of Windows", "cron job"):
        check_proxy(GOOD[name], PROXY + more)
        check_proxy(GOOD[name], SIDECAR + more)
    assert "2026-11-26" not in more or '"2026-11-26"' in injected(POD, PLAIN, IMAGE, proxy_from(PROXY + more, "f"))


def test_a_port_of_another_protocol_and_a_proxy_of_another_uid_are_none() -> None:
    """UDP is not TCP; -u says who the proxy is; a volume that is there may be mounted."""
    udp = "  - {name: web, image: nginx, ports: [{containerPort: 15090, protocol: UDP}]}\n"
    check_proxy(pod_with(containers=udp), PROXY)
    mounting = PROXY.replace("1337", "5") + "volumeMounts: [{name: config, mountPath: /etc/envoy}]\n"
    text = pod_with("  volumes: [{name: config}]\n")
    assert '"envoy"' in injected(text, Settings.load(["-u", "4,5"], {}), IMAGE, proxy_from(mounting, "proxy.yaml"))


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "- {name: a, image: b}", "name: a", "{name: 1, image: b}", "{name: a, image: b, ports: 5}", "[" * 700,
     "{name: a, image: b, ports: [5]}", "{name: a, image: b, securityContext: 5}", f"{PROXY}---\n{PROXY}",
     "&a {name: a, image: b, args: [*a]}", "{name: a, image: b, x: .nan}", "{name: a, image: b, x: !!binary aGk=}",
     "\x00"],
)  # fmt: skip
def test_a_file_that_is_no_container_is_told(text: str) -> None:
    """By its path, and with no traceback."""
    with pytest.raises(BadProxy, match=r"proxy\.yaml"):
        proxy_from(text, "proxy.yaml")


def test_annotations_win_over_flags() -> None:
    """Each pod gets its own; excluded ports keep those of the proxy."""
    text = pod_with(annotations='    traffic.sidecar.istio.io/excludeInboundPorts: "9999"\n')
    (container,) = containers_of(injected(text, Settings.load(["-d", "1"], {}), IMAGE))
    args = container["args"]
    assert args[args.index("-d") + 1] == "9999,15020,15021,15090"


def test_a_refusal_is_one_of_settings() -> None:
    """So that its exit status is theirs."""
    assert issubclass(BadManifest, BadSettings)
