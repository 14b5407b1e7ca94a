"""What `capture escapes` lists, box by box: connections within a box escape, those just outside of all do not.

Every draw can be repeated: the seed is printed, and CAPTURE_SEED sets it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING

from rules.addresses import ip_address, ip_network
from rules.netfilter.fields import ADDRESSES
from rules.netfilter.values import address_of_family
from rules.packets.packet import Direction, Packet
from rules.packets.trace import Became
from rules.proof.escapes import UNTOLD
from tests.conftest import SHARED
from tests.netns.test_meaning import Judged, by_others, empty
from tests.netns.test_simulator import planned_for, ready
from tests.rig import Call, Pod, drawn
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES as OWN
from tests.rig.pod import GATEWAY, PROXY, PROXY_PORTS
from tests.rig.sets import is_in, is_listed, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.values import Family
    from rules.packets.packet import Host
    from rules.proof.escapes import Escape, Packets

INSIDE = OUTSIDE = 20 if ALL else 3
"""Connections within each box, and just outside of it."""
SETTINGS, NAMESPACES = (60, 40) if ALL else (5, 3)
"""For each backend: drawn settings, and namespaces with rules of others."""
RECORDS = SHARED / "conformance" / "cases.jsonl"
ANYBODY = (1000, 1001, 0, PROXY, 65534)
ELSEWHERE = {4: ("9.9.9.9", "1.1.1.1", "10.0.7.7"), 6: ("2001:db8::1", "fd00:96::a")}
SHORT, LONG = 0.25, 1.0
"""Seconds: long enough for anything that arrives at all, and on a busy machine, where nothing is dropped."""


class Box:
    """One set of packets that is listed, from which connections are drawn that can be made."""

    def __init__(self, escape: Escape, told: Packets, here: Host, chance: random.Random) -> None:
        self.escape, self.told, self.here, self.chance = escape, told, here, chance
        self.version = 4 if escape.family.name == "V4" else 6
        self.is_out = escape.direction is Direction.OUT

    def inside(self) -> Packet | None:
        """A connection within; None if this draw came to none that somebody can make."""
        told, chance = self.told, self.chance
        protocol = chance.choice([name for name in ("tcp", "tcp", "udp") if has(told.protocols, name)] or [""])
        if not protocol:
            return None
        destination = self.address(told.destinations, ELSEWHERE[self.version] if self.is_out else (OWN[self.version],))
        is_own = self.here.is_local(destination)
        usual = (OWN[self.version], *(("127.0.0.1",) if self.version == 4 else ("::1",)))
        source = self.address(
            told.sources, (usual if is_own else usual[:1]) if self.is_out else ELSEWHERE[self.version]
        )
        uid, gid = (self.number(ids, ANYBODY) for ids in (told.uids, told.gids))
        packet = Packet(
            self.escape.direction,
            self.escape.family,
            protocol,
            source,
            destination,
            self.number(told.ports, (80, 443, 8080, 22, 53, 31000)),
            "lo" if self.is_out and is_own else "eth0",
            self.number(told.source_ports, (0,)) or None,
            uid if self.is_out else None,
            gid if self.is_out else None,
        )
        return packet if is_in(packet.but(source_port=packet.source_port or 20000), told) else None

    def outside(self, packet: Packet) -> Iterator[Packet]:
        """The same but for one field, whose value is the next one that this set has not."""
        for field in ("port", "uid", "gid", "source_port", "destination", "source"):
            spans = list(self.ends(field))
            if not spans or (field == "source" and self.is_out) or getattr(packet, field) is None:
                continue
            first, last = self.chance.choice(spans)
            for value in (first - 1, last + 1):
                if field in ("destination", "source"):
                    if ADDRESSES[packet.family][0] < value < ADDRESSES[packet.family][1] - 1:
                        yield packet.but(**{field: address_of_family(packet.family, value)})
                elif (1 if "port" in field else 0) <= value < (1 << 16 if "port" in field else (1 << 32) - 1):
                    yield packet.but(**{field: value})
        if has(self.told.protocols, "udp") is not has(self.told.protocols, "tcp"):
            yield packet.but(protocol="udp" if packet.protocol == "tcp" else "tcp")

    def ends(self, field: str) -> Iterator[tuple[int, int]]:
        """The first and the last value of each entry of a field."""
        for text in getattr(self.told, f"{field}s") or ():
            if field in ("destination", "source"):
                yield ends_of(text)
            else:
                its = span(text)
                yield its[0], its[-1]

    def address(self, told: tuple[str, ...] | None, usual: tuple[str, ...]) -> IPv4Address | IPv6Address:
        """One of these: mostly an everyday one, else at an edge or between."""
        family: Family = self.escape.family
        ends = [ends_of(text) for text in told] if told is not None else []
        known = [int(ip_address(text)) for text in usual]
        fitting = [each for each in known if told is None or any(first <= each <= last for first, last in ends)]
        if fitting and (not ends or self.chance.random() < 0.5):
            return address_of_family(family, self.chance.choice(fitting))
        first, last = self.chance.choice(ends or [(known[0], known[0])])
        return address_of_family(family, self.chance.choice((first, last, self.chance.randint(first, last))))

    def number(self, told: tuple[str, ...] | None, usual: tuple[int, ...]) -> int:
        if told is None:
            return self.chance.choice(usual)
        its = span(self.chance.choice(told))
        return self.chance.choice((its[0], its[-1], self.chance.choice(its)))


def ends_of(text: str) -> tuple[int, int]:
    """A network, an address, or a range of addresses by its first and its last one."""
    first, dash, last = text.partition("-")
    if dash:
        return int(ip_address(first)), int(ip_address(last))
    network = ip_network(text)
    return int(network.network_address), int(network.broadcast_address)


def has(told: tuple[str, ...] | None, protocol: str) -> bool:
    """Whether a set has packets of this protocol, which is 6 or 17."""
    number = {"tcp": 6, "udp": 17}[protocol]
    return told is None or protocol in told or any(each[0].isdigit() and number in span(each) for each in told)


def can_be_made(packet: Packet, judged: Judged) -> bool:
    """Whether the rig can send it: from an address that is somebody's, to one that can be."""
    theirs = packet.destination if packet.direction is Direction.OUT else packet.source
    own = packet.source if packet.direction is Direction.OUT else packet.destination
    is_own = judged.here.is_local(own)
    reaches = judged.here.is_local(theirs)
    odd = theirs.is_multicast or theirs.is_unspecified or theirs.is_link_local or own.is_link_local
    unroutable = theirs.version == 4 and (int(theirs) >> 24 == 0 or int(theirs) >= 0xF0 << 24)
    network = ip_network(f"{OWN[theirs.version]}/{24 if theirs.version == 4 else 64}", strict=False)
    near = theirs in network and str(theirs) != GATEWAY[theirs.version]  # for which a neighbour would have to answer
    from_lo = own.is_loopback and not reaches
    is_in = packet.direction is Direction.IN
    return is_own and not (odd or unroutable or (near and not reaches) or from_lo or (is_in and reaches))


