"""The kernel is the judge of the simulator: the same packets, sent for real, land where it says, by the rules it says.

Every draw can be repeated: the seed is printed, and CAPTURE_SEED sets it.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from capture.host.facts import read_facts
from capture.host.live import read_live
from capture.intent.resolve import resolve
from capture.iptables.iptables import Iptables
from capture.settings.declared import Settings
from rules.addresses import ip_address
from rules.iptables import reading
from rules.iptables.counters import counters
from rules.iptables.writing import rule_text
from rules.netfilter.hooks import INPUT
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import Tproxy
from rules.netfilter.values import PREROUTING, Family
from rules.packets.packet import ESTABLISHED, NEW, Direction, Packet
from rules.packets.trace import Became, Trace
from rules.plan.names import PROXY_LOOP_MARK
from rules.plan.plan import Routing, plan
from rules.simulator.simulate import simulate
from tests.conftest import every_backend
from tests.rig import Call, Pod, drawn, entered, predicted
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES, GATEWAY, PROXY, PROXY_PORTS
from tests.rig.traffic import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from rules.iptables.counters import Place
    from rules.netfilter.hooks import NativeTable
    from rules.netfilter.rulesets import Rule
    from rules.packets.packet import Host
    from rules.packets.trace import Step
    from rules.plan.plan import Plan

    Counted: TypeAlias = tuple[Family | None, Place]
    """A rule by its place; native tables are told apart by their names, whatever family the packet is of."""

SETTINGS, PACKETS = 200 if ALL else 60, 50
"""Drawn for each backend, and packets for each of the settings."""
PROGRAMS = {Family.V4: "iptables", Family.V6: "ip6tables"}
SEEN: Counter[Became] = Counter()
"""What became of the packets that were sent so far."""
NAMESERVERS = "nameserver 10.96.0.10\nnameserver fd00:96::a\n"


@dataclass(frozen=True)
class Held:
    """What the kernel holds, and what each rule has counted that counts."""

    rulesets: tuple[Ruleset, ...]
    counted: dict[Counted, int]
    natives: Mapping[Family, tuple[NativeTable, ...]] = field(default_factory=dict)

    def trace(self, packet: Packet, here: Host) -> Trace:
        return simulate(self.rulesets, packet, here, self.natives.get(packet.family, ()))


def held(pod: Pod, backend: str) -> Held:
    """What it holds of one backend."""
    if backend == "native":
        return held_natively(pod)
    rulesets: list[Ruleset] = []
    counted: dict[Counted, int] = {}
    for family in Family:
        text = pod.inside.output(f"{PROGRAMS[family]}-{backend}-save", "-c")
        rulesets.append(Ruleset(family, reading.tables(text)))
        counted.update({(family, place): count.packets for place, count in counters(text).items()})
    return Held(tuple(rulesets), counted)


def held_natively(pod: Pod) -> Held:
    """What our own tables hold."""
    with entered(pod.inside):
        live = read_live()
    saved = {family: live.saved(Iptables("native", family)) for family in Family}
    counted: dict[Counted, int] = {
        (family, place): count.packets for family, its in saved.items() for place, count in its.counted().items()
    }
    return Held(tuple(its.ruleset for its in saved.values()), counted)


def moved(before: Held, after: Held) -> Counter[Counted]:
    """By how much each rule's counter moved."""
    return Counter({place: count - before.counted.get(place, 0) for place, count in after.counted.items()})


def place_of(step: Step, family: Family) -> Counted:
    return family if step.table in BUILT_IN else None, (step.table, step.chain, step.position)


def is_nat(counted: Counted) -> bool:
    """Whether it counts connections, not packets: chains of drawn native tables have their type in their name."""
    _, (table, chain, _) = counted
    return table == "nat" or chain.startswith("nat_")


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
    if packet.direction is Direction.IN:
        # Where an ip rule keeps the answers here, the kernel refuses them as if it were the one who called: in raw and
        # mangle as the call was sent, behind nat to where it was sent on.
        refused = own.but(direction=Direction.OUT, interface="lo", uid=None, gid=None)
        yield refused
        if trace.translated:
            yield refused.but(destination=trace.translated[0], port=trace.translated[1])
    if trace.became is Became.REFUSED:
        yield from refusals(trace, here)
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
            (packet.destination, packet.port),
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
            answers=(packet.destination, packet.port),
            connmark=trace.remembered,
        )


