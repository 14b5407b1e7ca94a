"""What becomes of every packet that a ruleset can see: which rules can be met, and whether two rulesets differ at all.

A walk sends all packets at once through a table, as boxes (see `rules.analysis.boxes`). A rule that no packet meets
can be deleted; two rulesets with the same outcomes do the same, however differently they read.
"""

from __future__ import annotations

from rules.analysis.boxes import FEW, box_of, everything, fewer, outside, overlap, remainder
from rules.meaning.lists import Members, lists, those_met
from rules.meaning.spoken import effect
from rules.netfilter import effects as e
from rules.netfilter.fields import CONNMARK, MARK, U32
from rules.netfilter.spans import of_any
from rules.netfilter.spans import one as single
from rules.netfilter.targets import Accept, Drop, Jump, Reject, Return, Zone
from rules.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, TypeAlias, TypeVar

    from rules.analysis.boxes import Box
    from rules.meaning.lists import List
    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule, Ruleset, TableRules
    from rules.netfilter.spans import Span
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Family
    from rules.plan.plan import Plan

    Done: TypeAlias = tuple[Target, tuple[Match, ...]]
    """What was done to a packet on its way, with the matches of which it is not known whether they held."""
    T = TypeVar("T")
    Moving: TypeAlias = tuple[Box, tuple[Done, ...]]
    LookedInto: TypeAlias = tuple[int, Rule, Box | None, tuple[Match, ...], tuple[e.Effect, ...]]
    """A rule with its position, the packets it asks for, the matches that no box can tell, and all that it may do."""

MOST_BOXES = 2000
"""Boxes that a walk carries along. With more it stops being exact, and says so."""


MOST_TAKERS = 64
"""Rules that are tried one by one whether they are needed to take what another rule asks for."""


class Outcome(Value):
    """What a table does to a packet in the end."""

    verdict: Target | None
    """None: no rule decided, so the policy does."""
    remarks: tuple[Done, ...] = ()

    @property
    def captures(self) -> bool:
        """Whether it goes somewhere else than it was sent, or to a transparent listener."""
        return self.verdict is not None and isinstance(effect(self.verdict), e.Bind | e.Hand)


class Unmet(Value):
    """A rule that no packet can meet."""

    table: str
    chain: str
    position: int
    """Counted from 1, as iptables -L --line-numbers does."""
    rule: Rule
    by: tuple[int, ...]
    """The positions of the rules of this chain that take before it what it asks for; empty if nothing of that kind
    comes to this chain at all."""


class Asked:
    """What the rules of one table ask for, those of a list together."""

    def __init__(self, table: TableRules, family: Family) -> None:
        self.chains = table.chains()
        self.of: dict[str, tuple[tuple[List, Box | None, tuple[Match, ...]], ...]] = {
            chain: tuple((each, *box_of(each.rule.matches, family)) for each in lists(rules))
            for chain, rules in self.chains.items()
        }
        """Each list, or rule, with what it asks for, and what of that no box can tell."""
        self.members: dict[tuple[str, int], Members] = {}

    def taking(self, chain: str, wanted: Box) -> Iterator[tuple[int, Box]]:
        """The rules of a chain, by their places, that take what they ask for, and ask for some of this."""
        for number, (its, box, untold) in enumerate(self.of[chain]):
            if box is None or untold or not decides(its.rule.target) or overlap(wanted, box) is None:
                continue
            if not its.spans:
                yield its.places[0], box
                continue
            if (chain, number) not in self.members:
                self.members[chain, number] = Members(its.spans)
            for each in self.members[chain, number].of(wanted[its.field]):
                yield its.places[each], (*box[: its.field], its.spans[each], *box[its.field + 1 :])


