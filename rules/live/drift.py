"""Whether what is live is what is planned: every difference as a value, with what a rerun will do about it.

What differs is what `rules.live.changes` would change, no more and no less, told for people: by chain and position.
And there is what no run can change: rules of others by which conntrack passes over what is to be captured.
"""

from __future__ import annotations

from rules.analysis.boxes import everything, overlap, remainder
from rules.analysis.reachability import MOST_BOXES, Reachable, Walk
from rules.iptables.writing import rule_text
from rules.live.changes import ALONE, placed, precedents_of, shared
from rules.netfilter.effects import NoTrack
from rules.netfilter.targets import Zone
from rules.netfilter.values import FILTER, MANGLE, NAT, OUTPUT, PREROUTING, RAW, Family
from rules.ours.recognition import is_our_jump, is_ours, is_remnant, recognised
from rules.plan.names import OURS
from rules.value import Enum, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import ClassVar

    from rules.analysis.boxes import Box
    from rules.live.changes import Company
    from rules.live.precedence import Precedent
    from rules.netfilter.rulesets import Rule, Ruleset, TableRules


class Kind(Enum):
    """In what a namespace can differ from a plan."""

    RULE_MISSING = "rule missing"
    RULE_UNEXPECTED = "rule unexpected"
    RULE_DOUBLED = "rule doubled"
    RULE_MOVED = "rule reordered"
    CHAIN_MISSING = "chain missing"
    CHAIN_LEFT = "chain left over"
    JUMP_MISSING = "jump missing"
    JUMP_LEFT = "jump left over"
    JUMP_DOUBLED = "jump doubled"
    JUMP_MOVED = "jump moved"
    OLDER_LEFT = "rule of an older version left over"
    OTHERS_ABOVE = "rule of others above ours"
    NARROWER_ABOVE = "narrower rule of others above ours"
    NOT_TRACKED = "not tracked"
    TABLE_DORMANT = "table dormant"
    OTHERS_TAKE_ALL = "rule of others asked before ours takes everything"
    OTHERS_TAKE_SOME = "rule of others asked before ours takes some"
    OTHERS_ELSEWHERE = "rule of others in the other backend"
    CAPTURED_IS_DROPPED = "what is captured is dropped"
    SOME_IS_DROPPED = "some of what is captured is dropped"
    DROPPED_ANYWAY = "what is captured is dropped as it was before"
    FARES_OTHERWISE = "connection fares otherwise than planned"
    IP_RULE_MISSING = "ip rule missing"
    IP_RULE_DOUBLED = "ip rule doubled"
    IP_RULE_LEFT = "ip rule left over"
    ROUTE_MISSING = "route missing"
    ROUTE_LEFT = "route left over"
    IP_RULE_BEFORE_OURS = "ip rule of others before ours"
    IP_RULE_AT_ZERO = "ip rule of others that cannot be passed"
    MARK_SHARED = "mark used by others"
    IP_RULE_BY_UID = "ip rule of others by uid"
    PROXY_REFUSED = "ip rule of others that refuses the proxy's packets"
    ROUTE_TAKES_ALL = "route of others in place of ours"
    ROUTE_TAKES_SOME = "route of others in our table"
    ROUTE_BEHIND_OURS = "route of others behind ours"
    ADDRESS_MISSING = "address missing"
    ADDRESS_LEFT = "address left over"


