"""What is in a picture: cards of rules, the ends of the walk, and the ways between them, by table.

Nothing here knows where anything is drawn. Every rule of a ruleset is a row, is counted in a row that folds many
rules of one shape, or is counted in a note: `Picture.rules` says how many there are, and the tests add them up.
"""

from __future__ import annotations

from itertools import groupby

from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.rulesets import reached_from
from rules.netfilter.values import BUILT_IN, OUTPUT, PREROUTING
from rules.picture.text import number, shown
from rules.picture.words import ANYTHING, differing, done, listed, matches_in_words, noun, of_others
from rules.plan.names import (
    ISTIO_DIVERT,
    ISTIO_DROP,
    ISTIO_IN_REDIRECT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT,
    ISTIO_OUTPUT_DNS,
    ISTIO_OUTPUT_GROUPS,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
    OURS,
)
from rules.value import Enum, Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from rules.iptables.counters import Count, Place
    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule, Ruleset, TableRules

    Key: TypeAlias = tuple[str, ...]
    """A card (table, chain) or an end (table, kind, what): what a way leads to."""
    Numbered: TypeAlias = tuple[int, Rule, int | None]
    """A rule with its position in its chain, counted from 1, and what it has counted, if that is known."""

HOOKS = (OUTPUT, "POSTROUTING", PREROUTING, "INPUT", "FORWARD")
"""The built-in chains in the order in which they stand below each other."""
TABLES = ("raw", "mangle", "nat", "filter", "security")
"""The tables in the order in which a hook asks them."""

TABLE_WORDS = {
    "raw": "before conntrack sees the packet: conntrack zones",
    "mangle": "every packet: marks, and what is dropped or handed on unchanged",
    "nat": "the first packet of each connection: where it really goes",
    "filter": "every packet: what may pass at all",
    "security": "every packet: rules of mandatory access control",
}
HOOK_WORDS = {
    OUTPUT: "sent by a process in here",
    PREROUTING: "arrived, from outside or over lo",
    "INPUT": "about to be delivered in here",
    "FORWARD": "passing through, from outside to outside",
    "POSTROUTING": "about to leave",
}

CHAIN_WORDS = {
    ("raw", ISTIO_INBOUND): "which zone an answer belongs to",
    ("raw", ISTIO_OUTPUT_DNS): "which zone a query belongs to",
    ("mangle", ISTIO_INBOUND): "is what arrives captured?",
    ("mangle", ISTIO_OUTPUT): "what has to be marked",
    ("mangle", ISTIO_DIVERT): "back to the socket that has it",
    ("mangle", ISTIO_TPROXY): "handed on unchanged",
    ("mangle", ISTIO_DROP): "not to be delivered",
    ("nat", ISTIO_INBOUND): "is what arrives captured?",
    ("nat", ISTIO_OUTPUT): "is what is sent captured?",
    ("nat", ISTIO_OUTPUT_GROUPS): "is what these groups send captured?",
    ("nat", ISTIO_OUTPUT_DNS): "is this a DNS query?",
    ("nat", ISTIO_REDIRECT): "captured: outbound",
    ("nat", ISTIO_IN_REDIRECT): "captured: inbound",
    ("filter", ISTIO_OUTPUT): "may this go past the proxy?",
}
"""What each chain of ours is for, by table."""

REMARKS = (t.SetMark, t.SaveMark, t.RestoreMark, t.Zone, t.Log, t.Nflog)
"""Targets after which the next rule is asked."""

HOW_TO_READ = (
    "Rules are asked from top to bottom. One that marks, sets a zone or logs lets the next one be asked; a chain that "
    "decides nothing goes back to where it was entered."
)

LONGEST_RUN = 4
"""A run of rules of one shape that is no longer is shown in full."""
SHOWN_OF_A_RUN = 2
MOST_HOT = 8
"""So many rules of a run are shown although they could be folded, because they have counted packets."""
MOST_ROWS_OF_OTHERS = 12
MOST_CARDS_OF_OTHERS = 6


