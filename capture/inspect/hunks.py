"""What a run would change, as a unified diff of each chain: what is live, and what is planned.

The rules of others in built-in chains are context, so that the place of our jumps among them can be seen. Which lines
stay is found by `rules.live.drift.aligned`, in a time that grows with the length of a chain and little more.
"""

from __future__ import annotations

from functools import partial

from capture.iptables.iptables import BACKENDS, Iptables
from rules.iptables.writing import rule_text
from rules.live.changes import ALONE, placed
from rules.live.drift import Kind, aligned
from rules.native.compiled import as_held
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import BUILT_IN, Family
from rules.ours.recognition import is_our_rule, is_ours, recognised
from rules.plan.names import OURS
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Literal, TypeAlias

    from capture.inspect.verify import Comparison, Verdict
    from capture.iptables.iptables import Backend
    from rules.live.changes import Company
    from rules.live.drift import Finding
    from rules.netfilter.rulesets import Rule, TableRules

    Op: TypeAlias = Literal[" ", "-", "+"]
    Change: TypeAlias = Literal["changed", "made", "removed"]

CONTEXT = 3
"""Rules shown around a change."""


class Line(Value):
    """A rule, ip rule, route or address that stays, goes or comes."""

    op: Op
    """A space: it stays; -: it goes; +: it comes."""
    text: str
    """A rule as iptables-save writes it; anything else as ip(8) lists it."""
    why: str = ""
    """What it is for, where the plan tells."""


class Hunk(Value):
    """Changes that stand together, with context around them. Starts count from 1; 0 where nothing is."""

    live_start: int
    """The position of its first live rule."""
    live_count: int
    """How many live rules it shows."""
    planned_start: int
    """The position that its first rule will have."""
    planned_count: int
    """How many rules there will be."""
    lines: tuple[Line, ...]
    """In order."""


class ChainDiff(Value):
    """What a run would change in one chain."""

    backend: Backend
    """nft or legacy, of iptables; or native, our own tables."""
    family: Family
    """Whose table it is."""
    table: str
    """raw, mangle, nat or filter."""
    chain: str
    """A chain of ours, or a built-in one, in which the rules of others are context."""
    change: Change
    """Whether the chain stays, comes or goes."""
    hunks: tuple[Hunk, ...]
    """In order; none for a chain that comes or goes empty."""


class Diff(Value):
    """What `capture diff` shows."""

    verdict: Verdict
    """as planned: exit status 0. differs: 4. nothing: nothing of ours is here, 3."""
    backend: str
    """The backend of iptables that a run would use."""
    chains: tuple[ChainDiff, ...]
    """Each chain that a run would change, by backend, family and table."""
    ip: tuple[Line, ...]
    """The ip rules, routes and addresses that would come or go."""
    beyond_repair: tuple[Finding, ...]
    """What keeps traffic from being captured and is not ours to change."""


def diff(comparison: Comparison) -> Diff:
    """What a run would change, and what it cannot."""
    beyond = (each for each in comparison.findings if not each.repaired_by_rerun)
    return Diff(
        comparison.verdict,
        comparison.backend,
        tuple(chain_diffs(comparison)),
        tuple(other_lines(comparison)),
        tuple(beyond),
    )


def chain_diffs(comparison: Comparison) -> Iterator[ChainDiff]:
    """Each chain that a run would change, in the backend that is used and in the other."""
    wanted = {ruleset.family: ruleset for ruleset in comparison.planned.rulesets}
    for backend in sorted(BACKENDS, key=lambda backend: backend != comparison.backend):
        for family in Family:
            live = comparison.live.saved(Iptables(backend, family)).ruleset
            planned = as_held(backend, wanted[family]) if backend == comparison.backend else Ruleset(family)
            yield from of_ruleset(backend, live, planned, comparison.live.company(ours_first=comparison.ours_first))


