"""The connections that prove a capture: one for each thing that a plan promises and a host can try on itself.

Every path is a question to the kernel with a known answer: who sends what where, and at which of the proxy's ports
it must arrive, or that it must arrive at none. Nothing here opens a socket; `capture.validation.validation` does.

A pod cannot send itself what arrives from outside, so the inbound rules that only such traffic meets have no path:
their proof needs a second host, or the comparison of rules that `capture.validation.validation` makes besides.
"""

from __future__ import annotations

from itertools import islice

from rules.addresses import IPv4Address, IPv6Address
from rules.netfilter.matches import DPort, DPorts, OwnerGid, OwnerUid
from rules.netfilter.values import All, Family, Ports
from rules.plan.flows import dns, outbound
from rules.plan.flows.words import TCP, UDP, not_the_proxy
from rules.plan.intent import of_family
from rules.plan.names import DNS_PORT, ISTIO_OUTPUT, ISTIO_OUTPUT_DNS, LOOPBACK, PASSTHROUGH
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.netfilter.matches import Match, Owner
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.values import Network
    from rules.plan.intent import Intent

    Address = IPv4Address | IPv6Address

ELSEWHERE: dict[Family, tuple[Address, ...]] = {
    Family.V4: tuple(map(IPv4Address, ("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "240.0.0.1"))),
    Family.V6: tuple(map(IPv6Address, ("2001:db8::1", "3fff::1", "2001:2::1", "100::1"))),
}
"""Addresses that belong to nobody (RFC 6890, and RFC 9637). A probe that is not captured dies on the way."""
MOST_OF_A_KIND = 32
"""Paths of one kind that are tried. Every path is a socket, a list may have thousands of entries, and what holds for
the first ones of a list holds for the others: they come from the same line of code, and their rules are compared."""
NOBODY = 65534
"""The user that is tried first as one whom no setting names."""
HIGHEST_ID = (1 << 32) - 2
"""The highest uid and gid; the one above means none."""


class Ids(Value):
    """The ids that may be tried: those that a user namespace maps, as ranges. None are all."""

    uids: tuple[tuple[int, int], ...] = ()
    gids: tuple[tuple[int, int], ...] = ()


class Sender(Value):
    """Who opens the socket."""

    name: str
    uid: int
    gid: int
    gid_does_not_matter: bool = False
    """Whether the same holds for that user with any other group."""


class Path(Value):
    """A connection to try, and what the plan says becomes of it."""

    name: str
    family: Family
    protocol: str
    """`tcp` or `udp`."""
    sender: Sender
    destination: Address
    port: int
    lands: int
    """The port of the proxy at which it must arrive; 0 if it must arrive at none."""
    chain: str
    rule: Rule
    """The rule that is expected to decide it."""
    source: Address | None = None
    """The address that the sender binds first."""
    leaves: bool = True
    """Whether it would leave the pod if nothing captured it."""


def paths(intent: Intent, probe_port: int, ids: Ids) -> Iterator[Path]:
    """What can be tried in each captured family, the proxy's own traffic first."""
    app = an_app(intent, ids)
    for family in intent.families:
        yield from proxy_paths(intent, family, probe_port, app)
        if app:
            yield from app_paths(intent, family, probe_port, app)
            yield from exclusion_paths(intent, family, probe_port, app)
        yield from dns_paths(intent, family, app)


# --- the proxy --------------------------------------------------------------------------------------------


def proxy_paths(intent: Intent, family: Family, port: int, app: Sender | None) -> Iterator[Path]:
    """Its calls to its own pod are inbound, what it hands to the application is not, and what it sends leaves."""
    here = PASSTHROUGH[family].network_address
    # Left to itself, the kernel would choose ::6 as the source of a call to ::6.
    localhost = LOOPBACK[family].network_address
    for sender, owner, setting in proxies(intent):
        if here not in intent.loopback(family):
            yield Path(
                "the proxy calls its own pod",
                family,
                "tcp",
                sender,
                here,
                port,
                intent.inbound_capture_port,
                ISTIO_OUTPUT,
                next(outbound.calls_to_itself(intent, family, owner, setting)),
                source=localhost,
                leaves=False,
            )
            yield Path(
                "the proxy passes inbound traffic on to the application",
                family,
                "tcp",
                sender,
                here,
                port,
                0,
                ISTIO_OUTPUT,
                next(outbound.passthrough(family)),
                source=here,
                leaves=False,
            )
    for sender, owner, setting in (*proxies(intent), *(proxy_groups(intent, app) if app else ())):
        for destination, at, _ in captured(intent, family, port):
            if not destination.is_loopback:
                rule = next(outbound.from_the_proxy(owner, setting))
                yield Path("the proxy sends", family, "tcp", sender, destination, at, 0, ISTIO_OUTPUT, rule)
                break


def proxies(intent: Intent) -> Iterator[tuple[Sender, Owner, str]]:
    for uid in dict.fromkeys(intent.proxy_uid):
        sender = Sender(f"uid {uid}", uid, intent.proxy_gid[0], gid_does_not_matter=True)
        yield sender, OwnerUid(uid), "proxy_uid"


def proxy_groups(intent: Intent, app: Sender) -> Iterator[tuple[Sender, Owner, str]]:
    for gid in dict.fromkeys(intent.proxy_gid):
        yield Sender(f"gid {gid}", app.uid, gid), OwnerGid(gid), "proxy_gid"


# --- applications -----------------------------------------------------------------------------------------


def app_paths(intent: Intent, family: Family, port: int, app: Sender) -> Iterator[Path]:
    """What an application sends is captured, but not what it says to itself."""
    for destination, at, rule in islice(captured(intent, family, port), MOST_OF_A_KIND):
        leaves = not destination.is_loopback
        name, lands = "an application sends", intent.proxy_port
        yield Path(name, family, "tcp", app, destination, at, lands, ISTIO_OUTPUT, rule, leaves=leaves)
    if not outbound.captures_loopback(intent):
        localhost, here = LOOPBACK[family].network_address, PASSTHROUGH[family].network_address
        owners = (owner for _, owner, _ in (*proxies(intent), *proxy_groups(intent, app)))
        rule = next(outbound.others_over_lo(intent, next(owners), setting="proxy_uid"))
        for name, destination in (("an application calls localhost", localhost), ("an application calls itself", here)):
            yield Path(
                name, family, "tcp", app, destination, port, 0, ISTIO_OUTPUT, rule, source=localhost, leaves=False
            )


def captured(intent: Intent, family: Family, port: int) -> Iterator[tuple[Address, int, Rule]]:
    """Destinations and ports that an application's TCP is captured for, one for each rule that captures."""
    if not_excluded(intent.outbound_ports_exclude, port):
        included = outbound.included_destinations(intent, family)
        if isinstance(intent.outbound_cidrs, All):
            for address in islice(elsewhere(intent, family), 1):
                yield address, port, next(iter(included))
        else:
            for network, rule in zip(outbound.captured_networks(intent, family), included, strict=True):
                address = an_address(network)
                if is_reached(intent, family, address):
                    yield address, port, rule
    for address in islice(elsewhere(intent, family), 1):
        for ports in intent.outbound_ports:
            if not_excluded(intent.outbound_ports_exclude, ports.first):
                yield address, ports.first, for_port(outbound.included_ports(intent), ports.first)


def for_port(rules: Iterator[Rule], port: int) -> Rule:
    """The rule for TCP to this port, of a list whose ports may be packed several to a rule."""
    return next(rule for rule in rules if TCP in rule.matches and any(names(match, port) for match in rule.matches))


def names(match: Match, port: int) -> bool:
    """Whether this match is one for ports, and this port among them."""
    if isinstance(match, DPort):
        return match.ports.first <= port <= match.ports.last
    return isinstance(match, DPorts) and any(ports.first <= port <= ports.last for ports in match.ranges)


def elsewhere(intent: Intent, family: Family) -> Iterator[Address]:
    """Addresses of nobody that no exclusion names."""
    return (address for address in ELSEWHERE[family] if is_reached(intent, family, address))


def is_reached(intent: Intent, family: Family, address: Address) -> bool:
    """Whether a packet to this address gets as far as the rules that capture."""
    excluded = (intent.loopback(family), *of_family(intent.outbound_cidrs_exclude, family))
    return not any(address in network for network in excluded)


def not_excluded(excluded: tuple[Ports, ...], port: int) -> bool:
    return not any(ports.first <= port <= ports.last for ports in excluded)


def an_address(network: Network) -> Address:
    """An address of this network that a host could have."""
    return network.network_address + 1 if network.num_addresses > 2 else network.network_address


# --- exclusions -------------------------------------------------------------------------------------------


def exclusion_paths(intent: Intent, family: Family, port: int, app: Sender) -> Iterator[Path]:
    """What would be captured but for an exclusion, one path for each."""
    found = next((found for found in captured(intent, family, port) if not found[0].is_loopback), None)
    if found is None:
        return
    destination, at, _ = found
    for ports in intent.outbound_ports_exclude[:MOST_OF_A_KIND]:
        rule = for_port(outbound.excluded_ports(intent), ports.first)
        yield Path("an excluded port", family, "tcp", app, destination, ports.first, 0, ISTIO_OUTPUT, rule)
    if isinstance(intent.outbound_cidrs, All):
        here = intent.loopback(family)
        excluded = outbound.excluded_networks(intent, family, here)
        paired = zip(excluded, outbound.excluded_destinations(intent, family, here), strict=True)
        for network, rule in islice(paired, MOST_OF_A_KIND):
            address = an_address(network)
            if not address.is_loopback:
                yield Path("an excluded destination", family, "tcp", app, address, at, 0, ISTIO_OUTPUT, rule)
    for users, rule in islice(
        zip(not_the_proxy(intent, intent.exclude_uids), outbound.excluded_users(intent), strict=True), MOST_OF_A_KIND
    ):
        sender = Sender(f"uid {users.first}", users.first, app.gid)
        yield Path("an excluded user", family, "tcp", sender, destination, at, 0, ISTIO_OUTPUT, rule)
    groups = outbound.owner_groups(intent)
    if isinstance(intent.owner_groups, All):
        for gid, rule in islice(zip(outbound.groups_beside_the_proxys(intent), groups, strict=True), MOST_OF_A_KIND):
            sender = Sender(f"gid {gid}", app.uid, gid)
            yield Path("a group that is not captured", family, "tcp", sender, destination, at, 0, ISTIO_OUTPUT, rule)
    else:
        sender = Sender(f"gid {app.uid}", app.uid, app.uid)
        yield Path("any other group", family, "tcp", sender, destination, at, 0, ISTIO_OUTPUT, next(groups))


# --- DNS --------------------------------------------------------------------------------------------------


def dns_paths(intent: Intent, family: Family, app: Sender | None) -> Iterator[Path]:
    """Queries of applications arrive at the proxy's resolver, and its own do not."""
    if not intent.captures_dns(family) or not not_excluded(intent.outbound_ports_exclude, DNS_PORT):
        return
    proxy, _, setting = next(proxies(intent))
    for protocol in (TCP, UDP):
        for nameserver, rule in zip(
            dns.nameservers(intent, family), dns.redirected(intent, family, protocol), strict=True
        ):
            destination = nameserver.network_address if nameserver else ELSEWHERE[family][0]
            lands = intent.dns_capture_port
            name, kind = "a DNS query", protocol.name
            leaves = not destination.is_loopback
            if app:
                yield Path(name, family, kind, app, destination, DNS_PORT, lands, ISTIO_OUTPUT_DNS, rule, leaves=leaves)
            own = next(outbound.from_the_proxy(OwnerUid(proxy.uid), setting))
            name = "the proxy's own DNS query"
            yield Path(name, family, kind, proxy, destination, DNS_PORT, 0, ISTIO_OUTPUT, own, leaves=leaves)


# --- senders ----------------------------------------------------------------------------------------------


def an_app(intent: Intent, ids: Ids) -> Sender | None:
    """Somebody who is captured as far as owners go, if there is anybody."""
    uid = free_id(intent, ids.uids)
    if uid is None:
        return None
    if isinstance(intent.owner_groups, All):
        gid = free_id(intent, ids.gids)
        return None if gid is None else Sender(f"uid {uid}", uid, gid)
    wanted = [gid for gid in intent.owner_groups if gid not in intent.proxy_gid]
    gid = wanted[0] if wanted else uid
    return Sender(f"uid {uid}, gid {gid}", uid, gid)


def free_id(intent: Intent, mapped: tuple[tuple[int, int], ...]) -> int | None:
    """A uid or gid that no setting names, in one of these ranges, if there is one: `nobody` or the next below, or one
    above. Never that of root, who may be anybody.
    """
    named = {*intent.proxy_uid, *intent.proxy_gid, *intent.owner_groups_exclude, 0}
    if not isinstance(intent.owner_groups, All):
        named.update(intent.owner_groups)
    never = [*((each, each) for each in named), *((each.first, each.last) for each in intent.exclude_uids)]
    some_ports = [(each.first, each.last) for entry in intent.exclude_outbound_ports_for_uids for each in entry.users]
    # Of those only some ports are excluded, so they serve where there is nobody else.
    for taken in ([*never, *some_ports], never):
        for first, last in mapped or ((0, HIGHEST_ID),):
            for at, step in ((min(last, NOBODY), -1), (max(first, NOBODY + 1), 1)):
                # Out of one taken range at a time, so that wide ones cost nothing.
                while first <= at <= last:
                    found = next(((low, high) for low, high in taken if low <= at <= high), None)
                    if found is None:
                        return at
                    at = found[0] - 1 if step < 0 else found[1] + 1
    return None
