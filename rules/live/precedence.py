"""Who is asked first in a built-in chain that we share: rules of others before ours, and what they keep from us.

One that is narrower than what we decide about (some destinations, ports, owners, marks …) keeps what it takes, as
beside istio-iptables, and is named. One that takes everything would leave us nothing, and is passed. Errs on the side
of "could": a match that cannot be told may hold. Dropping and rejecting do not count: they let nothing escape, and to
go before them would undo what they are for.
"""

from __future__ import annotations

from rules.analysis.boxes import everything, fewer, overlap, remainder
from rules.analysis.reachability import Reachable, Walk
from rules.iptables.words import becomes, packets
from rules.meaning.spoken import conditions, effect
from rules.netfilter import effects as e
from rules.netfilter import fields as f
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.spans import common, joined, less, one, united
from rules.netfilter.values import OUTPUT, PREROUTING, Family
from rules.ours.exclusions import exclusion
from rules.plan.names import LOOPBACK_INTERFACE, OURS
from rules.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rules.analysis.boxes import Box
    from rules.analysis.reachability import Outcome
    from rules.live.changes import Company
    from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
    from rules.netfilter.spans import Span

MOST_BOXES = 2000
"""Boxes in which it is told what is left of what we decide about; where more are needed, something is."""
MOST_WORDS = 3
"""Of what one rule of others takes, so much is said."""
MOST_SETTINGS = 16
"""So many settings are named that exclude what one rule takes."""
LOOPBACK_NETWORK: dict[Family, Span] = {Family.V4: (127 << 24, 128 << 24), Family.V6: (1, 2)}
NARROWS_NOTHING = frozenset({f.PROTOCOL, f.STATE, f.TCP_FLAGS, f.REWRITTEN})
"""Fields in which some is as good as all: the protocol that we look at, and how connections begin or go on."""
NARROWING_NOTHING = ("-m limit", "-m hashlimit", "-m statistic", "-m quota", "-m connlimit", "-m recent", "-m pkttype")
"""Matches that ask how many came before, not which."""


class Taking(Value):
    """Packets that we decide about, and that a rule of others, or one that it leads to, decides about before."""

    matches: tuple[m.Match, ...]
    """All that they meet until then."""
    target: t.Target
    """What becomes of them."""
    box: Box
    """Which they are, as far as a box can tell."""
    is_certain: bool
    """Whether all of the box is taken."""
    is_narrow: bool
    """Whether there is more that we decide about."""

    def __str__(self) -> str:
        """In words: `TCP to 192.0.2.1 port 80 goes to port 8000 on this host`."""
        matches = [match for match in dict.fromkeys(self.matches) if conditions(match)]
        return f"{packets(matches)} {becomes(self.target)}"


class Precedent(Value):
    """A rule of others in a built-in chain that takes packets from ours if it is asked before."""

    position: int
    """In the chain, counted from 1."""
    rule: Rule
    takings: tuple[Taking, ...]
    is_passed: bool
    """Whether our jumps go above it."""

    @property
    def redirects(self) -> bool:
        """Whether it sends something of what it takes elsewhere."""
        return any(isinstance(done, e.Bind) for taking in self.takings for done in e.first_of(effect(taking.target)))

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        words = first_different(map(str, self.takings), MOST_WORDS)
        return "; ".join([*words[:MOST_WORDS], *(["and more"] if len(words) > MOST_WORDS else [])])


def first_different(words: Iterable[str], most: int) -> list[str]:
    """The first of these that differ, and one more than `most` where there are as many."""
    found: dict[str, None] = {}
    for word in words:
        found[word] = None
        if len(found) > most:
            break
    return list(found)


def precedents(
    live: TableRules, hook: str, theirs: Sequence[tuple[int, Rule]], planned: Ruleset, company: Company
) -> tuple[Precedent, ...]:
    """Which of these rules of others, in their order with their positions, take packets from ours behind them."""
    rules = tuple(rule for _, rule in theirs)
    key = (live.table, hook, company, id(planned), *map(id, rules))
    below = below_of(live, planned)
    known = _known.get(key)
    if known is None or any(below.chains.get(chain) != rules_then for chain, rules_then in known.chains.items()):
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        found = tuple(taking(below, live.table, hook, rules, planned, company))
        # What is kept here cannot give its id to something else.
        known = _known[key] = Known(found, {chain: below.chains[chain] for chain in below.known}, planned, rules)
    return tuple(precedent.but(position=theirs[precedent.position][0]) for precedent in known.found)


class Known(Value):
    """An answer, and what it was found from."""

    found: tuple[Precedent, ...]
    chains: dict[str, Sequence[Rule]]
    """The chains that were entered."""
    planned: Ruleset
    rules: tuple[Rule, ...]


MOST_KNOWN = 32
_known: dict[tuple[object, ...], Known] = {}
"""A run, a comparison and a warning ask the same of the same rules, and a node has thousands of them."""


