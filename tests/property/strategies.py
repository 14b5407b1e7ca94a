"""Drawn values: intents with all their fields, the rules of others, and tables that hold both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from capture.settings import parsers
from capture.settings.declared import DECLARED_BY_NAME
from rules.addresses import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.rulesets import Block, Rule, TableRules
from rules.netfilter.values import ALL, BUILT_IN, Family, Ports
from rules.ours.recognition import is_our_jump
from rules.plan.intent import REDIRECT, TPROXY, Intent, PortsOfUsers, UdpPolicy, Uids
from rules.plan.names import OURS
from rules.plan.plan import ruleset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.netfilter.values import Network

COMMON_PORTS = (22, 53, 80, 443, 8080, 15001, 15006, 15008, 15090)

port_numbers = st.one_of(st.sampled_from(COMMON_PORTS), st.integers(1, 65535))
single_ports = port_numbers.map(Ports.one)
port_ranges = st.tuples(port_numbers, port_numbers).map(lambda ends: Ports(min(ends), max(ends)))
ports = st.one_of(single_ports, port_ranges)
long_port_lists = st.builds(
    lambda first, step, wide, count: [
        Ports(port, min(port + wide * (at % 3), 65535))
        for at, port in enumerate(((first + at * step) % 65535 + 1) for at in range(count))
    ],
    port_numbers,
    st.integers(0, 9000),
    st.integers(0, 3),
    st.integers(14, 40),
)
"""Lists around and beyond the size of one multiport match, with neighbours and overlaps; cheap to draw."""
port_lists = st.one_of(st.lists(ports, max_size=3), long_port_lists).map(tuple)

ids = st.one_of(st.sampled_from((0, 1, 202, 1000, 1337)), st.integers(0, 2**32 - 2))
letters = "abcdefghijklmnopqrstuvwxyz"
interfaces = st.builds(
    lambda first, rest, plus: first + rest + plus,
    st.sampled_from(letters),
    st.text(alphabet=letters + "0123456789._-@=~#%", max_size=13),
    st.sampled_from(("", "", "+")),
)

ipv4_networks: st.SearchStrategy[Network] = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.one_of(st.sampled_from((0x0A000000, 0x7F000001, 0x7F000000, 0xC0A80001)), st.integers(0, 2**32 - 1)),
    st.integers(0, 32),
)
ipv6_networks: st.SearchStrategy[Network] = st.builds(
    lambda address, length: IPv6Network((address, length), strict=False),
    st.one_of(st.sampled_from((1, 0xFD00 << 112, 0x20010DB8 << 96)), st.integers(0, 2**128 - 1)),
    st.integers(0, 128),
)
networks = st.one_of(ipv4_networks, ipv6_networks)
long_network_lists: st.SearchStrategy[list[Network]] = st.builds(
    lambda first, count: [IPv4Network(((first + at * 65536) % 2**32, 24), strict=False) for at in range(count)],
    st.integers(0, 2**32 - 1),
    st.integers(20, 40),
)
network_lists = st.one_of(st.lists(networks, max_size=3), long_network_lists).map(tuple)
loopback_networks: st.SearchStrategy[Network] = st.builds(
    lambda rest, length: IPv4Network((0x7F000000 | rest, length), strict=False),
    st.integers(0, 2**24 - 1),
    st.integers(8, 32),
)

uid_ranges = st.tuples(ids, ids).map(lambda ends: Uids(min(ends), max(ends)))
uid_lists = st.lists(uid_ranges, min_size=1, max_size=3).map(tuple)
ports_of_users = st.builds(
    PortsOfUsers,
    st.sampled_from((("tcp",), ("udp",), ("tcp", "udp"))),
    st.one_of(st.lists(ports, max_size=3), long_port_lists).map(tuple),
    uid_lists,
)
nameservers = st.sampled_from(
    (IPv4Network("10.96.0.10/32"), IPv4Network("192.0.2.53/32"), IPv4Network("127.0.0.53/32"), IPv6Network("fd00::a"))
)
resolvers = st.sampled_from(((), (IPv4Address("127.0.0.1"),), (IPv4Address("10.0.0.9"), IPv6Address("fd00::9"))))

family_sets = st.sampled_from(((Family.V4,), (Family.V4, Family.V6), (Family.V6,), ()))

BY_READER: dict[object, st.SearchStrategy[Any]] = {
    parsers.boolean: st.booleans(),
    parsers.port: port_numbers,
    parsers.ports: port_lists,
    parsers.all_or_ports: st.one_of(st.just(ALL), port_lists),
    parsers.cidrs: network_lists,
    parsers.interfaces: st.lists(interfaces, max_size=3).map(tuple),
    parsers.uid_ranges: uid_lists,
}
"""How a field is drawn whose setting is read by this."""
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "families": family_sets,
    "proxy_uid": st.lists(ids, min_size=1, max_size=4).map(tuple),
    "proxy_gid": st.lists(ids, min_size=1, max_size=4).map(tuple),
    "outbound_cidrs": st.one_of(st.just(ALL), network_lists),
    "owner_groups": st.one_of(
        st.just(ALL), st.lists(ids, max_size=3).map(tuple), st.integers(4, 48).map(lambda count: tuple(range(count)))
    ),
    "owner_groups_exclude": st.lists(ids, max_size=5).map(tuple),
    "ipv4_loopback_cidr": loopback_networks,
    "ipv6": st.sampled_from(("", "reject")),
    "interception_mode": st.sampled_from((REDIRECT, TPROXY)),
    "tproxy_mark": st.integers(1, 2**32 - 1),
    "tproxy_route_table": st.integers(1, 252),
    "exclude_outbound_ports_for_uids": st.lists(ports_of_users, max_size=2).map(tuple),
    "nameservers": st.lists(nameservers, max_size=3, unique=True).map(tuple),
    "dns_capture_address": resolvers,
    "udp": st.lists(st.builds(UdpPolicy, ports, st.sampled_from(("leave", "reject", "drop"))), max_size=3).map(tuple),
    "log_connections": st.sampled_from(("", "log", "nflog")),
    "log_connections_rate": st.integers(1, 100),
    "nflog_group": st.integers(1, 65535),
}
"""How the other fields are drawn."""
FIELDS |= {
    field: BY_READER[DECLARED_BY_NAME[field].read]
    for field in Intent.__match_args__
    if field not in FIELDS and field in DECLARED_BY_NAME and DECLARED_BY_NAME[field].read in BY_READER
}


def drawn_or_default(field: str) -> st.SearchStrategy[Any]:
    """The field's default half of the time."""
    default = getattr(Intent(), field)
    return st.one_of(st.just(default), FIELDS[field]) if field in FIELDS else st.just(default)