class Walk:
    """All packets, or some, sent through the built-in chains of one table, or into one chain."""

    def __init__(self, table: TableRules, family: Family, some: Iterable[Box] | None = None, into: str = "") -> None:
        self.family = family
        self.asked = asked_by(table, family)
        self.chains = self.asked.chains
        self.met: set[tuple[str, int]] = set()
        self.comes_back: set[tuple[str, int]] = set()
        """The jumps from which some packets come back undecided."""
        self.entered: dict[str, list[Box]] = {}
        """The chains that packets came to, and which."""
        self.exact = True
        self.outcomes: dict[str, dict[Outcome, list[Box]]] = {}
        """For each built-in chain that has rules, or for the one into which they are sent."""
        for chain in [into] if into else filter(table.is_built_in, self.chains):
            self.decided = self.outcomes.setdefault(chain, {})
            full = everything(family, chain)
            boxes = [full] if some is None else [both for box in some if (both := overlap(box, full)) is not None]
            for box, remarks in self.enter(chain, [(box, ()) for box in boxes], ()):
                self.decided.setdefault(Outcome(None, remarks), []).append(box)
        self.aside = frozenset(chain for chain in self.chains if chain not in self.entered)
        """Chains that nothing comes to."""

    def enter(self, chain: str, coming: list[Moving], callers: tuple[str, ...]) -> list[Moving]:
        """What comes back undecided of the packets that enter this chain."""
        self.entered.setdefault(chain, []).extend(box for box, _ in coming)
        back: list[Moving] = []
        if chain in callers or chain not in self.chains:
            return coming
        few = len(coming)
        for its, box, untold in self.asked.of[chain]:
            if len(coming) > 2 * few + FEW:
                coming = gathered(coming)
                few = len(coming)
            hit, missed = self.split(coming, box)
            if not hit:
                continue
            at = self.met_by(chain, its, hit)
            done = list(self.follow(its.rule, chain, at, hit, untold, back, callers))
            # A match that a box cannot tell may hold or not: whoever it is asked about goes on as well.
            coming = (missed if not untold else [*missed, *remarked(hit, its.rule.target, untold)]) + done
            if not coming:
                break
        return gathered(back + coming) if len(back) + len(coming) > 2 * few + FEW else back + coming

    def met_by(self, chain: str, asked: List, hit: list[Moving]) -> list[tuple[str, int]]:
        """The places of those rules of a list that these packets meet."""
        places: Iterable[int] = asked.places
        if asked.spans:
            coming = of_any([box[asked.field] for box, _ in hit])
            places = (asked.places[each] for each in those_met(asked.spans, coming))
        found = [(chain, at) for at in places]
        self.met.update(found)
        return found

    def split(self, coming: list[Moving], box: Box | None) -> tuple[list[Moving], list[Moving]]:
        """Those that a rule asks for, and the others."""
        hit: list[Moving] = []
        missed: list[Moving] = []
        for its, remarks in coming:
            inside = overlap(its, box) if box is not None else None
            if box is None or inside is None:
                missed.append((its, remarks))
            else:
                hit.append((inside, remarks))
                missed += ((piece, remarks) for piece in outside(its, box))
        if len(missed) > MOST_BOXES:
            self.exact = False
            return hit, coming
        return hit, missed

    def follow(
        self,
        rule: Rule,
        chain: str,
        at: list[tuple[str, int]],
        hit: list[Moving],
        untold: tuple[Match, ...],
        back: list[Moving],
        callers: tuple[str, ...],
    ) -> Iterator[Moving]:
        """Do to these packets what the rule says. The result is those that go on to the next rule of the chain."""
        does = effect(rule.target)
        if untold and not isinstance(does, Jump):
            return
        match does:
            case Return():
                back += hit
            case Jump(name):
                returning = self.enter(name, hit, (*callers, chain))
                if returning:
                    self.comes_back.update(at)
                if not untold:
                    yield from returning
            case Accept() | Drop() | Reject() | e.Bind() | e.BindSource() | e.Hand(accepts=True):
                for box, remarks in hit:
                    self.decided.setdefault(Outcome(rule.target, remarks), []).append(box)
            case e.Remark(onto, keep, taken, flip):
                yield from remarked(with_field(hit, onto, U32 if keep or taken else single(flip)), rule.target, untold)
            case e.Hand():
                yield from remarked(with_field(hit, MARK, U32), rule.target, untold)
            case e.Forget(onto):
                yield from remarked(with_field(hit, onto, U32), rule.target, untold)
            case Zone() | e.NoTrack() | e.Nothing() | e.Retag():
                yield from remarked(hit, rule.target, untold)
            case e.Goto() | e.Queue() | e.Choice() | e.Then() | e.Unknown():
                # Rules of others alone do one of several things, or what nobody knows.
                self.exact = False
                for each in e.first_of(does):
                    if isinstance(each, Jump | e.Goto):
                        self.enter(each.chain, hit, (*callers, chain))
                yield from remarked(hit, rule.target, untold)
            case _:
                assert_never(does)