def points(judged: Judged, chance: random.Random, count: Counter[str]) -> Iterator[Packet]:
    """Connections within and just outside of everything that is listed, which can be told and made."""
    for escape in judged.escapes:
        for told in escape.packets if escape.outcome != UNTOLD else ():
            box = Box(escape, told, judged.here, chance)
            found = {"inside": 0, "outside": 0}
            for _ in range(4 * INSIDE):
                packet = box.inside()
                if packet is None or not can_be_made(packet, judged):
                    continue
                if found["inside"] < INSIDE:
                    found["inside"] += 1
                    yield packet
                for near in box.outside(packet):
                    numbered = near.but(source_port=near.source_port or 20000)
                    is_new = found["outside"] < OUTSIDE and not is_listed(numbered, judged.escapes)
                    if is_new and can_be_made(near, judged):
                        found["outside"] += 1
                        stays = box.is_out and judged.here.is_local(near.destination)
                        yield near.but(interface="lo" if stays else "eth0")
                if min(found.values()) == INSIDE:
                    break
            count.update(found)
            count["boxes"] += 1


def wrongly_listed(
    pod: Pod, judged: Judged, chance: random.Random, calls: drawn.Calls, count: Counter[str], *, alone: bool
) -> Iterator[str]:
    """Which of these connections fare otherwise than they are listed. `alone` with ours nothing is dropped."""
    packets: list[Packet] = []
    made: list[Call] = []
    for packet in points(judged, chance, count):
        call = judged.call(packet, next(calls.numbers))
        if all(call.source_port != other.source_port for other in made):
            packets.append(packet.but(source_port=call.source_port))
            made.append(call)
    ports = PROXY_PORTS if alone else (15001, 15006, 15053)  # to the others of these the rules of others lead
    captured = {f"pod:{port}" for port in ports}
    for at in range(0, len(made), 100):
        batch = made[at : at + 100]
        answers = pod.traffic.land(batch, patience=LONG if alone else SHORT)
        for call, packet, answer in zip(batch, packets[at : at + 100], answers, strict=True):
            landing = str(pod.traffic.arrived.get(call.source_port, answer))
            is_escape, trace = is_listed(packet, judged.escapes), judged.trace(packet)
            is_sure = is_listed(packet, [each for each in judged.escapes if each.outcome != UNTOLD])
            if landing.startswith("error") and landing != "error: EPERM":
                count["could not be sent"] += 1
                continue
            count["made"] += 1
            if trace.became is not Became.DEPENDS and is_escape is trace.became.is_captured:
                yield f"{call}: {'is' if is_escape else 'is not'} listed, and traced {trace.became} {trace.reason}"
            if is_sure and landing in captured and packet.port not in ports:
                told = [each.sentence for each in judged.escapes if is_listed(packet, [each])]
                yield f"{call}: is listed as {told}, and landed {landing}: {trace.became} {trace.reason}"
            may_be_lost = not alone and landing in ("timeout", "refused", "error: EPERM")
            if not is_escape and landing not in captured and not may_be_lost:
                yield f"{call}: is not listed, and landed {landing}: {trace.became} {trace.reason}"


