"""Conditions and targets in the words of nft(8), and conditions as the matches that everybody knows."""

from __future__ import annotations

from bisect import bisect_left

from rules.addresses import IPv4Network, IPv6Address, IPv6Network
from rules.meaning.spoken import conditions
from rules.native.names import chain_name
from rules.netfilter import fields as f
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.spans import less
from rules.netfilter.values import Family, Ports
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rules.netfilter.rulesets import Rule
    from rules.netfilter.spans import Span
    from rules.netfilter.values import Network

LIMIT_BURST = 5
"""Of iptables' limit match, unless it is told another."""
ORDER = (
    f.PROTOCOL,
    f.ARRIVED_ON,
    f.LEAVES_ON,
    f.SOURCE,
    f.DESTINATION,
    f.SPORT,
    f.DPORT,
    f.UID,
    f.GID,
    f.STATE,
    f.MARK,
    f.CONNMARK,
)
"""In which a rule asks: what tells packets apart at once comes first."""
OWNERS = (f.UID, f.GID)
L4 = {6: "tcp", 17: "udp"}
ADDRESS = {Family.V4: "ip", Family.V6: "ip6"}
FIELDS = {
    f.PROTOCOL: "meta l4proto",
    f.SPORT: "th sport",
    f.DPORT: "th dport",
    f.UID: "meta skuid",
    f.GID: "meta skgid",
    f.ARRIVED_ON: "iifname",
    f.LEAVES_ON: "oifname",
    f.STATE: "ct state",
    f.MARK: "meta mark",
    f.CONNMARK: "ct mark",
}
REJECTS = {
    "icmp-port-unreachable": "icmp port-unreachable",
    "icmp6-port-unreachable": "icmpv6 port-unreachable",
    "tcp-reset": "tcp reset",
}
"""iptables' names of answers, in those of nft."""
MANY = 64
"""Intervals from which on a hash is looked up faster than a tree of them."""
MOST = 20_000
"""Intervals up to which a run has the time to write and read what they have in common besides."""
NAMES = {number: name for name, number in reversed(f.PROTOCOLS.items())}


def intervals(span: Span) -> list[tuple[Any, Any]]:
    """The half-open intervals of a span."""
    return [(span[at], span[at + 1]) for at in range(0, len(span), 2)]


def everything(field: int, family: Family) -> Span:
    """What a field can be in a native rule, which stops where a packet has none."""
    return f.U32 if field in OWNERS else f.domain(field, family)


def match_of(field: int, span: Span, family: Family) -> m.Match:
    """The match that holds where this field is in this span: one of iptables', or a native one if none says just that.

    An owner that is not this one is native: it is somebody, while to iptables a packet without a socket is no owner's.
    """
    known = single(field, span, family)
    if known:
        return known
    # Of all but one thing, two intervals are left at most; of conntrack's states there are few.
    may_deny = field not in OWNERS and (len(span) <= 4 or field == f.STATE)
    denied = single(field, less(everything(field, family), span), family) if may_deny else None
    return m.Not(denied) if denied else m.Native((f.Among(field, span),), span_words(field, span, family))


def single(field: int, span: Span, family: Family) -> m.Plain | None:
    """The match of iptables that holds for exactly this span, if there is one."""
    if field == f.STATE:
        names = {f.STATES[value] for first, end in intervals(span) for value in range(first, end)}
        return m.CtState(frozenset(names)) if names else None
    if len(span) != 2:
        return None
    first, end = span
    match field:
        case 7 | 8:
            name = first if end == f"{first}\0" else f"{first}+" if first and end == first + f.LAST else ""
            return (m.InIface if field == f.ARRIVED_ON else m.OutIface)(name) if name else None
        case 1 | 2:
            network = network_of(first, end, family)
            return (m.Src if field == f.SOURCE else m.Dst)(network) if network else None
        case 3 | 4:
            is_port = first >= 1 and end <= 1 << 16
            return (m.SPort if field == f.SPORT else m.DPort)(Ports(first, end - 1)) if is_port else None
        case 5 if end - first > 1:
            return m.OwnerUids(first, end - 1)
        case _ if end - first > 1:
            return None
        case 0:
            return m.Proto(NAMES.get(first, str(first)))
        case 5:
            return m.OwnerUid(first)
        case 6:
            return m.OwnerGid(first)
        case 10:
            return m.Mark(first)
        case 11:
            return m.ConnMark(first)
        case _:
            return None


