"""Chains of another mesh's tool: refused with their names, or taken over in the commit that brings ours."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import every_backend
from tests.netns.test_apply import REFUSED, sabotaged
from tests.netns.test_convergence import storm_over
from tests.rig import Pod

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = ["-u", "1337"]
MESHES = {
    "Kuma": ["KUMA_MESH_INBOUND", "KUMA_MESH_OUTBOUND"],
    "Linkerd": ["PROXY_INIT_REDIRECT", "PROXY_INIT_OUTPUT"],
    "Consul": ["CONSUL_PROXY_INBOUND", "CONSUL_PROXY_OUTPUT"],
    "Istio in ambient mode": ["ISTIO_PRERT", "ISTIO_OUTPUT"],
}
AMBIENT = {
    "mangle": """\
*mangle
:ISTIO_OUTPUT - [0:0]
{prert}-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
""",
    "nat": """\
*nat
:ISTIO_OUTPUT - [0:0]
{prert}-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d {loopback} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
""",
    "raw": """\
*raw
:ISTIO_OUTPUT - [0:0]
{prert}-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1
COMMIT
""",
}
"""What ambient's ISTIO_OUTPUT holds in each table."""
PRERT = """\
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
"""
WHERE_PRERT_IS = {
    "in every table": [(4, "mangle"), (4, "nat"), (4, "raw"), (6, "mangle"), (6, "nat"), (6, "raw")],
    "in mangle alone": [(4, "mangle"), (6, "mangle")],
    "in one table of IPv6": [(6, "raw")],
    "in one table of IPv4": [(4, "nat")],
}


def plant_ambient(pod: Pod, backend: str, places: list[tuple[int, str]]) -> None:
    """ISTIO_OUTPUT in three tables of both families, and ISTIO_PRERT in these places."""
    for version, loopback in ((4, "127.0.0.1/32"), (6, "::1/128")):
        text = "".join(
            table.format(
                prert=PRERT.replace("CONNMARK", "MARK") if (version, name) in places else "", loopback=loopback
            )
            for name, table in AMBIENT.items()
        )
        program = f"{'iptables' if version == 4 else 'ip6tables'}-{backend}-restore"
        pod.inside.output(program, "--noflush", text=text)


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
    verified = pod.capture("verify", *EVERYTHING)
    assert verified.status == 3
    assert f"nothing of ours is here; {mesh} captures here, and a run is refused without --take-over" in verified.stdout
    pod.applied("--cleanup-only")
    assert pod.state() == before


@pytest.mark.parametrize("places", WHERE_PRERT_IS.values(), ids=list(WHERE_PRERT_IS))
def test_istio_output_beside_istio_prert_is_of_ambient(pod: Pod, backend: str, places: list[tuple[int, str]]) -> None:
    """In any table of any family: a removal names it and leaves it alone, a run is refused unless it takes over."""
    plant_ambient(pod, backend, places)
    before = pod.state()
    told = pod.applied("clean", "--output", "text").stdout
    assert pod.state() == before
    assert "nothing of ours was here" in told
    for table in AMBIENT:
        assert f"iptables-{backend} {table}: the chain ISTIO_OUTPUT (of Istio in ambient mode)" in told
    assert pod.capture("verify", *EVERYTHING).status == 3
    assert pod.capture("status").status == 3
    result = pod.capture(*EVERYTHING, "--dual-stack")
    assert result.status == 1
    assert "(Istio in ambient mode); nothing was touched" in result.stderr
    assert pod.state() == before
    pod.applied(*EVERYTHING, "--dual-stack", "--take-over", f"--force-iptables-binary={backend}")
    taken = pod.saved(backend) + pod.saved(backend, version=6)
    with Pod() as new:
        new.applied(*EVERYTHING, "--dual-stack", f"--force-iptables-binary={backend}")
        for line in new.saved(backend) + new.saved(backend, version=6):
            assert line in taken
    assert not any("PRERT" in line or "0x539/0xfff" in line for line in taken)
    assert pod.capture("verify", *EVERYTHING, "--dual-stack").status == 0


def test_ours_goes_and_ambient_stays_where_both_are(pod: Pod) -> None:
    """Ours in one backend, ambient's in the other: the chains have one name and two owners."""
    pod.applied(*EVERYTHING, "--force-iptables-binary=legacy")
    plant_ambient(pod, "nft", WHERE_PRERT_IS["in mangle alone"])
    before = pod.saved("nft")
    pod.applied("clean")
    assert pod.saved("nft") == before
    assert not any("ISTIO" in line for line in pod.saved("legacy"))


