"""What rules of others do to packets that we capture: taken before ours is asked, or dropped behind it.

Packets are drawn from what the plan captures, and from what each rule of others asks for. Each is sent through our
rules alone, through those of others alone, and through all together; where ours alone captures it and all together do
not, the rule that decided is named. That is exact for each packet, whatever table, backend, hook and priority is asked
first.
"""

from __future__ import annotations

from itertools import chain, islice

from rules.analysis.probes import ELSEWHERE
from rules.analysis.reachability import Walk
from rules.iptables.writing import rule_text
from rules.live.drift import Finding, Kind
from rules.meaning.spoken import conditions, effect
from rules.netfilter.effects import Choice, Goto, NoTrack, Then
from rules.netfilter.fields import (
    DESTINATION,
    DPORT,
    GID,
    MARK,
    PROTOCOL,
    PROTOCOLS,
    SOURCE,
    SPORT,
    UID,
    Among,
    AnyOf,
    Masked,
    domain,
)
from rules.netfilter.hooks import stations
from rules.netfilter.spans import common, less, meet, united
from rules.netfilter.targets import Jump, Zone
from rules.netfilter.values import MANGLE, NAT, OUTPUT, PREROUTING, RAW, address_of_family, family_of
from rules.ours.recognition import is_our_rule, is_ours
from rules.packets.packet import Direction, Packet
from rules.packets.trace import Became
from rules.plan.names import LOOPBACK_INTERFACE, OURS
from rules.simulator.conclusions import end_of
from rules.simulator.simulate import in_any_order, simulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rules.netfilter.effects import Effect
    from rules.netfilter.fields import Condition
    from rules.netfilter.hooks import NativeTable, Station
    from rules.netfilter.rulesets import Ruleset, TableRules
    from rules.netfilter.spans import Span
    from rules.netfilter.values import Family
    from rules.packets.packet import Host
    from rules.packets.trace import Step, Trace
    from rules.simulator.simulate import Address

MOST_BOXES, MOST_ASKED = 64, 256
"""Parts of what is captured, and ends of what rules of others ask for, of which a packet is drawn."""
MOST_SOURCES = 16
"""Networks that rules of others name from which a packet is sent."""
MOST_WAYS = 16
"""Elements of a set of several fields of which a packet is drawn."""
WHERE = (SOURCE, DESTINATION, DPORT)
"""What rules of one chain mostly share packets out by."""
DEEPEST = 8
"""Chains of others that are followed into each other."""
HTTP = 80
AN_APP = 1000
"""Who sends, if nobody asks for somebody."""


def found_among_others(
    planned: Ruleset, held: Sequence[tuple[str, Ruleset]], natives: Sequence[NativeTable], host: Host, backend: str
) -> tuple[Finding, ...]:
    """What of others is in the way of this plan, in its family, once ours are in place in this backend.

    `held` is what each backend holds. Rules of others in the chains of our own jumps are left out, see `rules.live`.
    """
    found = [
        Finding(Kind.TABLE_DORMANT, planned.family, table.table, backend=name)
        for name, ruleset in held
        for table in ruleset.tables
        if table.is_dormant and name == backend and planned.table(table.table).blocks
    ]
    others = [(name, without_ours(ruleset, planned if name == backend else None)) for name, ruleset in held]
    if not stations([ruleset for _, ruleset in others], natives):
        return tuple(found)
    return (*found, *Neighbours(planned, others, natives, host, backend).found())


def without_ours(ruleset: Ruleset, planned: Ruleset | None) -> Ruleset:
    """What others hold: without our chains and jumps, and where ours are planned without what is in the same chains."""

    def is_left_out(table: TableRules, chain: str) -> bool:
        is_shared = planned is not None and table.is_built_in(chain) and chain in planned.table(table.table).chains()
        return (is_shared and table.table != RAW) or is_ours(table, chain)

    tables = []
    for table in ruleset.tables:
        blocks = tuple(
            block.but(rules=tuple(rule for rule in block.rules if not is_our_rule(table, block.chain, rule)))
            for block in table.blocks
            if not is_left_out(table, block.chain)
        )
        tables.append(table.but(blocks=tuple(block for block in blocks if block.rules), is_dormant=table.is_dormant))
    return ruleset.but(tables=tuple(tables))


