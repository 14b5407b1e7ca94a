"""Who listens where the rules send things, and whether what is sent there arrives.

Rules hand traffic to a port and know nothing of the process there. One that listens elsewhere, or as somebody whose own
traffic is captured, makes a capture that is in place and does not work.
"""

from __future__ import annotations

from rules.addresses import ip_address
from rules.meaning.spoken import asked_of
from rules.netfilter.fields import DESTINATION
from rules.netfilter.targets import Zone
from rules.netfilter.values import NAT, RAW, Family, address_of_family, family_of
from rules.ours.installed import installed
from rules.packets.packet import Direction, Packet
from rules.packets.trace import Became
from rules.plan.names import DNS_PORT, ISTIO_OUTPUT_DNS, LOOPBACK, PASSTHROUGH, ZONE_OF_APP
from rules.simulator.simulate import simulate
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import ClassVar, Literal, TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.rulesets import Ruleset
    from rules.ours.installed import Installed
    from rules.packets.packet import Host

    Address: TypeAlias = IPv4Address | IPv6Address
    What: TypeAlias = Literal["outbound TCP", "inbound TCP", "DNS"]

OUTBOUND: What = "outbound TCP"
INBOUND: What = "inbound TCP"
DNS: What = "DNS"
NONE_IS_TRANSPARENT = "no listener is transparent (IP_TRANSPARENT), so what TPROXY hands over is not taken"
NOWHERE = {Family.V4: ip_address("192.0.2.1"), Family.V6: ip_address("2001:db8::1")}
"""Addresses of nobody (RFC 5737, RFC 3849): where a packet goes that is asked about as any."""


class Listener(Value):
    """A socket that listens where rules send something, and whose it is."""

    protocol: Literal["tcp", "udp"]
    """What it hears."""
    address: Address
    """On which address."""
    port: int
    """On which port."""
    uid: int
    """Of the process, if it can be seen; else of whoever opened the socket."""
    gid: int | None = None
    """Of the process; None if it cannot be seen."""
    process: str = ""
    """The process, as in `pid 7 (envoy)`; empty if it cannot be seen."""
    only_ipv6: bool = False
    """Whether a listener of IPv6 hears no IPv4."""
    is_transparent: bool = False
    """Whether it takes what TPROXY hands it."""

    TOLD: ClassVar = ("protocol", "address", "uid", "gid", "process")

    def hears(self, family: Family) -> bool:
        """Whether it hears anything of this family."""
        if family is Family.V6:
            return self.address.version == 6
        return self.address.version == 4 or (self.address.is_unspecified and not self.only_ipv6)

    def hears_at(self, address: Address) -> bool:
        """Whether it hears what is sent to this address."""
        return self.hears(family_of(address)) and (self.address.is_unspecified or self.address == address)

    def __str__(self) -> str:
        who = f"{self.process}, uid {self.uid}" if self.process else f"uid {self.uid}"
        return f"{who}, on {self.address}"


class Place(Value):
    """A port to which rules send something, who listens there, and what is wrong with that."""

    what: What
    """What is sent there."""
    port: int
    """Where."""
    listeners: tuple[Listener, ...]
    """Who listens there; empty if nobody does."""
    problems: tuple[str, ...]
    """What keeps what is sent there from arriving, or from being passed on, in sentences without a subject. That nobody
    listens yet is no problem."""

    def __str__(self) -> str:
        heard = "; ".join(dict.fromkeys(map(str, self.listeners))) or "nobody listens"
        return f"{self.what} → {self.port}: {heard}"


