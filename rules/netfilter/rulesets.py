"""Rules, and what holds them: chains, tables, and the ruleset of a family."""

from __future__ import annotations

from rules.lists import joined
from rules.netfilter.targets import Jump
from rules.netfilter.values import BUILT_IN
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rules.netfilter.matches import Match
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Family


class Rule(Value):
    """Matches that must all hold, and the target if they do.

    Two rules are equal if the kernel cannot tell them apart: the order of the matches, the two fields that are for
    people, and how the kernel spells it do not count.
    """

    matches: tuple[Match, ...]
    target: Target
    why: str = ""
    """What this rule is for, in the words of someone reading a trace. Empty if that is not known, as of
    what was read from the kernel."""
    setting: str = ""
    """The setting that asked for it, by its name in their schema; empty if every capture has this rule."""
    text: str = ""
    """In what was read from the kernel: how it printed the rule, to the letter."""

    def _meaning(self) -> tuple[frozenset[Match], Target]:
        return (frozenset(self.matches), self.target)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return False
        return self is other or (
            self.target == other.target
            and (self.matches == other.matches or frozenset(self.matches) == frozenset(other.matches))
        )

    def __hash__(self) -> int:
        return hash(self._meaning())


class When(Value):
    """The matches of a rule that waits for its target, so that a flow reads: when this, then that."""

    matches: tuple[Match, ...]

    def then(self, target: Target, *, why: str, setting: str = "") -> Rule:
        return Rule(self.matches, target, why, setting)


def when(*matches: Match) -> When:
    """`when(TCP, DPort(22)).then(BYPASS, why=…)`."""
    return When(matches)


class Block(Value):
    """Consecutive rules of one chain, as text has them. A chain is all its blocks, in order."""

    chain: str
    rules: Sequence[Rule]

    @classmethod
    def of(cls, chain: str, *answers: Iterable[Rule]) -> Block:
        """The rules of several questions, asked one after the other."""
        return cls(chain, joined(*answers))


class TableRules(Value):
    """What one table of one family holds, or should hold.

    `declared` names the user-defined chains, `blocks` the rules in the order of the text; the blocks of a
    built-in chain are our hooks in it (planned), or all there is (live). `policies` are a live table's answers
    where no rule gave one. Equal if every chain exists in both with the same rules: neither the order in which
    the chains are written down counts, nor the policies, which are never ours.
    """

    table: str
    declared: tuple[str, ...]
    blocks: tuple[Block, ...]
    policies: tuple[tuple[str, str], ...] = ()
    not_ours: frozenset[str] = frozenset()
    """Chains that have the name of one of ours and are another mesh's (`rules.ours.meshes`)."""
    is_dormant: bool = False
    """Whether nf_tables asks none of its chains (`flags dormant`), which iptables does not show."""
    older: frozenset[tuple[str, Rule]] = frozenset()
    """Rules of built-in chains that an older istio-iptables put there, which are ours (`rules.ours.older`)."""
    held: frozenset[str] = frozenset()
    """Chains of ours that something of others leads to, so that the kernel lets none of them go (`rules.ours.held`)."""

    def chains(self) -> dict[str, Sequence[Rule]]:
        """Every user-defined chain, and every built-in one that has rules, with its rules in order."""
        chains: dict[str, Sequence[Rule]] = dict.fromkeys(self.declared, ())
        for block in self.blocks:
            if block.rules:
                before = chains.get(block.chain, ())
                chains[block.chain] = joined(before, block.rules) if before else block.rules
        return chains

    def is_built_in(self, chain: str) -> bool:
        return chain in BUILT_IN.get(self.table, ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableRules) and self.table == other.table and self.chains() == other.chains()

    def __hash__(self) -> int:
        return hash((self.table, frozenset(self.chains().items())))


def reached_from(chains: Mapping[str, Sequence[Rule]], first: Iterable[str]) -> tuple[str, ...]:
    """These chains, and those among `chains` that jumps lead to from them, each once, nearest first."""
    found = dict.fromkeys(first)
    waiting = list(found)
    for chain in waiting:
        goals = (rule.target.chain for rule in chains.get(chain, ()) if isinstance(rule.target, Jump))
        new = dict.fromkeys(goal for goal in goals if goal in chains and goal not in found)
        found |= new
        waiting += new
    return tuple(found)


class Ruleset(Value):
    """The tables of one family: what should be there (a plan), or what is (parsed from the kernel)."""

    family: Family
    tables: tuple[TableRules, ...] = ()

    def table(self, name: str) -> TableRules:
        """The table of that name; an empty one if nothing is said of it."""
        for table in self.tables:
            if table.table == name:
                return table
        return TableRules(name, (), ())

    def kinds(self) -> Iterator[Rule]:
        """Every rule, but of those of a long list, which differ in their network alone, only one."""
        for table in self.tables:
            for block in table.blocks:
                if isinstance(block.rules, tuple):
                    yield from block.rules
                else:
                    from rules.lists.long import lots

                    yield from (rule for rule, _ in lots(block.rules))

    def rules(self) -> Iterator[tuple[str, str, Rule]]:
        """Every rule with its table and chain, in the order of the text."""
        for table in self.tables:
            for block in table.blocks:
                for rule in block.rules:
                    yield table.table, block.chain, rule
