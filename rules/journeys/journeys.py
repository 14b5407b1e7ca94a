"""What becomes of all packets at once: the walk of `rules.simulator.simulate`, with boxes of packets in place of one.

The first packet of every connection that can begin here is sent through all that is asked, as boxes (see
`rules.analysis.boxes`) with what the walk has made of them till then. Where a rule asks for some of a box, the box is
cut, and each part goes its way. What no box can tell goes both ways, and is said to depend on the rule.
"""

from __future__ import annotations

from rules.addresses import IPv6Address
from rules.analysis.boxes import FEW, fewer
from rules.analysis.probes import ELSEWHERE
from rules.meaning.lists import LONG, lists
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
)
from rules.netfilter.spans import common, joined, less, meet, one, points, single, united
from rules.netfilter.targets import Accept, Drop, Jump, Reject, Return, Zone
from rules.netfilter.values import MANGLE, NAT, OUTPUT, PREROUTING, Family, address_of_family, family_of
from rules.packets.packet import Direction, Packet
from rules.packets.trace import Became
from rules.plan.names import ISTIO_DIVERT, ISTIO_REDIRECT, LOOPBACK, LOOPBACK_INTERFACE, OURS
from rules.routing.policy import GOTO, LOCAL, LOOKUP, NOP, REFUSALS, THROW
from rules.simulator.simulate import CAPTURES, DEEPEST, EPHEMERAL, NAT_HOOKS, SENT_AWAY, STRAYED, prepared
from rules.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import TypeAlias, TypeVar

    from rules.analysis.boxes import Box
    from rules.netfilter.hooks import NativeTable, Station
    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.spans import Span
    from rules.packets.packet import Host
    from rules.routing.policy import PolicyRule

    F = TypeVar("F")
    Flow: TypeAlias = "dict[Now, list[Box]]"
    Piece: TypeAlias = tuple[Box, bool | None]
    Routed: TypeAlias = tuple[Box, bool | str | None]
    """Packets, and whether they stay here: True or False, None if that cannot be told, REFUSED if they go nowhere."""

NEW, INVALID, UNTRACKED = (one(f.STATES.index(name)) for name in ("NEW", "INVALID", "UNTRACKED"))
MOST_BOXES = 20_000
"""Boxes that are carried along together. With more it is not told what becomes of all packets."""
REFUSED = "refused"
"""What an ip rule or a route does with packets that are sent nowhere."""
ENDS: tuple[bool | str, ...] = (True, False, REFUSED)
"""What becomes of what a routing table has, as `Journeys.routes` gives it."""
LOOP: dict[Family, Span] = {Family.V4: (127 << 24, 128 << 24), Family.V6: (1, 2)}
NOBODY_THERE: dict[Family, Span] = {
    Family.V4: (0, 1 << 24, 224 << 24, 1 << 32),
    Family.V6: (0, 1, 0xFF << 120, 1 << 128),
}
"""The addresses of no single host."""
LINK_LOCAL: Span = (0xFE80 << 112, 0xFEC0 << 112)
FORGOTTEN = (None, one(-1), one(0))
"""What a connection remembers that was given no mark."""
NOTHING_SEEN: tuple[Span | None, ...] = (None,) * 14


class TooMany(Exception):
    """It would take too many boxes to tell what becomes of all packets."""


class Spot(Value):
    """A rule, by its place."""

    layer: int
    table: str
    chain: str
    position: int
    hook: str

    def __hash__(self) -> int:
        return hash((self.chain, self.position, self.table))

    @property
    def is_ours(self) -> bool:
        """Whether it is in a chain of ours."""
        return self.chain in OURS.get(self.table, ())


class Wanted(Value):
    """What is known of some packets before they are sent."""

    goes: str = ""
    """By which interface they mean to leave, or arrive."""
    is_captured: bool = False
    """Whether it is planned to capture them."""
    is_stopped: bool = False
    """Whether it is planned to drop or refuse them."""
    address: Span = ()
    """Where they are to be redirected; empty for a transparent listener."""
    port: Span = ()


class Now(Value):
    """What the walk has made of some packets till now."""

    direction: Direction
    tag: Wanted = Wanted()
    is_local: bool = False
    """Whether they were sent to an address of this host."""
    seen: tuple[Span | None, ...] = NOTHING_SEEN
    """What each field has become; None where it is what it was when they were sent."""
    goes: str = ""
    """Where they will leave as things stand."""
    is_tracked: bool = False
    untracked: Spot | None = None
    zone: int = 0
    zoned: Spot | None = None
    bound: Spot | None = None
    """The rule that changed the destination."""
    is_moved: bool = False
    """Whether PREROUTING sent them to another address than they had."""
    tagged: str = ""
    """By which target its TOS was changed, or its traffic class or hop limit."""
    handed: Spot | None = None
    """The rule that gave them to a transparent listener."""
    handed_to: int = 0
    destination_decided: bool = False
    source_decided: bool = False
    let_go: tuple[tuple[str, str], Spot, bool] | None = None
    """The rule that let them go, with its table and hook, and whether that was in doubt."""
    depends: bool = False
    """Whether it could not be told of some rule till now whether it holds, or which of several things it does."""

    def with_field(self, field: int, span: Span) -> Now:
        return self.but(seen=(*self.seen[:field], span, *self.seen[field + 1 :]))


class End(Value):
    """What becomes of some packets in the end."""

    now: Now
    became: Became
    by: Spot | None
    """The rule that decided; None if it was a policy, the routing, or nothing."""
    address: Span = ()
    """Where they are sent instead."""
    port: Span = ()
    reason: str = ""
    boxes: tuple[Box, ...] = ()
    """Which packets, as they were sent."""


# --- which packets there are ------------------------------------------------------------------------------