def places(
    rulesets: Sequence[Ruleset],
    host: Host,
    listening: Iterable[Listener],
    from_ourselves: Sequence[Address] = (),
    *,
    passes_on: bool = True,
) -> tuple[Place, ...]:
    """What these rules send where, and who listens there.

    `from_ourselves` are this pod's own addresses from which connections are open at the inbound port that the rules
    sent there over lo, one for each; `passes_on` says whether any is open from 127.0.0.6 or `::6`.
    """
    listening = tuple(listening)
    captures = {ruleset.family: installed(ruleset) for ruleset in rulesets}
    wanted: dict[tuple[What, int], list[Family]] = {}
    for family, captured in captures.items():
        for what, port in ports_of(captured, host):
            wanted.setdefault((what, port), []).append(family)
    somebody = {what for what, port in wanted for each in listening if (each.port, each.protocol) == (port, "tcp")}
    answer = []
    for (what, port), families in wanted.items():
        protocols = ("udp",) if what == DNS else ("tcp",)
        here = tuple(each for each in listening if each.port == port and each.protocol in protocols)
        problems: dict[str, None] = {}
        if not here and what == INBOUND and OUTBOUND in somebody:
            problems["nobody listens, so every connection is refused, although the outbound port has a listener"] = None
        if not here and what == OUTBOUND and INBOUND in somebody:
            problems["nobody listens, so every connection is refused, although the inbound port has a listener"] = None
        for family in families if here else ():
            problems.update(dict.fromkeys(wrong(what, family, captures[family], rulesets, host, here)))
        if what == INBOUND and from_ourselves and not passes_on and captures[families[0]].mode == "REDIRECT":
            problems[came_back(from_ourselves, families)] = None
        answer.append(Place(what, port, here, tuple(problems)))
    return tuple(answer)


def ports_of(captured: Installed, host: Host) -> Iterator[tuple[What, int]]:
    if captured.outbound_port:
        yield OUTBOUND, captured.outbound_port
    if captured.inbound_port:
        yield INBOUND, captured.inbound_port
    if captured.dns and host.is_local(resolver(captured)):
        yield DNS, int(captured.dns.rpartition(":")[2])


def resolver(captured: Installed) -> Address:
    """Where DNS is sent: by REDIRECT to loopback."""
    address = captured.dns.rpartition(":")[0].strip("[]")
    return ip_address(address) if address else LOOPBACK[captured.family].network_address


def wrong(
    what: str,
    family: Family,
    captured: Installed,
    rulesets: Sequence[Ruleset],
    host: Host,
    here: Sequence[Listener],
) -> Iterator[str]:
    """What keeps that which is sent here from arriving, or from being passed on."""
    hearing = [each for each in here if each.hears(family)]
    if not hearing:
        yield f"nobody hears {family.value} there, which is captured: only {addresses(here)}"
        return
    localhost = resolver(captured) if what == DNS else LOOPBACK[family].network_address
    if not any(each.hears_at(localhost) for each in hearing):
        sent = "the pod's calls to itself are" if what == INBOUND else "it is"
        yield f"not on {localhost}, to which {sent} sent: only {addresses(hearing)}"
    if what == INBOUND and all(each.address.is_loopback for each in hearing):
        yield (
            f"only on {addresses(hearing)}: what comes from outside is sent to the pod's own address, where nobody "
            "listens"
        )
    if what == INBOUND and captured.mode == "TPROXY" and not any(each.is_transparent for each in hearing):
        yield NONE_IS_TRANSPARENT
    proxy = ", ".join([f"uid {uid}" for uid in captured.proxy_uids] + [f"gid {gid}" for gid in captured.proxy_gids])
    for each in hearing:
        is_proxy = each.uid in captured.proxy_uids or each.gid in captured.proxy_gids
        if what == DNS and not is_proxy and has_zones(rulesets, family):
            yield (
                f"{each} is not the proxy ({proxy}), and only the proxy's answers are kept in the zone of the queries: "
                f"UDP is never answered; give --dns-capture-address {localhost}"
            )
        elif what != DNS and not is_proxy and comes_back(rulesets, host, family, each):
            yield (
                f"{each} is not the proxy ({proxy}): what it sends is captured, and comes back to it in a loop; run it "
                f"as the proxy's user, or give -u {each.uid}"
            )


