"""What would become of a packet: a walk through the tables of one family, as netfilter would walk them.

The order of hooks and tables is that of the kernel (linux/netfilter_ipv4.h): raw, conntrack, mangle, nat, filter,
security; OUTPUT and POSTROUTING for what a local process sends, PREROUTING and INPUT for what arrives. A packet that
leaves over lo passes all four, with one difference to one that arrives: conntrack knows it already, and has had its
destination decided in OUTPUT, be it by deciding nothing (nf_nat_inet_fn of net/netfilter/nf_nat_core.c), so PREROUTING
of nat does not see it.

A match or target that we do not speak is never guessed. Each way it could go is walked; if they end alike, that is the
answer, and else the answer is that it depends on that rule.
"""

from __future__ import annotations

from enum import Enum

from rules.netfilter.iptables_text import rule_text
from rules.netfilter.matches import (
    ConnMark,
    CtState,
    DPort,
    DPorts,
    Dst,
    Foreign,
    InIface,
    Limit,
    Mark,
    Not,
    OutIface,
    OwnerGid,
    OwnerUid,
    OwnerUids,
    Proto,
    SPort,
    Src,
)
from rules.netfilter.targets import (
    Accept,
    Dnat,
    Drop,
    ForeignTarget,
    Jump,
    Log,
    Nflog,
    Redirect,
    Reject,
    RestoreMark,
    Return,
    SaveMark,
    SetMark,
    Tproxy,
    Zone,
)
from rules.netfilter.values import BUILT_IN, FILTER, MANGLE, NAT, OUTPUT, PREROUTING, RAW, Family, Ports
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
from rules.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address, IPv6Address
    from typing import NoReturn, TypeAlias

    from rules.netfilter.matches import Match, Plain
    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Network
    from rules.plan.plan import Routing

    Address: TypeAlias = IPv4Address | IPv6Address

INPUT, FORWARD, POSTROUTING = "INPUT", "FORWARD", "POSTROUTING"
SECURITY = "security"
NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED = "NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"
STATES = (NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED)
EPHEMERAL = Ports(32768, 60999)
"""Where the kernel takes a source port from that nobody asked for (ip-sysctl, ip_local_port_range)."""
MOST_WORLDS = 256
"""How many ways through rules that we do not speak are walked before we say that it depends."""
DEEPEST = 64
"""Chains within chains. The kernel takes no loops; nf_tables stops at 16."""


class Direction(Enum):
    """Where a packet comes from."""

    OUT = "out"
    """From a process in this namespace."""
    IN = "in"
    """From outside, on an interface."""


class Packet(Value):
    """The packet that is asked about."""

    direction: Direction
    family: Family
    protocol: str
    """By its name in /etc/protocols: `tcp`, `udp`."""
    source: Address
    destination: Address
    port: int
    """Its destination port."""
    interface: str
    """The one it arrives on, or by which it would leave if no rule touched it."""
    source_port: int | None = None
    """None stands for one that the kernel chose."""
    uid: int | None = None
    """Whose socket sends it. None: no socket does, the kernel made it, or it comes from outside."""
    gid: int | None = None
    mark: int = 0
    state: str = NEW
    """What conntrack makes of it: one of `STATES`. ESTABLISHED is a later packet in the direction of the first."""
    answers: tuple[Address, int] | None = None
    """Where the first packet of its connection was sent, if this one goes the other way. No rule of nat is asked about
    an answer; behind POSTROUTING it comes from there again."""
    connmark: int | None = None
    """What its connection remembers. None: what the first packet left there."""


class Local(Value):
    """An address of this namespace."""

    interface: str
    address: Address
    prefix: int