class Neighbours:
    """The rules of others beside one plan, and the packets that tell what they do to it."""

    def __init__(
        self,
        planned: Ruleset,
        others: Sequence[tuple[str, Ruleset]],
        natives: Sequence[NativeTable],
        host: Host,
        backend: str,
    ) -> None:
        self.planned = planned
        self.family = planned.family
        self.others = tuple(ruleset for _, ruleset in others)
        self.names = (backend, *(name for name, _ in others))
        self.natives = tuple(natives)
        self.host = host

    def found(self) -> Iterator[Finding]:
        """The findings: for each rule of others that takes something, and for what is dropped."""
        usual = self.captured(self.usual())
        taken: dict[tuple[str, str, int, int], list[tuple[Packet, Trace, Step]]] = {}
        dropped: dict[tuple[Direction, str], list[Trace]] = {}
        partly: dict[tuple[object, ...], list[Trace]] = {}
        lost: set[Packet] = set()
        drawn = self.captured(chain(self.of_boxes(), self.of_owners(), self.of_answers(), self.asked_for()))
        for packet, wanted in {**usual, **drawn}.items():
            trace = in_any_order((self.planned, *self.others), packet, self.host, self.natives)
            end = trace.lost or trace
            is_taken = trace.became is not wanted.became and not (trace.bound and is_ours_there(trace.bound))
            as_planned = not is_taken and (trace.address, trace.port) == (wanted.address, wanted.port)
            if as_planned and not trace.lost:
                continue
            if end.became in (Became.DROPPED, Became.REFUSED) and not is_zoned(end.decided):
                if packet in usual:
                    dropped.setdefault((packet.direction, packet.protocol), []).append(trace)
                partly.setdefault(place_of_drop(trace), []).append(trace)
                continue
            for step in self.takers(trace):
                lost.add(packet)
                place = (step.table, step.chain, step.position, step.layer)
                taken.setdefault(place, []).append((packet, trace, step))
        for its in taken.values():
            kinds = {(packet.direction, packet.protocol) for packet, _, _ in its if packet in usual}
            takes_all = any(
                all(packet in lost for packet in usual if (packet.direction, packet.protocol) == kind) for kind in kinds
            )
            yield self.taking(its, takes_all=takes_all)
        named: set[tuple[object, ...]] = set()
        for kind, traces in dropped.items():
            if len(traces) == sum((packet.direction, packet.protocol) == kind for packet in usual):
                let_in = [trace for trace in traces if not self.is_dropped_anyway(trace.packet)]
                yield self.dropping((let_in or traces)[0], Kind.CAPTURED_IS_DROPPED if let_in else Kind.DROPPED_ANYWAY)
                named.update(place_of_drop(trace) for trace in traces)
        for by, traces in partly.items():
            let_in = [trace for trace in traces if by not in named and not self.is_dropped_anyway(trace.packet)]
            if let_in:
                yield self.dropping(let_in[0], Kind.SOME_IS_DROPPED)

    def captured(self, packets: Iterable[Packet]) -> dict[Packet, Trace]:
        """Those of these packets that our rules capture, were they alone."""
        traces = {packet: simulate((self.planned,), packet, self.host) for packet in dict.fromkeys(packets)}
        return {packet: trace for packet, trace in traces.items() if trace.became.is_captured}

    def is_dropped_anyway(self, packet: Packet) -> bool:
        """Whether the rules of others drop it where it was going."""
        trace = in_any_order(self.others, packet, self.host, self.natives)
        return (trace.lost or trace).became in (Became.DROPPED, Became.REFUSED)

    def takers(self, trace: Trace) -> Iterator[Step]:
        """The rules of others that took it, or that it depends on."""
        asked = [*trace.depends_on, *(way.decided for way in (trace, *trace.ways) if way.decided)]
        asked += [step for way in (trace, *trace.ways) for step in (way.bound, way.untracked) if step]
        # What iptables' raw table keeps from conntrack is told by `rules.live.drift.not_tracked`.
        yield from dict.fromkeys(
            leading(trace, step)
            for step in asked
            if step.layer > 0 and not (step.table == RAW and isinstance(effect(step.rule.target), NoTrack))
        )

    def taking(self, its: Sequence[tuple[Packet, Trace, Step]], *, takes_all: bool) -> Finding:
        packet, trace, step = its[0]
        backend = self.names[step.layer] if step.layer < len(self.names) else "nft"
        ways = (trace, *trace.ways)
        way = next((way for way in ways if step in (way.decided, way.bound, way.untracked)), trace)
        end = end_of(way).removeprefix("it ")
        is_lost = way.became is Became.DROPPED and way.reason
        lost = f", which is lost: {way.reason}" if is_lost else ""
        what = f"{described(packet)} {end}" if end else f"{described(packet)}{lost}"
        may = trace.became is Became.DEPENDS
        return Finding(
            Kind.OTHERS_TAKE_ALL if takes_all else Kind.OTHERS_TAKE_SOME,
            self.family,
            step.table,
            step.chain,
            step.position,
            rule=rule_text(step.rule),
            why=f"{'it may be that ' if may else ''}{what}",
            backend=backend,
        )

    def dropping(self, trace: Trace, kind: Kind) -> Finding:
        end, to = trace.lost or trace, simulate((self.planned,), trace.packet, self.host)
        step = end.decided
        text = rule_text(step.rule) if step else ""
        place = (step.table, step.chain, step.position) if step else ("", "", 0)
        answers = ", in its answers" if trace.lost else ""
        what = f"{described(trace.packet)}, which arrives at port {to.port} of the proxy{answers}"
        return Finding(kind, self.family, *place, rule=text or end.reason, why=what)

    # --- packets ------------------------------------------------------------------------------------------

    def usual(self) -> Iterator[Packet]:
        """What comes every day: from every network that is near or that a filter names, by every link."""
        near = [*self.sources(), *ELSEWHERE[self.family][:2]]
        for packet in self.plain():
            if packet.direction is Direction.OUT:
                yield packet
            else:
                yield from (packet.but(source=source) for source in near if source != packet.destination)

    def of_owners(self) -> Iterator[Packet]:
        """What a pod sends to itself: an application, and everybody whom the plan names."""
        owners = {(AN_APP, AN_APP): None}
        for rule in self.planned.kinds():
            for asked in (each for match in rule.matches for each in conditions(match)):
                if isinstance(asked, Among) and asked.field in (UID, GID) and asked.span and asked.span[0] >= 0:
                    uid, gid = (asked.span[0], AN_APP) if asked.field == UID else (AN_APP, asked.span[0])
                    owners[uid, gid] = None
        for packet in self.plain():
            if packet.direction is Direction.OUT:
                to_itself = packet.but(destination=packet.source, interface=LOOPBACK_INTERFACE)
                yield from (to_itself.but(uid=uid, gid=gid) for uid, gid in owners)

    def of_answers(self) -> Iterator[Packet]:
        """What is sent to a network from which rules of others ask for packets: its answers come from there."""
        to = self.sources()
        for packet in self.plain():
            if packet.direction is Direction.OUT and packet.port == HTTP:
                yield from (packet.but(destination=each) for each in to if not self.host.is_local(each))

    def sources(self) -> list[Address]:
        """An address of each network whose packets rules of others ask for by their source; of many, the first."""
        found: dict[Address, None] = {}
        rules = (rule for ruleset in self.others for _, _, rule in ruleset.rules())
        for asked in (each for rule in rules for match in rule.matches for each in conditions(match)):
            if isinstance(asked, Among) and asked.field == SOURCE and asked.span:
                found[self.address(middle(asked.span))] = None
                if len(found) == MOST_SOURCES:
                    break
        return list(found)

    def plain(self) -> Iterator[Packet]:
        """A packet of each protocol and direction, by each link."""
        links = [
            local
            for local in self.host.addresses
            if family_of(local.address) is self.family
            and local.interface != LOOPBACK_INTERFACE
            and not local.address.is_link_local
        ]
        elsewhere = ELSEWHERE[self.family][0]
        for local in links:
            out = (Direction.OUT, self.family)
            for port in (HTTP, 443, 8080):
                yield Packet(*out, "tcp", local.address, elsewhere, port, local.interface, 40000, AN_APP, AN_APP)
                yield Packet(Direction.IN, self.family, "tcp", elsewhere, local.address, port, local.interface, 40000)
            yield Packet(*out, "udp", local.address, elsewhere, 53, local.interface, 40000, AN_APP, AN_APP)

    def of_boxes(self) -> Iterator[Packet]:
        """A packet of each part of what is captured."""
        for table, hook in ((NAT, OUTPUT), (NAT, PREROUTING), (MANGLE, PREROUTING)):
            outcomes = Walk(self.planned.table(table), self.family).outcomes.get(hook, {})
            boxes = [box for outcome, those in outcomes.items() if outcome.captures for box in those]
            for box in boxes[:MOST_BOXES]:
                for packet in self.plain():
                    if (packet.direction is Direction.OUT) == (hook == OUTPUT):
                        drawn = self.meeting(packet, [Among(field, span) for field, span in enumerate(box)])
                        if drawn:
                            yield drawn
                            break

    def asked_for(self) -> Iterator[Packet]:
        """Packets of which each meets what leads to one rule of others."""
        return islice(self.all_asked_for(), MOST_ASKED)

    def all_asked_for(self) -> Iterator[Packet]:
        for hook, those in stations(self.others, self.natives).items():
            sent, arrives = hook == OUTPUT, hook == PREROUTING
            alike = [p for p in self.plain() if not (sent or arrives) or (p.direction is Direction.OUT) is sent]
            for station in those:
                for asked in ends(station, station.chain, (), self.family):
                    for packet in alike:
                        drawn = self.meeting(packet, asked)
                        if drawn:
                            yield drawn

    def meeting(self, packet: Packet, asked: Sequence[Condition]) -> Packet | None:
        """A packet like this one that meets all of these, as far as its sender could choose; None if there is none."""
        spans = spans_of(asked)
        if not all(spans.values()):
            return None
        is_out = packet.direction is Direction.OUT
        drawn = packet
        for field, span in spans.items():
            if field == PROTOCOL and not has(span, PROTOCOLS[packet.protocol]):
                name = next((name for name in ("tcp", "udp") if has(span, PROTOCOLS[name])), "")
                if not name:
                    return None
                drawn = drawn.but(protocol=name)
            elif field == SOURCE and not has(span, int(packet.source)):
                if is_out:
                    return None
                drawn = drawn.but(source=self.address(middle(span)))
            elif field == DESTINATION and not has(span, int(packet.destination)):
                if not is_out:
                    return None
                drawn = drawn.but(destination=self.address(middle(span)))
            elif field == SPORT and not has(span, packet.source_port or 0):
                drawn = drawn.but(source_port=max(span[0], 1))
            elif field == DPORT and not has(span, packet.port):
                drawn = drawn.but(port=max(span[0], 1))
            elif field == UID and is_out and not has(span, packet.uid or 0):
                drawn = drawn.but(uid=max(span[0], 0))
            elif field == GID and is_out and not has(span, packet.gid or 0):
                drawn = drawn.but(gid=max(span[0], 0))
            elif field == MARK and not has(span, packet.mark):
                drawn = drawn.but(mark=span[0])
        for each in asked:
            if isinstance(each, Masked) and each.field == MARK:
                bits = ~each.value & each.mask if each.negated else each.value
                drawn = drawn.but(mark=drawn.mark & ~each.mask | bits)
        stays = self.host.is_local(drawn.destination) and is_out
        return drawn.but(interface=LOOPBACK_INTERFACE) if stays else drawn

    def address(self, number: int) -> Address:
        return address_of_family(self.family, number)


