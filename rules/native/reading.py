"""Our own tables, from the messages in which the kernel tells of them, in the matches and targets that we speak."""

from __future__ import annotations

from rules.addresses import IPv4Address, IPv6Address
from rules.iptables.writing import NFT_WORDS
from rules.meaning.foreign import WHOLE
from rules.native.names import TABLE, hooked, place_of
from rules.native.words import LIMIT_BURST, match_of, rule_words
from rules.netfilter import matches as m
from rules.netfilter.effects import Bind, Hand, Nothing, Remark, Then
from rules.netfilter.fields import CONNMARK, MARK, Among, Untold
from rules.netfilter.hooks import NAME
from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
from rules.netfilter.spans import common, single
from rules.netfilter.targets import (
    Accept,
    Dnat,
    Jump,
    Log,
    NativeTarget,
    Nflog,
    Redirect,
    Reject,
    RestoreMark,
    SaveMark,
    SetMark,
    Tproxy,
    Zone,
)
from rules.netfilter.values import BUILT_IN, Family
from rules.nftables.messages import attributes, family_of, number, text
from rules.nftables.program import Reader
from rules.nftables.tables import base_chains, dormant_tables, expressions, names_of
from rules.plan.names import OURS
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rules.netfilter.effects import Effect
    from rules.netfilter.spans import Span
    from rules.netfilter.targets import Target
    from rules.nftables.messages import Dump, Expression


class Own(Value):
    """Our own table of one family, as it is."""

    ruleset: Ruleset
    counts: Mapping[tuple[str, str, int], tuple[int, int]]
    """Packets and bytes of each rule that has a counter, by table of iptables, chain, and place from 1."""
    is_in_our_words: bool = True
    """Whether we would write all of it as it is: each rule with a counter and without a set that has a name, and no
    base chain without rules, of which a ruleset does not tell."""


def own(dump: Dump, family: Family) -> Own | None:
    """Our own table of this family; None if it is not there, or is not what we make, so that it has to be made anew.

    That is where it is dormant, or has a chain that is none of ours, or a base chain that is hooked in elsewhere.
    """
    name = NAME[family]
    ours = (name, TABLE)
    if ours not in names_of(dump.tables, dump.order, 1) or ours in dormant_tables(dump.tables, dump.order):
        return None
    named = names_of(dump.chains, dump.order, 1, 3)
    chains = {place_of(chain): chain for *of, chain in named if tuple(of) == ours}
    bases = {
        chain.name: (chain.kind, chain.hook, chain.priority)
        for chain in base_chains(dump.chains, dump.order)
        if (chain.family, chain.table, chain.drops) == (*ours, False)
    }
    for place, chain in chains.items():
        if place is None or bases.get(chain) != (hooked(*place) if place[1] in BUILT_IN[place[0]] else None):
            return None
    return read(dump, family, [place for place in chains if place])


def read(dump: Dump, family: Family, places: Sequence[tuple[str, str]]) -> Own:
    reader = Reader(dump, family)
    held: dict[tuple[str, str], list[Rule]] = {place: [] for place in places}
    counts: dict[tuple[str, str, int], tuple[int, int]] = {}
    known: dict[bytes, Expression] = {}
    is_ours = True
    for message in dump.rules:
        if family_of(message) != NAME[family]:
            continue
        told = dict(attributes(message[4:], dump.order))
        place = place_of(text(told.get(2))) if text(told.get(1)) == TABLE else None
        if place in held:
            steps = expressions(told.get(4, b""), dump.order, known)
            made = rule(reader, place[0], steps, comment(told.get(7, b"")), family)
            held[place].append(made)
            counted = next((each for kind, each in steps if kind == "counter"), None)
            if counted:
                counts[*place, len(held[place])] = number(counted.get(2)), number(counted.get(1))
            sets = (text(each.get(1)) for kind, each in steps if kind == "lookup")
            is_ours &= bool(counted) and made.text.startswith(NFT_WORDS) and all(map(is_anonymous, sets))
    tables = []
    for table in OURS:
        chains = {chain: tuple(rules) for (of, chain), rules in held.items() if of == table}
        if chains:
            declared = tuple(chain for chain in chains if chain not in BUILT_IN[table])
            tables.append(TableRules(table, declared, tuple(Block(*each) for each in chains.items() if each[1])))
    is_ours &= all(rules or chain not in BUILT_IN[table] for (table, chain), rules in held.items())
    return Own(Ruleset(family, tuple(tables)), counts, is_ours)


def is_anonymous(name: str) -> bool:
    """Whether nft made this set for one rule (`__set%d`, and `__map%d`, are its templates for the kernel)."""
    return name.startswith("__")


