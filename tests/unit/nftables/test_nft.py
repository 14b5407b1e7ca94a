"""What the kernel tells of nf_tables, read into rules: `recorded/nf_tables.txt` is what it told of `nf_tables.nft`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rules.addresses import ip_address
from rules.iptables.reading import tables
from rules.iptables.writing import rule_text
from rules.meaning.tracking import needs_conntrack
from rules.netfilter.effects import Nothing, Retag, Unknown
from rules.netfilter.hooks import BaseChain, merged, stations, undecided
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import NativeTarget
from rules.netfilter.values import Family
from rules.nftables.messages import Dump
from rules.nftables.program import Reader
from rules.nftables.tables import is_spoken_by_iptables, native_tables
from rules.packets.packet import Direction, Packet
from rules.packets.trace import Became, Trace
from rules.simulator.conclusions import conclusion
from rules.simulator.simulate import in_any_order, simulate
from tests.rig import predicted
from tests.unit.nftables.test_sets import attribute

if TYPE_CHECKING:
    from rules.netfilter.effects import Effect

RECORDED = Path(__file__).parent / "recorded" / "nf_tables.txt"
HERE = predicted.host()
OUT = Packet(
    Direction.OUT, Family.V4, "tcp", ip_address("10.244.0.5"), ip_address("9.9.9.9"), 80, "eth0", 40000, 1000, 1000
)
IN = Packet(Direction.IN, Family.V4, "tcp", ip_address("192.0.2.1"), ip_address("10.244.0.5"), 80, "eth0", 40000)

SHOWN = """\
ip nat OUTPUT 1: meta l4proto tcp xt owner return
ip nat OUTPUT 2: tcp dport { 22, 80 } accept
ip nat EARLY 1: tcp dport 80 redirect to :9
inet t c 1: tcp dport 80 accept
inet t o 1: ip saddr 1.1.1.1 ip daddr 10.1.0.0/16 tcp dport { 22, 80-90 } redirect to :15001
inet t o 2: meta skuid != 101 meta l4proto { tcp, udp } return
inet t o 3: tcp dport vmap { 22 : accept, 80 : jump c }
inet t o 4: ip daddr @s tcp dport 1 dnat to 1.2.3.4:80
inet t o 5: ip daddr . tcp dport @__set2 accept
inet t o 6: oifname eth* meta mark & 0xff 0x1 meta mark set meta mark & 0xffffffef ^ 0x10
inet t o 7: oif lo ct state established,new ct mark set meta mark
inet t o 8: dnat to one of several
inet t o 9: fib daddr type local limit drop
inet t o 10: tcp dport >= 1024 log tcp flags & 0x12 2 accept
inet t o 11: ip protocol tcp redirect
inet t o 12: ct state vmap { invalid : drop, established : accept, related : accept }
inet t o 13: ip daddr 10.0.0.0/24 tcp dport != 80-90 accept
inet t o 14: meta skuid { 5, 1000-2000 } oifname { cali*, eth0 } drop
inet t o 15: ip daddr . tcp dport map @__map3 dnat to one of several
inet t o 16: ip daddr . meta l4proto . th dport vmap @__map4
inet t o 17: meta l4proto tcp tcp flags & 0x12 2 accept
inet t o 18: meta l4proto udp sport 5 dport 53 (for the other family)
inet t o 19: something random or hidden 5 accept
inet t o 20: meta key 23 83886080 accept
inet t f 1: tcp dport 8080 tproxy to :15006 meta mark set 0x7 accept
inet t f 2: notrack
inet t f 3: ct zone set 5
inet t f 4: payload set
inet t f 5: meta l4proto tcp payload set
inet t f 6: reject
ip asleep p 1: -j DROP
netdev n i 1: ip daddr 9.9.9.9 drop
"""


def recorded() -> Dump:
    told: dict[str, list[bytes]] = {}
    interfaces = []
    for line in RECORDED.read_text().splitlines():
        kind, *words = line.split()
        if kind == "interfaces":
            interfaces.append((int(words[0]), words[1]))
        elif kind != "#":
            told.setdefault(kind, []).append(bytes.fromhex(words[0]))
    named, chains, rules, sets, elements = (
        tuple(told[kind]) for kind in ("tables", "chains", "rules", "sets", "elements")
    )
    return Dump(named, chains, rules, sets, elements, tuple(interfaces))


V4, V6 = (native_tables(recorded(), family) for family in Family)
SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A OUTPUT -p tcp -m owner --uid-owner 5 -j RETURN
-A OUTPUT -p tcp -j ACCEPT
COMMIT
"""


