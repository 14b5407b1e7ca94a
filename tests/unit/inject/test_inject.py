"""`capture inject`: our container in manifests of every kind and layout, and out again to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.errors import BadSettings
from capture.inject.editing import NAME
from capture.inject.injecting import injected, undone
from capture.inject.manifests import BadManifest, NotRead
from capture.settings.declared import Settings
from tests.unit.inject.manifests import GOOD, POD, REFUSED, pod_with

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


def containers_of(text: str) -> list[dict[str, Any]]:
    """Every container of ours, and that it is the last of its pod's init containers."""
    found = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            listed = value.get("initContainers")
            if isinstance(listed, list) and listed:
                assert [each["name"] for each in listed].index(NAME) == len(listed) - 1
                found.append(listed[-1])
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    for document in yaml.safe_load_all(text):
        walk(document)
    return found


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


@settings(max_examples=40, deadline=None)
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


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\x00", "- a\nb", "[" * 2000])
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


def test_annotations_win_over_flags() -> None:
    """Each pod gets its own; excluded ports keep those of the proxy."""
    text = pod_with(annotations='    traffic.sidecar.istio.io/excludeInboundPorts: "9999"\n')
    (container,) = containers_of(injected(text, Settings.load(["-d", "1"], {}), IMAGE))
    args = container["args"]
    assert args[args.index("-d") + 1] == "9999,15020,15021,15090"


def test_a_refusal_is_one_of_settings() -> None:
    """So that its exit status is theirs."""
    assert issubclass(BadManifest, BadSettings)