@pytest.mark.parametrize("name", ["ISTIO_FOUNDATION", "ISTIO_FOUND_X", "ISTIO_OUTPUT_MINE", "ISTIO_INBOUND2", "ISTIO"])
def test_names_that_begin_like_ours_are_not_ours(pod: Pod, backend: str, name: str) -> None:
    """Their rules and the jumps to them stay, through a run and a removal; and they are no mesh's."""
    for arguments in (["-N", name], ["-A", name, "-d", "192.0.2.9", "-j", "ACCEPT"], ["-A", "OUTPUT", "-j", name]):
        pod.inside.output(f"iptables-{backend}", "-t", "nat", *arguments)
    before = pod.state()
    theirs = [line for line in pod.saved(backend) if name in line]
    pod.applied(*EVERYTHING, f"--force-iptables-binary={backend}")
    assert [line for line in pod.saved(backend) if line in theirs] == theirs
    assert not re.search(rf"\b{name}\b", pod.applied("clean").stdout)
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


ISTIO_NATIVE = """\
table inet istio-proxy-nat {
  chain prerouting { type nat hook prerouting priority dstnat; policy accept; meta l4proto tcp jump istio-inbound; }
  chain output { type nat hook output priority -100; policy accept; jump istio-output; }
  chain istio-inbound { tcp dport { 15008, 15090 } return; meta l4proto tcp jump istio-in-redirect; }
  chain istio-redirect { meta l4proto tcp counter packets 7 bytes 420 redirect to :15001; }
  chain istio-in-redirect { meta l4proto tcp redirect to :15006; }
  chain istio-output {
    oifname "lo" ip saddr 127.0.0.6 return
    meta skuid 1337 return
    ip daddr 127.0.0.1 return
    jump istio-redirect
  }
}
table inet istio-proxy-raw {
  chain output { type filter hook output priority raw; policy accept; udp dport 53 meta skuid 1337 ct zone set 1; }
}
"""
CONSUL_NATIVE = """\
table inet consul_tproxy {
  set kept { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 }; }
  chain output {
    type nat hook output priority -100; policy accept;
    meta skuid 101 return
    ip daddr @kept return comment "kept: out of it"
    meta l4proto tcp redirect to :15001
  }
}
"""
NATIVE_CAPTURES = {
    "Istio with nftables": ("inet istio-proxy-nat, inet istio-proxy-raw", ISTIO_NATIVE),
    "Consul": ("inet consul_tproxy", CONSUL_NATIVE),
    "Istio in ambient mode": ("ip istio-ambient-nat", ISTIO_NATIVE.split("table inet istio-proxy-raw")[0]),
}
NATIVE_CAPTURES["Istio in ambient mode"] = (
    "ip istio-ambient-nat",
    NATIVE_CAPTURES["Istio in ambient mode"][1].replace("inet istio-proxy", "ip istio-ambient"),
)


def plant_natively(pod: Pod, text: str) -> None:
    pod.inside.output("nft", "-f", "-", text=text)


@pytest.mark.parametrize("mesh", NATIVE_CAPTURES)
def test_native_tables_of_another_mesh_are_refused_by_name(pod: Pod, mesh: str) -> None:
    """Nothing is touched without --take-over; all who look name the mesh, and a removal leaves it alone."""
    tables, text = NATIVE_CAPTURES[mesh]
    plant_natively(pod, text)
    before = pod.state()
    result = pod.capture(*EVERYTHING)
    assert result.status == 1
    assert f"the tables of another mesh are here ({mesh}); nothing was touched" in result.stderr
    assert all(f"table {table.split()[1]}" in result.stderr for table in tables.split(", "))
    assert "--take-over removes them without a gap as ours come" in result.stderr
    verified = pod.capture("verify", *EVERYTHING)
    assert f"{mesh} captures here, and a run is refused without --take-over" in verified.stdout
    assert f"tables of {mesh}, in nf_tables" in pod.capture("status").stdout
    assert f"tables of {mesh}" in pod.capture("check", *EVERYTHING).stdout
    pod.applied("clean")
    assert pod.state() == before


