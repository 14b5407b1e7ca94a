"""Why a live rule is there: from the plan it was made by, or, where that is not known, from what it looks like.

The kernel keeps rules and not their reasons. But each of our chains has few kinds of rules, and what kind a rule is
can be told from its shape: which matches it has and what it does, whatever the values. The shapes are learned from
plans that have every kind, so a new flow is known here as soon as some example has it.
"""

from __future__ import annotations

from rules.addresses import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.values import Family, Ports
from rules.ours.recognition import is_our_jump, is_ours
from rules.plan.intent import TPROXY, Intent, PortsOfUsers, UdpPolicy, Uids
from rules.plan.names import DNS_PORT, ISTIO_IN_REDIRECT, ISTIO_OUTPUT, LOOPBACK_INTERFACE, PASSTHROUGH, PROXY_LOOP_MARK
from rules.plan.plan import ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
    from rules.netfilter.values import Network

    Shape: TypeAlias = tuple[object, ...]
    Reason: TypeAlias = tuple[str, str]
    """A why, and the setting behind it."""


def explained(live: Ruleset, planned: Ruleset | None = None) -> Ruleset:
    """The same ruleset, in which our rules say why they are there.

    A rule that is planned has the why of the plan. Of any other, `setting` is left empty unless its shape can have
    one only; where several kinds of rules share its shape, its why names them all. A rule in our chains that is none
    of ours by any shape has no why.
    """
    return live.but(tables=tuple(in_table(table, planned, live.family) for table in live.tables))


def in_table(table: TableRules, planned: Ruleset | None, family: Family) -> TableRules:
    wanted: dict[tuple[str, Rule], Rule] = {}
    for chain, rules in (planned.table(table.table).chains() if planned else {}).items():
        for rule in rules:
            wanted.setdefault((chain, rule), rule)
    tunnels = tunnel_ports(table)
    seen: set[tuple[str, Rule]] = set()

    def reason(chain: str, rule: Rule) -> Rule:
        if not (is_ours(table, chain) or (table.is_built_in(chain) and is_our_jump(table, rule))):
            return rule
        known = wanted.get((chain, rule))
        if known:
            return rule.but(why=known.why, setting=known.setting)
        if rule.why:  # a comment tells it
            settings = {its for reasons in known_shapes(family).values() for why, its in reasons if why == rule.why}
            return rule.but(setting=settings.pop() if len(settings) == 1 else "")
        found = known_shapes(family).get((table.table, chain, *shape(rule)), ())
        if (chain, rule) not in seen:
            found = without_rivals_of_the_tunnel(found, rule, tunnels)
        seen.add((chain, rule))
        settings = {setting for _, setting in found}
        # In a pod nobody has an SSH server: what else it may be is more likely.
        whys = list(dict.fromkeys(why for why, _ in sorted(found, key=lambda it: it[1] == "capture_ssh")))
        why = f"{'one of these: ' if len(whys) > 1 else ''}{'; '.join(whys)}"
        return rule.but(why=why, setting=settings.pop() if len(settings) == 1 else "")

    def of_block(block: Block) -> Block:
        return block.but(rules=tuple(reason(block.chain, rule) for rule in block.rules))

    return table.but(blocks=tuple(map(of_block, table.blocks)))


def tunnel_ports(table: TableRules) -> frozenset[int]:
    """The tunnel port, as the rule tells that spares it when the proxy calls its own pod, not that of DNS."""
    spared = frozenset(
        ports.first
        for rule in table.chains().get(ISTIO_OUTPUT, ())
        if rule.target == t.Jump(ISTIO_IN_REDIRECT)
        for match in rule.matches
        if isinstance(match, m.Not)
        for ports in ports_of(match.match)
    )
    return spared - {DNS_PORT} or spared


def ports_of(match: m.Match) -> tuple[Ports, ...]:
    return (match.ports,) if isinstance(match, m.DPort) else match.ranges if isinstance(match, m.DPorts) else ()


