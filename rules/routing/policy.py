"""Policy routing as values: ip rules and routes, their text as ip(8) writes it, and which of them a packet meets.

Rules are asked in the order of their priorities, equal ones in the order in which they were added
(fib_nl_newrule and fib_rules_lookup of net/core/fib_rules.c). What a rule asks for and we do not speak is never
guessed: such a rule may hold, or may not.
"""

from __future__ import annotations

from rules.netfilter.values import Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import ClassVar

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.values import Network

LOOKUP, GOTO, NOP = "lookup", "goto", "nop"
BLACKHOLE, UNREACHABLE, PROHIBIT = "blackhole", "unreachable", "prohibit"
REFUSALS = (BLACKHOLE, UNREACHABLE, PROHIBIT)
"""Actions of a rule, and types of a route, that refuse the packet."""
LOCAL, THROW, UNICAST = "local", "throw", "unicast"
"""Types of a route: deliver it here; go on with the next rule; send it on."""
TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT = 255, 254, 253
"""RT_TABLE_* of linux/rtnetlink.h."""
TABLE_NAMES = {TABLE_LOCAL: "local", TABLE_MAIN: "main", TABLE_DEFAULT: "default"}
WHOLE = 0xFFFFFFFF
TCP = 6
NUMBERS = {"tcp": TCP, "udp": 17}
"""Transport protocols by their numbers in /etc/protocols."""


class PolicyRule(Value):
    """An ip rule (ip-rule(8)): what it asks of a packet, and what is done if all of it holds."""

    family: Family
    """For which packets."""
    priority: int
    """Its place among the ip rules."""
    mark: int = 0
    """The fwmark that it asks for, of which the bits of `mask` count."""
    table: int = 0
    """The routing table that it looks up; the priority at which it goes on, if that is its action."""
    protocol: int = 0
    """Who says to have put it there (FRA_PROTOCOL)."""
    mask: int = WHOLE
    """0 if it asks for no mark."""
    action: str = LOOKUP
    inverted: bool = False
    """Whether it holds for all packets but those that it describes."""
    source: Network | None = None
    destination: Network | None = None
    arrives: str = ""
    """The interface on which a packet arrives; `lo` for what is sent from here."""
    leaves: str = ""
    """The interface to which the sending socket is bound."""
    transport: int = 0
    """The number of its transport protocol."""
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    uids: tuple[int, int] | None = None
    tos: int = 0
    suppressed: int | None = None
    """Routes with so long a prefix or a shorter one do not count."""
    more: tuple[str, ...] = ()
    """What else it asks for or does, which we do not speak."""

    TOLD: ClassVar = ("family", "priority", "mark", "table")

    @property
    def is_plain(self) -> bool:
        """Whether a whole mark is all that it asks for, and looking up a whole table all that it does."""
        return bool(self.mark) and self == PolicyRule(self.family, self.priority, self.mark, self.table, self.protocol)

    def __str__(self) -> str:
        """As `ip rule` lists it, without `from all`."""
        words = ["not"] if self.inverted else []
        words += [f"from {shown(self.source)}"] if self.source else []
        words += [f"to {shown(self.destination)}"] if self.destination else []
        words += [f"tos {self.tos:#x}"] if self.tos else []
        words += [f"fwmark {self.mark:#x}{'' if self.mask == WHOLE else f'/{self.mask:#x}'}"] if self.mask else []
        words += [f"iif {self.arrives}"] if self.arrives else []
        words += [f"oif {self.leaves}"] if self.leaves else []
        words += [f"uidrange {self.uids[0]}-{self.uids[1]}"] if self.uids else []
        names = {number: name for name, number in NUMBERS.items()}
        words += [f"ipproto {names.get(self.transport, self.transport)}"] if self.transport else []
        for name, ports in (("sport", self.source_ports), ("dport", self.destination_ports)):
            words += [f"{name} {ports[0]}{'' if ports[0] == ports[1] else f'-{ports[1]}'}"] if ports else []
        words += self.more
        if self.action == LOOKUP:
            words.append(f"lookup {TABLE_NAMES.get(self.table, self.table)}")
        else:
            words.append(f"goto {self.table}" if self.action == GOTO else self.action)
        words += [] if self.suppressed is None else [f"suppress_prefixlength {self.suppressed}"]
        return f"{self.priority}: {' '.join(words)}"


