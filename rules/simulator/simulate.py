"""What would become of a packet: a walk through the tables of one family, as netfilter would walk them.

The order of base chains in a hook is that of the kernel (`rules.netfilter.hooks`): of iptables' tables raw, conntrack,
mangle, nat, filter, security; OUTPUT and POSTROUTING for what a local process sends, PREROUTING and INPUT for what
arrives. A packet that leaves over lo passes all four, with one difference to one that arrives: conntrack knows it
already, and has had its destination decided in OUTPUT, be it by deciding nothing (nf_nat_inet_fn of
net/netfilter/nf_nat_core.c), so PREROUTING of nat does not see it.

What cannot be told is never guessed: a match that asks for more than a packet's fields, a target that nobody knows, one
that chooses between several places. Each way it could go is walked; if they end alike, that is the answer, and else the
answer is that it depends on that rule, with all that could become of it.
"""

from __future__ import annotations

from itertools import permutations

from rules.meaning.spoken import asked_of, conditions, effect
from rules.meaning.tracking import needs_conntrack
from rules.netfilter import effects as e
from rules.netfilter import fields as f
from rules.netfilter.hooks import (
    CONNTRACK,
    EGRESS,
    FORWARD,
    INGRESS,
    INPUT,
    KIND_NAT,
    KIND_ROUTE,
    POSTROUTING,
    Station,
    stations,
    undecided,
)
from rules.netfilter.spans import one, within
from rules.netfilter.targets import Accept, Drop, Jump, Reject, Return, Zone
from rules.netfilter.values import BUILT_IN, MANGLE, NAT, OUTPUT, PREROUTING, Family, address_of_family
from rules.packets.packet import (
    ESTABLISHED,
    INVALID,
    NEW,
    RELATED,
    SOMEBODY,
    UNTRACKED,
    Direction,
    Host,
    Packet,
    written,
)
from rules.packets.trace import Became, Step, Trace
from rules.plan.names import (
    ISTIO_DIVERT,
    ISTIO_IN_REDIRECT,
    ISTIO_OUTPUT_DNS,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
    LOOPBACK,
    LOOPBACK_INTERFACE,
    OURS,
)
from rules.routing.policy import Flow, ip_command
from rules.simulator.conclusions import rule_named, rule_place, verdict
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn, TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.hooks import NativeTable
    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.spans import Span
    from rules.routing.policy import Way

    Address: TypeAlias = IPv4Address | IPv6Address
    Ended: TypeAlias = tuple[Trace, list[Step | str]]
    """What became of a packet on one way, and what left a choice on it: rules, or something in words."""
    Walked: TypeAlias = tuple[list[Ended], bool]
    """The ways that were walked, and whether those are all."""


EPHEMERAL: Span = (32768, 61000)
"""Where the kernel takes a source port from that nobody asked for (ip-sysctl, ip_local_port_range)."""
MOST_WORLDS = 256
"""How many ways through rules that cannot be told are walked before we say that it depends."""
MOST_ENDS = 8
"""So many places of which a rule chooses one are followed one by one; of more, the first and the last."""
MOST_ORDERS = 4
"""Of so many tables of which it is not known which came first every order is tried."""
DEEPEST = 64
"""Chains within chains. The kernel takes no loops; nf_tables stops at 16."""
CAPTURES: dict[str, Became] = {
    ISTIO_REDIRECT: Became.CAPTURED_OUTBOUND,
    ISTIO_IN_REDIRECT: Became.CAPTURED_INBOUND,
    ISTIO_TPROXY: Became.CAPTURED_INBOUND,
    ISTIO_DIVERT: Became.CAPTURED_INBOUND,
    ISTIO_OUTPUT_DNS: Became.CAPTURED_DNS,
}
"""What a rule captures that changes the destination, by the chain of ours that it is in."""
ENDS = frozenset({ISTIO_REDIRECT, ISTIO_IN_REDIRECT, ISTIO_TPROXY, ISTIO_DIVERT})
"""The chains whose rules only carry out what the rule that jumps to them decided."""


def simulate(
    rulesets: Sequence[Ruleset],
    packet: Packet,
    host: Host,
    natives: Sequence[NativeTable] = (),
    order: Sequence[int] = (),
) -> Trace:
    """What becomes of this packet between these rules, and those of the native tables.

    Base chains that the kernel asks at one place act in the order of their layers (`order`, or that in which they are
    given), rulesets before native tables.
    """
    of_family = tuple(ruleset for ruleset in rulesets if ruleset.family is packet.family)
    ended, is_complete = walked(of_family, packet, host, natives, order)
    return judged(ended, is_complete=is_complete)


def walked(
    rulesets: Sequence[Ruleset], packet: Packet, host: Host, natives: Sequence[NativeTable], order: Sequence[int]
) -> Walked:
    """Every way that it could go.

    A later packet of a connection goes on from each way that the first one could have gone: what that is sent to and
    what the connection remembers is all that it has of it, and the rules may have another verdict for it.
    """
    if packet.state != ESTABLISHED or packet.answers:
        return walked_after(None, rulesets, packet, host, natives, order)
    firsts, is_complete = walked(rulesets, packet.but(state=NEW), host, natives, order)
    begun: dict[tuple[object, ...], Ended] = {}
    for first, doubts in firsts:
        end = (first.became, first.address, first.port, first.one_of)
        begun.setdefault((*end, first.remembered, first.bound, first.translated), (first, doubts))
    ended: list[Ended] = []
    for first, doubts in begun.values():
        if first.became is Became.DEPENDS:
            ended.append((first.but(packet=packet), doubts))
            continue
        following, are_all = walked_after(first, rulesets, packet, host, natives, order)
        ended += [(trace, [*doubts, *more]) for trace, more in following]
        is_complete = is_complete and are_all
        if len(ended) > MOST_WORLDS:
            return ended, False
    return ended, is_complete


