"""Which rule decided about a connection: from what conntrack knows of it, and which rules have counted meanwhile.

Only the first packet of a connection walks the nat table. A rule that did not count was not met. Of one that did, its
matches tell whether it can have been met by this connection; the owner of the socket is not known to conntrack, so
where only that would tell, more than one rule remains. What no rule of ours counted, somebody else redirected.
"""

from __future__ import annotations

from rules.meaning.spoken import conditions
from rules.netfilter import fields as f
from rules.netfilter.spans import less, one
from rules.netfilter.targets import Accept, Dnat, Jump, Redirect, Return, Tproxy
from rules.netfilter.values import MANGLE, NAT, OUTPUT, PREROUTING, Family
from rules.ours.recognition import entered_from, is_our_jump
from rules.plan.names import ISTIO_DIVERT, ISTIO_IN_REDIRECT, ISTIO_REDIRECT, ISTIO_TPROXY, LOOPBACK_INTERFACE
from rules.value import Value

DEEPEST = 8
"""Chains that are followed into each other: more than ours ever are, and text from elsewhere may go in a circle."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence
    from typing import ClassVar, TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.iptables.counters import Place
    from rules.netfilter.rulesets import Rule, Ruleset, TableRules
    from rules.netfilter.targets import Target
    from rules.routing.policy import Route

    Ip: TypeAlias = IPv4Address | IPv6Address


class Connection(Value):
    """A new connection, as conntrack books it: where its first packet went, and where the answers come from."""

    family: Family
    """Of its addresses."""
    protocol: str
    """tcp, udp, or a number."""
    source: Ip
    """The address of who made it."""
    source_port: int
    """And the port."""
    destination: Ip
    """The address that was asked for."""
    destination_port: int
    """And the port."""
    answered_by: Ip
    """The address that answers: another than was asked for if it was redirected."""
    answered_by_port: int
    """And the port."""
    zone: int = 0

    @property
    def is_redirected(self) -> bool:
        """Whether its destination was changed."""
        return (self.answered_by, self.answered_by_port) != (self.destination, self.destination_port)

    def is_kept(self, routes: Iterable[Route]) -> bool:
        """Whether one of these routes is for where it went."""
        of_family = [route.destination for route in routes if route.family is self.family]
        return any(network is None or self.destination in network for network in of_family)


class Decision(Value):
    """A rule that decides about connections."""

    table: str
    """nat, or mangle in TPROXY mode."""
    chain: str
    """A chain of ours."""
    position: int
    """In its chain, counted from 1."""
    rule: Rule
    """As iptables-save writes it, without command and chain."""
    captures: bool
    """Whether it hands the connection to the proxy, or lets it go."""
    backend: str = ""
    """nft or legacy."""

    TOLD: ClassVar = ("backend", "table", "chain", "position", "rule", "captures", "why")

    @property
    def why(self) -> str:
        """What it is for, as its shape tells."""
        return self.rule.why


def decisions(ruleset: Ruleset) -> Iterator[Decision]:
    """Every rule of ours that decides about connections: those that hand them over, and those that let them go."""
    for name in (NAT, MANGLE):
        table = ruleset.table(name)
        for hook in (PREROUTING, OUTPUT):
            for chain in entered_from(table, hook):
                yield from deciding(table, chain)


def deciding(table: TableRules, chain: str) -> Iterator[Decision]:
    for position, rule in enumerate(table.chains().get(chain, ()), 1):
        is_direct = chain not in ENDS and isinstance(rule.target, Redirect | Dnat | Tproxy)
        if is_direct or hands_over(table, rule.target) is not None:
            yield Decision(table.table, chain, position, rule, captures=True)
        elif isinstance(rule.target, Return) and table.table == NAT:
            yield Decision(table.table, chain, position, rule, captures=False)


ENDS = frozenset({ISTIO_REDIRECT, ISTIO_IN_REDIRECT, ISTIO_TPROXY, ISTIO_DIVERT})
"""The chains that only carry out what the rule that jumps to them decided. That of DNS is none: it asks more."""


def hands_over(table: TableRules, target: Target) -> int | None:
    """The port of the proxy to which a jump leads at once."""
    if isinstance(target, Jump) and target.chain in ENDS:
        targets = [rule.target for rule in table.chains().get(target.chain, ())]
        return next((each.port for each in targets if isinstance(each, Redirect | Dnat | Tproxy)), None)
    return None


def decided_by(
    ruleset: Ruleset,
    made: Connection,
    local: Container[Ip],
    counted: Container[Place],
    routes: Sequence[Route] = (),
) -> tuple[Decision, ...]:
    """The rules that may have decided about this connection: one if it can be told, none if no rule of ours did.

    `local` are the addresses of the namespace, `counted` the places of rules whose counters moved, `routes` those of
    others that deliver here what ip rules let them see.
    """
    is_kept = made.is_kept(routes)
    hook = OUTPUT if is_outbound(made, local, is_kept=is_kept) else PREROUTING
    table, mangle, known = ruleset.table(NAT), ruleset.table(MANGLE), known_of(made, local, is_kept=is_kept)
    found = list(in_hook(table, hook, known, counted))
    handed = [each for each in in_hook(mangle, hook, known, counted) if each.captures]
    if made.is_redirected:
        # What others redirect behind TPROXY is handed to the proxy all the same.
        return tuple(each for each in found if leads_to(table, each, made.answered_by_port)) or tuple(handed)
    if hook == OUTPUT and (is_kept or stays(made, local)):
        # Over lo it arrives again. Its mark, for which rules ask there, is not known.
        back = list(in_hook(mangle, PREROUTING, known_back(known), counted))
        handed += back if any(each.captures for each in back) else []
    # What is sent to the proxy's port is redirected to where it went anyway.
    let_go = (each for each in found if not each.captures or leads_to(table, each, made.destination_port))
    return tuple(handed) or tuple(let_go)


def is_outbound(made: Connection, local: Container[Ip], *, is_kept: bool = False) -> bool:
    """Whether a process of this namespace made it. Who sends by IPv4 to an address that no interface has, and that a
    route delivers here (`is_kept`), may send from it; what arrives with such a source is dropped."""
    is_lent = is_kept and made.family is Family.V4 and made.source == made.destination
    return is_lent or made.source in local or made.source.is_loopback


def stays(made: Connection, local: Container[Ip]) -> bool:
    """Whether it was sent to an address of this namespace."""
    return made.destination in local or made.destination.is_loopback


def leads_to(table: TableRules, decision: Decision, port: int) -> bool:
    target = decision.rule.target
    is_direct = isinstance(target, Redirect | Dnat) and target.port == port
    return decision.captures and (is_direct or hands_over(table, target) == port)


def in_hook(table: TableRules, hook: str, known: f.Known, counted: Container[Place]) -> Iterator[Decision]:
    """The rules that decide, as far as this connection can have met them, in order."""
    for position, rule in enumerate(table.chains().get(hook, ()), 1):
        counts = (table.table, hook, position) in counted
        if isinstance(rule.target, Jump) and is_our_jump(table, rule) and counts:
            yield from in_chain(table, rule.target.chain, known, counted, DEEPEST)


def in_chain(
    table: TableRules, chain: str, known: f.Known, counted: Container[Place], deepest: int
) -> Iterator[Decision]:
    for position, rule in enumerate(table.chains().get(chain, ()), 1):
        holds = f.all_hold([each for match in rule.matches for each in conditions(match)], known)
        if holds is False or (table.table, chain, position) not in counted:
            continue
        target = rule.target
        captures = hands_over(table, target) is not None or isinstance(target, Redirect | Dnat | Tproxy)
        if captures or isinstance(target, Return | Accept):
            yield Decision(table.table, chain, position, rule, captures)
            if holds:
                return
        elif isinstance(target, Jump) and deepest:
            yield from in_chain(table, target.chain, known, counted, deepest - 1)


def known_of(made: Connection, local: Container[Ip], *, is_kept: bool) -> f.Known:
    """What each field of a connection's first packet may have been, as far as conntrack knows it; `is_kept` where a
    route may deliver it here."""
    number = f.PROTOCOLS.get(made.protocol) if not made.protocol.isdigit() else int(made.protocol)
    lo, elsewhere = one(LOOPBACK_INTERFACE), less(f.SOMEWHERE, one(LOOPBACK_INTERFACE))
    outbound = is_outbound(made, local, is_kept=is_kept)
    leaves = lo if stays(made, local) else f.SOMEWHERE if is_kept else elsewhere
    return (
        (0, 256) if number is None else one(number),
        one(int(made.source)),
        one(int(made.destination)),
        one(made.source_port),
        one(made.destination_port),
        f.OWNERS if outbound else f.NOBODY,
        f.OWNERS if outbound else f.NOBODY,
        f.NOWHERE if outbound else elsewhere,
        leaves if outbound else f.NOWHERE,
        one(f.STATES.index("NEW")),
        f.U32,
        f.U32,
        f.FIRST_FLAGS if made.protocol == "tcp" else (),
        one(f.UNTOUCHED),
    )


def known_back(known: f.Known) -> f.Known:
    """The same of a packet that left over lo, when it arrives there."""
    fields = dict(enumerate(known))
    fields |= {f.UID: f.NOBODY, f.GID: f.NOBODY, f.ARRIVED_ON: one(LOOPBACK_INTERFACE), f.LEAVES_ON: f.NOWHERE}
    return tuple(fields.values())