def refusals(trace: Trace, here: Host) -> Iterator[Packet]:
    """What REJECT sends: a reset or an ICMP error to the sender, which has no owner and belongs to the connection."""
    packet = trace.packet
    stays = here.is_local(packet.source)
    reset = packet.but(
        direction=Direction.OUT,
        source=packet.destination,
        destination=packet.source,
        source_port=packet.port,
        port=packet.source_port or 0,
        interface="lo" if stays else "eth0",
        uid=None,
        gid=None,
        state="RELATED",
        answers=(packet.destination, packet.port),
        mark=0,
        connmark=trace.remembered,
    )
    for sent in (reset, reset.but(protocol="icmp"), reset.but(protocol="ipv6-icmp")):
        yield sent
        if stays:
            yield sent.but(direction=Direction.IN)


def answer_as_a_connection(held: Held, trace: Trace, here: Host) -> Trace | None:
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
    answered = held.trace(answer, here)
    return answered if answered.zone != trace.zone else None


def compare(
    pod: Pod,
    backend: str,
    here: Host,
    calls: Sequence[Call],
    *,
    told: str,
    planned: Plan | None = None,
    patience: float = PATIENCE,
    look: Callable[[Pod, str], Held] = held,
) -> list[str]:
    """Send these calls, and tell in words where simulator and kernel disagree."""
    before = look(pod, backend)
    answers = pod.traffic.land(calls, patience=patience)
    landings = [pod.traffic.arrived.get(call.source_port, answer) for call, answer in zip(calls, answers, strict=True)]
    counted = moved(before, look(pod, backend))
    is_known = not any(word in str(rule) for rule in rules_of(before) for word in UNKNOWN)
    wrong: list[str] = []
    once: Counter[Counted] = Counter()
    again: Counter[Counted] = Counter()  # a busy machine may send an unanswered SYN again, a second after the first
    met, uncertain, traces = set(), set(), list[Trace]()
    for call, landing, answer in zip(calls, landings, answers, strict=True):
        packet = packet_of(call, pod, here)
        trace = before.trace(packet, here)
        SEEN[trace.became] += 1
        if planned:
            as_planned = simulate(planned.rulesets, packet, here)
            if (as_planned.became, as_planned.port) != (trace.became, trace.port):
                wrong.append(f"{call}: planned {as_planned.became}, parsed back {trace.became}")
        later = before.trace(packet.but(state=ESTABLISHED), here)
        expected = landing_of(trace, before, here) if is_known else landings_of(trace, later)
        is_lost = trace.became.is_captured and str(answer) in expected  # it arrived, and its answers do not
        if str(landing) not in expected and not is_lost:
            wrong.append(f"{call}: landed {landing}, predicted {expected} {trace.became} {trace.decided}")
        for step in made(trace):
            place = place_of(step, packet.family)
            if step.matched is None:
                uncertain.add(place)
            elif step.matched:
                met.add(place)
                once[place] += 1
                again[place] += str(answer) == "timeout"
        answered = answer_as_a_connection(before, trace, here)
        if answered and landing.port:
            once.update(place_of(step, packet.family) for step in answered.matched)
        traces.append(trace)
    if is_known:
        for place in uncertain:
            counted.pop(place, None)
        for place, count in counted.items():
            if is_nat(place) and not once[place] <= count <= once[place] + 2 * again[place]:
                wrong.append(f"{place} counted {count} connections, predicted {once[place]}")
            if not is_nat(place) and not count and place in met:
                wrong.append(f"{place} counted nothing, predicted {once[place]}")
        others = {place for place, count in counted.items() if count and not is_nat(place)} - met
        unexplained = others and others - met_later(traces, before, here)
        wrong += [f"{place} counted {counted[place]}, predicted nothing" for place in unexplained]
    return [f"{told}\n  {line}" for line in wrong]


def made(trace: Trace) -> Iterator[Step]:
    """Without what comes after routing has sent on what arrived: the pod is no router (net.ipv4.ip_forward is 0, and so
    is net.ipv6.conf.all.forwarding), and the simulator does not ask."""
    came = trace.packet.direction is Direction.IN
    for step in trace.steps:
        came = came or step.hook == PREROUTING
        if not (came and step.hook in ("FORWARD", "POSTROUTING")):
            yield step


