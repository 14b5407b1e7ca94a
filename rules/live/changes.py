"""From what is in the kernel to what should be: the commands of one iptables-restore, or none.

Within one table iptables-restore commits everything at once, so no packet ever meets a state between the two.
"""

from __future__ import annotations

from rules.iptables.writing import COMMENT, appending, is_restorable, reads_back, restore_rule
from rules.netfilter.matches import Foreign
from rules.netfilter.rulesets import Rule, TableRules
from rules.netfilter.targets import ForeignTarget
from rules.ours.recognition import NOBODY, is_our_rule, is_ours, is_remnant, ours_in
from rules.plan.names import OURS
from rules.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.live.precedence import Precedent
    from rules.netfilter.rulesets import Ruleset


class NewChain(Value):
    """`-N`: fails if the chain exists. Unlike `Redeclare` it does not make nft wait for readers to leave."""

    chain: str


class Redeclare(Value):
    """`:CHAIN - [0:0]`: the chain exists and is empty, whatever it held, in the commit that fills it again."""

    chain: str


class RemoveChain(Value):
    """`-X`: it must be empty and nothing may jump to it."""

    chain: str


class Append(Value):
    """`-A`: behind all that the chain holds."""

    chain: str
    rule: Rule


class Fill(Value):
    """`-A` for each of these."""

    chain: str
    rules: Sequence[Rule]


class Insert(Value):
    """`-I`: so that it becomes the rule at this position, counted from 1."""

    chain: str
    position: int
    rule: Rule


class Delete(Value):
    """`-D`: the rule that reads so, which is the first that does; by its position if it cannot be found by its text."""

    chain: str
    rule: Rule
    position: int


if TYPE_CHECKING:
    OneByOne: TypeAlias = NewChain | Redeclare | RemoveChain | Append | Insert | Delete
    Command: TypeAlias = OneByOne | Fill


class Change(Value):
    """What is to be done to one table, in one commit."""

    table: str
    commands: tuple[Command, ...]

    def lines(self) -> Iterator[tuple[str, Command | None]]:
        """Each line of the restore input, with the command that it is, if it is one."""
        yield f"*{self.table}", None
        for command in self.commands:
            for each in one_by_one(command):
                yield command_text(each), each
        yield "COMMIT", None


class Company(Value):
    """Whom our rules share a namespace with, and who goes first."""

    taken_over: frozenset[str] = NOBODY
    """Chains of others that go, with the jumps to them."""
    ours_first: bool = False
    """Whether every rule of others is passed that could take packets from ours, not only one that takes all."""
    interfaces: tuple[str, ...] = ()
    """The interfaces by which others are reached; none if they are not known."""
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    """The addresses by which others reach this namespace; none if they are not known."""


ALONE = Company()


def changes(live: Ruleset, planned: Ruleset, company: Company = ALONE) -> tuple[Change, ...]:
    """What turns what is live into what is planned, table by table; empty if nothing of ours differs.

    Rules and chains of others that are not taken over stay as they are, to the letter and in their order.
    """
    also = company.taken_over
    return changed(live, planned, also, lambda table, chain: placed(live.table(table), chain, planned, company))


def changes_back(live: Ruleset, before: Ruleset, also: frozenset[str] = NOBODY) -> tuple[Change, ...]:
    """What makes our part (and that of those who are taken over) what it was, with every jump at its old position."""

    def position(table: str, chain: str) -> tuple[Rule, ...]:
        was = before.table(table)
        now = [rule for rule in live.table(table).chains().get(chain, ()) if not is_our_rule(was, chain, rule, also)]
        for at, rule in enumerate(was.chains().get(chain, ())):
            if is_our_rule(was, chain, rule, also):
                now.insert(at, rule)
        return tuple(now)

    return changed(live, ours_in(before, also), also, position)


def changed(
    live: Ruleset, planned: Ruleset, also: frozenset[str], becomes: Callable[[str, str], Sequence[Rule]]
) -> tuple[Change, ...]:
    """The changes, where `becomes` tells what a built-in chain of a table is to hold.

    What is planned comes in the order of the plan. Tables that we leave go afterwards, in the opposite order: as long
    as nat captures DNS, raw keeps it in its zones.
    """
    names = dict.fromkeys([*(table.table for table in planned.tables if table.blocks), *reversed(OURS)])
    per_table = (Change(name, tuple(commands(live.table(name), planned.table(name), also, becomes))) for name in names)
    return tuple(change for change in per_table if change.commands)


def commands(
    live: TableRules,
    planned: TableRules,
    also: frozenset[str],
    becomes: Callable[[str, str], Sequence[Rule]],
) -> Iterator[Command]:
    now, wanted = live.chains(), planned.chains()
    ours = [chain for chain in live.declared if is_ours(live, chain, also)]
    differing = {chain for chain in planned.declared if now.get(chain) != wanted[chain]}
    leftover = [chain for chain in ours if chain not in wanted and not is_remnant(live, chain)]
    # `-N` does not make nft wait for readers to leave, as emptying a chain does.
    yield from (NewChain(chain) for chain in planned.declared if chain not in now)
    yield from (Redeclare(chain) for chain in (*planned.declared, *leftover) if chain in now and chain not in wanted)
    yield from (Redeclare(chain) for chain in planned.declared if chain in now and chain in differing)
    is_fresh = not ours
    for block in planned.blocks:
        if block.chain in differing or (is_fresh and not now.get(block.chain)):
            yield Fill(block.chain, block.rules)
    for chain in dict.fromkeys((*wanted, *now)):
        if live.is_built_in(chain) and (now.get(chain) or not is_fresh):
            yield from hook_commands(chain, live, now.get(chain, ()), becomes(live.table, chain), also)
    yield from (RemoveChain(chain) for chain in leftover if chain not in live.held)