class Kind(Enum):
    """What becomes of the packets of a row, or at an end. Its value is its name in the legend."""

    OUTBOUND = "captured, outbound"
    INBOUND = "captured, inbound"
    DNS = "DNS to the proxy"
    BYPASS = "not captured"
    STOPPED = "dropped or refused"
    ON = "goes on"
    OTHERS = "rules of others"


class Row(Value):
    """One rule; or many of one shape, or what becomes of packets for which no rule held."""

    first: int
    last: int
    """The positions in the chain, counted from 1; 0 if the row stands for no rule."""
    asks: str
    why: str
    does: str
    kind: Kind
    goal: Key | None = None
    """The card or the end that it leads to."""
    packets: int | None = None
    """None if nothing is known of that."""
    rules: int = 1
    ours: bool = True

    @property
    def place(self) -> str:
        """Its positions, as they are shown."""
        return "" if not self.first else str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


class Card(Value):
    """A chain."""

    table: str
    chain: str
    about: str
    rows: tuple[Row, ...]
    ours: bool
    is_hook: bool
    is_entered: bool = True
    """Whether packets can get here."""

    @property
    def key(self) -> Key:
        return (self.table, self.chain)


class End(Value):
    """Where the walk ends."""

    key: Key
    title: str
    about: str
    kind: Kind
    packets: int | None = None


