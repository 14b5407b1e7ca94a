"""Whether what becomes of every packet is what is planned: proved for all of them, or disproved by a connection.

All first packets are sent through what is planned, and then, with what was planned for them, through all that is live.
What we capture has to reach the proxy, what we refuse must not get through, and what we let go must not be captured by
us; what others do to that is theirs. Each way in which it fares otherwise is confirmed by `simulate` with one packet.
"""

from __future__ import annotations

from rules.analysis.boxes import fewer, overlap
from rules.iptables.writing import rule_text
from rules.journeys.journeys import Journeys, TooMany, everyday, packet_of, takes_in_passing, universe, usual_values
from rules.meaning.spoken import effect
from rules.netfilter.effects import Hand
from rules.netfilter.fields import CONNMARK, DESTINATION, DPORT, MARK
from rules.netfilter.spans import meet, one, single
from rules.netfilter.values import PREROUTING
from rules.packets.packet import Direction, written
from rules.packets.trace import Became
from rules.plan.names import LOOPBACK_INTERFACE
from rules.proof.bits import Undecided, asked_for, kinds
from rules.proof.neighbours import without_ours
from rules.routing.policy import WHOLE
from rules.simulator.conclusions import end_of, rule_place, verdict
from rules.simulator.simulate import in_any_order, orders, simulate
from rules.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import ClassVar, Final, Literal, TypeAlias

    from rules.analysis.boxes import Box
    from rules.journeys.journeys import End, Now, Wanted
    from rules.netfilter.hooks import NativeTable
    from rules.netfilter.rulesets import Ruleset
    from rules.netfilter.values import Family
    from rules.packets.packet import Host, Packet
    from rules.packets.trace import Step, Trace
    from rules.simulator.simulate import Address

    Answer: TypeAlias = Literal["proved", "disproved", "cannot be told"]
    Start: TypeAlias = tuple[Direction, bool, str]
    """Of packets: from here or not, to one of our addresses or not, and by which interface."""

PROVED: Final = "proved"
DISPROVED: Final = "disproved"
UNTOLD: Final = "cannot be told"
STOPPED = (Became.DROPPED, Became.REFUSED)
MOST_TRIED = 400
"""Ways to fare otherwise that are confirmed one by one."""


class Difference(Value):
    """A connection that fares otherwise than planned, or of which that cannot be told."""

    packet: Packet
    """Its first packet."""
    becomes: str
    """What becomes of it, in words."""
    should: str
    """What is planned, in words."""
    outcome: Became
    """What becomes of it; `depends` where that cannot be told."""
    to_address: Address | None
    """Where it goes; None if nowhere, or if that depends."""
    to_port: int | None
    """To which port; None if nowhere, or if that depends."""
    backend: str = ""
    """nft or legacy, of the rule; empty where no rule takes it."""
    table: str = ""
    """The table of the rule that takes it, or on which it depends; empty where no rule takes it."""
    chain: str = ""
    """Its chain."""
    position: int | None = None
    """Where in the chain, counted from 1."""
    rule: str = ""
    """The rule in iptables' or nft's words."""
    is_certain: bool = True
    """Whether it cannot fare as planned, wherever else it goes."""
    met: frozenset[tuple[str, str, str, int]] = frozenset()
    """All rules that it meets: by backend, table, chain and position."""

    TOLD: ClassVar = (
        "packet",
        "outcome",
        "to_address",
        "to_port",
        "becomes",
        "should",
        "backend",
        "table",
        "chain",
        "position",
        "rule",
        "command",
        "sentence",
    )

    @property
    def command(self) -> str:
        """The command that traces it."""
        packet = self.packet
        port = f":{packet.source_port}" if packet.source_port else ""
        source = written(packet.source) if port else packet.source
        words = ["capture trace --live", "--in" if packet.direction is Direction.IN else "--out"]
        words += [f"--protocol {packet.protocol}", f"--src {source}{port}"]
        words += [f"--iface {packet.interface}"] if packet.direction is Direction.IN else []
        words += [f"--uid {packet.uid} --gid {packet.gid}"] if packet.uid is not None else []
        return " ".join([*words, f"{written(packet.destination)}:{packet.port}"])

    @property
    def sentence(self) -> str:
        """All of this in a sentence."""
        return f"{connection(self.packet)} {self.becomes}; planned: it {self.should}"


