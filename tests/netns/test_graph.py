"""`capture graph` in a pod: what is live, with what has been counted and what others put there."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from capture.iptables.iptables import NFT
from tests import write_pictures
from tests.rig import Namespace, Pod
from tests.rig.pod import PROXY

SETTINGS = ("-p", "15001", "-z", "15006", "-u", str(PROXY), "-o", "22", "-d", "15090")


def texts(svg: str) -> list[str]:
    """Every text of the picture, in its order."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def row(svg: str, asks: str) -> list[str]:
    """The texts of the row that asks this, from its position to the next."""
    words = texts(svg)
    at = words.index(asks)
    end = next((later for later in range(at + 1, len(words)) if words[later].isdigit() and later > at + 3), len(words))
    return words[at - 1 : end]


def test_a_live_picture_has_what_was_counted(pod: Pod, backend: str) -> None:
    """Three connections past the proxy and two to it are seen at their rules and at the ends."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    pod.open_listeners()
    for _ in range(3):
        assert str(pod.dial("9.9.9.9", 22)) == "ext:22"
    for _ in range(2):
        assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert str(pod.dial_in(8080)) == "pod:15006"
    drawn = pod.applied("graph", "--live").stdout
    assert {"3", "bypass", "an excluded outbound port"} <= set(row(drawn, "tcp → :22"))
    assert "2" in row(drawn, "anything else")
    words = texts(drawn)
    for said in ("its outbound listener · 2", "its inbound listener · 1", "goes out as it was sent · 3"):
        assert said in " ".join(words)
    assert any(f"in the {backend} backend" in text for text in words)


def test_rules_of_others_are_in_a_live_picture(pod: Pod, backend: str) -> None:
    """In hooks, in our chains, in chains of their own, with their comments as text; policies that drop as well."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    for line in (
        ["-t", "nat", "-I", "OUTPUT", "-p", "tcp", "--dport", "31000", "-j", "ACCEPT"],
        ["-t", "nat", "-I", "ISTIO_OUTPUT", "2", "-d", "192.0.2.99", "-j", "RETURN"],
        ["-t", "filter", "-A", "INPUT", "-s", "192.0.2.7", "-m", "comment", "--comment", "<b>&\"'", "-j", "DROP"],
        ["-t", "filter", "-P", "FORWARD", "DROP"],
    ):
        pod.inside.output(f"iptables-{backend}", *line)
    before = pod.state()
    drawn = pod.applied("graph", "--live").stdout
    assert pod.state() == before
    words = texts(drawn)
    assert {"tcp → :31000", "to 192.0.2.99", "from 192.0.2.7", "policy: drop", "rules of others"} <= set(words)
    assert any("<b>&" in text for text in words)
    for written_as in ("mermaid", "dot"):
        other = pod.applied("graph", "--live", "--format", written_as, "--family", "both").stdout
        assert "ISTIO_OUTPUT" in other
        assert "IPv6" in other


def test_a_namespace_without_anything_of_ours_ends_with_status_3(pod: Pod) -> None:
    """The picture says that there is nothing."""
    result = pod.capture("graph", "--live")
    assert result.status == 3
    assert any("holds no rules" in text for text in texts(result.stdout))


def test_rules_in_the_other_backend_are_said(pod: Pod) -> None:
    """One backend is drawn, and the other is not passed over in silence."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={NFT}")
    pod.inside.output("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "RETURN")
    assert any(
        "The legacy backend holds 1 rule as well" in text for text in texts(pod.applied("graph", "--live").stdout)
    )


def test_another_namespace_can_be_drawn(pod: Pod) -> None:
    """--network-namespace is the one that is looked at, with or without other settings."""
    pod.applied(*SETTINGS)
    for settings in ((), SETTINGS):
        drawn = pod.outside.run(
            *pod.command("graph", "--live", *settings, f"--network-namespace={pod.inside.name}"), env=pod.environ()
        )
        assert drawn.returncode == 0, drawn.stderr
        assert "tcp → :22" in texts(drawn.stdout)


@pytest.mark.parametrize("name", write_pictures.COMMANDS)
def test_the_command_prints_the_pictures_of_the_pages(name: str) -> None:
    """To the letter, in a pod as `tests.write_pictures` has it."""
    command = write_pictures.COMMANDS[name]
    with Namespace("graph") as namespace:
        namespace.ip("addr", "add", "10.244.0.5/32", "dev", "lo")
        namespace.set_resolv_conf("nameserver 10.96.0.10\n")
        python = json.dumps(Pod.command()[0])
        done = namespace.run(
            "sh", "-c", command.replace("capture graph", f"{python} -m capture graph"), env=Pod.environ()
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (write_pictures.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
