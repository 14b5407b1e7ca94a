"""The kernel is the judge of the simulator: the same packets, sent for real, land where it says, by the rules it says.

Every draw can be repeated: the seed is printed, and CAPTURE_SEED sets it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture.facts import read_facts
from capture.resolve import resolve
from capture.settings import Settings
from rules import parse
from rules.counters import counters
from rules.names import PROXY_LOOP_MARK
from rules.plan import plan
from rules.simulate import ESTABLISHED, Direction, Packet, simulate
from rules.values import Family, Limit, Ruleset
from tests.rig import Call, Pod, drawn, entered, predicted
from tests.rig.pod import PROXY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rules.counters import Place
    from rules.plan import Plan
    from rules.simulate import Host, Step, Trace

SEED = int(os.environ.get("CAPTURE_SEED") or random.SystemRandom().randrange(1 << 32))
SETTINGS, PACKETS = 100, 50
"""Drawn for each backend, and packets for each of the settings."""
PROGRAMS = {Family.V4: "iptables", Family.V6: "ip6tables"}
NAMESERVERS = "nameserver 10.96.0.10\nnameserver fd00:96::a\n"


@dataclass(frozen=True)
class Held:
    """What the kernel holds of one backend, and what each rule has counted."""

    rulesets: tuple[Ruleset, ...]
    counted: dict[tuple[Family, Place], int]


def held(pod: Pod, backend: str) -> Held:
    rulesets, counted = [], {}
    for family in Family:
        text = pod.inside.output(f"{PROGRAMS[family]}-{backend}-save", "-c")
        rulesets.append(Ruleset(family, parse.tables(text)))
        counted.update({(family, place): count.packets for place, count in counters(text).items()})
    return Held(tuple(rulesets), counted)


def moved(before: Held, after: Held) -> Counter[tuple[Family, Place]]:
    """By how much each rule's counter moved."""
    return Counter({place: count - before.counted.get(place, 0) for place, count in after.counted.items()})


def place_of(step: Step, family: Family) -> tuple[Family, Place]:
    return family, (step.table, step.chain, step.position)


def packet_of(call: Call, pod: Pod, here: Host) -> Packet:
    """The first packet of a call."""
    if call.sender is pod.outside:
        assert call.source
        packet = predicted.arriving(call.host, call.port, source=call.source, proto=call.proto)
    else:
        packet = predicted.sent(
            here,
            call.host,
            call.port,
            proto=call.proto,
            uid=call.uid,
            gid=call.gid,
            source=call.source,
            mark=call.mark,
        )
    return packet.but(source_port=call.source_port or None)


def later_packets(trace: Trace, here: Host) -> Iterable[Packet]:
    """What else a call makes of packets: more of its own, the answers, and ICMP errors."""
    packet = trace.packet
    own = packet.but(state=ESTABLISHED)
    yield own
    yield own.but(uid=None, gid=None)
    if trace.address is None or trace.port is None:
        return
    # An answer comes from where the call arrived; what nat changed is changed back behind these tables.
    kept = here.is_local(trace.address) or trace.became.is_captured
    for uid in (PROXY, 0, None):
        answer = Packet(
            Direction.OUT if kept else Direction.IN,
            packet.family,
            packet.protocol,
            trace.address,
            packet.source,
            packet.source_port or 0,
            here.leaves_on(packet.family, packet.source, trace.remembered) if kept else "eth0",
            trace.port,
            uid,
            uid,
            0,
            ESTABLISHED,
            True,
            trace.remembered,
        )
        yield answer
        yield answer.but(protocol="icmp", state="RELATED")
        yield answer.but(protocol="ipv6-icmp", state="RELATED")
    # Behind POSTROUTING an answer comes from where its call was going, and keeps its mark over lo.
    for mark in (0, PROXY_LOOP_MARK, trace.remembered):
        yield packet.but(
            direction=Direction.IN,
            source=packet.destination,
            destination=packet.source,
            source_port=packet.port,
            port=packet.source_port or 0,
            interface="lo" if kept else "eth0",
            uid=None,
            gid=None,
            mark=mark,
            state=ESTABLISHED,
            is_answer=True,
            connmark=trace.remembered,
        )


