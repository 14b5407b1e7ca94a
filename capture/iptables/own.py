"""Our own tables of nf_tables, as the kernel tells them: no program is asked."""

from __future__ import annotations

from capture.iptables.saved import Saved
from capture.netlink import nf_tables
from rules.native.reading import own
from rules.native.writing import transaction
from rules.netfilter.rulesets import Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.values import Family
    from rules.nftables.messages import Dump


def own_in(told: Dump, family: Family) -> Saved | None:
    """Our own table of this family among these; None if it is not there, or not one that we make."""
    held = own(told, family)
    if held is None:
        return None
    text = "\n".join(line for line, _ in transaction(Ruleset(family), held.ruleset))
    return Saved(held.ruleset, text, counts=held.counts)


def own_saved(family: Family) -> Saved:
    """What our own table of this family holds now; nothing if it is not there. Raises OSError."""
    return own_in(nf_tables.read(), family) or Saved(Ruleset(family), "")