def walked_after(
    first: Trace | None,
    rulesets: Sequence[Ruleset],
    packet: Packet,
    host: Host,
    natives: Sequence[NativeTable],
    order: Sequence[int],
) -> Walked:
    """The same behind this first packet of its connection, if it is a later one."""
    rules = prepared(rulesets, natives, order)
    ended: list[Ended] = []
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        choices = waiting.pop()
        walk = _Walk(rules, packet, host, choices, first)
        trace = walk.ended()
        is_first = packet.state == NEW and not packet.answers and not packet.is_later
        if is_first and trace.bound and trace.address and walk.zoned and not is_ours(walk.zoned):
            answers = simulate(rulesets, answer_to(trace, host), host, natives, order)
            if answers.zone != trace.zone:
                why = f"its answers are in zone {answers.zone} of conntrack, where nobody knows its connection"
                trace = trace.but(became=Became.DROPPED, address=None, port=None, decided=walk.zoned, reason=why)
        if is_first and walk.untracked and trace.address and packet.protocol == "tcp":
            trace = picked_up(trace, rulesets, host, natives, order)
        ended.append((trace, [step for step, _ in walk.chosen]))
        # What was met for the first time on this way went the first way: walk each of the others as well.
        waiting += [
            (*walk.choices[:at], other)
            for at in range(len(choices), len(walk.chosen))
            for other in range(1, walk.chosen[at][1])
        ]
        if len(ended) + len(waiting) > MOST_WORLDS:
            break
    return ended, not waiting


def picked_up(
    trace: Trace, rulesets: Sequence[Ruleset], host: Host, natives: Sequence[NativeTable], order: Sequence[int]
) -> Trace:
    """The same of the first packet of a connection that is kept from conntrack, with what becomes of others of it.

    Those that are not kept from it are taken for the middle of a new connection (nf_conntrack_tcp_loose).
    """
    others = {
        "its answers are": answer_to(trace, host).but(answers=None, is_later=True),
        "what follows is": trace.packet.but(is_later=True),
    }
    doubts = []
    for what, other in others.items():
        ended = simulate(rulesets, other, host, natives, order)
        if ended.bound and not ended.ways:
            return trace.but(hindered=f"but {what} {verdict(ended)}, so it fails")
        if any(way.bound for way in ended.ways):
            doubts.append(f"and whether {what} redirected depends on {doubts_of(ended)}")
    return trace.but(doubted=doubts[0]) if doubts else trace


def answer_to(trace: Trace, host: Host) -> Packet:
    """The first answer to a packet that was sent somewhere else, as raw is asked about it."""
    packet, address = trace.packet, trace.address
    stays = address is None or host.is_local(address) or trace.became is Became.CAPTURED_INBOUND
    return packet.but(
        direction=Direction.OUT if stays else Direction.IN,
        source=address or packet.destination,
        source_port=trace.port,
        destination=packet.source,
        port=packet.source_port or EPHEMERAL[0],
        interface=host.leaves_on(packet.family, packet.source) if stays else packet.interface,
        uid=SOMEBODY if stays else None,
        gid=SOMEBODY if stays else None,
        mark=0,
        answers=(packet.destination, packet.port),
    )


def judged(ended: Sequence[Ended], *, is_complete: bool) -> Trace:
    """One answer of all ways that were walked: the same for all of them, or that it depends."""
    kinds: dict[tuple[Became, Address | None, int | None, str], Trace] = {}
    for trace, _ in ended:
        kinds.setdefault((trace.became, trace.address, trace.port, trace.one_of), trace)
    plainest, _ = ended[0]
    if is_complete and len(kinds) == 1 and plainest.became is not Became.DEPENDS:
        return plainest
    doubts = dict.fromkeys(doubt for trace, unknown in ended for doubt in (*unknown, *trace.depends_on))
    return in_doubt(
        plainest,
        " and ".join(doubt for doubt in doubts if isinstance(doubt, str)),
        tuple(doubt for doubt in doubts if not isinstance(doubt, str)),
        tuple(kinds.values()) if is_complete else (*kinds.values(), in_doubt(plainest, "", (), ())),
    )


def in_doubt(trace: Trace, why: str, depends_on: tuple[Step, ...], ways: tuple[Trace, ...]) -> Trace:
    """The same, of which it depends how it ends: in one of these ways."""
    nowhere = trace.but(became=Became.DEPENDS, address=None, port=None, decided=None, one_of="")
    return nowhere.but(reason=why, depends_on=depends_on, ways=ways)


class _Rules:
    """All rules of one family, by the hooks that ask them, with what each of them means."""

    def __init__(self, rulesets: Sequence[Ruleset], natives: Sequence[NativeTable], order: Sequence[int]) -> None:
        self.hooks = stations(rulesets, natives, order)
        self.meanings: dict[int, tuple[tuple[f.Condition, ...], e.Effect]] = {}
        self._deeds: tuple[bool, bool] | None = None
        self.kinds = [rule for ruleset in rulesets for rule in ruleset.kinds()]
        self.kinds += [rule for native in natives for _, those in native.chains for rule in those]
        self.tracks = any(needs_conntrack(rule) for rule in self.kinds)
        self._asks_for_nat: bool | None = None

    def meaning(self, rule: Rule) -> tuple[tuple[f.Condition, ...], e.Effect]:
        known = self.meanings.get(id(rule))
        if known is None:
            known = tuple(each for asked in rule.matches for each in conditions(asked)), effect(rule.target)
            self.meanings[id(rule)] = known
        return known

    @property
    def asks_for_nat(self) -> bool:
        """Whether some rule asks what nat did to a connection (`--ctstate DNAT`, `ct status`)."""
        if self._asks_for_nat is None:
            self._asks_for_nat = any(f.asks_for(f.REWRITTEN, self.meaning(rule)[0]) for rule in self.kinds)
        return self._asks_for_nat

    @property
    def may_drop(self) -> bool:
        """Whether some rule or policy drops packets or refuses them, or does with them nobody knows what."""
        return self.deeds[0]

    @property
    def may_part(self) -> bool:
        """Whether some rule keeps packets from conntrack, or puts them in a zone of it."""
        return self.deeds[1]

    @property
    def deeds(self) -> tuple[bool, bool]:
        if self._deeds is None:
            those = [station for at_hook in self.hooks.values() for station in at_hook]
            rules = (rule for station in those for chain in station.rules.values() for rule in chain)
            kinds = {type(done) for rule in rules for done in e.first_of(self.meaning(rule)[1])}
            drops = any(station.drops for station in those) or not kinds.isdisjoint({Drop, Reject, e.Queue, e.Unknown})
            self._deeds = drops, not kinds.isdisjoint({Zone, e.NoTrack})
        return self._deeds


def prepared(rulesets: Sequence[Ruleset], natives: Sequence[NativeTable], order: Sequence[int]) -> _Rules:
    """The rules by their hooks. Whoever asks about many packets asks the same rules."""
    key = (*map(id, rulesets), -1, *map(id, natives), -1, *order)
    known = _prepared.get(key)
    if known is None:
        if len(_prepared) >= MOST_PREPARED:
            _prepared.clear()
        # What is kept here cannot give its id to something else.
        known = _prepared[key] = (_Rules(rulesets, natives, order), (*rulesets, *natives))
    return known[0]