def answer_as_a_connection(rulesets: Sequence[Ruleset], trace: Trace, here: Host) -> Trace | None:
    """The answer to a datagram, if it is in another zone: conntrack takes it for one that nobody asked for."""
    packet = trace.packet
    if packet.protocol != "udp" or trace.address is None or trace.port is None:
        return None
    kept = here.is_local(trace.address)
    uid = PROXY if trace.port == predicted.RESOLVER_PORT else 0
    answer = Packet(
        Direction.OUT if kept else Direction.IN,
        packet.family,
        packet.protocol,
        trace.address,
        packet.source,
        packet.source_port or 0,
        here.leaves_on(packet.family, packet.source) if kept else "eth0",
        trace.port,
        uid if kept else None,
        uid if kept else None,
    )
    answered = simulate(rulesets, answer, here)
    return answered if answered.zone != trace.zone else None


def compare(
    pod: Pod, backend: str, here: Host, calls: Sequence[Call], *, told: str, planned: Plan | None = None
) -> list[str]:
    """Send these calls, and tell in words where simulator and kernel disagree."""
    before = held(pod, backend)
    landings = pod.traffic.land(calls)
    counted = moved(before, held(pod, backend))
    wrong: list[str] = []
    once: Counter[tuple[Family, Place]] = Counter()
    met, explained, uncertain = set(), set(), set()
    for call, landing in zip(calls, landings, strict=True):
        packet = packet_of(call, pod, here)
        trace = simulate(before.rulesets, packet, here)
        if planned:
            again = simulate(planned.rulesets, packet, here)
            if (again.became, again.port) != (trace.became, trace.port):
                wrong.append(f"{call}: planned {again.became}, parsed back {trace.became}")
        if predicted.landing(trace) != str(landing):
            wrong.append(
                f"{call}: landed {landing}, predicted {predicted.landing(trace)} {trace.became} {trace.decided}"
            )
        for step in trace.steps:
            place = place_of(step, packet.family)
            if step.matched is None or any(isinstance(asked, Limit) for asked in step.rule.matches):
                uncertain.add(place)
            elif step.matched:
                met.add(place)
                once[place] += 1
        answered = answer_as_a_connection(before.rulesets, trace, here)
        if answered and landing.port:
            once.update(place_of(step, packet.family) for step in answered.matched)
        for later in later_packets(trace, here):
            for step in simulate(before.rulesets, later, here).steps:
                if step.matched is not False:
                    explained.add(place_of(step, packet.family))
    for place, count in counted.items():
        if place in uncertain:
            continue
        if place[1][0] == "nat" and count != once[place]:
            wrong.append(f"{place} counted {count} connections, predicted {once[place]}")
        if place[1][0] != "nat" and not count and place in met:
            wrong.append(f"{place} counted nothing, predicted {once[place]}")
        if place[1][0] != "nat" and count and place not in met | explained:
            wrong.append(f"{place} counted {count}, predicted nothing")
    return [f"{told}\n  {line}" for line in wrong]


def without_rate_limits(pod: Pod) -> None:
    """Every closed port answers, however often it is asked."""
    for namespace in (pod.inside, pod.outside):
        namespace.output("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")


def planned_for(pod: Pod, said: drawn.Said) -> Plan:
    """What a command line means in this pod, thought out in this process."""
    settings = Settings.load(said.arguments, said.environ)
    with entered(pod.inside):
        return plan(resolve(settings, read_facts(said.environ, settings.nameservers_file)).intent)


def test_the_simulator_and_the_kernel_agree(backend: str, tmp_path: Path) -> None:
    """Drawn settings, drawn packets: each lands where the simulator says, and the rules it matched are those that
    counted it: in nat exactly, elsewhere all of them, and none that no packet of the connection explains."""
    print(f"CAPTURE_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend}")  # noqa: S311 # packets are no secrets
    nameservers = tmp_path / "resolv.conf"
    nameservers.write_text(NAMESERVERS)
    wrong: list[str] = []
    with Pod() as pod:
        pod.open_listeners(transparent=True)
        without_rate_limits(pod)
        calls = drawn.Calls(pod, chance)
        for number in range(SETTINGS):
            said = drawn.settings(chance)
            said = drawn.Said((*said.arguments, "--resolv-conf", str(nameservers)), said.environ)
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}", env=said.environ)
            here = predicted.host(planned.routing, passthrough=planned.passthrough_address)
            told = f"seed {SEED}, {backend} {number}: capture {said}"
            wrong += compare(pod, backend, here, calls.draw(PACKETS), told=told, planned=planned)
    assert not wrong, "\n".join(wrong[:20])