def test_every_rule_is_read_in_the_words_of_nft() -> None:
    """With its sets, maps and prefixes; what follows an expression that cannot be told is in it as well."""
    shown = [
        f"{table} {chain} {at}: {rule_text(rule)}"
        for table in V4
        for chain, rules in table.chains
        for at, rule in enumerate(rules, 1)
    ]
    assert "\n".join(shown) == SHOWN.rstrip()


def test_base_chains_and_dormant_tables_are_known() -> None:
    """Those of iptables are left out, in a table that others share as well."""
    assert [chain for table in V4 for chain in table.base_chains] == [
        BaseChain("ip", "nat", "EARLY", "nat", "OUTPUT", -101, False, V4[0].base_chains[0].handle),
        BaseChain("inet", "t", "o", "nat", "OUTPUT", -99, False, V4[1].base_chains[0].handle),
        BaseChain("inet", "t", "f", "filter", "PREROUTING", -150, True, V4[1].base_chains[1].handle),
        BaseChain("ip", "asleep", "p", "filter", "FORWARD", 0, False, V4[2].base_chains[0].handle),
        BaseChain("netdev", "n", "i", "filter", "INGRESS", 0, False, V4[3].base_chains[0].handle, "lo"),
    ]
    assert [str(table) for table in V4 if table.is_dormant] == ["ip asleep"]
    assert [str(table) for table in V6] == ["inet t", "netdev n"]


def test_what_iptables_prints_of_a_native_rule_is_put_right() -> None:
    """iptables-save shows `tcp dport { 22, 80 } accept` as a rule that accepts all TCP."""
    ruleset, natives = merged(Ruleset(Family.V4, tables(SAVED)), V4)
    own, native = ruleset.table("nat").chains()["OUTPUT"]
    assert (rule_text(own), rule_text(native)) == (
        "-p tcp -m owner --uid-owner 5 -j RETURN",
        "tcp dport { 22, 80 } accept",
    )
    assert native.text == "-p tcp -j ACCEPT"
    assert dict(natives[0].chains)["OUTPUT"] == (own, native)
    assert dict(natives[0].chains)["EARLY"] == dict(V4[0].chains)["EARLY"]


def steps(*named: tuple[str, dict[int, int]]) -> tuple[tuple[str, dict[int, bytes]], ...]:
    return tuple((name, {key: value.to_bytes(4, "big") for key, value in read.items()}) for name, read in named)


VERDICT = ("immediate", {1: 0})
PORT, ADDRESS, LENGTH = ("payload", {2: 2, 3: 2}), ("payload", {2: 1, 3: 12}), ("payload", {2: 2, 3: 4})


@pytest.mark.parametrize(
    ("program", "is_spoken"),
    [
        (steps(PORT, ("cmp", {2: 5}), VERDICT), True),
        (steps(PORT, ("range", {2: 1}), VERDICT), True),
        (steps(ADDRESS, ("cmp", {2: 0}), VERDICT), True),
        (steps(ADDRESS, ("cmp", {2: 5}), ("cmp", {2: 3}), VERDICT), False),
        (steps(LENGTH, ("cmp", {2: 0}), VERDICT), False),
        (steps(("meta", {2: 6}), ("cmp", {2: 0}), VERDICT), True),
        (steps(("meta", {2: 10}), ("cmp", {2: 0}), VERDICT), False),
        (steps(("lookup", {2: 1}), VERDICT), False),
        (steps(("redir", {1: 1})), False),
    ],
)
def test_what_iptables_prints_as_it_is_is_known(
    program: tuple[tuple[str, dict[int, bytes]], ...], is_spoken: bool
) -> None:
    """Of `ip saddr 10.0.0.1-10.0.0.9` it prints one address, of `udp length 9` nothing, of a set nothing."""
    assert is_spoken_by_iptables(program) is is_spoken


def at_o(*rules: int, packet: Packet = OUT, mark: int | None = None) -> Trace:
    """What becomes of a packet if the chain `o` of `inet t` has only these rules."""
    chains = dict((V4 if packet.family is Family.V4 else V6)[1 if packet.family is Family.V4 else 0].chains)
    native = V4[1].but(
        base_chains=V4[1].base_chains[:1],
        chains=(("o", tuple(chains["o"][at - 1] for at in rules)), ("c", chains["c"])),
    )
    return simulate((), packet if mark is None else packet.but(mark=mark), HERE, (native,))


def to(address: str, port: int, **more: object) -> Packet:
    return OUT.but(destination=ip_address(address), port=port, **more)


REDIRECT = 11
"""The rule that sends everything that comes to it to this host, which shows how far a packet came."""


