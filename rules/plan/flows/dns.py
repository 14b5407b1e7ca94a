"""DNS of applications to the proxy's resolver: ISTIO_OUTPUT_DNS of the nat table, and conntrack zones in raw.

An application and the proxy may send queries from the same source port to the same nameserver; in one conntrack
table the second would take the first one's entry, and its answer would go to the wrong one. So DNS between
applications and the proxy is kept in one zone, and DNS between the proxy and nameservers in another.

The answers of the proxy's own resolver on loopback are known by their port and owner. Those of any other resolver,
elsewhere or of another user, are not: there the DNS of applications stays in the default zone, in which whoever
answers is heard, and only that of the proxy has a zone of its own.
"""

from __future__ import annotations

from rules.addresses import ip_network
from rules.netfilter.matches import DPort, Dst, SPort, Src
from rules.netfilter.rulesets import Block, when
from rules.netfilter.targets import Dnat, Jump, Redirect, Zone
from rules.netfilter.values import OUTPUT, PREROUTING, Ports, family_of
from rules.plan.flows.words import BYPASS, TCP, UDP, not_the_proxy, proxy_owners, user_match
from rules.plan.intent import of_family
from rules.plan.names import DNS_CAPTURE_PORT, DNS_PORT, ISTIO_INBOUND, ISTIO_OUTPUT_DNS, ZONE_OF_APP, ZONE_OF_PROXY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.netfilter.matches import Match, Proto
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.values import Family, Network
    from rules.plan.intent import Intent

TO_DNS = DPort(Ports.one(DNS_PORT))
FROM_DNS = SPort(Ports.one(DNS_PORT))


def jump(intent: Intent, family: Family) -> Iterator[Rule]:
    if intent.captures_dns(family):
        why = "DNS is looked at before anything is let go"
        yield when().then(Jump(ISTIO_OUTPUT_DNS), why=why, setting="redirect_dns")


def to_resolver(intent: Intent, family: Family) -> Block:
    """ISTIO_OUTPUT_DNS of nat: queries for these nameservers go to the proxy's resolver."""
    return Block.of(ISTIO_OUTPUT_DNS, redirected(intent, family, TCP), redirected(intent, family, UDP))


def redirected(intent: Intent, family: Family, protocol: Proto) -> Iterator[Rule]:
    for nameserver in nameservers(intent, family):
        destination = [Dst(nameserver)] if nameserver else []
        yield when(protocol, *destination, TO_DNS).then(
            resolver(intent, family), why="a DNS query goes to the proxy's resolver", setting="redirect_dns"
        )


def resolver(intent: Intent, family: Family) -> Redirect | Dnat:
    for address in intent.dns_capture_address:
        if family_of(address) is family:
            return Dnat(address, intent.dns_capture_port)
    return Redirect(intent.dns_capture_port)


def nameservers(intent: Intent, family: Family) -> Iterator[Network | None]:
    """The nameservers whose queries are captured; None stands for any."""
    if intent.capture_all_dns:
        yield None
    else:
        yield from of_family(intent.nameservers, family)


def hooks() -> tuple[Block, Block]:
    """raw, before conntrack has seen the packet: the only place where its zone can be chosen."""
    why = "DNS is kept in conntrack zones of its own"
    return (
        Block(PREROUTING, (when(UDP).then(Jump(ISTIO_INBOUND), why=why, setting="redirect_dns"),)),
        Block(OUTPUT, (when(UDP).then(Jump(ISTIO_OUTPUT_DNS), why=why, setting="redirect_dns"),)),
    )


def answers(intent: Intent, family: Family) -> Block:
    """ISTIO_INBOUND of raw: what nameservers answer was asked by the proxy."""
    return Block.of(ISTIO_INBOUND, with_resolver(intent, family, Src, FROM_DNS), from_nameservers(intent, family))


def queries(intent: Intent, family: Family) -> Block:
    """ISTIO_OUTPUT_DNS of raw. The first zone that a packet is given counts."""
    return Block.of(
        ISTIO_OUTPUT_DNS,
        with_resolver(intent, family, Dst, TO_DNS),
        between_servers(intent),
        of_the_proxy(intent, family),
        of_excluded_users(intent),
        to_nameservers(intent, family) if is_the_proxys(intent, family) else (),
    )


def is_the_proxys(intent: Intent, family: Family) -> bool:
    """Whether the resolver is the proxy's, as far as settings tell: where it listens by default."""
    return isinstance(resolver(intent, family), Redirect) and intent.dns_capture_port == DNS_CAPTURE_PORT


def with_resolver(intent: Intent, family: Family, end: type[Src | Dst], port: Match) -> Iterator[Rule]:
    """A resolver on port 53 looks like a nameserver, and what it answers was asked by applications."""
    match resolver(intent, family):
        case Dnat(address, 53):
            why = "DNS with the resolver itself stays in the default zone"
            yield when(UDP, end(ip_network(address)), port).then(BYPASS, why=why, setting="dns_capture_address")
        case _:
            pass


def between_servers(intent: Intent) -> Iterator[Rule]:
    """A DNS server in the pod answers one that asks from port 53: in the zone of the query, or it would be captured."""
    if intent.capture_all_dns:
        why = "an answer to a server that asked from port 53"
        yield when(UDP, FROM_DNS, TO_DNS).then(Zone(ZONE_OF_PROXY), why=why, setting="capture_all_dns")


def from_nameservers(intent: Intent, family: Family) -> Iterator[Rule]:
    for nameserver in nameservers(intent, family):
        source = [Src(nameserver)] if nameserver else []
        yield when(UDP, *source, FROM_DNS).then(
            Zone(ZONE_OF_PROXY), why="a nameserver's answer to the proxy", setting="redirect_dns"
        )


def of_the_proxy(intent: Intent, family: Family) -> Iterator[Rule]:
    from_resolver = SPort(Ports.one(intent.dns_capture_port))
    for owner, setting in proxy_owners(intent):
        yield when(UDP, TO_DNS, owner).then(Zone(ZONE_OF_PROXY), why="the proxy's own query", setting=setting)
        if is_the_proxys(intent, family):
            yield when(UDP, from_resolver, owner).then(
                Zone(ZONE_OF_APP), why="the answer of the proxy's resolver", setting=setting
            )


def of_excluded_users(intent: Intent) -> Iterator[Rule]:
    """They ask nameservers themselves, as the proxy does, and their answers arrive in its zone."""
    for users in not_the_proxy(intent, intent.exclude_uids):
        yield when(UDP, TO_DNS, user_match(users)).then(
            Zone(ZONE_OF_PROXY), why="an excluded user's query", setting="exclude_uids"
        )


def to_nameservers(intent: Intent, family: Family) -> Iterator[Rule]:
    for nameserver in nameservers(intent, family):
        destination: list[Match] = [Dst(nameserver)] if nameserver else []
        yield when(UDP, *destination, TO_DNS).then(
            Zone(ZONE_OF_APP), why="an application's query to the proxy's resolver", setting="redirect_dns"
        )
