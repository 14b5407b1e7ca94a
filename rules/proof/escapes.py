"""What does not reach the proxy: all of it, as a short list of sets of packets, each with the rule that lets it go.

The sets are exact: the first packet of a connection is in one of them exactly if the proxy does not get it. They are as
wide as can be, so they may overlap; what is in two is let go by the rule of either.
"""

from __future__ import annotations

from rules.addresses import summarize_address_range
from rules.analysis.boxes import fewer, remainder
from rules.iptables.words import listed
from rules.iptables.writing import rule_text
from rules.journeys.journeys import Journeys, universe
from rules.meaning.lists import lists
from rules.netfilter import fields as f
from rules.netfilter.spans import common, less, one, united
from rules.netfilter.targets import Tproxy
from rules.netfilter.values import PREROUTING, Family, address_of_family
from rules.packets.packet import Direction
from rules.packets.trace import Became
from rules.simulator.simulate import orders
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import ClassVar, Final, Literal, TypeAlias

    from rules.analysis.boxes import Box
    from rules.journeys.journeys import End, Now, Spot, Wanted
    from rules.netfilter.hooks import NativeTable
    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.spans import Span
    from rules.packets.packet import Host

    Fate: TypeAlias = Literal["let go", "taken by others", "dropped", "refused", "cannot be told"]

LET_GO: Final = "let go"
TAKEN: Final = "taken by others"
DROPPED: Final = "dropped"
REFUSED: Final = "refused"
UNTOLD: Final = "cannot be told"
FATES: dict[Became, Fate] = {
    Became.REDIRECTED: TAKEN,
    Became.DROPPED: DROPPED,
    Became.REFUSED: REFUSED,
    Became.DEPENDS: UNTOLD,
}
"""What becomes of it, unless it is let go."""
WIDENED = tuple(
    (each,) for each in (f.SPORT, f.TCP_FLAGS, f.ARRIVED_ON, f.SOURCE, f.PROTOCOL, f.GID, f.UID, f.DPORT, f.DESTINATION)
)
"""The fields, in the order in which it is tried whether any value of theirs escapes as well."""
WITHOUT_PORTS = (
    (f.PROTOCOL, f.SPORT, f.DPORT, f.TCP_FLAGS),
    *((each,) for each in (f.TCP_FLAGS, f.ARRIVED_ON, f.SOURCE, f.GID, f.UID, f.DESTINATION)),
)
"""The same for packets of protocols that have no ports."""
MOST_BOXES = 4000
PORTS: Span = (1, 1 << 16)
OWNERS: Span = (0, (1 << 32) - 1)


class Packets(Value):
    """A set of packets: those that are in all of these lists. None stands for any."""

    protocols: tuple[str, ...] | None
    """Transport protocols by name, or by number and range of numbers."""
    sources: tuple[str, ...] | None
    """Who sends them: networks, addresses, and ranges of addresses."""
    destinations: tuple[str, ...] | None
    """To whom."""
    source_ports: tuple[str, ...] | None
    """Ports and ranges of ports; what has no port is in no such list."""
    ports: tuple[str, ...] | None
    """Destination ports and ranges of them; what has no port is in no such list."""
    uids: tuple[str, ...] | None
    """Who opened the socket, by uid."""
    gids: tuple[str, ...] | None
    """The same by gid."""
    interfaces: tuple[str, ...] | None
    """On which they arrive."""
    words: str
    """All of this in words."""