MOST_KNOWN = 8
"""Tables of which it is remembered what they ask for, and what becomes of packets there."""
_asked: list[tuple[TableRules, Family, Asked]] = []
_walked: list[tuple[TableRules, Family, Walk]] = []


def asked_by(table: TableRules, family: Family) -> Asked:
    """What the rules of this table ask for; worked out once for all walks."""
    return once(_asked, Asked, table, family)


def walked(table: TableRules, family: Family) -> Walk:
    """All packets, sent through this table; worked out once for whoever asks several things about it."""
    return once(_walked, Walk, table, family)


def once(
    known: list[tuple[TableRules, Family, T]],
    work_out: Callable[[TableRules, Family], T],
    table: TableRules,
    family: Family,
) -> T:
    """What was worked out of this very table, or is now."""
    for its_table, its_family, found in known:
        if its_table is table and its_family is family:
            return found
    made = work_out(table, family)
    known.append((table, family, made))
    del known[:-MOST_KNOWN]
    return made


def gathered(moving: list[Moving]) -> list[Moving]:
    """The same packets in fewer boxes: what becomes of those with the same remarks is the same from here on."""
    alike: dict[tuple[Done, ...], list[Box]] = {}
    for box, remarks in moving:
        alike.setdefault(remarks, []).append(box)
    return [(box, remarks) for remarks, boxes in alike.items() for box in fewer(boxes)]


def with_field(moving: list[Moving], field: int, span: Span) -> list[Moving]:
    return [((*box[:field], span, *box[field + 1 :]), remarks) for box, remarks in moving]


def remarked(moving: list[Moving], target: Target, untold: tuple[Match, ...]) -> list[Moving]:
    """The same packets, to which this was done as well. Only the first zone that a packet is given counts."""
    added = (target, untold)
    return [
        (box, remarks)
        if isinstance(target, Zone) and any(isinstance(done, Zone) for done, _ in remarks)
        else (box, (*remarks, added))
        for box, remarks in moving
    ]


# --- rules that something may come to ---------------------------------------------------------------------

DEEPEST = 16
"""Chains that are followed into each other. The kernel refuses loops, and text from elsewhere may have one."""


class Reached(Value):
    """A rule that some packets may come to, and one of the things that it does to them."""

    rule: Rule
    chain: str
    position: int
    """In its chain, counted from 1."""
    first: int
    """The position of the rule by which they left the chain in which the walk began, or of this one in it."""
    is_first: bool
    """Whether it is in that chain."""
    does: e.Effect
    met: tuple[Match, ...]
    """All that they meet until then, this rule's matches included."""
    box: Box
    """Which packets those are, as far as a box can tell."""
    is_certain: bool
    """Whether it is done to all of the box, but for what earlier rules of the first chain took."""