@every_backend
@pytest.mark.parametrize("mesh", NATIVE_CAPTURES)
def test_native_tables_of_another_mesh_are_taken_over(pod: Pod, backend: str, mesh: str) -> None:
    """Ours come, theirs go when no packet is on its way between the two, and what a dry run prints says both."""
    tables, text = NATIVE_CAPTURES[mesh]
    plant_natively(pod, text)
    flags = [*EVERYTHING, "--dual-stack", "--take-over", f"--force-iptables-binary={backend}"]
    printed = pod.applied("-n", *flags).stdout
    assert all(f"delete table {table}\n" in printed for table in tables.split(", "))
    done = pod.applied(*flags).stderr
    ours = ["nft"] if backend == "native" else [f"ip6tables-{backend}-restore", f"iptables-{backend}-restore"]
    assert re.findall(r"Running ((?:ip6?tables-|nft|membarrier)[a-z-]*)", done) == [*ours, "membarrier", "nft"]
    with Pod() as new:
        new.applied(*EVERYTHING, "--dual-stack", f"--force-iptables-binary={backend}")
        assert all(pod.saved(backend, version=it) == new.saved(backend, version=it) for it in (4, 6))
        assert pod.inside.output("nft", "list", "tables") == new.inside.output("nft", "list", "tables")
    assert pod.capture("verify", *EVERYTHING, "--dual-stack").status == 0
    assert "already in place" in pod.applied(*flags).stderr


FAILURES = {
    "nft refuses it all": ("native", "s/^table ip6 .*$/nonsense/"),
    "a rule of ours is lost": ("native", "/meta skuid 1337 counter return/d"),
    "theirs do not go": ("nft", "s/^delete table .*$/nonsense/"),
}


@pytest.mark.parametrize(("backend", "script"), FAILURES.values(), ids=list(FAILURES))
@pytest.mark.parametrize("mesh", NATIVE_CAPTURES)
def test_native_tables_of_another_mesh_come_back_after_a_failure(
    pod: Pod, mesh: str, backend: str, script: str, tmp_path: Path
) -> None:
    """Theirs is what it was, with counters, sets and comments; nothing of ours is there."""
    plant_natively(pod, NATIVE_CAPTURES[mesh][1])
    listed = pod.inside.output("nft", "list", "ruleset")
    tmp_path.chmod(0o755)
    real = next(path for path in ("/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft") if os.access(path, os.X_OK))
    wrapper = tmp_path / "nft"
    is_first, edited = f'[ "$1" = -f ] && [ ! -e {tmp_path}/done ]', f'sed "{script}" | {real} "$@"; exit'
    wrapper.write_text(f'#!/bin/sh\nif {is_first}; then : > {tmp_path}/done; {edited}; fi\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    flags = [*EVERYTHING, "--dual-stack", "--take-over", f"--force-iptables-binary={backend}"]
    result = pod.capture(*flags, path=f"{tmp_path}:{os.environ['PATH']}")
    assert result.status == 1, result.stderr
    assert (tmp_path / "done").exists()
    assert pod.inside.output("nft", "list", "ruleset") == listed


@pytest.mark.storm
@every_backend
def test_a_native_capture_is_taken_over_without_a_gap(pod: Pod, backend: str) -> None:
    """Every connection goes to a proxy, theirs or ours, and none fails."""
    plant_natively(pod, ISTIO_NATIVE)

    def changes() -> None:
        for _ in range(10):
            pod.applied(*EVERYTHING, "--take-over", f"--force-iptables-binary={backend}")
            assert "istio-proxy" not in pod.inside.output("nft", "list", "tables")
            plant_natively(pod, ISTIO_NATIVE)

    out, into = storm_over(pod, changes)
    assert set(out) == {"pod:15001"}
    assert set(into) == {"pod:15006"}


SLOW = "\n".join(
    [
        "table inet slow",
        "delete table inet slow",
        "table inet slow",
        "add chain inet slow output { type nat hook output priority -100; policy accept; }",
        *(f"add rule inet slow output ip daddr 203.0.113.{at % 256} tcp dport {at + 1} accept" for at in range(3000)),
    ]
)
"""A base chain that holds packets up for some time."""


@pytest.mark.storm
def test_no_packet_falls_between_our_chain_and_one_that_goes(pod: Pod) -> None:
    """Of one place the chain that came last is asked first, ours: who was there before the commit is still on his way
    when theirs goes, and must meet it all the same."""

    def changes() -> None:
        for _ in range(3):
            plant_natively(pod, ISTIO_NATIVE)
            pod.applied("--cleanup-only")
            plant_natively(pod, SLOW)
            pod.applied(*EVERYTHING, "--take-over", "--native-nftables")

    pod.applied(*EVERYTHING)
    out, _ = storm_over(pod, changes)
    assert set(out) == {"pod:15001"}
