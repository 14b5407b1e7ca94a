"""Whether a rule of others could take traffic away before a rule of ours is asked.

Rules of others that stand above our jumps are their business as long as what we capture passes them by. One that
could end the walk for a packet of ours is not. Errs on the side of "could": a match that we do not speak may hold.
"""

from __future__ import annotations

from rules.netfilter.effects import Nothing, Remark, first_of
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
from rules.netfilter.targets import (
    Accept,
    Dnat,
    Drop,
    ForeignTarget,
    Jump,
    Log,
    NativeTarget,
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
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule, TableRules
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Ports

# fmt: off
GO_ON = frozenset({
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "ECN", "HL", "HMARK",
    "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS",
    "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG",
})
# fmt: on
"""Targets of iptables-extensions(8) behind which the walk goes on. Of any other that we do not speak, it may end."""
DEEPEST = 16
"""Chains that are followed into each other. The kernel refuses loops, and text from elsewhere may have one."""


def usurps(table: TableRules, theirs: Rule, ours: Rule) -> bool:
    """Whether `theirs`, above `ours` in a built-in chain of this table, could decide about a packet of ours.

    Dropping and rejecting do not count: they let nothing escape, and to go before them would undo what they are for.
    """
    return may_both_hold(theirs.matches, ours.matches) and ends_the_walk(table, theirs.target, ours, DEEPEST)


def ends_the_walk(table: TableRules, target: Target, ours: Rule, deepest: int) -> bool:
    match target:
        case Accept() | Redirect() | Dnat() | Tproxy():
            return True
        case Return():
            # In a built-in chain the policy decides; in a chain of theirs, whoever jumped there goes on.
            return deepest == DEEPEST
        case Jump(chain):
            rules = table.chains().get(chain, ())
            return deepest > 0 and any(
                may_both_hold(rule.matches, ours.matches) and ends_the_walk(table, rule.target, ours, deepest - 1)
                for rule in rules
            )
        case ForeignTarget(text):
            words = text.split()
            return bool(words) and not (words[0] == "-j" and words[1] in GO_ON)
        case NativeTarget(done, _):
            return any(not isinstance(each, Drop | Reject | Remark | Nothing) for each in first_of(done))
        case Drop() | Reject():
            return False
        case SetMark() | SaveMark() | RestoreMark() | Zone() | Log() | Nflog():
            return False
        case _:
            assert_never(target)


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