def network_of(first: int, end: int, family: Family) -> Network | None:
    """The network that is exactly this interval of addresses."""
    size = end - first
    if size & (size - 1) or first & (size - 1):
        return None
    if family is Family.V4:
        return IPv4Network((first, 33 - size.bit_length()))
    return IPv6Network((first, 129 - size.bit_length()))


_known: dict[tuple[int, Span, Family], str] = {}
"""The words of long spans: what is planned is mostly found as well, and those of 50,000 networks take their time."""
MOST_KNOWN = 8


def span_words(field: int, span: Span, family: Family) -> str:
    """That this field is in this span, as nft is given it."""
    if len(span) < 2 * MANY:
        return words_of(field, span, family)
    if (field, span, family) not in _known:
        if len(_known) == MOST_KNOWN:
            _known.clear()
        _known[field, span, family] = words_of(field, span, family)
    return _known[field, span, family]


def shorter(field: int, span: Span, family: Family) -> tuple[Span, bool]:
    """The shorter way to say that a field is in a span: that, or that it is not in the rest of what it can be."""
    rest = less(everything(field, family), span)
    is_denied = field != f.STATE and (len(rest), not is_one(rest)) < (len(span), not is_one(span))
    return (rest, True) if is_denied else (span, False)


def words_of(field: int, span: Span, family: Family) -> str:
    """The same, put together anew."""
    name = FIELDS[field] if field in FIELDS else f"{ADDRESS[family]} {'saddr' if field == f.SOURCE else 'daddr'}"
    said, is_denied = shorter(field, span, family)
    in_blocks, is_all = ("", False) if is_denied else block_words(name, field, span, family)
    if is_all:
        return in_blocks
    values = [value_words(field, first, end, family) for first, end in intervals(said)]
    some = values[0] if len(values) == 1 else f"{{ {', '.join(values)} }}"
    if field == f.STATE:
        some = ",".join(values)
    return f"{in_blocks}{' ' if in_blocks else ''}{name} {'!= ' if is_denied else ''}{some}"


def block_words(name: str, field: int, span: Span, family: Family) -> tuple[str, bool]:
    """That a field is in a block that has any of a long span, and whether that says all; empty where it is no use."""
    found = in_blocks(field, span, family)
    if found is None:
        return "", False
    bits, is_exact = found
    is_address = field in (f.SOURCE, f.DESTINATION)
    firsts = (value << bits for some in blocks(span, bits) for value in some)
    values = (address_words(value, family) for value in firsts) if is_address else map(str, firsts)
    mask = f" & {address_words((1 << length_of(family)) - (1 << bits), family)}" if bits else ""
    return f"{name}{mask} {{ {', '.join(values)} }}", is_exact


def in_blocks(field: int, span: Span, family: Family) -> tuple[int, bool] | None:
    """The bits within a block in which a long span is looked up, and whether that says all; None if it is no use.

    Blocks of one size are looked up in a hash by their first bits, which takes a new connection a fraction of the way
    down a tree of intervals. Networks of one length are such blocks, and single addresses or ports, also where some
    that adjoin have become one interval. Of networks of many lengths the tree is asked for what is in one of the
    blocks, unless there are very many. There are never more blocks than ends of intervals.
    """
    if len(span) < 2 * MANY or field not in (f.SOURCE, f.DESTINATION, f.SPORT, f.DPORT):
        return None
    is_address = field in (f.SOURCE, f.DESTINATION)
    in_all = 0
    for end in span:
        in_all |= end
    bits = (in_all & -in_all).bit_length() - 1 if is_address else 0
    is_exact = sum(span[1::2]) - sum(span[::2]) >> bits <= len(span)
    if not is_exact and (not is_address or len(span) > 2 * MOST):
        return None
    if not is_exact:
        sizes = range(length_of(family))
        bits = bisect_left(sizes, -len(span), key=lambda bits: -sum(map(size_of, blocks(span, bits))))
    return bits, is_exact


def blocks(span: Span, bits: int) -> Iterator[range]:
    """The blocks of this size that have any of a span, each once: what they have in common, interval by interval."""
    before = -1
    for first, end in intervals(span):
        last = end - 1 >> bits
        yield range(max(first >> bits, before + 1), last + 1)
        before = last