class Escape(Value):
    """What does not reach the proxy by one rule, or because there is none for it."""

    family: Family
    """Of the packets."""
    direction: Direction
    """Whether a process in the namespace sends them, or they come from outside."""
    outcome: Fate
    """What becomes of them."""
    backend: str = ""
    """Of rules that the namespace holds, nft or legacy; else empty."""
    table: str = ""
    """The table of the rule; empty where no rule decides."""
    chain: str = ""
    """Its chain."""
    position: int | None = None
    """Where in the chain, counted from 1; of a list, where its first rule stands."""
    last_position: int | None = None
    """Of a long list, whose rules are told of together: where its last rule stands. None if it is one rule."""
    rule: Rule | None = None
    """The rule, or the first of a list; None where none decides."""
    why: str = ""
    """What it is for, or why nothing takes them."""
    setting: str = ""
    """The setting that asked for it; empty if every capture has this rule, or it is not ours."""
    packets: tuple[Packets, ...] = ()
    """Which packets."""
    option: str = ""
    """The setting as it is given, with its value and where that came from; empty where `setting` is."""

    TOLD: ClassVar = (
        "family",
        "direction",
        "outcome",
        "backend",
        "table",
        "chain",
        "position",
        "last_position",
        "rule",
        "why",
        "setting",
        "option",
        "packets",
        "sentence",
    )

    @property
    def sentence(self) -> str:
        """All of this in a sentence, but for the packets."""
        of_table = f" of the {self.table} table"
        rules = f"rules {self.position} to {self.last_position}" if self.last_position else f"rule {self.position}"
        where = f"by {rules} of {self.chain}{of_table}" if self.rule else f"because {self.why}"
        why = f" ({self.why or rule_text(self.rule)})" if self.rule else ""
        option = f", because of {self.option}" if self.option else ""
        return f"{'sent' if self.direction is Direction.OUT else 'arriving'}, {self.outcome} {where}{why}{option}"


def escapes(
    held: Sequence[tuple[str, Ruleset]],
    family: Family,
    host: Host,
    natives: Sequence[NativeTable] = (),
    *,
    passing: bool = False,
) -> tuple[Escape, ...]:
    """What does not reach the proxy of the packets of one family. Raises `journeys.TooMany`.

    `held` are the rulesets with the names of their backends; with `passing`, what only passes through counts as well.
    """
    held = [(name, ruleset) for name, ruleset in held if ruleset.family is family]
    rulesets = tuple(ruleset for _, ruleset in held)
    places = Places(tuple(name for name, _ in held), rulesets, tuple(natives))
    coming = list(Journeys(rulesets, family, host, natives).started(universe(family, host, passing=passing)))
    ends = in_each_order(rulesets, family, host, natives, coming)
    found = []
    for direction in Direction:
        there = fewer([arriving(now, box) for now, box in coming if now.direction is direction])
        groups: dict[tuple[Spot | None, Fate, str], list[Box]] = {}
        for end in ends:
            if end.now.direction is direction and end.boxes and not end.became.is_captured:
                outcome = UNTOLD if end.now.depends else FATES.get(end.became, LET_GO)
                boxes = [arriving(end.now, box) for box in end.boxes]
                groups.setdefault((end.by, outcome, end.reason), []).extend(boxes)
        alike: dict[Fate, list[Box]] = {}
        for (_, outcome, _), boxes in groups.items():
            alike.setdefault(outcome, []).extend(boxes)
        faring = {outcome: fewer(boxes) for outcome, boxes in alike.items()}
        told_of: set[Box] = set()
        for (by, outcome, reason), boxes in sorted(groups.items(), key=lambda group: place_of(group[0][0])):
            wide = [box for box in widest(fewer(boxes), there, faring[outcome], family) if box not in told_of]
            told_of.update(wide)
            if wide:
                packets = tuple(described(box, family) for box in wide)
                told = places.told(by, outcome, reason)
                found.append(told.but(family=family, direction=direction, packets=packets))
    return tuple(
        sorted(found, key=lambda each: (each.direction is Direction.IN, each.outcome != LET_GO, not each.rule))
    )


def in_each_order(
    rulesets: tuple[Ruleset, ...],
    family: Family,
    host: Host,
    natives: Sequence[NativeTable],
    coming: Sequence[tuple[Now, Box]],
) -> list[End]:
    """What becomes of these packets; what ours take in one order of tables at one place and not in another depends,
    and so does what depends in one of them."""
    hands_over = any(isinstance(rule.target, Tproxy) for ruleset in rulesets for rule in ruleset.kinds())
    is_over = taken_on_arrival if hands_over else taken_by_others
    found = [
        Journeys(rulesets, family, host, natives, order, is_over).ends(coming) for order in orders(rulesets, natives)
    ]
    if len(found) == 1:
        return list(found[0])
    doubted: dict[tuple[Direction, Wanted, bool], list[Box]] = {}
    for end in (end for ends in found for end in ends if end.became.is_captured or end.now.depends):
        doubted.setdefault((end.now.direction, end.now.tag, end.now.is_local), []).extend(end.boxes)
    told = []
    for end in (end for ends in found for end in ends if not end.became.is_captured):
        taken = doubted.get((end.now.direction, end.now.tag, end.now.is_local), ())
        sure = remainder(end.boxes, taken, MOST_BOXES)
        unsure = None if sure is None else remainder(end.boxes, sure, MOST_BOXES)
        if sure is None or unsure is None:
            sure, unsure = [], list(end.boxes)
        told += [end.but(boxes=tuple(sure)), end.but(boxes=tuple(unsure), now=end.now.but(depends=True))]
    return told


