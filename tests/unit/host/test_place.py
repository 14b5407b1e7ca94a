"""Nodes, and what only looks like one."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from capture.host import place

if TYPE_CHECKING:
    from pathlib import Path

SIGNS = {
    "chains": (
        "KUBE-KUBELET-CANARY",
        "KUBE-ROUTER-INPUT",
        "AWS-SNAT-CHAIN-0",
        "IP-MASQ-AGENT",
        "KIND-MASQ-AGENT",
        "cali-PREROUTING",
        "CILIUM_PRE_nat",
        "OLD_CILIUM_POST_nat",
        "FLANNEL-POSTRTG",
        "WEAVE-NPC",
        "ANTREA-PREROUTING",
        "OVN-KUBE-EGRESS-SVC",
        "OPENSHIFT-MASQUERADE",
        "CNI-HOSTPORT-DNAT",
        "ISTIO_POSTRT",
        "ztunnel-PREROUTING",
    ),
    "tables": ("kube-proxy", "ovn-kubernetes", "talos", "calico", "kindnet-network-policies", "flannel-ipv4"),
    "interfaces": (
        "flannel.1",
        "flannel-v6.1",
        "cilium_host",
        "eni12d4a061371",
        "azv1b2c3d4e5f6",
        "cali0a1b2c3d4e5",
        "vxlan.calico",
        "ovn-k8s-mp0",
        "br-ex",
        "cni0",
        "kube-ipvs0",
        "antrea-gw0",
        "weave",
    ),
}
NO_SIGNS = {
    "chains": (
        "DOCKER",
        "DOCKER-USER",
        "DOCKER-ISOLATION-STAGE-1",
        "LIBVIRT_PRT",
        "NETAVARK-HOSTPORT-DNAT",
        "ufw-before-input",
        "f2b-sshd",
        "ISTIO_OUTPUT",
        "ISTIO_PRERT",
        "PROXY_INIT_OUTPUT",
        "KUBEVIRT_PREINBOUND",
    ),
    "tables": ("docker-bridges", "netavark", "firewalld", "nat", "filter", "wg-quick-wg0", "cni_hostport"),
    "interfaces": (
        "lo",
        "eth0",
        "ens5",
        "enp1s0",
        "eni5np1",
        "docker0",
        "virbr0",
        "cni-podman0",
        "net1",
        "k6t-eth0",
        "wg0",
    ),
}


def signs(monkeypatch: pytest.MonkeyPatch, kind: str, *names: str) -> list[str]:
    monkeypatch.setattr(place, "interfaces", lambda: list(names) if kind == "interfaces" else [])
    return place.signs_of_a_node(names if kind == "chains" else (), names if kind == "tables" else ())


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in SIGNS.items() for name in names])
def test_a_node_is_known_by_one_thing(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    """Each of these alone says where we are, and is named."""
    assert signs(monkeypatch, kind, name) == [f"the {kind[:-1]} {name}"]


@pytest.mark.parametrize("kind", NO_SIGNS)
def test_what_a_pod_or_a_host_has_is_no_sign(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Of docker, podman, libvirt, firewalls, meshes and virtual machines."""
    assert signs(monkeypatch, kind, *NO_SIGNS[kind]) == []


@pytest.mark.parametrize("bridge", ["cni-podman0", "nerdctl0"])
def test_the_standard_plugins_without_kubernetes_are_no_sign(monkeypatch: pytest.MonkeyPatch, bridge: str) -> None:
    """podman and nerdctl make the same chains as a runtime does on a node; other signs count beside them."""
    monkeypatch.setattr(place, "interfaces", lambda: ["eth0", bridge])
    assert place.signs_of_a_node(["CNI-HOSTPORT-DNAT", "CNI-FORWARD"], ["nat"]) == []
    assert place.signs_of_a_node(["CNI-FORWARD", "KUBE-SERVICES"], ["nat"]) == ["the chain KUBE-SERVICES"]


def test_whoever_lives_here_is_found_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the namespace of the network. A child is here; where it may have one of its own, it is not."""
    monkeypatch.setattr(place, "_residents", {})  # what a run for many namespaces remembered in this process
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            found = {each.pid: each for each in place.processes()}
            assert (found[child.pid].name, found[child.pid].parent) == ("sleep", os.getpid())
            assert os.getpid() not in found
        finally:
            child.kill()
    with subprocess.Popen(["unshare", "--user", "--net", "sleep", "60"], stderr=subprocess.PIPE) as elsewhere:
        try:
            deadline = time.monotonic() + 10
            while elsewhere.poll() is None and time.monotonic() < deadline:
                if os.stat(f"/proc/{elsewhere.pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino:
                    assert elsewhere.pid not in {each.pid for each in place.processes()}
                    return
        finally:
            elsewhere.kill()
    pytest.skip("this user may make no network namespace in a user namespace of its own")


def test_the_ports_at_which_systemd_listens_for_sshd_are_read_from_its_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every folder, and of what was added in `.d`; an address before the port or a path instead of it is no port."""
    unit = place.SSH_UNITS[0]
    vendor, local = tmp_path / "vendor", tmp_path / "local"
    (local / f"{unit}.d").mkdir(parents=True)
    vendor.mkdir()
    (vendor / unit).write_text(
        "[Socket]\nListenStream=22\nListenStream=0.0.0.0:2222\nListenStream=/run/sshd\nAccept=5\n"
    )
    (local / f"{unit}.d" / "10-port.conf").write_text(
        "[Socket]\nListenStream=\nListenStream=[::]:2022\nListenStream=70000\n"
    )
    monkeypatch.setattr(place, "UNIT_FOLDERS", (str(vendor), str(local), str(tmp_path / "none")))
    assert place.ports_of_units() == {22, 2222, 2022}