class Host(Value):
    """The namespace around the rules: its addresses, and where it sends what."""

    addresses: tuple[Local, ...] = ()
    """In the kernel's order; those of lo that every namespace has need not be here."""
    default_interface: str = "eth0"
    routing: tuple[Routing, ...] = ()
    """The ip rules by mark, and their local routes, that are really there."""

    def is_local(self, address: Address) -> bool:
        """Whether a packet to it is delivered here, whatever its mark."""
        return address.is_loopback or any(local.address == address for local in self.addresses)

    def is_kept(self, family: Family, mark: int) -> bool:
        """Whether a packet with this mark is delivered here, whatever its destination."""
        return any(routing.family is family and routing.mark == mark for routing in self.routing)

    def leaves_on(self, family: Family, destination: Address, mark: int = 0) -> str:
        """The interface by which a packet from here goes there."""
        if self.is_local(destination) or self.is_kept(family, mark):
            return LOOPBACK_INTERFACE
        near = [local for local in self.addresses if is_on_link(local, destination)]
        return max(near, key=lambda local: local.prefix).interface if near else self.default_interface

    def source_to(self, family: Family, destination: Address) -> Address:
        """The source address that the kernel chooses for a packet from here to there."""
        if self.is_local(destination):
            if destination.version == 4 and destination.is_loopback:
                return LOOPBACK[family].network_address
            return destination
        interface = self.leaves_on(family, destination)
        return self.address_of(interface, family, destination) or LOOPBACK[family].network_address

    def address_of(self, interface: str, family: Family, like: Address) -> Address | None:
        """The first address of an interface; in IPv6 the first of the scope that `like` has."""
        for local in self.addresses:
            is_of_family = (local.address.version == 4) == (family is Family.V4)
            is_of_scope = family is Family.V4 or local.address.is_link_local == like.is_link_local
            if local.interface == interface and is_of_family and is_of_scope:
                return local.address
        if interface == LOOPBACK_INTERFACE:
            return LOOPBACK[family].network_address
        return None


def is_on_link(local: Local, destination: Address) -> bool:
    """Whether this address's network has the destination, so that no gateway is needed."""
    if local.address.version != destination.version or local.interface == LOOPBACK_INTERFACE or not local.prefix:
        return False
    rest = local.address.max_prefixlen - local.prefix
    return int(local.address) >> rest == int(destination) >> rest


class Step(Value):
    """A rule that the packet was asked."""

    hook: str
    """The built-in chain in which the walk through this table began."""
    table: str
    chain: str
    position: int
    """In its chain, counted from 1."""
    rule: Rule
    matched: bool | None
    """None if that cannot be told."""
    layer: int = 0
    """Which of the rulesets has it, where there are several (one of each backend)."""


class Became(Enum):
    """What becomes of a packet, in the words of the answer."""

    CAPTURED_OUTBOUND = "captured outbound"
    CAPTURED_INBOUND = "captured inbound"
    CAPTURED_DNS = "captured dns"
    REDIRECTED = "redirected"
    """A rule that is not ours changed its destination."""
    BYPASSED = "bypassed"
    """It leaves the pod, or passes through it, past the proxy."""
    DELIVERED = "delivered"
    """It reaches the port in the pod that it was sent to."""
    DROPPED = "dropped"
    REFUSED = "refused"
    DEPENDS = "depends"
    """On rules that we do not speak."""

    @property
    def is_captured(self) -> bool:
        return self in (Became.CAPTURED_OUTBOUND, Became.CAPTURED_INBOUND, Became.CAPTURED_DNS)

    @property
    def is_a_deed(self) -> bool:
        """Whether a rule does it, rather than leaving the packet alone."""
        return self not in (Became.BYPASSED, Became.DELIVERED, Became.DEPENDS)


class Trace(Value):
    """What becomes of a packet, and every rule it was asked on the way."""

    packet: Packet
    became: Became
    address: Address | None
    """Where it goes in the end; None if nowhere, or if that depends."""
    port: int | None
    steps: tuple[Step, ...]
    decided: Step | None
    """The rule that decided it; none if it fell through them all, or a policy or the routing decided."""
    reason: str = ""
    """Why, where no rule says it."""
    marked: int = 0
    """Its fwmark in the end."""
    zone: int = 0
    """The conntrack zone that it was put in."""
    remembered: int = 0
    """What its connection remembers of marks in the end."""
    depends_on: tuple[Step, ...] = ()
    """The rules that could not be asked and that make a difference."""
    ways: tuple[Trace, ...] = ()
    """What could become of it, one of each kind, if it depends."""

    @property
    def matched(self) -> tuple[Step, ...]:
        """The rules that matched, which are those whose counters move."""
        return tuple(step for step in self.steps if step.matched)