def taken_by_others(now: Now) -> bool:
    return now.bound is not None and not now.bound.is_ours


def taken_on_arrival(now: Now) -> bool:
    """The same where a transparent listener of ours may have what comes back over lo."""
    return now.bound is not None and not now.bound.is_ours and now.bound.hook == PREROUTING


def arriving(now: Now, box: Box) -> Box:
    """The box with the interface on which it arrives. Where something leaves follows from where it goes to."""
    name = one(now.tag.goes) if now.direction is Direction.IN else ()
    return (*box[: f.ARRIVED_ON], name, *box[f.ARRIVED_ON + 1 :])


class Places:
    """Where rules are."""

    def __init__(self, names: tuple[str, ...], rulesets: tuple[Ruleset, ...], natives: tuple[NativeTable, ...]) -> None:
        self.names, self.rulesets, self.natives = names, rulesets, natives
        self.last: dict[Spot, dict[int, int]] = {}
        """For each chain that is asked for, where the last rule of a list stands, by the place of the first."""

    def told(self, by: Spot | None, outcome: Fate, reason: str) -> Escape:
        """What is let go by this rule, if there is one."""
        if by is None:
            return Escape(Family.V4, Direction.OUT, outcome, why=reason or "there is no rule for it")
        if by.layer < len(self.rulesets):
            backend, chains = self.names[by.layer], self.rulesets[by.layer].table(by.table).chains()
        else:
            backend, chains = "nft", dict(self.natives[by.layer - len(self.rulesets)].chains)
        rule = chains[by.chain][by.position - 1]
        chain = by.but(position=0)
        if chain not in self.last:
            self.last[chain] = {it.places[0] + 1: it.places[-1] + 1 for it in lists(chains[by.chain]) if it.spans}
        place = (by.table, by.chain, by.position, self.last[chain].get(by.position))
        return Escape(Family.V4, Direction.OUT, outcome, backend, *place, rule, rule.why or reason, rule.setting)


# --- as wide as can be ------------------------------------------------------------------------------------


def any_of(field: int, family: Family) -> Span:
    """All that a field can be."""
    if field in (f.SOURCE, f.DESTINATION):
        return f.ADDRESSES[family]
    return {f.PROTOCOL: (0, 256), f.SPORT: PORTS, f.DPORT: PORTS, f.UID: OWNERS, f.GID: OWNERS}.get(
        field, ("", "\U0010ffff")
    )


def widest(boxes: Sequence[Box], there: Sequence[Box], faring: Sequence[Box], family: Family) -> list[Box]:
    """Boxes that hold these, and nothing but what fares alike, as wide as can be; without those that add nothing."""
    wide: list[Box] = []
    for box in boxes:
        if wide and remainder([box], among(wide, there, family), MOST_BOXES) == []:
            continue
        for fields in WIDENED if box[f.DPORT] else WITHOUT_PORTS:
            tried = tuple(any_of(at, family) if at in fields else span for at, span in enumerate(box))
            if tried != box and remainder(among([tried], there, family), faring, MOST_BOXES) == []:
                box = tried
        wide.append(box)
    kept = list(dict.fromkeys(wide))
    for box in list(kept):
        others = among([other for other in kept if other is not box], there, family)
        if len(kept) > 1 and remainder(among([box], there, family), others, MOST_BOXES) == []:
            kept.remove(box)
    return [told_shortly(box, there, family) for box in kept]


