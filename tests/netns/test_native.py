"""Native tables of others beside ours: what the simulator says of a packet is where the kernel takes it.

Every draw can be repeated: the seed is printed, and CAPTURE_SEED sets it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from capture.host.live import read_live
from capture.host.neighbours import host_of, proofs
from capture.inspect.verify import findings, unexplained
from capture.iptables.iptables import BACKENDS, Iptables
from capture.netlink import rtnetlink
from rules.iptables.writing import rule_text
from rules.netfilter.values import Family
from rules.packets.trace import Became
from rules.plan.names import NATIVE_TABLE
from rules.routing.policy import Policy
from rules.simulator.simulate import in_any_order, simulate
from tests.conftest import every_backend
from tests.netns.test_simulator import (
    BUILT_IN,
    Held,
    compare,
    flush,
    foreign_rules,
    held,
    landings_of,
    packet_of,
    planned_for,
    plant,
    ready,
)
from tests.rig import Call, Pod, drawn, entered, predicted
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES, GATEWAY, OUTSIDE, PROXY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.host.live import Live
    from rules.packets.packet import Host
    from rules.packets.trace import Step, Trace
    from rules.plan.plan import Plan
    from tests.netns.test_simulator import Counted

ROUNDS, PACKETS = 8, 40
"""Sets of native tables for each backend, and packets for each of them."""
SHORT = 0.3
"""Seconds: long enough for anything that arrives at all."""
PORTS = "{ 80, 443, 8080-9080 }", "80", "!= 22", "53-443", "{ 22, 53 }", ">= 8080", "!= { 53, 8080 }"
WHERE = {
    "ip": ("ip daddr 9.9.9.9", "ip daddr { 10.0.0.0/8, 1.1.1.1 }", "ip saddr != 10.244.0.0/24", "ip daddr @known",
           "ip daddr @known", "ip daddr @timed", "ip daddr . th dport @pairs", "ip daddr != @timed",
           "ip saddr . ip daddr { 10.244.0.5 . 9.9.9.9 }",
           "ip daddr . meta l4proto { 9.9.9.9 . tcp, 1.1.1.1 . udp, 10.0.7.7 . tcp }"),
    "ip6": ("ip6 daddr 2001:db8::/32", "ip6 daddr { fd00:96::/64, 2001:db8::1 }", "ip6 saddr fd00:244::5",
            "ip6 daddr . th dport { 2001:db8::1 . 80, 2001:db8::/32 . 443-8080 }"),
    "inet": ("meta nfproto . meta l4proto { ipv4 . tcp, ipv6 . udp }",
             "ip daddr 9.9.9.9", "ip6 daddr 2001:db8::/32", "meta nfproto ipv4", "fib daddr type local"),
}  # fmt: skip
NAMED = """
set known { type ipv4_addr; flags interval; elements = { 9.9.9.0/24, 10.0.7.7, 172.16.0.0/12 } }
set timed { type ipv4_addr; flags timeout; elements = { 9.9.9.9 timeout 1h, 10.0.7.7 timeout 2h } }
set pairs { type ipv4_addr . inet_service; flags interval; elements = { 9.9.9.0/24 . 80-443, 10.0.0.0/8 . 22 } }
set seen { type ipv4_addr; size 1000; flags dynamic, timeout; timeout 1m; }
"""
"""What rules of an `ip` table ask by name."""
WHO = (
    "meta skuid . meta skgid { 1000 . 1000, 1337 . 0-2000 }",
    "meta skuid 1000",
    "meta skuid != 1337",
    "meta skuid { 1000-2000, 3 }",
    "meta skgid 1337",
)
MORE = (
    "meta mark and 0x8 == 0x8",
    "meta mark != 0x8",
    "ct state new",
    "ct mark 0",
    "ct mark and 0x1 == 0",
    'iifname "eth*"',
    'oifname != "lo"',
    'oif "lo"',
    "tcp flags & (fin|syn|rst|ack) == syn",
    "fib saddr type local",
)
OF_THE_FIRST = ("ct state", "ct mark", "tcp flags")
"""What is so of the first packet of a connection and not of others: a rule that asks for it may not spare that one from
a rule behind it, which takes all others, and no answer is about these."""
PRIORITIES = {
    "nat": (-199, -101, -100, -99, 0, 50, "filter - 3"),
    "filter": (-310, -250, -160, -120, -50, 0, 20, "mangle + 1", "raw - 7", "security", -2147483648, 2147483647),
    "route": (-160, -150, 10, "mangle - 2", 1000),
}
CHAINS = (("nat", "output"), ("nat", "output"), ("nat", "prerouting"), ("filter", "output"), ("filter", "prerouting"),
          ("filter", "input"), ("route", "output"))  # fmt: skip


CERTAIN_PORT = 12345
ASKED_FIRST = f"""table ip first {{
chain out {{
type nat hook output priority -199;
tcp dport {CERTAIN_PORT} redirect to :16001
}}
}}
"""
"""Beside the tables that are drawn, whose rules ask for no such port: so some answer is always REDIRECTED."""


def native_tables(chance: random.Random) -> str:
    """Tables of somebody else, as nft reads them."""
    tables = []
    for number in range(chance.randint(1, 3)):
        family = chance.choice(["ip", "ip", "ip6", "inet"])
        name = f"others{number}" if chance.random() < 0.7 or family == "inet" else "nat"
        lines = [f"table {family} {name} {{"]
        if name != "nat" and chance.random() < 0.2:
            lines.append("flags dormant")
        if family == "ip":
            lines.append(NAMED)
        kinds = chance.sample(CHAINS, chance.randint(1, 3))
        for at, (kind, hook) in enumerate(kinds, 10 * number):
            if name == "nat" and kind != "nat":
                continue
            rules = [rule(chance, family, kind, hook, f"more{at}") for _ in range(chance.randint(1, 3))]
            jumped = [rule(chance, family, kind, hook, "") for _ in range(2)]
            lines += [f"chain more{at} {{", *jumped, "}", ways_to(f"more{at}")]
            priority = chance.choice(PRIORITIES[kind])
            lines += [f"chain base{at} {{", f"type {kind} hook {hook} priority {priority};", *rules, "}"]
        tables.append("\n".join([*lines, "}", ""]))
    return "".join([*tables, ASKED_FIRST])


def ways_to(chain: str) -> str:
    """A map from ports to what becomes of them, of which some go to this chain."""
    ways = f"80 : jump {chain}, 443-500 : accept, 8000-9000 : goto {chain}, 53 : continue, 22 : return"
    return f"map ways-{chain} {{ type inet_service : verdict; flags interval; elements = {{ {ways} }} }}"


def rule(chance: random.Random, family: str, kind: str, hook: str, chain: str) -> str:
    """A rule that asks for a port, lest it hit the answers too."""
    proto = chance.choice(["tcp", "tcp", "tcp", "udp"])
    asked = [f"{proto} dport < 10000 {proto} dport {chance.choice(PORTS)}"]
    if chance.random() < 0.5:
        asked.insert(0, chance.choice(WHERE[family]))
    if hook == "output" and chance.random() < 0.3:
        asked.append(chance.choice(WHO))
    if chance.random() < 0.3:
        more = chance.choice(MORE)
        misplaced = more.startswith("iif" if hook == "output" else "oif")
        if not misplaced and (proto == "tcp" or not more.startswith("tcp")):
            asked.append(more)
    done = ["accept", "return", "counter accept"]
    if kind == "nat" and proto == "tcp":
        done += ["redirect to :16001", "redirect to :22", "redirect", "redirect to :16001"]
        done.append("redirect to :tcp dport map { 80 : 16001, 443 : 22, 8080 : 16001 }")
        if hook == "output" and family == "inet" and "ip6" not in asked[0]:
            done += ["dnat ip to 1.1.1.1:22", "dnat ip to ip daddr map { 9.9.9.9 : 1.1.1.1, 10.0.7.7 : 172.16.1.1 }"]
        if hook == "output" and family == "ip":
            done += ["dnat to 1.1.1.1:22", "dnat to ip daddr map { 9.9.9.9 : 1.1.1.1, 10.0.7.7 : 172.16.1.1 }"]
            done.append(
                "dnat ip to ip daddr . tcp dport map { 9.9.9.9 . 80 : 1.1.1.1 . 22, 10.0.7.7 . 443 : 9.9.9.9 . 80 }"
            )
    if family == "ip" and not hook.startswith("pre"):
        done.append("add @seen { ip daddr }")
    if kind != "nat":
        done.append(f"meta mark set {proto} dport map {{ 80 : 0x8, 443 : 0x1, 22 : 0x9 }}")
        done += ["drop", "meta mark set 0x8", "meta mark set mark xor 0x9", "ct mark set 0x1", "counter", "log"]
    if chain:
        done += [f"jump {chain}", f"goto {chain}", f"{proto} dport vmap {{ 80 : jump {chain}, 443 : accept }}"]
        done += [f"{proto} dport vmap @ways-{chain}"] * 2
        if family == "ip":
            done.append(f"ip daddr vmap {{ 9.9.9.0/24 : goto {chain}, 10.0.0.0/8 : return, 1.1.1.1 : accept }}")
    what = chance.choice(done)
    if kind != "nat" and asked[-1].startswith(OF_THE_FIRST) and what not in ("drop", "log"):
        what = "counter"
    return " ".join([*asked, what])


def live_in(pod: Pod) -> Live:
    with entered(pod.inside):
        return read_live()


def traced(live: Live, call: Call, pod: Pod, here: Host) -> Trace:
    """What `capture trace --live` says of this call's first packet."""
    packet = packet_of(call, pod, here)
    backends = [backend for backend in BACKENDS if live.holds_rules(backend)]
    held = tuple(live.saved(Iptables(backend, packet.family)).ruleset for backend in backends)
    return in_any_order(held, packet, here, live.natives.get(packet.family, ()))


