"""In company of rules, native tables, the other backend and ip rules: every command answers, and none contradicts
another or a real call.

A sample is drawn; CAPTURE_TESTS=all takes all. CAPTURE_SEED draws the same again.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from capture.host.live import read_live
from capture.netlink import rtnetlink
from rules.packets.packet import Direction
from rules.packets.trace import Became
from rules.routing.policy import Policy
from rules.simulator.simulate import simulate
from tests.netns.test_company import (
    HAS_IPTABLES,
    OTHER_MESHES,
    REJECTED,
    SETTINGS,
    aimed,
    all_is_outside,
    findings,
    is_unnamed,
    met,
    prepared,
)
from tests.netns.test_native import SHORT, traced
from tests.netns.test_simulator import landings_of, packet_of, planned_for, ready
from tests.netns.test_watch import watching
from tests.rig import Call, Pod, drawn, entered, neighbours, predicted
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES, GATEWAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rules.packets.packet import Host
    from rules.plan.plan import Plan
    from tests.rig.pod import Result

NAMESPACES, SAMPLE = 20, 4
CHOSEN = range(NAMESPACES) if ALL else sorted(random.Random(SEED).sample(range(NAMESPACES), SAMPLE))
CALLS = 40
NETWORKS = {4: "9.9.9.0/24", 6: "2001:db8::/48"}
TABLES = {
    "200": ("default dev eth0", "unreachable {network}"),
    "201": ("local {network} dev lo",),
    "202": ("blackhole {network}", "prohibit {outside}"),
    "203": ("throw {network}", "default dev eth0"),
    "204": ("local {network} dev lo src {pod}",),
}
"""Routing tables of others."""
OUTSIDE = {4: "10.0.7.7", 6: "fd00:96::a"}
ASKED = (
    "fwmark 0x8/0x8",
    "fwmark 0x4000/0x4000",
    "fwmark 0x539",
    "iif lo",
    "iif eth0",
    "iif lo uidrange 1000-1500",
    "uidrange 0-0",
    "uidrange 1337-1337",
    "to {network}",
    "from {pod}",
    "from {outside}",
    "to {network} ipproto tcp dport 80",
    "not fwmark 0x539 to {network}",
)
DONE = (*(f"lookup {table}" for table in TABLES), "blackhole", "prohibit", "unreachable", "goto 32766")
PRIORITIES = (5, 100, 1000, 32000, 32765, 32800)
REFUSED_BY_ROUTING = {"error: EINVAL", "error: EACCES", "error: EHOSTUNREACH", "error: ENETUNREACH"}
STATUSES = {
    "verify": {0, 4},
    "diff": {0, 4},
    "status": {0},
    "check": {0, 1},
    "graph": {0},
    "explain": {0},
    "escapes": {0, 5},
    "trace": {0, 1, 5},
}
"""How each command may end beside a run that was made, by its documentation."""


def policy_of_others(pod: Pod, chance: random.Random) -> list[str]:
    """Give the namespace ip rules of others, and tables that they look up. What was added."""
    added = []
    for version in (4, 6):
        named = {"network": NETWORKS[version], "outside": OUTSIDE[version], "pod": ADDRESSES[version]}
        for table, routes in TABLES.items():
            for route in routes:
                via = f"via {GATEWAY[version]} " if route == "default dev eth0" else ""
                words = route.format(**named).replace("default ", f"default {via}")
                pod.inside.ip(f"-{version}", "route", "add", *words.split(), "table", table)
        for _ in range(chance.randint(1, 3)):
            asked, done = chance.choice(ASKED).format(**named), chance.choice(DONE)
            rule = f"pref {chance.choice(PRIORITIES)} {asked} {done}"
            if pod.inside.run("ip", f"-{version}", "rule", "add", *rule.split()).returncode == 0:
                added.append(f"ip -{version} rule add {rule}")
    return added


def here_in(pod: Pod, *, passthrough: bool) -> Host:
    """The namespace as it is, with its ip rules and routes."""
    with entered(pod.inside):
        policy = Policy(rtnetlink.policy_rules(), rtnetlink.routes(passed_over=frozenset()))
    return predicted.host(passthrough=passthrough).but(policy=policy)


def expected_of(trace: Any, packet: Any) -> set[str]:
    """Where a call may land of which `trace --live` says this."""
    expected: set[str] = landings_of(trace)
    if "refused" in expected:
        expected |= REJECTED
    if trace.became in (Became.DROPPED, Became.REFUSED):
        expected |= {*REJECTED, *REFUSED_BY_ROUTING, "refused"}
    if packet.direction is Direction.IN and "ext" in "".join(expected):
        expected |= REJECTED  # what is forwarded back to where it came from may be dropped there
    if "refused" in expected and packet.protocol == "udp":
        expected |= REFUSED_BY_ROUTING
    if any(way.became in (Became.DROPPED, Became.REFUSED) for way in trace.ways):
        expected |= {*REJECTED, *REFUSED_BY_ROUTING, "refused"}
    if trace.lost:
        expected = REJECTED | (expected if packet.protocol == "udp" else set())
    return expected


def contradictions(
    pod: Pod, said: drawn.CommandLine, planned: Plan, here: Host, calls: Sequence[Call], seen: list[dict[str, Any]]
) -> Iterator[str]:
    """Calls that landed elsewhere than `trace --live` says, or than is planned although verify names no rule that they
    met; or of which watch says something else."""
    found = findings(pod, *said.arguments)
    with entered(pod.inside):
        live = read_live()
    with watching(pod, "--interval", "100ms", *said.arguments) as watch:
        watch.until(lambda text: '"event": "no drift"' in text or '"event": "drift"' in text)
        answers = pod.traffic.land(calls, patience=SHORT)
        arrived = dict(pod.traffic.arrived)
        last = Call(pod.inside, ADDRESSES[4], 8080, 1000, 1000, "tcp", ADDRESSES[4], 19999)
        pod.traffic.land([last], patience=SHORT)
        watch.event("connection", source_port=19999)
        watch.ended()
        told = [json.loads(line) for line in watch.text.decode().splitlines()]
    by_port = {each["source_port"]: each for each in told if each["event"] == "connection"}
    for call, answer in zip(calls, answers, strict=True):
        packet = packet_of(call, pod, here)
        trace = traced(live, call, pod, here)
        landing = str(arrived.get(call.source_port, answer))
        if "EADDRNOTAVAIL" in landing:
            continue
        stays = trace.became is Became.DELIVERED and not here.is_local(trace.packet.destination)
        if stays:  # it would have to come from that address as well
            if landing.startswith("ext"):
                yield f"{call}: landed {landing}, trace --live says that it stays here"
        elif trace.became is not Became.DEPENDS or trace.ways:
            expected = expected_of(trace, packet)
            if landing not in expected:
                why = f"{trace.became} {trace.reason} {trace.hindered}"
                yield f"{call}: landed {landing}, trace --live says {expected} {why}"
        wanted = simulate(planned.rulesets, packet, here)
        is_as_planned = wanted.became is Became.DEPENDS or landing == predicted.landing(wanted)
        if not is_as_planned and is_unnamed(live, here, trace, wanted, found):
            why = f"verify is {found[0]} and names none of {met(trace)}"
            yield f"{call}: landed {landing}, planned {wanted.became}; {why}"
        event = by_port.get(call.source_port)
        is_certain = trace.became is not Became.DEPENDS and not trace.lost
        if event and is_certain and landing.startswith(("pod", "ext")):
            seen.append(event)
            if event["captured"] not in (None, trace.became.is_captured):
                yield f"{call}: landed {landing}, watch says captured: {event['captured']}, trace {trace.became}"


@pytest.mark.parametrize("number", CHOSEN)
def test_every_command_answers_and_none_contradicts_another(number: int, tell: Callable[[str], None]) -> None:
    """Beside drawn rules and ip rules of others: words and a documented status; and of each call trace, watch and the
    kernel say the same."""
    seed = f"{SEED} {number}"
    tell(f"CAPTURE_SEED={SEED}, namespace {number}")
    chance = random.Random(seed)
    case = chance.choice([name for name in neighbours.NAMES if name not in OTHER_MESHES])
    ours = chance.choice(("nft", "legacy"))
    theirs = chance.choice(("nft", "legacy")) if case in HAS_IPTABLES else "nft"
    wrong: list[str] = []
    with Pod() as pod:
        ready(pod)
        all_is_outside(pod)
        beside = prepared(pod, case, theirs)
        said = drawn.CommandLine((*chance.choice(SETTINGS), *beside, f"--force-iptables-binary={ours}"))
        comes_first = chance.random() < 0.5
        added = policy_of_others(pod, chance) if comes_first else []
        pod.applied(*said.arguments)
        added += [] if comes_first else policy_of_others(pod, chance)
        planned = planned_for(pod, said)
        here = here_in(pod, passthrough=planned.passthrough_address)
        numbers = drawn.Calls(pod, chance)
        calls = [*aimed(pod, case, chance, numbers.numbers), *numbers.draw(CALLS // 2)]
        where = f"seed {SEED}, namespace {number}: {case} in {theirs}, ours in {ours}: capture {said}\n" + "\n".join(
            added
        )
        results: dict[str, Result] = {}
        for command, status in STATUSES.items():
            arguments = {
                "status": [],
                "graph": ["--live", "--family=both", "--format=dot"],
                "trace": ["--live", *said.arguments, "9.9.9.9:80"],
                "escapes": ["--live", *said.arguments],
            }.get(command, list(said.arguments))
            done = results[command] = pod.capture(command, *arguments)
            is_told = done.stdout.strip() or done.stderr.strip() or (command == "diff" and done.status == 0)
            if done.status not in status or not is_told or "Traceback" in done.stderr + done.stdout:
                wrong.append(f"{command} ends with {done.status}: {done.stdout[-300:]}{done.stderr[-600:]}")
        events: list[dict[str, Any]] = []
        wrong += contradictions(pod, said, planned, here, calls, events)
        for event in events:
            for rule in event["decided_by"]:
                if rule["chain"] not in results["graph"].stdout:
                    wrong.append(f"graph --live lacks {rule['chain']}, which decided for watch")
    assert not wrong, f"seed {SEED}, {where}\n" + "\n".join(wrong)
