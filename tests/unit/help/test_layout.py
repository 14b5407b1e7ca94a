"""How the settings stand in a command's help."""

from __future__ import annotations

import pytest

from capture.help.layout import help_of
from capture.settings.declared import DECLARED


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("proxy_uid", "-u, --proxy-uid UID[,UID…]"),
        ("ipv6", "    --ipv6 auto|on|off|reject"),
    ],
)
def test_a_setting_is_named_by_its_flags(name: str, how: str) -> None:
    """The short one first, or as much room as it takes, so that the long ones stand in a column."""
    (setting,) = (it for it in DECLARED if it.name == name)
    assert help_of(setting)[0] == how