class Finding(Value):
    """One difference between what is live and what is planned."""

    kind: Kind
    """What is the matter. The names stay the same from version to version."""
    family: Family
    """Whose table, rule, route or address it is."""
    table: str = ""
    """raw, mangle, nat or filter; of a native table its family and name; empty for ip rules, routes and addresses."""
    chain: str = ""
    """The chain; empty for ip rules, routes and addresses."""
    position: int | None = None
    """Where in the live chain, counted from 1; None for what is not there."""
    planned_position: int | None = None
    """Where in the planned chain; of our jumps in a built-in chain, which of them; None for what is not planned."""
    rule: str = ""
    """The rule in iptables' words, or the ip rule, route or address; empty for a chain."""
    why: str = ""
    """What it is for, where the plan tells."""
    setting: str = ""
    """The setting that asked for it; empty if every capture has it."""
    rules: int = 0
    """How many rules a chain holds that is missing or left over."""
    backend: str = ""
    """nft, legacy or native; empty for ip rules, routes and addresses."""
    takes: str = ""
    """Of a narrower rule of others: what it takes from our capture, in words."""
    remedy: str = ""
    """The settings that exclude just that, as they are given; empty if there are none."""

    TOLD: ClassVar = (
        "kind",
        "backend",
        "family",
        "table",
        "chain",
        "position",
        "planned_position",
        "rule",
        "why",
        "setting",
        "takes",
        "remedy",
        "repaired_by_rerun",
        "sentence",
    )

    @property
    def repaired_by_rerun(self) -> bool:
        """Whether a rerun puts it right."""
        return self.kind not in BEYOND_A_RERUN

    @property
    def is_note(self) -> bool:
        """Whether what is planned works beside it: told, and no difference."""
        return self.kind in NOTES

    @property
    def sentence(self) -> str:
        """All of this in a sentence, with what a rerun does."""
        return f"{self.place}: {sentence_of(self)}; {self.rerun}"

    @property
    def rerun(self) -> str:
        """What a rerun will do about it."""
        return RERUN[self.kind]

    @property
    def place(self) -> str:
        """Where it is; of what is missing, the chain."""
        where = f"{self.chain} {self.position}" if self.position else self.chain
        return " ".join(filter(None, (self.backend, self.family.value, self.table, where)))

    def __str__(self) -> str:
        return self.sentence