class Proof(Value):
    """What is known of all connections of a family."""

    family: Family
    """Of the connections."""
    differences: tuple[Difference, ...] = ()
    """Those that fare otherwise: one for each rule that takes some."""
    untold: tuple[Difference, ...] = ()
    """Those of which it cannot be told: one for each rule on which it depends."""
    is_whole: bool = True
    """Whether all connections were looked at. It would take too many boxes where rules name very many things at
    once."""

    TOLD: ClassVar = ("family", "answer", "differences", "untold")

    @property
    def answer(self) -> Answer:
        """proved: every connection that begins without a fwmark fares as planned, or is dropped by others as it was
        before. disproved: at least one does not. cannot be told: it depends, or there are too many."""
        if self.differences:
            return DISPROVED
        return UNTOLD if self.untold or not self.is_whole else PROVED

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        name = self.family.value
        match self.answer:
            case "proved":
                return f"{name}: proved for the first packet of every connection: what becomes of it is what is planned"
            case "disproved":
                also = f"; and of others it cannot be told: {self.untold[0].sentence}" if self.untold else ""
                return f"{name}: a connection fares otherwise than planned: {self.differences[0].sentence}{also}"
            case "cannot be told":
                why = self.untold[0].sentence if self.untold else "rules ask for too many things at once"
                return f"{name}: it cannot be told of every connection what becomes of it: {why}"
            case _:
                assert_never(self.answer)


def connection(packet: Packet) -> str:
    """A connection in words: `TCP from 10.0.0.1 to 192.0.2.1 port 80 by uid 1000`."""
    ports = packet.protocol in ("tcp", "udp")
    name = packet.protocol.upper() if ports else f"protocol {packet.protocol}"
    source = f"{packet.source}{f' port {packet.source_port}' if packet.source_port and ports else ''}"
    who = f" by uid {packet.uid}, gid {packet.gid}" if packet.uid is not None else f" arriving on {packet.interface}"
    return f"{name} from {source} to {packet.destination}{f' port {packet.port}' if ports else ''}{who}"


def proved(
    planned: Ruleset,
    held: Sequence[tuple[str, Ruleset]],
    natives: Sequence[NativeTable],
    here: Host,
    as_planned: Host,
) -> Proof:
    """What is known of the packets of one family, between what each backend holds and what is planned.

    `here` is the namespace as it is, `as_planned` as it would be with our ip rules alone.
    """
    try:
        return Prover(planned, held, natives, here, as_planned).proof()
    except TooMany:
        return Proof(planned.family, is_whole=False)


