"""What is installed, told without the settings: ports, owners, counters with reasons, routing, rules of others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.conftest import every_backend
from tests.rig import PROXY

if TYPE_CHECKING:
    from tests.rig import Pod

SETTINGS = ["-u", str(PROXY), "--dual-stack"]


def told(pod: Pod, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = pod.capture("status", "--output", "json", *arguments)
    assert result.stderr == ""
    answer: dict[str, Any] = json.loads(result.stdout)
    return result.status, answer


def rule(answer: dict[str, Any], chain: str, text: str, *, table: str = "nat", family: str = "IPv4") -> dict[str, Any]:
    """The rule that reads so."""
    (found,) = [
        rule
        for each in answer["chains"]
        if (each["table"], each["chain"], each["family"]) == (table, chain, family)
        for rule in each["rules"]
        if rule["rule"] == text
    ]
    answered: dict[str, Any] = found
    return answered


@every_backend
def test_nothing_and_something(pod: Pod, backend: str) -> None:
    """3 before the first run and after a removal, 0 in between."""
    assert pod.capture("status").status == 3
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    assert pod.capture("status").status == 0
    pod.applied("--cleanup-only")
    result = pod.capture("status")
    assert result.status == 3
    assert result.stdout.splitlines()[0] == "nothing of ours is here"
    assert result.stdout.endswith("a run here uses the nft backend of iptables: the kernel has nf_tables\n")


def test_each_family_in_a_line(pod: Pod, backend: str) -> None:
    """Ports, mode and owners of both modes, as they were asked for, told from the rules alone."""
    pod.applied("-u", "1337,42", "-g", "7", "-p", "16001", "-z", "16006", f"--force-iptables-binary={backend}")
    line = pod.capture("status").stdout.splitlines()[0]
    assert line == (
        f"IPv4, {backend} backend: outbound TCP → 16001, inbound TCP → 16006 (REDIRECT); "
        "the proxy is uid 1337, uid 42, gid 7"
    )
    pod.applied(
        *SETTINGS, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "-b", "80", "-i", "10.0.0.0/8",
        f"--force-iptables-binary={backend}",
    )  # fmt: skip
    into = "listed inbound TCP → 15006 (TPROXY), DNS → 15053; the proxy is uid 1337, gid 1337"
    sentences = [captured["sentence"] for captured in told(pod)[1]["captures"]]
    assert sentences == [f"listed outbound TCP → 15001, {into}", into]
    pod.applied("-u", "1337", "-b", "", "-i", "", "-x", "", f"--force-iptables-binary={backend}")
    assert "nothing is captured" in pod.capture("status").stdout.splitlines()[0]


def test_counters_stand_beside_their_rules(pod: Pod, backend: str) -> None:
    """Three connections of an application: the rule that captured them counted three, and says what it is for."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    pod.open_listeners()
    for _ in range(3):
        assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    _, answer = told(pod)
    last = rule(answer, "ISTIO_OUTPUT", "-j ISTIO_REDIRECT")
    assert last["packets"] == 3
    assert last["why"] == "one of these: everything else goes to the proxy; a captured destination"
    assert rule(answer, "OUTPUT", "-p tcp -j ISTIO_OUTPUT")["packets"] == 3
    assert rule(answer, "ISTIO_OUTPUT", "-j ISTIO_REDIRECT", family="IPv6")["packets"] == 0


def test_routing_and_the_age_of_the_address(pod: Pod) -> None:
    """Ours are listed, those of others are not; the kernel tells when ::6 was added."""
    pod.inside.ip("rule", "add", "fwmark", "0x539", "lookup", "200")
    pod.applied(*SETTINGS, "-m", "TPROXY")
    _, answer = told(pod)
    rules = [(each["family"], each["mark"], each["table"]) for each in answer["ip_rules"]]
    assert rules == [("IPv4", 1337, 133), ("IPv6", 1337, 133)]
    assert [(each["family"], each["table"]) for each in answer["routes"]] == [("IPv4", 133), ("IPv6", 133)]
    assert answer["passthrough"]["ours"]
    assert 0 <= answer["passthrough"]["age"] < 60
    pod.applied("-u", str(PROXY))
    assert told(pod)[1]["passthrough"] is None
    assert "age: not known" in pod.capture("status").stdout.splitlines()
    pod.inside.ip("addr", "add", "::6/128", "dev", "lo")
    assert not told(pod)[1]["passthrough"]["ours"]


def test_what_is_in_the_way_is_told(pod: Pod, backend: str) -> None:
    """Rules of others above our jump, rules that turn conntrack off, and the chains of other meshes."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    tool = f"iptables-{backend}"
    pod.inside.output(tool, "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    pod.inside.output(tool, "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", "ACCEPT")
    pod.inside.output(tool, "-t", "raw", "-A", "OUTPUT", "-p", "tcp", "--dport", "443", "-j", "NOTRACK")
    pod.inside.output(tool, "-t", "nat", "-N", "KUMA_MESH_OUTBOUND")
    pod.inside.output(tool, "-t", "nat", "-N", "PROXY_INIT_REDIRECT")
    _, answer = told(pod)
    assert [(each["kind"], each["chain"]) for each in answer["in_the_way"]] == [
        ("narrower rule of others above ours", "OUTPUT"),
        ("rule of others above ours", "OUTPUT"),
        ("not tracked", "OUTPUT"),
    ]
    meshes = [(each["mesh"], each["chain"]) for each in answer["other_meshes"]]
    assert sorted(meshes) == [("Kuma", "KUMA_MESH_OUTBOUND"), ("Linkerd", "PROXY_INIT_REDIRECT")]


def test_another_namespace_by_name(pod: Pod) -> None:
    """From outside, as from inside."""
    pod.applied(*SETTINGS)
    done = pod.outside.run(*pod.command("status", "--network-namespace", pod.inside.name), env=pod.environ())
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "IPv4, nft backend")
    assert pod.outside.run(*pod.command("status"), env=pod.environ()).returncode == 3