def below_of(live: TableRules, planned: Ruleset) -> Reachable:
    """The chains of this table, looked into once for all of its built-in chains; ours as they are planned."""
    for blocks, wanted, below in _below:
        if blocks is live.blocks and wanted == planned:
            return below
    chains, ours = live.chains(), planned.table(live.table).chains()
    chains = {**chains, **{name: ours.get(name, ()) for name in OURS.get(live.table, ()) if name in chains}}
    _below[:] = [(live.blocks, planned, Reachable(chains, planned.family, is_end))]
    return _below[0][2]


_below: list[tuple[tuple[Block, ...], Ruleset, Reachable]] = []
"""The last table that was asked about, by its blocks and what is planned."""


def taking(
    below: Reachable, table: str, hook: str, rules: Sequence[Rule], planned: Ruleset, company: Company
) -> Iterator[Precedent]:
    """The same, each with its index among these rules in place of a position."""
    here = kinds(planned.family, company)
    claimed = claims(planned, table, hook)
    if not claimed:
        return
    usual = everyday(claimed, hook, planned.family, company)
    by_protocol: dict[Span, list[Box]] = {}
    for box in usual:
        by_protocol.setdefault(box[f.PROTOCOL], []).append(box)
    left = dict(by_protocol)
    found: list[Precedent] = []
    for index, rule in enumerate(rules):
        taken = [
            end.but(is_narrow=is_narrow(end, usual, here))
            for end in ends(below, hook, rule, everything(planned.family, hook))
            if is_met(reach(end.box, here["LOCAL"]), claimed)
        ]
        if taken:
            takes_all = company.ours_first or not all(end.is_narrow for end in taken)
            found.append(Precedent(index, rule, tuple(taken), takes_all))
        certain = fewer(end.box for end in taken if end.is_certain)
        for protocol, boxes in left.items():
            rest = remainder(boxes, certain, MOST_BOXES)
            if rest == [] and boxes:
                found = together(found, by_protocol[protocol])
            left[protocol] = boxes if rest is None else rest
    yield from found


def is_met(box: Box, claimed: Sequence[Box]) -> bool:
    """Whether any of these packets is claimed."""
    return any(overlap(box, claim) for claim in claimed)


def together(found: Sequence[Precedent], boxes: Sequence[Box]) -> list[Precedent]:
    """These rules take all of the boxes: the last ones of them that do so together are passed."""
    left: list[Box] | None = list(boxes)
    since = len(found)
    while left and since:
        since -= 1
        left = remainder(left, fewer(end.box for end in found[since].takings if end.is_certain), MOST_BOXES)
    return [*found[:since], *(it.but(is_passed=True) for it in found[since:])]


def claims(planned: Ruleset, table: str, hook: str) -> list[Box]:
    """The packets that ours decide about in this hook, if they come there."""
    outcomes = Walk(planned.table(table), planned.family).outcomes.get(hook, {})
    return [box for outcome, boxes in outcomes.items() if is_claim(outcome) for box in boxes]


def reach(box: Box, local: Span) -> Box:
    """The same packets, as far as somebody means them: over lo goes what is for this host's own addresses alone.

    There the proxy calls the application for itself, which a rule only takes away that asks for lo or such an address.
    """
    lo = one(LOOPBACK_INTERFACE)
    if common(box[f.LEAVES_ON], lo) == box[f.LEAVES_ON] or common(box[f.DESTINATION], local) == box[f.DESTINATION]:
        return (*box[: f.DESTINATION], common(box[f.DESTINATION], local), *box[f.DESTINATION + 1 :])
    return (*box[: f.LEAVES_ON], less(box[f.LEAVES_ON], lo), *box[f.LEAVES_ON + 1 :])


def is_claim(outcome: Outcome) -> bool:
    return outcome.verdict is not None or any(
        isinstance(effect(done), e.Remark | t.Zone) for done, _ in outcome.remarks
    )


def ends(below: Reachable, hook: str, rule: Rule, coming: Box) -> Iterator[Taking]:
    """Where the walk may end for packets that come to this rule of a built-in chain."""
    key = (rule.matches, rule.target)
    if key not in below.answers:
        # Two built-in chains often lead to the same: what differs is who comes there.
        first = below.looked_into(1, rule, e.first_of(effect(rule.target)))
        below.answers[key] = [
            Taking(each.met, each.rule.target, each.box, each.is_certain, True)
            for each in below.reached(hook, [first], everything(below.family))
            # In a built-in chain the policy decides; in a chain of theirs, whoever jumped there goes on.
            if is_end(each.does) or (each.is_first and isinstance(each.does, t.Return | e.Goto))
        ]
    for end in below.answers[key]:
        box = overlap(end.box, coming)
        if box is not None:
            yield Taking(end.matches, end.target, box, end.is_certain, True)