class Reachable:
    """The rules of one table that packets may come to; each is looked into once, however many lead there.

    A node has a chain for each service, and many chains lead to a few.
    """

    def __init__(
        self,
        chains: Mapping[str, Sequence[Rule]],
        family: Family,
        matters: Callable[[e.Effect], bool] | None = None,
    ) -> None:
        """With `matters`, only rules are looked into that do what matters, lead to such a rule, or end a chain."""
        self.chains = chains
        self.family = family
        self.matters = matters
        self.done = {chain: [e.first_of(effect(rule.target)) for rule in rules] for chain, rules in chains.items()}
        self.entered = chains if matters is None else leading_to(self.done, matters)
        self.known: dict[str, list[LookedInto]] = {}
        self.answers: dict[object, Any] = {}
        """What was found of these chains, for whoever asks again."""

    def of(self, chain: str) -> list[LookedInto]:
        """The rules of this chain, looked into."""
        if chain not in self.known:
            rules = zip(self.chains.get(chain, ()), self.done.get(chain, ()), strict=True)
            self.known[chain] = [
                self.looked_into(position, rule, done)
                for position, (rule, done) in enumerate(rules, 1)
                if self.matters is None or any(map(self.counts, done))
            ]
        return self.known[chain]

    def counts(self, does: e.Effect) -> bool:
        """Whether a rule that does this matters to who asks."""
        if isinstance(does, Jump):
            return does.chain in self.entered
        return isinstance(does, Return | e.Goto) or self.matters is None or self.matters(does)

    def looked_into(self, position: int, rule: Rule, done: tuple[e.Effect, ...]) -> LookedInto:
        """What this rule asks for."""
        return (position, rule, *box_of(rule.matches, self.family), done)

    def reached(
        self, chain: str, asked: Sequence[LookedInto], coming: Box, path: tuple[Reached, ...] = ()
    ) -> Iterator[Reached]:
        """These rules of a chain and those below them that some of these packets may come to, as they are asked.

        Errs on the side of "may": what earlier rules took still counts. The kernel holds no loop of jumps, so no chain
        is entered from within itself.
        """
        is_certain = path[-1].is_certain if path else True
        met_before, first = (path[-1].met, path[0].position) if path else ((), 0)
        for position, rule, wanted, untold, all_done in asked:
            both = overlap(coming, wanted) if wanted is not None else None
            if both is not None:
                met = (*met_before, *rule.matches)
                certain = is_certain and not untold and len(all_done) == 1
                for does in all_done:
                    here = Reached(rule, chain, position, first or position, not path, does, met, both, certain)
                    yield here
                    if isinstance(does, Jump | e.Goto) and does.chain in self.entered:
                        above = (chain, *(each.chain for each in path))
                        if does.chain not in above and len(above) <= DEEPEST:
                            yield from self.reached(does.chain, self.of(does.chain), both, (*path, here))
            if path and any(isinstance(does, Return | e.Goto) for does in all_done):
                is_certain = False


def leading_to(done: Mapping[str, Sequence[tuple[e.Effect, ...]]], matters: Callable[[e.Effect], bool]) -> set[str]:
    """Of chains and what their rules do, those in which something is done that matters, or that lead to such a one."""
    callers: dict[str, list[str]] = {}
    found: dict[str, None] = {}
    for chain, of_rules in done.items():
        for does in (each for of_rule in of_rules for each in of_rule):
            if isinstance(does, Jump | e.Goto):
                callers.setdefault(does.chain, []).append(chain)
            elif matters(does):
                found[chain] = None
    waiting = list(found)
    for chain in waiting:
        new = [caller for caller in callers.get(chain, ()) if caller not in found]
        found |= dict.fromkeys(new)
        waiting += dict.fromkeys(new)
    return set(found)


# --- rules that nothing meets -----------------------------------------------------------------------------


def unmet(ruleset: Ruleset) -> Iterator[Unmet]:
    """The rules that no packet can meet, in the order of the text. Chains that nothing comes to are passed over."""
    for table in ruleset.tables:
        walk = walked(table, ruleset.family)
        for chain, rules in walk.chains.items():
            if chain not in walk.aside:
                for at, rule in enumerate(rules):
                    if (chain, at) not in walk.met:
                        yield Unmet(table.table, chain, at + 1, rule, takers(table, walk, chain, at))


def takers(table: TableRules, walk: Walk, chain: str, at: int) -> tuple[int, ...]:
    """The one rule before this one that takes all that it asks for; else those that take it together."""
    wanted, _ = box_of(walk.chains[chain][at].matches, walk.family)
    if wanted is None:
        return ()
    parts: dict[int, Box] = {}
    jumps: list[int] = []  # from which some packets come back, and others may not
    for before, box in sorted(walk.asked.taking(chain, wanted)):
        if before >= at:
            break
        shared = overlap(wanted, box)
        some_come_back = (chain, before) in walk.comes_back
        if shared == wanted and not some_come_back:
            return (before + 1,)
        if shared is not None and (chain, before) in walk.met:
            if some_come_back:
                jumps.append(before + 1)
            else:
                parts[before + 1] = box
    came = [both for arrived in walk.entered[chain] if (both := overlap(arrived, wanted)) is not None]
    for position in list(parts) if len(parts) <= MOST_TAKERS else ():
        others = [box for other, box in parts.items() if other != position]
        if remainder(came, others, MOST_BOXES) == []:
            del parts[position]
    left = remainder(came, parts.values(), MOST_BOXES) if jumps else None
    met = Walk(table, walk.family, left, into=chain).met if left else ()
    return tuple(sorted([*parts, *(position for position in jumps if (chain, position - 1) in met)]))


