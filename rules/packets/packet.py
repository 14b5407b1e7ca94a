"""A packet, and the host that it meets."""

from __future__ import annotations

from rules.netfilter.fields import ADDRESSES, PROTOCOLS, STATES
from rules.netfilter.spans import joined, less, united
from rules.netfilter.values import Family, address_of_family, family_of
from rules.plan.names import (
    LOOPBACK,
    LOOPBACK_INTERFACE,
)
from rules.routing.policy import LOCAL, TABLE_LOCAL, UNICAST, Flow, PolicyRule
from rules.value import Enum, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar, TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.fields import OfType
    from rules.netfilter.spans import Span
    from rules.plan.plan import Routing
    from rules.routing.policy import Policy

    Address: TypeAlias = IPv4Address | IPv6Address


NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED = STATES


class Direction(Enum):
    """Where a packet comes from."""

    OUT = "out"
    """From a process in this namespace."""
    IN = "in"
    """From outside, on an interface."""


SOMEBODY = -2
"""As a uid and gid: a socket sends it, and nobody tells whose that is."""


class Packet(Value):
    """The packet that is asked about."""

    direction: Direction
    """Whether a process in the namespace sends it, or it comes from outside."""
    family: Family
    """Of its addresses."""
    protocol: str
    """By its name in /etc/protocols: `tcp`, `udp`."""
    source: Address
    """Who sends it."""
    destination: Address
    """To whom."""
    port: int
    """Its destination port."""
    interface: str
    """The one it arrives on, or by which it would leave if no rule touched it."""
    source_port: int | None = None
    """Where it is sent from; None stands for one that the kernel chose."""
    uid: int | None = None
    """Whose socket sends it; None if no socket does: the kernel made it, or it comes from outside."""
    gid: int | None = None
    """The group that it is sent with; None if no socket sends it."""
    mark: int = 0
    """The fwmark that it has from the start."""
    state: str = NEW
    """What conntrack makes of it, by netfilter's names. ESTABLISHED is a later packet in the direction of the first."""
    answers: tuple[Address, int] | None = None
    """Where the first packet of its connection was sent, if this one goes the other way. No rule of nat is asked about
    an answer; behind POSTROUTING it comes from there again."""
    connmark: int | None = None
    """What its connection remembers. None: what the first packet left there."""
    is_later: bool = False
    """Whether it is no first packet of TCP, although conntrack knows no connection of it."""
    is_bound: bool = True
    """Whether its sender asked for that source; else the kernel chose it, when it knew the way."""

    TOLD: ClassVar = (
        "direction",
        "family",
        "protocol",
        "source",
        "source_port",
        "destination",
        "port",
        "interface",
        "uid",
        "gid",
        "mark",
        "state",
    )

    @property
    def number(self) -> int | None:
        """Of its protocol; None for a name that we do not know."""
        return int(self.protocol) if self.protocol.isdigit() else PROTOCOLS.get(self.protocol)


class Local(Value):
    """An address of this namespace."""

    interface: str
    address: Address
    prefix: int


ALWAYS: dict[Family, dict[str, Span]] = {
    Family.V4: {"LOCAL": (127 << 24, 128 << 24), "MULTICAST": (224 << 24, 240 << 24)},
    Family.V6: {"LOCAL": (1, 2), "MULTICAST": (0xFF << 120, 1 << 128)},
}
"""The addresses that are of a type on every host."""


def points_of(numbers: Iterable[int]) -> Span:
    return joined((number, number + 1) for number in sorted(numbers))