def packets_of_the_kernel() -> Iterator[Packet]:
    """What it says by itself at any time: to find its neighbours (RFC 4861), from whichever address asks for one, and
    of its groups (RFC 3810)."""
    groups = [ip_address(group) for group in ("ff02::1", "ff02::2", "ff02::16", "ff02::1:ff00:9")]
    local, ours = ("fe80::5", "fe80::9"), (ADDRESSES[6], GATEWAY[6])
    for own, neighbour in (tuple(map(ip_address, ends)) for ends in (local, ours)):
        for state in (NEW, "INVALID", "UNTRACKED"):
            for sent_to in (neighbour, *groups):
                yield Packet(Direction.OUT, Family.V6, "ipv6-icmp", own, sent_to, 0, "eth0", state=state)
            for arrives_at in (own, *groups):
                yield Packet(Direction.IN, Family.V6, "ipv6-icmp", neighbour, arrives_at, 0, "eth0", state=state)


def met_later(traces: Iterable[Trace], held: Held, here: Host) -> set[Counted]:
    """The rules that other packets of these connections may meet, or what the kernel says beside them."""
    return {
        place_of(step, later.family)
        for later in chain(packets_of_the_kernel(), *(later_packets(trace, here) for trace in traces))
        for step in held.trace(later, here).steps
        if step.matched is not False
    }


def of_the_kernel(packet: Packet, held: Held, here: Host, *, by_a_rule: bool = False) -> Trace:
    """What becomes of what no process sends: rules find no owner, and ip rules take it for root's (sock_net_uid of
    include/net/sock.h)."""
    to = packet.destination
    # The interface is kept, and so only its routes count: to link-local addresses, and by TCP itself also to loopback
    # (tcp_v6_send_response of net/ipv6/tcp_ipv6.c), which neither icmp6_send nor nf_send_reset6 do.
    is_kept = to.is_link_local or (to.is_loopback and packet.protocol == "tcp" and not by_a_rule)
    if packet.family is Family.V6 and is_kept:
        here = here.but(policy=None)
    fate = held.trace(packet, here)
    return held.trace(packet.but(uid=0, gid=0), here) if fate.became is Became.DEPENDS else fate


def landing_of(trace: Trace, held: Held, here: Host) -> set[str]:
    """Where the call lands: where its first packet goes, if the answer and what follows of TCP come through as well.

    What follows may be taken to where nobody knows of it: there it waits, or is answered with a reset.
    """
    packet, lands = trace.packet, predicted.landing(trace)
    if trace.became is Became.REFUSED and lands == "refused":
        reset, icmp, icmp6 = [each for each in refusals(trace, here) if each.direction is Direction.OUT]
        told = reset.but(state=ESTABLISHED) if is_reset(trace) else icmp if packet.family is Family.V4 else icmp6
        if told is icmp and trace.decided and trace.decided.hook == INPUT and not here.is_local(packet.destination):
            # A route of others delivers it here, to an address that no interface has. From that one the error would go
            # (icmp_send of net/ipv4/icmp.c), and a route from it there is none (__ip_dev_find of net/ipv4/devinet.c).
            return {"timeout"}
        fate = of_the_kernel(told, held, here, by_a_rule=True).became
        # An ip rule may keep it here, or send it away, where nobody waits for it.
        is_lost = fate is (Became.DELIVERED if packet.direction is Direction.IN else Became.BYPASSED)
        return {"timeout"} if is_lost or fate in (Became.DROPPED, Became.REFUSED) else {lands}
    if trace.address is None or trace.port is None or lands == "timeout":
        return {lands}
    is_tcp, is_refused = packet.protocol == "tcp", lands == "refused"
    if not is_tcp and not is_refused:
        return {lands}
    later = held.trace(packet.but(state=ESTABLISHED), here)
    is_here = here.is_local(trace.address) or trace.became is Became.DELIVERED or trace.became.is_captured
    uid = (PROXY if trace.port in PROXY_PORTS else 0) if is_here and not is_refused else None
    error = "icmp" if packet.family is Family.V4 else "ipv6-icmp"
    answer = Packet(
        Direction.OUT if is_here else Direction.IN,
        packet.family,
        "tcp" if is_tcp else error,
        trace.address if trace.became is not Became.CAPTURED_INBOUND or later.port else packet.destination,
        packet.source,
        packet.source_port or 0,
        here.leaves_on(packet.family, packet.source) if is_here else "eth0",
        trace.port,
        uid,
        uid,
        0,
        ESTABLISHED if is_tcp else "RELATED",
        (packet.destination, packet.port),
        trace.remembered,
    )
    back = of_the_kernel(answer, held, here) if is_refused else held.trace(answer, here)
    returns = back.became is (Became.BYPASSED if packet.direction is Direction.IN else Became.DELIVERED)
    if packet.mark and isinstance(back.decided and back.decided.rule.target, Tproxy):
        returns = True  # the rig's sockets with a mark are transparent themselves
    goes_on = is_refused or later.became is trace.became
    if returns and is_reset(later):
        return {"error: ECONNRESET"}  # it began, and what follows is refused
    if returns and not goes_on and later.became is not Became.DROPPED:
        return {"timeout", "error: ECONNRESET"}
    return {lands} if returns and goes_on else {"timeout"}