MOST_PREPARED = 32
_prepared: dict[tuple[int, ...], tuple[_Rules, tuple[Ruleset | NativeTable, ...]]] = {}
SENT_AWAY = "an ip rule that is asked before the table local sends it away, although it is for this host"
STRAYED = "nothing leaves with a loopback address for its source"


class _Ended(Exception):
    """The walk is over before the packet arrived anywhere."""

    def __init__(self, became: Became, step: Step | None, reason: str = "") -> None:
        self.became = became
        self.step = step
        self.reason = reason


class _Back:
    """The chain is left as at its end."""


BACK = _Back()


class _Walk:
    """One way through the rules, on which what cannot be told goes as `choices` has it."""

    def __init__(
        self, rules: _Rules, packet: Packet, host: Host, choices: tuple[int, ...], first: Trace | None
    ) -> None:
        self.rules = rules
        self.packet = packet
        self.host = host
        self.types = host.types(packet.family)
        self.looks_up = host.looks_up(packet.family)
        self.asks_before_local = host.asks_before_local(packet.family)
        self.choices = list(choices)
        self.chosen: list[tuple[Step | str, int]] = []
        """The rules that left a choice, or what did in words, and between how many ways."""
        self.first = first
        self.source: Address | None = packet.source
        self.source_port = packet.source_port
        self.destination = packet.destination
        self.port = packet.port
        self.mark: int | None = packet.mark
        self.tagged = ""
        """None: it was given one that nobody can tell."""
        remembered = first.remembered if first and packet.connmark is None else packet.connmark
        self.connmark: int | None = remembered or 0
        self.forgot: Step | None = None
        """The rule that gave it a mark that nobody can tell."""
        self.state = INVALID
        """Until conntrack has looked, it is as good as one that it cannot place."""
        self.is_tracked = False
        self.untracked: Step | None = None
        """The rule that keeps it from conntrack."""
        self.zone = 0
        self.zoned: Step | None = None
        """The rule that put it in its conntrack zone."""
        self.has_socket = packet.direction is Direction.OUT and packet.uid is not None
        self.is_met = False
        """Whether it may have been given the socket that it is for."""
        self.arrives, self.leaves = "", ""
        self.goes = packet.interface
        """Where it will leave as things stand, whatever OUTPUT is told."""
        self.is_turned = False
        """Whether OUTPUT had its way chosen anew."""
        self.steps: list[Step] = []
        self.bound: Step | None = None
        """The rule that changed the destination."""
        self.names_address = False
        self.one_of = ""
        self.handed: Step | None = None
        """The rule that gave it to a transparent listener."""
        self.handed_to: int | None = None
        self.led_by: dict[str, Step] = {}
        """The rule that led into each chain."""
        self.let_go: dict[tuple[str, str], Step] = {}
        """The rule of ours, or of a built-in chain, that ended each walk without touching the packet."""
        self.destination_decided = self.source_decided = False
        self.view: f.Known = ()

    # --- the way ------------------------------------------------------------------------------------------

    def ended(self) -> Trace:
        """What became of the packet in the end."""
        try:
            is_sent = self.packet.direction is Direction.OUT
            kept = self.sent() if is_sent else self.arrived(self.packet.interface)
        except _Ended as end:
            return self.trace(end.became, None, None, end.step, end.reason)
        return self.arrival(kept)

    def sent(self) -> bool:
        """OUTPUT and POSTROUTING. Whether the packet stays in this namespace."""
        policy = self.host.policy
        if policy and policy.is_custom(self.packet.family) and not self.is_own():
            self.goes = self.begins()
        # All of OUTPUT is told the interface that was chosen before it began, even where the packet was turned since.
        self.leaves = self.goes
        self.hook(OUTPUT)
        goes = self.goes
        if self.is_strayed():
            raise _Ended(Became.DROPPED, self.bound, STRAYED)
        self.leaves = goes
        self.hook(POSTROUTING)
        self.hook(EGRESS, goes)
        if self.packet.answers:
            self.source, self.source_port = self.packet.answers
        if goes != LOOPBACK_INTERFACE:
            return False
        self.has_socket = False
        return self.arrived(LOOPBACK_INTERFACE)

    def begins(self) -> str:
        """The interface by which it leaves before any rule is asked. Raises _Ended if the ip rules refuse it.

        Where the kernel chooses the source address it asks them before it has one, and again when it has: IPv4 always
        (ip_route_connect of net/ipv4/route.h), IPv6 where it was refused (ip6_dst_lookup_tail of
        net/ipv6/ip6_output.c).
        """
        flow = self.flow()
        is_known = self.packet.is_bound or self.packet.answers
        way = self.routed(flow) if is_known else self.way_of_the_unbound(flow)
        if way and way.is_kept:
            return LOOPBACK_INTERFACE
        goes = way.device if way and way.device else self.goes
        if not is_known and self.host.is_local(self.destination):
            self.source = self.host.address_of(goes, flow.family, self.destination) or self.source
        if flow.family is Family.V4 and goes != LOOPBACK_INTERFACE and self.source and self.source.is_loopback:
            raise _Ended(Became.DROPPED, None, STRAYED)  # __mkroute_output, before anything is sent
        return goes

    def way_of_the_unbound(self, flow: Flow) -> Way | None:
        """Where they send what has no source address yet, which is chosen on the way."""
        is_v4 = flow.family is Family.V4
        way = self.routed(flow.but(source=address_of_family(flow.family, 0)), is_final=is_v4)
        if way is None:
            return None
        if way.is_refused or (way.by is None and not is_v4):
            self.source = self.source_of_any()
        else:
            self.source = self.source_by(way)
            if not is_v4 or self.is_lent(way):
                return way
        return self.routed(flow.but(source=self.source))

    def source_of_any(self) -> Address | None:
        """The source that IPv6 chooses without a route: among the addresses of all interfaces, by RFC 6724."""
        own = [at.address for at in self.host.addresses if at.address.version == 6]
        own = [address for address in own if not (address.is_loopback or address.is_link_local)]
        return own[self.choose("which of our addresses the kernel sends it from", len(own))] if own else self.source

    def source_by(self, way: Way) -> Address | None:
        """The source that the kernel chooses: what the route names; where it delivers here, in IPv4 the destination
        itself; else an address of the interface, which is the packet's own where that is as stated."""
        if way.source or (way.is_kept and self.packet.family is Family.V4):
            return way.source or self.destination
        goes = LOOPBACK_INTERFACE if way.is_kept else way.device
        if goes in ("", self.goes):
            return self.source
        return self.host.address_of(goes, self.packet.family, self.destination) or self.source

    def is_lent(self, way: Way) -> bool:
        """Whether IPv4 sends it from an address that no interface has: the one it goes to, which a route of others
        delivers here. Raises _Ended if a connection needs a second look at the ip rules, where that is refused
        (ip_route_output_key_hash_rcu of net/ipv4/route.c); a datagram without one is sent.
        """
        lent = int(self.source or 0)
        if not way.is_kept or within(self.host.types(Family.V4)["LOCAL"], lent, lent + 1):
            return False
        why = f"it would be sent from {self.source}, which no interface has: connect() fails"
        if self.packet.protocol == "tcp" or not self.choose(why, 2):
            raise _Ended(Became.DROPPED, None, why)
        return True

    def turn(self) -> None:
        """Choose the interface anew, where OUTPUT changed the mark or the destination."""
        self.is_turned = True
        self.goes = self.way()
        if self.packet.family is Family.V4 and self.is_strayed():
            # ip_route_me_harder is refused by __mkroute_output (net/ipv4/route.c), and what comes behind is not asked.
            raise _Ended(Became.DROPPED, self.bound, STRAYED)

    def is_strayed(self) -> bool:
        """Whether it would leave with an address that is good on lo only."""
        return self.goes != LOOPBACK_INTERFACE and bool(self.source and self.source.is_loopback)

    def arrived(self, interface: str) -> bool:
        """PREROUTING, and INPUT or FORWARD. Whether the packet stays in this namespace."""
        self.arrives, self.leaves = interface, ""
        self.hook(INGRESS, interface)
        sent_to = self.destination
        self.hook(PREROUTING)
        self.is_no_martian()
        # What left over lo has its route already, unless nat changes where it goes (ip_rcv_finish_core).
        is_back = interface == LOOPBACK_INTERFACE and self.packet.direction is Direction.OUT
        if (is_back and self.destination == sent_to) or self.is_own() or self.is_kept():
            # A connection's socket is found before INPUT (tcp_v4_early_demux), a listener by TPROXY.
            self.is_met = self.is_later or self.handed_to is not None
            self.hook(INPUT)
            return True
        if self.handed_to is not None:
            # ip_forward of net/ipv4/ip_forward.c drops what has a socket already.
            why = f"no ip rule keeps mark {self.mark or 0:#x} in the pod"
            raise _Ended(Became.DROPPED, None, why)
        self.leaves = self.way()
        self.hook(FORWARD)
        self.hook(POSTROUTING)
        self.hook(EGRESS, self.leaves)
        return False

    def is_no_martian(self) -> None:
        """Beside ip rules of others IPv4 is asked whether its source is one of ours (__fib_validate_source of
        net/ipv4/fib_frontend.c). Raises _Ended if it is."""
        policy, source, packet = self.host.policy, self.source, self.packet
        is_asked = policy and packet.family is Family.V4 and self.arrives != LOOPBACK_INTERFACE
        if not (policy and is_asked and source and policy.is_custom(packet.family)):
            return
        back = self.flow().but(mark=0, destination=source, source=self.destination, arrives=LOOPBACK_INTERFACE)
        back = back.but(port=self.source_port, source_port=self.port)
        way = policy.way(back)[0]
        if way.is_kept and not self.host.is_local(source):
            raise _Ended(Became.DROPPED, None, f"`ip rule: {way.by}` takes its source {source} for one of this host")

    def way(self) -> str:
        """The interface by which it goes on now."""
        packet, host = self.packet, self.host
        if self.is_own() or self.is_kept():
            return LOOPBACK_INTERFACE
        routed = self.routed()
        if routed and routed.device:
            return routed.device
        is_as_sent = packet.direction is Direction.OUT and self.destination == packet.destination
        if is_as_sent and packet.interface != LOOPBACK_INTERFACE:
            return packet.interface
        return host.leaves_on(packet.family, self.destination, self.mark or 0)

    def is_own(self) -> bool:
        """Whether it goes to an address of this host, and no ip rule is asked about that."""
        return self.host.is_local(self.destination) and not self.asks_before_local

    def is_kept(self) -> bool:
        """Whether routing delivers it here, although it is for no address of this host."""
        packet, host = self.packet, self.host
        if self.mark is None and self.forgot and host.asks_for_marks(packet.family):
            self.loses_track(self.forgot)
        routed = self.routed()
        return routed.is_kept if routed else bool(host.is_kept(self.flow()))

    def flow(self) -> Flow:
        """The packet as the ip rules see it."""
        packet = self.packet
        sent = (self.destination, self.source, self.arrives or LOOPBACK_INTERFACE, "", packet.number)
        # An answer has the uid of whoever listens there, unless the kernel says by itself what became of a packet.
        is_answer = packet.answers and packet.direction is Direction.OUT and packet.state != RELATED
        uid = packet.uid if self.has_socket else None if is_answer and not self.arrives else 0
        uid = None if uid == SOMEBODY else uid
        if self.is_turned and packet.family is Family.V4:
            uid = 0  # ip_route_me_harder of net/ipv4/netfilter.c has forgotten whose it is
        return Flow(packet.family, self.mark or 0, *sent, self.port, self.source_port, uid, 0)

    def routed(self, flow: Flow | None = None, *, is_final: bool = True) -> Way | None:
        """Where the ip rules send it, if they are known. Raises _Ended where they refuse it for good."""
        if self.host.policy is None:
            return None
        ways = self.host.policy.way(flow or self.flow())
        way = ways[self.choose(f"which ip rule decides where a packet with mark {self.mark or 0:#x} goes", len(ways))]
        if way.is_refused and is_final:
            by = f"`{ip_command(self.packet.family)} rule: {way.by}`" if way.by else "the routing"
            raise _Ended(Became.DROPPED, None, f"{by} refuses it")
        return way

    def look_up(self) -> None:
        """Conntrack looks at it, unless it has already."""
        if self.rules.tracks and not self.is_tracked and self.state == INVALID:
            self.state = self.packet.state
            self.is_tracked = self.state not in (INVALID, UNTRACKED)

    # --- hooks and base chains ----------------------------------------------------------------------------

    def hook(self, hook: str, device: str = "") -> None:
        """Ask the base chains of this hook in their order, conntrack and NAT where they have their places."""
        due: list[tuple[int, Callable[[], None]]] = []
        if hook in (PREROUTING, OUTPUT):
            due.append((CONNTRACK, self.look_up))
        if hook in NAT_HOOKS:
            due.append((NAT_HOOKS[hook], lambda: self.nat(hook)))
        for station in self.rules.hooks.get(hook, ()):
            while due and due[0][0] <= station.place[0]:
                due.pop(0)[1]()
            if station.kind == KIND_NAT or station.device != device:
                continue
            before = self.mark, self.tagged
            self.ask(station)
            if station.kind == KIND_ROUTE and (self.mark, self.tagged) != before:
                self.turn()
        for _, act in due:
            act()

    def ask(self, station: Station) -> tuple[Step, e.Effect] | None:
        """The rule that decided in this base chain, and how. Raises _Ended where the packet ends there."""
        self.look()
        decided = self.chain(station, station.chain)
        if decided is None:
            if station.drops:
                is_well_known = station.table in BUILT_IN
                of = (
                    f"{station.chain} of the {station.table} table"
                    if is_well_known
                    else f"{station.chain} of the table {station.table}"
                )
                raise _Ended(Became.DROPPED, None, f"the policy of {of} is DROP")
            return None
        step, done = decided
        if isinstance(done, Drop):
            raise _Ended(Became.DROPPED, step)
        if isinstance(done, Reject):
            raise _Ended(Became.REFUSED, step)
        return decided

    def nat(self, hook: str) -> None:
        """Ask the chains of type nat, if this is the packet to ask for: each, until one changes an address."""
        for_source = hook in (INPUT, POSTROUTING)
        if self.first and not for_source:
            self.bind_as_first(hook)
            return
        decided = self.source_decided if for_source else self.destination_decided
        if decided or not self.is_tracked or self.state not in (NEW, RELATED):
            return
        for station in self.rules.hooks.get(hook, ()):
            if station.kind == KIND_NAT:
                found = self.ask(station)
                if found and isinstance(found[1], e.BindSource):
                    self.source = None
                    break
                if found and isinstance(found[1], e.Bind):
                    if for_source:
                        self.loses_track(found[0])
                    self.bind(found[0], found[1], hook)
                    break
        if for_source:
            self.source_decided = True
        else:
            self.destination_decided = True

    def bind(self, step: Step, done: e.Bind, hook: str) -> None:
        """Send its connection to one of these ends."""
        places = list(self.places(step, done, hook))
        if len(places) > MOST_ENDS:
            self.one_of = listed(places[0], places[-1])
            places = [places[0], places[-1]]
        self.names_address = not done.is_here and any(end[0] for end in done.ends)
        self.send_to(places[self.choose(step, len(places))], step, hook)

    def send_to(self, place: tuple[Address, int], step: Step, hook: str) -> None:
        """Send it there instead. OUTPUT routes it anew if that is another address (nf_nat_ipv4_local_fn and
        nf_nat_ipv6_local_fn of net/netfilter/nf_nat_proto.c)."""
        is_moved = place[0] != self.destination
        self.bound, (self.destination, self.port) = step, place
        if is_moved and hook == OUTPUT:
            self.turn()

    def places(self, step: Step, done: e.Bind, hook: str) -> Iterator[tuple[Address, int]]:
        """The addresses and ports of which one becomes the new one; of very many only the first and the last."""
        here = None
        if done.is_here:
            here = self.redirected_to(hook)
            if here is None:
                raise _Ended(Became.DROPPED, step, f"{self.arrives} has no address to redirect it to")
        for addresses, ports in done.ends:
            numbers = few(addresses) if addresses else [int(here or self.destination)]
            if addresses and done.is_mapped:
                size = addresses[1] - addresses[0]
                numbers = [addresses[0] + int(self.destination) % size]
            for number in numbers:
                for port in few(ports) if ports else [self.port]:
                    yield address_of_family(self.packet.family, number), port

    def redirected_to(self, hook: str) -> Address | None:
        """The address of this host that REDIRECT chooses (net/netfilter/nf_nat_redirect.c)."""
        family = self.packet.family
        if hook == OUTPUT:
            return LOOPBACK[family].network_address
        return self.host.address_of(self.arrives, family, self.destination)

    def bind_as_first(self, hook: str) -> None:
        """A later packet goes where the first one went, without a rule being asked."""
        first = self.first
        if first is None or first.address is None or self.destination_decided:
            return
        self.destination_decided = True
        bound = first.bound
        if bound is None or bound.hook != hook or first.translated is None:
            return
        self.names_address = first.names_address
        for step in first.matched:
            if isinstance(step.rule.target, Jump):
                self.led_by[step.rule.target.chain] = step
        self.send_to(first.translated, bound, hook)

    # --- the answer ---------------------------------------------------------------------------------------

    def arrival(self, kept: bool) -> Trace:
        """What became of a packet that no rule stopped."""
        if self.handed and kept:
            became = Became.CAPTURED_INBOUND if is_ours(self.handed) else Became.REDIRECTED
            return self.trace(became, self.destination, self.handed_to, self.leader(self.handed))
        if self.bound and kept and not self.host.is_local(self.destination):
            # Its mark makes routing deliver it here, and only a transparent socket answers for somebody else's address.
            why = (
                f"mark {self.mark or 0:#x} keeps it in the pod, where no ordinary socket answers for {self.destination}"
            )
            return self.trace(Became.DROPPED, None, None, None, why)
        if self.bound and not kept and self.host.is_local(self.destination):
            return self.trace(Became.DROPPED, None, None, None, SENT_AWAY)
        if self.bound:
            became = CAPTURES.get(self.bound.chain, Became.REDIRECTED) if is_ours(self.bound) else Became.REDIRECTED
            return self.trace(became, self.destination, self.port, self.leader(self.bound))
        let_go = next(iter(self.let_go.values()), None)
        became = Became.DELIVERED if kept else Became.BYPASSED
        if self.first and not let_go:
            return self.trace(became, self.destination, self.port, self.first.decided, self.first.reason)
        return self.trace(became, self.destination, self.port, let_go, "" if let_go else self.untouched())

    def leader(self, step: Step) -> Step:
        """The rule that decided: this one, or the one that led to it."""
        return self.led_by.get(step.chain, step) if step.chain in ENDS else step

    def untouched(self) -> str:
        """Why no rule touched it."""
        for step in self.steps:
            to = step.rule.target.chain if isinstance(step.rule.target, Jump) else ""
            if step.matched and to in ENDS and is_ours(step):
                return f"rule {step.position} of {step.chain} sends it to {to}, and no rule there takes it"
        asked = NAT if self.steps_of(NAT) else MANGLE
        ours = [step.chain for step in self.steps_of(asked) if is_ours(step)]
        if ours:
            return f"no rule of {ours[-1]} takes it"
        if self.untracked:
            return f"{rule_place(self.untracked)} keeps it from conntrack, so no rule of nat is asked"
        if self.packet.state in (INVALID, UNTRACKED):
            return f"what conntrack calls {self.packet.state} is never redirected"
        for step in self.steps_of(NAT):
            to = step.rule.target.chain if isinstance(step.rule.target, Jump) else ""
            looked_at = list(asked_of(f.PROTOCOL, step.rule.matches))
            if to in OURS[NAT] and looked_at == [one(f.PROTOCOLS["tcp"])] and self.packet.protocol != "tcp":
                return "only TCP is looked at"
        return "there is no rule for it"

    def steps_of(self, table: str) -> list[Step]:
        return [step for step in self.steps if step.table == table]

    def trace(
        self, became: Became, address: Address | None, port: int | None, decided: Step | None, reason: str = ""
    ) -> Trace:
        depends_on = (decided,) if became is Became.DEPENDS and decided else ()
        return Trace(
            self.packet,
            became,
            address,
            port,
            tuple(self.steps),
            None if depends_on else decided,
            reason,
            self.mark or 0,
            self.zone,
            self.connmark or 0,
            self.bound,
            self.names_address,
            self.one_of if self.bound and address else "",
            self.untracked,
            "",
            depends_on,
            translated=(self.destination, self.port) if self.bound else None,
        )

    # --- chains and what their rules do -------------------------------------------------------------------

    def chain(self, station: Station, name: str, depth: int = 0) -> tuple[Step, e.Effect] | None:
        """The rule of this chain, or of one that it leads to, that decided; None at its end, or after RETURN."""
        if depth > DEEPEST:
            raise _Ended(Became.DROPPED, None, f"{name} leads back to itself")
        for position, rule in enumerate(station.rules.get(name, ()), start=1):
            asked, done = self.rules.meaning(rule)
            matched = self.hold(asked)
            step = Step(station.hook, station.table, name, position, rule, matched, station.layer)
            self.steps.append(step)
            if matched is None:
                matched = not isinstance(done, e.Nothing) and self.choose(step, 2) == 1
            outcome = self.perform(station, step, done, depth) if matched else None
            if isinstance(outcome, _Back):
                return None
            if outcome:
                return outcome
        return None

    def perform(self, station: Station, step: Step, done: e.Effect, depth: int) -> tuple[Step, e.Effect] | _Back | None:
        """Do what a rule says. What decided, BACK where the chain is left, None where the next rule is asked."""
        match done:
            case Return():
                self.releases(step)
                return BACK
            case Accept():
                self.accepts(step)
                return step, done
            case Drop() | Reject() | e.Bind() | e.BindSource():
                return step, done
            case Jump(chain):
                self.led_by[chain] = step
                return self.chain(station, chain, depth + 1)
            case e.Goto(chain):
                self.led_by[chain] = step
                return self.chain(station, chain, depth + 1) or BACK
            case e.Hand(port, keep, flip, accepts):
                if self.packet.answers or (self.first and self.first.port != (port or self.port)):
                    # tproxy_tg4 of net/netfilter/xt_TPROXY.c finds the socket of the connection before any listener.
                    raise _Ended(Became.DROPPED, step, "the socket of its connection is not transparent")
                self.handed, self.handed_to = step, port or self.port
                self.mark = None if self.mark is None and keep else (self.mark or 0) & keep ^ flip
                return (step, Accept()) if accepts else None
            case e.Remark():
                self.remark(done)
            case e.Forget(onto):
                self.forgot = step
                if onto == f.MARK:
                    self.mark = None
                elif self.is_tracked:
                    self.connmark = None
            case Zone(zone):
                if not self.is_tracked and not self.zone:
                    self.zone, self.zoned = zone, step
            case e.NoTrack():
                # A zone is conntrack's already (xt_ct_target in net/netfilter/xt_CT.c; nft_notrack_eval).
                if not (self.is_tracked or self.zone):
                    self.state, self.untracked = UNTRACKED, step
            case e.Retag(text):
                self.tagged = text
            case e.Nothing():
                return None
            case e.Queue():
                return step, Drop() if self.choose(step, 2) else Accept()
            case e.Choice(cases):
                for asked, chosen in cases:
                    if self.met(step, asked):
                        return self.perform(station, step, chosen, depth)
                return None
            case e.Then(begun, asked, following):
                outcome = self.perform(station, step, begun, depth)
                if outcome is None and self.met(step, asked):
                    return self.perform(station, step, following, depth)
                return outcome
            case e.Unknown():
                self.loses_track(step)
            case _:
                assert_never(done)
        self.look()
        return None

    def remark(self, done: e.Remark) -> None:
        """Change a mark. Without a connection there is none to remember, and none to be given back."""
        onto_packet = done.onto == f.MARK
        if not self.is_tracked and (not onto_packet or done.taken):
            return
        own, other = (self.mark, self.connmark) if onto_packet else (self.connmark, self.mark)
        is_known = not (done.keep and own is None) and not (done.taken and other is None)
        new = (own or 0) & done.keep ^ (other or 0) & done.taken ^ done.flip if is_known else None
        if onto_packet:
            self.mark = new
        else:
            self.connmark = new

    def met(self, step: Step, asked: Sequence[f.Condition]) -> bool:
        """Whether these hold, on this way."""
        held = self.hold(asked)
        return self.choose(step, 2) == 1 if held is None else held

    def hold(self, asked: Sequence[f.Condition]) -> bool | None:
        """Whether all of these hold; None if that cannot be told."""
        if self.looks_up:
            asked = [self.looked_up(each) for each in asked]
        return f.all_hold(asked, self.view, self.types)

    def looked_up(self, condition: f.Condition) -> f.Condition:
        """The same without the kind of an address, where the ip rules tell it."""
        if isinstance(condition, f.AnyOf):
            return f.AnyOf(tuple(tuple(self.looked_up(each) for each in way) for way in condition.ways))
        if not isinstance(condition, f.OfType):
            return condition
        flow = self.flow()
        if condition.field == f.SOURCE:
            flow = flow.but(destination=flow.source, source=flow.destination)
        answer = self.host.is_of_type(condition, flow)
        return f.Untold(str(condition.kinds)) if answer is None else f.AnyOf(((),)) if answer else f.NEVER

    def choose(self, step: Step | str, ways: int) -> int:
        """Which way it goes from a rule that leaves a choice, or from what leaves one in words."""
        if ways == 1:
            return 0
        self.chosen.append((step, ways))
        if len(self.chosen) > len(self.choices):
            self.choices.append(0)
        return self.choices[len(self.chosen) - 1]

    def loses_track(self, step: Step) -> NoReturn:
        """Behind this rule we do not know what the packet is."""
        raise _Ended(Became.DEPENDS, step)

    def releases(self, step: Step) -> None:
        """A rule of ours, or of a built-in chain, lets it go where it could have been captured."""
        hooks_that_capture = ((NAT, OUTPUT), (MANGLE, PREROUTING), (NAT, PREROUTING))
        if (step.table, step.hook) in hooks_that_capture and (is_ours(step) or step.chain == step.hook):
            self.let_go[step.table, step.hook] = step

    def accepts(self, step: Step) -> None:
        if step.chain == ISTIO_DIVERT and step.table == MANGLE:
            # The socket of its connection gets it, whosever that is.
            is_another = self.packet.answers or (self.first and self.first.became is not Became.CAPTURED_INBOUND)
            self.handed = None if is_another else step
        else:
            self.releases(step)

    # --- what is known of it ------------------------------------------------------------------------------

    def look(self) -> None:
        """Take down what each field of the packet is now, for the rules to ask."""
        packet = self.packet
        number = packet.number
        has_ports = packet.protocol in ("tcp", "udp")
        source_port = EPHEMERAL if self.source_port is None else one(self.source_port)
        uid, gid = (
            f.U32 if each == SOMEBODY else one(-1 if each is None else each)
            for each in ((packet.uid, packet.gid) if self.has_socket else (None, None))
        )
        if self.is_met:
            uid = gid = f.OWNERS
        flags = f.LATER_FLAGS if self.is_later else f.FIRST_FLAGS if packet.state == NEW else (0, 256)
        self.view = (
            (0, 256) if number is None else one(number),
            f.ADDRESSES[packet.family] if self.source is None else one(int(self.source)),
            one(int(self.destination)),
            source_port if has_ports else (),
            one(self.port) if has_ports else (),
            uid,
            gid,
            one(self.arrives),
            one(self.leaves),
            one(f.STATES.index(self.state)),
            f.U32 if self.mark is None else one(self.mark),
            (one(self.connmark) if self.connmark is not None else f.U32) if self.is_tracked else one(-1),
            flags if packet.protocol == "tcp" else (),
            self.rewritten(),
        )

    @property
    def is_later(self) -> bool:
        """Whether it is not the first of its connection."""
        return self.packet.is_later or self.packet.state == ESTABLISHED

    def rewritten(self) -> Span:
        """What of its connection is changed by nat, as `ct status` tells it.

        A redirection to where it went anyway is none to conntrack (nf_nat_setup_info of net/netfilter/nf_nat_core.c).
        What follows the first packet is of such a connection before nat acts on it; of an answer nobody remembers here
        whether the source of the first packet was changed as well.
        """
        packet = self.packet
        if packet.answers:
            is_bound = self.is_tracked and (packet.source, packet.source_port) != packet.answers
            return (f.DNAT, f.SNAT, f.BOTH, f.BOTH + 1) if is_bound else (f.UNTOUCHED, f.DNAT, f.SNAT, f.BOTH)
        known = self.first.translated if self.first else None
        goes_to = (self.destination, self.port) if self.bound else known
        is_bound = self.is_tracked and goes_to not in (None, (packet.destination, packet.port))
        return one(f.DNAT) if is_bound else one(f.UNTOUCHED)