def addresses(listening: Iterable[Listener]) -> str:
    return ", ".join(dict.fromkeys(str(each.address) for each in listening))


def came_back(from_ourselves: Sequence[Address], families: Sequence[Family]) -> str:
    wanted = " or ".join(str(PASSTHROUGH[family].network_address) for family in families)
    shown = ", ".join(dict.fromkeys(map(str, from_ourselves)))
    return (
        f"{len(from_ourselves)} connections came back to it from the pod's own address ({shown}), and none leaves from "
        f"{wanted}: what is handed on to the application from any other address is inbound again; the proxy must bind "
        f"{wanted}"
    )


def has_zones(rulesets: Sequence[Ruleset], family: Family) -> bool:
    """Whether applications' DNS is kept in a zone of its own."""
    return any(
        rule.target == Zone(ZONE_OF_APP)
        for ruleset in rulesets
        if ruleset.family is family
        for table, _, rule in ruleset.rules()
        if table == RAW
    )


# --- who captures itself ------------------------------------------------------------------------------------


def comes_back(rulesets: Sequence[Ruleset], host: Host, family: Family, listener: Listener) -> bool:
    """Whether what this process sends to anybody by TCP is captured."""
    became = simulate(rulesets, sent(host, family, "tcp", NOWHERE[family], 80, listener), host).became
    return became is Became.CAPTURED_OUTBOUND


def looping_resolvers(rulesets: Sequence[Ruleset], host: Host, found: Iterable[Listener]) -> Iterator[str]:
    """The DNS servers in the pod that ask nameservers as somebody who is captured.

    The proxy's resolver asks the nameservers of resolv.conf. If one of them is in the pod, and what it asks in its
    turn is captured, every query goes round.
    """
    resolvers = [captured.dns for captured in map(installed, rulesets) if captured.dns]
    ports = {DNS_PORT, *(int(dns.rpartition(":")[2]) for dns in resolvers)}
    servers: dict[tuple[int, int | None], list[Listener]] = {}
    for each in found:
        if resolvers and each.port in ports:
            servers.setdefault((each.uid, each.gid), []).append(each)
    outside = [
        (ruleset.family, address)
        for ruleset in (rulesets if servers else ())
        for address in nameservers(ruleset)
        if not host.is_local(address)
    ]
    for listening in servers.values():
        first = listening[0]
        if any(is_captured(rulesets, host, family, address, first) for family, address in outside):
            where = ", ".join(dict.fromkeys(f"{each.address} port {each.port}" for each in listening))
            yield (
                f"{first.process or 'a process'}, uid {first.uid}, answers DNS on {where}, and what it asks "
                "nameservers itself is captured: a query that the proxy sends to it goes round for ever; "
                f"--exclude-uids {first.uid} lets its own queries go"
            )


def nameservers(ruleset: Ruleset) -> Iterator[Address]:
    """One address of each network whose queries are captured; that of nobody where all are."""
    for table, chain, rule in ruleset.rules():
        if (table, chain) == (NAT, ISTIO_OUTPUT_DNS):
            asked = next(asked_of(DESTINATION, rule.matches), None)
            yield address_of_family(ruleset.family, asked[0]) if asked else NOWHERE[ruleset.family]


def is_captured(rulesets: Sequence[Ruleset], host: Host, family: Family, address: Address, sender: Listener) -> bool:
    packet = sent(host, family, "udp", address, DNS_PORT, sender)
    return simulate(rulesets, packet, host).became is Became.CAPTURED_DNS


def sent(host: Host, family: Family, protocol: str, to: Address, port: int, sender: Listener) -> Packet:
    """A packet that this process sends."""
    source, interface = host.source_to(family, to), host.leaves_on(family, to)
    return Packet(Direction.OUT, family, protocol, source, to, port, interface, uid=sender.uid, gid=sender.gid)