class Route(Value):
    """A route of a routing table (ip-route(8))."""

    family: Family
    """For which packets."""
    table: int
    """In which routing table it is."""
    protocol: int = 0
    """Who says to have put it there (rtm_protocol)."""
    destination: Network | None = None
    """None for a default route."""
    kind: str = LOCAL
    """`local`, `unicast`, `blackhole` …"""
    metric: int = 0
    tos: int = 0
    device: str = ""
    via: IPv4Address | IPv6Address | None = None
    source: IPv4Address | IPv6Address | None = None
    """The address from which packets are sent by it whose sender asked for none (RTA_PREFSRC)."""

    TOLD: ClassVar = ("family", "table")

    @property
    def prefix(self) -> int:
        """The length of its prefix."""
        return self.destination.prefixlen if self.destination else 0

    @property
    def is_default(self) -> bool:
        """Whether it is for every packet."""
        return self.destination is None and not self.tos

    def __str__(self) -> str:
        """As `ip route show table TABLE` lists it, with its table."""
        words = [] if self.kind == "unicast" else [self.kind]
        words.append("default" if self.destination is None else shown(self.destination))
        words += [f"tos {self.tos:#x}"] if self.tos else []
        words += [f"via {self.via}"] if self.via else []
        words += [f"dev {self.device}"] if self.device and self.kind not in REFUSALS else []
        words.append(f"table {self.table}")
        words += [f"src {self.source}"] if self.source else []
        words += [f"metric {self.metric}"] if self.metric and self.family is Family.V4 else []
        return " ".join(words)


class Flow(Value):
    """A packet as the routing policy sees it. None stands for what is not known of it."""

    family: Family
    mark: int
    destination: IPv4Address | IPv6Address | None = None
    source: IPv4Address | IPv6Address | None = None
    arrives: str | None = None
    """The interface on which it arrived; `lo` for what is sent from here."""
    leaves: str | None = None
    """The interface to which its socket is bound, empty for none."""
    transport: int | None = None
    port: int | None = None
    source_port: int | None = None
    uid: int | None = None
    """Of the socket that sends it; the kernel's own packets have 0."""
    tos: int | None = None


def holds(rule: PolicyRule, flow: Flow) -> bool | None:
    """Whether this rule is for this packet; None if that cannot be told."""
    answers = list(answered(rule, flow))
    answer = False if False in answers else None if None in answers else True
    return answer if answer is None else answer is not rule.inverted


def answered(rule: PolicyRule, flow: Flow) -> Iterator[bool | None]:
    """Whether each of the things that a rule asks for holds (fib_rule_match)."""
    if rule.mask:
        yield not (rule.mark ^ flow.mark) & rule.mask
    for network, address in ((rule.source, flow.source), (rule.destination, flow.destination)):
        if network:
            yield None if address is None else address in network
    for wanted, known in ((rule.arrives, flow.arrives), (rule.leaves, flow.leaves)):
        if wanted:
            yield None if known is None else wanted == known
    for number, is_number in ((rule.transport, flow.transport), (rule.tos, flow.tos)):
        if number:
            yield None if is_number is None else number == is_number
    for among, it in (
        (rule.uids, flow.uid),
        (rule.source_ports, flow.source_port),
        (rule.destination_ports, flow.port),
    ):
        if among:
            yield None if it is None else among[0] <= it <= among[1]
    if rule.more:
        yield None


def may_decide(rule: PolicyRule, flow: Flow) -> bool:
    """Whether it could be this rule that says where such a packet goes, or which rule is asked next.

    The table `local` has the addresses of this host, and what it delivers here is where it should be.
    """
    is_harmless = rule.action == NOP or (rule.action == LOOKUP and rule.table == TABLE_LOCAL)
    return not is_harmless and holds(rule, flow) is not False