def disagreements(pod: Pod, here: Host, calls: list[Call], seen: Counter[Became]) -> Iterator[str]:
    live = live_in(pod)
    answers = pod.traffic.land(calls, patience=SHORT)
    for call, answer in zip(calls, answers, strict=True):
        trace = traced(live, call, pod, here)
        seen[trace.became] += 1
        landing = pod.traffic.arrived.get(call.source_port, answer)
        expected = landings_of(trace)
        if str(landing) not in expected:
            yield f"{call}: landed {landing}, predicted {expected} {trace.became} {trace.decided}"


def unnamed(pod: Pod, backend: str, planned: Plan, here: Host, calls: list[Call]) -> Iterator[str]:
    """Calls that ours alone would capture and that others took, although no finding names a rule that may have.

    Of sockets that set a mark themselves nothing is said.
    """
    live = live_in(pod)
    with entered(pod.inside):  # whose interfaces have names of their own
        named = {each.rule for each in findings(live, planned, backend)}
    for call in calls:
        if call.mark:
            continue
        wanted = simulate(planned.rulesets, packet_of(call, pod, here), here)
        landing = pod.traffic.arrived.get(call.source_port)
        if wanted.became.is_captured and landing and str(landing) != predicted.landing(wanted):
            trace = traced(live, call, pod, here)
            took = {rule_text(step.rule) for step in deciding(trace)}
            untold: list[str] = []
            if named.isdisjoint(took):
                with entered(pod.inside):
                    proved = tuple(proofs(live, planned))
                named |= {each.rule for each in unexplained(proved, ())}
                untold = [each.becomes for proof in proved for each in proof.untold]
            if named.isdisjoint(took) and not (trace.reason and any(trace.reason in words for words in untold)):
                yield f"{call}: landed {landing}, planned {wanted.became}, and no finding names one of {took}"


def deciding(trace: Trace) -> Iterator[Step]:
    """The rules that decided, or may have."""
    yield from trace.depends_on
    yield from (step for way in (trace, *trace.ways) for step in (way.decided, way.bound) if step)


