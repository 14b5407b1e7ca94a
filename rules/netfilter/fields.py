"""What a rule can ask of a packet: its fields, and conditions on them.

Every match, of whatever tool, is translated into conditions (`rules.meaning.spoken`), and conditions are all that
the simulator, attribution and the sets of packets know.
"""

from __future__ import annotations

from rules.netfilter.spans import common, joined, less, one, points, united
from rules.netfilter.values import Family
from rules.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from rules.netfilter.spans import Span

    Condition: TypeAlias = "Among | Masked | OfType | AnyOf | Untold"
    Known: TypeAlias = Sequence[Span]
    """What each field of a packet may be; an empty span for one that it does not have."""

(
    PROTOCOL,
    SOURCE,
    DESTINATION,
    SPORT,
    DPORT,
    UID,
    GID,
    ARRIVED_ON,
    LEAVES_ON,
    STATE,
    MARK,
    CONNMARK,
    TCP_FLAGS,
    REWRITTEN,
) = range(14)

LAST = "\U0010ffff"
"""Behind every name."""
NAMES: Span = ("", LAST)
"""Every interface, and none."""
SOMEWHERE: Span = ("\0", LAST)
"""Every interface."""
NOWHERE: Span = ("", "\0")
"""The interface of a packet where it has none yet, or none any more."""
U32: Span = (0, 2**32)
PORTS: Span = (0, 2**16)
OWNERS: Span = (-1, 2**32)
"""-1 stands for a packet that has no socket on this host, and so no owner: `! --uid-owner` holds for it."""
NOBODY: Span = (-1, 0)
STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
"""Those of which a packet has exactly one (iptables-extensions(8), conntrack)."""
KNOWN_STATES: Span = (0, STATES.index("INVALID"))
"""Those of a packet of a connection."""
UNTOUCHED, DNAT, SNAT, BOTH = range(4)
"""Which ends of its connection were changed: SNAT and DNAT, which `--ctstate` asks for beside the others."""
ADDRESSES: dict[Family, Span] = {Family.V4: (0, 2**32), Family.V6: (0, 2**128)}
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
FIRST_FLAGS: Span = (SYN, SYN + 1, SYN | ECE | CWR, (SYN | ECE | CWR) + 1)
"""Those of the first packet of a TCP connection, with explicit congestion notification or without."""
LATER_FLAGS: Span = joined(
    (flags, flags + 1)
    for flags in range(1 << 8)
    if flags & ~(ECE | CWR | PSH | URG) in (ACK, ACK | FIN, RST, RST | ACK, SYN | ACK)
)
"""Those that a later one can have, or an answer."""
PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51,
    "icmpv6": 58, "ipv6-icmp": 58, "ospf": 89, "vrrp": 112, "sctp": 132, "udplite": 136,
}  # fmt: skip
"""The names that iptables-save prints (/etc/protocols), with their numbers."""
MOST_POINTS = 128
"""Values of a field that are tried one by one."""


def domain(field: int, family: Family | None = None) -> Span:
    """All that a field can be, for those who ask for the opposite."""
    match field:
        case 0:
            return (0, 256)
        case 1 | 2:
            return ADDRESSES[family or Family.V6]
        case 3 | 4:
            return PORTS
        case 5 | 6:
            return OWNERS
        case 7 | 8:
            return NAMES
        case 9:
            return (0, len(STATES))
        case 12:
            return (0, 256)
        case 13:
            return (UNTOUCHED, BOTH + 1)
        case _:
            # A packet without a connection meets neither `--mark` of connmark nor its opposite (xt_connmark.c).
            return U32


def width(field: int, family: Family) -> int:
    """How many bits a field of numbers has."""
    ends: int = domain(field, family)[-1]
    return (ends - 1).bit_length()


class Among(Value):
    """The field is in this span."""

    field: int
    span: Span


class Masked(Value):
    """The field has these bits, of those in the mask; or, negated, others."""

    field: int
    mask: int
    value: int
    negated: bool = False


class OfType(Value):
    """The address in this field is of one of these kinds to this host: `LOCAL`, `MULTICAST` …; or, negated, of none.

    IPv4 looks into the table `local` alone (inet_addr_type). IPv6 asks the ip rules where a packet of root would go:
    `addrtype` with the address alone (match_type6 of net/netfilter/xt_addrtype.c, for which an address is of all these
    kinds or of none of them), `fib` with the other address and the protocol too (net/ipv6/netfilter/nft_fib_ipv6.c).
    """

    field: int
    kinds: tuple[str, ...]
    negated: bool = False
    by_fib: bool = False
    with_mark: bool = False
    """Whether `fib` asks with the packet's mark."""


