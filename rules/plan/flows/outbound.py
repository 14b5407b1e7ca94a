"""What a local process sends: OUTPUT and ISTIO_OUTPUT of the nat table."""

from __future__ import annotations

from rules.lists.networks import fewest, outside
from rules.netfilter.matches import DPort, DPorts, Dst, Mark, Not, OwnerGid, Proto, Src
from rules.netfilter.rulesets import Block, when
from rules.netfilter.targets import Jump
from rules.netfilter.values import OUTPUT, All, Ports
from rules.plan.flows import dns
from rules.plan.flows.words import (
    BYPASS,
    ON_LO,
    TCP,
    UDP,
    for_each,
    leaving_on,
    not_the_proxy,
    port_matches,
    proxy_owners,
    user_match,
)
from rules.plan.intent import of_family
from rules.plan.names import (
    DNS_PORT,
    ISTIO_IN_REDIRECT,
    ISTIO_OUTPUT,
    ISTIO_OUTPUT_GROUPS,
    ISTIO_REDIRECT,
    MOST_OWNERS_IN_A_RULE,
    PASSTHROUGH,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rules.netfilter.matches import Match, Owner
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.values import Family, Network
    from rules.plan.intent import Intent


def hook(intent: Intent) -> Block:
    """OUTPUT sends TCP to ISTIO_OUTPUT; with DNS capture everything, because queries are UDP as well."""
    if intent.redirect_dns:
        why = "TCP and DNS that a local process sends are looked at"
        return Block(OUTPUT, (when().then(Jump(ISTIO_OUTPUT), why=why, setting="redirect_dns"),))
    return Block(OUTPUT, (when(TCP).then(Jump(ISTIO_OUTPUT), why="TCP that a local process sends is looked at"),))


def outbound(intent: Intent, family: Family) -> Block:
    """ISTIO_OUTPUT: what a local process sends, asked these questions in this order."""
    return Block.of(
        ISTIO_OUTPUT,
        excluded_interfaces(intent),
        excluded_ports(intent),
        passthrough(family),
        with_the_clients_address(intent),
        proxy_traffic(intent, family),
        excluded_users(intent),
        excluded_ports_of_users(intent),
        owner_groups(intent),
        *([] if captures_many_groups(intent) else destinations(intent, family)),
    )


def of_captured_groups(intent: Intent, family: Family) -> Block:
    """ISTIO_OUTPUT_GROUPS: the rest of ISTIO_OUTPUT, where it is entered by group."""
    return Block.of(ISTIO_OUTPUT_GROUPS, *destinations(intent, family))


def destinations(intent: Intent, family: Family) -> tuple[Iterable[Rule], ...]:
    """What is asked of those whose traffic is captured: where it goes."""
    return (
        dns.jump(intent, family),
        loopback(intent, family),
        excluded_destinations(intent, family, intent.loopback(family)),
        included_ports(intent),
        included_destinations(intent, family),
    )


def excluded_interfaces(intent: Intent) -> Iterator[Rule]:
    for interface in leaving_on(intent.exclude_interfaces):
        yield when(interface).then(BYPASS, why="nothing is captured on this interface", setting="exclude_interfaces")


def excluded_ports(intent: Intent) -> Iterator[Rule]:
    for ports in port_matches(intent.outbound_ports_exclude):
        for protocol in protocols(intent):
            yield when(protocol, ports).then(BYPASS, why="an excluded outbound port", setting="outbound_ports_exclude")


def passthrough(family: Family) -> Iterator[Rule]:
    """Before the owner is asked: the proxy hands this to the application and must not get it back."""
    yield when(ON_LO, Src(PASSTHROUGH[family])).then(
        BYPASS, why="the proxy passes inbound traffic on to the application from this address"
    )


def with_the_clients_address(intent: Intent) -> Iterator[Rule]:
    """The same by TPROXY: such a proxy calls the application from the client's address, and its calls carry the mark.

    Before the owner is asked as well, or a proxy that is known by its uid would call itself.
    """
    if intent.uses_tproxy:
        yield when(ON_LO, Mark(intent.tproxy_mark)).then(
            BYPASS, why="the proxy passes inbound traffic on with the client's address", setting="tproxy_mark"
        )


def proxy_traffic(intent: Intent, family: Family) -> Iterator[Rule]:
    """The proxy's own packets, and everybody's over lo. Who is the proxy is told by uid or by gid.

    With one uid and one gid the layout is that of istio-iptables. With more owners that layout would let the
    first one's "not this owner on lo" hide the capture rules of all that follow, so then every capture comes
    first and one rule excludes them all.
    """
    owners = list(proxy_owners(intent))
    if len(set(intent.proxy_uid)) <= 1 and len(set(intent.proxy_gid)) <= 1:
        for owner, setting in owners:
            yield from calls_to_itself(intent, family, owner, setting)
            yield from others_over_lo(intent, owner, setting=setting)
            yield from from_the_proxy(owner, setting)
    else:
        by_uid = [owner for owner, setting in owners if setting == "proxy_uid"]
        for at, (owner, setting) in enumerate(owners):
            if at == len(by_uid):
                yield from own_queries(intent, by_uid)
            yield from calls_to_itself(intent, family, owner, setting)
        yield from others_over_lo(intent, *(owner for owner, _ in owners), setting="proxy_uid")
        for owner, setting in owners:
            yield from from_the_proxy(owner, setting)


def calls_to_itself(intent: Intent, family: Family, owner: Owner, setting: str) -> Iterator[Rule]:
    """app → service address → proxy → the same app: it left as outbound and returns over lo.

    Without this rule it would skip everything that the inbound side enforces.
    """
    tunnel = Ports.one(intent.inbound_tunnel_port)
    # The proxy's own queries to a nameserver inside the pod are no calls of an application.
    answers_itself = intent.redirect_dns and setting == "proxy_uid"
    never = DPorts((Ports.one(DNS_PORT), tunnel)) if answers_itself else DPort(tunnel)
    yield when(ON_LO, Not(Dst(intent.loopback(family))), TCP, Not(never), owner).then(
        Jump(ISTIO_IN_REDIRECT), why="the app called itself through its service address", setting=setting
    )


def own_queries(intent: Intent, by_uid: Iterable[Owner]) -> Iterator[Rule]:
    """What `calls_to_itself` leaves to the proxy, before its gid is asked, which would take them."""
    if intent.redirect_dns:
        for owner in by_uid:
            yield when(ON_LO, TCP, DPort(Ports.one(DNS_PORT)), owner).then(
                BYPASS, why="the proxy asks a nameserver in the pod", setting="proxy_uid"
            )


def others_over_lo(intent: Intent, *owners: Owner, setting: str) -> Iterator[Rule]:
    """Not asked when a loopback address is to be captured: this rule would let it go before it is looked at.

    Nor, with DNS capture, about queries: a nameserver may be on lo, and its clients are to ask the proxy instead.
    """
    if not captures_loopback(intent):
        but_dns = (TCP, Not(DPort(Ports.one(DNS_PORT)))) if intent.redirect_dns else ()
        none_of_these = map(Not, owners)
        yield when(ON_LO, *but_dns, *none_of_these).then(BYPASS, why="the app talks to itself over lo", setting=setting)


def from_the_proxy(owner: Owner, setting: str) -> Iterator[Rule]:
    yield when(owner).then(BYPASS, why="the proxy's own traffic, or it would loop", setting=setting)


def captures_loopback(intent: Intent) -> bool:
    """Whether a captured network begins with a loopback address (of any family: a pod has one lo)."""
    return not isinstance(intent.outbound_cidrs, All) and any(
        network.network_address.is_loopback for network in intent.outbound_cidrs
    )


def excluded_users(intent: Intent) -> Iterator[Rule]:
    for users in not_the_proxy(intent, intent.exclude_uids):
        yield when(user_match(users)).then(BYPASS, why="an excluded user", setting="exclude_uids")


def excluded_ports_of_users(intent: Intent) -> Iterator[Rule]:
    seen: set[tuple[Match, ...]] = set()
    for entry in intent.exclude_outbound_ports_for_uids:
        ports = port_matches(entry.ports, intent.outbound_ports_exclude)
        of_ports = [(match,) for match in ports] if entry.ports else [()]
        users = not_the_proxy(intent, entry.users, *intent.exclude_uids)
        for protocol in protocols(intent):
            if protocol.name in entry.protocols:
                for matches in ((protocol, *ports, user_match(each)) for ports in of_ports for each in users):
                    if matches not in seen:
                        seen.add(matches)
                        yield when(*matches).then(
                            BYPASS, why="a port excluded for this user", setting="exclude_outbound_ports_for_uids"
                        )


def protocols(intent: Intent) -> tuple[Proto, ...]:
    """What is looked at in ISTIO_OUTPUT: UDP only where DNS is captured, for nothing else captures it."""
    return (TCP, UDP) if intent.redirect_dns else (TCP,)


def owner_groups(intent: Intent) -> Iterator[Rule]:
    """One rule lets go of whoever is in none of the captured groups; of more groups than it can name, each has its
    own, which leads on to the questions that are left."""
    if isinstance(intent.owner_groups, All):
        for gid in groups_beside_the_proxys(intent):
            yield when(OwnerGid(gid)).then(BYPASS, why="a group that is not captured", setting="owner_groups_exclude")
    elif captures_many_groups(intent):
        for gid in dict.fromkeys(intent.owner_groups):
            yield when(OwnerGid(gid)).then(
                Jump(ISTIO_OUTPUT_GROUPS), why="a group that is captured", setting="owner_groups"
            )
    else:
        none_of_these = (Not(OwnerGid(gid)) for gid in dict.fromkeys(intent.owner_groups))
        yield when(*none_of_these).then(BYPASS, why="only some groups are captured", setting="owner_groups")


def groups_beside_the_proxys(intent: Intent) -> list[int]:
    """The excluded groups that are not let go as the proxy's already."""
    return [gid for gid in dict.fromkeys(intent.owner_groups_exclude) if gid not in intent.proxy_gid]


def captures_many_groups(intent: Intent) -> bool:
    """Whether more groups are captured than one rule can name."""
    return not isinstance(intent.owner_groups, All) and len(set(intent.owner_groups)) > MOST_OWNERS_IN_A_RULE


def loopback(intent: Intent, family: Family) -> Iterator[Rule]:
    yield when(Dst(intent.loopback(family))).then(
        BYPASS, why="loopback stays loopback", setting="ipv4_loopback_cidr" if family.value == "IPv4" else ""
    )


def excluded_destinations(intent: Intent, family: Family, *before: Network) -> Iterable[Rule]:
    why = "an excluded destination"
    return for_each(excluded_networks(intent, family, *before), Dst, BYPASS, why=why, setting="outbound_cidrs_exclude")


def excluded_networks(intent: Intent, family: Family, *before: Network) -> Sequence[Network]:
    """The excluded networks, as few as they can be, but for those that are decided before."""
    return outside(fewest(of_family(intent.outbound_cidrs_exclude, family)), before)


def included_ports(intent: Intent) -> Iterator[Rule]:
    for ports in port_matches(intent.outbound_ports, intent.outbound_ports_exclude):
        yield when(TCP, ports).then(
            Jump(ISTIO_REDIRECT), why="a port captured for every destination", setting="outbound_ports"
        )


def included_destinations(intent: Intent, family: Family) -> Iterable[Rule]:
    to_proxy = Jump(ISTIO_REDIRECT)
    if isinstance(intent.outbound_cidrs, All):
        return iter((when().then(to_proxy, why="everything else goes to the proxy", setting="outbound_cidrs"),))
    networks = captured_networks(intent, family)
    return for_each(networks, Dst, to_proxy, why="a captured destination", setting="outbound_cidrs")


def captured_networks(intent: Intent, family: Family) -> Sequence[Network]:
    """The listed networks, as few as they can be, but for those that are let go before."""
    if isinstance(intent.outbound_cidrs, All):
        return []
    let_go = (intent.loopback(family), *of_family(intent.outbound_cidrs_exclude, family))
    return outside(fewest(of_family(intent.outbound_cidrs, family)), let_go)