NAT_HOOKS = {PREROUTING: -100, OUTPUT: -100, INPUT: 100, POSTROUTING: 100}
"""Where the chains of type nat are asked (NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC of linux/netfilter_ipv4.h)."""


def is_ours(step: Step) -> bool:
    """Whether it is a rule of a chain of ours."""
    return step.chain in OURS.get(step.table, ())


def few(span: Span) -> Sequence[int]:
    """The numbers of a span; of very many the first, some, and the last, so that there are more than are followed."""
    numbers = [
        number for at in range(0, len(span), 2) for number in range(span[at], min(span[at + 1], span[at] + MOST_ENDS))
    ]
    last: int = span[-1] - 1
    return numbers if numbers[-1] == last else [*numbers, last]


def listed(first: tuple[Address, int], last: tuple[Address, int]) -> str:
    """Many places, by the first and the last of them."""
    ports = f"{first[1]}-{last[1]}" if last[1] != first[1] else f"{first[1]}"
    addresses = written(first[0]) if first[0] == last[0] else f"{written(first[0])}-{written(last[0])}"
    return f"one of {addresses}:{ports}"


def orders(rulesets: Sequence[Ruleset], natives: Sequence[NativeTable]) -> Iterator[Sequence[int]]:
    """Every order in which tables at one place may be asked, that of their layers first; of many tables some."""
    layers = undecided(prepared(tuple(rulesets), natives, ()).hooks)
    count = range(len(layers))
    tried = permutations(count) if len(layers) <= MOST_ORDERS else ((*count[at:], *count[:at]) for at in count)
    yield from ([layers[at] for at in order] for order in tried)


