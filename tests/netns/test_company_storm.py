"""In company, no gap: while our rules change beside those of real tools, no connection escapes or fails.

A sample is drawn; CAPTURE_TESTS=all takes all of them. CAPTURE_SEED draws the same again.
"""

from __future__ import annotations

import random
from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest

from capture.iptables.iptables import BACKENDS
from tests.netns.test_company import HAS_IPTABLES, OTHER_MESHES, prepared
from tests.netns.test_convergence import NAMESERVERS, SETTINGS, addresses_near, listen_everywhere
from tests.rig import APP, OUTSIDE, Call, Pod, neighbours
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES
from tests.rig.storm import Client, storm

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE = 2
CHANGES = 24 if ALL else 12
LOOKING_FROM = ("198.18.0.252", "198.18.0.253", "198.18.0.254")
"""Addresses from which no storm calls: what conntrack keeps of a look is in nobody's way."""
TAKEN_BY_OTHERS: dict[tuple[str, str], str] = {
    ("native-dnat", "nft"): "a rule above our jump, in the same chain, lets one of the hosts go that the storm calls",
    ("native-dormant", "nft"): "the table of nat that iptables uses is asleep, and ours in it",
    ("native-sets", "nft"): "a rule above our jump, in the same chain, lets go out what is sent to port 80",
    **{("ufw", str(ours)): "it drops what arrives at the port that the storm calls" for ours in BACKENDS},
}
"""Beside whose rules some connection of a storm lands elsewhere in every setting, by the backend of ours, and why. What
we say there is tried in `test_company.py`."""
PLACES = [
    (name, ours, theirs)
    for name in neighbours.NAMES
    if name not in OTHER_MESHES
    for ours in BACKENDS
    if (name, ours) not in TAKEN_BY_OTHERS
    for theirs in (("nft", "legacy") if name in HAS_IPTABLES else ("nft",))
]
CHOSEN = PLACES if ALL else random.Random(SEED).sample(PLACES, SAMPLE)


def lands_as_planned(pod: Pod, arguments: list[str]) -> bool:
    """Whether a run like this captures a storm's connections while nothing changes: rules of others may take them."""
    pod.applied(*arguments)
    out = [Call(pod.inside, host, 80, APP, APP) for host in OUTSIDE[4]]
    into = [Call(pod.outside, ADDRESSES[4], 8080, source=source) for source in LOOKING_FROM]
    landed = list(map(str, pod.traffic.land([*out, *into])))
    return set(landed[: len(out)]) == {"pod:15001"} and set(landed[len(out) :]) == {"pod:15006"}


@pytest.mark.storm
@pytest.mark.parametrize(("case", "ours", "theirs"), CHOSEN, ids=["-".join(place) for place in CHOSEN])
def test_beside_the_rules_of_others_no_connection_escapes_or_fails(
    case: str, ours: str, theirs: str, tell: Callable[[str], None]
) -> None:
    """Changes between all settings whose rules these neighbours let do their work, in both directions.

    No connection is remembered in TIME_WAIT here. Where a rule of others redirects what TPROXY has taken, the kernel
    lets nobody in from a port that it remembers (it finds the two alike in `inet_ehash_insert`, and drops each SYN
    without a word), and a storm comes back to its ports; that is so whether our rules change or not.
    """
    tell(f"CAPTURE_SEED={SEED}")
    with Pod() as pod:
        needed = [*prepared(pod, case, theirs), f"--force-iptables-binary={ours}"]
        pod.inside.set_resolv_conf(NAMESERVERS)
        listen_everywhere(pod)
        pod.inside.output("sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=0")
        usable = [each for each in SETTINGS if lands_as_planned(pod, [*each, *needed])]
        assert len(usable) > 1, f"captured in {usable} alone: who takes the other connections?"
        pod.applied(*usable[-1], *needed)
        out = [Client(pod.inside, OUTSIDE[4], 80, APP, patience=20) for _ in range(2)]
        into = Client(pod.outside, (ADDRESSES[4],), 8080, sources=addresses_near(4), patience=20)
        with storm(pod.traffic, [*out, into]) as counted:
            for setting in islice(cycle(usable), CHANGES):
                pod.applied(*setting, *needed)
        tell(f"{len(usable)} settings, {[dict(each) for each in counted]}")
        assert [set(each) for each in counted] == [{"pod:15001"}, {"pod:15001"}, {"pod:15006"}]