CAPTURES: dict[str, Became] = {
    ISTIO_REDIRECT: Became.CAPTURED_OUTBOUND,
    ISTIO_IN_REDIRECT: Became.CAPTURED_INBOUND,
    ISTIO_TPROXY: Became.CAPTURED_INBOUND,
    ISTIO_DIVERT: Became.CAPTURED_INBOUND,
    ISTIO_OUTPUT_DNS: Became.CAPTURED_DNS,
}
"""What a rule captures that changes the destination, by the chain of ours that it is in."""
CAPTURING = ("outbound_cidrs", "outbound_ports", "inbound_ports")
"""The settings that say what is captured."""
ENDS = frozenset({ISTIO_REDIRECT, ISTIO_IN_REDIRECT, ISTIO_TPROXY, ISTIO_DIVERT})
"""The chains whose rules only carry out what the rule that jumps to them decided."""


def simulate(rulesets: Sequence[Ruleset], packet: Packet, host: Host) -> Trace:
    """What becomes of this packet between these rules.

    Rulesets of both backends act one after the other in every table, in the order given.
    """
    of_family = tuple(ruleset for ruleset in rulesets if ruleset.family is packet.family)
    first = None
    if packet.state == ESTABLISHED and not packet.answers:
        first = simulate(of_family, packet.but(state=NEW), host)
        if first.became is Became.DEPENDS:
            return first.but(packet=packet)
    tables = tuple(
        {table.table: (table.chains(), dict(table.policies)) for table in ruleset.tables} for ruleset in of_family
    )
    tracks = any(needs_conntrack(rule) for ruleset in of_family for _, _, rule in ruleset.rules())
    ended: list[tuple[Trace, list[Step]]] = []
    waiting: list[tuple[bool, ...]] = [()]
    while waiting:
        answers = waiting.pop()
        walk = _Walk(tables, tracks, packet, host, answers, first)
        ended.append((walk.ended(), walk.unknown))
        # The rules met for the first time on this way were taken not to match: walk each of the others as well.
        waiting += [(*walk.answers[:at], True) for at in range(len(answers), len(walk.unknown))]
        if len(ended) + len(waiting) > MOST_WORLDS:
            break
    return judged(ended, complete=not waiting)


def judged(ended: list[tuple[Trace, list[Step]]], *, complete: bool) -> Trace:
    """One answer of all ways that were walked: the same for all of them, or that it depends."""
    kinds: dict[tuple[Became, Address | None, int | None], Trace] = {}
    for trace, _ in ended:
        kinds.setdefault((trace.became, trace.address, trace.port), trace)
    plainest, _ = ended[0]
    if complete and len(kinds) == 1 and plainest.became is not Became.DEPENDS:
        return plainest
    asked = [step for trace, unknown in ended for step in (*unknown, *trace.depends_on)]
    return plainest.but(
        became=Became.DEPENDS,
        address=None,
        port=None,
        decided=None,
        reason="",
        depends_on=tuple(dict.fromkeys(asked)),
        ways=tuple(kinds.values()),
    )


CONNTRACK_WORDS = ("MASQUERADE", "NAT ", "NETMAP", "REDIRECT", "-j CT", "CONNMARK", "conntrack", "state", "conn")


def needs_conntrack(rule: Rule) -> bool:
    """Whether this rule switches conntrack on for its namespace and family. Without, the nat table is not asked."""
    if isinstance(rule.target, Redirect | Dnat | SaveMark | RestoreMark | Zone):
        return True
    for asked in rule.matches:
        plain = asked.match if isinstance(asked, Not) else asked
        if isinstance(plain, CtState | ConnMark):
            return True
        if isinstance(plain, Foreign) and any(word in plain.text for word in CONNTRACK_WORDS):
            return True
    return isinstance(rule.target, ForeignTarget) and any(word in f"{rule.target.text} " for word in CONNTRACK_WORDS)


class _Ended(Exception):
    """The walk is over before the packet arrived anywhere."""

    def __init__(self, became: Became, step: Step | None, reason: str = "") -> None:
        self.became = became
        self.step = step
        self.reason = reason