def decides(target: Target) -> bool:
    """Whether a packet that meets this target does not go on to the next rule, a jump that is not come back from
    included."""
    ends = Return | Accept | Drop | Jump | e.Goto | Reject | e.Bind | e.BindSource
    return all(
        isinstance(does, ends) or (isinstance(does, e.Hand) and does.accepts) for does in e.first_of(effect(target))
    )


# --- rulesets that do the same ----------------------------------------------------------------------------


class Outcomes:
    """What becomes of every packet under one plan, to be compared with others. Worked out where it is asked for."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned

    def same_as(self, other: Plan) -> bool:
        """Whether no packet fares differently under the other plan. In doubt it does."""
        if self.plan == other:
            return True
        if (self.plan.routing, self.plan.passthrough_address) != (other.routing, other.passthrough_address):
            return False
        return all(
            self.same_table(mine, its, name)
            for mine, its in zip(self.plan.rulesets, other.rulesets, strict=True)
            for name in dict.fromkeys(table.table for table in (*mine.tables, *its.tables))
        )

    def same_table(self, mine: Ruleset, its: Ruleset, name: str) -> bool:
        """The same of one table. Only packets that come to where the two differ can fare differently."""
        one, other = mine.table(name), its.table(name)
        if one == other:
            return True
        some = fewer(concerned(walked(one, mine.family), other))
        # One packet of each box is asked about first: mostly it fares differently, and all is said.
        corners = [tuple(single(span[0]) if span else span for span in box) for box in some]
        return all(
            same_walks(Walk(one, mine.family, packets), Walk(other, mine.family, packets))
            for packets in (corners, some)
        )


def concerned(walk: Walk, other: TableRules) -> Iterator[Box]:
    """Packets, as they come, that meet a rule which another table has not at this place, or which only that one has.

    Until the first such rule both walks are the same, so what enters its chain in one walk enters it in the other. A
    mark may have been changed on the way, so any is possible.
    """
    chains = other.chains()
    for chain in {**walk.chains, **chains}:
        came = walk.entered.get(chain) or ([everything(walk.family, chain)] if other.is_built_in(chain) else [])
        for each in (
            asked for those in unlike(walk.chains.get(chain, ()), chains.get(chain, ())) for asked in lists(those)
        ):
            wanted, _ = box_of(each.rule.matches, walk.family)
            for box in came:
                both = overlap(box, wanted) if wanted is not None else None
                if both is not None:
                    yield (*both[:MARK], U32, U32, *both[CONNMARK + 1 :])


def unlike(mine: Sequence[Rule], its: Sequence[Rule]) -> tuple[Sequence[Rule], Sequence[Rule]]:
    """The rules of two chains that are between what they begin with and what they end with together."""
    fewest = min(len(mine), len(its))
    first = next((at for at in range(fewest) if mine[at] != its[at]), fewest)
    last = next((at for at in range(fewest - first) if mine[-1 - at] != its[-1 - at]), fewest - first)
    return mine[first : len(mine) - last], its[first : len(its) - last]


def same_walks(mine: Walk, its: Walk) -> bool:
    if not (mine.exact and its.exact):
        return False
    for hook in {*mine.outcomes, *its.outcomes}:
        # A built-in chain without rules leaves everything to its policy, and so does what no rule decides.
        ours, theirs = mine.outcomes.get(hook, {}), its.outcomes.get(hook, {})
        for outcome in {*ours, *theirs} - {Outcome(None)}:
            if not same(ours.get(outcome, []), theirs.get(outcome, [])):
                return False
    return True


def same(one: list[Box], other: list[Box]) -> bool:
    return one == other or (remainder(one, other, MOST_BOXES) == [] and remainder(other, one, MOST_BOXES) == [])