def place_of_drop(trace: Trace) -> tuple[object, ...]:
    """By which rule it, or its answers, are dropped."""
    end = trace.lost or trace
    return (end.decided.table, end.decided.chain, end.decided.position) if end.decided else (end.reason,)


def is_ours_there(step: Step) -> bool:
    """Whether it is a rule of a chain of ours, to which a base chain of others may lead as well."""
    return step.chain in OURS.get(step.table.rpartition(" ")[2], ())


def leading(trace: Trace, step: Step) -> Step:
    """The rule of others by which a packet came to this one, if this one is ours."""
    for way in (trace, *trace.ways):
        if is_ours_there(step) and step in way.steps:
            before = way.steps[: way.steps.index(step)]
            alike = (each for each in reversed(before) if (each.layer, each.table) == (step.layer, step.table))
            return next((each for each in alike if each.matched is not False and not is_ours_there(each)), step)
    return step


def is_zoned(step: Step | None) -> bool:
    """Whether a rule keeps it in a zone of conntrack that its answers are not in."""
    return step is not None and isinstance(effect(step.rule.target), Zone)


def ends(
    station: Station, chain: str, met: tuple[Condition, ...], family: Family, depth: int = 0
) -> Iterator[tuple[Condition, ...]]:
    """All that packets meet on the way to each rule from this chain on; once more as no rule before it asks for it."""
    before: dict[int, Span] = {}
    for rule in station.rules.get(chain, ()):
        own = [each for match in rule.matches for each in conditions(match)]
        for more, done in alternatives(effect(rule.target)):
            for way in islice(ways((*own, *more)), MOST_WAYS):
                yield (*met, *way)
                where = {field: span for field, span in spans_of(way).items() if field in WHERE}
                if before and all(meet(span, before[field]) for field, span in where.items() if field in before):
                    left = (Among(field, less(domain(field, family), span)) for field, span in before.items())
                    yield (*met, *way, *left)
                if all(len(span) < MOST_BOXES for span in before.values()):
                    before |= {field: united(before.get(field, ()), span) for field, span in where.items()}
            if isinstance(done, Jump | Goto) and depth < DEEPEST:
                yield from ends(station, done.chain, (*met, *own, *more), family, depth + 1)