class Way(Value):
    """Where routing sends a packet."""

    kind: str
    """The type of the route, or the action of an ip rule that refuses it; `unicast` also where no rule has a route."""
    device: str = ""
    """The interface by which it leaves; empty if it does not, or if that is not known."""
    by: PolicyRule | None = None
    """The ip rule that decided; None if none did."""
    source: IPv4Address | IPv6Address | None = None
    """What its route names as the source of packets that have none yet."""

    @property
    def is_kept(self) -> bool:
        """Whether it is delivered here."""
        return self.kind == LOCAL

    @property
    def is_refused(self) -> bool:
        """Whether it is sent nowhere."""
        return self.kind in REFUSALS


class Policy(Value):
    """The rules and routes of a namespace, in the kernel's order."""

    rules: tuple[PolicyRule, ...]
    routes: tuple[Route, ...]
    """Of every table."""

    def is_custom(self, family: Family) -> bool:
        """Whether there are rules beside those of every namespace."""
        usual = (TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT)
        plain = (PolicyRule(family, rule.priority, 0, rule.table, rule.protocol, 0) for rule in self.rules)
        return any(
            rule.family is family and (rule != other or rule.table not in usual)
            for rule, other in zip(self.rules, plain, strict=True)
        )

    def has_default(self, family: Family) -> bool:
        """Whether the table main has a way to everywhere."""
        wanted = (family, TABLE_MAIN, UNICAST)
        return any(it.is_default and (it.family, it.table, it.kind) == wanted for it in self.routes)

    def keeps(self, flow: Flow) -> bool | None:
        """Whether such a packet is delivered here; None if that cannot be told."""
        ways = self.ways([rule for rule in self.rules if rule.family is flow.family], flow)
        kept = {way.is_kept for way in ways}
        return kept.pop() if len(kept) == 1 else None

    def way(self, flow: Flow) -> tuple[Way, ...]:
        """Where such a packet goes; several ways if that cannot be told."""
        ways = self.ways([rule for rule in self.rules if rule.family is flow.family], flow)
        return tuple({(way.kind, way.device, way.source): way for way in reversed(ways)}.values())[::-1]

    def ways(self, rules: Sequence[PolicyRule], flow: Flow) -> list[Way]:
        """Where it may go: several ways if it cannot be told of some rule whether it holds."""
        found: list[Way] = []
        for at, rule in enumerate(rules):
            answer = holds(rule, flow)
            if answer is False or rule.action == NOP:
                continue
            if rule.action == GOTO:
                further = [other for other in rules[at + 1 :] if other.priority >= rule.table]
                if not further or further[0].priority != rule.table:
                    continue  # it leads to no rule, and is passed over until there is one
                found += self.ways(further, flow)
            elif rule.action != LOOKUP:
                found.append(Way(rule.action, by=rule))
            else:
                best = self.best(rule, flow)
                if best is None:
                    continue
                device = "" if best.kind in (LOCAL, *REFUSALS) else best.device
                found.append(Way(best.kind, device, rule, best.source))
            if answer:
                return found
        return [*found, Way(UNICAST)]

    def best(self, rule: PolicyRule, flow: Flow) -> Route | None:
        """The most specific route in the table that a rule looks up; None if the next rule is asked instead."""
        found = [
            route
            for route in self.routes
            if (route.family, route.table) == (rule.family, rule.table)
            and (route.destination is None or (flow.destination is not None and flow.destination in route.destination))
            and (not route.tos or route.tos == flow.tos)
        ]
        best = min(found, key=lambda route: (-route.prefix, -route.tos, route.metric), default=None)
        if best is None or best.kind == THROW or (rule.suppressed is not None and best.prefix <= rule.suppressed):
            return None
        return best


def shown(network: Network) -> str:
    """A network as ip(8) shows it: that of one address as the address."""
    return str(network if network.prefixlen < network.max_prefixlen else network.network_address)


def ip_command(family: Family) -> str:
    """The command that shows this family's rules and routes."""
    return "ip" if family is Family.V4 else "ip -6"
