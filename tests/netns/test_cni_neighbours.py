"""The CNI plugin beside the rules of real tools, as a chained plugin often is: portmap, calico, kube-proxy …"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.rig import PROXY, neighbours
from tests.rig.chance import ALL, SEED
from tests.rig.runtime import SIDECAR, Answer, call, configuration, environment

if TYPE_CHECKING:
    from tests.rig import Pod

OTHER_MESHES = ("ambient", "consul", "linkerd")
"""Beside these a run is refused, and so is a pod's start."""
CASES = neighbours.NAMES if ALL else sorted(random.Random(SEED).sample(neighbours.NAMES, len(neighbours.NAMES) // 3))


@pytest.mark.parametrize("case", CASES)
def test_the_rules_of_others_are_the_same_bytes(pod: Pod, case: str) -> None:
    """ADD, another ADD, CHECK and DEL: theirs stay as they are; ours are as planned beside them, and go. Beside another
    mesh the pod does not start, and the error says whose rules are there."""
    beside = neighbours.prepare(pod.inside, case, "nft")
    before = neighbours.rules_in(pod.inside)
    assert before
    config = configuration("-u", str(PROXY), "--ipv6=on", *beside, annotations=SIDECAR)

    def asked(verb: str) -> Answer:
        return call(pod.outside, environment(verb, pod.inside.path), config)

    settings = ["-u", str(PROXY), "--ipv6=on", "-d", "15020,15021,15090", *beside]
    for _ in range(2):
        added = asked("ADD")
        assert neighbours.rules_in(pod.inside) == before
        if case in OTHER_MESHES:
            assert (added.status, case in str(added.result).lower()) == (1, True), added
        else:
            assert added.result == config["prevResult"], added
            # Some of them decide about packets before ours: CHECK says of that what verify says.
            checked, verified = asked("CHECK"), pod.capture("verify", *settings)
            assert (checked.status, verified.status) in ((0, 0), (1, 4)), (checked, verified)
            assert (
                checked.status == 0
                or str(checked.result["msg"]).partition(": ")[2].partition(", and ")[0] in verified.stdout
            )
    assert asked("DEL") == Answer(0, None, "")
    assert neighbours.rules_in(pod.inside) == before
    assert pod.capture("status").status == 3
