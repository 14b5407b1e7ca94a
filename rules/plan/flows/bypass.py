"""What may leave the pod past the proxy: ISTIO_OUTPUT of the filter table, made only where something may not.

The proxy takes TCP. UDP (QUIC on port 443, above all) and a family that is not captured go out beside it, unless
they are refused here. TCP is answered with a reset, so that a client falls back at once instead of after its timeout.
"""

from __future__ import annotations

from rules.addresses import IPv6Network
from rules.netfilter.matches import CtState, DPort, Dst
from rules.netfilter.rulesets import Block, when
from rules.netfilter.targets import Drop, Jump, Reject
from rules.netfilter.values import OUTPUT, Family
from rules.plan.flows import outbound
from rules.plan.flows.words import BYPASS, ON_LO, TCP, UDP, merged, proxy_owners
from rules.plan.lists import widest
from rules.plan.names import ISTIO_OUTPUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.netfilter.rulesets import Rule
    from rules.netfilter.targets import Verdict
    from rules.netfilter.values import Ports
    from rules.plan.intent import Intent

NEW = CtState(frozenset({"NEW"}))
ON_THE_LINK = (IPv6Network("fe80::/10"), IPv6Network("ff02::/16"))
"""Addresses and groups of link-local scope (RFC 4291, 2.5.6 and 2.7)."""
NOBODY_THERE = {Family.V4: "icmp-port-unreachable", Family.V6: "icmp6-port-unreachable"}


def hook(setting: str) -> Block:
    why = "what leaves the pod past the proxy is looked at"
    return Block(OUTPUT, (when().then(Jump(ISTIO_OUTPUT), why=why, setting=setting),))


def refused_udp(intent: Intent, family: Family) -> Block:
    """What of a captured family may not go out beside the proxy."""
    return Block.of(
        ISTIO_OUTPUT,
        allowed(intent),
        outbound.excluded_destinations(intent, family),
        udp(intent, family),
    )


def refused_family(intent: Intent) -> Block:
    """All that applications begin in IPv6. What they answer to connections from outside goes out."""
    return Block.of(
        ISTIO_OUTPUT,
        allowed(intent),
        on_the_link(),
        outbound.excluded_destinations(intent, Family.V6),
        new_connections(),
    )


def allowed(intent: Intent) -> Iterator[Rule]:
    """Whoever is not captured on purpose is not refused either."""
    yield when(ON_LO).then(BYPASS, why="what stays in the pod needs no proxy")
    for owner, setting in proxy_owners(intent):
        yield when(owner).then(BYPASS, why="the proxy may send anything", setting=setting)
    yield from outbound.excluded_interfaces(intent)
    yield from outbound.excluded_users(intent)


def udp(intent: Intent, family: Family) -> Iterator[Rule]:
    """What a server in the pod answers is no new connection: it goes out, whatever port its client happens to have."""
    targets: dict[str, Verdict] = {"reject": Reject(NOBODY_THERE[family]), "drop": Drop(), "leave": BYPASS}
    decided: list[Ports] = []
    for entry in intent.udp:
        if not widest([entry.ports], decided):
            continue
        decided = merged([*decided, entry.ports])
        why = f"the policy for UDP to this port: {entry.policy}"
        yield when(UDP, DPort(entry.ports), NEW).then(targets[entry.policy], why=why, setting="udp")


def on_the_link() -> Iterator[Rule]:
    """What no router passes on is no way past the proxy, and hosts are set up by it: DHCPv6, mDNS."""
    for network in ON_THE_LINK:
        why = "what does not leave the link, such as DHCPv6 and mDNS"
        yield when(Dst(network)).then(BYPASS, why=why, setting="ipv6")


def new_connections() -> Iterator[Rule]:
    why = "IPv6 is not captured, so nobody is to use it past the proxy"
    yield when(TCP, NEW).then(Reject("tcp-reset"), why=why, setting="ipv6")
    yield when(UDP, NEW).then(Reject(NOBODY_THERE[Family.V6]), why=why, setting="ipv6")