def universe(family: Family, host: Host, *, passing: bool = True) -> Iterator[tuple[Now, Box]]:
    """The first packets of all connections that can begin here.

    A process sends from the addresses of its host to anybody; others send to us, and with `passing` through us.
    They have no mark: one that a process sets itself (SO_MARK of socket(7)) is not looked at.
    """
    kinds = host.kinds(family)
    own, everywhere = kinds["LOCAL"], f.ADDRESSES[family]
    nobody = NOBODY_THERE[family]
    elsewhere = less(less(less(everywhere, own), nobody), kinds.get("BROADCAST", ()))
    local = [at for at in host.addresses if family_of(at.address) is family]
    outside = [at for at in local if at.interface != LOOPBACK_INTERFACE and not at.address.is_loopback]
    seen = {f.STATE: INVALID, f.MARK: one(0), f.CONNMARK: one(-1), f.REWRITTEN: one(f.UNTOUCHED)}
    users = (0, (1 << 32) - 1)

    def packets(now: Now, source: Span, to: Span, owner: Span) -> Iterator[tuple[Now, Box]]:
        now = now.but(seen=tuple(seen.get(field) for field in range(len(NOTHING_SEEN))))
        numbers = one(f.PROTOCOLS["tcp"]), one(f.PROTOCOLS["udp"])
        for number in (*numbers, less((0, 256), united(*numbers))):
            has_ports = number in numbers
            ports: Span = (1, 1 << 16) if has_ports else ()
            flags: Span = f.FIRST_FLAGS if number == numbers[0] else ()
            box = (number, source, to, ports, ports, owner, owner, (), (), (), (), (), flags, ())
            if source and to:
                yield now, box

    inside = Now(Direction.OUT, is_local=True, goes=LOOPBACK_INTERFACE)
    near = common(own, LINK_LOCAL) if family is Family.V6 else ()
    yield from packets(inside, own, less(own, near), users)
    for name in dict.fromkeys(at.interface for at in local):
        # Who calls a link-local address is bound to its interface, and hears only what is answered to one there
        # (sk_bound_dev_if in inet6_lookup_established; ip6_rcv_core takes the interface from the address on lo).
        its = joined(sorted((int(at.address), int(at.address) + 1) for at in local if at.interface == name))
        if common(its, near):
            yield from packets(inside, its, common(its, near), users)
    left = elsewhere
    reached = joined(sorted((int(at.address), int(at.address) + 1) for at in outside))
    # Any address of ours but those of loopback may be asked for, also one on lo, as the ::6 of the proxy is.
    narrow = (at for at in local if not (at.address.is_loopback or at.address.is_link_local))
    sources = joined(sorted((int(at.address), int(at.address) + 1) for at in narrow))
    for at in sorted(outside, key=lambda at: -at.prefix) if sources else ():
        rest = at.address.max_prefixlen - at.prefix
        first = int(at.address) >> rest << rest
        near = common(left, (first, first + (1 << rest))) if at.prefix else ()
        yield from packets(Now(Direction.OUT, goes=at.interface), sources, near, users)
        left = less(left, near)
    if sources:
        yield from packets(Now(Direction.OUT, goes=host.default_interface), sources, left, users)
    for name in dict.fromkeys(at.interface for at in outside):
        strangers = less(less(everywhere, own), nobody)
        yield from packets(Now(Direction.IN, is_local=True, goes=name), strangers, reached, f.NOBODY)
        if passing:
            yield from packets(Now(Direction.IN, goes=name), strangers, elsewhere, f.NOBODY)


def takes_in_passing(ruleset: Ruleset) -> bool:
    """Whether what others send to each other through here is captured (`--kube-virt-interfaces`)."""
    rules = ruleset.table(NAT).chains().get(PREROUTING, ())
    return any(rule.target == Jump(ISTIO_REDIRECT) for rule in rules)


def packet_of(start: Now, box: Box, family: Family, choose: Callable[[int, Span], int]) -> Packet:
    """One of the packets of a box, as it was sent; `choose` takes a value of each field."""
    is_out = start.direction is Direction.OUT
    number = choose(f.PROTOCOL, box[f.PROTOCOL])
    names = {f.PROTOCOLS[name]: name for name in ("tcp", "udp")}
    sport = choose(f.SPORT, box[f.SPORT]) if box[f.SPORT] else 0
    return Packet(
        start.direction,
        family,
        names.get(number, str(number)),
        address_of_family(family, choose(f.SOURCE, box[f.SOURCE])),
        address_of_family(family, choose(f.DESTINATION, box[f.DESTINATION])),
        choose(f.DPORT, box[f.DPORT]) if box[f.DPORT] else 0,
        start.goes,
        sport or None,
        choose(f.UID, box[f.UID]) if is_out else None,
        choose(f.GID, box[f.GID]) if is_out else None,
    )


EVERYDAY: dict[int, tuple[int, ...]] = {
    f.PROTOCOL: (f.PROTOCOLS["tcp"], f.PROTOCOLS["udp"], f.PROTOCOLS["icmp"], f.PROTOCOLS["icmpv6"]),
    f.SPORT: (0,),
    f.DPORT: (80, 443, 8080),
    f.UID: (1000, 1001, 0),
    f.GID: (1000, 1001, 0),
}


def usual_values(family: Family) -> dict[int, tuple[int, ...]]:
    """What comes every day of each field."""
    elsewhere = tuple(int(address) for address in ELSEWHERE[family])
    return {**EVERYDAY, f.SOURCE: elsewhere, f.DESTINATION: elsewhere}


def everyday(family: Family) -> Callable[[int, Span], int]:
    """Takes of each field what comes every day, if there is such a value; of addresses one that is no end."""
    usual = usual_values(family)

    def choose(field: int, span: Span) -> int:
        if field == f.SPORT and common(span, EPHEMERAL) == EPHEMERAL:
            return 0  # the kernel chooses
        for value in usual.get(field, ()):
            if meet(span, one(value)):
                return value
        first: int = span[0]
        return min(first + 1, span[1] - 1) if field in (f.SOURCE, f.DESTINATION) else first

    return choose


# --- the walk ---------------------------------------------------------------------------------------------


class Decided:
    """What the rules of one base chain decide about."""

    def __init__(self) -> None:
        self.accepted: Flow = {}
        self.bound: list[tuple[Spot, Spot, e.Bind | e.BindSource, Now, list[Box]]] = []
        """The rule that does it, the rule of the base chain that led to it, and what it does to whom."""
        self.through: Spot | None = None
        """The rule of the base chain that is asked just now."""


class Walk:
    """Packets in one chain, which a base chain led to."""

    def __init__(self, station: Station, out: Decided, path: tuple[str, ...]) -> None:
        self.station, self.out, self.path = station, out, path
        """The base chain, what is decided there, and the chains that lead to this one, itself the last."""
        self.back: Flow = {}
        """Those that leave the chain undecided."""
        self.sieve: Sieve | None = None
        """For a chain of many rules."""
        self.waiting: dict[int, Flow] = {}
        """Those that miss all rules before this one, and wait for it."""
        self.places: Sequence[int] = ()
        """Where in the chain its rules stand, if some are asked as one."""