def is_reset(trace: Trace) -> bool:
    """Whether a reset may be what becomes of it."""
    ways = trace.ways or (trace,)
    rules = [way.decided.rule for way in ways if way.became is Became.REFUSED and way.decided]
    return any("tcp-reset" in rule_text(rule) for rule in rules)


def landings_of(trace: Trace, later: Trace | None = None) -> set[str]:
    """Where the call may land between rules that we do not speak, which may let its packets pass one by one."""
    if trace.hindered and not trace.lost:
        return {"timeout", "error: ECONNRESET"}
    expected = {predicted.landing(way) for way in trace.ways or (trace,) if way.became is not Became.DEPENDS}
    if (trace.ways and "refused" in expected) or (later and is_reset(later)):
        expected.add("error: ECONNRESET")
    if later and later.became is Became.DROPPED:
        expected.add("timeout")  # it began, and what follows is dropped
    return expected


def rules_of(state: Held) -> Iterator[Rule]:
    for ruleset in state.rulesets:
        for _, _, rule in ruleset.rules():
            yield rule


def ready(pod: Pod) -> None:
    """Every closed port answers, however often it is asked, and neighbours know each other."""
    pod.open_listeners(transparent=True)
    for namespace in (pod.inside, pod.outside):
        namespace.output("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
    for version in (4, 6):
        assert str(pod.dial(GATEWAY[version], 80)) == "ext:80"
        assert str(pod.dial_in(80, version=version)) == "pod:80"


def planned_for(pod: Pod, said: drawn.CommandLine) -> Plan:
    """What a command line means in this pod, thought out in this process, beside what is left to SSH there."""
    settings = Settings.load(said.arguments, said.environ)
    with entered(pod.inside):
        planned = plan(resolve(settings, read_facts(said.environ, settings.nameservers_file)).intent)
        return read_live().beside(planned)


@every_backend
def test_the_simulator_and_the_kernel_agree(backend: str, tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Drawn settings, drawn packets: each lands where the simulator says, and the rules it matched are those that
    counted it: in nat exactly, elsewhere all of them, and none that no packet of the connection explains."""
    tell(f"CAPTURE_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend}")
    nameservers = tmp_path / "resolv.conf"
    nameservers.write_text(NAMESERVERS)
    wrong: list[str] = []
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, chance)
        for number in range(SETTINGS if ALL or backend != "native" else SETTINGS // 3):
            said = drawn.settings(chance)
            said = drawn.CommandLine((*said.arguments, "--resolv-conf", str(nameservers)), said.environ)
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}", env=said.environ)
            here = predicted.host(planned.routing, passthrough=planned.passthrough_address)
            told = f"seed {SEED}, {backend} {number}: capture {said}"
            wrong += compare(pod, backend, here, calls.draw(PACKETS), told=told, planned=planned)
    assert not wrong, "\n".join(wrong[:20])
    assert set(SEEN) >= set(Became) - {Became.DEPENDS, Became.REDIRECTED}, SEEN


# --- rules of others --------------------------------------------------------------------------------------

ROUNDS = 16
"""Sets of foreign rules for each backend."""
SHORT = 0.3
"""Seconds: long enough for anything that arrives at all, where much is dropped."""
BUILT_IN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "OUTPUT"),
    "filter": ("INPUT", "OUTPUT"),
}
UNKNOWN = ("-m length --length 1:100", "-m length --length 1000:2000", "-m statistic --mode nth --every 2 --packet 0")
UNTOLD = (
    "-m comment --comment others",
    "-m mark --mark 0x8/0xf",
    "-m mark ! --mark 0x8/0x9",
    "-m connmark --mark 0x0/0x3",
    "-m connmark ! --mark 0x8/0xff",
    "-m addrtype --dst-type LOCAL",
    "-m addrtype ! --src-type LOCAL",
    "-m multiport --ports 80,8080",
    "-m multiport ! --sports 1:1024",
    "-m conntrack ! --ctstate DNAT",
    "-m conntrack --ctstate NEW,SNAT",
    "-m state --state NEW",
)
"""Matches of others whose answer the simulator knows all the same."""
MARKING = (
    "MARK --set-xmark 0x8/0xffffffff",
    "MARK --set-xmark 0x1/0xff",
    "MARK --xor-mark 0x9",
    "MARK --and-mark 0xfff8",
    "CONNMARK --set-xmark 0x8/0xf",
    "CONNMARK --save-mark --nfmask 0xf --ctmask 0xff",
    "CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf",
    "DSCP --set-dscp 10",
    "TOS --set-tos 0x10/0xff",
)
"""Targets behind which the walk goes on."""


def foreign_rules(chance: random.Random, version: int, *, unknown: bool) -> Iterator[tuple[str, str]]:
    """Rules of somebody else, each with its table, ready for iptables-restore: above ours, below, in a chain apart."""
    for table in chance.sample(sorted(BUILT_IN), 3):
        yield table, "-N OTHERS"
        for _ in range(chance.randint(1, 3)):
            yield table, f"-A OTHERS {foreign_rule(chance, table, 'OUTPUT', version, unknown=False)}"
        for _ in range(chance.randint(1, 3)):
            chain = chance.choice(BUILT_IN[table])
            rule = foreign_rule(chance, table, chain, version, unknown=unknown)
            yield table, f"{chance.choice(['-A', '-I'])} {chain} {rule}"
        chain = "OUTPUT"
        yield table, f"{chance.choice(['-A', '-I'])} {chain} -p tcp {chance.choice(['-j', '-g'])} OTHERS"


def foreign_rule(chance: random.Random, table: str, chain: str, version: int, *, unknown: bool) -> str:
    """What decides for good asks for a port, lest it hit the answers too."""
    proto = chance.choice(["tcp", "tcp", "udp"])
    hosts = {4: ["9.9.9.9", "10.0.0.0/8", "10.244.0.5", "127.0.0.0/8"], 6: ["2001:db8::/32", "fd00:244::5", "::1"]}
    words = [f"-p {proto}"]
    if chance.random() < 0.4:
        words.append(f"{chance.choice(['', '! '])}{chance.choice(['-s', '-d'])} {chance.choice(hosts[version])}")
    port = chance.choice(["80", "53", "443:9080", "8080", "15000:15010"])
    words.append(f"--dport {port}")
    if chain == "OUTPUT" and chance.random() < 0.3:
        words.append(f"-m owner {chance.choice(['', '! '])}--uid-owner {chance.choice([1000, PROXY])}")
    if chance.random() < 0.3:
        words.append(chance.choice(UNTOLD))
    if unknown:
        words.append(chance.choice(UNKNOWN))
    targets = ["RETURN", "ACCEPT"]
    if table == "nat" and proto == "tcp":
        targets += ["REDIRECT --to-ports 16001", "REDIRECT --to-ports 22", "REDIRECT"]
        if chain == "OUTPUT" and version == 4:
            targets += ["DNAT --to-destination 1.1.1.1:22", "DNAT --to-destination 1.1.1.1"]
    if table == "filter":
        targets += ["REJECT"] if proto == "udp" else ["REJECT --reject-with tcp-reset"]
    if table != "nat":
        targets.append("DROP")
    if table == "mangle":
        targets += chance.sample(MARKING, 5)
    return " ".join([*words, f"-j {chance.choice(targets)}"])


def plant(pod: Pod, backend: str, version: int, rules: Iterable[tuple[str, str]]) -> None:
    program = f"{'iptables' if version == 4 else 'ip6tables'}-{backend}-restore"
    text = "".join(f"*{table}\n{line}\nCOMMIT\n" for table, line in rules)
    pod.inside.output(program, "--noflush", text=text)


def flush(pod: Pod, backend: str) -> None:
    """An end of everybody's rules."""
    text = "".join(f"*{table}\nCOMMIT\n" for table in BUILT_IN)
    for program in PROGRAMS.values():
        pod.inside.output(f"{program}-{backend}-restore", text=text)


@pytest.mark.parametrize("unknown", [False, True], ids=["spoken", "unknown"])
def test_rules_of_others_act_as_the_simulator_says(backend: str, unknown: bool, tell: Callable[[str], None]) -> None:
    """Rules of others above and below our jumps, and chains of theirs: what they do to a packet is what was said.

    With matches that we do not speak, the answer is right, or that it depends: then on something that happens.
    """
    tell(f"CAPTURE_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend} others {unknown}")
    wrong: list[str] = []
    depended = SEEN[Became.DEPENDS]
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, chance)
        for number in range(ROUNDS // 2 if unknown else ROUNDS):
            said = drawn.CommandLine(
                ("-u", str(PROXY), "--dual-stack", *chance.choice(([], ["-m", "TPROXY"], ["-o", "80"])))
            )
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
            told = f"seed {SEED}, {backend} {number}: capture {said}"
            for version in (4, 6):
                rules = list(foreign_rules(chance, version, unknown=unknown))
                plant(pod, backend, version, rules)
                told += "".join(f"\n  {version} {table} {line}" for table, line in rules)
            here = predicted.host(planned.routing, passthrough=planned.passthrough_address)
            wrong += compare(pod, backend, here, calls.draw(PACKETS), told=told, patience=SHORT)
            pod.end_connections()
            flush(pod, backend)
            pod.applied("--cleanup-only")
    assert not wrong, "\n".join(wrong[:20])
    assert (SEEN[Became.DEPENDS] > depended) is unknown


# --- mutations --------------------------------------------------------------------------------------------

MUTATED: tuple[tuple[str, ...], ...] = (
    ("--dual-stack",),
    ("--dual-stack", "-m", "TPROXY"),
    ("-x", "9.9.9.9/32,10.0.0.0/8", "-o", "22,443", "-d", "8080"),
    ("-i", "9.9.9.9/32", "-q", "22", "-b", "80,8080", "-c", "eth9"),
    ("--redirect-dns", "--capture-all-dns", "--dual-stack"),
    ("-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "-t", "7", "-r", "200"),
    ("-k", "eth0", "-i", "9.9.9.9/32", "--udp", "443=reject,53=drop"),
    ("-m", "TPROXY", "-b", "80,8080", "--exclude-inbound-cidrs", "192.0.2.0/24", "--dual-stack"),
    ("-g", "202", "--exclude-uids", "3", "--exclude-outbound-ports-for-uids", "tcp:80:1000-2000"),
    ("--ipv6=reject", "-u", f"{PROXY},3", "--drop-invalid", "-p", "16001", "-z", "16006"),
)


def fixed_calls(pod: Pod, numbers: Iterator[int]) -> list[Call]:
    """Each kind of packet once."""
    made: list[Call] = []
    for version, service in ((4, "9.9.9.9"), (6, "2001:db8::1")):
        own, localhost = ADDRESSES[version], {4: "127.0.0.1", 6: "::1"}[version]
        for uid, gid in ((1000, 1000), (PROXY, PROXY), (1000, PROXY), (3, 3)):
            for host, port in ((service, 80), (service, 22), (own, 8080), (own, 15008), (localhost, 8080)):
                made.append(Call(pod.inside, host, port, uid, gid, "tcp", None, next(numbers)))
            made.append(Call(pod.inside, service, 53, uid, gid, "udp", None, next(numbers)))
        made.append(Call(pod.inside, service, 443, 1000, 1000, "udp", None, next(numbers)))
        coming = (80, 8080, 15008)
        made += [Call(pod.outside, own, port, 0, 0, "tcp", GATEWAY[version], next(numbers)) for port in coming]
    for uid in (1000, PROXY):
        made.append(Call(pod.inside, ADDRESSES[4], 8080, uid, uid, "tcp", "127.0.0.6", next(numbers)))
        made.append(Call(pod.inside, ADDRESSES[4], 8080, uid, uid, "tcp", None, next(numbers), 1337))
    made.append(Call(pod.outside, ADDRESSES[4], 8080, 0, 0, "tcp", "192.0.2.10", next(numbers)))
    return made


def test_a_missing_rule_changes_what_the_simulator_says_it_changes(backend: str) -> None:
    """Each rule of ten settings is deleted in turn: simulator and kernel agree on every packet of a fixed set."""
    wrong: list[str] = []
    mutants = 0
    half = MUTATED[backend == "legacy" :: 2]
    with Pod() as pod:
        ready(pod)
        numbers = drawn.Calls(pod, random.Random(0)).numbers
        for arguments in half:
            said = drawn.CommandLine(("-u", str(PROXY), *arguments))
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
            here = predicted.host(planned.routing, passthrough=planned.passthrough_address)
            for ruleset in held(pod, backend).rulesets:
                restore = f"{PROGRAMS[ruleset.family]}-{backend}-restore"
                for table in ruleset.tables:
                    for chain, rules in table.chains().items():
                        for position, rule in enumerate(rules, start=1):
                            text = f"*{table.table}\n{{}}\nCOMMIT\n"
                            pod.inside.output(restore, "--noflush", text=text.format(f"-D {chain} {position}"))
                            told = f"{backend}: capture {said} without {table.table} {chain} {position}"
                            wrong += compare(pod, backend, here, fixed_calls(pod, numbers), told=told, patience=SHORT)
                            back = f"-I {chain} {position} {rule_text(rule)}"
                            pod.inside.output(restore, "--noflush", text=text.format(back))
                            mutants += 1
    assert not wrong, f"{len(wrong)} of {mutants}\n" + "\n".join(wrong[:20])
    assert mutants > 100


# --- one claim each ---------------------------------------------------------------------------------------

REDIRECTED = "*nat\n-A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 16001\nCOMMIT\n"
TO_LISTENER = (
    "*mangle\n-A PREROUTING -p tcp --dport 80 -j TPROXY --on-port 15006 --tproxy-mark 0x7/0xffffffff\nCOMMIT\n"
)
CLAIMS: dict[str, tuple[str, tuple[str, int], bool, str]] = {
    "all of OUTPUT is told the interface that was chosen first": (
        f"{REDIRECTED}*filter\n-A OUTPUT -o lo -p tcp --dport 16001 -j DROP\n-A OUTPUT -o eth0 -p tcp\nCOMMIT\n",
        ("9.9.9.9", 80),
        False,
        "pod:16001",
    ),
    "POSTROUTING is told where it really goes": (
        f"{REDIRECTED}*mangle\n-A POSTROUTING -o eth0 -p tcp -j DROP\n-A POSTROUTING -o lo -p tcp\nCOMMIT\n",
        ("9.9.9.9", 80),
        False,
        "pod:16001",
    ),
    "nat is not asked again over lo": (
        f"{REDIRECTED}*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 22\nCOMMIT\n",
        ("9.9.9.9", 80),
        False,
        "pod:16001",
    ),
    "nor where it decided nothing": (
        "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 22\nCOMMIT\n",
        ("10.244.0.5", 8080),
        False,
        "pod:8080",
    ),
    "nat is not asked where nothing needs conntrack": (
        "*nat\n-A OUTPUT -p tcp\nCOMMIT\n",
        ("9.9.9.9", 80),
        False,
        "ext:80",
    ),
    "before conntrack has looked everything is INVALID to it": (
        "*raw\n-A OUTPUT -p tcp --dport 80 -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n",
        ("9.9.9.9", 80),
        False,
        "timeout",
    ),
    "over lo conntrack knows it before raw": (
        "*raw\n-A PREROUTING -i lo -p tcp --dport 80 -m conntrack --ctstate NEW -j DROP\nCOMMIT\n",
        ("10.244.0.5", 80),
        False,
        "timeout",
    ),
    "a mark that is kept turns a packet to lo": (
        "*mangle\n-A OUTPUT -p tcp --dport 15006 -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n",
        ("9.9.9.9", 15006),
        True,
        "pod:15006",
    ),
    "what a mark keeps here is not answered for somebody else's address": (
        "*mangle\n-A OUTPUT -p tcp --dport 80 -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n"
        "*nat\n-A OUTPUT -p tcp --dport 80 -j DNAT --to-destination 1.1.1.1:22\nCOMMIT\n",
        ("10.244.0.5", 80),
        True,
        "timeout",
    ),
    "a mark that nobody keeps turns nothing": (
        "*mangle\n-A OUTPUT -p tcp --dport 80 -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n",
        ("9.9.9.9", 80),
        False,
        "ext:80",
    ),
    "nothing leaves with a loopback address": (
        "*nat\n-A OUTPUT -p tcp --dport 80 -j DNAT --to-destination 1.1.1.1:22\nCOMMIT\n",
        ("127.0.0.1", 80),
        False,
        "timeout",
    ),
    "and where DNAT would have it leave, no filter is asked": (
        "*nat\n-A OUTPUT -p tcp --dport 80 -j DNAT --to-destination 1.1.1.1:22\nCOMMIT\n"
        "*filter\n-A OUTPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        ("127.0.0.1", 80),
        False,
        "timeout",
    ),
    "TPROXY needs its routing for what is not ours": (TO_LISTENER, ("198.51.100.7", 80), False, "timeout"),
    "with its routing it is delivered": (TO_LISTENER, ("198.51.100.7", 80), True, "pod:15006"),
    "what the kernel sends itself has no owner": (
        "*mangle\n-A OUTPUT -p tcp --sport 7777 -m owner ! --uid-owner 5 -j DROP\nCOMMIT\n",
        ("10.244.0.5", drawn.CLOSED),
        False,
        "timeout",
    ),
    "and none that can be asked for": (
        "*mangle\n-A OUTPUT -p tcp --sport 7777 -m owner --uid-owner 0 -j DROP\nCOMMIT\n",
        ("10.244.0.5", drawn.CLOSED),
        False,
        "refused",
    ),
    "a policy decides what no rule does": (
        "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -p tcp --dport 22 -j RETURN\n-A OUTPUT -j ACCEPT\nCOMMIT\n",
        ("9.9.9.9", 22),
        False,
        "timeout",
    ),
}


def test_the_kernel_does_what_the_simulator_was_taught(backend: str) -> None:
    """One rule or two, and one call that shows what they do; the simulator says the same, counters included."""
    wrong: list[str] = []
    with Pod() as pod:
        ready(pod)
        pod.outside.ip("route", "add", "198.51.100.0/24", "via", ADDRESSES[4])
        kept_by = (("rule", "fwmark", "7", "lookup", "133"), ("route", "local", "default", "dev", "lo", "table", "133"))
        for number, (claim, (rules, (host, port), kept, lands)) in enumerate(CLAIMS.items()):
            for what, *which in kept_by if kept else ():
                pod.inside.ip(what, "add", *which)
            pod.inside.output(f"iptables-{backend}-restore", "--noflush", text=rules)
            here = predicted.host([Routing(Family.V4, 7, 133)] if kept else [])
            arrives = host.startswith("198.51.100.") or port == drawn.CLOSED
            sender, source = (pod.outside, GATEWAY[4]) if arrives else (pod.inside, None)
            uid = 0 if arrives else 1000
            call = Call(sender, host, port, uid, uid, "tcp", source, drawn.SOURCE_PORTS[number])
            wrong += compare(pod, backend, here, [call], told=claim, patience=SHORT)
            arrived = pod.traffic.arrived.get(call.source_port)
            if str(arrived or lands) != lands or (arrived is None) != (lands in ("timeout", "refused")):
                wrong.append(f"{claim}: landed {arrived}")
            flush(pod, backend)
            for what, *which in kept_by if kept else ():
                pod.inside.ip(what, "del", *which)
    assert wrong == []


@every_backend
@pytest.mark.parametrize(
    ("rule", "fails"),
    [
        ("mangle -I OUTPUT -p tcp --dport 80 -m conntrack --ctstate ESTABLISHED -j DROP", True),
        ("raw -I OUTPUT -p tcp --dport 80 -m tcp ! --syn -j DROP", True),
        ("filter -I OUTPUT -p tcp --dport 15001 -m conntrack --ctstate ESTABLISHED -j REJECT", True),
        ("mangle -I OUTPUT -p tcp --dport 80 -m conntrack --ctstate DNAT -j DROP", True),
        ("mangle -I OUTPUT -p tcp --sport 15001 -m conntrack --ctstate DNAT -j DROP", True),
        ("mangle -I OUTPUT -p tcp --dport 80 -m conntrack --ctstate SNAT -j DROP", False),
        ("mangle -I OUTPUT -p tcp --sport 15001 -m conntrack ! --ctstate DNAT -j DROP", False),
    ],
)
def test_what_follows_the_first_packet_is_lost_as_trace_says(pod: Pod, backend: str, rule: str, fails: bool) -> None:
    """It is captured all the same, and trace says by which rule its connection fails."""
    ready(pod)
    pod.applied("-u", str(PROXY), f"--force-iptables-binary={backend}")
    pod.inside.output("iptables-legacy" if backend == "legacy" else "iptables-nft", "-t", *rule.split())
    told = pod.capture("trace", "--live", "--uid", "1000", "9.9.9.9:80").stdout
    assert "captured outbound by rule" in told
    assert ("so it fails" in told) is fails
    assert (str(pod.dial("9.9.9.9", 80, uid=1000)) != "pod:15001") is fails