@every_backend
@pytest.mark.parametrize("comes", ["before", "after"])
def test_native_tables_of_others_act_as_the_simulator_says(
    backend: str, comes: str, tell: Callable[[str], None]
) -> None:
    """At any priority, in their own table or in one that we share, asleep or awake, made before ours or after: a call
    lands where the simulator says, or where one of the ways leads that it names."""
    tell(f"CAPTURE_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend} {comes}")
    wrong: list[str] = []
    seen: Counter[Became] = Counter()
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, chance)
        for _ in range(ROUNDS):
            said = drawn.CommandLine(
                ("-u", str(PROXY), "--dual-stack", *chance.choice(([], ["-m", "TPROXY"], ["-o", "80"])))
            )
            tables = native_tables(chance)
            if comes == "before":
                pod.inside.output("nft", "-f", "-", text=tables)
            planned = planned_for(pod, said)
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
            if comes == "after":
                pod.inside.output("nft", "-f", "-", text=tables)
                if backend == "nft":
                    # Among iptables' own rules, in the chain of our jump.
                    asked = rule(chance, "ip", "nat", "output", "")
                    known = NAMED.replace("\nset ", "\nadd set ip nat ")
                    among = f"{known}\n{chance.choice(['insert', 'add'])} rule ip nat OUTPUT {asked}\n"
                    pod.inside.output("nft", "-f", "-", text=among)
                    tables += among
            here = predicted.host(planned.routing, passthrough=planned.passthrough_address)
            certain = Call(pod.inside, "9.9.9.9", CERTAIN_PORT, 1000, 1000, "tcp", None, next(calls.numbers))
            drawn_calls = [certain, *calls.draw(PACKETS)]
            found = [*disagreements(pod, here, drawn_calls, seen)]
            found += unnamed(pod, backend, planned, here, drawn_calls)
            wrong += [f"seed {SEED}: capture {said}\n{tables}  {line}" for line in found]
            pod.inside.output("nft", "flush", "ruleset")
            pod.applied("--cleanup-only")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:10])
    assert set(seen) >= {Became.REDIRECTED, Became.CAPTURED_OUTBOUND, Became.BYPASSED}, seen


def test_a_base_chain_in_a_table_of_iptables_keeps_the_rules_that_iptables_would_print(pod: Pod) -> None:
    """iptables-nft-save shows no such chain; its jump leads to a rule that takes what our legacy rules may take too."""
    pod.applied("-u", str(PROXY), "--force-iptables-binary=legacy")
    more = "chain more { tcp dport 53 redirect to :16001; }"
    base = "chain base { type nat hook output priority -100; tcp dport 53 jump more; }"
    pod.inside.output("nft", "-f", "-", text=f"table ip nat {{ {more}; {base}; }}\n")
    told = pod.capture("trace", "--live", "9.9.9.9:53").stdout
    assert "it depends on whether the table ip nat was made before or after the others" in told
    assert "16001" in told


def test_nat_of_one_family_leaves_the_other_as_it_is(pod: Pod) -> None:
    """`dnat ip to` in a table `inet` sends IPv4 elsewhere; IPv6 goes on to ours, and a trace says so of each."""
    pod.applied("-u", str(PROXY), "--dual-stack", "--native-nftables")
    base = "chain base { type nat hook output priority -150; tcp dport 80 counter dnat ip to 1.1.1.1:22; }"
    pod.inside.output("nft", "-f", "-", text=f"table inet theirs {{ {base}; }}\n")
    pod.open_listeners()
    for version, landed, said in ((4, "ext:22", "it goes to 1.1.1.1:22"), (6, "pod:15001", "captured outbound")):
        host = OUTSIDE[version][0]
        assert str(pod.dial(host, 80, uid=1000, gid=1000)) == landed
        told = pod.capture("trace", "--live", f"[{host}]:80" if version == 6 else f"{host}:80").stdout
        assert said in told.splitlines()[-1], told


REDIRECTING = "chain there { meta l4proto tcp redirect to :16001; }"
TOLD = (
    "meta nfproto vmap { ipv4 : jump there, ipv6 : accept }",
    "meta nfproto vmap { ipv4 : accept, ipv6 : goto there }",
    "meta protocol vmap { ip : goto there, ip6 : accept }",
    "meta nfproto { ipv4, ipv6 } tcp dport 80 redirect to :16001",
    "meta nfproto != { ipv6 } tcp dport 80 redirect to :16001",
    "meta protocol { ip } tcp dport 80 redirect to :16001",
    "meta nfproto . meta l4proto { ipv4 . udp, ipv6 . tcp } tcp dport 80 redirect to :16001",
    "meta l4proto . meta nfproto vmap { tcp . ipv4 : jump there, udp . ipv6 : drop }",
    "meta nfproto . th dport { ipv4 . 1-79, ipv6 . 80-90 } meta l4proto tcp redirect to :16001",
    "meta l4proto tcp redirect to :tcp dport map { 80 : 16001, 443 : 22 }",
    "tcp dport vmap { 1-79 : accept, 80-90 : jump there }",
    "meta nfproto vmap { ipv4 : return, ipv6 : jump there }",
    "meta protocol vmap { ip6 : jump there }",
    "meta nfproto . meta l4proto . th dport vmap { ipv4 . tcp . 80 : jump there, ipv6 . tcp . 1-79 : jump there }",
    "meta nfproto != { ipv4, ipv6 } tcp dport 80 redirect to :16001",
    "tcp dport 80 redirect to :meta nfproto map { ipv4 : 16001, ipv6 : 22 }",
    "oifname . meta nfproto vmap { eth0 . ipv6 : jump there, lo . ipv4 : drop }",
    "oifname vmap { lo : drop, eth0 : jump there }",
    "meta skuid . meta nfproto vmap { 1000 . ipv4 : jump there, 1337 . ipv6 : jump there }",
)
"""Rules of a chain of type nat."""
MARKS = (
    "meta mark set tcp dport map { 80 : 0x8, 443 : 0x1 }",
    "meta mark set tcp dport map { 1-79 : 0x8, 80-90 : 0x1 }",
    "meta mark set ip daddr map { 9.9.9.9 : 0x8 }",
    "meta mark set meta nfproto map { ipv4 : 0x1, ipv6 : 0x8 }",
    "ct mark set tcp dport map { 80 : 0x8 }",
    "ct mark set meta nfproto map { ipv4 : 0x8, ipv6 : 0x1 }",
    "meta mark set th dport . meta nfproto map { 80 . ipv4 : 0x8, 80 . ipv6 : 0x1 }",
    "meta mark set meta mark map { 0x0 : 0x8 }",
    "meta mark set meta skuid map { 1000 : 0x8, 0 : 0x1 }",
    "meta mark set ip6 daddr . tcp dport map { 2001:db8::1 . 80 : 0x8 }",
)
"""Rules of a chain that is asked before one that redirects what has mark 0x8."""