class Prover:
    """One family of a namespace beside what is planned for it."""

    def __init__(
        self,
        planned: Ruleset,
        held: Sequence[tuple[str, Ruleset]],
        natives: Sequence[NativeTable],
        here: Host,
        as_planned: Host,
    ) -> None:
        self.planned, self.family = planned, planned.family
        self.names = tuple(name for name, _ in held)
        self.held = tuple(ruleset for _, ruleset in held)
        self.natives, self.here, self.as_planned = tuple(natives), here, as_planned
        everything = [rule for ruleset in (planned, *self.held) for rule in ruleset.kinds()]
        everything += [rule for native in self.natives for _, rules in native.chains for rule in rules]
        self.bits = asked_for(everything)
        self.is_whole = True
        self.marks = frozenset(routing.mark for routing in as_planned.routing)
        """Those that keep packets here: answers that are given one do not reach the client."""
        self.hands_over = any(isinstance(effect(rule.target), Hand) for rule in everything)

    def proof(self) -> Proof:
        start = Journeys(self.held, self.family, self.here, self.natives)
        coming = list(start.started(universe(self.family, self.here, passing=takes_in_passing(self.planned))))
        plain = {(now.direction, now.is_local, now.goes): now for now, _ in coming}
        wanted = Journeys((self.planned,), self.family, self.as_planned, names_rules=False).ends(coming)
        flow: dict[Now, list[Box]] = {}
        for end in wanted:
            tag = wanted_of(end)
            now = plain[start_of(end)].but(tag=tag)
            flow.setdefault(now, []).extend(end.boxes)
        asked = [(now, box) for now, boxes in flow.items() for box in fewer(boxes)]
        found: list[tuple[End, Difference]] = []
        seen: set[object] = set()
        tried = 0
        for order in orders(self.held, self.natives):
            asking = (self.held, self.family, self.here, self.natives, order, self.is_over)
            journeys = Journeys(*asking, names_rules=False, remembers=bool(self.marks))
            ends = [end for end in journeys.ends(asked) if self.is_otherwise(end)]
            for end in self.not_dropped_anyway(ends, plain):
                told = (end.by, end.became, end.now.tag, end.now.depends, end.now.direction, end.reason)
                if told not in seen and tried < MOST_TRIED:
                    tried += 1
                    difference = self.confirmed(end)
                    if difference:
                        seen.add(told)
                        found.append((end, difference))
        differences: dict[object, Difference] = {}
        untold: dict[object, Difference] = {}
        for end, difference in sorted(found, key=lambda each: everydayness(each[1].packet)):
            packet = difference.packet
            place = (difference.backend, difference.table, difference.chain, difference.position, packet.direction)
            among = differences if difference.is_certain else untold
            among.setdefault((place, end.now.tag.port), difference)
        is_whole = self.is_whole and tried < MOST_TRIED
        return Proof(self.family, tuple(differences.values()), tuple(untold.values()), is_whole)

    def is_over(self, now: Now) -> bool:
        """Whether it is clear what becomes of connections that somebody sent elsewhere."""
        tag = now.tag
        if not now.bound or tag.is_stopped:
            return False
        if tag.is_captured:
            ends = (now.seen[DESTINATION], now.seen[DPORT])
            return bool(tag.address) and ends != (tag.address, tag.port)
        # Only over lo could ours be asked once more, in mangle's PREROUTING, which comes before nat's.
        is_last = now.bound.hook == PREROUTING or not self.may_stay(now)
        return is_last or not self.hands_over

    def may_stay(self, now: Now) -> bool:
        """Whether routing could deliver here what somebody sent elsewhere."""
        destination, mark = now.seen[DESTINATION], now.seen[MARK] or ()
        rules = self.here.policy.rules if self.here.policy else ()
        asked = [(rule.mark, rule.mask) for rule in rules if rule.mask]
        asked += [(routing.mark, WHOLE) for routing in self.here.routing]
        by_mark = any(not single(mark) or not (mark[0] ^ value) & mask for value, mask in asked)
        return by_mark or destination is None or meet(destination, self.here.kinds(self.family)["LOCAL"])

    def is_otherwise(self, end: End) -> bool:
        """Whether this is not what is planned for them."""
        tag = end.now.tag
        if self.remembers_ours(end):
            return True
        if tag.is_captured:
            arrives = end.became.is_captured or end.became is Became.REDIRECTED
            return not arrives or (end.address, end.port) != (tag.address, tag.port)
        if tag.is_stopped:
            return end.became not in STOPPED
        if end.became is Became.DEPENDS:
            return self.hands_over or not end.now.destination_decided
        return end.became.is_captured

    def remembers_ours(self, end: End) -> bool:
        """Whether others gave their connection a mark that is ours, with which its answers stay here."""
        remembered = end.now.seen[CONNMARK]
        return remembered is not None and any(meet(remembered, one(mark)) for mark in self.marks)

    def not_dropped_anyway(self, ends: Iterable[End], plain: dict[Start, Now]) -> Iterator[End]:
        """Without what others drop whether we are there or not."""
        stopped = []
        for end in ends:
            is_ours = end.by is not None and end.by.is_ours
            if end.now.tag.is_captured and end.became in STOPPED and not is_ours:
                stopped.append(end)
            else:
                yield end
        if not stopped:
            return
        others = tuple(without_ours(ruleset, None) for ruleset in self.held)
        coming = [(plain[start_of(end)].but(tag=end.now.tag), box) for end in stopped for box in end.boxes]
        alone = Journeys(others, self.family, self.here, self.natives, names_rules=False).ends(coming)
        let_in: dict[object, list[Box]] = {}
        for other in alone:
            if other.became not in STOPPED:
                let_in.setdefault((start_of(other), other.now.tag), []).extend(other.boxes)
        for end in stopped:
            lost = let_in.get((start_of(end), end.now.tag), ())
            both = (overlap(box, other) for box in end.boxes for other in lost)
            some = next((box for box in both if box is not None), None)
            if some is not None:
                yield end.but(boxes=(some,))

    def confirmed(self, end: End) -> Difference | None:
        """One packet of these, sent alone: how it fares, if that is not as planned."""
        untold: Difference | None = None
        for packet in self.packets(end):
            found = self.difference(packet, may_be_dropped=end.now.depends)
            if found and found.is_certain:
                return found
            untold = untold or found
        return untold

    def packets(self, end: End) -> Iterator[Packet]:
        """One of these packets; where it may be that not all fare so, one of each kind that rules tell apart."""
        start, usual = end.now.but(goes=end.now.tag.goes), everyday(self.family)
        yield packet_of(start, end.boxes[0], self.family, usual)
        if not (end.now.depends and self.bits):
            return
        of_boxes = ((box, kind) for box in end.boxes for kind in kinds(box, self.bits, usual_values(self.family)))
        try:
            for count, (box, kind) in enumerate(of_boxes):
                if count == MOST_TRIED:
                    raise Undecided
                its = tuple(one(kind[field]) if field in kind else span for field, span in enumerate(box))
                yield packet_of(start, its, self.family, usual)
        except Undecided:
            self.is_whole = False

    def difference(self, packet: Packet, *, may_be_dropped: bool) -> Difference | None:
        """How this packet fares, if that is not as planned, and not as it did before, where others `may` drop it."""
        trace = in_any_order(self.held, packet, self.here, self.natives)
        wanted = simulate((self.planned,), packet, self.as_planned)
        ways = trace.ways if trace.became is Became.DEPENDS else (trace,)
        lost = [way.became is not Became.DEPENDS and (is_lost(way, wanted) or has_stuck(way)) for way in ways]
        if trace.became is not Became.DEPENDS and not any(lost):
            return None
        if may_be_dropped and trace.became in STOPPED:
            others = tuple(without_ours(ruleset, None) for ruleset in self.held)
            if in_any_order(others, packet, self.here, self.natives).became in STOPPED:
                return None
        step = taker(trace)
        found = Difference(
            packet,
            fares(trace),
            fares(wanted, planned=True),
            trace.became,
            trace.address,
            trace.port,
            is_certain=bool(lost) and all(lost),
            met=frozenset(map(self.place, (*trace.matched, *trace.depends_on))),
        )
        if step is None:
            return found
        rule = rule_text(step.rule)
        return found.but(
            backend=self.name_of(step), table=step.table, chain=step.chain, position=step.position, rule=rule
        )

    def place(self, step: Step) -> tuple[str, str, str, int]:
        return self.name_of(step), step.table, step.chain, step.position

    def name_of(self, step: Step) -> str:
        return self.names[step.layer] if step.layer < len(self.names) else "nft"


