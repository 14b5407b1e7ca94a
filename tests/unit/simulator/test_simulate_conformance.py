"""What istio-iptables did with each of its recorded connections is what the simulator says that our rules do."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from capture.host.facts import Facts
from capture.intent.resolve import resolve
from capture.netlink.rtnetlink import Address
from capture.settings.declared import Settings
from rules.addresses import ip_address
from rules.packets.trace import Became
from rules.plan.plan import plan
from rules.proof.escapes import escapes
from rules.simulator.simulate import simulate
from tests.netns.test_conformance import USERS
from tests.rig import predicted
from tests.rig.chance import QUICK
from tests.rig.pod import ADDRESSES, GATEWAY
from tests.rig.sets import is_listed

if TYPE_CHECKING:
    from pathlib import Path

    from rules.packets.packet import Host
    from rules.packets.trace import Trace
    from rules.plan.plan import Plan

FEWEST = 12_000
"""Recorded connections. If there are fewer, the test says less than it claims."""
EVERY = 8 if QUICK else 1
"""Which cases are asked about."""
PROXY_LISTENERS = ("15001", "15006", "16001", "16006", "15053")
PROXY_PORTS = (15001, 15006, 16001, 16006)


def planned(case: dict[str, Any]) -> Plan:
    """What a case's command line means in the pod in which it was recorded."""
    addresses = [Address(ip_address(ADDRESSES[4]), 24)]
    if case["v6"]:
        addresses.append(Address(ip_address(ADDRESSES[6]), 64))
    settings = Settings.load(case["args"], case["env"])
    facts = Facts(tuple(addresses), has_ipv6=True, lo_has_ipv6=case["v6"], resolv_conf=case["resolv"])
    return plan(resolve(settings, facts).intent)


def followed(label: str, rules: Plan, here: Host) -> Trace:
    """The connection that a record's label describes, in the simulator: `app tcp src=127.0.0.6 10.244.0.5:8080`."""
    who, proto, *source, destination = label.split()
    host, _, port = destination.rpartition(":")
    host = host.strip("[]")
    if who == "in":
        packet = predicted.arriving(host, int(port), source=GATEWAY[6 if ":" in host else 4], proto=proto)
    else:
        uid, gid = USERS[who]
        bound = source[0].removeprefix("src=") if source else None
        packet = predicted.sent(here, host, int(port), proto=proto, uid=uid, gid=gid, source=bound)
    return simulate(rules.rulesets, packet, here)


def landed(trace: Trace) -> str:
    """A trace in the words of the records, original destination and client included."""
    packet, where = trace.packet, predicted.landing(trace)
    place, _, port = where.partition(":")
    if packet.protocol == "udp":
        return f"{place}:udp{port}"
    if int(port or 0) in PROXY_PORTS:
        host = f"[{packet.destination}]" if packet.destination.version == 6 else str(packet.destination)
        where += f" orig={host}:{packet.port}"
        if int(port) in (15006, 16006):
            where += f" src={packet.source}"
    return where


@cache
def records(folder: Path) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Each of the cases that are asked about, and where its connections landed."""
    results = {r["id"]: r for r in map(json.loads, (folder / "reference.jsonl").read_text().splitlines())}
    cases = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    return [(case, results[case["id"]].get("landed", {})) for case in cases[::EVERY]]


def test_the_simulator_says_where_every_recorded_connection_landed(shared: Path) -> None:
    """All of them, with the original destination, and the client where the record has it."""
    wrong, count = [], 0
    for case, recorded in records(shared / "conformance"):
        rules = planned(case)
        here = predicted.host(rules.routing, passthrough=rules.passthrough_address, ipv6=case["v6"])
        for label, expected in recorded.items():
            count += 1
            trace = followed(label, rules, here)
            assert trace.became is not Became.DEPENDS
            if landed(trace) != expected:
                wrong.append((case["id"], label, expected, landed(trace)))
    assert wrong == []
    assert count > FEWEST // EVERY


def test_what_escapes_is_what_did_not_land_at_the_proxy(shared: Path) -> None:
    """Of every recorded connection, for all settings: it is in a set of `capture escapes` exactly if it did not."""
    wrong = []
    for case, recorded in records(shared / "conformance"):
        rules = planned(case)
        here = predicted.host(rules.routing, passthrough=rules.passthrough_address, ipv6=case["v6"])
        held = [("", ruleset) for ruleset in rules.rulesets]
        told = [each for ruleset in rules.rulesets for each in escapes(held, ruleset.family, here)]
        for label, expected in recorded.items():
            packet = followed(label, rules, here).packet
            where = expected.split()[0].removeprefix("pod:").removeprefix("udp")
            reached = expected.startswith("pod:") and where in PROXY_LISTENERS
            # Who asks for a port of the proxy by name gets there without being captured.
            is_asked_for = reached and packet.port in map(int, PROXY_LISTENERS)
            if not is_asked_for and is_listed(packet, told) is reached:
                wrong.append((case["id"], label, expected))
    assert wrong == []
