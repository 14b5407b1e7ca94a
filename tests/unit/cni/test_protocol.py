"""What is asked of a plugin, read; and JSON without the module `json`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.cni import plain_json
from rules.cni.annotations import FLAGS, STATUS, STATUS_PORT, TRAFFIC, Misread, reason_to_leave_alone, settings_said
from rules.cni.network import NAMESPACES_LEFT_ALONE, read_network
from rules.cni.spec import SINCE, VERSIONS, Failure, is_identifier, is_interface, read_arguments, read_call, version_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_is_read_and_written_is_what_json_reads_and_writes(value: object) -> None:
    """Any value: json's text is read, and what is written json reads."""
    assert json.loads(plain_json.written(plain_json.read(f" {json.dumps(value)}\n"))) == value


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn\\u \n\x00'))
def test_what_json_refuses_is_refused(text: str) -> None:
    """With a ValueError, and nothing else."""
    try:
        wanted = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            plain_json.read(text)
    else:
        assert json.loads(plain_json.written(plain_json.read(text))) == wanted


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("verb", SINCE)
def test_a_version_has_the_verbs_that_came_with_it_or_before(version: str, verb: str) -> None:
    """CHECK came with 0.4.0, GC and STATUS with 1.1.0."""
    first = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(verb, "0.3.0")
    if version >= first:
        assert version_of({"cniVersion": version}, verb) == version
    else:
        with pytest.raises(Failure) as refused:
            version_of({"cniVersion": version}, verb)
        assert refused.value.code == 1


@pytest.mark.parametrize("text", ["a", "0", "A.b_c-9", "9f" * 32])
def test_an_identifier(text: str) -> None:
    """The specification's words: a letter or digit, then those, dots, dashes and underscores."""
    assert is_identifier(text)


@pytest.mark.parametrize("text", ["", ".a", "-", "a/b", "a b", "ä", "a\n", "_a"])
def test_no_identifier(text: str) -> None:
    """What would be a path, a flag, or another alphabet."""
    assert not is_identifier(text)


@pytest.mark.parametrize(("name", "is_one"), [("eth0", True), ("x" * 15, True), ("x" * 16, False), ("é" * 8, False)])
def test_the_name_of_an_interface(name: str, is_one: bool) -> None:
    """Fifteen bytes, as the kernel counts."""
    assert is_interface(name) == is_one
    assert not is_interface(f"{name[:1]} ")


def test_arguments_keep_what_follows_the_first_equals_sign() -> None:
    """And an empty one between semicolons is none."""
    assert read_arguments("A=1;;B=c=d;") == [("A", "1"), ("B", "c=d")]


def test_a_del_needs_no_namespace_and_others_do() -> None:
    """CNI_NETNS may be missing or empty there alone."""
    its = {"CNI_CONTAINERID": "a", "CNI_IFNAME": "eth0", "CNI_NETNS": ""}
    assert read_call({"CNI_COMMAND": "DEL", **its}).netns == ""
    for verb in ("ADD", "CHECK"):
        with pytest.raises(Failure, match="CNI_NETNS"):
            read_call({"CNI_COMMAND": verb, **its})
    assert read_call({"CNI_COMMAND": "STATUS"}).verb == "STATUS"


def test_an_empty_list_of_namespaces_leaves_none_alone() -> None:
    """Which is something else than no list."""
    assert read_network({"name": "a"}).namespaces_left_alone == NAMESPACES_LEFT_ALONE
    assert read_network({"name": "a", "capture": {"excludeNamespaces": []}}).namespaces_left_alone == ()


def said(annotations: dict[str, str], excluded: str = "15090") -> dict[str, str]:
    return {its.flag: its.value for its in settings_said(annotations, excluded)}


def test_every_annotation_is_a_flag() -> None:
    """Each alone gives its flag and no other."""
    for name, flag in FLAGS.items():
        assert list(said({name: "1"})) == [flag]


def test_excluded_inbound_ports_and_the_ports_of_the_proxy() -> None:
    """An annotation takes the place of what the configuration excludes, but for the proxy's own; none twice."""
    assert said({f"{TRAFFIC}excludeInboundPorts": " 22, 15090"}, "9999") == {"-d": "22,15090,15020,15021"}
    assert said({"status.sidecar.istio.io/port": "8080"}, "9999") == {"-d": "9999,8080"}
    assert said({"status.sidecar.istio.io/port": "0"}) == {}
    both = {f"{TRAFFIC}excludeInboundPorts": "", "status.sidecar.istio.io/port": "8080"}
    assert said(both) == {"-d": "15020,15021,15090,8080"}


def test_the_newer_name_of_virtual_interfaces_wins() -> None:
    """The injector writes both."""
    assert said({"istio.io/reroute-virtual-interfaces": "net1", f"{TRAFFIC}kubevirtInterfaces": "net0"}) == {
        "-k": "net1"
    }


@pytest.mark.parametrize("name", [*FLAGS, STATUS_PORT])
@pytest.mark.parametrize("value", ["@/etc/shadow", " @/etc/shadow", ",@/etc/shadow", "80, @-", "@"])
def test_no_annotation_names_a_file(name: str, value: str) -> None:
    """It would be one of the node, read by root, and the refusal would tell what is in it."""
    with pytest.raises(Misread) as refused:
        list(settings_said({name: value}, ""))
    assert [(its, there) for its, there, _ in refused.value.refusals] == [(name, value)]


def test_what_begins_as_ours_and_is_not_known_is_refused() -> None:
    """All of them, by name."""
    with pytest.raises(Misread) as refused:
        said({f"{TRAFFIC}excludeInboundPort": "22", f"{TRAFFIC}x": "1", "other.io/x": "2"})
    assert [name for name, _, _ in refused.value.refusals] == [f"{TRAFFIC}excludeInboundPort", f"{TRAFFIC}x"]


@pytest.mark.parametrize("value", ["true", "True", " yes ", "on", "y", "1", ""])
def test_an_injected_pod_is_captured(value: str) -> None:
    """By every word that YAML and Go have for true, and by none."""
    assert reason_to_leave_alone({STATUS: "{}", "sidecar.istio.io/inject": value}) == ""
    assert "mark of a sidecar" in reason_to_leave_alone({"sidecar.istio.io/inject": value})
