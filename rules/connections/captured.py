"""Connections that our rules captured, and which of them a change lets go of.

A redirected connection lives by its entry in conntrack, and that acts as long as conntrack runs. When the last rule
goes that needs it, the next packet arrives unchanged at an end that knows nothing of it, and the connection is reset.
One that TPROXY's proxy passes on with the client's address lives by its mark, which brings the application's answers
back: it ends when the rules go that restore the mark.
"""

from __future__ import annotations

from rules.connections.flow import TCP
from rules.meaning.spoken import asked_of
from rules.meaning.tracking import needs_conntrack
from rules.netfilter.fields import CONNMARK
from rules.netfilter.hooks import KIND_NAT
from rules.netfilter.targets import Dnat, Redirect, RestoreMark
from rules.netfilter.values import NAT
from rules.ours.recognition import is_our_rule, is_ours, ours_in
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from rules.connections.flow import Flow, Ip
    from rules.netfilter.hooks import NativeTable
    from rules.netfilter.rulesets import Rule, Ruleset, TableRules
    from rules.netfilter.values import Family

UNDER_WAY = frozenset({2, 3, 4, 5})
"""Conntrack's states of TCP in which something may still be said: SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT."""


UNANSWERED = 1
"""The state in which nothing was said but the first SYN: SYN_SENT."""


class Entry(Value):
    """What conntrack has in its book of a connection."""

    began: Flow
    """The packets of who called, as they were sent."""
    answers: Flow
    """Those that come back, as they are sent: not `began` turned round if an address was changed."""
    state: int = 0
    """Of TCP (linux/netfilter/nf_conntrack_tcp.h)."""
    mark: int = 0

    @property
    def is_changed(self) -> bool:
        return self.answers != self.began.answered()


class Released(Value):
    """What a change lets go of in one family: by the ports that connections were redirected to, and by their marks."""

    family: Family
    ports: frozenset[int] = frozenset()
    marks: frozenset[int] = frozenset()
    cuts_redirected: bool = False
    """Whether redirected connections are reset, because no rules of others keep conntrack and NAT running."""

    def includes(self, entry: Entry) -> bool:
        """Whether this connection is one of them."""
        return (
            entry.began.protocol == TCP
            and entry.began.family is self.family
            and entry.state in UNDER_WAY
            and ((entry.is_changed and entry.answers.source_port in self.ports) or entry.mark in self.marks)
        )

    def cuts(self, entry: Entry) -> bool:
        """Whether this one of them is reset."""
        return self.cuts_redirected or entry.mark in self.marks


def released(
    nft: Ruleset, legacy: Ruleset, own: Ruleset, planned: Ruleset, natives: Sequence[NativeTable]
) -> Released | None:
    """What a change of a family from what is live, in all backends, to what is planned lets go of, if anything."""
    ours = [rule for ruleset in (nft, legacy, own) for _, _, rule in ours_in(ruleset).rules()]
    wanted = [rule for _, _, rule in planned.rules()]
    ends = not any(map(needs_conntrack, wanted))
    ports = frozenset(redirected_to(ours)) if ends else frozenset[int]()
    marks = frozenset(restored(ours)) - frozenset(restored(wanted))
    if not (ports or marks):
        return None
    native = [table for table in natives if not table.is_of_iptables]
    others = [rule for ruleset in (nft, legacy) for rule in of_others(*ruleset.tables)]
    others += [rule for table in native for _, rules in table.chains for rule in rules]
    # The hooks that change addresses stay as long as some nat chain does. The kernel cannot take back a legacy table.
    nat_stays = (
        any(table.table == NAT for table in legacy.tables)
        or any(of_others(nft.table(NAT)))
        or any(chain.kind == KIND_NAT for table in natives if not table.is_dormant for chain in table.base_chains)
    )
    return Released(planned.family, ports, marks, not (nat_stays and any(map(needs_conntrack, others))))


def is_outdated(entry: Entry, open_now: Container[Flow], sends: Container[Flow], here: Container[Ip]) -> bool:
    """Whether this entry has an open connection redirected to an end in this namespace that nobody has.

    It is what remains of a capture that is over: while conntrack did not run, the same ports came into use again.
    """
    return (
        entry.is_changed
        and (entry.began in open_now or entry.began.answered() in open_now)
        and (entry.answers.source.is_loopback or entry.answers.source in here)
        and entry.answers not in sends
    )


def is_half_open(entry: Entry, here: Container[Ip], families: Container[Family]) -> bool:
    """Whether this came from outside in one of these families, no rule has changed where it goes, and nobody has
    answered yet."""
    began = entry.began
    is_inbound = began.source not in here and not began.source.is_loopback
    return (
        began.protocol == TCP
        and began.family in families
        and entry.state == UNANSWERED
        and is_inbound
        and not entry.is_changed
    )


def redirected_to(rules: Iterable[Rule]) -> Iterator[int]:
    return (rule.target.port for rule in rules if isinstance(rule.target, Redirect | Dnat))


def restored(rules: Iterable[Rule]) -> Iterator[int]:
    """The marks that a connection remembers for its answers."""
    for rule in rules:
        if isinstance(rule.target, RestoreMark):
            yield from (span[0] for span in asked_of(CONNMARK, rule.matches))


def of_others(*tables: TableRules) -> Iterator[Rule]:
    """The rules that stay when ours go."""
    for table in tables:
        for block in table.blocks:
            if not is_ours(table, block.chain):
                yield from (rule for rule in block.rules if not is_our_rule(table, block.chain, rule))
