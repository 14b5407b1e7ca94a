"""What rules of others do to what a plan captures in this namespace, in every table and backend."""

from __future__ import annotations

from capture.iptables.iptables import BACKENDS, Iptables
from capture.netlink import rtnetlink
from rules.netfilter.values import Family
from rules.ours.recognition import holds_others
from rules.plan.names import LOOPBACK_INTERFACE, PASSTHROUGH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from capture.host.live import Live
    from capture.netlink.rtnetlink import Address
    from rules.live.drift import Finding
    from rules.netfilter.rulesets import Ruleset
    from rules.packets.packet import Host
    from rules.plan.plan import Plan, Routing
    from rules.proof.proof import Proof


def findings_of_others(
    live: Live, planned: Sequence[Ruleset], routing: tuple[Routing, ...], backend: str
) -> Iterator[Finding]:
    """What of others is in the way of these rules of ours, once they are in place in this backend."""
    for ruleset in planned:
        rulesets = tuple((name, live.saved(Iptables(name, ruleset.family)).ruleset) for name in BACKENDS)
        is_alone = not (live.natives.get(ruleset.family) or any(acts_without_ours(its) for _, its in rulesets))
        if not ruleset.tables or is_alone:
            continue
        question = (ruleset, rulesets, live.natives.get(ruleset.family, ()), live.addresses, routing, backend)
        if _answered.get(ruleset.family, (None,))[0] != question:
            from rules.proof import neighbours

            found = neighbours.found_among_others(*question[:3], host_of(live.addresses, routing), backend)
            _answered[ruleset.family] = (question, found)
        yield from _answered[ruleset.family][1]


_answered: dict[Family, tuple[object, tuple[Finding, ...]]] = {}
"""The last answer, with its question: a watch asks again and again."""


def host_of(addresses: Iterable[Address], routing: tuple[Routing, ...] = (), *, passthrough: bool = False) -> Host:
    """The namespace with these addresses, as packets meet it; with the ip rules that are planned.

    With `passthrough`, `::6` is on lo, whether it was already or not.
    """
    from rules.packets.packet import Host, Local

    local = [Local(rtnetlink.name_of(its.interface), its.ip, its.prefix) for its in addresses]
    outside = [address.interface for address in local if address.interface != LOOPBACK_INTERFACE]
    if passthrough:
        local.append(Local(LOOPBACK_INTERFACE, PASSTHROUGH[Family.V6].network_address, 128))
    return Host(tuple(local), outside[0] if outside else "eth0", routing)


def host_there(live: Live, addresses: Iterable[Address]) -> Host:
    """The same with all ip rules and routes that are there, the kernel's own among them."""
    from rules.routing.policy import Policy

    return host_of(addresses).but(policy=Policy(live.policy_rules, rtnetlink.routes(passed_over=frozenset())))


def proofs(live: Live, planned: Plan) -> Iterator[Proof]:
    """Whether every packet fares as planned, family by family, among all that is asked in this namespace."""
    from rules.proof.proof import proved

    here = host_there(live, live.addresses)
    for ruleset in planned.rulesets:
        rulesets = [(name, live.saved(Iptables(name, ruleset.family)).ruleset) for name in BACKENDS]
        natives = live.natives.get(ruleset.family, ())
        yield proved(ruleset, rulesets, natives, here, host_of(live.addresses, planned.routing))


def acts_without_ours(ruleset: Ruleset) -> bool:
    """Whether it has rules of others, drops by a policy, or is not asked at all."""
    return holds_others(ruleset) or any(
        table.is_dormant or any(policy != "ACCEPT" for _, policy in table.policies) for table in ruleset.tables
    )
