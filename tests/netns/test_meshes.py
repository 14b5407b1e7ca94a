"""Chains of another mesh's tool: refused with their names, or taken over in the commit that brings ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netns.test_apply import REFUSED, sabotaged
from tests.netns.test_convergence import storm_over

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Pod

EVERYTHING = ["-u", "1337"]
MESHES = {
    "Kuma": ["KUMA_MESH_INBOUND", "KUMA_MESH_OUTBOUND"],
    "Linkerd": ["PROXY_INIT_REDIRECT", "PROXY_INIT_OUTPUT"],
    "Consul": ["CONSUL_PROXY_INBOUND", "CONSUL_PROXY_OUTPUT"],
    "Istio in ambient mode": ["ISTIO_PRERT", "ISTIO_PRERT_MORE"],
}


def plant(pod: Pod, backend: str, chains: list[str]) -> None:
    """What such a tool leaves: a chain for each direction that redirects to its proxy, and the jumps to them."""
    lines = ["*nat", *(f"-N {chain}" for chain in chains)]
    for hook, chain, port in zip(("PREROUTING", "OUTPUT"), chains, (15006, 15001), strict=True):
        lines.append(f'-A {hook} -p tcp -m comment --comment "mesh/{chain}" -j {chain}')
        lines.append(f"-A {chain} -p tcp -m owner ! --uid-owner 5678 -j REDIRECT --to-ports {port}")
    lines[-3] = lines[-3].replace("-m owner ! --uid-owner 5678 ", "")
    pod.inside.output(f"iptables-{backend}-restore", "--noflush", text="\n".join([*lines, "COMMIT", ""]))


@pytest.mark.parametrize("mesh", MESHES)
def test_another_mesh_is_refused_by_name(pod: Pod, backend: str, mesh: str) -> None:
    """Nothing is touched; removal is free, and leaves theirs alone."""
    plant(pod, backend, MESHES[mesh])
    before = pod.state()
    result = pod.capture(*EVERYTHING)
    assert result.status == 1
    assert f"the chains of another mesh are here ({mesh}); nothing was touched" in result.stderr
    assert all(chain in result.stderr for chain in MESHES[mesh])
    assert "--take-over" in result.stderr
    assert "a run would be refused" in pod.applied("-n", *EVERYTHING).stderr
    pod.applied("--cleanup-only")
    assert pod.state() == before


def test_a_mesh_is_taken_over_without_a_gap(pod: Pod, backend: str) -> None:
    """Its chains and jumps are gone, ours are there, and in between no connection escaped."""
    plant(pod, backend, MESHES["Kuma"])

    def changes() -> None:
        for _ in range(10):
            pod.applied(*EVERYTHING, "--take-over")
            assert not any("KUMA" in line for line in pod.saved(backend))
            plant(pod, backend, MESHES["Kuma"])

    out, into = storm_over(pod, changes)
    assert set(out) == {"pod:15001"}
    assert set(into) == {"pod:15006"}


def test_a_take_over_that_is_refused_puts_theirs_back(pod: Pod, backend: str, tmp_path: Path) -> None:
    """IPv4's commit fails after IPv6's succeeded: chains, jumps and their places are as before."""
    plant(pod, backend, MESHES["Kuma"])
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-I", "OUTPUT", "1", "-d", "192.0.2.1", "-j", "ACCEPT")
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.2", "-j", "ACCEPT")
    pod.inside.output(f"ip6tables-{backend}", "-t", "nat", "-N", "KUMA_MESH_OUTBOUND")
    pod.inside.output(f"ip6tables-{backend}", "-t", "nat", "-A", "OUTPUT", "-j", "KUMA_MESH_OUTBOUND")
    before = pod.meaning()
    path = sabotaged(tmp_path, f"iptables-{backend}-restore", f"s/^COMMIT$/{REFUSED}\\nCOMMIT/")
    result = pod.capture(*EVERYTHING, "--take-over", "--dual-stack", path=path)
    assert result.status == 1, result.stderr
    assert "the namespace is as it was" in result.stderr
    assert pod.meaning() == before


def test_native_tables_of_another_mesh_are_refused(pod: Pod) -> None:
    """They are not iptables', so they are not taken over either; the message says how to remove them."""
    pod.inside.output("nft", "add", "table", "inet", "istio-proxy-nat")
    before = pod.state()
    for more in ([], ["--take-over"]):
        result = pod.capture(*EVERYTHING, *more)
        assert result.status == 1
        assert "istio-proxy-nat" in result.stderr
        assert "nft delete table" in result.stderr
    assert pod.state() == before
