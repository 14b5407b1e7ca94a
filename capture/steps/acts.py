"""What a run is made of, and what may not come between."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what `signal` wraps, which takes its time to import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from capture.iptables.leaving import TakeAway
    from capture.steps.half_open import ForgetHalfOpen
    from capture.steps.load import Load
    from capture.steps.other_meshes import DeleteTables
    from capture.steps.passing import LetPacketsPass
    from capture.steps.pickup import PickUp
    from capture.steps.release import Release
    from capture.steps.restore import Restore
    from capture.steps.routing import SetPassthroughAddress, SetRouting

    Step: TypeAlias = (
        Restore
        | Load
        | DeleteTables
        | SetRouting
        | SetPassthroughAddress
        | LetPacketsPass
        | ForgetHalfOpen
        | PickUp
        | Release
    )
    """Each says what it does, of which families, does it, and undoes it.

    Some have something to be held against the kernel when all is done: `comparing`.
    """
    Act: TypeAlias = Step | TakeAway

ENDING_SIGNALS = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)
"""They wait until a run is over, or undone."""