def without_rivals_of_the_tunnel(found: tuple[Reason, ...], rule: Rule, tunnels: frozenset[int]) -> tuple[Reason, ...]:
    """A port that is not captured looks the same whatever the reason, but the tunnel port is known from elsewhere."""
    is_tunnel = any((Ports.one(port),) == ports_of(match) for match in rule.matches for port in tunnels)
    kept = tuple(reason for reason in found if (reason[1] == TUNNEL) == is_tunnel)
    return kept if any(setting == TUNNEL for _, setting in found) else found


def shape(rule: Rule) -> Shape:
    """What is left of a rule when the values that a setting decides are taken away."""
    return frozenset(map(match_shape, rule.matches)), target_shape(rule.target)


def match_shape(match: m.Match) -> Shape | m.Match:
    match match:
        case m.Not(inner):
            return "not", match_shape(inner)
        case m.Src(network):
            return m.Src, network in PASSTHROUGH.values()
        case m.Dst(network):
            return m.Dst, network.is_loopback
        case m.InIface(name) | m.OutIface(name):
            return type(match), name == LOOPBACK_INTERFACE
        case m.DPort(ports):
            return m.DPort, ports == Ports.one(DNS_PORT)
        case m.SPort():
            return (m.SPort,)
        case m.DPorts():
            return m.DPort, False
        case m.OwnerUid() | m.OwnerUids():
            return (m.OwnerUid,)
        case m.Mark(value):
            return m.Mark, value == PROXY_LOOP_MARK
        case m.ConnMark():
            return (m.ConnMark,)
        case m.Proto() | m.CtState() | m.Foreign():
            return match
        case _:
            return (type(match),)


def target_shape(target: t.Target) -> Shape | t.Target:
    return target if isinstance(target, t.Jump | t.Zone | t.Reject) else (type(target),)


def known_shapes(family: Family) -> dict[Shape, tuple[Reason, ...]]:
    """The reasons of every rule of the examples, by what it looks like."""
    if family not in _known:
        learned: dict[Shape, dict[Reason, None]] = {}
        for intent in examples():
            for table, chain, rule in ruleset(intent, family).rules():
                learned.setdefault((table, chain, *shape(rule)), {})[rule.why, rule.setting] = None
        _known[family] = {key: tuple(reasons) for key, reasons in learned.items()}
    return _known[family]


_known: dict[Family, dict[Shape, tuple[Reason, ...]]] = {}