@pytest.mark.parametrize("words", [*TOLD, *MARKS])
def test_what_a_rule_asks_of_families_and_maps_is_told_for_certain(pod: Pod, words: str) -> None:
    """In a table of both families: a call of each lands where the simulator says, and nothing depends."""
    ready(pod)
    base = f"{REDIRECTING}\nchain base {{ type nat hook output priority -150; {words}; }}"
    if words in MARKS:
        marking = f"chain first {{ type filter hook output priority -160; {words}; }}"
        redirecting = f"tcp dport 80 {words.partition(' ')[0]} mark 0x8 redirect to :16001"
        base = f"{marking}\nchain base {{ type nat hook output priority -150; {redirecting}; }}"
    pod.applied("-u", str(PROXY), "--dual-stack")
    pod.inside.output("nft", "-f", "-", text=f"table inet theirs {{\n{base}\n}}\n")
    here, numbers = predicted.host(), drawn.Calls(pod, random.Random(0)).numbers
    for version in (4, 6):
        call = Call(pod.inside, OUTSIDE[version][0], 80, 1000, 1000, "tcp", None, next(numbers))
        trace = traced(live_in(pod), call, pod, here)
        (landing,) = pod.traffic.land([call], patience=SHORT)
        assert (trace.became is Became.DEPENDS, str(landing)) == (False, predicted.landing(trace)), (version, trace)


# --- with counters ----------------------------------------------------------------------------------------

SETS = 10
"""Of rules of everybody, for each backend."""
APART = {
    "nat": [-190, -130, -105, -99, -60, 0, 50],
    "filter": [-310, -290, -250, -210, -160, -140, -120, -90, -50, -10, 10, 20, 110, 300],
    "route": [-310, -160, -140, -50, 10],
}
"""Priorities at which nobody else is asked."""
HOOKED = (
    *(("nat", "output"), ("nat", "prerouting"), ("filter", "output"), ("filter", "prerouting"), ("filter", "input")),
    *(("filter", "postrouting"), ("route", "output")),
)
IP_RULES = (
    "fwmark 0x8/0xf",
    "fwmark 0x9",
    "not fwmark 0x0/0x1",
    "uidrange 1000-1300",
    "uidrange 0-999",
    "uidrange 1337-1337",
    "not uidrange 1000-2000",
    "ipproto tcp dport 443",
    "ipproto udp",
    "to {outside}",
    "from {pod} ipproto tcp dport 8080-9080",
    "iif lo fwmark 0x1/0x1",
    "iif eth0 fwmark 0x8/0x8",
    "oif eth0",
)
TABLES_OF_OTHERS = {
    "200": "default via {gateway}",
    "201": "local default dev lo",
    "202": "throw default",
    "203": "local {outside} dev lo",
}


def counting_tables(chance: random.Random) -> str:
    """Tables of others, each rule with a counter, each base chain at a priority of its own."""
    apart = {kind: chance.sample(those, len(those)) for kind, those in APART.items()}
    taken: set[tuple[str, int]] = set()
    tables = []
    for number in range(chance.randint(1, 3)):
        family = chance.choice(["ip", "ip", "ip6", "inet"])
        dormant = ["flags dormant"] if chance.random() < 0.15 else []
        lines = [f"table {family} others{number} {{", *dormant]
        if family == "ip":
            lines.append(NAMED)
        for at, (kind, hook) in enumerate(chance.sample(HOOKED, chance.randint(1, 4))):
            place = "nat" if kind == "nat" else hook
            priority = next(each for each in apart[kind] if (place, each) not in taken)
            taken.add((place, priority))
            inner, base = f"{kind}_more{at}", f"{kind}_base{at}"
            drops = "policy drop;" if kind == "filter" and chance.random() < 0.05 else ""
            rules = [counting(rule(chance, family, kind, hook, inner)) for _ in range(chance.randint(1, 3))]
            jumped = [counting(rule(chance, family, kind, hook, "")) for _ in range(2)]
            begins = f"type {kind} hook {hook} priority {priority}; {drops}"
            lines += [f"chain {inner} {{", *jumped, "}", ways_to(inner), f"chain {base} {{", begins, *rules, "}"]
        tables.append("\n".join([*lines, "}", ""]))
    return "".join(tables)


DONE = re.compile(
    r" (?=(?:accept|return|counter|redirect|dnat|drop|log|jump|goto|add @seen|(?:meta|ct) mark set"
    r"|(?:(?:tcp|udp) dport|ip daddr) vmap)\b)"
)


def counting(words: str) -> str:
    """The same rule with a counter before what it does, but for that which looks up in a map whether it does it."""
    asked, done = DONE.split(words, maxsplit=1)
    if " map " in done:
        return words
    return f"{asked} counter {done.removeprefix('counter').strip()}"