ANOTHER_TABLE = "remove it, or give -r a table that nobody uses"
REMEDY = {
    Kind.NOT_TRACKED: "the rule is not ours: remove it where it is made",
    Kind.OTHERS_TAKE_ALL: "it is not ours to remove: take it away where it is made, or exclude what it is for",
    Kind.OTHERS_TAKE_SOME: "exclude what it is for from the capture, or take it away where it is made",
    Kind.CAPTURED_IS_DROPPED: "accept there what arrives at that port",
    Kind.SOME_IS_DROPPED: "if it is to get through, accept there what arrives at that port, or what comes back over lo",
    Kind.DROPPED_ANYWAY: "if it is to get through, accept there what arrives at that port",
    Kind.FARES_OTHERWISE: "take away what it meets there, or exclude it from the capture",
    Kind.IP_RULE_AT_ZERO: "no place is before it; give it a priority above 0",
    Kind.MARK_SHARED: "give -t a mark that nobody uses",
    Kind.IP_RULE_BY_UID: "see that what the proxy sends still gets to the clients, or leave its uid out of it",
    Kind.PROXY_REFUSED: "remove it, or leave the proxy's uid out of it",
    Kind.ROUTE_TAKES_ALL: ANOTHER_TABLE,
    Kind.ROUTE_TAKES_SOME: ANOTHER_TABLE,
    Kind.ROUTE_BEHIND_OURS: ANOTHER_TABLE,
}
"""What helps where a rerun does not."""
RERUN = {
    Kind.RULE_MISSING: "a rerun puts it back",
    Kind.RULE_UNEXPECTED: "a rerun removes it",
    Kind.RULE_DOUBLED: "a rerun removes it",
    Kind.RULE_MOVED: "a rerun puts it back in its place",
    Kind.CHAIN_MISSING: "a rerun makes it",
    Kind.CHAIN_LEFT: "a rerun removes it",
    Kind.JUMP_MISSING: "a rerun puts it back",
    Kind.JUMP_LEFT: "a rerun removes it",
    Kind.JUMP_DOUBLED: "a rerun leaves one",
    Kind.JUMP_MOVED: "a rerun puts it back in its place",
    Kind.OLDER_LEFT: "a rerun removes it",
    Kind.OTHERS_ABOVE: "a rerun puts our jumps above it",
    Kind.NARROWER_ABOVE: "a rerun leaves it so, --precedence ours puts our jumps above it",
    Kind.NOT_TRACKED: f"a rerun cannot repair this, {REMEDY[Kind.NOT_TRACKED]}",
    Kind.TABLE_DORMANT: "a rerun cannot repair this",
    Kind.OTHERS_TAKE_ALL: f"a rerun cannot repair this: {REMEDY[Kind.OTHERS_TAKE_ALL]}",
    Kind.OTHERS_TAKE_SOME: REMEDY[Kind.OTHERS_TAKE_SOME],
    Kind.OTHERS_ELSEWHERE: "a rerun brings ours over to that backend, where they go before it",
    Kind.CAPTURED_IS_DROPPED: f"a rerun cannot repair this: {REMEDY[Kind.CAPTURED_IS_DROPPED]}",
    Kind.SOME_IS_DROPPED: REMEDY[Kind.SOME_IS_DROPPED],
    Kind.DROPPED_ANYWAY: REMEDY[Kind.DROPPED_ANYWAY],
    Kind.FARES_OTHERWISE: f"a rerun cannot repair this: {REMEDY[Kind.FARES_OTHERWISE]}",
    Kind.IP_RULE_MISSING: "a rerun adds it",
    Kind.IP_RULE_DOUBLED: "a rerun removes it",
    Kind.IP_RULE_LEFT: "a rerun removes it",
    Kind.ROUTE_MISSING: "a rerun adds it",
    Kind.ROUTE_LEFT: "a rerun removes it",
    Kind.IP_RULE_BEFORE_OURS: "a rerun puts ours before it",
    Kind.IP_RULE_AT_ZERO: f"a rerun is refused: {REMEDY[Kind.IP_RULE_AT_ZERO]}",
    Kind.MARK_SHARED: REMEDY[Kind.MARK_SHARED],
    Kind.IP_RULE_BY_UID: REMEDY[Kind.IP_RULE_BY_UID],
    Kind.PROXY_REFUSED: f"a rerun cannot repair this: {REMEDY[Kind.PROXY_REFUSED]}",
    Kind.ROUTE_TAKES_ALL: f"a rerun is refused: {REMEDY[Kind.ROUTE_TAKES_ALL]}",
    Kind.ROUTE_TAKES_SOME: f"a rerun cannot repair this: {REMEDY[Kind.ROUTE_TAKES_SOME]}",
    Kind.ROUTE_BEHIND_OURS: REMEDY[Kind.ROUTE_BEHIND_OURS],
    Kind.ADDRESS_MISSING: "a rerun adds it",
    Kind.ADDRESS_LEFT: "a rerun removes it",
}
"""What a rerun does about each kind, or what helps."""
NOTES = frozenset(
    {
        Kind.NARROWER_ABOVE,
        Kind.MARK_SHARED,
        Kind.IP_RULE_BY_UID,
        Kind.ROUTE_BEHIND_OURS,
        Kind.OTHERS_TAKE_SOME,
        Kind.SOME_IS_DROPPED,
        Kind.DROPPED_ANYWAY,
    }
)
"""What stays as it is, and is told all the same: it takes nothing of what is planned, or little, which is named."""
REFUSED_FOR = frozenset({Kind.IP_RULE_AT_ZERO, Kind.ROUTE_TAKES_ALL})
"""What nothing of ours can be put before: a run is refused."""
BEYOND_A_RERUN = (
    NOTES
    | REFUSED_FOR
    | {
        Kind.NOT_TRACKED,
        Kind.PROXY_REFUSED,
        Kind.FARES_OTHERWISE,
        Kind.ROUTE_TAKES_SOME,
        Kind.TABLE_DORMANT,
        Kind.OTHERS_TAKE_ALL,
        Kind.CAPTURED_IS_DROPPED,
    }
)
"""What is not ours to repair."""


