"""Whether rules of others take what a plan captures, so that it matters which backend is asked first.

Both backends act on traffic, and of two nat tables the one that was made later is asked first; nothing tells which that
is. In one table the place of a rule decides.
"""

from __future__ import annotations

from rules.analysis.boxes import everything, overlap
from rules.live.changes import shared
from rules.live.precedence import below_of, claims, ends, kinds, reach
from rules.meaning.spoken import effect
from rules.netfilter.effects import Bind, Hand, Unknown, first_of
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import MANGLE, NAT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.live.changes import Company
    from rules.live.precedence import Taking


def others_take(live: Ruleset, planned: Ruleset, company: Company) -> bool:
    """Whether rules of others send elsewhere what this plan captures, if they are asked before it."""
    return any(
        hook_is_taken(live, planned, name, hook, company)
        for name in (NAT, MANGLE)
        for hook in planned.table(name).chains()
        if planned.table(name).is_built_in(hook)
    )


def hook_is_taken(live: Ruleset, planned: Ruleset, name: str, hook: str, company: Company) -> bool:
    table, chains = live.table(name), live.table(name).chains()
    _, theirs = shared(table, hook, chains.get(hook, ()), company)
    claimed = claims(planned, name, hook) if theirs else []
    if not claimed:
        return False
    local = kinds(planned.family, company)["LOCAL"]
    below = below_of(table, Ruleset(planned.family))  # whatever chains of ours are there
    return any(
        overlap(reach(end.box, local), claim)
        for _, rule in theirs
        for end in ends(below, hook, rule, everything(planned.family, hook))
        if sends_elsewhere(end)
        for claim in claimed
    )


def sends_elsewhere(end: Taking) -> bool:
    return any(isinstance(done, Bind | Hand | Unknown) for done in first_of(effect(end.target)))