def held_by_all(pod: Pod, backend: str) -> Held:
    """What everybody holds there, as a command of ours reads it, and all that is counted."""
    live = live_in(pod)
    rulesets = tuple(live.saved(Iptables(backend, family)).ruleset for family in Family)
    counted: dict[Counted, int] = {}
    if backend != "nft":
        counted = held(pod, backend).counted
    family = table = chain = ""
    at = 0
    # As JSON nft 1.0.6 leaves a table that is dormant unfinished.
    for line in pod.inside.output("nft", "list", "ruleset").splitlines():
        match line.split():
            case ["table", family, table, "{"]:
                pass
            case ["chain", chain, "{"]:
                at = 0
            case [] | ["}"] | ["type", *_]:
                pass
            case _:
                at += 1
                counts = re.search(r"counter packets (\d+)", line)
                if table == NATIVE_TABLE:
                    pass  # whose rules are known by what they stand for
                elif counts and table in BUILT_IN:
                    counted[Family.V4 if family == "ip" else Family.V6, (table, chain, at)] = int(counts[1])
                elif counts:
                    counted[None, (f"{family} {table}", chain, at)] = int(counts[1])
    return Held(rulesets, counted, live.natives)


def ip_rules_of_others(pod: Pod, chance: random.Random) -> list[str]:
    """In both families; what was put there, in words."""
    told = []
    outside = {4: "9.9.9.0/24", 6: "2001:db8::/32"}
    for version in (4, 6):
        words = {"outside": outside[version], "gateway": GATEWAY[version], "pod": ADDRESSES[version]}
        for table, route in TABLES_OF_OTHERS.items():
            pod.inside.ip(f"-{version}", "route", "replace", *route.format(**words).split(), "table", table)
        for asked in chance.sample(IP_RULES, chance.choice((0, 1, 2))):
            priority = str(chance.choice((*range(50, 60), 33000)))
            table = chance.choice([*TABLES_OF_OTHERS, "200"])
            line = f"pref {priority} {asked.format(**words)} lookup {table}"
            pod.inside.ip(f"-{version}", "rule", "add", *line.split())
            told.append(f"ip -{version} rule add {line}")
        if told and chance.random() < 0.3:
            # As Cilium does, so that rules come before it.
            pod.inside.ip(f"-{version}", "rule", "add", "pref", "100", "lookup", "local")
            pod.inside.ip(f"-{version}", "rule", "del", "pref", "0")
            told.append(f"ip -{version} rule: local at 100")
    return told


def without_ip_rules_of_others(pod: Pod) -> None:
    for version in ("-4", "-6"):
        listed = pod.inside.output("ip", version, "rule").splitlines()
        if not listed[0].startswith("0:"):
            pod.inside.ip(version, "rule", "add", "pref", "0", "lookup", "local")
        for line in listed:
            priority = line.partition(":")[0]
            if 0 < int(priority) < 32766 or int(priority) > 32767:
                pod.inside.ip(version, "rule", "del", "pref", priority)


@every_backend
def test_everybody_together_acts_as_the_simulator_says(backend: str, tell: Callable[[str], None]) -> None:
    """Native tables of others at drawn priorities, asleep or awake, iptables rules of others in the backend of ours,
    and ip rules of others: each call lands where the simulator says, and each rule with a counter has counted it.

    Beside our own tables those of iptables would stand at one place with ours, in an order that nothing tells.
    """
    tell(f"CAPTURE_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend} everybody")  # packets are no secrets
    wrong: list[str] = []
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, chance)
        for number in range(200 if ALL else SETS):
            said = drawn.CommandLine(
                ("-u", str(PROXY), "--dual-stack", *chance.choice(([], ["-m", "TPROXY"], ["-o", "80"])))
            )
            pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
            told = f"seed {SEED}, {backend} {number}: capture {said}"
            tables = counting_tables(chance)
            pod.inside.output("nft", "-f", "-", text=tables)
            told += f"\n{tables}"
            if chance.random() < 0.4 and backend != "native":
                for version in (4, 6):
                    rules = list(foreign_rules(chance, version, unknown=False))
                    plant(pod, backend, version, rules)
                    told += "".join(f"\n  {version} {table} {line}" for table, line in rules)
            told += "".join(f"\n  {line}" for line in ip_rules_of_others(pod, chance))
            with entered(pod.inside):
                live = read_live()
                policy = Policy(live.policy_rules, rtnetlink.routes(passed_over=frozenset()))
                here = host_of(live.addresses).but(policy=policy)
            sent = [from_its_own(call, pod) for call in calls.draw(50 if ALL else PACKETS)]
            wrong += compare(pod, backend, here, sent, told=told, patience=SHORT, look=held_by_all)
            pod.end_connections()
            pod.inside.output("nft", "flush", "ruleset")
            if backend == "legacy":
                flush(pod, backend)
            without_ip_rules_of_others(pod)
            pod.applied("--cleanup-only")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:10])


def from_its_own(call: Call, pod: Pod) -> Call:
    """The same, sent from the pod's own address where the routing would choose one."""
    version = 6 if ":" in call.host else 4
    is_out = call.sender is pod.inside and call.host in (*OUTSIDE[version], GATEWAY[version])
    return replace(call, source=ADDRESSES[version]) if is_out and not call.source else call


# --- named by every command -------------------------------------------------------------------------------

SETTINGS = ("-u", str(PROXY), "--ipv6", "off")
EARLY = """
table ip nat {
  chain EARLY {
    type nat hook output priority -110
    ip protocol tcp redirect to :8080
  }
}
"""
DORMANT = "table ip nat { flags dormant; }"


def told_by_all(pod: Pod, backend: str, status: int, *said: str) -> None:
    """A run, verify, status and check say this; verify ends with this status."""
    forced = f"--force-iptables-binary={backend}"
    run = pod.applied(*SETTINGS, forced)
    looked = {
        "a run": (0, run.stderr),
        **{
            command: (done.status, done.stdout)
            for command in ("verify", "status", "check")
            for done in [pod.capture(command, *SETTINGS, *([forced] if command != "status" else []))]
        },
    }
    assert looked["verify"][0] == status
    for command, (_, text) in looked.items():
        for words in said:
            assert words in " ".join(text.split()), f"{command}: {text}"


