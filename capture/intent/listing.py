"""Every setting with its value and where that came from, as `capture settings` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capture.settings.declared import DECLARED, Settings
from capture.settings.model import plain, written
from capture.text import on_one_line, one_line
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.intent.resolve import Resolved


class Listed(Value):
    """One setting as `capture settings` lists it."""

    name: str
    """Its name in SettingsModel."""
    flag: str
    """Its long flag; empty if it has none."""
    variables: tuple[str, ...]
    """Its variables, the one that wins first."""
    value: Any
    """What it is, derived values included."""
    text: str
    """The same as one would write it on a command line."""
    source: str
    """Where that came from: a flag, a variable, the default, or what it was derived from."""


def filed(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """What was given, for a file that means the same: name, plain value, where it came from."""
    for setting, value, origin in settings.given():
        if setting.name != "config":
            yield setting.name, written(setting, value) if setting.is_duration else plain(value), one_line(str(origin))


def listing(settings: Settings, resolved: Resolved) -> list[Listed]:
    """Every setting with the value that counts and where it came from."""
    listed = []
    for setting in DECLARED:
        value, origin = getattr(settings, setting.name), settings.origins[setting.name]
        if setting.name in resolved.derived:
            value, origin = getattr(resolved.intent, setting.name), resolved.derived[setting.name]
        elif value is None and setting.name in resolved.intent.__match_args__:
            value = getattr(resolved.intent, setting.name)
        listed.append(
            Listed(
                setting.name,
                setting.long,
                setting.env,
                plain(value),
                "" if value is None else written(setting, value),
                f"{origin}, from {on_one_line(origin.file)}" if origin.file else str(origin),
            )
        )
    return listed