intents: st.SearchStrategy[Intent] = st.builds(
    Intent, **{field: drawn_or_default(field) for field in Intent.__match_args__}
)
families = st.sampled_from(list(Family))

# --- the rules of others ----------------------------------------------------------------------------------

FOREIGN_CHAINS = ("OTHERS", "KUBE-SERVICES", "ISTIO_LOOKALIKE")
foreign_texts = st.sampled_from(
    (
        '-m comment --comment "a b -j DROP"',
        "-m comment --comment kube",
        "-m addrtype --dst-type LOCAL",
        "-m mark --mark 0x1234/0xffff",
        "-m set --match-set allowed src",
        "-m owner --socket-exists",
        "-m statistic --mode random --probability 0.50000000000",
    )
)
MASQUERADE, REDIRECTED = t.ForeignTarget("-j MASQUERADE"), t.Redirect(9999)
foreign_targets = st.sampled_from(
    (
        MASQUERADE,
        t.ForeignTarget("-g OTHERS"),
        t.ForeignTarget(""),
        t.ForeignTarget('-j LOG --log-prefix "who: "'),
        t.Accept(),
        t.Return(),
        t.Drop(),
        REDIRECTED,
    )
)


def plain_matches(version: int) -> st.SearchStrategy[m.Plain]:
    """Matches that we speak, of one family, as anybody could have written them."""
    of_family = ipv4_networks if version == 4 else ipv6_networks
    return st.one_of(
        st.builds(m.Proto, st.sampled_from(("tcp", "udp", "icmp"))),
        st.builds(m.Src, of_family),
        st.builds(m.Dst, of_family),
        st.builds(m.InIface, interfaces),
        st.builds(m.OutIface, interfaces),
        st.builds(m.OwnerUid, ids),
        st.builds(m.OwnerGid, ids),
        st.builds(m.DPort, ports),
        st.builds(m.DPorts, st.lists(single_ports, min_size=1, max_size=15).map(tuple)),
        st.builds(m.CtState, st.frozensets(st.sampled_from(("NEW", "ESTABLISHED", "INVALID")), min_size=1)),
    )