class Journeys:
    """All packets of one family on their way through these rules."""

    def __init__(
        self,
        rulesets: Sequence[Ruleset],
        family: Family,
        host: Host,
        natives: Sequence[NativeTable] = (),
        order: Sequence[int] = (),
        is_over: Callable[[Now], bool] = lambda _: False,
        *,
        names_rules: bool = True,
        remembers: bool = False,
    ) -> None:
        self.family, self.host = family, host
        self.rules = prepared(tuple(each for each in rulesets if each.family is family), natives, order)
        self.kinds = host.kinds(family)
        self.own = self.kinds["LOCAL"]
        self.types = host.types(family)
        self.asks_before_local = host.asks_before_local(family)
        self.names_rules = names_rules
        """Whether to tell by which rule something was let go."""
        self.remembers = remembers
        """Whether to tell what their connections remember of marks, if anything."""
        self.is_over = is_over
        """Whether nothing more is to be known of such packets once somebody sent their connection elsewhere."""
        self.ended: dict[End, list[Box]] = {}
        self.compiled: dict[int, tuple[tuple[f.Condition, ...], e.Effect]] = {}
        self.sieves: dict[int, Sieve] = {}
        self.lists: dict[int, tuple[Sequence[Rule], Sequence[int]]] = {}
        self.tables: dict[tuple[int, int | None], tuple[Span, Span, Span]] = {}

    def ends(self, coming: Iterable[tuple[Now, Box]]) -> tuple[End, ...]:
        """What becomes of these packets. Raises TooMany."""
        by_link: dict[tuple[Direction, str], Flow] = {}
        for now, box in coming:
            add(by_link.setdefault((now.direction, now.goes), {}), now, [box])
        for (direction, link), flow in by_link.items():
            if direction is Direction.OUT:
                self.sent(flow)
            else:
                self.arrived(flow, link)
        return tuple(end.but(boxes=tuple(fewer(boxes))) for end, boxes in self.ended.items())

    def started(self, coming: Iterable[tuple[Now, Box]]) -> Iterator[tuple[Now, Box]]:
        """The same packets, each with the interface by which its sender means it to leave."""
        for now, box in coming:
            if now.direction is Direction.IN or (now.is_local and not self.asks_before_local):
                yield now.but(tag=Wanted(now.goes)), box
            else:
                for start, boxes in self.routed({now: [box]}, is_first=True):
                    yield from ((start.but(tag=Wanted(start.goes)), its) for its in boxes)

    def sent(self, coming: Flow) -> None:
        """OUTPUT and POSTROUTING; what goes over lo arrives again."""
        flow: Flow = {}
        for now, boxes in coming.items():
            leaving = self.not_strayed_when_turned(now, boxes)
            add(flow, now.with_field(f.LEAVES_ON, one(now.goes)).with_field(f.ARRIVED_ON, one("")), leaving)
        flow = self.hook(OUTPUT, flow)
        by_link: dict[str, Flow] = {}
        for now, boxes in flow.items():
            leaving = self.not_strayed(now, boxes)
            add(by_link.setdefault(now.goes, {}), now.with_field(f.LEAVES_ON, one(now.goes)), leaving)
        for link, going in by_link.items():
            out = self.hook(EGRESS, self.hook(POSTROUTING, going), link)
            if link != LOOPBACK_INTERFACE:
                for now, boxes in out.items():
                    self.arrival(now, boxes, kept=False)
                continue
            back: Flow = {}
            for now, boxes in out.items():
                add(back, now.with_field(f.UID, one(-1)).with_field(f.GID, one(-1)), boxes)
            self.arrived(back, link)

    def not_strayed(self, now: Now, boxes: list[Box]) -> list[Box]:
        """Those of these packets that may leave by the interface that is chosen; the others end here."""
        if now.goes == LOOPBACK_INTERFACE or now.seen[f.SOURCE]:
            return boxes
        strayed, others = self.split(now, boxes, (f.Among(f.SOURCE, LOOP[self.family]),))
        self.end(now, strayed, Became.DROPPED, now.bound, STRAYED)
        return others

    def not_strayed_when_turned(self, now: Now, boxes: list[Box]) -> list[Box]:
        """The same where OUTPUT chooses anew: IPv4 is refused at once, and what comes behind is not asked."""
        return self.not_strayed(now, boxes) if self.family is Family.V4 else boxes

    def arrived(self, flow: Flow, interface: str) -> None:
        """PREROUTING, and INPUT or FORWARD."""
        coming: Flow = {}
        for now, boxes in flow.items():
            add(coming, now.with_field(f.ARRIVED_ON, one(interface)).with_field(f.LEAVES_ON, one("")), boxes)
        coming = self.hook(PREROUTING, self.hook(INGRESS, coming, interface))
        kept: Flow = {}
        passing: Flow = {}
        routed: Flow = {}
        for now, boxes in coming.items():
            # What left over lo has its route already, unless nat changes where it goes (ip_rcv_finish_core).
            is_back = interface == LOOPBACK_INTERFACE and now.direction is Direction.OUT
            add(kept if is_back and not now.is_moved else routed, now, boxes)
        for now, boxes, stays in self.delivered(self.without_martians(routed)):
            if stays:
                add(kept, now, boxes)
            elif now.handed:
                self.end(now, boxes, Became.DROPPED, None, "no ip rule keeps its mark in the pod")
            else:
                add(passing, now.with_field(f.LEAVES_ON, one(now.goes)), boxes)
        met: Flow = {}
        for now, boxes in kept.items():
            if now.handed:  # with the socket of a listener, whose owner a native rule can ask for
                now = now.with_field(f.UID, f.OWNERS).with_field(f.GID, f.OWNERS)
            add(met, now, boxes)
        for now, boxes in self.hook(INPUT, met).items():
            self.arrival(now, boxes, kept=True)
        by_link: dict[str, Flow] = {}
        for now, boxes in self.hook(FORWARD, passing).items():
            add(by_link.setdefault(now.goes, {}), now, boxes)
        for link, going in by_link.items():
            for now, boxes in self.hook(EGRESS, self.hook(POSTROUTING, going), link).items():
                self.arrival(now, boxes, kept=False)

    def arrival(self, now: Now, boxes: list[Box], *, kept: bool) -> None:
        """What became of packets that no rule stopped."""
        where = (now.seen[f.DESTINATION] or (), now.seen[f.DPORT] or ())
        if now.handed and kept:
            port = one(now.handed_to) if now.handed_to else ()
            became = Became.CAPTURED_INBOUND if now.handed.is_ours else Became.REDIRECTED
            self.end(now, boxes, became, now.handed, "", (), port)
        elif now.bound and kept and common(where[0], self.own) != where[0]:
            self.end(now, boxes, Became.DROPPED, None, "its mark keeps it in the pod, where no socket answers for it")
        elif now.bound and not kept and where[0] and common(where[0], self.own) == where[0]:
            self.end(now, boxes, Became.DROPPED, None, SENT_AWAY)
        elif now.bound:
            became = CAPTURES.get(now.bound.chain, Became.REDIRECTED) if now.bound.is_ours else Became.REDIRECTED
            self.end(now, boxes, became, now.bound, "", *where)
        else:
            became = Became.DELIVERED if kept else Became.BYPASSED
            self.end(now, boxes, became, now.let_go[1] if now.let_go else None)

    def end(
        self,
        now: Now,
        boxes: list[Box],
        became: Became,
        by: Spot | None,
        reason: str = "",
        address: Span = (),
        port: Span = (),
    ) -> None:
        if boxes:
            # What is left out of `now` makes no difference to whoever asks what became of them.
            kept = Now(now.direction, now.tag, now.is_local, goes=now.goes, depends=now.depends)
            kept = kept.but(untracked=now.untracked)
            if self.remembers and now.seen[f.CONNMARK] not in FORGOTTEN:
                kept = kept.with_field(f.CONNMARK, now.seen[f.CONNMARK] or f.U32)
            kept = kept.but(destination_decided=now.destination_decided) if became is Became.DEPENDS else kept
            kept = kept.but(zoned=now.zoned) if now.bound and now.zoned and not now.zoned.is_ours else kept
            self.ended.setdefault(End(kept, became, by, address, port, reason), []).extend(boxes)

    # --- routing ------------------------------------------------------------------------------------------

    def delivered(self, flow: Flow) -> Iterator[tuple[Now, list[Box], bool]]:
        """The same packets, and whether routing delivers them here; else where they will leave."""
        for now, boxes in flow.items():
            destination = now.seen[f.DESTINATION]
            if destination is None:
                is_local = now.is_local
            else:
                here = common(destination, self.own)
                is_local = here == destination
                if here and not is_local:  # one of several, some of which are ours
                    self.end(now, boxes, Became.DEPENDS, now.bound)
                    continue
            if is_local and not self.asks_before_local:
                yield now, boxes, True
                continue
            for its, those in self.routed({now: boxes}):
                yield its, those, its.goes == LOOPBACK_INTERFACE

    def routed(self, flow: Flow, *, is_first: bool = False) -> Iterator[tuple[Now, list[Box]]]:
        """Packets for none of our addresses, with where they will leave: lo if the policy keeps them here."""
        for now, boxes in flow.items():
            for box, kept in self.kept(now, boxes, is_first=is_first):
                if kept is None:
                    self.end(now, [box], Became.DEPENDS, None)
                elif kept == REFUSED:
                    self.end(now, [box], Became.DROPPED, None, "an ip rule or a route refuses it")
                elif kept:
                    yield now.but(goes=LOOPBACK_INTERFACE), [box]
                elif now.seen[f.DESTINATION] or now.direction is Direction.IN or now.goes == LOOPBACK_INTERFACE:
                    yield from ((now.but(goes=link), those) for link, those in self.links(now, [box]))
                else:
                    yield now, [box]

    def links(self, now: Now, boxes: list[Box]) -> Iterator[tuple[str, list[Box]]]:
        left = boxes
        for at in sorted(self.host.addresses, key=lambda at: -at.prefix):
            if family_of(at.address) is self.family and at.interface != LOOPBACK_INTERFACE and at.prefix and left:
                rest = at.address.max_prefixlen - at.prefix
                first = int(at.address) >> rest << rest
                near, left = self.split(now, left, (f.Among(f.DESTINATION, (first, first + (1 << rest))),))
                if near:
                    yield at.interface, near
        if left:
            yield self.host.default_interface, left

    def kept(self, now: Now, boxes: list[Box], *, is_first: bool) -> Iterator[Routed]:
        """Whether packets to none of our addresses stay here all the same; None if that cannot be told.

        Where OUTPUT has it asked again, IPv4 has forgotten whose they are (ip_route_me_harder of net/ipv4/netfilter.c).
        """
        host, mark = self.host, now.seen[f.MARK] or f.U32
        if host.policy is None:
            marks = {routing.mark for routing in host.routing if routing.family is self.family}
            is_one = single(mark)
            stays = mark[0] in marks if is_one else None if marks else False
            yield from ((box, stays) for box in boxes)
            return
        arrived = now.seen[f.ARRIVED_ON] or ("",)
        seen = now.with_field(f.ARRIVED_ON, one(arrived[0] or LOOPBACK_INTERFACE))
        is_forgotten = not is_first and self.family is Family.V4
        if is_forgotten or now.seen[f.UID] is not None or now.direction is Direction.IN:
            seen = seen.with_field(f.UID, one(0))
        rules = [rule for rule in host.policy.rules if rule.family is self.family]
        yield from self.by_policy(rules, 0, seen, boxes)

    def without_martians(self, flow: Flow) -> Flow:
        """Those that come from outside with a source that is delivered here end: see `simulate`."""
        policy = self.host.policy
        if self.family is Family.V6 or policy is None or not policy.is_custom(self.family):
            return flow
        rules = [rule for rule in policy.rules if rule.family is self.family]
        left: Flow = {}
        for now, boxes in flow.items():
            back = now.but(seen=turned_round(now.seen)).with_field(f.ARRIVED_ON, one(LOOPBACK_INTERFACE))
            back = back.with_field(f.MARK, one(0)).with_field(f.UID, one(0))
            for piece, is_martian in self.by_policy(rules, 0, back, [turned_round(box) for box in boxes]):
                if is_martian is True:
                    why = "an ip rule takes its source for one of this host"
                    self.end(now, [turned_round(piece)], Became.DROPPED, None, why)
                else:
                    add(left, now, [turned_round(piece)])
        return left

    def by_policy(self, rules: Sequence[PolicyRule], at: int, now: Now, boxes: list[Box]) -> Iterator[Routed]:
        left = boxes
        while at < len(rules) and left:
            rule = rules[at]
            at += 1
            if rule.action == NOP:
                continue
            hit: list[Box] = []
            missed: list[Box] = []
            for box in left:
                for piece, met in self.parts(now, box, routing_conditions(rule)):
                    if met is None:
                        # As `Policy.kept` has it: it can be told if both ways end alike.
                        yield piece, self.alike(rules, at, now, piece, rule)
                    else:
                        (hit if met else missed).append(piece)
            left = missed
            if not hit:
                continue
            if rule.action == GOTO:
                further = next((n for n in range(at, len(rules)) if rules[n].priority == rule.table), None)
                if further is None:
                    left += hit
                else:
                    yield from self.by_policy(rules, further, now, hit)
            elif rule.action != LOOKUP:
                yield from ((box, REFUSED) for box in hit)
            else:
                left = [*left, *(yield from self.by_table(rule, now, hit))]
        yield from ((box, False) for box in left)

    def by_table(self, rule: PolicyRule, now: Now, boxes: list[Box]) -> Generator[Routed, None, list[Box]]:
        """What becomes of packets by the table that a rule looks up; those for which it has no route are given back."""
        left = boxes
        for span, stays in zip(self.routes(rule), ENDS, strict=True):
            further: list[Box] = []
            for box in left if span else ():
                for piece, met in self.parts(now, box, (f.Among(f.DESTINATION, span),)):
                    if met is False:
                        further.append(piece)
                    else:
                        yield piece, stays if met else None
            left = further if span else left
        return left

    def alike(self, rules: Sequence[PolicyRule], at: int, now: Now, box: Box, rule: PolicyRule) -> bool | str | None:
        if rule.action == GOTO:
            return None
        spans = self.routes(rule) if rule.action == LOOKUP else ((), (), f.ADDRESSES[self.family])
        answers: set[bool | str | None] = set()
        for piece, stays in self.by_policy(rules, at, now, [box]):
            answers.add(stays)
            destination = now.seen[f.DESTINATION] or piece[f.DESTINATION]
            answers.update(end for span, end in zip(spans, ENDS, strict=True) if meet(destination, span))
        return answers.pop() if len(answers) == 1 else None

    def routes(self, rule: PolicyRule) -> tuple[Span, Span, Span]:
        """What the table that a rule looks up delivers here, what it sends away, and what it refuses."""
        key = (rule.table, rule.suppressed)
        if key not in self.tables and self.host.policy:
            here: Span = ()
            away: Span = ()
            refused: Span = ()
            left = f.ADDRESSES[self.family]
            routes = [it for it in self.host.policy.routes if (it.family, it.table) == (self.family, rule.table)]
            for route in sorted(routes, key=lambda route: (-route.prefix, route.metric)):
                span = left
                if route.destination:
                    first = int(route.destination.network_address)
                    span = common(left, (first, first + route.destination.num_addresses))
                if route.tos or not span:
                    continue
                left = less(left, span)
                if route.kind == THROW or (rule.suppressed is not None and route.prefix <= rule.suppressed):
                    continue
                if route.kind == LOCAL:
                    here = united(here, span)
                elif route.kind in REFUSALS:
                    refused = united(refused, span)
                else:
                    away = united(away, span)
            self.tables[key] = (here, away, refused)
        return self.tables[key]

    # --- hooks and base chains ----------------------------------------------------------------------------

    def hook(self, hook: str, flow: Flow, device: str = "") -> Flow:
        """Ask the base chains of this hook in their order, conntrack and NAT where they have their places."""
        due: list[tuple[int, Callable[[Flow], Flow]]] = []
        if hook in (PREROUTING, OUTPUT):
            due.append((CONNTRACK, self.look_up))
        if hook in NAT_HOOKS:
            due.append((NAT_HOOKS[hook], lambda coming: self.nat(hook, coming)))
        for station in self.rules.hooks.get(hook, ()):
            while due and due[0][0] <= station.place[0]:
                flow = due.pop(0)[1](flow)
            if station.kind == KIND_NAT or station.device != device:
                continue
            flow = self.turned(self.ask(station, flow)) if station.kind == KIND_ROUTE else self.passed(station, flow)
        for _, act in due:
            flow = act(flow)
        if sum(map(len, flow.values())) > MOST_BOXES:
            raise TooMany
        return {now: fewer(boxes) if len(boxes) > FEW else boxes for now, boxes in flow.items()}

    def passed(self, station: Station, flow: Flow) -> Flow:
        return {now: boxes for _, now, boxes in self.ask(station, flow)}

    def turned(self, answers: Iterable[tuple[Now, Now, list[Box]]]) -> Flow:
        """Where the mark was changed, or TOS, the way is looked up again."""
        flow: Flow = {}
        for before, now, boxes in answers:
            is_same = (before.seen[f.MARK], before.tagged) == (now.seen[f.MARK], now.tagged)
            if is_same or (now.is_local and not self.asks_before_local):
                add(flow, now, boxes)
                continue
            for its, those in self.routed({now: boxes}):
                add(flow, its, self.not_strayed_when_turned(its, those))
        return flow

    def ask(self, station: Station, flow: Flow) -> list[tuple[Now, Now, list[Box]]]:
        """What goes on behind this base chain, each with what it was before."""
        out = []
        for before, boxes in flow.items():
            decided = Decided()
            going = self.chain(station, station.chain, {before: boxes}, decided, ())
            add_all(decided.accepted, self.by_policy_of(station, going))
            for _, _, _, now, those in decided.bound:  # which the kernel refuses, but in chains of type nat
                add(decided.accepted, now, those)
            out += [(before, now, those) for now, those in decided.accepted.items()]
        merged: dict[Now, tuple[Now, list[Box]]] = {}
        for before, now, those in out:
            merged.setdefault(now, (before, []))[1].extend(those)
        return [(before, now, those) for now, (before, those) in merged.items()]

    def by_policy_of(self, station: Station, flow: Flow) -> Flow:
        if not station.drops:
            return flow
        for now, boxes in flow.items():
            self.end(now, boxes, Became.DROPPED, None, f"the policy of {station.chain} of {station.table} is DROP")
        return {}

    def look_up(self, flow: Flow) -> Flow:
        """Conntrack looks at them, unless it has already."""
        if not self.rules.tracks:
            return flow
        seen: Flow = {}
        for now, boxes in flow.items():
            if not now.is_tracked and now.seen[f.STATE] == INVALID:
                now = now.with_field(f.STATE, NEW).with_field(f.CONNMARK, one(0)).but(is_tracked=True)
            add(seen, now, boxes)
        return seen

    def nat(self, hook: str, flow: Flow) -> Flow:
        """Ask the chains of type nat: each, until one changes an address."""
        for_source = hook in (INPUT, POSTROUTING)
        done: Flow = {}
        asking: Flow = {}
        for now, boxes in flow.items():
            decided = now.source_decided if for_source else now.destination_decided
            add(done if decided or not now.is_tracked or now.seen[f.STATE] != NEW else asking, now, boxes)
        for station in self.rules.hooks.get(hook, ()):
            if station.kind != KIND_NAT or not asking:
                continue
            decided_there = Decided()
            going = self.by_policy_of(station, self.chain(station, station.chain, asking, decided_there, ()))
            add_all(going, decided_there.accepted)
            for spot, through, does, now, boxes in decided_there.bound:
                if isinstance(does, e.BindSource):
                    hidden = now.with_field(f.SOURCE, f.ADDRESSES[self.family])
                    hidden = hidden.but(source_decided=True) if for_source else hidden.but(destination_decided=True)
                    add(done, hidden, boxes)
                elif for_source:
                    self.end(now, boxes, Became.DEPENDS, spot)
                else:
                    for its, those in self.bind((spot, through), does, now, boxes, hook):
                        add(done, its, those)
            asking = going
        for now, boxes in asking.items():
            add(done, now.but(source_decided=True) if for_source else now.but(destination_decided=True), boxes)
        return done

    def bind(
        self, by: tuple[Spot, Spot], does: e.Bind, now: Now, boxes: list[Box], hook: str
    ) -> Iterator[tuple[Now, list[Box]]]:
        """Send their connection to one of these ends."""
        spot, _ = by
        now = now.but(bound=spot, destination_decided=True).with_field(f.REWRITTEN, one(f.DNAT))
        for here, those in self.redirected_to(hook, now, boxes) if does.is_here else [((), boxes)]:
            if does.is_here and not here:
                self.end(now, those, Became.DROPPED, spot, "the interface has no address to redirect it to")
                continue
            addresses: Span = ()
            ports: Span = ()
            own_ports = own_address = False
            for to, at in does.ends:
                addresses = united(addresses, to) if to else addresses
                own_address = own_address or not to
                ports = united(ports, at) if at else ports
                own_ports = own_ports or not at
            its = now
            if addresses or here:
                its = its.with_field(f.DESTINATION, united(addresses, here if own_address else ()))
            is_one = len(does.ends) == 1 and all(not it or single(it) for it in (addresses, ports))
            its = its if is_one else its.but(depends=True)
            for at_port, some in with_port(its, those, () if own_ports else ports):
                for after, part in self.rewritten(now, at_port, some):
                    yield from self.bound(by, now, after, part, hook)

    def rewritten(self, was: Now, now: Now, boxes: list[Box]) -> Iterator[tuple[Now, list[Box]]]:
        """What goes where it went anyway is unchanged to conntrack (nf_nat_setup_info, nf_nat_core.c)."""
        ends = {field: now.seen[field] for field in (f.DESTINATION, f.DPORT)}
        changed = tuple(f.Among(field, to) for field, to in ends.items() if to is not None and to != was.seen[field])
        is_told = self.rules.asks_for_nat and all(single(each.span) for each in changed)
        same, moved = self.split(was, boxes, changed) if is_told else ([], boxes)
        if same:
            yield now.with_field(f.REWRITTEN, one(f.UNTOUCHED)), same
        if moved:
            yield now, moved

    def bound(
        self, by: tuple[Spot, Spot], was: Now, now: Now, boxes: list[Box], hook: str
    ) -> Iterator[tuple[Now, list[Box]]]:
        """They have their new destination: those of which more is to be known go on."""
        spot, through = by
        if now.handed or not self.is_over(now):  # what a transparent listener has stays with it
            yield from self.routed_anew(was, now, boxes, hook)
        elif now.let_go and now.let_go[1].is_ours and not spot.is_ours:
            # Ours let them go already: who takes them then is not asked.
            _, let_go, depended = now.let_go
            self.end(now.but(depends=depended), boxes, Became.BYPASSED, let_go)
        else:
            self.end(now, boxes, self.of_bound(spot), spot if spot.is_ours else through)

    def routed_anew(self, was: Now, now: Now, boxes: list[Box], hook: str) -> Iterator[tuple[Now, list[Box]]]:
        """Those of them that NAT sent to another address than they had; the others go on as they are
        (nf_nat_ipv4_local_fn and nf_nat_ipv4_pre_routing of net/netfilter/nf_nat_proto.c)."""
        to = now.seen[f.DESTINATION]
        if to is None:
            yield now, boxes
            return
        kept, moved = self.split(was, boxes, (f.Among(f.DESTINATION, to),)) if single(to) else ([], boxes)
        if kept:
            yield now, kept
        if moved and hook != OUTPUT:
            yield now.but(is_moved=True), moved
        elif moved:
            for after, some, stays in self.delivered({now: moved}):
                turned = after.but(goes=LOOPBACK_INTERFACE if stays else after.goes)
                yield turned, self.not_strayed_when_turned(turned, some)

    def of_bound(self, spot: Spot) -> Became:
        return CAPTURES.get(spot.chain, Became.REDIRECTED) if spot.is_ours else Became.REDIRECTED

    def redirected_to(self, hook: str, now: Now, boxes: list[Box]) -> Iterator[tuple[Span, list[Box]]]:
        """The address of this host that REDIRECT chooses (net/netfilter/nf_nat_redirect.c)."""
        if hook == OUTPUT:
            yield one(int(LOOPBACK[self.family].network_address)), boxes
            return
        near: list[Box] = []
        if self.family is Family.V6:
            near, boxes = self.split(now, boxes, (f.Among(f.DESTINATION, LINK_LOCAL),))
        parts = [(boxes, LOOPBACK[self.family].network_address), (near, IPv6Address(LINK_LOCAL[0]))]
        name = (now.seen[f.ARRIVED_ON] or ("",))[0]
        for those, like in parts:
            address = self.host.address_of(name, self.family, like)
            if those:
                yield one(int(address)) if address else (), those

    # --- chains and what their rules do -------------------------------------------------------------------

    def chain(self, station: Station, name: str, coming: Flow, out: Decided, path: tuple[str, ...]) -> Flow:
        """What comes back undecided of the packets that enter this chain."""
        if len(path) > DEEPEST or name in path:
            for now, boxes in coming.items():
                self.end(now, boxes, Became.DROPPED, None, f"{name} leads back to itself")
            return {}
        rules: Sequence[Rule] = station.rules.get(name, ())
        walk = Walk(station, out, (*path, name))
        if len(rules) > LONG:
            rules, walk.places = self.with_lists(rules)
        walk.sieve = self.sieve(rules) if len(rules) > LONG else None
        for at, rule in enumerate(rules):
            if at in walk.waiting:
                coming = {now: list(boxes) for now, boxes in coming.items()}
                add_all(coming, walk.waiting.pop(at))
            if not coming and not walk.waiting:
                break
            coming = self.rule(walk, at, rule, coming)
            if len(coming) > MOST_BOXES:
                raise TooMany
        for rest in (coming, *walk.waiting.values()):
            add_all(walk.back, rest)
        return {now: fewer(boxes) if len(boxes) > FEW else boxes for now, boxes in walk.back.items()}

    def with_lists(self, rules: Sequence[Rule]) -> tuple[Sequence[Rule], Sequence[int]]:
        """The same rules, those of a list asked as one; and the place of each, of a list that of its first."""
        known = self.lists.get(id(rules))
        if known is None:
            asked = list(lists(rules))
            known = self.lists[id(rules)] = tuple(each.rule for each in asked), [each.places[0] for each in asked]
        return known

    def rule(self, walk: Walk, at: int, rule: Rule, coming: Flow) -> Flow:
        """Ask this rule, the one at this place of its chain. Those that go on to the next one."""
        conditions, does = self.meaning(rule)
        further: Flow = {}
        spot: Spot | None = None
        for now, boxes in coming.items():
            met, missed, unsure = self.split_in_three(now, boxes, conditions)
            if not met and not unsure:
                add(further, now, boxes)
                continue
            station = walk.station
            place = walk.places[at] if walk.places else at
            spot = spot or Spot(station.layer, station.table, walk.path[-1], place + 1, station.hook)
            if unsure and isinstance(does, e.Nothing):
                missed += unsure
                unsure = []
            if walk.sieve and walk.sieve.ways[at] and now.seen[f.DESTINATION] is None:
                missed = walk.sieve.put_off(at, now, missed, walk.waiting)
            add(further, now, missed)
            if len(walk.path) == 1:
                walk.out.through = spot
            self.perform_where(walk, spot, does, now, met, unsure, further)
        return further

    def perform_where(
        self, walk: Walk, spot: Spot, does: e.Effect, now: Now, met: list[Box], unsure: list[Box], further: Flow
    ) -> None:
        """Do this to those that meet the rule. Where that cannot be told, both become of them."""
        if met:
            self.perform(walk, spot, does, now, met, further)
        if unsure:
            doubtful = now.but(depends=True)
            add(further, doubtful, unsure)
            self.perform(walk, spot, does, doubtful, unsure, further)

    def perform(self, walk: Walk, spot: Spot, does: e.Effect, now: Now, boxes: list[Box], further: Flow) -> None:
        """Do to these packets what a rule says: those that go on to its next rule come into `further`."""
        match does:
            case Return():
                add(walk.back, self.released(now, spot), boxes)
            case Accept():
                is_handed = spot.chain == ISTIO_DIVERT and spot.table == MANGLE
                add(
                    walk.out.accepted,
                    now.but(handed=spot, handed_to=0) if is_handed else self.released(now, spot),
                    boxes,
                )
            case Drop():
                self.end(now, boxes, Became.DROPPED, spot)
            case Reject():
                self.end(now, boxes, Became.REFUSED, spot)
            case e.Bind() | e.BindSource():
                walk.out.bound.append((spot, walk.out.through or spot, does, now, boxes))
            case Jump(chain):
                add_all(further, self.chain(walk.station, chain, {now: boxes}, walk.out, walk.path))
            case e.Goto(chain):
                add_all(walk.back, self.chain(walk.station, chain, {now: boxes}, walk.out, walk.path))
            case e.Hand(port, keep, flip, accepts):
                mark = now.seen[f.MARK] or f.U32
                new = one(mark[0] & keep ^ flip) if single(mark) else one(flip) if not keep else f.U32
                handed = now.with_field(f.MARK, new).but(handed=spot, handed_to=port)
                add(walk.out.accepted if accepts else further, handed, boxes)
            case e.Remark():
                add(further, remarked(now, does), boxes)
            case e.Forget(onto):
                is_known = onto != f.MARK and not now.is_tracked
                add(further, now if is_known else now.with_field(onto, f.U32).but(depends=True), boxes)
            case Zone(zone):
                is_given = not now.is_tracked and not now.zone
                add(further, now.but(zone=zone, zoned=spot) if is_given else now, boxes)
            case e.NoTrack():
                off = now if now.is_tracked or now.zone else now.with_field(f.STATE, UNTRACKED).but(untracked=spot)
                add(further, off, boxes)
            case e.Retag(text):
                add(further, now.but(tagged=text), boxes)
            case e.Nothing():
                add(further, now, boxes)
            case e.Queue():
                add(walk.out.accepted, now.but(depends=True), boxes)
                self.end(now.but(depends=True), boxes, Became.DROPPED, spot)
            case e.Choice():
                self.choose(walk, spot, does, now, boxes, further)
            case e.Then(first, conditions, second):
                between: Flow = {}
                self.perform(walk, spot, first, now, boxes, between)
                for its, those in between.items():
                    met, missed, unsure = self.split_in_three(its, those, self.bare(conditions))
                    add(further, its, missed)
                    self.perform_where(walk, spot, second, its, met, unsure, further)
            case e.Unknown():
                self.end(now, boxes, Became.DEPENDS, spot)
            case _:
                assert_never(does)

    def choose(self, walk: Walk, spot: Spot, does: e.Choice, now: Now, boxes: list[Box], further: Flow) -> None:
        """Do to each what the first case says whose conditions it meets."""
        for conditions, chosen in does.cases:
            met, boxes, unsure = self.split_in_three(now, boxes, self.bare(conditions))
            if met:
                self.perform(walk, spot, chosen, now, met, further)
            if unsure:
                now = now.but(depends=True)
                self.perform(walk, spot, chosen, now, unsure, further)
                boxes = [*boxes, *unsure]
        add(further, now, boxes)

    def released(self, now: Now, spot: Spot) -> Now:
        """A rule of ours, or of a built-in chain, lets them go where they could have been captured."""
        place = (spot.table, spot.hook)
        could_capture = place in ((NAT, OUTPUT), (MANGLE, PREROUTING), (NAT, PREROUTING))
        is_first = now.let_go is None or now.let_go[0] == place
        if self.names_rules and could_capture and is_first and (spot.is_ours or spot.chain == spot.hook):
            return now.but(let_go=(place, spot, now.depends))
        return now

    # --- what is met --------------------------------------------------------------------------------------

    def meaning(self, rule: Rule) -> tuple[tuple[f.Condition, ...], e.Effect]:
        known = self.compiled.get(id(rule))
        if known is None:
            conditions, does = self.rules.meaning(rule)
            known = self.compiled[id(rule)] = self.bare(conditions), does
        return known

    def bare(self, conditions: Sequence[f.Condition]) -> tuple[f.Condition, ...]:
        """The same conditions, those first of which the answer is known soonest."""
        known = [f.cut(each, self.types) or each for each in conditions]
        return tuple(sorted(known, key=lambda each: not (isinstance(each, f.Among) and each.field == f.DESTINATION)))

    def sieve(self, rules: Sequence[Rule]) -> Sieve:
        known = self.sieves.get(id(rules))
        if known is None:
            known = self.sieves[id(rules)] = Sieve([self.meaning(rule)[0] for rule in rules])
        return known

    def split(self, now: Now, boxes: Iterable[Box], conditions: tuple[f.Condition, ...]) -> tuple[list[Box], list[Box]]:
        """Those that meet this, and those that do not; what cannot be told counts as met."""
        met, missed, unsure = self.split_in_three(now, boxes, conditions)
        return [*met, *unsure], missed

    def split_in_three(
        self, now: Now, boxes: Iterable[Box], conditions: tuple[f.Condition, ...]
    ) -> tuple[list[Box], list[Box], list[Box]]:
        met: list[Box] = []
        missed: list[Box] = []
        unsure: list[Box] = []
        for box in boxes:
            for piece, answer in self.parts(now, box, conditions):
                (met if answer else unsure if answer is None else missed).append(piece)
        return met, missed, unsure

    def parts(self, now: Now, box: Box, conditions: Sequence[f.Condition]) -> list[Piece]:
        """The box in parts of which each meets all of this, or does not, or of which it cannot be told."""
        seen = now.seen
        out: list[Piece] = []
        is_sure = True
        for at, condition in enumerate(conditions):
            if isinstance(condition, f.Among):
                field = condition.field
                own = seen[field]
                mine = box[field] if own is None else own
                both = common(mine, condition.span) if mine else ()
                if not both:
                    out.append((box, False))
                    return out
                if both == mine:
                    continue
                if own is not None:
                    is_sure = False
                    continue
                out.append(((*box[:field], less(mine, condition.span), *box[field + 1 :]), False))
                box = (*box[:field], both, *box[field + 1 :])
                continue
            pieces = self.other_parts(now, box, condition)
            if len(pieces) == 1:
                box, answer = pieces[0]
                if answer is False:
                    out.append((box, False))
                    return out
                is_sure = is_sure and answer is not None
                continue
            for piece, answer in pieces:
                if answer is False:
                    out.append((piece, False))
                    continue
                for rest, met in self.parts(now, piece, conditions[at + 1 :]):
                    is_unsure = met is not False and (answer is None or met is None or not is_sure)
                    out.append((rest, None if is_unsure else met))
            return out
        out.append((box, True if is_sure else None))
        return out

    def other_parts(self, now: Now, box: Box, condition: f.Condition) -> list[Piece]:
        match condition:
            case f.Masked(field, mask, value, negated):
                own = now.seen[field]
                mine = box[field] if own is None else own
                known = tuple(mine if at == field else () for at in range(len(box)))
                answer = f.holds(condition, known)
                numbers = points(mine, 128) if answer is None and own is None else None
                if answer is not None or numbers is None:
                    return [(box, answer)]
                those = joined((n, n + 1) for n in numbers if (n & mask == value) is not negated)
                return [
                    ((*box[:field], those, *box[field + 1 :]), True),
                    ((*box[:field], less(mine, those), *box[field + 1 :]), False),
                ]
            case f.AnyOf(ways):
                out: list[Piece] = []
                left: list[tuple[Box, bool]] = [(box, False)]
                for way in ways:
                    further: list[tuple[Box, bool]] = []
                    for piece, is_unsure in left:
                        for rest, met in self.parts(now, piece, self.bare(way)):
                            if met:
                                out.append((rest, True))
                            else:
                                further.append((rest, is_unsure or met is None))
                    left = further
                return [*out, *((rest, None if is_unsure else False) for rest, is_unsure in left)]
            case f.OfType():
                return list(self.of_type(now, box, condition))
            case f.Untold():
                return [(box, None)]
            case f.Among():
                return self.parts(now, box, (condition,))
            case _:
                assert_never(condition)

    def of_type(self, now: Now, box: Box, asked: f.OfType) -> Iterator[Piece]:
        """The same for the kind of an address that the ip rules tell: see `Host.is_of_type`."""
        policy, many = self.host.policy, self.types["MULTICAST"]
        if policy is None or self.family is Family.V4 or not {"LOCAL", "UNICAST"}.issuperset(asked.kinds):
            yield box, None
            return
        is_source = asked.field == f.SOURCE
        asking = now.but(seen=turned_round(now.seen)) if is_source else now
        fixed = {f.ARRIVED_ON: one(LOOPBACK_INTERFACE), f.UID: one(0), f.SPORT: one(0), f.DPORT: one(0)}
        fixed |= {} if asked.with_mark else {f.MARK: one(0)}
        fixed |= {} if asked.by_fib else {f.PROTOCOL: one(0), f.SOURCE: one(0)}
        for field, span in fixed.items():
            asking = asking.with_field(field, span)
        rules = [rule for rule in policy.rules if rule.family is self.family]
        alone = (f.Among(f.DESTINATION, less(f.ADDRESSES[self.family], united(many, one(0)))),)
        # That no route is there at all is not told apart from one that leads away.
        has_way = policy.has_default(self.family) or None
        for piece, stays in self.by_policy(rules, 0, asking, [turned_round(box) if is_source else box]):
            is_here = None if stays is None else stays is True
            leaves = None if stays is None else stays is False and has_way
            for part, is_unicast in self.parts(asking, piece, alone):
                told = {"LOCAL": is_here, "UNICAST": every(is_unicast, leaves) if asked.by_fib else is_unicast}
                answer = every(*(told[kind] for kind in asked.kinds))
                negated = answer if answer is None else answer is not asked.negated
                yield turned_round(part) if is_source else part, negated


