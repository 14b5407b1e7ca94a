"""docs/envoy/symptoms.md: each symptom is produced, and the page's command gives the answer that the page prints."""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING

import pytest

from tests.envoy.test_experiments import captured
from tests.rig.envoy import Envoy, get, serving
from tests.rig.namespace import entered
from tests.rig.pod import ADDRESSES, APP, ROOT, Pod
from tests.rig.traffic import open_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.envoy.test_experiments import Started

PAGE = (ROOT / "docs/envoy/symptoms.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))

HOST = {"Host": "app.shadow.com"}
WAITED = 1.5
"""Seconds that an answer of a nameserver is waited for."""


def refused(pod: Pod, envoy: Started) -> Envoy:
    captured(pod)
    started = envoy("allow-all")
    with serving(pod.inside, ADDRESSES[4], 9080, "app"):
        assert get(pod.outside, ADDRESSES[4], 9080).status == 0
    assert get(pod.inside, "9.9.9.9").status == 200
    return started


def cut_off(pod: Pod, envoy: Started) -> Envoy:
    captured(pod, "-b", "")
    started = envoy("block-all")
    assert get(pod.inside, "9.9.9.9").status == 0
    return started


def hanging(pod: Pod, envoy: Started) -> Envoy:
    captured(pod, "-m", "TPROXY")
    started = envoy("tproxy", capable=True)
    pod.inside.output("ip", "rule", "del", "fwmark", "0x539")
    with serving(pod.inside, ADDRESSES[4], 9080, "app"):
        assert get(pod.outside, ADDRESSES[4], 9080).status == 0
    return started


def no_endpoints(pod: Pod, envoy: Started) -> Envoy:
    captured(pod, "-b", "")
    started = envoy("eds")
    assert get(pod.inside, "9.9.9.9", 8080).status == 503
    return started


def looping(pod: Pod, envoy: Started) -> Envoy:
    captured(pod, "-b", "")
    started = envoy("allow-all", uid=4711)
    assert get(pod.inside, "9.9.9.9").status == 0
    assert started.counted("tcp.outbound.downstream_cx_total") > 100
    return started


def unknown_host(pod: Pod, envoy: Started) -> Envoy:
    captured(pod, "-b", "")
    started = envoy("header-match")
    with serving(pod.outside, "9.9.9.9", 8080, "world"):
        assert get(pod.inside, "9.9.9.9", 8080).status == 404
        assert get(pod.inside, "9.9.9.9", 8080, headers=HOST).by == "v1"
        captured(pod, "-b", "", "-o", "8080")
        assert get(pod.inside, "9.9.9.9", 8080).by == "world"
    captured(pod, "-b", "")
    return started


def no_resolver(pod: Pod, envoy: Started) -> Envoy:
    captured(pod, "-b", "", "--redirect-dns", "--capture-all-dns")
    started = envoy("allow-all")
    assert get(pod.inside, "9.9.9.9").status == 200
    assert asked(pod, "reviews.mesh.local") == b""
    return started


def slow_names(pod: Pod, envoy: Started) -> Envoy:
    captured(pod, "-b", "")
    started = envoy("allow-all")
    pod.outside.output("iptables-nft", "-A", "INPUT", "-p", "udp", "--dport", "53", "-j", "DROP")
    began = time.monotonic()
    assert asked(pod, "web") == b""
    assert time.monotonic() - began >= WAITED
    return started


def asked(pod: Pod, name: str) -> bytes:
    """What 9.9.9.9 answers to a question for an address, if anything (RFC 1035)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    with entered(pod.inside):
        opened = open_socket("9.9.9.9", "udp", APP, APP)
    with opened:
        opened.settimeout(WAITED)
        try:
            opened.connect(("9.9.9.9", 53))
            opened.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01")
            return opened.recv(512)
        except OSError:
            return b""


SYMPTOMS: dict[str, Callable[[Pod, Started], Envoy]] = {
    "Inbound calls are refused": refused,
    "Calls are reset, or end without a byte": cut_off,
    "Inbound calls hang until they time out": hanging,
    "503": no_endpoints,
    "Calls loop: the proxy opens thousands of connections": looping,
    "It works without the mesh, and not with it": unknown_host,
    "It works by address, and not by name": no_resolver,
    "Names are slow": slow_names,
}


def test_every_symptom_of_the_page_is_produced() -> None:
    """And none is there that no test knows."""
    assert list(SECTIONS) == list(SYMPTOMS)


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_the_pages_command_tells(pod: Pod, envoy: Started, symptom: str) -> None:
    """Line by line, with anything where the page has `…`."""
    started = SYMPTOMS[symptom](pod, envoy)
    block = re.search(r"```console\n\$ (.*?)\n(.*?)```", SECTIONS[symptom], re.S)
    assert block
    program, *arguments = shlex.split(block[1])
    if program == "curl":
        said = started.admin(arguments[-1].partition(":15000")[2])
    else:
        assert program == "capture"
        said = pod.capture(*arguments).stdout
    for line in block[2].splitlines():
        wanted = ".*".join(map(re.escape, line.split("…")))
        assert re.search(f"^{wanted}$", said, re.M), said