@pytest.mark.parametrize(
    ("rules", "packet", "end"),
    [
        ((1,), to("10.1.2.3", 22, source=ip_address("1.1.1.1")), "127.0.0.1:15001"),
        ((1,), to("10.1.2.3", 85, source=ip_address("1.1.1.1")), "127.0.0.1:15001"),
        ((1,), to("10.1.2.3", 91, source=ip_address("1.1.1.1")), "10.1.2.3:91"),
        ((1,), to("10.2.2.3", 22, source=ip_address("1.1.1.1")), "10.2.2.3:22"),
        ((1,), to("10.1.2.3", 22), "10.1.2.3:22"),
        ((2, REDIRECT), to("9.9.9.9", 80), "9.9.9.9:80"),
        ((2, REDIRECT), to("9.9.9.9", 80, uid=101), "127.0.0.1:80"),
        ((2, REDIRECT), to("9.9.9.9", 80, uid=None), "127.0.0.1:80"),
        ((3, REDIRECT), to("9.9.9.9", 22), "9.9.9.9:22"),
        ((3, REDIRECT), to("9.9.9.9", 80), "9.9.9.9:80"),
        ((3, REDIRECT), to("9.9.9.9", 81), "127.0.0.1:81"),
        ((4,), to("10.9.9.9", 1), "1.2.3.4:80"),
        ((4,), to("11.0.0.0", 1), "11.0.0.0:1"),
        ((5, REDIRECT), to("1.1.1.1", 80), "1.1.1.1:80"),
        ((5, REDIRECT), to("1.1.1.1", 81), "127.0.0.1:81"),
        ((12, REDIRECT), to("9.9.9.9", 80), "127.0.0.1:80"),
        ((13, REDIRECT), to("10.0.0.9", 79), "10.0.0.9:79"),
        ((13, REDIRECT), to("10.0.0.9", 80), "127.0.0.1:80"),
        ((14, REDIRECT), to("9.9.9.9", 80, uid=1000), "dropped"),
        ((14, REDIRECT), to("9.9.9.9", 80, uid=2001), "127.0.0.1:80"),
        ((14, REDIRECT), to("9.9.9.9", 80, interface="cali7"), "dropped"),
        ((14, REDIRECT), to("9.9.9.9", 80, interface="eth07"), "127.0.0.1:80"),
        ((15, REDIRECT), to("10.96.0.1", 80), "10.0.0.9:8080"),
        ((15, REDIRECT), to("10.96.0.1", 81), "127.0.0.1:81"),
        ((16, REDIRECT), to("10.96.0.1", 443), "10.96.0.1:443"),
        ((16, REDIRECT), to("10.96.0.1", 443, protocol="udp"), "10.96.0.1:443"),
        ((17, REDIRECT), to("9.9.9.9", 80), "9.9.9.9:80"),
        ((18, REDIRECT), to("9.9.9.9", 53, source_port=5), "127.0.0.1:53"),
    ],
)
def test_a_packet_meets_native_rules_as_nf_tables_runs_them(rules: tuple[int, ...], packet: Packet, end: str) -> None:
    """Sets, intervals, wildcards, maps, verdict maps, owners, states and prefixes."""
    trace = at_o(*rules, packet=packet)
    assert (trace.became.value if trace.address is None else f"{trace.address}:{trace.port}") == end


def test_marks_are_computed() -> None:
    """`meta mark set mark or 0x10` where the mark's low byte is 1."""
    assert at_o(6, REDIRECT, mark=0x201).marked == 0x211
    assert at_o(6, REDIRECT, mark=0x202).marked == 0x202


@pytest.mark.parametrize(
    ("rules", "ends"),
    [
        ((8,), {"10.0.0.1:80", "10.0.0.2:80"}),
        ((9, REDIRECT), {"dropped", "127.0.0.1:80"}),
        ((19, REDIRECT), {"9.9.9.9:80", "127.0.0.1:80"}),
        ((20, REDIRECT), {"9.9.9.9:80", "127.0.0.1:80"}),
    ],
)
def test_what_cannot_be_told_makes_the_answer_depend(rules: tuple[int, ...], ends: set[str]) -> None:
    """A random map, a limit, an option of TCP, a cgroup: each end is named."""
    packet = OUT if rules != (9, REDIRECT) else to("10.244.0.5", 80)
    trace = at_o(*rules, packet=packet)
    assert trace.became is Became.DEPENDS
    assert {way.became.value if way.address is None else f"{way.address}:{way.port}" for way in trace.ways} >= ends
    assert "of the table inet t" in conclusion(trace, str)


def test_a_dormant_table_is_not_asked() -> None:
    """Whatever its rules say."""
    packet = to("9.9.9.9", 81, uid=101)
    assert at_o(REDIRECT, packet=packet).became is Became.REDIRECTED
    asleep = V4[1].but(is_dormant=True, base_chains=V4[1].base_chains[:1])
    assert simulate((), packet, HERE, (asleep,)).became is Became.BYPASSED