def every(*answers: bool | None) -> bool | None:
    """Whether all of these are so; None if that cannot be told."""
    return False if False in answers else None if None in answers else True


class Sieve:
    """Which rules of a long chain ask for which addresses, so that a packet meets only those that it can."""

    def __init__(self, of_rules: Sequence[Sequence[f.Condition]]) -> None:
        self.ways: list[Span] = []
        """The addresses that each rule asks for; empty for one that asks for any, or for very many."""
        for conditions in of_rules:
            spans = [each.span for each in conditions if isinstance(each, f.Among) and each.field == f.DESTINATION]
            self.ways.append(spans[0] if len(spans) == 1 and len(spans[0]) == 2 else ())
        self.any = [at for at, way in enumerate(self.ways) if not way]
        self.by_address: dict[Span, list[int]] = {}
        for at, way in enumerate(self.ways):
            if way:
                self.by_address.setdefault(way, []).append(at)
        ways = sorted(self.by_address)
        self.is_plain = all(ways[at][1] <= ways[at + 1][0] for at in range(len(ways) - 1))
        """Whether no two of these overlap but equal ones."""

    def put_off(self, at: int, now: Now, boxes: list[Box], waiting: dict[int, Flow]) -> list[Box]:
        """Of these boxes, which the rule at this place missed, those that may meet the next; others wait for theirs."""
        if not self.is_plain:
            return boxes
        way = self.ways[at]
        kept = []
        following = [n for n in (*self.by_address[way], *self.any) if n > at]
        for box in boxes:
            if common(box[f.DESTINATION], way) != box[f.DESTINATION]:
                kept.append(box)
            else:
                add(waiting.setdefault(min(following, default=len(self.ways)), {}), now, [box])
        return kept