def in_any_order(rulesets: Sequence[Ruleset], packet: Packet, host: Host, natives: Sequence[NativeTable] = ()) -> Trace:
    """The same where it is not known which of several tables acts first: it depends, if that makes a difference.

    Of two base chains at one place, one in each backend or table, the kernel asks the younger one first, and nothing
    tells which that is (`rules.netfilter.hooks.stations`).
    """
    of_family = tuple(ruleset for ruleset in rulesets if ruleset.family is packet.family)
    tried = list(orders(of_family, natives))
    traces = [simulate(rulesets, packet, host, natives, order) for order in tried]
    kinds = {(trace.became, trace.address, trace.port, trace.one_of): trace for trace in reversed(traces)}
    trace = traces[0]
    if len(kinds) < 2:
        return with_answers(trace, of_family, host, natives)
    others = [other for other in kinds.values() if other.became is not Became.DEPENDS]
    named = [str(natives[layer - len(rulesets)]) for layer in tried[0] if layer >= len(rulesets)]
    why = "both backends have rules for it, and those in the younger table act first"
    if named:
        which = f"the table {named[0]} was" if len(named) == 1 else f"the tables {', '.join(named)} were"
        why = f"whether {which} made before or after the others at the same place: the younger one is asked first"
    asked = tuple(dict.fromkeys(step for each in traces for step in each.depends_on))
    ways = dict.fromkeys([*others, *(way for each in traces for way in each.ways)])
    return in_doubt(trace, why, asked, tuple(ways))


