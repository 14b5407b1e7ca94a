"""In company, only what is true: beside the rules of real tools, what every command says is held against real calls.

A sample is drawn; CAPTURE_TESTS=all takes all of them. CAPTURE_SEED draws the same again.
"""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from capture.errors import DIFFERS
from capture.iptables.iptables import BACKENDS, Iptables
from rules.addresses import ip_address, ip_network
from rules.iptables.writing import rule_text
from rules.live.drift import Kind
from rules.packets.packet import Direction
from rules.packets.trace import Became
from rules.proof.neighbours import without_ours
from rules.simulator.simulate import in_any_order, simulate
from tests.netns.test_native import SHORT, deciding, live_in, traced
from tests.netns.test_simulator import landings_of, packet_of, planned_for, ready
from tests.rig import Call, Pod, drawn, neighbours, predicted
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES, GATEWAY, PROXY, TCP_PORTS, UDP_PORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capture.host.live import Live
    from rules.packets.packet import Host, Packet
    from rules.packets.trace import Trace
    from rules.plan.plan import Plan

NODE = "192.168.13.7"
"""The node's address, from which that tool lets everything go out."""
REJECTED = {"timeout", "error: EHOSTUNREACH", "error: EACCES", "error: ECONNRESET", "error: EPERM"}
"""How a sender may learn of a REJECT, or of a DNAT to where nobody forwards."""
OTHER_MESHES = ("ambient", "consul", "linkerd")
"""Beside these a run is refused."""
SAMPLE = 12
AIMED, AT_RANDOM = 30, 20
"""Calls that ask for what the rules of others name, and such that ask for anything."""
SETTINGS = (
    ("-u", str(PROXY), "--dual-stack"),
    ("-u", str(PROXY), "--dual-stack", "-m", "TPROXY"),
    ("-u", str(PROXY), "--dual-stack", "--redirect-dns", "--capture-all-dns", "-o", "443", "-d", "9080"),
)
ADDRESS = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(?:/[0-9]+)?|[0-9a-f]+(?::[0-9a-f]*){2,7}(?:/[0-9]+)?")
PORT = re.compile(r"(?:--dports? |dport (?:\{ )?)([0-9]+)")
UID = re.compile(r"(?:--uid-owner |skuid )([0-9]+)")
HAS_IPTABLES = [name for name in neighbours.NAMES if (neighbours.CASES / name / "rules.v4").exists()]
PLACES = [
    (name, ours, theirs)
    for name in neighbours.NAMES
    if name not in OTHER_MESHES
    for ours in ("nft", "legacy")
    for theirs in (("nft", "legacy") if name in HAS_IPTABLES else ("nft",))
]
CHOSEN = PLACES if ALL else random.Random(SEED).sample(PLACES, SAMPLE)


def aimed(pod: Pod, case: str, chance: random.Random, numbers: Iterator[int]) -> Iterator[Call]:
    """Calls of which most meet what some rule of others asks for."""
    text = "".join(
        neighbours.text_of(file) for file in sorted((neighbours.CASES / case).iterdir()) if file.name != "args"
    )
    hosts = [host for found in ADDRESS.findall(text) for host in usable(found)] or ["9.9.9.9"]
    ports = [*(int(port) for port in PORT.findall(text)), *TCP_PORTS]
    uids = [*(int(uid) for uid in UID.findall(text)), 1000, PROXY, 0]
    for _ in range(AIMED):
        host, proto = chance.choice(hosts), chance.choice(("tcp", "tcp", "tcp", "udp"))
        version, port = ip_address(host).version, chance.choice([port for port in ports if port > 0])
        if chance.random() < 0.3 and host != ADDRESSES[version]:
            to = ADDRESSES[version]
            yield Call(pod.outside, to, port, 0, 0, proto, chance.choice((host, GATEWAY[version])), next(numbers))
        else:
            uid = chance.choice(uids)
            yield Call(pod.inside, host, port, uid, uid, proto, None, next(numbers))