class _Walk:
    """One way through the rules, on which rules that we do not speak match or not as `answers` has it."""

    def __init__(
        self,
        tables: Sequence[dict[str, tuple[dict[str, tuple[Rule, ...]], dict[str, str]]]],
        tracks: bool,
        packet: Packet,
        host: Host,
        answers: tuple[bool, ...],
        first: Trace | None,
    ) -> None:
        self.tables = tables
        self.tracks = tracks
        self.packet = packet
        self.host = host
        self.answers = list(answers)
        self.unknown: list[Step] = []
        self.first = first
        self.source: Address | None = packet.source
        self.source_port = packet.source_port
        self.destination = packet.destination
        self.port = packet.port
        self.mark = packet.mark
        remembered = first.remembered if first and packet.connmark is None else packet.connmark
        self.connmark = remembered or 0
        self.state = INVALID
        """Until conntrack has looked, it is as good as one that it cannot place."""
        self.is_tracked = False
        self.zone = 0
        self.has_socket = packet.direction is Direction.OUT and packet.uid is not None
        self.arrives, self.leaves = "", ""
        self.steps: list[Step] = []
        self.jumps: list[Step] = []
        self.bound: Step | None = None
        """The rule that changed the destination."""
        self.handed: Step | None = None
        """The rule that gave it to a transparent listener."""
        self.handed_to: int | None = None
        self.led_by: dict[str, Step] = {}
        """The rule that led into each chain."""
        self.let_go: dict[tuple[str, str], Step] = {}
        """The rule of ours, or of a built-in chain, that ended each walk without touching the packet."""
        self.destination_decided = self.source_decided = False

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
        self.leaves = self.packet.interface
        self.table(RAW, OUTPUT)
        self.look_up()
        before = self.mark
        self.table(MANGLE, OUTPUT)
        goes = self.packet.interface if self.mark == before else self.way()
        if self.nat(OUTPUT):
            goes = self.way()
        # All of OUTPUT is told the interface that was chosen before it began, even where the packet was turned since.
        self.table(FILTER, OUTPUT)
        self.table(SECURITY, OUTPUT)
        if goes != LOOPBACK_INTERFACE and self.source and self.source.is_loopback:
            # __mkroute_output of net/ipv4/route.c, when the packet is turned round.
            raise _Ended(Became.DROPPED, self.bound, "nothing leaves with a loopback address for its source")
        self.leaves = goes
        self.table(MANGLE, POSTROUTING)
        self.nat(POSTROUTING)
        if self.packet.answers:
            self.source, self.source_port = self.packet.answers
        if goes != LOOPBACK_INTERFACE:
            return False
        self.has_socket = False
        return self.arrived(LOOPBACK_INTERFACE)

    def arrived(self, interface: str) -> bool:
        """PREROUTING, and INPUT or FORWARD. Whether the packet stays in this namespace."""
        self.arrives, self.leaves = interface, ""
        self.table(RAW, PREROUTING)
        self.look_up()
        self.table(MANGLE, PREROUTING)
        self.nat(PREROUTING)
        if self.host.is_local(self.destination) or self.host.is_kept(self.packet.family, self.mark):
            self.table(MANGLE, INPUT)
            self.table(FILTER, INPUT)
            self.table(SECURITY, INPUT)
            self.nat(INPUT)
            return True
        if self.handed and isinstance(self.handed.rule.target, Tproxy):
            # ip_forward of net/ipv4/ip_forward.c drops what has a socket already.
            why = f"no ip rule keeps mark {self.mark:#x} in the pod"
            raise _Ended(Became.DROPPED, None, why)
        self.leaves = self.way()
        self.table(MANGLE, FORWARD)
        self.table(FILTER, FORWARD)
        self.table(SECURITY, FORWARD)
        self.table(MANGLE, POSTROUTING)
        self.nat(POSTROUTING)
        return False

    def way(self) -> str:
        """The interface by which it goes on now."""
        packet, host = self.packet, self.host
        if host.is_local(self.destination) or host.is_kept(packet.family, self.mark):
            return LOOPBACK_INTERFACE
        is_as_sent = packet.direction is Direction.OUT and self.destination == packet.destination
        if is_as_sent and packet.interface != LOOPBACK_INTERFACE:
            return packet.interface
        return host.leaves_on(packet.family, self.destination, self.mark)

    def look_up(self) -> None:
        """Conntrack looks at it, unless it has already."""
        if self.tracks and not self.is_tracked and self.state == INVALID:
            self.state = self.packet.state
            self.is_tracked = self.state not in (INVALID, UNTRACKED)

    # --- the answer ---------------------------------------------------------------------------------------

    def arrival(self, kept: bool) -> Trace:
        """What became of a packet that no rule stopped."""
        if self.handed and kept:
            return self.trace(Became.CAPTURED_INBOUND, self.destination, self.handed_to, self.leader(self.handed))
        if self.bound and kept and not self.host.is_local(self.destination):
            # Its mark makes routing deliver it here, and only a transparent socket answers for somebody else's address.
            why = f"mark {self.mark:#x} keeps it in the pod, where no ordinary socket answers for {self.destination}"
            return self.trace(Became.DROPPED, None, None, None, why)
        if self.bound:
            became = Became.REDIRECTED
            if self.bound.chain in OURS.get(self.bound.table, ()):
                became = CAPTURES.get(self.bound.chain, Became.REDIRECTED)
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
        asked = NAT if self.steps_of(NAT) else MANGLE
        ours = [step.chain for step in self.steps_of(asked) if step.chain in OURS.get(step.table, ())]
        if ours:
            return f"no rule of {ours[-1]} takes it"
        if self.packet.state in (INVALID, UNTRACKED):
            return f"what conntrack calls {self.packet.state} is never redirected"
        for step in self.steps_of(NAT):
            looked_at = [asked.name for asked in step.rule.matches if isinstance(asked, Proto)]
            is_ours = isinstance(step.rule.target, Jump) and step.rule.target.chain in OURS[NAT]
            if is_ours and looked_at and self.packet.protocol not in looked_at:
                return f"only {' and '.join(looked_at).upper()} is looked at"
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
            self.mark,
            self.zone,
            self.connmark,
            depends_on,
        )

    # --- tables and chains --------------------------------------------------------------------------------

    def table(self, table: str, hook: str) -> Step | None:
        """Ask the built-in chain of this hook in this table, in every ruleset; the rule that bound it, if one did."""
        for layer, tables in enumerate(self.tables):
            if table not in tables:
                continue
            chains, policies = tables[table]
            if hook not in BUILT_IN.get(table, ()):
                continue
            step = self.chain(layer, table, hook, hook, chains)
            target = step.rule.target if step else None
            if isinstance(target, Drop):
                raise _Ended(Became.DROPPED, step)
            if isinstance(target, Reject):
                raise _Ended(Became.REFUSED, step)
            if isinstance(target, Redirect | Dnat | ForeignTarget):
                return step
            if isinstance(target, Tproxy):
                if self.packet.answers or (self.first and self.first.port != target.port):
                    # tproxy_tg4 of net/netfilter/xt_TPROXY.c finds the socket of the connection before any listener.
                    raise _Ended(Became.DROPPED, step, "the socket of its connection is not transparent")
                self.handed, self.handed_to, self.mark = step, target.port, target.mark
            if step is None and policies.get(hook) == "DROP":
                raise _Ended(Became.DROPPED, None, f"the policy of {hook} of the {table} table is DROP")
        return None

    def chain(
        self, layer: int, table: str, hook: str, name: str, chains: dict[str, tuple[Rule, ...]], depth: int = 0
    ) -> Step | None:
        """The rule of this chain, or of one that it leads to, that decided; None at its end, or after RETURN."""
        if depth > DEEPEST:
            raise _Ended(Became.DROPPED, None, f"{name} leads back to itself")
        for position, rule in enumerate(chains.get(name, ()), start=1):
            matched = self.all_hold(rule.matches)
            step = Step(hook, table, name, position, rule, matched, layer)
            self.steps.append(step)
            if matched is None:
                matched = not is_remark(rule.target) and self.assumed(step)
            if not matched:
                continue
            target = rule.target
            match target:
                case Return():
                    self.releases(step)
                    return None
                case Accept():
                    self.accepts(step)
                    return step
                case Drop() | Reject() | Redirect() | Dnat() | Tproxy():
                    return step
                case Jump(chain):
                    self.led_by[chain] = step
                    decided = self.chain(layer, table, hook, chain, chains, depth + 1)
                    if decided:
                        return decided
                case SetMark(value):
                    self.mark = value
                case SaveMark():
                    if self.is_tracked:
                        self.connmark = self.mark
                case RestoreMark():
                    if self.is_tracked:
                        self.mark = self.connmark
                case Zone(zone):
                    if not self.is_tracked and not self.zone:
                        self.zone = zone
                case Log() | Nflog():
                    pass
                case ForeignTarget(text):
                    if text.startswith("-g "):
                        self.led_by[text[3:]] = step
                        return self.chain(layer, table, hook, text[3:], chains, depth + 1)
                    if changes_source(text) and hook in (INPUT, POSTROUTING):
                        self.source = None
                        return step
                    if not is_remark(target):
                        self.loses_track(step)
                case _:
                    assert_never(target)
        return None

    def assumed(self, step: Step) -> bool:
        """Whether a rule that we do not speak matches on this way."""
        self.unknown.append(step)
        if len(self.unknown) > len(self.answers):
            self.answers.append(False)
        return self.answers[len(self.unknown) - 1]

    def loses_track(self, step: Step) -> NoReturn:
        """Behind this rule we do not know what the packet is."""
        raise _Ended(Became.DEPENDS, step)

    def releases(self, step: Step) -> None:
        """A rule of ours, or of a built-in chain, lets it go where it could have been captured."""
        hooks_that_capture = ((NAT, OUTPUT), (MANGLE, PREROUTING), (NAT, PREROUTING))
        is_ours = step.chain in OURS.get(step.table, ()) or step.chain == step.hook
        if (step.table, step.hook) in hooks_that_capture and is_ours:
            self.let_go[step.table, step.hook] = step

    def accepts(self, step: Step) -> None:
        if step.chain == ISTIO_DIVERT and step.table == MANGLE:
            # The socket of its connection gets it, whosever that is.
            is_another = self.packet.answers or (self.first and self.first.became is not Became.CAPTURED_INBOUND)
            self.handed = None if is_another else step
        else:
            self.releases(step)

    # --- nat ----------------------------------------------------------------------------------------------

    def nat(self, hook: str) -> bool:
        """Ask the nat table, if this is the packet to ask for. Whether the destination changed."""
        for_source = hook in (INPUT, POSTROUTING)
        if self.first and not for_source:
            return self.bind_as_first(hook)
        decided = self.source_decided if for_source else self.destination_decided
        if decided or not self.is_tracked or self.state not in (NEW, RELATED):
            return False
        step = self.table(NAT, hook)
        if for_source:
            self.source_decided = True
            return False
        self.destination_decided = True
        target = step.rule.target if step else None
        match target:
            case Redirect(port):
                here = self.redirected_to(hook)
                if here is None:
                    raise _Ended(Became.DROPPED, step, f"{self.arrives} has no address to redirect it to")
                self.destination, self.port = here, port
            case Dnat(address, port):
                self.destination, self.port = address, port
            case _:
                return False
        self.bound = step
        return True

    def redirected_to(self, hook: str) -> Address | None:
        """The address of this host that REDIRECT chooses (net/netfilter/nf_nat_redirect.c)."""
        family = self.packet.family
        if hook == OUTPUT:
            return LOOPBACK[family].network_address
        return self.host.address_of(self.arrives, family, self.destination)

    def bind_as_first(self, hook: str) -> bool:
        """A later packet goes where the first one went, without a rule being asked."""
        first = self.first
        if first is None or first.address is None or self.destination_decided:
            return False
        self.destination_decided = True
        bound = next((step for step in first.steps if step.matched and binds(step.rule.target)), None)
        if bound is None or bound.hook != hook or first.port is None:
            return False
        self.bound, self.destination, self.port = bound, first.address, first.port
        for step in first.matched:
            if isinstance(step.rule.target, Jump):
                self.led_by[step.rule.target.chain] = step
        return True

    # --- matches ------------------------------------------------------------------------------------------

    def all_hold(self, matches: tuple[Match, ...]) -> bool | None:
        """Whether all of these hold; None if that hangs on one that we cannot tell."""
        unknown = False
        for asked in matches:
            held = self.holds(asked)
            if held is None:
                unknown = True
            elif not held:
                return False
        return None if unknown else True

    def holds(self, asked: Match) -> bool | None:
        match asked:
            case Not(ConnMark()) if not self.is_tracked:
                return False  # without a connection, the kernel does not ask further (xt_connmark.c)
            case Not(inner):
                held = self.plain(inner)
                return None if held is None else not held
            case Foreign(text):
                return self.foreign(text)
            case _:
                return self.plain(asked)

    def plain(self, asked: Plain) -> bool | None:
        """Whether a match that we speak holds."""
        packet = self.packet
        match asked:
            case Proto(name):
                return PROTOCOLS.get(name, name) == packet.protocol
            case Src(network):
                return None if self.source is None else is_in(self.source, network)
            case Dst(network):
                return is_in(self.destination, network)
            case InIface(name):
                return is_named(self.arrives, name)
            case OutIface(name):
                return is_named(self.leaves, name)
            case DPort(ports):
                return self.has_ports and is_among(self.port, ports)
            case SPort(ports):
                return self.has_ports and self.source_port_is_among(ports)
            case DPorts(ranges):
                return self.has_ports and any(is_among(self.port, ports) for ports in ranges)
            case OwnerUid(uid):
                return self.has_socket and packet.uid == uid
            case OwnerUids(first, last):
                return self.has_socket and packet.uid is not None and first <= packet.uid <= last
            case OwnerGid(gid):
                return self.has_socket and packet.gid == gid
            case CtState(states):
                return self.state in states or ("DNAT" in states and self.is_tracked and self.bound is not None)
            case Mark(value):
                return self.mark == value
            case ConnMark(value):
                return self.is_tracked and self.connmark == value
            case Limit():
                return None
            case _:
                assert_never(asked)

    @property
    def has_ports(self) -> bool:
        return self.packet.protocol in ("tcp", "udp")

    def source_port_is_among(self, ports: Ports) -> bool | None:
        port = self.source_port
        if port is not None:
            return is_among(port, ports)
        if ports.first <= EPHEMERAL.first and EPHEMERAL.last <= ports.last:
            return True
        return None if ports.first <= EPHEMERAL.last and EPHEMERAL.first <= ports.last else False

    def foreign(self, text: str) -> bool | None:
        """A few matches of others that can be told from their words; None for all else."""
        words = text.split()
        if words[:2] == ["-m", "comment"]:
            return True
        negated = "!" in words
        match [word for word in words if word != "!"]:
            case ["-m", "mark", "--mark", value]:
                held = masked(self.mark, value)
            case ["-m", "connmark", "--mark", value]:
                if not self.is_tracked:
                    return False
                held = masked(self.connmark, value)
            case ["-m", "state", "--state", states]:
                held = self.state in states.split(",")
            case ["-m", "addrtype", "--dst-type", "LOCAL"]:
                held = self.host.is_local(self.destination)
            case ["-m", "addrtype", "--src-type", "LOCAL"] if self.source is not None:
                held = self.host.is_local(self.source)
            case _:
                return None
        return held is not negated