def with_answers(
    trace: Trace, rulesets: Sequence[Ruleset], host: Host, natives: Sequence[NativeTable], *, is_way: bool = False
) -> Trace:
    """The same, and what keeps its answers from arriving; of one that depends, for each way.

    Those of a redirected connection come over lo with the address that was asked for their source, which filters
    against forged addresses may refuse.
    """
    if trace.became is Became.DEPENDS:
        return trace.but(ways=tuple(with_answers(way, rulesets, host, natives, is_way=True) for way in trace.ways))
    packet = trace.packet
    is_first = packet.state == NEW and not packet.answers and not packet.is_later
    if not (is_first and trace.address and not trace.hindered):
        return trace
    if packet.mark and host.is_local(packet.destination):
        return trace  # a transparent proxy's own, whose answers are kept for it
    by_marks = host.routing or (host.policy and any(rule.mark for rule in host.policy.rules))
    may_refuse = host.policy and host.policy.is_custom(packet.family)
    may_turn = bool(by_marks or may_refuse) and packet.direction is Direction.IN
    rules = prepared(rulesets, natives, ())
    if not (may_turn or may_refuse or rules.may_drop or (trace.bound and rules.may_part)):
        return trace
    answered = with_its_answer(trace, rulesets, host, natives, may_refuse=bool(may_refuse), may_turn=may_turn)
    if answered is not trace or packet.protocol != "tcp":
        return answered
    later = packet.but(state=ESTABLISHED)
    if is_way:
        return with_what_follows(trace, *walked_after(trace, rulesets, later, host, natives, ()))
    return with_what_follows(trace, *walked(rulesets, later, host, natives, ()))