def hook_commands(
    chain: str, table: TableRules, now: Sequence[Rule], wanted: Sequence[Rule], also: frozenset[str]
) -> Iterator[Command]:
    """Take our jumps out of a built-in chain and put them where they are wanted among the rules of others."""
    if now == wanted:
        return
    going = [at for at, rule in enumerate(now, 1) if is_our_rule(table, chain, rule, also)]
    yield from (Delete(chain, now[at - 1], at - gone) for gone, at in enumerate(going))
    behind_all = sum(not is_our_rule(table, chain, rule, also) for rule in now)
    for at, rule in enumerate(wanted):
        if is_our_rule(table, chain, rule, also):
            yield Append(chain, rule) if at == behind_all else Insert(chain, at + 1, rule)
            behind_all += 1


def placed(live: TableRules, chain: str, planned: Ruleset, company: Company = ALONE) -> Sequence[Rule]:
    """What a built-in chain is to hold: the rules of others as they are, and our jumps among them.

    Jumps that are as planned stay where they are; others take the place of the first that was there, or stand
    behind all. But none stands below a rule of others that is passed (`rules.live.precedence`).
    """
    now = live.chains().get(chain, ())
    wanted = planned.table(live.table).chains().get(chain, ())
    ours, theirs = shared(live, chain, now, company)
    if not wanted or not theirs:
        return wanted or tuple(rule for _, rule in theirs)
    first = ours[0] if ours else len(now) + 1
    stands = tuple(now[at - 1] for at in ours) == wanted
    before = rules_before(live, chain, theirs, ours[-1] if stands else first, planned, company)
    passed = next((it.position for it in before if it.is_passed), None)
    if stands and passed is None:
        return now
    above = [rule for at, rule in theirs if at < min(first, passed or first)]
    return (*above, *wanted, *(rule for _, rule in theirs[len(above) :]))


def shared(
    live: TableRules, chain: str, rules: Sequence[Rule], company: Company
) -> tuple[list[int], list[tuple[int, Rule]]]:
    """The places of our rules in a built-in chain, counted from 1, and the rules of others with theirs."""
    ours = [at for at, rule in enumerate(rules, 1) if is_our_rule(live, chain, rule, company.taken_over)]
    return ours, [(at, rule) for at, rule in enumerate(rules, 1) if at not in ours]


def rules_before(
    live: TableRules,
    chain: str,
    theirs: Sequence[tuple[int, Rule]],
    place: int,
    planned: Ruleset,
    company: Company,
) -> tuple[Precedent, ...]:
    """Which rules of others take packets from jumps of ours that stand at this place."""
    before = [(at, rule) for at, rule in theirs if at < place]
    if not before:
        return ()
    from rules.live.precedence import precedents  # not needed where a pod starts, unless others have rules there

    return precedents(live, chain, before, planned, company)


def precedents_of(
    live: TableRules, chain: str, rules: Sequence[Rule], planned: Ruleset, company: Company
) -> tuple[Precedent, ...]:
    """The same for a built-in chain that holds these rules, ours among them."""
    ours, theirs = shared(live, chain, rules, company)
    return rules_before(live, chain, theirs, ours[-1], planned, company) if ours else ()


def with_stand_ins(changes: tuple[Change, ...]) -> tuple[tuple[Change, ...], dict[Rule, Rule]]:
    """The same changes as iptables-restore can be given them, and which rule stands in for which other one.

    A rule that takes more than one line is put back by another way; till then one that asks nothing keeps its place.
    """
    waiting: dict[Rule, Rule] = {}

    def written(command: OneByOne) -> OneByOne:
        if not isinstance(command, Append | Insert) or is_restorable(command.rule):
            return command
        comment = Foreign(f'{COMMENT}"capture puts a rule back here: {len(waiting) + 1}"')
        stand_in = Rule((comment,), ForeignTarget(""))
        waiting[stand_in] = command.rule
        return command.but(rule=stand_in)

    return tuple(
        change.but(commands=tuple(written(each) for command in change.commands for each in one_by_one(command)))
        for change in changes
    ), waiting


def one_by_one(command: Command) -> Iterable[OneByOne]:
    """The commands of a line each that it stands for."""
    return (Append(command.chain, rule) for rule in command.rules) if isinstance(command, Fill) else (command,)


def command_text(command: OneByOne) -> str:
    """The command as iptables-restore reads it."""
    match command:
        case NewChain(chain):
            return f"-N {chain}"
        case Redeclare(chain):
            return f":{chain} - [0:0]"
        case RemoveChain(chain):
            return f"-X {chain}"
        case Append(chain, rule):
            return joined("-A", chain, rule)
        case Insert(chain, position, rule):
            return joined("-I", f"{chain} {position}", rule)
        case Delete(chain, rule, position):
            return joined("-D", chain, rule) if reads_back(rule) else f"-D {chain} {position}"
        case _:
            assert_never(command)


def joined(verb: str, place: str, rule: Rule) -> str:
    text = restore_rule(rule)
    return f"{verb} {place} {text}" if text else f"{verb} {place}"


def restore_text(changes: tuple[Change, ...]) -> str:
    """The input of `iptables-restore --noflush` that makes these changes."""
    return "".join(f"{line}\n" for line in restore_lines(changes))


def restore_lines(changes: Sequence[Change]) -> Iterator[str]:
    """The same line by line, of a long list many at once."""
    for change in changes:
        yield f"*{change.table}"
        for command in change.commands:
            if isinstance(command, Fill):
                yield from appending(command.chain, command.rules, restore_rule)
            else:
                yield command_text(command)
        yield "COMMIT"