def test_a_dormant_table_is_named_by_every_command() -> None:
    """Nothing is captured, and they say so, and what wakes it up does."""
    with Pod(ipv6=False) as pod:
        pod.open_listeners()
        pod.inside.output("nft", "-f", "-", text=DORMANT)
        told_by_all(pod, "nft", 4, "the table is dormant: the kernel asks none of its chains", "`nft add table ip nat`")
        assert str(pod.dial("9.9.9.9", 80)) == "ext:80"
        trace = pod.capture("trace", "--live", "9.9.9.9:80")
        assert "the table ip nat is dormant" in trace.stdout
        assert "not captured" in trace.stdout
        pod.inside.output("nft", "add", "table", "ip", "nat")
        assert pod.capture("verify", *SETTINGS).status == 0
        assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


def test_a_base_chain_that_takes_everything_first_is_named_by_every_command(backend: str) -> None:
    """In a table that we share with it, or beside the other backend's."""
    with Pod(ipv6=False) as pod:
        pod.open_listeners()
        pod.inside.output("nft", "-f", "-", text=EARLY)
        told_by_all(pod, backend, 4, "`ip protocol tcp redirect to :8080` is asked before ours and takes everything")
        assert str(pod.dial("9.9.9.9", 80)) == "pod:8080"
        trace = pod.capture("trace", "--live", "9.9.9.9:80")
        assert "redirected by rule 1 of EARLY of the table ip nat (ip protocol tcp redirect to :8080)" in trace.stdout


NARROW = """
table inet theirs {
  chain out {
    type nat hook output priority -101
    ip daddr 9.9.9.9 tcp dport 443 redirect to :8080
  }
}
"""


def test_a_base_chain_that_takes_some_is_named_and_no_difference(backend: str) -> None:
    """Exit status 0; with --strict 4."""
    with Pod(ipv6=False) as pod:
        pod.open_listeners()
        pod.inside.output("nft", "-f", "-", text=NARROW)
        rule = "`ip daddr 9.9.9.9 tcp dport 443 redirect to :8080` is asked before ours and takes some of it"
        told_by_all(pod, backend, 0, rule, "TCP to 9.9.9.9 port 443 goes to 127.0.0.1:8080")
        assert pod.capture("verify", "--strict", *SETTINGS).status == 4
        assert str(pod.dial("9.9.9.9", 443)) == "pod:8080"
        assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


def test_a_filter_that_drops_what_was_redirected_is_named_by_every_command(backend: str) -> None:
    """A host whose INPUT lets in port 80 and not the proxy's."""
    rules = "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp --dport 80 -j ACCEPT\nCOMMIT\n"
    with Pod(ipv6=False) as pod:
        pod.open_listeners()
        pod.inside.output(f"iptables-{backend}-restore", text=rules)
        assert str(pod.dial_in(80)) == "pod:80"
        told_by_all(pod, backend, 4, "port 15006 of the proxy: the policy of INPUT of the filter table is DROP")
        assert str(pod.dial_in(80)) == "timeout"
        pod.inside.output(f"iptables-{backend}", "-A", "INPUT", "-p", "tcp", "--dport", "15006", "-j", "ACCEPT")
        assert pod.capture("verify", *SETTINGS).status == 0
        assert str(pod.dial_in(80)) == "pod:15006"


def test_a_filter_that_drops_the_answers_of_what_was_redirected_is_named_by_every_command(backend: str) -> None:
    """They come over lo from the address that was asked for, as if it were forged. No difference; with --strict 4."""
    rules = "*filter\n-A INPUT -s 9.9.9.0/24 ! -i eth0 -j DROP\nCOMMIT\n"
    with Pod(ipv6=False) as pod:
        pod.open_listeners()
        pod.inside.output(f"iptables-{backend}-restore", text=rules)
        assert str(pod.dial("9.9.9.9", 80)) == "ext:80"
        told_by_all(pod, backend, 0, "the rule of others `-s 9.9.9.0/24 ! -i eth0 -j DROP`", "in its answers")
        assert pod.capture("verify", "--strict", *SETTINGS).status == 4
        assert str(pod.dial("9.9.9.9", 80)) == "timeout"
        assert str(pod.dial("1.1.1.1", 80)) == "pod:15001"
        trace = pod.capture("trace", "--live", "9.9.9.9:80")
        assert "but its answers are dropped by rule 1 of INPUT of the filter table" in trace.stdout
        assert "its answers" not in pod.capture("trace", "--live", "1.1.1.1:80").stdout


@pytest.mark.parametrize(
    "marks",
    [
        "-I PREROUTING -j CONNMARK --set-mark 0x539",
        "-I OUTPUT -p tcp -j MARK --set-mark 0x539",
        "-A OUTPUT -p tcp --sport 8080 -j MARK --set-mark 0x539",
    ],
)
def test_a_mark_that_keeps_the_proxys_answers_in_the_pod_is_named_by_a_trace(backend: str, marks: str) -> None:
    """With TPROXY our mark brings a packet back into the pod; others who give it to the proxy's answers lose them."""
    with Pod(ipv6=False) as pod:
        pod.open_listeners(transparent=True)
        pod.applied(*SETTINGS, "-m", "TPROXY", f"--force-iptables-binary={backend}")
        assert str(pod.dial_in(8080)) == "pod:15006"
        assert "its answers" not in pod.capture("trace", "--live", "--in", "10.244.0.5:8080").stdout
        pod.inside.output(f"iptables-{backend}", "-t", "mangle", *marks.split())
        assert str(pod.dial_in(8080)) == "timeout"
        said = pod.capture("trace", "--live", "--in", "10.244.0.5:8080").stdout
        assert "but its answers are dropped by rule" in said
        assert "MARK --set-xmark 0x539/0xffffffff" in said.rpartition("its answers")[2]