def told_shortly(box: Box, there: Sequence[Box], family: Family) -> Box:
    """The same packets, with addresses that nobody has where that takes fewer words."""
    for field in (f.SOURCE, f.DESTINATION):
        others: Span = ()
        for real in there:
            others = united(others, less(real[field], box[field]))
        span = less(any_of(field, family), others)
        if len(span) <= len(box[field]):
            box = (*box[:field], span, *box[field + 1 :])
    return box


def place_of(by: Spot | None) -> tuple[int, str, int]:
    """Where a rule is among those that are told of: what no rule takes comes first."""
    return (by.layer + 1, by.chain, by.position) if by else (0, "", 0)


def among(boxes: Sequence[Box], there: Sequence[Box], family: Family) -> list[Box]:
    """What of these packets there is."""
    found = []
    for box in boxes:
        for real in there:
            spans = []
            for field, (mine, its) in enumerate(zip(box, real, strict=True)):
                both = its if mine in (its, any_of(field, family)) else common(mine, its)
                if not both and mine != any_of(field, family) and mine != its:
                    break
                spans.append(both)
            else:
                found.append(tuple(spans))
    return found


# --- in words ---------------------------------------------------------------------------------------------


SAID = (
    ("from", "", "address", f.SOURCE),
    ("from", "on", "port", f.SPORT),
    ("to", "", "address", f.DESTINATION),
    ("to", "on", "port", f.DPORT),
    ("by", "", "uid", f.UID),
    ("by", "and", "gid", f.GID),
    ("arriving on", "", "interface", f.ARRIVED_ON),
)
"""The fields of a packet in the order of a sentence: the word before each, and where one with that word was said."""
NUMBERED = ("port", "uid", "gid")
"""What a number would not be known for without the noun."""


def described(box: Box, family: Family) -> Packets:
    """A box as people read it."""

    def told(field: int) -> tuple[str, ...] | None:
        span = box[field]
        return None if not span or span == any_of(field, family) else written(field, span, family)

    sources, destinations, interfaces = told(f.SOURCE), told(f.DESTINATION), told(f.ARRIVED_ON)
    protocols, source_ports, ports = told(f.PROTOCOL), told(f.SPORT), told(f.DPORT)
    uids, gids = told(f.UID) if box[f.UID][0] >= 0 else None, told(f.GID) if box[f.GID][0] >= 0 else None
    words = [said_of(f.PROTOCOL, "", box, family) or "everything"]
    for before, also, noun, field in SAID:
        text = said_of(field, noun, box, family) if box[field] and box[field] != (-1, 0) else ""
        if text:
            words += [also if before in words else before, text]
    values = (protocols, sources, destinations, source_ports, ports, uids, gids, interfaces)
    return Packets(*values, " ".join(words))


def said_of(field: int, noun: str, box: Box, family: Family) -> str:
    """One field of a box: what it is, or what it is not, whichever is shorter; empty if it may be anything."""
    span, whole = box[field], any_of(field, family)
    if not span or span == whole:
        return ""
    rest = less(whole, span)
    if len(rest) < len(span) or (field == f.PROTOCOL and len(rest) <= len(span) > 2):
        return f"any{f' {noun}' if noun else 'thing'} but {listed(list(written(field, rest, family)))}"
    return " ".join([noun] * (noun in NUMBERED) + [listed(list(written(field, span, family)))])


def written(field: int, span: Span, family: Family) -> tuple[str, ...]:
    """The intervals of a span as they are written."""
    pairs = [(span[at], span[at + 1]) for at in range(0, len(span), 2)]
    return tuple(text for first, end in pairs for text in interval(field, first, end, family))


def interval(field: int, first: int, end: int, family: Family) -> Iterator[str]:
    if field in (f.SOURCE, f.DESTINATION):
        low, high = address_of_family(family, first), address_of_family(family, end - 1)
        networks = list(summarize_address_range(low, high)) if low != high else []
        if low == high:
            yield str(low)
        elif len(networks) == 1:
            yield str(networks[0])
        else:
            yield f"{low}-{high}"
    elif field == f.PROTOCOL and end - first <= 2:
        names = {number: name for name, number in f.PROTOCOLS.items()} | {58: "icmpv6"}
        yield from (names.get(number, str(number)) for number in range(first, end))
    elif isinstance(first, str):
        yield first
    else:
        yield str(first) if end == first + 1 else f"{first}-{end - 1}"
