"""What is worked out from settings and the host, and what of it is warned of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.host.facts import Facts
from capture.intent.resolve import resolve
from capture.settings.declared import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence


def warned(code: str, argv: Sequence[str], facts: Facts | None = None) -> list[str]:
    """The settings that a run is warned of in this way."""
    found = resolve(Settings.load(argv, {}), facts or Facts(addresses=())).warnings
    return [warning.setting for warning in found if warning.code == code]


@pytest.mark.parametrize(
    ("argv", "settings"),
    [
        (["-b", "80,15001"], ["proxy_port"]),
        (["-b", "80,15006"], ["inbound_capture_port"]),
        (["-b", "15000-15010"], ["proxy_port", "inbound_capture_port"]),
        (["-b", "80,15002-15005,15007"], []),
        (["-b", "80", "-p", "80"], ["proxy_port"]),
        (["-b", "*"], []),
        (["-b", ""], []),
    ],
)
def test_a_listed_port_of_the_proxy_is_warned_of(argv: list[str], settings: list[str]) -> None:
    """Both of its ports, and the ends of a range; where all are captured its own are not."""
    assert warned("own-port", argv) == settings


@pytest.mark.parametrize(("argv", "told"), [([], 1), (["--capture-ssh"], 0), (["-b", ""], 0), (["-b", "80"], 1)])
def test_an_ssh_port_that_is_left_alone_is_told_of(argv: list[str], told: int) -> None:
    """Where inbound ports are captured, and nobody said that this one is as well."""
    facts = Facts(addresses=(), ssh_ports=((22, "sshd listens there"),))
    assert warned("ssh-not-captured", argv, facts) == ["capture_ssh"] * told