def comment(userdata: bytes) -> str:
    """The comment of a rule (libnftnl's udata: type, length, value; a comment has the type 0 and ends with a zero)."""
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == 0:
            return text(userdata[at + 2 : at + 2 + length])
        at += 2 + length
    return ""


def rule(reader: Reader, table: str, steps: Sequence[Expression], why: str, family: Family) -> Rule:
    """A rule, in matches and targets that we speak as far as it is one that we write; else as what others wrote."""
    native = reader.rule(NAME[family], TABLE, steps)
    target = target_of(native.target, steps, table, family)
    matches = matches_of(native, steps, family)
    if target is None or matches is None:
        return native.but(why=why)
    found = Rule(matches, target, why)
    return found.but(text=f"{NFT_WORDS}{rule_words(found, table, family)}")


def matches_of(native: Rule, steps: Sequence[Expression], family: Family) -> tuple[m.Match, ...] | None:
    asked: dict[int, Span] = {}
    limits = 0
    for match in native.matches:
        for condition in match.conditions if isinstance(match, m.Native) else ():
            match condition:
                case Among(field, span):
                    asked[field] = common(asked[field], span) if field in asked else span
                case Untold("limit"):
                    limits += 1
                case _:
                    return None
    said = [limit for limit in (limit_of(read) for kind, read in steps if kind == "limit") if limit]
    if len(said) != limits:
        return None
    return (*(match_of(field, span, family) for field, span in asked.items()), *said)


def limit_of(read: Mapping[int, bytes]) -> m.Limit | None:
    """Packets in a second, with the burst of iptables (NFTA_LIMIT_*)."""
    rate, unit, burst, kind, flags = (number(read.get(key)) for key in range(1, 6))
    return m.Limit(f"{rate}/sec") if (unit, burst, kind, flags) == (1, LIMIT_BURST, 0, 0) else None


def target_of(target: Target, steps: Sequence[Expression], table: str, family: Family) -> Target | None:
    match target:
        case Jump(chain):
            place = place_of(chain)
            return Jump(place[1]) if place and place[0] == table else None
        case NativeTarget(Reject()):
            return reject_of(steps[-1][1], family)
        case NativeTarget(Nothing()) if steps and steps[-1][0] == "log":
            return log_of(steps[-1][1])
        case NativeTarget(effect):
            return target_for(effect, family)
        case _:
            return target


def target_for(effect: Effect, family: Family) -> Target | None:
    """The target that does this and no more."""
    match effect:
        case Bind(((None, ports),), True) if ports and single(ports):
            return Redirect(ports[0])
        case Bind(((addresses, ports),), False) if addresses and ports and single(addresses) and single(ports):
            return Dnat(address_of(addresses[0], family), ports[0])
        case Then(Hand(port), (), Then(Remark(onto, 0, 0, mark), (), Accept())) if onto == MARK:
            return Tproxy(port, mark)
        case Zone():
            return effect
        case Remark(onto, 0, 0, mark) if onto == MARK:
            return SetMark(mark)
        case Remark(onto, 0, taken, 0) if taken == WHOLE:
            return SaveMark() if onto == CONNMARK else RestoreMark()
        case _:
            return None


def address_of(number: int, family: Family) -> IPv4Address | IPv6Address:
    return IPv4Address(number) if family is Family.V4 else IPv6Address(number)


def reject_of(read: Mapping[int, bytes], family: Family) -> Reject | None:
    """The answer of a `reject` (NFTA_REJECT_TYPE and _ICMP_CODE), by iptables' name of it, if it is one of ours."""
    kind, code = number(read.get(1)), number(read.get(2))
    if kind == TCP_RESET:
        return Reject("tcp-reset")
    return Reject(UNREACHABLE[family][1]) if (kind, code) == (0, UNREACHABLE[family][0]) else None


def log_of(read: Mapping[int, bytes]) -> Log | Nflog | None:
    """NFTA_LOG_GROUP, _PREFIX and _FLAGS."""
    prefix = text(read.get(2))
    if 1 in read:
        return Nflog(number(read[1]), prefix)
    return Log(prefix) if number(read.get(6)) == LOG_UID else None


TCP_RESET, LOG_UID = 1, 0x08
"""NFT_REJECT_TCP_RST of nf_tables.h, and NF_LOG_UID of nf_log.h."""
UNREACHABLE = {Family.V4: (3, "icmp-port-unreachable"), Family.V6: (4, "icmp6-port-unreachable")}
"""The code of a port that cannot be reached (ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH)."""
