"""How many examples are drawn. A time limit for each would fail on a busy machine and say nothing."""

from __future__ import annotations

from hypothesis import settings

from tests.rig.chance import share

settings.register_profile("capture", deadline=None, max_examples=share(50))
settings.load_profile("capture")