def turned_round(fields: tuple[F, ...]) -> tuple[F, ...]:
    """The fields of a packet that goes the other way."""
    _, source, destination, sport, dport, *others = fields
    return (fields[f.PROTOCOL], destination, source, dport, sport, *others)


def add(flow: Flow, now: Now, boxes: list[Box]) -> None:
    if boxes:
        flow.setdefault(now, []).extend(boxes)


def add_all(flow: Flow, more: Flow) -> None:
    for now, boxes in more.items():
        add(flow, now, boxes)


def with_port(now: Now, boxes: list[Box], ports: Span) -> Iterator[tuple[Now, list[Box]]]:
    """The same with one of these ports, those of a protocol that has any."""
    if not ports:
        yield now, boxes
        return
    for to, some in (
        (now.with_field(f.DPORT, ports), [box for box in boxes if box[f.DPORT]]),
        (now, [box for box in boxes if not box[f.DPORT]]),
    ):
        if some:
            yield to, some


def remarked(now: Now, does: e.Remark) -> Now:
    """Change a mark, as far as it is known."""
    onto_packet = does.onto == f.MARK
    if not now.is_tracked and (not onto_packet or does.taken):
        return now
    own, other = now.seen[f.MARK] or f.U32, now.seen[f.CONNMARK] or f.U32
    own, other = (own, other) if onto_packet else (other, own)
    is_known = (single(own) or not does.keep) and (single(other) or not does.taken)
    new = one((own[0] & does.keep) ^ (other[0] & does.taken) ^ does.flip) if is_known else f.U32
    return now.with_field(does.onto, new)