@pytest.mark.parametrize(
    ("address", "uid_rule", "done", "lands"),
    [
        ("127.0.0.1", "uidrange 0-999", "redirect to :15001", "pod:15001"),
        ("127.0.0.1", "uidrange 0-0", "dnat to :15001", "pod:15001"),
        ("127.0.0.1", "uidrange 0-0", "dnat to 127.0.0.1:15001", "pod:15001"),
        ("::1", "uidrange 0-0", "redirect to :15001", "pod:15001"),
        ("127.0.0.2", "uidrange 0-0", "redirect to :15001", "timeout"),
    ],
)
def test_what_nat_sends_to_the_address_that_it_had_is_not_routed_anew(
    address: str, uid_rule: str, done: str, lands: str
) -> None:
    """OUTPUT asks an ip rule before the table `local` again only if the address changed; IPv4 then asks it as uid 0."""
    ip = ["ip", "-6" if ":" in address else "-4"]
    family = "ip6" if ":" in address else "ip"
    table = f"table {family} theirs {{ chain out {{ type nat hook output priority -150; tcp dport 22 {done}; }}; }}"
    with Pod() as pod:
        pod.open_listeners()
        pod.applied(*SETTINGS)
        pod.inside.output("nft", "-f", "-", text=table)
        pod.inside.output(*ip, "route", "add", "default", "via", GATEWAY[6 if ":" in address else 4], "table", "200")
        for words in ("add pref 100 lookup local", f"add pref 50 {uid_rule} lookup 200", "del pref 0"):
            pod.inside.output(*ip, "rule", *words.split())
        landing = str(pod.dial(address, 22, uid=1000))
        said = pod.capture("trace", "--live", "--uid", "1000", f"[{address}]:22" if ":" in address else f"{address}:22")
        assert landing == lands, said.stdout
        is_lost = "with a loopback address for its source" in said.stdout
        assert is_lost is (lands != "pod:15001"), said.stdout
        if not is_lost:
            assert f"{address if ':' not in address else f'[{address}]'}:15001" in said.stdout


@pytest.mark.parametrize(
    ("words", "rules", "is_lost"),
    [
        ("iptables -t mangle -A OUTPUT -p tcp -j DSCP --set-dscp 10", "", True),
        ("iptables -t mangle -A OUTPUT -p tcp -j TOS --set-tos 0x10", "", True),
        ("iptables -t mangle -A OUTPUT -p tcp -j DSCP --set-dscp 0", "", False),
        ("iptables -t mangle -A OUTPUT -p tcp -j TTL --ttl-set 9", "", False),
        ("true", "type route hook output priority -150; tcp dport 15001 ip dscp set af11", True),
        ("true", "type filter hook output priority -150; tcp dport 15001 ip dscp set af11", False),
    ],
)
def test_a_change_of_tos_routes_anew(backend: str, words: str, rules: str, is_lost: bool) -> None:
    """In OUTPUT of a chain of type route, and then IPv4 asks an ip rule before the table `local` as uid 0."""
    program, *rest = words.split()
    with Pod(ipv6=False) as pod:
        pod.open_listeners()
        pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
        pod.inside.output(f"{program}-{backend}" if rest else program, *rest)
        pod.inside.output("nft", "-f", "-", text=f"table ip theirs {{ chain out {{ {rules}; }}; }}" if rules else "")
        pod.inside.output("ip", "route", "add", "default", "via", GATEWAY[4], "table", "200")
        for line in ("add pref 100 lookup local", "add pref 50 uidrange 0-0 lookup 200", "del pref 0"):
            pod.inside.output("ip", "rule", *line.split())
        landing = str(pod.dial(ADDRESSES[4], 15001, uid=1000))
        said = pod.capture("trace", "--live", "--uid", "1000", f"{ADDRESSES[4]}:15001").stdout
        assert landing == ("timeout" if is_lost else "pod:15001"), said
        assert ("it leaves the pod" in said) is is_lost, said


# --- targets and matches of iptables that others use ------------------------------------------------------

CERTAIN = (
    "mangle OUTPUT -p tcp -j DSCP --set-dscp 10",
    "mangle OUTPUT -p tcp -j TOS --set-tos 0x10",
    "mangle PREROUTING -j TTL --ttl-set 64",
    "mangle PREROUTING -m connmark --mark 0x0 -j CONNMARK --set-xmark 0x1/0x1",
    "mangle OUTPUT -j MARK --set-xmark 0x1/0xff",
    "mangle OUTPUT -j MARK --xor-mark 0x1",
    "mangle POSTROUTING -p tcp -j CLASSIFY --set-class 1:1",
    "mangle OUTPUT -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "raw PREROUTING -p tcp --dport 8080 -j CT --zone 7",
    "raw PREROUTING -p tcp --dport 8080 -j CT --zone-orig 7",
    "raw OUTPUT -p tcp --dport 80 -j CT --zone 3",
    "raw OUTPUT -p tcp -j CT --notrack",
    "raw PREROUTING -p tcp --dport 8080 -j NOTRACK",
    "nat OUTPUT -p tcp --dport 80 -j REDIRECT",
    "nat OUTPUT -p tcp --dport 80 -j DNAT --to-destination 1.1.1.1",
    "nat OUTPUT -d 9.9.9.8/30 -p tcp -j NETMAP --to 1.1.1.0/30",
    "nat PREROUTING -p tcp -m addrtype --dst-type LOCAL -j ACCEPT",
    "nat OUTPUT -p tcp -m iprange --dst-range 9.9.9.0-9.9.9.255 -j ACCEPT",
    "nat OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
    "nat OUTPUT -d 0.0.0.9/0.0.0.255 -p tcp -j ACCEPT",
    "nat OUTPUT -p tcp -m owner --socket-exists -j ACCEPT",
    "nat OUTPUT -f -j ACCEPT",
    "nat OUTPUT -p tcp -g ISTIO_REDIRECT",
)
UNCERTAIN = (
    "filter INPUT -p tcp -j NFQUEUE --queue-num 0 --queue-bypass",
    "nat OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 8080-9080",
    "nat OUTPUT -p tcp -m owner --gid-owner 1000 --suppl-groups -j ACCEPT",
    "nat OUTPUT -p tcp -m length --length 40:80 -j ACCEPT",
    "nat OUTPUT -p tcp -m limit --limit 1/s -j ACCEPT",
)