def everydayness(packet: Packet) -> tuple[bool, ...]:
    """What tells best comes first: what an application sends to others, or others to it, by TCP."""
    return packet.protocol != "tcp", packet.interface == LOOPBACK_INTERFACE, packet.uid not in (None, 1000)


def start_of(end: End) -> Start:
    """How they were sent."""
    return end.now.direction, end.now.is_local, end.now.tag.goes


def wanted_of(end: End) -> Wanted:
    tag = end.now.tag
    if end.became.is_captured:
        return tag.but(is_captured=True, address=end.address, port=end.port)
    return tag.but(is_stopped=True) if end.became in STOPPED else tag


def is_lost(trace: Trace, wanted: Trace) -> bool:
    """Whether one packet fares otherwise than planned."""
    if wanted.became.is_captured:
        arrives = trace.became.is_captured or trace.became is Became.REDIRECTED
        return not arrives or (trace.address, trace.port) != (wanted.address, wanted.port)
    if wanted.became in STOPPED:
        return trace.became not in STOPPED
    return trace.became.is_captured


def has_stuck(trace: Trace) -> bool:
    """Whether its answers get a mark that keeps them here."""
    return trace.lost is not None and bool(trace.lost.marked)


def taker(trace: Trace) -> Step | None:
    """The rule that takes it from what is planned, or on which it depends."""
    if trace.became is Became.DEPENDS:
        return next(iter(trace.depends_on), None)
    if trace.lost and has_stuck(trace):
        return trace.lost.decided
    return trace.untracked or trace.decided


def outcome(trace: Trace) -> str:
    end = end_of(trace).removeprefix("it ")
    return f"is {verdict(trace)}{f' and {end}' if end else ''}"


def fares(trace: Trace, *, planned: bool = False) -> str:
    """What becomes of a packet, as the end of a sentence; with the rule, unless that is what is planned."""
    if trace.became is Became.DEPENDS:
        which = " and ".join([rule_place(step) for step in trace.depends_on] + ([trace.reason] if trace.reason else []))
        ways = dict.fromkeys(outcome(way) for way in trace.ways if way.became is not Became.DEPENDS)
        return f"{' or '.join(ways) or 'may go anywhere'}: it depends on {which}"
    what, step = outcome(trace), taker(trace)
    if not planned and has_stuck(trace):
        return f"{what}, {trace.hindered}"
    if planned or step is None:
        return f"{what}{f', because {trace.reason}' if trace.reason and not planned else ''}"
    return f"{what}, by {rule_place(step)} ({rule_text(step.rule)})"