PROTOCOLS = {"6": "tcp", "17": "udp"}
"""iptables-save prints a number for a protocol that it has no name for."""
REMARKS = ("-j LOG", "-j NFLOG", "-j TRACE", "-j AUDIT", "-j CHECKSUM", "-j TCPMSS", "-j CLASSIFY", "-j IDLETIMER")
"""Targets of others that neither decide nor change anything that a rule asks about."""
SOURCES = ("-j MASQUERADE", "-j SNAT", "-j NETMAP")


def is_remark(target: Target) -> bool:
    """Whether it makes no difference to the walk whether this target is reached."""
    if isinstance(target, ForeignTarget):
        return not target.text or target.text.startswith(REMARKS)
    return isinstance(target, Log | Nflog | Zone)


def changes_source(text: str) -> bool:
    return text.startswith(SOURCES)


def binds(target: Target) -> bool:
    """Whether this target changes a connection's destination."""
    return isinstance(target, Redirect | Dnat)


def is_in(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def is_named(interface: str, pattern: str) -> bool:
    """Whether an interface, or none (""), is meant by this name."""
    return interface.startswith(pattern[:-1]) if pattern.endswith("+") else interface == pattern


def is_among(port: int, ports: Ports) -> bool:
    return ports.first <= port <= ports.last


def masked(mark: int, text: str) -> bool:
    """Whether a mark is `VALUE/MASK`."""
    value, _, mask = text.partition("/")
    return mark & int(mask or "0xffffffff", 0) == int(value, 0)


# --- in words ---------------------------------------------------------------------------------------------


def in_any_order(rulesets: Sequence[Ruleset], packet: Packet, host: Host) -> Trace:
    """The same where it is not known which ruleset of the family acts first: it depends, if that makes a difference.

    Of two tables of the same name, one in each backend, the kernel asks the younger one first
    (nf_hook_entries_grow of net/netfilter/core.c), and nothing tells which that is.
    """
    trace = simulate(rulesets, packet, host)
    if len(rulesets) > 1:
        other = simulate(tuple(reversed(rulesets)), packet, host)
        if (other.became, other.address, other.port) != (trace.became, trace.address, trace.port):
            ways = (trace, *(way for way in (other,) if trace.became is not Became.DEPENDS))
            why = "both backends have rules for it, and those in the younger table act first"
            return trace.but(became=Became.DEPENDS, address=None, port=None, decided=None, reason=why, ways=ways)
    return trace


def conclusion(trace: Trace, said: Callable[[str], str]) -> str:
    """What became of the packet and why, in one sentence; `said` tells how the operator said a setting."""
    if trace.became is Became.DEPENDS:
        which = [f"rule {step.position} of {step.chain} ({rule_text(step.rule)})" for step in trace.depends_on]
        why = " and ".join([*which, *([trace.reason] if trace.reason else [])])
        ways = [way for way in trace.ways if way.became is not Became.DEPENDS]
        ends = " or ".join(
            dict.fromkeys(f"{verdict(way)}, {end_of(way)}" if end_of(way) else verdict(way) for way in ways)
        )
        return f"it depends on {why}{f': {ends}' if ends else ''}"
    reason = reason_of(trace, said)
    decided = f"{verdict(trace)} {reason}" if trace.became.is_a_deed else f"{verdict(trace)}, {reason}"
    return ": ".join(filter(None, (decided, end_of(trace))))


def reason_of(trace: Trace, said: Callable[[str], str]) -> str:
    """Why: the rule that decided, what it is for, and the setting that asked for it."""
    step = trace.decided
    if step is None:
        # What would have captured it, had the packet been another.
        missed = [at.rule.setting for at in trace.steps if at.rule.setting in CAPTURING]
        hint = (
            ", ".join(map(said, dict.fromkeys(missed))) if trace.became in (Became.BYPASSED, Became.DELIVERED) else ""
        )
        return f"because {trace.reason}{f' ({hint})' if hint else ''}"
    of_table = f" of the {step.table} table" if step.chain in BUILT_IN.get(step.table, ()) else ""
    later = ", which its first packet met" if trace.packet.state == ESTABLISHED and step.table == NAT else ""
    what = step.rule.why or rule_text(step.rule)
    setting = f", because of {said(step.rule.setting)}" if step.rule.setting else ""
    why = f", for {trace.reason}" if trace.reason else ""
    return f"by rule {step.position} of {step.chain}{of_table} ({what}){later}{setting}{why}"


def verdict(trace: Trace) -> str:
    """What became of it, in a word or two."""
    return "not captured" if trace.became in (Became.BYPASSED, Became.DELIVERED) else trace.became.value


def end_of(trace: Trace) -> str:
    """Where it goes; empty if nowhere."""
    place = f"{written(trace.address)}:{trace.port}" if trace.address and trace.port else ""
    match trace.became:
        case Became.CAPTURED_OUTBOUND | Became.CAPTURED_INBOUND | Became.CAPTURED_DNS:
            if not place:
                return "it goes to the proxy's connection"
            return f"it goes to port {trace.port} of the proxy{'' if is_here(trace) else f', at {place}'}"
        case Became.REDIRECTED:
            return f"it goes to {place}"
        case Became.BYPASSED:
            passes = "passes through the pod" if trace.packet.direction is Direction.IN else "leaves the pod"
            return f"it {passes}, to {place}"
        case Became.DELIVERED:
            return f"it reaches {place} in the pod"
        case Became.DROPPED | Became.REFUSED | Became.DEPENDS:
            return ""
        case _:
            assert_never(trace.became)


def is_here(trace: Trace) -> bool:
    """Whether what captured it left it on this host without naming an address."""
    bound = [step.rule.target for step in trace.matched if binds(step.rule.target)]
    return not any(isinstance(target, Dnat) for target in bound)


def written(address: Address | None) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if address and address.version == 6 else str(address)
