"""The settings of the reference's golden files, on every backend one after the other: each call lands in one place."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

import pytest

from tests.conftest import BACKENDS
from tests.rig import Pod, drawn
from tests.rig.chance import ALL, SEED
from tests.rig.reference import CASES

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 60
DRAWN = list(CASES) if ALL else random.Random(f"{SEED} goldens").sample(sorted(CASES), 4)


@pytest.mark.parametrize("name", DRAWN)
def test_calls_land_alike_by_our_own_tables_and_by_iptables(name: str, tell: Callable[[str], None]) -> None:
    """Drawn calls of several users, from inside and outside, with the original destination and the client's address."""
    tell(f"CAPTURE_SEED={SEED}")
    case = CASES[name]
    with Pod() as pod:
        pod.inside.set_resolv_conf(case.resolv_conf)
        pod.open_listeners(proxy_uid=case.uid, transparent=case.is_transparent)
        # Every closed port answers, however often it is asked.
        pod.outside.output("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        calls = drawn.Calls(pod, random.Random(f"{SEED} {name}"))
        drawn_calls = calls.draw(CALLS)
        landed = {}
        for backend in ("native", *BACKENDS):
            pod.applied(*case.arguments, f"--force-iptables-binary={backend}", env=case.env)
            # A port that was used a moment ago belongs to the connection of that time.
            again = [dataclasses.replace(call, source_port=next(calls.numbers)) for call in drawn_calls]
            landings = pod.land(again)
            landed[backend] = [(str(it), it.original, it.peer) for it in landings]
    differing = [
        (str(call), {backend: its[at] for backend, its in landed.items()})
        for at, call in enumerate(drawn_calls)
        if len({its[at] for its in landed.values()}) > 1
    ]
    assert not differing, f"seed {SEED}: {differing[:5]}"
