"""How iptables-save prints a rule that is planned: what reads so, to the letter, need not be taken apart."""

from __future__ import annotations

from rules.iptables import reading
from rules.iptables.writing import match_text, rule_text, target_text
from rules.netfilter import matches as m
from rules.netfilter.rulesets import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

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


def expect(rulesets: Iterable[Ruleset]) -> None:
    """Have the reader know these rules at sight. It reads the same without, only not as soon.

    Not before there is something to read: in a new namespace that is after iptables-restore, which takes memory, too.
    """

    def tell() -> None:
        for ruleset in rulesets:
            for _, _, rule in ruleset.rules():
                text = printed(rule)
                reading.remember(text, Rule(rule.matches, rule.target, "", "", text))

    reading.when_needed(tell)