def usable(text: str) -> Iterator[str]:
    """An address of this network that somebody can call here."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return
    host = network[min(1, network.num_addresses - 1)]
    near = ip_network("10.244.0.0/24" if host.version == 4 else "fd00:244::/64")
    odd = host.is_multicast or host.is_loopback or host.is_unspecified or host.is_link_local
    is_nobody = host in near and str(host) not in ADDRESSES.values()
    if not odd and not is_nobody and str(host) not in (NODE, "255.255.255.255"):
        yield str(host)


def all_is_outside(pod: Pod) -> None:
    """Whatever the pod sends out is answered there."""
    for family in ("-4", "-6"):
        pod.outside.ip(family, "route", "add", "local", "default", "dev", "lo", "table", "main")
    pod.traffic.listen(pod.outside, UDP_PORTS, where="ext", proto="udp")


def prepared(pod: Pod, case: str, backend: str) -> list[str]:
    """Put the rules of a case there, with what they need; what a run of ours needs beside them."""
    if case == "aws-vpc-cni":
        pod.inside.ip("addr", "add", f"{NODE}/32", "dev", "lo")
        pod.outside.ip("route", "add", f"{NODE}/32", "via", ADDRESSES[4])
    return neighbours.prepare(pod.inside, case, backend)


def findings(pod: Pod, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """How verify ends, and all that it says: its findings, and the differences that it proved."""
    done = pod.capture("verify", *arguments, "--output", "json")
    assert done.status in (0, 4), done.stderr
    told = json.loads(done.stdout)
    return done.status, [*told["findings"], *(each for proof in told["proofs"] for each in proof["differences"])]


def wrong_in(
    pod: Pod, live: Live, planned: Plan, here: Host, calls: Sequence[Call], found: tuple[int, list[dict[str, Any]]]
) -> Iterator[str]:
    """Calls that landed elsewhere than `trace --live` says, or than is planned although no finding names the rule."""
    answers = pod.traffic.land(calls, patience=SHORT)
    for call, answer in zip(calls, answers, strict=True):
        packet = packet_of(call, pod, here)
        trace, wanted = traced(live, call, pod, here), simulate(planned.rulesets, packet, here)
        landing = str(pod.traffic.arrived.get(call.source_port, answer))
        if "EADDRNOTAVAIL" in landing or "ENETUNREACH" in landing or "EINVAL" in landing:
            continue
        expected = landings_of(trace) if trace.became is not Became.DEPENDS or trace.ways else {landing}
        is_forwarded = packet.direction is Direction.IN and "ext" in "".join(expected)
        if trace.lost:
            expected = REJECTED | (expected if packet.protocol == "udp" else set())
        elif is_forwarded or ("refused" in expected and trace.became is not Became.BYPASSED):
            expected |= REJECTED
        if landing not in expected:
            yield f"{call}: landed {landing}, trace --live says {expected} {trace.became} {trace.decided}"
        if landing != predicted.landing(wanted) and is_unnamed(live, here, trace, wanted, found):
            why = f"verify is {found[0]} and names none of {met(trace)}"
            yield f"{call}: landed {landing}, planned {wanted.became}; {why}"


def is_unnamed(live: Live, here: Host, trace: Trace, wanted: Trace, found: tuple[int, list[dict[str, Any]]]) -> bool:
    """Of a call that landed elsewhere than is planned: whether verify names none of the rules that it met."""
    status, named = found[0], {finding["rule"] for finding in found[1]}
    is_asleep = status == DIFFERS and any(finding.get("kind") == Kind.TABLE_DORMANT.value for finding in found[1])
    if is_asleep or not wanted.became.is_captured or is_dropped_anyway(live, trace.packet, here):
        return False
    by_uid = {kind.value for kind in (Kind.IP_RULE_BY_UID, Kind.PROXY_REFUSED)}
    if any(finding.get("kind") in by_uid for finding in found[1]):
        named.add("which ip rule decides")
    return not any(text.startswith(tuple(named)) for text in met(trace))


def met(trace: Trace) -> set[str]:
    """The rules that this packet met, as text, and why it is lost."""
    rules = {rule_text(step.rule) for way in (trace, *trace.ways) for step in way.steps if step.matched}
    rules |= {rule_text(step.rule) for step in deciding(trace)}
    return rules | {rule_text(end.decided.rule) if end.decided else end.reason for end in (trace, trace.lost) if end}


def is_dropped_anyway(live: Live, packet: Packet, here: Host) -> bool:
    """Whether it would be dropped if ours were not there."""
    held = tuple(
        without_ours(live.saved(Iptables(backend, packet.family)).ruleset, None)
        for backend in BACKENDS
        if live.holds_rules(backend)
    )
    alone = in_any_order(held, packet, here, live.natives.get(packet.family, ()))
    return (alone.lost or alone).became in (Became.DROPPED, Became.REFUSED)


@pytest.mark.parametrize(("case", "ours", "theirs"), CHOSEN, ids=["-".join(place) for place in CHOSEN])
def test_beside_the_rules_of_others_only_what_is_true_is_said(
    case: str, ours: str, theirs: str, tell: Callable[[str], None]
) -> None:
    """50 calls land where trace --live says, and as planned but for what the findings of verify name."""
    tell(f"CAPTURE_SEED={SEED}")
    chance = random.Random(f"{SEED} {case} {ours} {theirs}")
    with Pod() as pod:
        ready(pod)
        all_is_outside(pod)
        beside = prepared(pod, case, theirs)
        forced = [f"--force-iptables-binary={ours}"] if chance.random() < 0.5 else []
        said = drawn.CommandLine((*chance.choice(SETTINGS), *beside, *forced))
        pod.applied(*said.arguments)
        planned = planned_for(pod, said)
        here = predicted.host(planned.routing, passthrough=planned.passthrough_address)
        numbers = drawn.Calls(pod, chance)
        calls = [*aimed(pod, case, chance, numbers.numbers), *numbers.draw(AT_RANDOM)]
        found = findings(pod, *said.arguments)
        wrong = list(wrong_in(pod, live_in(pod), planned, here, calls, found))
    assert not wrong, f"seed {SEED}: capture {said}\n{found}\n" + "\n".join(wrong)