def test_what_arrives_is_asked_by_netdev_first() -> None:
    """On the interface that the chain is bound to."""
    own = V4[3].but(base_chains=tuple(chain.but(device="eth0") for chain in V4[3].base_chains))
    packet = IN.but(destination=ip_address("9.9.9.9"))
    assert simulate((), packet, HERE, (own,)).became is Became.DROPPED
    assert simulate((), packet, HERE, (V4[3],)).became is Became.BYPASSED


OURS = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 7\nCOMMIT\n"


def test_chains_of_type_nat_are_asked_in_their_order_and_the_first_that_changes_the_address_wins() -> None:
    """Also where an earlier one accepts. Of two at one place it is not known which is asked first."""
    ruleset = Ruleset(Family.V4, tables(OURS))
    early = V4[0].but(chains=(("EARLY", dict(V4[0].chains)["EARLY"]),))
    assert simulate((ruleset,), OUT, HERE, (early,)).port == 9
    assert simulate((ruleset,), OUT.but(port=81), HERE, (early,)).port == 7
    late = early.but(base_chains=tuple(chain.but(priority=-99) for chain in early.base_chains))
    assert simulate((ruleset,), OUT, HERE, (late,)).port == 7
    tied = early.but(base_chains=tuple(chain.but(priority=-100) for chain in early.base_chains))
    assert undecided(stations((ruleset,), (tied,))) == (0, 1)
    trace = in_any_order((ruleset,), OUT, HERE, (tied,))
    assert (trace.became, {way.port for way in trace.ways}) == (Became.DEPENDS, {7, 9})
    assert "the table ip nat was made before or after" in conclusion(trace, str)
    assert in_any_order((ruleset,), OUT.but(port=81), HERE, (tied,)).port == 7


def test_a_nat_chain_sees_the_mark_that_a_filter_chain_sets_behind_its_priority() -> None:
    """Chains of type nat run inside the NAT hook at -100, whatever their own priority."""
    marking = Ruleset(Family.V4, tables("*mangle\n-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"))
    chains = dict(V4[1].chains)
    asking = V4[1].but(
        base_chains=tuple(chain.but(priority=-199) for chain in V4[1].base_chains[:1]),
        chains=(("o", (chains["o"][5], chains["o"][10])), ("c", ())),
    )
    assert simulate((marking,), OUT, HERE, (asking,)).steps[1].matched is True


def test_counting_connections_needs_conntrack() -> None:
    """`ct count over 5` (nft_connlimit.c), where `limit rate` does without."""
    reader = Reader(recorded(), Family.V4)
    counts, limits = (reader.rule("ip", "nat", [(name, {})]) for name in ("connlimit", "limit"))
    assert (needs_conntrack(counts), needs_conntrack(limits)) == (True, False)


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


@pytest.mark.parametrize(
    ("offset", "mask", "flip", "effect"),
    [
        (8, 0x00FF, 0x2100, Nothing()),  # ip ttl set 33: the protocol beside it is read, and written as it was
        (8, 0xFF00, 0x0006, Unknown("payload set")),
        (8, 0x00FF, 0x2101, Unknown("payload set")),
        (0, 0xFF03, 0x00B8, Retag("payload set")),  # ip dscp set ef
        (0, 0x0FFF, 0x4000, Unknown("payload set")),  # another version of IP
        (2, 0x0000, 0x0028, Unknown("payload set")),  # another length
        (4, 0x0000, 0x0005, Nothing()),  # ip id set 5
        (12, 0xFFFF, 0x0000, Nothing()),
        (12, 0xFFFF, 0x0001, Unknown("payload set")),
    ],
)
def test_a_byte_that_is_written_as_it_was_is_not_written(offset: int, mask: int, flip: int, effect: Effect) -> None:
    """nft writes two bytes at once, for the checksum, and keeps one of them by its mask."""
    order = recorded().order
    at = {2: number(1), 3: number(offset), 4: number(2)}
    masks = {key: attribute(1, number(bits, 2), order) for key, bits in ((4, mask), (5, flip))}
    writing = [
        ("payload", {1: number(1), **at}),
        ("bitwise", {1: number(1), 2: number(1), 3: number(2), **masks}),
        ("payload", {5: number(1), **at}),
    ]
    reader = Reader(recorded(), Family.V4)
    assert reader.rule("ip", "t", writing).target == NativeTarget(effect, "payload set")


def test_what_is_written_elsewhere_than_it_was_read_is_written_anew() -> None:
    """Bytes of the source put where the destination stands."""
    at = {2: number(1), 3: number(12), 4: number(2)}
    writing = [("payload", {1: number(1), **at}), ("payload", {5: number(1), **at, 3: number(16)})]
    assert Reader(recorded(), Family.V4).rule("ip", "t", writing).target == NativeTarget(
        Unknown("payload set"), "payload set"
    )