def kind_of(match: m.Match) -> str:
    return type(match.match if isinstance(match, m.Not) else match).__name__


def matches(version: int) -> st.SearchStrategy[tuple[m.Match, ...]]:
    plain = plain_matches(version)
    one: st.SearchStrategy[m.Match] = st.one_of(plain, st.builds(m.Not, plain), st.builds(m.Foreign, foreign_texts))
    return st.lists(one, max_size=3, unique_by=kind_of).map(tuple)


def foreign_rules(family: Family) -> st.SearchStrategy[Rule]:
    targets: st.SearchStrategy[t.Target] = st.one_of(foreign_targets, st.sampled_from(FOREIGN_CHAINS).map(t.Jump))
    return st.builds(Rule, matches(4 if family is Family.V4 else 6), targets)


# --- tables that hold ours and theirs ---------------------------------------------------------------------


@st.composite
def live_tables(draw: st.DrawFn, table: str, family: Family) -> TableRules:
    """A table as a former run, its drift, and other software may have left it.

    It holds what some intent planned, or a part of that, with strays in our chains, doubled and missing jumps,
    chains of ours that nobody asked for, and others' rules between ours.
    """
    former = ruleset(draw(intents), family).table(table) if draw(st.booleans()) else TableRules(table, (), ())
    theirs = foreign_rules(family)
    chains: dict[str, list[Rule]] = {chain: list(rules) for chain, rules in former.chains().items()}
    for chain in draw(st.lists(st.sampled_from(sorted(OURS.get(table, {"OTHERS"}))), max_size=2)):
        chains.setdefault(chain, [])
    for chain in FOREIGN_CHAINS:
        chains[chain] = draw(st.lists(theirs, max_size=2))
    for chain in sorted(BUILT_IN[table]):
        chains.setdefault(chain, [])
    for chain, rules in chains.items():
        drift: list[Rule] = draw(st.lists(theirs, max_size=2))
        jumps = (
            [rule for rule in rules if is_our_jump(TableRules(table, (), ()), rule)] if chain in BUILT_IN[table] else []
        )
        doubled, missing = draw(st.tuples(st.booleans(), st.booleans()))
        if jumps and doubled:
            drift.append(draw(st.sampled_from(jumps)))
        if jumps and missing:
            rules.remove(draw(st.sampled_from(jumps)))
        for rule in drift:
            rules.insert(draw(st.integers(0, len(rules))), rule)
    return table_of(table, chains)


def is_possible(table: str, chain: str, rule: Rule) -> bool:
    """Whether the kernel takes it: no chain of others leads back to itself, and NAT is done in its places only
    (`hooks` of masquerade_tg_reg and redirect_tg_reg in net/netfilter)."""
    names = FOREIGN_CHAINS
    to = rule.target.chain if isinstance(rule.target, t.Jump) else str(rule.target).partition("-g ")[2].rstrip("')")
    if rule.target == MASQUERADE:
        return (table, chain) == ("nat", "POSTROUTING")
    is_for_source = table == "nat" and chain in ("INPUT", "POSTROUTING")
    if rule.target == REDIRECTED:
        return table == "nat" and not is_for_source
    if to in names:  # where a rule may redirect
        return not is_for_source and (chain not in names or names.index(to) > names.index(chain))
    return True


def possible_tables(table: str, family: Family) -> st.SearchStrategy[TableRules]:
    """The same as the kernel takes it, for whoever sends packets through it."""
    return live_tables(table, family).map(as_the_kernel_takes_it)


def as_the_kernel_takes_it(table: TableRules) -> TableRules:
    """The table without the rules that it refuses."""
    blocks = (
        block.but(rules=tuple(rule for rule in block.rules if is_possible(table.table, block.chain, rule)))
        for block in table.blocks
    )
    return table.but(blocks=tuple(blocks))


def table_of(table: str, chains: dict[str, Sequence[Rule]] | dict[str, list[Rule]]) -> TableRules:
    """A table with these chains, as iptables-save would write it down."""
    declared = tuple(chain for chain in chains if chain not in BUILT_IN[table])
    blocks = tuple(Block(chain, tuple(rules)) for chain, rules in chains.items() if rules)
    return TableRules(table, declared, blocks, tuple((chain, "ACCEPT") for chain in sorted(BUILT_IN[table])))