def with_its_answer(
    trace: Trace,
    rulesets: Sequence[Ruleset],
    host: Host,
    natives: Sequence[NativeTable],
    *,
    may_refuse: bool,
    may_turn: bool,
) -> Trace:
    """The same, and what keeps its first answer from arriving: rules, or ip rules that refuse it or turn it back."""
    packet = trace.packet
    answer = answer_to(trace, host).but(state=ESTABLISHED, connmark=trace.remembered)
    # What TPROXY hands over comes from where conntrack has it go.
    source, port = trace.translated or (packet.destination, packet.port)
    answer = answer.but(source=source, source_port=port)
    ended, is_complete = walked(rulesets, answer, host, natives, ())
    parted = with_parted(trace, "its answers", "are", ended, is_complete=is_complete)
    if parted is not trace:
        return parted
    lost = judged(ended, is_complete=is_complete)
    if may_refuse and lost.became is Became.DEPENDS and not lost.depends_on:
        none = trace.but(became=Became.DROPPED, address=None, port=None, decided=None, reason="no answer comes")
        why = f"{lost.reason}, in its answers"
        return trace.but(became=Became.DEPENDS, address=None, port=None, decided=None, reason=why, ways=(trace, none))
    if may_turn and lost.became is Became.DELIVERED and not host.is_local(answer.destination):
        marking = [step for step in (*trace.matched, *lost.matched) if not is_ours(step) and sets_a_mark(step)]
        what = f"mark {lost.marked:#x}" if lost.marked else "an ip rule"
        why = f"{what} keeps them in the pod, where nobody waits for them"
        lost = lost.but(became=Became.DROPPED, decided=marking[-1] if marking else None, reason=why)
    answered = with_lost(trace, "its answers", "are", "come back", lost)
    return answered.but(lost=lost) if answered.hindered else answered


