"""Rules of older istio-iptables in built-in chains, known by their shape.

Up to 1.23 it put some rules next to its jumps and not into chains of its own: DNS in nat OUTPUT (and POSTROUTING, up to
1.8), conntrack zones in raw, marks of TPROXY in mangle, what else arrives on an interface of KubeVirt in nat
PREROUTING. They are ours to remove as its chains are, where such chains are there or come in their place. What could as
well be another tool's is left alone, and named.
"""

from __future__ import annotations

from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.hooks import POSTROUTING
from rules.netfilter.values import MANGLE, NAT, OUTPUT, PREROUTING, RAW, Family, Ports
from rules.plan.names import (
    DNS_PORT,
    ISTIO_DIVERT,
    ISTIO_OUTPUT,
    ISTIO_REDIRECT,
    LOOPBACK,
    LOOPBACK_INTERFACE,
    OURS,
    PROXY_LOOP_MARK,
    ZONE_OF_APP,
    ZONE_OF_PROXY,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.netfilter.rulesets import Rule, Ruleset

    Place = tuple[str, str, Rule]
    """A table, a built-in chain in it, and a rule there."""

RESOLVER_PORT = 15053
"""Where istio's agent answers DNS; it cannot be set there."""
UDP, TCP = m.Proto("udp"), m.Proto("tcp")
TO_DNS, FROM_DNS = m.DPort(Ports.one(DNS_PORT)), m.SPort(Ports.one(DNS_PORT))
FROM_RESOLVER, TO_RESOLVER = m.SPort(Ports.one(RESOLVER_PORT)), m.DPort(Ports.one(RESOLVER_PORT))
HERE = LOOPBACK[Family.V4]
TO_AGENT = t.Dnat(HERE.network_address, RESOLVER_PORT)
FROM_LOOPBACK = t.ForeignTarget("-j SNAT --to-source 127.0.0.1")
FROM_ITSELF = frozenset({m.Src(HERE), m.Not(m.Dst(HERE))})
ON_LO = m.OutIface(LOOPBACK_INTERFACE)
INVALID = m.CtState(frozenset({"INVALID"}))


def older(live: Ruleset) -> tuple[Place, ...]:
    """The rules that only istio-iptables makes, of this family, in the order of the text.

    Each kind is known by one of its rules that nobody else has a use for; the others beside it belong to it.
    """
    return (*zones(live), *marks(live), *virtual(live), *dns(live))


def doubtful(live: Ruleset) -> Iterator[Place]:
    """The rules that istio-iptables may have made, and somebody else as well, in the order of the text.

    Where chains of ours are: those for -c, -k and --drop-invalid. Where none are, what only its shape speaks for.
    """
    if not any(chain in OURS[table.table] for table in live.tables if table.table in OURS for chain in table.declared):
        yield from older(live)
        return
    known = older(live)
    for table in (MANGLE, NAT):
        for hook, interface in ((PREROUTING, m.InIface), (OUTPUT, m.OutIface)):
            for rule in live.table(table).chains().get(hook, ()):
                is_bypass = rule.target == t.Return() and [type(match) for match in rule.matches] == [interface]
                is_bypass &= (table, hook, rule) not in known
                if is_bypass or (table == MANGLE and rule.matches == (INVALID,) and rule.target == t.Drop()):
                    yield table, hook, rule


def dns(live: Ruleset) -> Iterator[Place]:
    """Queries to the agent, but for those of the proxy and of groups that are not captured."""
    chains = live.table(NAT).chains()
    rules = chains.get(OUTPUT, ())
    proxies = owners_of_zones(live)
    if proxies or any(map(asks_the_agent, rules)):
        let_go = {frozenset(rule.matches) for rule in chains.get(ISTIO_OUTPUT, ()) if rule.target == t.Return()}
        for rule in rules:
            owners = beside(rule, UDP, TO_DNS) if rule.target == t.Return() else None
            if asks_the_agent(rule) or (owners and owners in proxies | let_go):
                yield NAT, OUTPUT, rule
        for rule in chains.get(POSTROUTING, ()):
            if rule.target == FROM_LOOPBACK and beside(rule, UDP, TO_RESOLVER) == frozenset():
                yield NAT, POSTROUTING, rule


def asks_the_agent(rule: Rule) -> bool:
    return rule.target in (t.Redirect(RESOLVER_PORT), TO_AGENT) and is_one_host(beside(rule, UDP, TO_DNS))


def virtual(live: Ruleset) -> Iterator[Place]:
    """What arrives on an interface of -k and goes to none of the captured destinations, which jumps before it take."""
    interfaces = set()
    for rule in live.table(NAT).chains().get(PREROUTING, ()):
        arrives = {match for match in rule.matches if isinstance(match, m.InIface)}
        if rule.target == t.Jump(ISTIO_REDIRECT):
            interfaces |= arrives
        elif rule.target == t.Return() and is_of(frozenset(rule.matches), m.InIface) and arrives <= interfaces:
            yield NAT, PREROUTING, rule


def zones(live: Ruleset) -> Iterator[Place]:
    """Conntrack's zones for DNS between the agent and applications, and between it and nameservers."""
    owners = owners_of_zones(live)
    chains = live.table(RAW).chains()
    for hook in (PREROUTING, OUTPUT) if owners else ():
        for rule in chains.get(hook, ()):
            is_ours = (
                rule.target == t.Zone(ZONE_OF_PROXY) and is_one_host(beside(rule, UDP, FROM_DNS))
                if hook == PREROUTING
                else (rule.target == t.Zone(ZONE_OF_PROXY) and beside(rule, UDP, TO_DNS) in owners)
                or (rule.target == t.Zone(ZONE_OF_APP) and beside(rule, UDP, FROM_RESOLVER) in owners)
                or (rule.target == t.Zone(ZONE_OF_APP) and is_one_host(beside(rule, UDP, TO_DNS)))
            )
            if is_ours:
                yield RAW, hook, rule


def owners_of_zones(live: Ruleset) -> set[frozenset[m.Match]]:
    """Whose answers from the agent's port are kept in the zone of applications: nobody else asks for that."""
    found = set()
    for chain, rules in live.table(RAW).chains().items():
        for rule in rules if chain == OUTPUT or chain in OURS[RAW] else ():
            owner = beside(rule, UDP, FROM_RESOLVER) if rule.target == t.Zone(ZONE_OF_APP) else None
            if owner and is_owner(owner):
                found.add(owner)
    return found


def marks(live: Ruleset) -> Iterator[Place]:
    """The marks of TPROXY; 1338 on what the proxy sends to its own pod is istio's alone.

    Up to 1.9 that was the mark that ISTIO_DIVERT sets, on what leaves 127.0.0.1 for another address.
    """
    chains = live.table(MANGLE).chains()
    leaving = chains.get(OUTPUT, ())
    set_by_ours = {rule.target for rule in chains.get(ISTIO_DIVERT, ())}
    for rule in leaving:
        if rule.target in set_by_ours and isinstance(rule.target, t.SetMark) and beside(rule, TCP) == FROM_ITSELF:
            yield MANGLE, OUTPUT, rule
    if any(map(marks_the_proxy, leaving)):
        for rule in chains.get(PREROUTING, ()):
            if rule.target == t.SaveMark() and is_of(beside(rule, TCP), m.Mark):
                yield MANGLE, PREROUTING, rule
        for rule in leaving:
            is_bypass = rule.target == t.Return() and is_of(beside(rule, TCP, ON_LO), m.Mark)
            restores = rule.target == t.RestoreMark() and is_of(beside(rule, TCP), m.ConnMark)
            if is_bypass or restores or marks_the_proxy(rule):
                yield MANGLE, OUTPUT, rule


def marks_the_proxy(rule: Rule) -> bool:
    matches = beside(rule, TCP, ON_LO) if rule.target == t.SetMark(PROXY_LOOP_MARK) else None
    destinations = {match for match in matches or () if isinstance(match, m.Not) and isinstance(match.match, m.Dst)}
    return len(destinations) == 1 and is_owner(matches - destinations if matches else None)


def beside(rule: Rule, *known: m.Match) -> frozenset[m.Match] | None:
    """What a rule asks besides all of these; None if it does not ask them all."""
    matches = frozenset(rule.matches)
    return matches.difference(known) if matches.issuperset(known) else None


def is_one_host(matches: frozenset[m.Match] | None) -> bool:
    """Whether this is nothing, or a nameserver's address."""
    return (
        matches is not None
        and len(matches) <= 1
        and all(isinstance(match, m.Dst | m.Src) and match.network.num_addresses == 1 for match in matches)
    )


def is_owner(matches: frozenset[m.Match] | None) -> bool:
    return is_of(matches, m.OwnerUid) or is_of(matches, m.OwnerGid)


def is_of(matches: frozenset[m.Match] | None, kind: type[m.Match]) -> bool:
    """Whether this is one match of that kind."""
    return matches is not None and [type(match) for match in matches] == [kind]