OTHERS_BEFORE = "{rule} of others is asked before ours, so packets with our mark, answers to clients, can go astray"
BY_UID = "{rule} of others asks whose a packet is: with the capture, answers to clients are the proxy's"
MISSING, LEFT_OVER = "{rule} is missing", "{rule} is left over: these settings do not ask for it"
WHAT = {
    Kind.RULE_MISSING: "the rule {rule}, planned as rule {planned}, is missing{why}",
    Kind.RULE_UNEXPECTED: "the rule {rule} is not planned",
    Kind.RULE_DOUBLED: "the rule {rule} is there once too often, planned as rule {planned}{why}",
    Kind.RULE_MOVED: "the rule {rule} is not in its place, planned as rule {planned}{why}",
    Kind.CHAIN_MISSING: "the chain is missing, with {rules}",
    Kind.CHAIN_LEFT: "the chain is left over, with {rules}: these settings do not ask for it",
    Kind.JUMP_MISSING: "our jump {rule} is missing{why}",
    Kind.JUMP_LEFT: "our jump {rule} is left over: these settings do not ask for it",
    Kind.JUMP_DOUBLED: "our jump {rule} is there once too often",
    Kind.JUMP_MOVED: "our jump {rule} does not stand where it is planned among our jumps{why}",
    Kind.OLDER_LEFT: "the rule {rule} is left over from an older istio-iptables",
    Kind.OTHERS_ABOVE: "the rule of others {rule} stands above our jump and can take traffic away from it",
    Kind.NARROWER_ABOVE: "the rule of others {rule} is asked before ours and keeps what it takes: {takes}{remedy}",
    Kind.NOT_TRACKED: "the rule of others {rule} keeps packets from conntrack that are to be captured, so the nat "
    "table never sees them",
    Kind.TABLE_DORMANT: "the table is dormant: the kernel asks none of its chains, and nothing is captured; wake it up "
    "(`nft add table {table}`), or remove it and run again",
    Kind.OTHERS_TAKE_ALL: "the rule of others {rule} is asked before ours and takes everything, such as: {example}",
    Kind.OTHERS_TAKE_SOME: "the rule of others {rule} is asked before ours and takes some of it, such as: {example}",
    Kind.OTHERS_ELSEWHERE: "{others} in the other backend may be asked before ours, and send connections "
    "elsewhere{such}",
    Kind.CAPTURED_IS_DROPPED: "what is captured is dropped, such as {example}: {by}",
    Kind.SOME_IS_DROPPED: "some of what is captured is dropped, such as {example}: {by}",
    Kind.DROPPED_ANYWAY: "what is captured is dropped, as it was before, such as {example}: {by}",
    Kind.FARES_OTHERWISE: "{example}",
    Kind.IP_RULE_MISSING: MISSING,
    Kind.IP_RULE_DOUBLED: "{rule} is there once too often",
    Kind.IP_RULE_LEFT: LEFT_OVER,
    Kind.ROUTE_MISSING: MISSING,
    Kind.ROUTE_LEFT: LEFT_OVER,
    Kind.IP_RULE_BEFORE_OURS: OTHERS_BEFORE,
    Kind.IP_RULE_AT_ZERO: OTHERS_BEFORE,
    Kind.MARK_SHARED: "{rule} of others asks for our mark, but what has exactly our mark stays here",
    Kind.IP_RULE_BY_UID: BY_UID,
    Kind.PROXY_REFUSED: BY_UID,
    Kind.ROUTE_TAKES_ALL: "table {routes} has a default route of somebody else's, so packets with our mark would "
    "follow {rule}",
    Kind.ROUTE_TAKES_SOME: "{rule} of others in our table takes packets with our mark, answers to clients among them",
    Kind.ROUTE_BEHIND_OURS: "{rule} of others in our table is asked only if ours goes",
    Kind.ADDRESS_MISSING: MISSING,
    Kind.ADDRESS_LEFT: LEFT_OVER,
}
"""What is the matter, for each kind."""