class Band(Value):
    """One table: its hooks first, then its chains in the order in which they are entered."""

    table: str
    cards: tuple[Card, ...]
    ends: tuple[End, ...]

    @property
    def about(self) -> str:
        return TABLE_WORDS.get(self.table, "")

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of its cards and ends."""
        return (*(card.key for card in self.cards), *(end.key for end in self.ends))


class Picture(Value):
    """All of it, of one family."""

    family: str
    title: str
    said: str
    """The settings, or where the rules were read."""
    bands: tuple[Band, ...]
    notes: tuple[str, ...]
    counted: bool
    """Whether the rows have counters."""
    rules: int
    """How many rules there are, drawn, folded and noted."""

    @property
    def cards(self) -> tuple[Card, ...]:
        """Those of all tables."""
        return tuple(card for band in self.bands for card in band.cards)

    def names(self, prefix: str) -> dict[Key, str]:
        """A name for each card and end, which languages of graphs take."""
        return {key: f"{prefix}n{at}" for at, key in enumerate(key for band in self.bands for key in band.keys)}

    def stops(self) -> Iterator[tuple[str, list[Card]]]:
        """For each hook that is drawn, its cards: a packet comes from one to the next."""
        for hook in HOOKS:
            cards = [card for card in self.cards if card.is_hook and card.chain == hook]
            if cards:
                yield hook, cards


def picture(
    ruleset: Ruleset,
    *,
    title: str,
    said: str = "",
    notes: Sequence[str] = (),
    counted: Mapping[Place, Count] | None = None,
) -> Picture:
    """The picture of a ruleset, planned or live; with counters if there are any."""
    by_name = {table.table: table for table in ruleset.tables}
    known = [by_name[name] for name in TABLES if name in by_name]
    others = [table for table in ruleset.tables if table.table not in TABLES]
    drawn = [_Table(table, counted) for table in (*known, *others)]
    bands = [made.band() for made in drawn]
    left_out = [note for made in drawn for note in made.notes]
    return Picture(
        ruleset.family.value,
        shown(title),
        shown(said),
        tuple(band for band in bands if band.cards),
        (HOW_TO_READ, *map(shown, notes), *left_out),
        counted is not None,
        sum(1 for _ in ruleset.rules()),
    )


class _Table:
    """The drawing of one table."""

    def __init__(self, table: TableRules, counted: Mapping[Place, Count] | None) -> None:
        self.table = table
        self.name = table.table
        self.counted = counted
        self.ours = OURS.get(self.name, frozenset()) - table.not_ours
        self.built_in = BUILT_IN.get(self.name, frozenset(HOOKS))
        self.policies = dict(table.policies)
        self.rules = table.chains()
        self.chains: dict[str, list[Numbered]] = {
            chain: [(at, rule, self.packets(chain, at)) for at, rule in enumerate(rules, 1)]
            for chain, rules in self.rules.items()
        }
        self.hooks = [
            hook for hook in HOOKS if hook in self.built_in and (self.chains.get(hook) or self.policy(hook) != "ACCEPT")
        ]
        self.callers: dict[str, list[tuple[str, Rule]]] = {}
        for chain, rules in self.chains.items():
            for _, rule, _ in rules:
                if isinstance(rule.target, t.Jump):
                    self.callers.setdefault(rule.target.chain, []).append((chain, rule))
        self.reached = reached_from(self.rules, self.hooks)
        self.drawn = self.order()
        self.capturing = {chain for chain in self.chains if self.captures(chain, frozenset())}
        self.ends: dict[Key, End] = {}
        self.notes: list[str] = []

    def packets(self, chain: str, at: int) -> int | None:
        if self.counted is None:
            return None
        count = self.counted.get((self.name, chain, at))
        return count.packets if count else 0

    def policy(self, hook: str) -> str:
        return self.policies.get(hook, "ACCEPT")

    # --- which chains -------------------------------------------------------------------------------------

    def entered(self, chain: str) -> Iterator[str]:
        """The chains that this one jumps to, in the order of its rules, each once."""
        targets = [rule.target for rule in self.rules.get(chain, ())]
        yield from dict.fromkeys(it.chain for it in targets if isinstance(it, t.Jump) and it.chain in self.chains)

    def order(self) -> list[str]:
        """The chains that are drawn: hooks, ours, and of others' those that are entered from these, up to a limit."""
        ours = [chain for chain in self.reached if chain in self.ours]
        aside = [chain for chain in self.chains if chain in self.ours and chain not in self.reached]
        near = dict.fromkeys(
            chain
            for caller in (*self.hooks, *ours, *aside)
            for chain in self.entered(caller)
            if chain not in self.ours and chain not in self.built_in
        )
        on_the_way = [chain for chain in self.reached if self.is_others(chain) and self.leads_to_ours(chain)]
        others = list(dict.fromkeys((*on_the_way, *near)))[:MOST_CARDS_OF_OTHERS]
        wanted = {*self.hooks, *ours, *others}
        reached = [chain for chain in self.reached if chain in wanted]
        return [*reached, *aside, *(chain for chain in others if chain not in self.reached)]

    def is_others(self, chain: str) -> bool:
        return chain not in self.ours and chain not in self.built_in

    def leads_to_ours(self, chain: str) -> bool:
        return any(found in self.ours for found in reached_from(self.rules, [chain]))

    def captures(self, chain: str, above: frozenset[str]) -> bool:
        """Whether a rule of ours here or further on sends packets to the proxy."""
        if chain in above:
            return False
        return any(
            isinstance(rule.target, t.Redirect | t.Dnat | t.Tproxy) and self.is_ours(chain, rule)
            for _, rule, _ in self.chains[chain]
        ) or any(self.captures(further, above | {chain}) for further in self.entered(chain))

    def hooks_of(self, chain: str) -> list[str]:
        """From which hooks it can be reached."""
        return [hook for hook in self.hooks if chain in reached_from(self.rules, [hook])]

    # --- cards --------------------------------------------------------------------------------------------

    def band(self) -> Band:
        cards = tuple(self.card(chain) for chain in self.drawn)
        self.note_the_rest()
        return Band(self.name, cards, tuple(self.with_packets(end, cards) for end in self.ends.values()))

    def with_packets(self, end: End, cards: Iterable[Card]) -> End:
        """The end with what the rules that lead to it have counted."""
        if self.counted is None:
            return end
        return end.but(packets=sum(row.packets or 0 for card in cards for row in card.rows if row.goal == end.key))

    def card(self, chain: str) -> Card:
        is_hook = chain in self.built_in
        ours = is_hook or chain in self.ours
        rules = self.chains.get(chain, [])
        rows = tuple(self.rows(chain, rules))
        about = CHAIN_WORDS.get((self.name, chain), "") if ours else ""
        if is_hook:
            about = HOOK_WORDS.get(chain, "")
        elif chain not in self.reached:
            about = "no rule leads here"
        elif not ours:
            about = f"a chain of others, {counted_words(len(rules), 'rule')}"
        elif not rules:
            about = "no rules"
        last = () if self.is_sure_to_decide(chain) else (self.otherwise(chain, is_hook=is_hook),)
        return Card(self.name, shown(chain), about, (*rows, *last), ours, is_hook, chain in self.reached)

    def rows(self, chain: str, rules: list[Numbered]) -> Iterator[Row]:
        """The rules of a chain, runs of one shape folded, and of others' chains not more than there is room for."""
        is_others = self.is_others(chain)
        drawn = [row for run in runs(rules, self.shape) for row in self.run_rows(chain, run)]
        if is_others and len(drawn) > MOST_ROWS_OF_OTHERS:
            kept = [at for at, row in enumerate(drawn) if row.goal and row.goal[1] in self.ours]
            kept = sorted({*kept, *range(MOST_ROWS_OF_OTHERS)})
        else:
            kept = list(range(len(drawn)))
        wanted = set(kept)
        for is_kept, group in groupby(enumerate(drawn), key=lambda numbered: numbered[0] in wanted):
            rows = [row for _, row in group]
            if is_kept:
                yield from rows
            else:
                count = sum(row.rules for row in rows)
                asks = f"… {counted_words(count, 'more rule')} of others"
                packets = None if self.counted is None else sum(row.packets or 0 for row in rows)
                first, last = rows[0].first, rows[-1].last
                yield Row(first, last, asks, "", "", Kind.OTHERS, None, packets, rules=count, ours=False)

    def shape(self, numbered: Numbered) -> object:
        """What rules have in common that are folded into one row."""
        _, rule, _ = numbered
        kinds = tuple(sorted(kind_name(match) for match in rule.matches))
        return kinds, rule.target, rule.why, rule.setting, of_others(rule)[0]

    def run_rows(self, chain: str, run: list[Numbered]) -> Iterator[Row]:
        """The rows of consecutive rules of one shape; those that counted packets are not folded, if they are few."""
        if len(run) <= LONGEST_RUN:
            yield from (self.row(chain, numbered) for numbered in run)
            return
        hot = {at for at, _, packets in run if packets}
        seen = {at for at, _, _ in run[:SHOWN_OF_A_RUN]} | (hot if len(hot) <= MOST_HOT else set())
        for is_seen, group in groupby(run, key=lambda numbered: numbered[0] in seen):
            rules = list(group)
            if is_seen or len(rules) <= SHOWN_OF_A_RUN:
                yield from (self.row(chain, numbered) for numbered in rules)
            else:
                yield self.folded(chain, rules)

    def row(self, chain: str, numbered: Numbered) -> Row:
        at, rule, packets = numbered
        does, kind, goal = self.outcome(chain, rule)
        ours = self.is_ours(chain, rule)
        asks = matches_in_words(rule)
        if asks == ANYTHING and any(
            not isinstance(before.target, REMARKS) for _, before, _ in self.chains[chain][: at - 1]
        ):
            asks = "anything else"
        return Row(at, at, asks, rule.why or of_others(rule)[0], does, kind, goal, packets, ours=ours)

    def folded(self, chain: str, run: list[Numbered]) -> Row:
        rules = [rule for _, rule, _ in run]
        does, kind, goal = self.outcome(chain, rules[0])
        asks = f"… {number(len(run))} more {noun(rules)} {FOLDED_WORDS.get(kind, '')}".rstrip()
        names = differing(rules)
        few = listed(names, 6) if len(names) <= 7 else f"{', '.join(names[:3])} … {names[-1]}"
        packets = None if self.counted is None else sum(counted or 0 for _, _, counted in run)
        ours = self.is_ours(chain, rules[0])
        return Row(run[0][0], run[-1][0], asks, few, does, kind, goal, packets, rules=len(run), ours=ours)

    def is_ours(self, chain: str, rule: Rule) -> bool:
        """In our chains, what nobody can give a reason for was put there by somebody else."""
        is_jump = isinstance(rule.target, t.Jump) and rule.target.chain in self.ours
        return (chain in self.ours and bool(rule.why)) or (chain in self.built_in and is_jump)

    # --- what becomes of packets --------------------------------------------------------------------------

    def outcome(self, chain: str, rule: Rule) -> tuple[str, Kind, Key | None]:
        """In words, in its meaning, and where it leads."""
        target = rule.target
        ours = self.is_ours(chain, rule)
        match target:
            case t.Return():
                return self.returned(chain)
            case t.Jump(further):
                goal = (self.name, shown(further)) if further in self.drawn else None
                return done(target), self.kind_of_chain(further), goal
            case t.Redirect(port) | t.Tproxy(port=port) if ours:
                return done(target), *self.captured(chain, f":{port}")
            case t.Dnat() if ours:
                return done(target), *self.captured(chain, done(target).removeprefix("to "))
            case t.Accept() if ours and chain == ISTIO_DIVERT:
                return "to its socket", *self.captured(chain, self.transparent_port())
            case t.Drop():
                return "drop", Kind.STOPPED, self.end(Kind.STOPPED, "Dropped", "without an answer")
            case t.Reject():
                return done(target), Kind.STOPPED, self.end(Kind.STOPPED, "Refused", "with an error for the sender")
            case t.Accept():
                return "accept", Kind.ON, None
            case t.SetMark() | t.SaveMark() | t.RestoreMark() | t.Zone() | t.Log() | t.Nflog():
                return done(target), Kind.ON, None
            case t.Redirect() | t.Dnat() | t.Tproxy() | t.ForeignTarget() | t.NativeTarget():
                return done(target), Kind.OTHERS, None
            case _:
                assert_never(target)

    def returned(self, chain: str) -> tuple[str, Kind, Key | None]:
        """RETURN. Where it would have been captured further on it is a bypass; elsewhere the packet just goes on."""
        if chain in self.built_in:
            is_policy_drop = self.policy(chain) == "DROP"
            if is_policy_drop:
                return "policy: drop", Kind.STOPPED, self.end(Kind.STOPPED, "Dropped", "without an answer")
            return "policy: accept", Kind.ON, None
        if chain not in self.ours:
            return "return", Kind.ON, None
        if chain not in self.capturing:
            return "goes on", Kind.ON, None
        return "bypass", Kind.BYPASS, self.bypass(chain)

    def bypass(self, chain: str) -> Key:
        hooks = self.hooks_of(chain)
        about = "goes where it was sent"
        if hooks == [OUTPUT]:
            about = "goes out as it was sent"
        elif hooks == [PREROUTING]:
            about = "reaches the application itself"
        return self.end(Kind.BYPASS, "Not captured", about)

    def captured(self, chain: str, where: str) -> tuple[Kind, Key]:
        if chain == ISTIO_OUTPUT_DNS:
            return Kind.DNS, self.end(Kind.DNS, f"Resolver {where}".strip(), "the proxy's, for DNS")
        if chain == ISTIO_IN_REDIRECT or self.name == "mangle":
            return Kind.INBOUND, self.end(Kind.INBOUND, f"Proxy {where}".strip(), "its inbound listener")
        return Kind.OUTBOUND, self.end(Kind.OUTBOUND, f"Proxy {where}".strip(), "its outbound listener")

    def transparent_port(self) -> str:
        for chain in self.chains:
            for _, rule, _ in self.chains[chain]:
                if chain in self.ours and isinstance(rule.target, t.Tproxy):
                    return f":{rule.target.port}"
        return ""

    def kind_of_chain(self, chain: str, above: frozenset[str] = frozenset()) -> Kind:
        """What entering this chain is about: what its own rules do, if they all do the same; else to be looked at."""
        if self.is_others(chain):
            return Kind.OTHERS
        if chain in above or chain not in self.chains:
            return Kind.ON
        kinds = set()
        for _, rule, _ in self.chains[chain]:
            target = rule.target
            if isinstance(target, t.Jump):
                kinds.add(self.kind_of_chain(target.chain, above | {chain}))
            elif isinstance(target, t.Return):
                kinds.add(Kind.BYPASS if chain in self.capturing else Kind.ON)
            elif not isinstance(target, REMARKS):
                kinds.add(self.outcome(chain, rule)[1])
        kinds.discard(Kind.ON)
        return kinds.pop() if len(kinds) == 1 else Kind.ON

    def end(self, kind: Kind, title: str, about: str) -> Key:
        key = (self.name, kind.name, title, about)
        self.ends.setdefault(key, End(key, title, about, kind, None))
        return key

    # --- no rule held -------------------------------------------------------------------------------------

    def otherwise(self, chain: str, *, is_hook: bool) -> Row:
        """What becomes of packets for which no rule decided."""
        does, kind, goal = self.returned(chain)
        if not is_hook and (kind is Kind.ON or any(caller not in self.built_in for caller, _ in self.calls(chain))):
            callers = [shown(caller) for caller, _ in self.calls(chain)]
            does = f"back to {callers[0]}" if len(set(callers)) == 1 else "back"
            kind, goal = Kind.ON, None
        return Row(0, 0, "otherwise" if self.chains.get(chain) else ANYTHING, "", does, kind, goal, rules=0)

    def calls(self, chain: str) -> list[tuple[str, Rule]]:
        return self.callers.get(chain, [])

    def is_sure_to_decide(self, chain: str) -> bool:
        """Whether the last rule holds for every packet that can get to it, and is no mere remark."""
        rules = self.chains.get(chain, [])
        if chain in self.built_in:
            return self.policy(chain) == "ACCEPT"
        if self.is_others(chain):
            return True
        if not rules:
            return False
        _, last, _ = rules[-1]
        if isinstance(last.target, (*REMARKS, t.ForeignTarget)):
            return False
        return frozenset(last.matches) <= self.certain(chain, frozenset())

    def certain(self, chain: str, above: frozenset[str]) -> frozenset[Match]:
        """What holds for every packet that gets into this chain."""
        if chain in above:
            return frozenset()
        ways = [
            frozenset(rule.matches) | self.certain(caller, above | {chain})
            for caller, rule in self.calls(chain)
            if caller in self.reached
        ]
        return ways[0].intersection(*ways[1:]) if ways else frozenset()

    # --- what is not drawn --------------------------------------------------------------------------------

    def note_the_rest(self) -> None:
        """Chains that nobody drew are counted, so that nobody thinks there are none."""
        rest = {
            chain: rules
            for chain, rules in self.chains.items()
            if chain not in self.drawn and (rules or chain not in self.built_in)
        }
        count = sum(map(len, rest.values()))
        if count:
            of_others = counted_words(len(rest), "more chain")
            self.notes.append(f"{self.name}: {of_others} of others with {counted_words(count, 'rule')} not drawn")


FOLDED_WORDS = {
    Kind.BYPASS: "not captured",
    Kind.OUTBOUND: "captured",
    Kind.INBOUND: "captured",
    Kind.DNS: "whose DNS is captured",
    Kind.STOPPED: "stopped",
}


def counted_words(count: int, word: str) -> str:
    """`1 rule`, `1,200 rules`."""
    return f"{number(count)} {word}{'' if count == 1 else 's'}"


def kind_name(match: Match) -> str:
    return f"not {type(match.match).__name__}" if isinstance(match, m.Not) else type(match).__name__


def runs(rules: list[Numbered], shape: Callable[[Numbered], object]) -> Iterator[list[Numbered]]:
    """Consecutive rules of one shape."""
    for _, group in groupby(rules, key=shape):
        yield list(group)
