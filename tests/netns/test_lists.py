"""Lists of 50,000 networks, from a file: what they let go, and what they cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import every_backend
from tests.rig import APP, PROXY, Pod
from tests.rig.waiting import until

MANY = 50_000


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    """Every other /24 from 10.0.1.0 on, so that no two of them become one."""
    file = tmp_path / "networks"
    file.write_text(
        "".join(f"{10 + at // 32768}.{at // 128 % 256}.{at % 128 * 2 + 1}.0/24 # {at}\n" for at in range(MANY))
    )
    tmp_path.chmod(0o755)
    return file


@every_backend
def test_fifty_thousand_networks_are_let_go(pod: Pod, backend: str, networks: Path) -> None:
    """What is in the list, and nothing else; a rerun finds all of it in place."""
    flags = ["-u", str(PROXY), "-x", f"@{networks}", f"--force-iptables-binary={backend}", "--ipv6", "off"]
    pod.applied(*flags)
    pod.open_listeners()
    landed = {host: str(pod.dial(host, 80, uid=APP)) for host in ("10.0.7.7", "9.9.9.9")}
    assert landed == {"10.0.7.7": "ext:80", "9.9.9.9": "pod:15001"}
    assert "already in place" in pod.applied(*flags).stderr


def test_fifty_thousand_networks_take_little_memory_natively(pod: Pod, networks: Path) -> None:
    """100 MiB at most, by every command."""
    flags = ["-u", str(PROXY), "-x", f"@{networks}", "--ipv6", "off"]
    lines = {
        "apply": [*flags, "--native-nftables"],
        "rerun": flags,
        "verify": ["verify", *flags],
        "trace": ["trace", "--live", "10.0.7.7:80"],
        "status": ["status"],
        "clean": ["clean"],
    }
    for name, line in lines.items():
        done = pod.inside.run(sys.executable, "-c", SPENT, *pod.command(*line), env=pod.environ())
        assert done.returncode == 0, done.stderr
        most = int(done.stdout.splitlines()[-1])
        assert most <= 100 * 1024, f"{name}: {most} KiB"


SPENT = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
"""Runs a command; its last line says what that and its children took at the most, in KiB."""


OF_MEMORY = Path("/sys/fs/cgroup/memory")
"""The memory controller of cgroups, version 1; version 2 has one tree and another name for the limit."""


@pytest.mark.parametrize("backend", ["nft", "native"])
def test_twenty_thousand_networks_of_ipv6_fit_into_a_container(pod: Pod, backend: str, tmp_path: Path) -> None:
    """The first apply, one that changes the list, and the removal: nobody is killed for want of memory."""
    networks = [f"2001:db8:{at >> 11:x}:{at % 2048 * 32:x}::/60" for at in range(20_001)]
    tmp_path.chmod(0o755)
    whose = ["--native-nftables"] if backend == "native" else ["--force-iptables-binary=nft"]
    for name, some in (("first", networks[:-1]), ("second", networks[1:])):
        (tmp_path / name).write_text("\n".join(some))
        line = pod.command("-u", str(PROXY), "-x", f"@{tmp_path / name}", "--ipv6", "on", *whose)
        assert "in place" in in_50_mib(pod, *line)
    in_50_mib(pod, *pod.command("clean"))


def in_50_mib(pod: Pod, *line: str) -> str:
    """What a command says on stderr that succeeds with the memory that an init container mostly has: 50Mi."""
    parent, limit = (OF_MEMORY, "memory.limit_in_bytes") if OF_MEMORY.is_dir() else (OF_MEMORY.parent, "memory.max")
    group = parent / f"capture-rig-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(50 << 20))
    except OSError as refused:
        pytest.skip(f"no cgroup can be made here: {refused}")
    # The shell joins it first: `ip netns exec` hides cgroups.
    entered = ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec ip netns exec "$@"', "sh", pod.inside.name, *line]
    try:
        done = subprocess.run(entered, env=pod.environ(), capture_output=True, text=True, check=False)
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
    assert done.returncode == 0, done.stderr[-1_000:]
    return done.stderr