def of_ruleset(backend: Backend, live: Ruleset, planned: Ruleset, company: Company = ALONE) -> Iterator[ChainDiff]:
    live = recognised(live, planned)
    for name in dict.fromkeys([*OURS, *(table.table for table in planned.tables)]):
        there, planned_table = live.table(name), planned.table(name)
        now, wanted = there.chains(), planned_table.chains()
        chains = dict.fromkeys((*wanted, *now))
        for chain in sorted(chains, key=lambda chain: chain not in BUILT_IN[name]):
            before = now.get(chain, ())
            if there.is_built_in(chain):
                after = placed(there, chain, planned, company)
            elif not (chain in wanted or is_ours(there, chain)):
                continue
            else:
                after = wanted.get(chain, ())
            stands, comes = (there.is_built_in(chain) or chain in chains for chains in (now, wanted))
            if before != after or stands != comes:
                change: Change = "changed" if stands and comes else "made" if comes else "removed"
                shown = hunks(chain, before, after, partial(stays, there, chain))
                yield ChainDiff(backend, live.family, name, chain, change, tuple(shown))


def stays(table: TableRules, chain: str, rule: Rule) -> bool:
    """In a built-in chain nothing but what is ours is ever moved; in a chain of ours every rule may go."""
    return table.is_built_in(chain) and not is_our_rule(table, chain, rule)


def hunks(chain: str, now: Sequence[Rule], wanted: Sequence[Rule], is_kept: Callable[[Rule], bool]) -> Iterator[Hunk]:
    """The changes from one list of rules to the other, those that are near each other together."""
    lines: list[tuple[int, int, Line]] = []
    at = place = 0
    for live_at, planned_at in [*staying(now, wanted, is_kept), (len(now), len(wanted))]:
        lines += ((gone, place, line("-", chain, now[gone])) for gone in range(at, live_at))
        lines += ((live_at, new, line("+", chain, wanted[new])) for new in range(place, planned_at))
        if live_at < len(now):
            lines.append((live_at, planned_at, line(" ", chain, wanted[planned_at])))
        at, place = live_at + 1, planned_at + 1
    together: list[tuple[int, int]] = []
    for number, (_, _, shown) in enumerate(lines):
        if shown.op == " ":
            continue
        if together and number - together[-1][1] <= 2 * CONTEXT:
            together[-1] = (together[-1][0], number)
        else:
            together.append((number, number))
    for first, last in together:
        yield hunk(lines[max(first - CONTEXT, 0) : last + CONTEXT + 1])


def staying(now: Sequence[Rule], wanted: Sequence[Rule], is_kept: Callable[[Rule], bool]) -> Iterator[tuple[int, int]]:
    """The indices of the rules that no run touches: all of which that is told, and of the others as many as can."""
    anchors = zip(
        [at for at, rule in enumerate(now) if is_kept(rule)],
        [at for at, rule in enumerate(wanted) if is_kept(rule)],
        strict=True,
    )
    at = place = 0
    for live_at, planned_at in [*anchors, (len(now), len(wanted))]:
        for one, other in aligned(now[at:live_at], wanted[place:planned_at]):
            yield at + one, place + other
        if live_at < len(now):
            yield live_at, planned_at
        at, place = live_at + 1, planned_at + 1


def hunk(lines: Sequence[tuple[int, int, Line]]) -> Hunk:
    live = sum(shown.op != "+" for _, _, shown in lines)
    planned = sum(shown.op != "-" for _, _, shown in lines)
    at, place, _ = lines[0]
    shown = tuple(shown for _, _, shown in lines)
    return Hunk(at + 1 if live else at, live, place + 1 if planned else place, planned, shown)


def line(op: Op, chain: str, rule: Rule) -> Line:
    text = rule_text(rule)
    return Line(op, f"-A {chain} {text}" if text else f"-A {chain}", rule.why)


def other_lines(comparison: Comparison) -> Iterator[Line]:
    """The ip rules, routes and addresses that come or go."""
    for each in comparison.findings:
        if not each.chain:
            comes = each.kind in (Kind.IP_RULE_MISSING, Kind.ROUTE_MISSING, Kind.ADDRESS_MISSING)
            yield Line("+" if comes else "-", each.rule, each.why)
