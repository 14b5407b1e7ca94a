"""How iptables-save prints what is planned: what reads so, to the letter, need not be taken apart."""

from __future__ import annotations

from rules.iptables.writing import appending, match_text, rule_text, target_text
from rules.netfilter import matches as m
from rules.netfilter.rulesets import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Ruleset

GENERAL = (m.Src, m.Dst, m.InIface, m.OutIface, m.Proto)
"""The matches of no module in the order in which they are printed, before all others (`print_rule4` in iptables.c)."""


def printed(rule: Rule) -> str:
    """The rule as iptables-save will most likely print it: where it does not, the line is read word by word."""
    if len(rule.matches) < 2:
        return rule_text(rule)
    protocol, words = "", []
    for match in sorted(rule.matches, key=place):
        inner = match.match if isinstance(match, m.Not) else match
        if isinstance(inner, m.Proto):
            protocol = inner.name
        # `-p tcp --dport` loads the module by itself, and the kernel's text names it.
        module = f"-m {protocol} " if isinstance(inner, m.DPort | m.SPort) else ""
        words.append(module + match_text(match))
    return " ".join((*words, target_text(rule.target)))


def place(match: Match) -> int:
    kind = type(match.match if isinstance(match, m.Not) else match)
    return GENERAL.index(kind) if kind in GENERAL else len(GENERAL)


class Expected:
    """What will probably be read, chain by chain. It is read the same without, only not as soon."""

    def __init__(self, planned: Ruleset, ours: Mapping[str, frozenset[str]]) -> None:
        self.tables = {table.table: table.declared for table in planned.tables}
        self.rules = {table.table: table.chains() for table in planned.tables}
        self.ours = ours
        """The names that chains of ours can have, by table: their lists are read when they are asked for."""

    def declared(self, table: str) -> tuple[str, ...]:
        """The chains without which none of this table is as expected."""
        return self.tables.get(table, ())

    def chains(self, table: str) -> dict[str, Sequence[Rule]]:
        return self.rules.get(table, {})


def read_from(chain: str, rules: Sequence[Rule]) -> tuple[str, Sequence[Rule]]:
    """All lines of a chain with these rules, and the rules as they are read from them."""
    if isinstance(rules, tuple):
        texts = list(map(printed, rules))
        lines = "".join(f"-A {chain} {text}\n" for text in texts)
        pairs = zip(rules, texts, strict=True)
        return lines, tuple(Rule(rule.matches, rule.target, "", "", text) for rule, text in pairs)
    from rules.lists.long import Read

    def as_read(rule: Rule) -> Rule:
        return Rule(rule.matches, rule.target, "", "", printed(rule))

    return "".join(f"{line}\n" for line in appending(chain, rules, printed)), Read(rules, as_read)