class AnyOf(Value):
    """At least one of these ways is met, each by all of its conditions."""

    ways: tuple[tuple[Condition, ...], ...]


class Untold(Value):
    """Something that nobody can tell from the fields of a packet: how many came before it, what a set holds …"""

    text: str


def asks_for(field: int, conditions: Sequence[Condition]) -> bool:
    """Whether any of these looks at this field."""
    return any(
        any(asks_for(field, way) for way in each.ways)
        if isinstance(each, AnyOf)
        else getattr(each, "field", None) == field
        for each in conditions
    )


NEVER = Among(PROTOCOL, ())
"""Holds for no packet."""


def masked(field: int, mask: int, value: int, bits: int, *, negated: bool = False) -> Condition:
    """The condition that these bits of a field are so: a span where that is one."""
    whole = (1 << bits) - 1
    mask &= whole
    rest = whole & ~mask
    if value & ~mask:
        span: Span = ()
    elif rest & (rest + 1) == 0:  # the mask is all bits from the highest down to some
        span = (value, value + rest + 1)
    else:
        return Masked(field, mask, value, negated)
    return Among(field, less((0, whole + 1), span) if negated else span)


def cut(condition: Condition, here: Mapping[str, Span] | None = None) -> Among | None:
    """The condition as a span of one field; None where it is none. `here` has the addresses of each kind."""
    match condition:
        case Among():
            return condition
        case OfType(field, _, negated):
            span = span_of_type(condition, here) if here else None
            return None if span is None or here is None else Among(field, less(here["ANY"], span) if negated else span)
        case Masked() | AnyOf() | Untold():
            return None
        case _:
            assert_never(condition)


def span_of_type(asked: OfType, here: Mapping[str, Span]) -> Span | None:
    """The addresses of these kinds, negated or not; None where more than the address tells."""
    if here["ANY"] == ADDRESSES[Family.V6] and not asked.by_fib:
        here = {**here, "UNICAST": less(here["ANY"], united(here["MULTICAST"], one(0)))}
        joins, span = common, here["ANY"]
    else:
        joins, span = united, ()
    for kind in asked.kinds:
        if kind not in here:
            return None
        span = joins(span, here[kind])
    return span


def holds(condition: Condition, known: Known, here: Mapping[str, Span] | None = None) -> bool | None:
    """Whether a packet of which this is known meets the condition; None if that cannot be told."""
    match condition:
        case Masked(field, mask, value, negated):
            values = points(known[field], MOST_POINTS)
            if values is None:
                return None
            # Below 0 is what the packet does not have, which meets neither a match nor its opposite.
            answers = {number >= 0 and (number & mask == value) is not negated for number in values}
            return None if len(answers) > 1 else True in answers
        case AnyOf(ways):
            met = [all_hold(way, known, here) for way in ways]
            return True if True in met else None if None in met else False
        case Among(field, span):
            mine = known[field]
            both = common(mine, span) if mine else ()
            return False if not both else True if both == mine else None
        case OfType():
            among = cut(condition, here)
            return None if among is None else holds(among, known, here)
        case Untold():
            return None
        case _:
            assert_never(condition)


def all_hold(conditions: Sequence[Condition], known: Known, here: Mapping[str, Span] | None = None) -> bool | None:
    """Whether all of these hold; None if that hangs on one that cannot be told."""
    untold = False
    for condition in conditions:
        answer = holds(condition, known, here)
        if answer is None:
            untold = True
        elif not answer:
            return False
    return None if untold else True


def opposite(conditions: Sequence[Condition], domains: Mapping[int, Span]) -> tuple[Condition, ...]:
    """That not all of these hold. `domains` has what a field can be, where that is not said by the field alone."""
    ways: list[tuple[Condition, ...]] = []
    for condition in conditions:
        match condition:
            case Among(field, span):
                ways.append((Among(field, less(domains.get(field) or domain(field), span)),))
            case Masked() | OfType():
                ways.append((condition.but(negated=not condition.negated),))
            case AnyOf(alternatives):
                each = [opposite(alternative, domains) for alternative in alternatives]
                ways.append(tuple(negated for those in each for negated in those))
            case Untold(text):
                ways.append((Untold(f"! {text}"),))
            case _:
                assert_never(condition)
    return ways[0] if len(ways) == 1 else (AnyOf(tuple(ways)),)
