"""Fixtures that all tests share. What needs root or a program says so when it is skipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.namespace import leftovers
from tests.rig.pod import Pod, has, is_root

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED = Path(__file__).parents[2] / "shared"
"""Records of the reference and the documents the project began with. They are not part of the project."""
NEEDED = ("ip", "nft", "iptables-nft-restore", "iptables-legacy-restore", "ip6tables-nft-save", "sysctl")
BACKENDS = ("nft", "legacy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests below tests/netns ask the kernel, whether they say so or not."""
    missing = has(*NEEDED)
    if os.environ.get("CI") and (missing or not is_root()):
        raise pytest.UsageError(f"CI is to ask the kernel: as root, and with {', '.join(missing) or 'all programs'}")
    for item in items:
        if "netns" in item.path.parts:
            item.add_marker(pytest.mark.netns)
        if item.get_closest_marker("netns"):
            if not is_root():
                item.add_marker(pytest.mark.skip(reason="making network namespaces takes root"))
            elif missing:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No test leaves a network namespace behind."""
    yield
    if is_root() and not has("ip"):
        assert leftovers() == []


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Both backends of iptables, one after the other."""
    name: str = request.param
    return name


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod with both families, nothing listening yet."""
    with Pod() as made:
        yield made


@pytest.fixture
def ipv4_pod() -> Iterator[Pod]:
    """A pod whose only family is IPv4."""
    with Pod(ipv6=False) as made:
        yield made


@pytest.fixture
def shared() -> Path:
    """The folder of records, for tests that compare with the reference."""
    if not SHARED.is_dir():
        pytest.skip("the records of the reference are not here")
    return SHARED
