"""Two rules, match by match: whether some packet meets both, and whether one asks for less than the other."""

from __future__ import annotations

from rules.netfilter.matches import (
    ConnMark,
    CtState,
    DPort,
    DPorts,
    Dst,
    InIface,
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.matches import Match
    from rules.netfilter.values import Ports


def may_both_hold(these: tuple[Match, ...], those: tuple[Match, ...]) -> bool:
    """Whether some packet could meet all of both."""
    return not any(exclude_each_other(one, other) or exclude_each_other(other, one) for one in these for other in those)


def exclude_each_other(one: Match, other: Match) -> bool:
    """Whether no packet can meet both, as far as the two matches alone tell."""
    match one, other:
        case Not(refused), _:
            return implies(other, refused)
        case Proto(name), Proto(another):
            return name != another
        case (Src(network), Src(another)) | (Dst(network), Dst(another)):
            return network.version == another.version and not network.overlaps(another)
        case (InIface(name), InIface(another)) | (OutIface(name), OutIface(another)):
            return "+" not in (name[-1], another[-1]) and name != another
        case (DPort() | DPorts(), DPort() | DPorts()):
            return not any(overlap(a, b) for a in port_ranges(one) for b in port_ranges(other))
        case SPort(ports), SPort(others):
            return not overlap(ports, others)
        case (OwnerUid() | OwnerUids(), OwnerUid() | OwnerUids()):
            (first, last), (start, end) = uid_range(one), uid_range(other)
            return last < start or end < first
        case (OwnerGid(it), OwnerGid(that)) | (Mark(it), Mark(that)) | (ConnMark(it), ConnMark(that)):
            return it != that
        case CtState(states), CtState(others):
            return states.isdisjoint(others)
        case _:
            return False


def implies(one: Match, other: Match) -> bool:
    """Whether every packet that meets `one` meets `other`, as far as the two matches alone tell."""
    match one, other:
        case (Src(inner), Src(outer)) | (Dst(inner), Dst(outer)):
            return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type] # of one version
        case (DPort() | DPorts(), DPort() | DPorts()):
            return all(any(within(a, b) for b in port_ranges(other)) for a in port_ranges(one))
        case (OwnerUid() | OwnerUids(), OwnerUid() | OwnerUids()):
            (first, last), (start, end) = uid_range(one), uid_range(other)
            return start <= first and last <= end
        case CtState(states), CtState(others):
            return states <= others
        case _:
            return one == other


def port_ranges(asked: DPort | DPorts) -> tuple[Ports, ...]:
    return (asked.ports,) if isinstance(asked, DPort) else asked.ranges


def overlap(one: Ports, other: Ports) -> bool:
    return one.first <= other.last and other.first <= one.last


def within(inner: Ports, outer: Ports) -> bool:
    return outer.first <= inner.first and inner.last <= outer.last


def uid_range(asked: OwnerUid | OwnerUids) -> tuple[int, int]:
    return (asked.uid, asked.uid) if isinstance(asked, OwnerUid) else (asked.first, asked.last)
