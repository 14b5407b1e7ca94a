"""Whether a rule needs conntrack, whatever tool wrote it."""

from __future__ import annotations

from rules.meaning.spoken import conditions, effect
from rules.netfilter.effects import Bind, BindSource, Forget, Remark, first_of
from rules.netfilter.fields import CONNMARK, REWRITTEN, STATE, AnyOf, Untold
from rules.netfilter.matches import Foreign, Native
from rules.netfilter.targets import ForeignTarget, NativeTarget, Zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.effects import Effect
    from rules.netfilter.fields import Condition
    from rules.netfilter.rulesets import Rule

MODULES = frozenset(
    {
        *("conntrack", "state", "connmark", "connbytes", "connlabel", "connlimit", "helper", "cluster"),
        *("REDIRECT", "DNAT", "SNAT", "MASQUERADE", "NETMAP", "CONNMARK", "CONNSECMARK", "CT", "SYNPROXY"),
    }
)
"""Matches and targets of iptables that need it."""
NATIVE = frozenset(
    {"ct", "dnat", "snat", "masquerade", "redirect", "synproxy", "MASQUERADE", "SNAT", "DNAT", "REDIRECT"}
)
"""Words of nft that do."""


def needs_conntrack(rule: Rule) -> bool:
    """Whether this rule, ours or not, switches conntrack on for its family, in whatever chain (nf_ct_netns_get).

    Without, no chain of type nat is asked.
    """
    parts = (*rule.matches, rule.target)
    return (
        any(map(does, first_of(effect(rule.target))))
        or any(asks(condition) for match in rule.matches for condition in conditions(match))
        or any(is_named(part.text) for part in parts if isinstance(part, Foreign | ForeignTarget))
        or any(NATIVE.intersection(part.text.split()) for part in parts if isinstance(part, Native | NativeTarget))
    )


def does(done: Effect) -> bool:
    """Whether this cannot be done without."""
    match done:
        case Bind() | BindSource() | Zone():
            return True
        case Remark(onto, _, taken, _):
            return onto == CONNMARK or taken > 0
        case Forget(onto):
            return onto == CONNMARK
        case _:
            return False


def asks(condition: Condition) -> bool:
    """Whether conntrack has the answer."""
    if isinstance(condition, AnyOf):
        return any(asks(each) for way in condition.ways for each in way)
    return not isinstance(condition, Untold) and condition.field in (STATE, CONNMARK, REWRITTEN)


def is_named(text: str) -> bool:
    """Whether a match or target in the words of iptables is one of those."""
    words = text.split()
    return words[1:2] != [] and words[0] in ("-m", "-j") and words[1] in MODULES and "--notrack" not in words