def size_of(some: range) -> int:
    """Its length, which may be more than `len` can tell."""
    return some.stop - some.start


def length_of(family: Family) -> int:
    """The bits of an address."""
    return f.width(f.DESTINATION, family)


def is_one(span: Span) -> bool:
    """Whether this is a single value or name."""
    return len(span) == 2 and span[1] == (f"{span[0]}\0" if isinstance(span[0], str) else span[0] + 1)


def value_words(field: int, first: Any, end: Any, family: Family) -> str:
    """An interval of this field."""
    if field in (f.ARRIVED_ON, f.LEAVES_ON):
        return f'"{first}"' if end == f"{first}\0" else f'"{first}*"'
    if field in (f.SOURCE, f.DESTINATION):
        return addresses_words(first, end, family)
    if field == f.STATE:
        return ",".join(f.STATES[value].lower() for value in range(first, end))
    if field == f.PROTOCOL:
        return ", ".join(L4[value] if value in L4 else str(value) for value in range(first, end))
    if field in (f.MARK, f.CONNMARK):
        return f"{first:#x}" if end - first == 1 else f"{first:#x}-{end - 1:#x}"
    return str(first) if end - first == 1 else f"{first}-{end - 1}"


def addresses_words(first: int, end: int, family: Family) -> str:
    """An interval of addresses, as a network if it is one."""
    size = end - first
    is_network = not (size & (size - 1) or first & (size - 1))
    words = address_words(first, family)
    highest = length_of(family)
    length = highest + 1 - size.bit_length()
    behind = f"/{length}" if length < highest else ""
    return f"{words}{behind}" if is_network else f"{words}-{address_words(end - 1, family)}"


def address_words(address: int, family: Family) -> str:
    return dotted(address) if family is Family.V4 else str(IPv6Address(address))


def dotted(address: int) -> str:
    """An IPv4 address; a list may have ten thousands of them, and one by one takes its time."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def match_words(asked: m.Match, family: Family) -> str:
    """A match as nft is given it."""
    match asked:
        case m.Native(_, text):
            return text
        case m.Limit(rate):
            return f"limit rate {rate.replace('/sec', '/second')} burst {LIMIT_BURST} packets"
        case _:
            (condition,) = conditions(asked)
            if not isinstance(condition, f.Among):
                raise ValueError(f"nft has no words for {asked!r}")
            return span_words(condition.field, condition.span, family)


def target_words(target: t.Target, table: str) -> str:
    """A target as nft is given it."""
    match target:
        case t.Return() | t.Accept() | t.Drop():
            return type(target).__name__.lower()
        case t.Jump(chain):
            return f"jump {chain_name(table, chain)}"
        case t.Redirect(port):
            return f"redirect to :{port}"
        case t.Dnat(address, port):
            return f"dnat to {f'[{address}]' if address.version == 6 else address}:{port}"
        case t.Tproxy(port, mark):
            return f"tproxy to :{port} meta mark set {mark:#x} accept"
        case t.SetMark(value):
            return f"meta mark set {value:#x}"
        case t.SaveMark():
            return "ct mark set meta mark"
        case t.RestoreMark():
            return "meta mark set ct mark"
        case t.Zone(zone):
            return f"ct zone set {zone}"
        case t.Reject(answer):
            return f"reject with {REJECTS[answer]}"
        case t.Log(prefix):
            return f'log prefix "{prefix}" flags skuid'
        case t.Nflog(group, prefix):
            return f'log prefix "{prefix}" group {group}'
        case t.ForeignTarget(text) | t.NativeTarget(_, text):
            return text
        case _:
            assert_never(target)


def rule_words(rule: Rule, table: str, family: Family, *between: str) -> str:
    """A rule as nft is given it, without its comment; with this between what it asks and what it does."""
    asked = sorted(rule.matches, key=place_in_rule)
    return " ".join((*(match_words(match, family) for match in asked), *between, target_words(rule.target, table)))


def place_in_rule(asked: m.Match) -> int:
    """Where in a rule this is asked: what tells packets apart at once comes first."""
    fields = (each.field for each in conditions(asked) if isinstance(each, f.Among))
    return next(map(ORDER.index, fields), len(ORDER))
