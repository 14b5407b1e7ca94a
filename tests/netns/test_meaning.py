"""What is proved of all connections, and the connection that disproves it: the kernel is the judge of both.

Every draw can be repeated: the seed is printed, and CAPTURE_SEED sets it.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from capture.host.live import read_live
from capture.host.neighbours import host_of, proofs
from capture.iptables.iptables import BACKENDS, OF_IPTABLES, Iptables
from capture.netlink import rtnetlink
from rules.addresses import ip_address
from rules.netfilter.values import Family
from rules.packets.packet import Direction
from rules.packets.trace import Became
from rules.plan.names import PASSTHROUGH
from rules.proof.escapes import escapes
from rules.proof.proof import is_lost
from rules.routing.policy import Policy
from rules.simulator.simulate import in_any_order, simulate
from tests.netns.test_native import native_tables
from tests.netns.test_simulator import PROGRAMS, foreign_rules, landings_of, planned_for, ready
from tests.rig import Call, Pod, drawn, entered
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES, GATEWAY, PROXY
from tests.rig.sets import is_listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.host.live import Live
    from rules.packets.packet import Host, Packet
    from rules.packets.trace import Trace
    from rules.plan.plan import Plan
    from rules.proof.proof import Difference

ROUNDS, PACKETS = (100, 50) if ALL else (8, 25)
"""Namespaces for each backend, and calls in each of them where all is proved to be as planned."""
BPF, XDP_DROP, XDP_GENERIC = 321, 1, 2
"""The system call on x86-64, and numbers of linux/bpf.h and linux/if_link.h."""
SHORT = 0.3
"""Seconds: long enough for anything that arrives at all."""
MYSQL = """
table ip others {
  chain o {
    type nat hook output priority -120
    tcp dport 3306 redirect to :22
  }
}
"""
IP_RULES = (
    ("rule", "add", "priority", "100", "uidrange", "1000-1000", "lookup", "main"),
    ("rule", "add", "priority", "101", "fwmark", "0x8/0xf", "lookup", "200"),
    ("rule", "add", "priority", "102", "ipproto", "tcp", "dport", "443", "lookup", "200"),
    ("rule", "add", "priority", "40000", "fwmark", "0x539", "lookup", "200"),
)


FAILED = {"timeout", "refused", "error: ECONNRESET"}


def may_fail_later(trace: Trace) -> bool:
    """Whether what follows the first packet, or its answer, is lost by trace or may be: of those nothing is proved."""
    return any(way.hindered or way.doubted for way in (trace, *trace.ways))


def by_others(pod: Pod, chance: random.Random) -> str:
    """Rules of somebody else, in words: in native tables, in those of iptables, and ip rules; or none."""
    told = []
    if chance.random() < 0.5:
        tables = native_tables(chance)
        pod.inside.output("nft", "-f", "-", text=tables)
        told.append(tables)
    if chance.random() < 0.3:
        words = chance.choice(IP_RULES)
        pod.inside.ip(*words)
        pod.inside.ip("route", "replace", "default", "via", GATEWAY[4], "table", "200")
        told.append(" ".join(words))
    if chance.random() < 0.5:
        backend = chance.choice(OF_IPTABLES)
        for family, version in zip(PROGRAMS, (4, 6), strict=True):
            for table, line in foreign_rules(chance, version, unknown=chance.random() < 0.2):
                pod.inside.output(f"{PROGRAMS[family]}-{backend}", "-w", "-t", table, *line.split())
                told.append(f"{PROGRAMS[family]}-{backend} -t {table} {line}")
    return "\n".join(told)


def empty(pod: Pod) -> None:
    """Take away the rules of everybody, and the ip rules that `by_others` may have made."""
    pod.inside.output("nft", "flush", "ruleset")
    for program in PROGRAMS.values():
        for table in ("raw", "mangle", "nat", "filter"):
            pod.inside.output(f"{program}-legacy", "-t", table, "-F")
            pod.inside.output(f"{program}-legacy", "-t", table, "-X")
    for words in IP_RULES:
        pod.inside.output("sh", "-c", f"ip {' '.join(words).replace('add', 'del')} 2>/dev/null || true")
    pod.applied("--cleanup-only")


class Judged:
    """A namespace as it is, what is planned for it, and what is known of all its connections."""

    def __init__(self, pod: Pod, planned: Plan) -> None:
        self.pod, self.planned = pod, planned
        with entered(pod.inside):
            self.live: Live = read_live()
            self.proofs = tuple(proofs(self.live, planned))
            policy = Policy(self.live.policy_rules, rtnetlink.routes(passed_over=frozenset()))
            self.here: Host = host_of(self.live.addresses).but(policy=policy)
            self.escapes = [
                escape
                for family in Family
                for escape in escapes(
                    [(name, self.live.saved(Iptables(name, family)).ruleset) for name in BACKENDS],
                    family,
                    self.here,
                    self.live.natives.get(family, ()),
                )
            ]
            self.as_planned = host_of(self.live.addresses, planned.routing)

    def trace(self, packet: Packet) -> Trace:
        held = [self.live.saved(Iptables(name, packet.family)).ruleset for name in BACKENDS]
        return in_any_order(held, packet, self.here, self.live.natives.get(packet.family, ()))

    def call(self, packet: Packet, number: int) -> Call:
        """The connection that a packet begins, made possible."""
        is_in = packet.direction is Direction.IN
        theirs = str(packet.source if is_in else packet.destination)
        if not self.here.is_local(ip_address(theirs)):
            prefix = "32" if packet.family.name == "V4" else "128"
            self.pod.outside.output("ip", "addr", "replace", f"{theirs}/{prefix}", "dev", "lo")
        if not is_in and packet.source in PASSTHROUGH[Family.V6]:  # nobody outside knows the way back to it
            self.pod.outside.output("ip", "-6", "route", "replace", f"{packet.source}/128", "via", ADDRESSES[6])
        return Call(
            self.pod.outside if is_in else self.pod.inside,
            f"{packet.destination}{'%eth0' if packet.destination.is_link_local else ''}",
            packet.port,
            packet.uid or 0,
            packet.gid or 0,
            packet.protocol,
            str(packet.source),
            packet.source_port or number,
        )

    def made(self, difference: Difference, number: int) -> Iterator[str]:
        """Make the connection that disproves it. What is wrong about what was said of it."""
        packet = difference.packet
        if packet.protocol not in ("tcp", "udp"):
            return
        call = self.call(packet, number)
        trace = self.trace(packet.but(source_port=call.source_port))
        (answer,) = self.pod.traffic.land([call], patience=SHORT)
        landing = self.pod.traffic.arrived.get(call.source_port, answer)
        ways = {way.became for way in trace.ways or (trace,)}
        if difference.outcome is not trace.became:
            yield f"{difference.sentence}: traced {trace.became}"
        # REJECT with icmp-admin-prohibited is EHOSTUNREACH to who sent it (icmp_err_convert of net/ipv4/icmp.c).
        stopped = ("timeout", "refused", "error: EPERM", "error: EHOSTUNREACH")
        if ways & {Became.DROPPED, Became.REFUSED} and str(landing) in stopped:
            return
        if may_fail_later(trace) and str(landing) in {*FAILED, *landings_of(trace.but(hindered=""))}:
            return
        # No socket of ours sends from a link-local address to one without an interface.
        if str(landing) not in (*landings_of(trace), "error: EADDRINUSE", "error: EINVAL"):
            yield f"{difference.sentence}: landed {landing}, predicted {landings_of(trace)}"

    def disproved(self, calls: list[Call]) -> Iterator[str]:
        """Calls that fare otherwise than planned, where it was proved that none does."""
        from tests.netns.test_simulator import packet_of

        proved = {proof.family for proof in self.proofs if proof.answer == "proved"}
        packets = [packet_of(call, self.pod, self.here) for call in calls]
        answers = self.pod.traffic.land(calls, patience=SHORT)
        for call, packet, answer in zip(calls, packets, answers, strict=True):
            if packet.mark:
                continue
            trace = self.trace(packet)
            landing = self.pod.traffic.arrived.get(call.source_port, answer)
            yield from self.listed_wrongly(call, trace, str(landing))
            if packet.family not in proved:
                continue
            wanted = simulate(self.planned.rulesets, packet, self.as_planned)
            is_dropped = trace.became in (Became.DROPPED, Became.REFUSED)
            if trace.became is not Became.DEPENDS and is_lost(trace, wanted) and not is_dropped:
                yield f"{call}: proved, and traced {trace.became} {trace.decided}, planned {wanted.became}"
            if may_fail_later(trace) and str(landing) in FAILED:
                continue
            if wanted.became.is_captured and not is_dropped and str(landing) not in landings_of(wanted):
                yield f"{call}: proved, and landed {landing}, planned {landings_of(wanted)}"

    def tried(self, calls: drawn.Calls, most: int, packets: int) -> list[str]:
        """What is wrong, by the connections of so many differences of each family, and by so many calls."""
        made = (each for proof in self.proofs for each in proof.differences[:most])
        found = [wrong for each in made for wrong in self.made(each, next(calls.numbers))]
        return [*found, *self.disproved(calls.draw(packets))]

    def listed_wrongly(self, call: Call, trace: Trace, landing: str) -> Iterator[str]:
        """Whether it is in a set of `capture escapes`, held against what becomes of it and where it landed."""
        untold, told = (
            [each for each in self.escapes if (each.outcome == "cannot be told") is is_untold]
            for is_untold in (True, False)
        )
        if trace.became is Became.DEPENDS or is_listed(trace.packet, untold):
            return
        escaped = is_listed(trace.packet, told)
        if escaped is trace.became.is_captured:
            yield f"{call}: {'is' if escaped else 'is not'} listed as escaping, and traced {trace.became}"
        # Others may drop what we capture, or its answers.
        captured = {f"pod:{port}" for port in (15001, 15006, 15053)}
        if not escaped and landing not in {*captured, "timeout", "refused", "error: EPERM", "error: ECONNRESET"}:
            yield f"{call}: is not listed as escaping, and landed {landing}"
        if escaped and landing in captured and f"pod:{call.port}" not in captured:
            yield f"{call}: is listed as escaping, and landed {landing}"


def test_what_is_proved_is_so_and_what_is_not_is_made(backend: str, tell: Callable[[str], None]) -> None:
    """Beside drawn rules of others: where it is proved, drawn connections land as planned; where it is disproved, the
    connection that does is made and lands where it says."""
    tell(f"CAPTURE_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend}")
    wrong: list[str] = []
    answers: Counter[str] = Counter()
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, chance)
        for _ in range(ROUNDS):
            more = chance.choice(([], ["-m", "TPROXY"], ["-o", "80"], ["--redirect-dns", "--capture-all-dns"]))
            said = drawn.CommandLine(("-u", str(PROXY), "--dual-stack", *more))
            first = chance.random() < 0.5
            others = by_others(pod, chance) if first else ""
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
            others = others or by_others(pod, chance)
            judged = Judged(pod, planned)
            found = judged.tried(calls, 4, PACKETS)
            answers.update(proof.answer for proof in judged.proofs)
            wrong += [f"seed {SEED}: capture {said}\n{others}\n  {line}" for line in found]
            empty(pod)
    tell(f"{dict(answers)}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:8])
    assert answers["proved"], answers
    assert answers["disproved"], answers


def test_verify_says_which_connection_disproves_it_and_trace_says_the_same(backend: str) -> None:
    """In words and in JSON: by which rule, where it goes, where it should; `trace --live` of it agrees, and so does a
    real one."""
    with Pod(ipv6=False) as pod:
        pod.open_listeners()
        settings = ("-u", str(PROXY), f"--force-iptables-binary={backend}")
        pod.applied(*settings)
        assert "IPv4: proved" in pod.capture("verify", *settings).stdout
        pod.inside.output("nft", "-f", "-", text=MYSQL)
        told = pod.capture("verify", *settings, "--output", "json")
        (proof, _) = json.loads(told.stdout)["proofs"]
        assert proof["answer"] == "disproved"
        found = next(each for each in proof["differences"] if each["packet"]["uid"] == 1000)
        assert (found["outcome"], found["to_port"], found["table"]) == ("redirected", 22, "ip others")
        assert "captured outbound" in found["should"]
        assert found["sentence"] in pod.capture("verify", *settings).stdout
        traced = pod.capture(*found["command"].split()[1:], "--output", "json")
        assert json.loads(traced.stdout)["outcome"] == found["outcome"]
        packet = found["packet"]
        pod.outside.ip("addr", "add", f"{packet['destination']}/32", "dev", "lo")
        assert str(pod.dial(packet["destination"], packet["port"], uid=packet["uid"])) == "pod:22"
        assert str(pod.dial(packet["destination"], 80, uid=packet["uid"])) == "pod:15001"


def drops_everything() -> int:
    """A descriptor of an XDP program that drops all packets (bpf(2)). Skips where the kernel takes none."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = struct.pack("=BBhi", 0xB7, 0, 0, XDP_DROP) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    program, license_ = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    wanted = struct.pack("=IIQQ", 6, 2, ctypes.addressof(program), ctypes.addressof(license_)).ljust(120, b"\0")
    found: int = libc.syscall(BPF, 5, ctypes.create_string_buffer(wanted, 120), 120)
    if found < 0:
        pytest.skip(f"this kernel loads no XDP program for us: bpf(2): {os.strerror(ctypes.get_errno())}")
    return found


def test_an_xdp_program_is_named(pod: Pod) -> None:
    """It drops what arrives before netfilter is asked; verify, check, escapes and trace --live say that it is there."""
    settings = ("-u", str(PROXY))
    pod.applied(*settings)
    looks = (("verify", *settings), ("check", *settings), ("escapes", "--live"), ("trace", "--live", "--in", ":80"))
    assert not any("XDP" in pod.capture(*words).stdout for words in looks)
    program = drops_everything()
    with entered(pod.inside):
        link = socket.if_nametoindex("eth0")
        nested = struct.pack("=HHi", 8, 1, program) + struct.pack("=HHI", 8, 3, XDP_GENERIC)
        body = struct.pack("=BxHiII", 0, 0, link, 0, 0) + struct.pack("=HH", 4 + len(nested), 0x8000 | 43) + nested
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
            kernel.send(struct.pack("=IHHII", 16 + len(body), 19, 5, 1, 0) + body)
            assert struct.unpack_from("=i", kernel.recv(4096), 16) == (0,)
    os.close(program)
    for words in looks:
        told = " ".join(pod.capture(*words).stdout.split())
        assert "eth0: an XDP program is asked before netfilter when a packet arrives" in told
