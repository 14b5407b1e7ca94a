"""Lists of 50,000 networks, from a file: what they let go, and what they cost."""

from __future__ import annotations

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