def with_what_follows(trace: Trace, ended: Sequence[Ended], is_complete: bool) -> Trace:
    """The same, and what keeps the packets behind the first one from arriving: a handshake takes two."""
    parted = with_parted(trace, "what follows", "is", ended, is_complete=is_complete)
    if parted is not trace:
        return parted
    return with_lost(trace, "what follows", "is", "arrives", judged(ended, is_complete=is_complete))


def with_parted(trace: Trace, what: str, verb: str, ended: Sequence[Ended], *, is_complete: bool) -> Trace:
    """The same, if what ended in these ways is or may be unknown to conntrack as of its connection."""
    parted = [parted_by(trace, way) for way, _ in ended]
    if is_complete and all(parted):
        return trace.but(hindered=f"but {what} {verb} {parted[0]}, where nobody knows its connection, so it fails")
    doubts = choices_of(ended)
    return (
        trace.but(doubted=f"and whether conntrack knows {what} depends on {doubts}")
        if any(parted) and doubts
        else trace
    )


def with_lost(trace: Trace, what: str, verb: str, arrives: str, ended: Trace) -> Trace:
    """The same, if what ended so does not arrive, or may not."""
    if ended.became in (Became.DROPPED, Became.REFUSED):
        return trace.but(hindered=f"but {what} {verb} {verdict(ended)} {by_whom(ended)}, so it fails")
    return (
        trace.but(doubted=f"and whether {what} {arrives} depends on {doubts_of(ended)}")
        if may_be_lost(ended)
        else trace
    )


def choices_of(ended: Sequence[Ended]) -> str:
    """What left a choice on these ways, in words; not rules of ours, which know the proxy by its owner."""
    doubts = dict.fromkeys(doubt for _, unknown in ended for doubt in unknown)
    return " and ".join(
        doubt if isinstance(doubt, str) else rule_named(doubt)
        for doubt in doubts
        if isinstance(doubt, str) or not is_ours(doubt)
    )


def may_be_lost(ended: Trace) -> bool:
    """Whether it depends, and a rule may drop it or refuse it, or do nobody knows what."""
    lost = (Became.DROPPED, Became.REFUSED, Became.DEPENDS)
    return bool(ended.depends_on) and any(way.became in lost for way in ended.ways or (ended,))


def doubts_of(ended: Trace) -> str:
    """What it depends on, in words."""
    return " and ".join([*map(rule_named, ended.depends_on), *filter(None, [ended.reason])])


def parted_by(trace: Trace, other: Trace) -> str:
    """What keeps another packet of a redirected connection from being known as one of it; empty if nothing does."""
    if not trace.bound or not trace.translated:
        return ""
    if other.untracked:
        return f"kept from conntrack by {rule_named(other.untracked)}"
    return f"in zone {other.zone} of conntrack" if other.zone != trace.zone else ""


def by_whom(ended: Trace) -> str:
    """What ended a packet, in words."""
    return f"by {rule_named(ended.decided)}" if ended.decided else f"because {ended.reason}"


def sets_a_mark(step: Step) -> bool:
    return any(isinstance(done, e.Remark) for done in e.first_of(effect(step.rule.target)))
