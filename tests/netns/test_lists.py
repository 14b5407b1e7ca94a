"""Lists of 50,000 networks, from a file: what they let go, and what they cost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import every_backend
from tests.rig import APP, PROXY, Pod

if TYPE_CHECKING:
    from pathlib import Path

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
