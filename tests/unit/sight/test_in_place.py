"""What iptables-nft made, as a kernel told of it: known at sight, and nothing else is."""

from __future__ import annotations

import pytest

from capture.host.facts import read_facts
from capture.intent.resolve import resolve
from capture.kernel.seam import standing_in
from capture.settings.declared import Settings
from capture.sight.in_place import is_in_place
from rules.plan.plan import plan
from tests.rig.chance import QUICK
from tests.rig.recorded import QUESTIONS, Recorded


@pytest.fixture
def pod() -> Recorded:
    made = Recorded("iptables", "10.244.0.5/32", "fd00:244::5/128")
    made.are_there = True
    made.add_passthrough_address()
    return made


def is_known(pod: Recorded, *more: str) -> bool:
    with standing_in(pod):
        settings = Settings.load([*pod.argv, *more], {})
        return is_in_place(plan(resolve(settings, read_facts({})).intent))


def test_what_was_made_is_known_at_sight(pod: Recorded) -> None:
    """Both families and both tables of it; another port, or one thing less, is not."""
    assert is_known(pod)
    assert not is_known(pod, "-p", "15009")
    assert not is_known(pod, "--drop-invalid")
    pod.remove_passthrough_address()
    assert not is_known(pod)


@pytest.mark.parametrize("kind", ["tables", "chains", "rules"])
def test_what_somebody_changed_is_not(pod: Recorded, kind: str) -> None:
    """Each message in turn is not told, told twice, or is told with another last byte."""
    for messages in (those for (question, _), those in pod.told.items() if question == QUESTIONS[kind]):
        for at in range(0, len(messages), 7 if QUICK else 1):
            message = messages[at]
            messages[at : at + 1] = []
            # A built-in chain is there wherever its rules are.
            assert not is_known(pod) or (kind == "chains" and b"ISTIO" not in message), message
            messages[at:at] = [message]
            if kind == "rules":
                messages[at : at + 1] = [message, message]
                assert not is_known(pod), message
                messages[at : at + 2] = [message[:-1] + bytes([message[-1] ^ 1])]
                assert not is_known(pod), message
                messages[at] = message
    assert is_known(pod)
