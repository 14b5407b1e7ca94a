"""From what is in the kernel to what should be: the commands of one iptables-restore, or none.

Within one table iptables-restore commits everything at once, so no packet ever meets a state between the two.
"""

from __future__ import annotations

from rules.names import OURS
from rules.render import rule_text
from rules.values import Jump, Rule, TableRules, Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from rules.values import Ruleset


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


class Insert(Value):
    """`-I`: so that it becomes the rule at this position, counted from 1."""

    chain: str
    position: int
    rule: Rule


class Delete(Value):
    """`-D`: the first rule that reads so."""

    chain: str
    rule: Rule


if TYPE_CHECKING:
    Command: TypeAlias = NewChain | Redeclare | RemoveChain | Append | Insert | Delete


class Change(Value):
    """What is to be done to one table, in one commit."""

    table: str
    commands: tuple[Command, ...]

    def lines(self) -> Iterator[tuple[str, Command | None]]:
        """Each line of the restore input, with the command that it is, if it is one."""
        yield f"*{self.table}", None
        for command in self.commands:
            yield command_text(command), command
        yield "COMMIT", None


def changes(live: Ruleset, planned: Ruleset) -> tuple[Change, ...]:
    """What turns what is live into what is planned, table by table; empty if nothing of ours differs.

    The rules and chains of others stay where they are, to the letter and in their order.
    """
    names = dict.fromkeys([table.table for table in planned.tables] + list(OURS))
    asked = (Change(name, tuple(commands(live.table(name), planned.table(name)))) for name in names)
    return tuple(change for change in asked if change.commands)


def commands(live: TableRules, planned: TableRules) -> Iterator[Command]:
    if not holds_ours(live):
        yield from map(NewChain, planned.declared)
        for block in planned.blocks:
            for rule in block.rules:
                yield Append(block.chain, rule)
        return
    now, wanted = live.chains(), planned.chains()
    differing = {chain for chain in planned.declared if now.get(chain) != wanted[chain]}
    leftover = [chain for chain in live.declared if is_ours(live.table, chain) and chain not in wanted]
    yield from (Redeclare(chain) for chain in (*planned.declared, *leftover) if chain in differing or chain in leftover)
    for block in planned.blocks:
        if block.chain in differing:
            yield from (Append(block.chain, rule) for rule in block.rules)
    for chain in dict.fromkeys((*wanted, *now)):
        if live.is_built_in(chain):
            yield from hook_commands(chain, now.get(chain, ()), wanted.get(chain, ()), live.table)
    yield from map(RemoveChain, leftover)


def hook_commands(chain: str, now: tuple[Rule, ...], wanted: tuple[Rule, ...], table: str) -> Iterator[Command]:
    """Replace our jumps in a built-in chain where they stand, or put them behind the rules of others."""
    ours = [(at, rule) for at, rule in enumerate(now) if is_our_jump(table, rule)]
    if tuple(rule for _, rule in ours) == wanted:
        return
    # -D takes the first rule that reads so: of equal ones, whichever goes, the others are the same.
    yield from (Delete(chain, rule) for _, rule in ours)
    if ours:
        first = ours[0][0] + 1
        yield from (Insert(chain, first + offset, rule) for offset, rule in enumerate(wanted))
    else:
        yield from (Append(chain, rule) for rule in wanted)


def is_ours(table: str, chain: str) -> bool:
    """Whether a chain of this name in this table is ours."""
    return chain in OURS.get(table, ())


def is_our_jump(table: str, rule: Rule) -> bool:
    """Whether this rule of a built-in chain is ours: all that we put there are jumps to our chains."""
    return isinstance(rule.target, Jump) and is_ours(table, rule.target.chain)


def holds_ours(table: TableRules) -> bool:
    """Whether anything of ours is in this table."""
    return any(is_ours(table.table, chain) for chain in table.declared)


def ours_in(live: Ruleset) -> Ruleset:
    """Our part of what is live: our chains, and our jumps in the built-in ones."""
    return live.but(tables=tuple(ours_in_table(table) for table in live.tables if holds_ours(table)))


def ours_in_table(table: TableRules) -> TableRules:
    chains = tuple(chain for chain in table.declared if is_ours(table.table, chain))
    blocks = []
    for block in table.blocks:
        if block.chain in chains:
            blocks.append(block)
        elif table.is_built_in(block.chain):
            jumps = tuple(rule for rule in block.rules if is_our_jump(table.table, rule))
            if jumps:
                blocks.append(block.but(rules=jumps))
    return TableRules(table.table, chains, tuple(blocks))


def command_text(command: Command) -> str:
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
        case Delete(chain, rule):
            return joined("-D", chain, rule)
        case _:
            assert_never(command)


def joined(verb: str, place: str, rule: Rule) -> str:
    text = rule_text(rule)
    return f"{verb} {place} {text}" if text else f"{verb} {place}"


def restore_text(asked: tuple[Change, ...]) -> str:
    """The input of `iptables-restore --noflush` that makes these changes."""
    return "".join(f"{line}\n" for change in asked for line, _ in change.lines())
