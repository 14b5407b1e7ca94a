"""All facts that decide whether a run can work here, each with a verdict. Asks, and changes nothing.

Each function answers for one area, from what `Here` has gathered once. A fact that these settings do not depend on is
told as well, and is marked as not needed. What this user may not see is unknown, and says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.preflight.around import conntrack, dns, kubernetes, logging, validation
from capture.preflight.backends import backends
from capture.preflight.company import namespace, proxy
from capture.preflight.facts import Fact, Here
from capture.preflight.permissions import permissions
from capture.preflight.programs import machine, programs
from capture.preflight.routes import addresses, routing
from capture.preflight.rules import rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capture.settings.declared import Settings


def check(settings: Settings, environ: Mapping[str, str], *, rehearse: bool = True) -> list[Fact]:
    """Every fact about this place. Raises BadSettings for settings that a run would refuse."""
    here = Here(settings, environ, rehearse=rehearse)
    return [fact for area in AREAS for fact in area(here)]


AREAS = (
    machine,
    programs,
    permissions,
    namespace,
    proxy,
    backends,
    rules,
    addresses,
    routing,
    conntrack,
    logging,
    dns,
    validation,
    kubernetes,
)