class Host(Value):
    """The namespace around the rules: its addresses, and where it sends what."""

    addresses: tuple[Local, ...] = ()
    """In the kernel's order; those of lo that every namespace has need not be here."""
    default_interface: str = "eth0"
    routing: tuple[Routing, ...] = ()
    """The ip rules by mark, and their local routes, that are planned."""
    policy: Policy | None = None
    """All that is really there, if that is asked about."""

    def is_local(self, address: Address) -> bool:
        """Whether a packet to it is delivered here, whatever its mark."""
        return address.is_loopback or any(local.address == address for local in self.addresses)

    def kinds(self, family: Family) -> dict[str, Span]:
        """Which addresses are of which type to this host, as rules ask for them (`addrtype`, `fib`)."""
        everywhere, own = ADDRESSES[family], ALWAYS[family]["LOCAL"]
        of_family = [local for local in self.addresses if family_of(local.address) is family]
        own = united(own, points_of(int(local.address) for local in of_family))
        ends = {int(local.address) | (1 << 32 - local.prefix) - 1 for local in of_family if local.prefix < 31}
        told = {"ANY": everywhere, "LOCAL": own, "MULTICAST": ALWAYS[family]["MULTICAST"]}
        if family is Family.V4:
            told["BROADCAST"] = points_of({*ends, (1 << 32) - 1})
        others = united(own, united(told["MULTICAST"], told.get("BROADCAST", ())))
        return {**told, "UNICAST": less(everywhere, others)}

    def types(self, family: Family) -> dict[str, Span]:
        """The same as far as the address alone tells, by the table `local` that is really there."""
        told = self.kinds(family)
        if self.policy is None:
            return told
        if family is Family.V6:
            return {kind: told[kind] for kind in ("ANY", "MULTICAST")} if self.looks_up(family) else told
        for kind, of_routes in (("LOCAL", LOCAL), ("BROADCAST", "broadcast")):
            told[kind] = united(told[kind], destinations(self.policy, family, of_routes, (TABLE_LOCAL,)))
        others = united(told["LOCAL"], united(told["MULTICAST"], told["BROADCAST"]))
        return {**told, "UNICAST": less(told["ANY"], others)}

    def asks_before_local(self, family: Family) -> bool:
        """Whether ip rules are asked before the table `local` is, where Cilium moves it: then they may send a packet to
        one of our addresses elsewhere."""
        rules = [rule for rule in self.policy.rules if rule.family is family] if self.policy else []
        plain = [rule == PolicyRule(family, rule.priority, 0, TABLE_LOCAL, rule.protocol, 0) for rule in rules]
        return True in plain[1:] and not plain[0]

    def looks_up(self, family: Family) -> bool:
        """Whether the kind of an address hangs on ip rules, or on routes beside those of every host."""
        if family is Family.V4 or self.policy is None:
            return False
        delivered = destinations(self.policy, family, LOCAL)
        is_usual = less(delivered, self.kinds(family)["LOCAL"]) == () and self.policy.has_default(family)
        return self.policy.is_custom(family) or not is_usual

    def is_of_type(self, asked: OfType, flow: Flow) -> bool | None:
        """Whether IPv6 says so of the destination of this packet, whoever sends it; None if that cannot be told."""
        address = flow.destination
        plain = Flow(flow.family, 0, address, address_of_family(flow.family, 0), LOOPBACK_INTERFACE, "", 0, 0, 0, 0, 0)
        if asked.by_fib:
            its_mark = flow.mark if asked.with_mark else 0
            plain = plain.but(mark=its_mark, source=flow.source, transport=flow.transport)
        if self.policy is None or address is None:
            return None
        answers = set()
        for way in self.policy.way(plain):
            is_unicast = not address.is_multicast and int(address) != 0
            kinds = {
                "LOCAL": way.is_kept,
                "UNICAST": is_unicast and (not asked.by_fib or (way.kind == UNICAST and way.by is not None)),
                "MULTICAST": address.is_multicast,
            }
            those = [kinds.get(kind, False) for kind in asked.kinds]
            answers.add((any(those) if asked.by_fib else all(those)) is not asked.negated)
        return answers.pop() if len(answers) == 1 else None

    def is_kept(self, flow: Flow) -> bool | None:
        """Whether a packet to none of our addresses is delivered here all the same; None if that cannot be told."""
        if self.policy:
            return self.policy.keeps(flow)
        return any((routing.family, routing.mark) == (flow.family, flow.mark) for routing in self.routing)

    def asks_for_marks(self, family: Family) -> bool:
        """Whether a packet's mark makes a difference to where it goes."""
        rules = self.policy.rules if self.policy else ()
        planned = any(routing.family is family for routing in self.routing)
        return planned or any(rule.family is family and rule.mask for rule in rules)

    def leaves_on(self, family: Family, destination: Address, mark: int = 0) -> str:
        """The interface by which a packet from here goes there."""
        if self.is_local(destination) or self.is_kept(Flow(family, mark, destination)):
            return LOOPBACK_INTERFACE
        near = [local for local in self.addresses if is_on_link(local, destination)]
        return max(near, key=lambda local: local.prefix).interface if near else self.default_interface

    def source_to(self, family: Family, destination: Address) -> Address:
        """The source address that the kernel chooses for a packet from here to there."""
        if self.is_local(destination):
            if destination.version == 4 and destination.is_loopback:
                return LOOPBACK[family].network_address
            return destination
        interface = self.leaves_on(family, destination)
        return self.address_of(interface, family, destination) or LOOPBACK[family].network_address

    def address_of(self, interface: str, family: Family, like: Address) -> Address | None:
        """The first address of an interface; in IPv6 the first of the scope that `like` has."""
        for local in self.addresses:
            is_of_scope = family is Family.V4 or local.address.is_link_local == like.is_link_local
            if local.interface == interface and family_of(local.address) is family and is_of_scope:
                return local.address
        if interface == LOOPBACK_INTERFACE:
            return LOOPBACK[family].network_address
        return None


def destinations(policy: Policy, family: Family, kind: str, tables: tuple[int, ...] = ()) -> Span:
    """The addresses for which there is a route of this kind, in these tables or in any."""
    networks = [
        (int(route.destination.network_address), int(route.destination.broadcast_address) + 1)
        for route in policy.routes
        if (route.family, route.kind) == (family, kind) and (not tables or route.table in tables) and route.destination
    ]
    return joined(sorted(networks))


def is_on_link(local: Local, destination: Address) -> bool:
    """Whether this address's network has the destination, so that no gateway is needed."""
    if local.address.version != destination.version or local.interface == LOOPBACK_INTERFACE or not local.prefix:
        return False
    rest = local.address.max_prefixlen - local.prefix
    return int(local.address) >> rest == int(destination) >> rest


def written(address: Address | None) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if address and address.version == 6 else str(address)
