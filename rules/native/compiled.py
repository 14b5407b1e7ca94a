"""From the rules that are planned to those of our own table: what is alike becomes one rule with a set."""

from __future__ import annotations

from rules.iptables.writing import NFT_WORDS
from rules.meaning.spoken import addresses, conditions
from rules.native.words import OWNERS, intervals, match_of, rule_words
from rules.netfilter.fields import DESTINATION, DPORT, GID, PROTOCOL, SOURCE, SPORT, U32, UID, Among
from rules.netfilter.matches import Dst, Limit
from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
from rules.netfilter.spans import common, joined
from rules.netfilter.targets import Accept, Dnat, Drop, Jump, Redirect, Reject, Return, Tproxy, Zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from rules.lists.networks import Networks
    from rules.netfilter.matches import Match
    from rules.netfilter.spans import Span
    from rules.netfilter.values import Family

    Asked: TypeAlias = Mapping[int, Span]
    """What a rule asks of each field."""

MERGED = (DESTINATION, SOURCE, DPORT, SPORT, UID, GID, PROTOCOL)
"""The fields of which several values become a set."""
TWICE_IS_ONCE = (Return, Accept, Drop, Jump, Redirect, Dnat, Reject, Zone)
"""The targets that do the same to a packet, whether one of several rules has them or the first of these."""
NOBODY_LISTENS = "nobody listens where inbound TCP is to go"


def as_held(backend: str, planned: Ruleset) -> Ruleset:
    """What is planned, as this backend is to hold it."""
    return compiled(planned) if backend == "native" else planned


def compiled(planned: Ruleset) -> Ruleset:
    """What our own table is to hold for what is planned for iptables: the same for every packet that has an owner.

    In nf_tables a rule that asks for an owner stops where a packet has none, also if it asks for any other one. And its
    `tproxy` passes on what nobody listens for, which TPROXY of iptables drops; so it is dropped here as well.
    """
    return planned.but(tables=tuple(of_table(table, planned.family) for table in planned.tables))


def of_table(table: TableRules, family: Family) -> TableRules:
    blocks = (Block(chain, tuple(of_chain(rules, table.table, family))) for chain, rules in table.chains().items())
    return table.but(blocks=tuple(block for block in blocks if block.rules))


def of_chain(rules: Sequence[Rule], table: str, family: Family) -> Iterator[Rule]:
    """The rules of a chain: of neighbours that do the same for the same reason, as few as may be."""
    if isinstance(rules, tuple):
        yield from of_some(rules, table, family)
        return
    from rules.lists.long import Made, parts_of
    from rules.lists.networks import Networks

    for part in parts_of(rules):
        if isinstance(part, Made) and isinstance(part.items, Networks):
            yield from of_networks(next(part.anew()), part.items, table, family)
        else:
            yield from of_some(part, table, family)


def of_networks(first: Rule, networks: Networks, table: str, family: Family) -> Iterator[Rule]:
    """The rule for all of these networks in the place of the one that the first of such rules asks for."""
    from rules.lists.networks import ends

    asked, _ = asked_of(first)
    field = DESTINATION if any(isinstance(match, Dst) for match in first.matches) else SOURCE
    asked[field] = joined(sorted(map(ends, networks.codes)))
    yield with_words(first.but(matches=tuple(match_of(*each, family) for each in asked.items())), table, family)


def of_some(rules: Sequence[Rule], table: str, family: Family) -> Iterator[Rule]:
    """The same for rules one by one."""
    for run in runs(rules):
        first = run[0]
        for asked, limits in merged([asked_of(rule) for rule in run], first):
            matches = (*(match_of(field, span, family) for field, span in asked.items()), *limits)
            yield with_words(first.but(matches=matches), table, family)
            if isinstance(first.target, Tproxy):
                dropped = first.but(matches=matches, target=Drop(), why=NOBODY_LISTENS)
                yield with_words(dropped, table, family)


def with_words(rule: Rule, table: str, family: Family) -> Rule:
    """The rule, which reads as nft has it."""
    return rule.but(text=f"{NFT_WORDS}{rule_words(rule, table, family)}")


def runs(rules: Sequence[Rule]) -> Iterator[list[Rule]]:
    """Neighbours that have target, reason and setting in common."""
    run: list[Rule] = []
    for rule in rules:
        if run and (rule.target, rule.why, rule.setting) != (run[0].target, run[0].why, run[0].setting):
            yield run
            run = []
        run.append(rule)
    if run:
        yield run


def asked_of(rule: Rule) -> tuple[dict[int, Span], tuple[Match, ...]]:
    """What a rule asks of each field, and its limits."""
    asked: dict[int, Span] = {}
    limits = []
    for match in rule.matches:
        if isinstance(match, Dst) and DESTINATION not in asked:  # a list may have ten thousands of these
            asked[DESTINATION] = addresses(match.network)
            continue
        if isinstance(match, Limit):
            limits.append(match)
            continue
        for condition in conditions(match):
            if not isinstance(condition, Among):
                raise TypeError(f"not planned by us: {match!r}")
            span = common(condition.span, U32) if condition.field in OWNERS else condition.span
            before = asked.get(condition.field)
            asked[condition.field] = span if before is None else common(before, span)
    return asked, tuple(limits)


def merged(
    run: Sequence[tuple[dict[int, Span], tuple[Match, ...]]], first: Rule
) -> Iterable[tuple[Asked, tuple[Match, ...]]]:
    """The same with as few rules, where it does not matter which of them decides."""
    if len(run) == 1 or not isinstance(first.target, TWICE_IS_ONCE) or any(limits for _, limits in run):
        return run
    fields = next(iter(run))[0].keys()
    if len(fields) == 1 and all(asked.keys() == fields for asked, _ in run):
        (field,) = fields
        return [({field: united_by(field, (asked for asked, _ in run))}, ())] if field in MERGED else run
    left: list[dict[int, Span]] = [asked for asked, _ in run]
    for field in MERGED:
        left = merged_by(left, field)
    return [(asked, ()) for asked in left]


def merged_by(run: Sequence[dict[int, Span]], field: int) -> list[dict[int, Span]]:
    """Those that differ in this field alone become one."""
    alike: dict[object, list[dict[int, Span]]] = {}
    for at, asked in enumerate(run):
        rest = frozenset(each for each in asked.items() if each[0] != field)
        alike.setdefault((rest, None) if field in asked else (rest, at), []).append(asked)
    found = []
    for those in alike.values():
        if len(those) == 1:
            found.append(those[0])
        else:
            found.append({**those[0], field: united_by(field, those)})
    return found


def united_by(field: int, those: Iterable[Asked]) -> Span:
    """What any of these asks of this field."""
    return joined(sorted(interval for each in those for interval in intervals(each[field])))