def sentence_of(finding: Finding) -> str:
    """What is the matter, without where and what then."""
    rule = f"`{finding.rule}`"
    return WHAT[finding.kind].format(
        rule=rule,
        rules=count(finding.rules, "rule"),
        planned=finding.planned_position,
        why=f" ({finding.why})" if finding.why else "",
        example=finding.why,
        such=f", such as: {finding.why}" if finding.why else "",
        takes=finding.takes,
        remedy=f" ({finding.remedy} excludes it from our capture)" if finding.remedy else "",
        others=f"the rule of others {rule}" if finding.rule else "rules of others",
        by=f"the rule of others {rule}" if finding.table else finding.rule,
        table=f"{'ip' if finding.family is Family.V4 else 'ip6'} {finding.table}",
        routes=finding.rule.partition("table ")[2].partition(" ")[0],
    )


def count(number: int, what: str) -> str:
    """`1 rule`, `2 rules`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- our chains and jumps -----------------------------------------------------------------------------------


def compare(live: Ruleset, planned: Ruleset, company: Company = ALONE) -> tuple[Finding, ...]:
    """In what our part of what is live differs from what is planned, by table, chain and position.

    What a rerun repairs is exactly what `rules.live.changes.changes` does.
    """
    live = recognised(live, planned)
    names = dict.fromkeys([*OURS, *(table.table for table in planned.tables)])
    return tuple(found for name in names for found in in_table(live, planned, name, company))


def in_table(live: Ruleset, planned: Ruleset, name: str, company: Company) -> Iterator[Finding]:
    there, planned_table = live.table(name), planned.table(name)
    now, wanted = there.chains(), planned_table.chains()
    for chain in dict.fromkeys((*wanted, *now)):
        if there.is_built_in(chain):
            yield from in_built_in_chain(there, chain, planned, company)
    for chain in planned_table.declared:
        if chain not in now:
            yield Finding(Kind.CHAIN_MISSING, live.family, name, chain, rules=len(wanted[chain]))
        elif now[chain] != wanted[chain]:
            yield from in_our_chain(live.family, name, chain, now[chain], wanted[chain])
    for chain in there.declared:
        if is_ours(there, chain) and chain not in wanted and not is_remnant(there, chain):
            yield Finding(Kind.CHAIN_LEFT, live.family, name, chain, rules=len(now[chain]))


OF_CHAIN = (Kind.RULE_MISSING, Kind.RULE_UNEXPECTED, Kind.RULE_DOUBLED, Kind.RULE_MOVED)
OF_HOOK = (Kind.JUMP_MISSING, Kind.JUMP_LEFT, Kind.JUMP_DOUBLED, Kind.JUMP_MOVED)


def in_our_chain(
    family: Family, table: str, chain: str, now: Sequence[Rule], wanted: Sequence[Rule]
) -> Iterator[Finding]:
    found = differences(list(enumerate(now, 1)), wanted, OF_CHAIN)
    for kind, position, planned_position, rule in found:
        yield finding(kind, family, table, chain, position, planned_position, rule)


def in_built_in_chain(table: TableRules, chain: str, planned: Ruleset, company: Company) -> Iterator[Finding]:
    now = table.chains().get(chain, ())
    wanted = planned.table(table.table).chains().get(chain, ())
    for precedent in precedents_of(table, chain, now, planned, company) if wanted else ():
        yield above_ours(precedent, table.table, chain, planned)
    if placed(table, chain, planned, company) == now:
        return
    ours = [(at, now[at - 1]) for at in shared(table, chain, now, company)[0]]
    for kind, position, planned_position, rule in differences(ours, wanted, OF_HOOK):
        of_older = kind is Kind.JUMP_LEFT and not is_our_jump(table, rule)
        kind = Kind.OLDER_LEFT if of_older else kind
        yield finding(kind, planned.family, table.table, chain, position, planned_position, rule)


def above_ours(precedent: Precedent, table: str, chain: str, planned: Ruleset) -> Finding:
    """A rule of others that is asked before our jumps."""
    kind = Kind.OTHERS_ABOVE if precedent.is_passed else Kind.NARROWER_ABOVE
    found = finding(kind, planned.family, table, chain, precedent.position, 0, precedent.rule)
    if precedent.is_passed:
        return found
    from rules.live.precedence import exclusions

    remedy = exclusions(precedent, chain, planned) if table != FILTER else ""
    return found.but(takes=precedent.takes, remedy=remedy)


def beside_others(live: Ruleset, planned: Ruleset, company: Company, backend: str) -> Iterator[str]:
    """What is to be said of rules of others when all is as planned: what they keep from ours, and ours from them.

    Nothing of a chain where all that could be ours belongs to another mesh: no run goes there.
    """
    live = recognised(live, planned)
    for wanted in planned.tables:
        table = live.table(wanted.table)
        for chain in wanted.chains() if table.blocks else ():
            if wanted.is_built_in(chain):
                after = placed(table, chain, planned, company)
                ours, theirs = shared(table, chain, after, company)
                for precedent in precedents_of(table, chain, after, planned, company):
                    yield above_ours(precedent, wanted.table, chain, planned).but(backend=backend).sentence
                behind = [(at, rule) for at, rule in theirs if ours and at > ours[0]]
                for found in behind_ours(table, chain, behind, planned):
                    remedy = f"; {found.remedy} leaves that to it" if found.remedy else ""
                    what = f"the rule of others `{found.rule}` is asked behind ours, and gets nothing of what it is for"
                    yield f"{found.but(backend=backend).place}: {what}: {found.takes}{remedy}"


def behind_ours(
    table: TableRules, chain: str, theirs: Sequence[tuple[int, Rule]], planned: Ruleset
) -> Iterator[Finding]:
    """Redirections of others, narrower than ours, that would take something if they stood above."""
    if theirs:
        from rules.live.precedence import precedents

        for it in precedents(table, chain, theirs, planned, ALONE):
            if it.redirects and not it.is_passed:
                yield above_ours(it, table.table, chain, planned)


def finding(
    kind: Kind, family: Family, table: str, chain: str, position: int, planned_position: int, rule: Rule
) -> Finding:
    """What is the matter with a rule; its positions are counted from 1, and 0 where it is not."""
    places = (position or None, planned_position or None)
    return Finding(kind, family, table, chain, *places, rule_text(rule), rule.why, rule.setting)


def differences(
    now: Sequence[tuple[int, Rule]], wanted: Sequence[Rule], kinds: tuple[Kind, Kind, Kind, Kind]
) -> list[tuple[Kind, int, int, Rule]]:
    """Each difference with its position in what is live and in what is planned, and the rule as planned, if it is."""
    missing, unexpected, doubled, moved = kinds
    kept = aligned([rule for _, rule in now], wanted)
    in_place, as_planned = {at for at, _ in kept}, {at for _, at in kept}
    first_planned: dict[Rule, int] = {}
    lacking: dict[Rule, list[int]] = {}
    for at, rule in enumerate(wanted):
        first_planned.setdefault(rule, at)
        if at not in as_planned:
            lacking.setdefault(rule, []).append(at)
    found = []
    for at, (position, rule) in enumerate(now):
        if at in in_place:
            continue
        if lacking.get(rule):
            planned_at = lacking[rule].pop(0)
            found.append((moved, position, planned_at + 1, wanted[planned_at]))
        elif rule in first_planned:
            planned_at = first_planned[rule]
            found.append((doubled, position, planned_at + 1, wanted[planned_at]))
        else:
            found.append((unexpected, position, 0, rule))
    found += [(missing, 0, at + 1, wanted[at]) for places in lacking.values() for at in places]
    return sorted(found, key=lambda entry: entry[1] or entry[2])


EQUAL_RULES = 4
"""Of so many equal rules in a plan each is tried in every place; of more, the first stands for the first."""


def aligned(now: Sequence[Rule], wanted: Sequence[Rule]) -> list[tuple[int, int]]:
    """Which rules stay in place: pairs of indices, rising in both, as many as there can be.

    The longest common subsequence, found as the longest rising one (Hunt and Szymanski): rules seldom repeat, so the
    time grows with the length of the chain and little more.
    """
    head = 0
    while head < min(len(now), len(wanted)) and now[head] == wanted[head]:
        head += 1
    tail = 0
    while tail < min(len(now), len(wanted)) - head and now[-1 - tail] == wanted[-1 - tail]:
        tail += 1
    places: dict[Rule, list[int]] = {}
    for at in range(head, len(wanted) - tail):
        places.setdefault(wanted[at], []).append(at)
    seen: dict[Rule, int] = {}
    lowest: list[int] = []  # the lowest place at which a rising run of each length can end
    ends: list[tuple[int, int, int]] = []  # live index, planned index, the pair before it in the run; -1 for none
    last: list[int] = []  # which of `ends` is that of each length
    for at in range(head, len(now) - tail):
        possible = places.get(now[at], [])
        if len(possible) > EQUAL_RULES:
            nth = seen.get(now[at], 0)
            seen[now[at]] = nth + 1
            possible = possible[nth : nth + 1]
        for place in reversed(possible):
            length = first_not_below(lowest, place)
            ends.append((at, place, last[length - 1] if length else -1))
            lowest[length : length + 1] = [place]
            last[length : length + 1] = [len(ends) - 1]
    middle = []
    pair = last[-1] if last else -1
    while pair >= 0:
        at, place, pair = ends[pair]
        middle.append((at, place))
    behind = ((len(now) - tail + at, len(wanted) - tail + at) for at in range(tail))
    return [*((at, at) for at in range(head)), *reversed(middle), *behind]


def first_not_below(rising: Sequence[int], value: int) -> int:
    """Where in a rising list the first entry stands that is not below this value (`bisect_left`)."""
    low, high = 0, len(rising)
    while low < high:
        middle = (low + high) // 2
        if rising[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


# --- rules of others that no run can put right --------------------------------------------------------------


def not_tracked(live: Ruleset, planned: Ruleset) -> tuple[Finding, ...]:
    """The rules of others in raw that keep from conntrack what the plan captures.

    Such packets never meet the nat table, and a connection without a state cannot be remembered by its mark. Behind our
    jump a packet that has its zone from us is out of their reach (`xt_ct_target` of net/netfilter/xt_CT.c).
    """
    raw, family = live.table(RAW), live.family
    chains = raw.chains()
    found = {}
    for hook in (PREROUTING, OUTPUT):
        jumps = [at for at, rule in enumerate(chains.get(hook, ()), 1) if is_our_jump(raw, rule)]
        reachable = Reachable(chains, family)
        for end in reachable.reached(hook, reachable.of(hook), everything(family, hook)):
            if not isinstance(end.does, NoTrack) or is_ours(raw, end.chain) or (end.chain, end.position) in found:
                continue
            captured = [box for name in (NAT, MANGLE) for box in captures(planned, name, hook)]
            lost: list[Box] | None = [both for box in captured if (both := overlap(box, end.box)) is not None]
            if lost and jumps and jumps[0] < end.first:
                lost = remainder(lost, zoned(planned, hook), MOST_BOXES)
            if lost or lost is None:
                place = (RAW, end.chain, end.position)
                found[end.chain, end.position] = finding(Kind.NOT_TRACKED, family, *place, 0, end.rule)
    return tuple(found.values())


def captures(planned: Ruleset, table: str, hook: str) -> Iterator[Box]:
    """What is captured in this hook."""
    for outcome, boxes in Walk(planned.table(table), planned.family).outcomes.get(hook, {}).items():
        if outcome.captures:
            yield from boxes


def zoned(planned: Ruleset, hook: str) -> list[Box]:
    """What has a zone of conntrack from our rules."""
    outcomes = Walk(planned.table(RAW), planned.family).outcomes.get(hook, {})
    return [
        box
        for outcome, boxes in outcomes.items()
        for box in boxes
        if any(isinstance(it, Zone) for it, _ in outcome.remarks)
    ]
