"""From every match to conditions, and from every target to effects: the one place that looks into either.

A new match or target is taught here, and is then known to the simulator, to attribution and to the sets of packets.
"""

from __future__ import annotations

from rules.iptables.quoting import tokens
from rules.meaning.foreign import WHOLE, match_meaning, state_condition, target_meaning
from rules.netfilter import effects as e
from rules.netfilter import fields as f
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.spans import joined, one
from rules.netfilter.values import family_of
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.spans import Span
    from rules.netfilter.values import Network, Ports


def conditions(asked: m.Match) -> tuple[f.Condition, ...]:
    """What this match asks for: all of these hold exactly where it does."""
    match asked:
        case m.Not(inner):
            version = {}
            if isinstance(inner, m.Src | m.Dst):
                family = family_of(inner.network)
                version = {f.SOURCE: f.domain(f.SOURCE, family), f.DESTINATION: f.domain(f.DESTINATION, family)}
            return f.opposite((plain(inner),), version)
        case m.Foreign(text):
            known = _foreign.get(text)
            if known is None:
                known = _foreign[text] = match_meaning(tokens(text))
            return known
        case m.Native(asked_natively, _):
            return asked_natively
        case _:
            return (plain(asked),)


_foreign: dict[str, tuple[f.Condition, ...]] = {}


def plain(asked: m.Plain) -> f.Condition:
    """The same for a match that we speak, as it stands."""
    match asked:
        case m.Proto(name):
            number = int(name) if name.isdigit() else f.PROTOCOLS.get(name)
            return f.Untold(f"-p {name}") if number is None else f.Among(f.PROTOCOL, one(number))
        case m.Src(network):
            return f.Among(f.SOURCE, addresses(network))
        case m.Dst(network):
            return f.Among(f.DESTINATION, addresses(network))
        case m.InIface(name):
            return f.Among(f.ARRIVED_ON, interfaces(name))
        case m.OutIface(name):
            return f.Among(f.LEAVES_ON, interfaces(name))
        case m.DPort(ports):
            return f.Among(f.DPORT, union([ports]))
        case m.SPort(ports):
            return f.Among(f.SPORT, union([ports]))
        case m.DPorts(ranges):
            return f.Among(f.DPORT, union(ranges))
        case m.OwnerUid(uid):
            return f.Among(f.UID, one(uid))
        case m.OwnerUids(first, last):
            return f.Among(f.UID, (first, last + 1))
        case m.OwnerGid(gid):
            return f.Among(f.GID, one(gid))
        case m.CtState(states):
            return state_condition(sorted(states))
        case m.Mark(value):
            return f.Among(f.MARK, one(value))
        case m.ConnMark(value):
            return f.Among(f.CONNMARK, one(value))
        case m.Limit(rate):
            return f.Untold(f"-m limit --limit {rate}")
        case _:
            assert_never(asked)


def asked_of(field: int, matches: Iterable[m.Match]) -> Iterator[Span]:
    """What these matches ask of a field: a span for each that asks for one."""
    for match in matches:
        for condition in conditions(match):
            if isinstance(condition, f.Among) and condition.field == field:
                yield condition.span


def owners_named(matches: Iterable[m.Match]) -> tuple[list[int], list[int]]:
    """The uids and gids by which these matches name an owner, or deny one; of a range both ends."""
    bare = [match.match if isinstance(match, m.Not) else match for match in matches if not isinstance(match, m.Dst)]
    if not bare:
        return [], []  # a list may have ten thousands of these
    uids, gids = ([end for s in asked_of(field, bare) for end in (s[0], s[-1] - 1)] for field in (f.UID, f.GID))
    return uids, gids


def interfaces(name: str) -> Span:
    """This interface, or all whose names begin so."""
    return (name[:-1], name[:-1] + f.LAST) if name.endswith("+") else one(name)


def addresses(network: Network) -> Span:
    first = int(network.network_address)
    return first, first + (1 << network.max_prefixlen - network.prefixlen)


def union(ranges: Iterable[Ports]) -> Span:
    return joined(sorted((ports.first, ports.last + 1) for ports in ranges))


def effect(target: t.Target) -> e.Effect:
    """What this target does to a packet that meets its rule."""
    match target:
        case t.Return() | t.Accept() | t.Drop() | t.Reject() | t.Jump() | t.Zone():
            return target
        case t.Redirect(port):
            return e.Bind(((None, one(port)),), is_here=True)
        case t.Dnat(address, port):
            return e.Bind(((one(int(address)), one(port)),))
        case t.Tproxy(port, mark):
            return e.Hand(port, 0, mark)
        case t.SetMark(value):
            return e.Remark(f.MARK, 0, 0, value)
        case t.SaveMark():
            return e.Remark(f.CONNMARK, 0, WHOLE, 0)
        case t.RestoreMark():
            return e.Remark(f.MARK, 0, WHOLE, 0)
        case t.Log() | t.Nflog():
            return e.Nothing()
        case t.ForeignTarget(text):
            known = _foreign_targets.get(text)
            if known is None:
                known = _foreign_targets[text] = target_meaning(tokens(text))
            return known
        case t.NativeTarget(done, _):
            return done
        case _:
            assert_never(target)


_foreign_targets: dict[str, e.Effect] = {}
