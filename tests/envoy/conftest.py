"""What the experiments share: a pod with services outside, and an Envoy in it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.rig.envoy import V1, V2, Envoy, missing, serving
from tests.rig.pod import Pod, is_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Started = Callable[..., Envoy]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need an Envoy, and say so where there is none."""
    why = missing() or ("" if is_root() else "making network namespaces takes root")
    for item in items:
        if "envoy" in item.path.parent.parts:
            item.add_marker(pytest.mark.netns)
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod, and outside two versions of a service, and one at 9.9.9.9."""
    with Pod() as made, contextlib.ExitStack() as stack:
        for host in (V1, V2):
            made.outside.ip("addr", "add", host, "dev", "lo")
        for host, by in ((V1, "v1"), (V2, "v2"), ("9.9.9.9", "world")):
            stack.enter_context(serving(made.outside, host, 80, by))
        yield made


@pytest.fixture
def envoy(pod: Pod, tmp_path: Path) -> Iterator[Started]:
    """Starts an Envoy in the pod with a configuration of docs/envoy, and ends it."""
    with contextlib.ExitStack() as stack:
        yield lambda name, **more: stack.enter_context(Envoy(pod, name, tmp_path, **more))
