"""From every match to conditions, and from every target to effects: the one place that looks into either.

A new match or target is taught here, and is then known to the simulator, to attribution and to the sets of packets.
"""

from __future__ import annotations

from rules.iptables.quoting import tokens
from rules.meaning.foreign import WHOLE, match_meaning, state_condition, target_meaning
from rules.netfilter.effects import (
    Bind,
    Hand,
    Nothing,
    Remark,
)
from rules.netfilter.fields import (
    ARRIVED_ON,
    CONNMARK,
    DESTINATION,
    DPORT,
    GID,
    LAST,
    LEAVES_ON,
    MARK,
    PROTOCOL,
    PROTOCOLS,
    SOURCE,
    SPORT,
    UID,
    Among,
    Untold,
    domain,
    opposite,
)
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
    Native,
    Not,
    OutIface,
    OwnerGid,
    OwnerUid,
    OwnerUids,
    Proto,
    SPort,
    Src,
)
from rules.netfilter.spans import joined, one
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
from rules.netfilter.values import Family
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.effects import Effect
    from rules.netfilter.fields import Condition
    from rules.netfilter.matches import Match, Plain
    from rules.netfilter.spans import Span
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Network, Ports


def conditions(asked: Match) -> tuple[Condition, ...]:
    """What this match asks for: all of these hold exactly where it does."""
    match asked:
        case Not(inner):
            version = {}
            if isinstance(inner, Src | Dst):
                family = Family.V4 if inner.network.version == 4 else Family.V6
                version = {SOURCE: domain(SOURCE, family), DESTINATION: domain(DESTINATION, family)}
            return opposite((plain(inner),), version)
        case Foreign(text):
            known = _foreign.get(text)
            if known is None:
                known = _foreign[text] = match_meaning(tokens(text))
            return known
        case Native(asked_natively, _):
            return asked_natively
        case _:
            return (plain(asked),)


_foreign: dict[str, tuple[Condition, ...]] = {}


def plain(asked: Plain) -> Condition:
    """The same for a match that we speak, as it stands."""
    match asked:
        case Proto(name):
            number = int(name) if name.isdigit() else PROTOCOLS.get(name)
            return Untold(f"-p {name}") if number is None else Among(PROTOCOL, one(number))
        case Src(network):
            return Among(SOURCE, addresses(network))
        case Dst(network):
            return Among(DESTINATION, addresses(network))
        case InIface(name):
            return Among(ARRIVED_ON, interfaces(name))
        case OutIface(name):
            return Among(LEAVES_ON, interfaces(name))
        case DPort(ports):
            return Among(DPORT, union([ports]))
        case SPort(ports):
            return Among(SPORT, union([ports]))
        case DPorts(ranges):
            return Among(DPORT, union(ranges))
        case OwnerUid(uid):
            return Among(UID, one(uid))
        case OwnerUids(first, last):
            return Among(UID, (first, last + 1))
        case OwnerGid(gid):
            return Among(GID, one(gid))
        case CtState(states):
            return state_condition(sorted(states))
        case Mark(value):
            return Among(MARK, one(value))
        case ConnMark(value):
            return Among(CONNMARK, one(value))
        case Limit(rate):
            return Untold(f"-m limit --limit {rate}")
        case _:
            assert_never(asked)


def asked_of(field: int, matches: Iterable[Match]) -> Iterator[Span]:
    """What these matches ask of a field: a span for each that asks for one."""
    for match in matches:
        for condition in conditions(match):
            if isinstance(condition, Among) and condition.field == field:
                yield condition.span


def owners_named(matches: Iterable[Match]) -> tuple[list[int], list[int]]:
    """The uids and gids by which these matches name an owner, or deny one; of a range both ends."""
    bare = [match.match if isinstance(match, Not) else match for match in matches if not isinstance(match, Dst)]
    if not bare:
        return [], []  # a list may have ten thousands of these
    uids, gids = ([end for s in asked_of(field, bare) for end in (s[0], s[-1] - 1)] for field in (UID, GID))
    return uids, gids


def interfaces(name: str) -> Span:
    """This interface, or all whose names begin so."""
    return (name[:-1], name[:-1] + LAST) if name.endswith("+") else one(name)


def addresses(network: Network) -> Span:
    first = int(network.network_address)
    return first, first + (1 << network.max_prefixlen - network.prefixlen)


def union(ranges: Iterable[Ports]) -> Span:
    return joined(sorted((ports.first, ports.last + 1) for ports in ranges))


def effect(target: Target) -> Effect:
    """What this target does to a packet that meets its rule."""
    match target:
        case Return() | Accept() | Drop() | Reject() | Jump() | Zone():
            return target
        case Redirect(port):
            return Bind(((None, one(port)),), is_here=True)
        case Dnat(address, port):
            return Bind(((one(int(address)), one(port)),))
        case Tproxy(port, mark):
            return Hand(port, 0, mark)
        case SetMark(value):
            return Remark(MARK, 0, 0, value)
        case SaveMark():
            return Remark(CONNMARK, 0, WHOLE, 0)
        case RestoreMark():
            return Remark(MARK, 0, WHOLE, 0)
        case Log() | Nflog():
            return Nothing()
        case ForeignTarget(text):
            known = _foreign_targets.get(text)
            if known is None:
                known = _foreign_targets[text] = target_meaning(tokens(text))
            return known
        case NativeTarget(done, _):
            return done
        case _:
            assert_never(target)


_foreign_targets: dict[str, Effect] = {}