def is_end(does: e.Effect) -> bool:
    """Whether the walk ends with this, wherever it is done."""
    match does:
        case (
            t.Jump()
            | t.Return()
            | e.Goto()
            | t.Drop()
            | t.Reject()
            | t.Zone()
            | e.BindSource()
            | e.Remark()
            | e.Forget()
            | e.NoTrack()
        ):
            return False
        case t.Accept() | e.Bind() | e.Queue() | e.Unknown():
            return True
        case e.Hand(accepts=accepts):
            return accepts
        case e.Retag() | e.Nothing():
            return False
        case e.Choice() | e.Then():
            raise AssertionError("first_of leaves none of these")
        case _:
            assert_never(does)


# --- narrower than ours -----------------------------------------------------------------------------------


def everyday(boxes: Sequence[Box], hook: str, family: Family, company: Company) -> list[Box]:
    """What of these packets comes every day: first packets, without marks, by the interfaces and addresses there are.

    A rule for all of these takes everything, although it says less.
    """
    names = sorted(name for name in company.interfaces if name != LOOPBACK_INTERFACE)
    links = joined(one(name) for name in names) if names else less(f.SOMEWHERE, one(LOOPBACK_INTERFACE))
    beyond = less(f.ADDRESSES[family], LOOPBACK_NETWORK[family])
    own = own_addresses(family, company) or beyond
    cuts: dict[int, Span] = {
        f.SPORT: (1024, 1 << 16),
        f.DPORT: (1, 1 << 16),
        f.UID: (0, (1 << 32) - 1),
        f.GID: (0, (1 << 32) - 1),
        f.STATE: (0, 1),
        f.TCP_FLAGS: f.FIRST_FLAGS,
        f.REWRITTEN: (f.UNTOUCHED, f.UNTOUCHED + 1),
        f.MARK: (0, 1),
        f.CONNMARK: (0, 1),
        f.ARRIVED_ON: links,
        f.LEAVES_ON: links,
        f.SOURCE: own if hook == OUTPUT else beyond,
        f.DESTINATION: own if hook == PREROUTING else beyond,
    }
    usual = list(boxes)
    for field, span in cuts.items():
        kept = [(*box[:field], common(box[field], span), *box[field + 1 :]) for box in usual]
        usual = [box for box in kept if box[field]] or usual
    return usual


def own_addresses(family: Family, company: Company) -> Span:
    version = 4 if family is Family.V4 else 6
    return joined(sorted((int(it), int(it) + 1) for it in company.addresses if it.version == version))


def kinds(family: Family, company: Company) -> dict[str, Span]:
    """Which addresses are of which type to this host, for `addrtype`."""
    everywhere = f.ADDRESSES[family]
    local = united(LOOPBACK_NETWORK[family], own_addresses(family, company))
    many: Span = (224 << 24, 240 << 24) if family is Family.V4 else (0xFF << 120, 1 << 128)
    return {"ANY": everywhere, "LOCAL": local, "MULTICAST": many, "UNICAST": less(less(everywhere, local), many)}


def is_narrow(end: Taking, usual: Sequence[Box], here: Mapping[str, Span]) -> bool:
    """Whether some match keeps this from taking everything of its protocol that we decide about."""
    its = [box for box in usual if common(box[f.PROTOCOL], end.box[f.PROTOCOL])]
    return not its or any(narrows(match, its, here) for match in end.matches)


def narrows(match: m.Match, usual: Sequence[Box], here: Mapping[str, Span]) -> bool:
    """Whether a match leaves most of these packets alone; one that leaves only some (`! -d 10.0.0.0/8`) does not."""
    its = conditions(match)
    if all(is_about_all(condition) for condition in its):
        return False
    answers = {f.all_hold(its, box, here) for box in usual}
    return answers != {True} and (answers == {False} or not is_denial(match))


def is_about_all(condition: f.Condition) -> bool:
    match condition:
        case f.Among(field, _) | f.Masked(field, _, _, _):
            return field in NARROWS_NOTHING
        case f.Untold(text):
            return text.startswith(NARROWING_NOTHING)
        case _:
            return False


def is_denial(match: m.Match) -> bool:
    if isinstance(match, m.Foreign | m.Native):
        return " ! " in f" {match.text}" or "!=" in match.text
    return isinstance(match, m.Not)


# --- the setting that excludes it -------------------------------------------------------------------------


def exclusions(precedent: Precedent, hook: str, planned: Ruleset) -> str:
    """The settings that exclude what this rule takes from our capture, as they are given.

    Empty if there is none, or it takes very many: nobody excludes a node's services one by one.
    """
    found = first_different((exclusion(taking.matches, hook, planned) for taking in precedent.takings), MOST_SETTINGS)
    return "" if "" in found or len(found) > MOST_SETTINGS else ", ".join(found)
