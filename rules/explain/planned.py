"""What is planned, worked out once for the many questions to one intent."""

from __future__ import annotations

from rules.plan.plan import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.plan.intent import Intent
    from rules.plan.plan import Plan

MOST = 2
"""Plans that are remembered: lists may be long, and mostly one intent is asked about, beside one other."""

_known: list[tuple[Intent, Plan]] = []


def planned(intent: Intent) -> Plan:
    """The plan of this intent."""
    for known, its in _known:
        if known is intent:
            return its
    found = plan(intent)
    _known.append((intent, found))
    del _known[:-MOST]
    return found