def spans_of(asked: Sequence[Condition]) -> dict[int, Span]:
    """What is left of each field where all of these are met."""
    spans: dict[int, Span] = {}
    for each in asked:
        if isinstance(each, Among):
            spans[each.field] = common(spans[each.field], each.span) if each.field in spans else each.span
    return spans


def ways(asked: Sequence[Condition]) -> Iterator[tuple[Condition, ...]]:
    """Each way to meet all of these, where sets of several fields at once have many."""
    at = next((at for at, each in enumerate(asked) if isinstance(each, AnyOf)), None)
    if at is None:
        yield tuple(asked)
        return
    several = asked[at]
    for way in several.ways if isinstance(several, AnyOf) else ():
        yield from ways((*asked[:at], *way, *asked[at + 1 :]))


def alternatives(done: Effect) -> Iterator[tuple[tuple[Condition, ...], Effect]]:
    """All that an effect may be, with what it takes."""
    match done:
        case Choice(cases):
            for asked, chosen in cases:
                yield from ((((*asked, *more)), each) for more, each in alternatives(chosen))
        case Then(first, asked, second):
            yield from alternatives(first)
            yield from ((((*asked, *more)), each) for more, each in alternatives(second))
        case _:
            yield (), done


def has(span: Span, value: int) -> bool:
    return bool(common(span, (value, value + 1)))


def middle(span: Span) -> int:
    """A number of a span that is no end of it, where there is one: the address of a network is nobody's."""
    first: int = span[0]
    return min(first + 1, int(span[1]) - 1)


def described(packet: Packet) -> str:
    """A packet, in a few words."""
    who = f" by uid {packet.uid}" if packet.uid not in (None, AN_APP) else ""
    whence = "" if packet.direction is Direction.OUT else f" from {packet.source}"
    mark = f" with mark {packet.mark:#x}" if packet.mark else ""
    return f"{packet.protocol.upper()} to {packet.destination} port {packet.port}{whence}{who}{mark}"