def test_rules_of_others_are_followed_as_far_as_they_can_be_told(backend: str) -> None:
    """One rule above ours, and one call: it lands where the answer says, or at one of the ends that it names."""
    wrong = []
    with Pod(ipv6=False) as pod:
        ready_v4(pod)
        numbers = drawn.Calls(pod, random.Random(0)).numbers
        here = predicted.host(ipv6=False)
        for line in (*CERTAIN, *UNCERTAIN):
            table, chain, *words = line.split()
            pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
            pod.inside.output(f"iptables-{backend}", "-t", table, "-I", chain, *words)
            out = Call(pod.inside, "9.9.9.9", 80, 1000, 1000, "tcp", None, next(numbers))
            inward = Call(pod.outside, "10.244.0.5", 8080, 0, 0, "tcp", GATEWAY[4], next(numbers))
            call = inward if chain in ("PREROUTING", "INPUT") else out
            trace = traced(live_in(pod), call, pod, here)
            (landing,) = pod.traffic.land([call], patience=SHORT)
            expected = {"timeout"} if trace.hindered else landings_of(trace)
            if trace.doubted:
                expected.add("timeout")
            if trace.one_of:
                expected = {str(landing)}
            if str(landing) not in expected or (trace.became is Became.DEPENDS) is (line in CERTAIN):
                wrong.append(f"{line}: landed {landing}, predicted {expected} {trace.became}")
            pod.inside.output(f"iptables-{backend}", "-t", table, "-D", chain, "1")
    assert not wrong, "\n".join(wrong)


STATEMENTS = """\
ct helper set "ftp" | ct timeout set "slow" | counter name "every" | quota name "much" | limit rate 1000/second accept
add @seen { ip daddr } | update @seen { ip daddr timeout 5s } | tcp dport vmap @ports
tcp dport vmap { 80 : accept, 81 : drop } | tcp dport 80 jump { counter; return; }
tcp dport 80 goto { counter; accept; }
meta nftrace set 1 | meta priority set 1:2 | ct zone set 7 | ct event set new | ct label set 1 | notrack | log group 5
ip ttl set 33 | ip id set 5 | tcp urgptr set 0 | ip dscp set ef | ip ecn set 1 | tcp option maxseg size set 1000
tcp flags syn tcp option maxseg size set rt mtu | tcp window set 1000 | fib saddr . oif type local accept
meta skuid 0-500 drop | meta l4proto 132 drop | ct state invalid drop | ct mark set meta mark
ct status snat drop | ct status dnat drop | fib daddr type local drop | tcp flags & (fin|syn|rst|ack) == syn accept
@th,16,16 81 drop | @nh,128,32 0x09090909 accept | ip daddr & 0.0.0.9 == 0.0.0.9 accept
ip daddr ^ 1.1.1.1 == 8.8.8.8 accept
ip daddr . tcp dport { 9.9.9.9 . 81 } drop | meta mark set tcp dport map { 80 : 5, 81 : 6 } | sctp dport 80 drop
tcp dport 80 reject | tcp dport 81 reject"""
"""What can be told of each of them."""
AMONG = """
table inet theirs {
  set seen {
    type ipv4_addr
    size 100
    flags dynamic,timeout
    timeout 1m
  }
  map ports {
    type inet_service : verdict
    elements = { 81 : drop }
  }
  counter every {
  }
  quota much {
    over 1000 mbytes
  }
  ct helper ftp {
    type "ftp" protocol tcp
  }
  ct timeout slow {
    protocol tcp
    policy = { established: 100 }
  }
  chain out {
    type filter hook output priority -160
    STATEMENT
  }
}
"""


@every_backend
def test_statements_of_nft_are_followed(backend: str) -> None:
    """One rule of others that is asked before ours: the call lands where the answer says, and it does not depend."""
    wrong = []
    with Pod(ipv6=False) as pod:
        ready_v4(pod)
        numbers = drawn.Calls(pod, random.Random(0)).numbers
        here = predicted.host(ipv6=False)
        pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
        for statement in (each.strip() for line in STATEMENTS.splitlines() for each in line.split(" | ")):
            pod.inside.output("nft", "-f", "-", text=AMONG.replace("STATEMENT", statement))
            call = Call(pod.inside, "9.9.9.9", 80, 1000, 1000, "tcp", None, next(numbers))
            trace = traced(live_in(pod), call, pod, here)
            (landing,) = pod.traffic.land([call], patience=SHORT)
            expected = {"timeout"} if trace.hindered else landings_of(trace)
            if str(landing) not in expected or trace.became is Became.DEPENDS:
                wrong.append(f"{statement}: landed {landing}, predicted {expected} {trace.became}")
            pod.inside.output("nft", "delete table inet theirs")
    assert not wrong, "\n".join(wrong)


def ready_v4(pod: Pod) -> None:
    pod.open_listeners()
    for namespace in (pod.inside, pod.outside):
        namespace.output("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
    assert str(pod.dial(GATEWAY[4], 80)) == "ext:80"


@pytest.mark.parametrize(("program", "here"), [("iptables-nft", "127.0.0.1"), ("ip6tables-nft", "[::1]")])
def test_a_target_in_a_table_that_cannot_be_printed_keeps_its_options(program: str, here: str) -> None:
    """A native `dnat` keeps iptables-nft-save from printing a table: REDIRECT's ports are read all the same, and where
    the options of a target are not read, it depends."""
    with Pod() as pod:
        for rule_of_others in (
            "-A OUTPUT -p tcp --dport 91 -j REDIRECT",
            "-A OUTPUT -p tcp --dport 92 -j CONNMARK --set-mark 3",
            "-A OUTPUT -p tcp -j REDIRECT --to-ports 16001",
        ):
            pod.inside.output(program, "-t", "nat", *rule_of_others.split())
        family, to = ("ip", "1.1.1.1") if program == "iptables-nft" else ("ip6", "[2001:db8::1]")
        pod.inside.output("nft", f"add rule {family} nat OUTPUT tcp dport 80 dnat to {to}")

        def said(port: int) -> str:
            return pod.capture("trace", "--live", f"{here}:{port}").stdout.splitlines()[-1]

        assert said(443).endswith(f"it goes to {here}:16001")
        assert said(91).endswith(f"it goes to {here}:91")
        assert "it depends on rule 2 of OUTPUT" in said(92)