def routing_conditions(rule: PolicyRule) -> tuple[f.Condition, ...]:
    """What an ip rule asks for, as a match of netfilter would."""
    conditions: list[f.Condition] = []
    if rule.mask:
        conditions.append(f.masked(f.MARK, rule.mask, rule.mark & rule.mask, 32))
    for field, network in ((f.SOURCE, rule.source), (f.DESTINATION, rule.destination)):
        if network:
            first = int(network.network_address)
            conditions.append(f.Among(field, (first, first + network.num_addresses)))
    conditions += [f.Among(f.ARRIVED_ON, one(rule.arrives))] if rule.arrives else []
    conditions += [f.NEVER] if rule.leaves else []  # sockets are not bound to interfaces here
    conditions += [f.Among(f.PROTOCOL, one(rule.transport))] if rule.transport else []
    for field, ends in ((f.UID, rule.uids), (f.SPORT, rule.source_ports), (f.DPORT, rule.destination_ports)):
        conditions += [f.Among(field, (ends[0], ends[1] + 1))] if ends else []
    conditions += [f.Untold(str(rule))] if rule.more or rule.tos else []
    if not rule.inverted:
        return tuple(conditions)
    domains = {f.SOURCE: f.ADDRESSES[rule.family], f.DESTINATION: f.ADDRESSES[rule.family]}
    return f.opposite(conditions, domains)