def settings_of(chance: random.Random, backend: str) -> Iterator[drawn.CommandLine]:
    """Those of the recorded cases in turn, where they are, of which a sample is drawn otherwise; and drawn ones."""
    if RECORDS.is_file():
        cases = [json.loads(line) for line in RECORDS.read_text().splitlines()]
        for case in cases if ALL else chance.sample(cases, SETTINGS):
            arguments = case["args"][1:] if case["args"][:1] == ["istio-iptables"] else case["args"]
            yield drawn.CommandLine((*arguments, f"--force-iptables-binary={backend}"), case["env"])
    for _ in range(SETTINGS):
        said = drawn.settings(chance)
        yield drawn.CommandLine((*said.arguments, f"--force-iptables-binary={backend}"), said.environ)


def test_what_is_listed_escapes_and_what_is_next_to_it_does_not(backend: str, tell: Callable[[str], None]) -> None:
    """Of drawn settings: 20 connections in each box that is listed do not reach the proxy, and 20 beside it do."""
    chance = random.Random(f"{SEED} {backend} escapes")  # packets are no secrets
    wrong: list[str] = []
    count: Counter[str] = Counter()
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, chance)
        for said in settings_of(chance, backend):
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, env=said.environ)
            found = wrongly_listed(pod, Judged(pod, planned), chance, calls, count, alone=True)
            wrong += [f"seed {SEED}: capture {said}\n  {line}" for line in found]
            pod.end_connections()
            pod.applied("--cleanup-only", f"--force-iptables-binary={backend}")
    tell(f"CAPTURE_SEED={SEED}: {dict(count)}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:8])
    assert min(count["inside"], count["outside"]) > count["boxes"]


def test_what_is_listed_beside_rules_of_others_escapes(backend: str, tell: Callable[[str], None]) -> None:
    """The same in namespaces with native tables, rules in both backends and ip rules of others, which may drop both."""
    chance = random.Random(f"{SEED} {backend} escapes beside others")
    wrong: list[str] = []
    count: Counter[str] = Counter()
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, chance)
        for _ in range(NAMESPACES):
            more = chance.choice(([], ["-m", "TPROXY"], ["-o", "80"], ["--redirect-dns", "--capture-all-dns"]))
            said = drawn.CommandLine(("-u", str(PROXY), "--dual-stack", *more))
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
            others = by_others(pod, chance)
            found = wrongly_listed(pod, Judged(pod, planned), chance, calls, count, alone=False)
            wrong += [f"seed {SEED}: capture {said}\n{others}\n  {line}" for line in found]
            pod.end_connections()
            empty(pod)
    tell(f"CAPTURE_SEED={SEED}: {dict(count)}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:8])
