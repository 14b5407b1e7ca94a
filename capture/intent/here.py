"""Settings resolved against this host, for commands that look."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from capture.errors import BadSettings
from capture.host.facts import read_facts
from capture.intent.resolve import resolve
from capture.kernel import netns
from capture.log import Log
from capture.settings.declared import LOOKING, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from capture.host.facts import Facts
    from capture.intent.resolve import Resolved

    F = TypeVar("F", bound=Callable[..., Any])


def resolved_here(settings: Settings) -> Resolved:
    """The settings resolved against this host, with what will surprise said on stderr."""
    return looked_up(settings)[1]


def leave_out(settings: Settings, refused: BadSettings) -> None:
    """Say which settings are not taken into account."""
    log = Log(settings.log_output_level, as_json=settings.log_as_json)
    log.warn("the settings are left out of account:", *(f"  {refusal}" for refusal in refused.refusals))


def looked_up_or_without(settings: Settings, least: frozenset[str] = LOOKING) -> tuple[Settings, Facts, Resolved]:
    """The same; and the settings, without those that mean nothing on this host."""
    try:
        return settings, *looked_up(settings)
    except BadSettings as refused:
        leave_out(settings, refused)
        settings = settings.only(least)
        return settings, *looked_up(settings)


def looked_up(settings: Settings) -> tuple[Facts, Resolved]:
    """The same, with what the host answered."""
    if settings.network_namespace:
        netns.enter(settings.network_namespace)
    found = read_facts(os.environ, settings.nameservers_file)
    resolved = resolve(settings, found)
    log = Log(settings.log_output_level, as_json=settings.log_as_json)
    for warning in resolved.warnings:
        log.warn(str(warning))
    return found, resolved