TUNNEL = "inbound_tunnel_port"
BOTH = (Family.V4, Family.V6)
SOME_PORTS = (Ports.one(4000), Ports(5000, 5010), Ports.one(DNS_PORT))
MANY_PORTS = tuple(Ports.one(port) for port in range(1, 40, 2))
SOME_NETWORKS: tuple[Network, ...] = (IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8:77::/48"))
PASSED_ON: tuple[Network, ...] = tuple(PASSTHROUGH.values())
EVERYWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.8/32"), IPv6Network("::1/128"))
SOME_USERS = (Uids(77, 77), Uids(1000, 2000))
OTHER_USERS = (Uids(78, 78), Uids(3000, 4000))
OTHER_PORTS = (Ports.one(4001), Ports(6000, 6010))
POLICIES = ("leave", "reject", "drop")
SOME: dict[str, tuple[object, ...]] = {
    "tuple[Ports, ...]": SOME_PORTS,
    "Sequence[Network]": SOME_NETWORKS,
    "tuple[Uids, ...]": SOME_USERS,
    "tuple[PortsOfUsers, ...]": (
        PortsOfUsers(("tcp", "udp"), OTHER_PORTS, OTHER_USERS),
        PortsOfUsers(("tcp", "udp"), (), OTHER_USERS),
        PortsOfUsers(("tcp", "udp"), (Ports.one(DNS_PORT),), OTHER_USERS),
    ),
    "tuple[str, ...]": ("eth9",),
    "tuple[int, ...]": (888,),
}
"""What a field of `Intent` that excludes something may hold, by its annotation."""


def examples() -> Iterator[Intent]:
    """Intents that together have every kind of rule, in both modes, and in the chain that many owner groups share."""
    for kind in kinds():
        for intent in (kind, kind.but(interception_mode=TPROXY)):
            yield intent
            yield intent.but(owner_groups=tuple(range(64)))


def kinds() -> Iterator[Intent]:
    """One intent or more for each kind of rule."""
    dns = Intent(families=BOTH, redirect_dns=True, nameservers=SOME_NETWORKS, exclude_uids=SOME_USERS)
    addresses = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    exclusions = {field: SOME[kind] for field, kind in Intent.__annotations__.items() if "exclude" in field}
    excluding = Intent().but(
        **exclusions | {"outbound_cidrs_exclude": SOME_NETWORKS + LOOPBACK},
        families=BOTH,
        capture_ssh=False,
        ssh_ports=(Ports.one(22), Ports.one(DNS_PORT)),
        outbound_ports=SOME_PORTS,
        virtual_interfaces=("eth8",),
        udp=tuple(UdpPolicy(Ports.one(443 + at), policy) for at, policy in enumerate(POLICIES)),
        drop_invalid=True,
        log_connections="log",
    )
    listing = excluding.but(
        inbound_ports=SOME_PORTS,
        outbound_cidrs=SOME_NETWORKS,
        owner_groups=(777, 202),
        log_connections="nflog",
        proxy_uid=(1337, 42),
    )
    yield from (excluding, listing)
    yield listing.but(outbound_ports_exclude=MANY_PORTS, inbound_ports=MANY_PORTS)
    yield listing.but(owner_groups=())
    yield from (excluding.but(udp=(UdpPolicy(Ports.one(DNS_PORT), policy),)) for policy in POLICIES)
    yield excluding.but(outbound_cidrs=EVERYWHERE, exclude_inbound_cidrs=EVERYWHERE, virtual_interfaces=("lo",))
    yield excluding.but(
        outbound_cidrs_exclude=EVERYWHERE, exclude_interfaces=("lo",), exclude_inbound_interfaces=("lo",)
    )
    yield excluding.but(exclude_inbound_cidrs=PASSED_ON)
    yield from (made.but(inbound_tunnel_port=DNS_PORT) for made in (excluding, dns))
    yield Intent(families=BOTH, ipv4_loopback_cidr=IPv4Network("127.0.0.6/32"), inbound_ports=(Ports.one(53),))
    yield excluding.but(outbound_cidrs=LOOPBACK, outbound_cidrs_exclude=())
    # Queries go to one nameserver or to any, on loopback or elsewhere, and to the resolver by port or by address.
    for captured in (dns, dns.but(nameservers=LOOPBACK), dns.but(capture_all_dns=True)):
        yield from (captured, captured.but(dns_capture_address=addresses))
        for resolver in (addresses, tuple(network.network_address for network in LOOPBACK)):
            yield captured.but(dns_capture_address=resolver, dns_capture_port=DNS_PORT)
    to_dns = (Ports.one(DNS_PORT),)
    yield dns.but(outbound_ports_exclude=to_dns, outbound_ports=to_dns, proxy_uid=(1337, 42))
    # Alone in its list a port has a rule of its own, and that of DNS looks like no other.
    yield excluding.but(inbound_ports_exclude=to_dns, ssh_ports=())
    yield excluding.but(outbound_ports_exclude=to_dns, outbound_ports=to_dns)
    yield listing.but(inbound_ports=to_dns, outbound_ports=to_dns, outbound_ports_exclude=to_dns)
    yield dns.but(exclude_outbound_ports_for_uids=excluding.exclude_outbound_ports_for_uids)
    yield dns.but(outbound_cidrs=SOME_NETWORKS, outbound_ports_exclude=SOME_PORTS)
    yield Intent(
        ipv6="reject", exclude_interfaces=("eth9",), exclude_uids=SOME_USERS, outbound_cidrs_exclude=SOME_NETWORKS
    )
