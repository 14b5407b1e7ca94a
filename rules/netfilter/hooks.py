"""Tables and base chains as nf_tables has them, and in which order a hook asks them.

iptables' tables are those with well-known names: their base chains have the type, hook and priority that their names
say. The kernel asks base chains by rising priority; chains of type nat are the exception, see `at_hook`.
"""

from __future__ import annotations

from itertools import pairwise

from rules.netfilter.rulesets import Block, TableRules
from rules.netfilter.values import BUILT_IN, FILTER, MANGLE, NAT, OUTPUT, PREROUTING, RAW, Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rules.netfilter.rulesets import Rule, Ruleset

INPUT, FORWARD, POSTROUTING = "INPUT", "FORWARD", "POSTROUTING"
INGRESS, EGRESS = "INGRESS", "EGRESS"
"""Where `netdev` chains are asked about one interface: before all others when a packet arrives, after all when it
leaves."""
SECURITY = "security"
PRIORITIES = {RAW: -300, MANGLE: -150, NAT: -100, FILTER: 0, SECURITY: 50}
"""NF_IP_PRI_* of linux/netfilter_ipv4.h: where iptables hooks its tables in."""
SOURCE_NAT = 100
"""NF_IP_PRI_NAT_SRC: the nat table in INPUT and POSTROUTING."""
CONNTRACK = -200
"""NF_IP_PRI_CONNTRACK: where conntrack looks at a packet, in PREROUTING and OUTPUT."""
HOOKS = (PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING)
"""By their numbers in linux/netfilter.h."""
IP_FAMILIES = {
    "ip": (Family.V4,),
    "ip6": (Family.V6,),
    "inet": (Family.V4, Family.V6),
    "netdev": (Family.V4, Family.V6),
}
"""The families of nf_tables whose chains are asked about the packets of each of ours."""
NAME = {Family.V4: "ip", Family.V6: "ip6"}
KIND_NAT, KIND_ROUTE, KIND_FILTER = "nat", "route", "filter"


class BaseChain(Value):
    """A chain that a hook asks."""

    family: str
    """As nf_tables names it: `ip`, `ip6`, `inet`, `netdev` …"""
    table: str
    name: str
    kind: str
    """`filter`, `nat`, or `route`, which has the kernel look for the way again if a mark changed."""
    hook: str
    """By its name in iptables, in capitals: also `INGRESS` and `EGRESS`."""
    priority: int
    drops: bool = False
    """Whether its policy is to drop."""
    handle: int = 0
    """Of two in one table, the later one has the higher."""
    device: str = ""
    """The interface that it is bound to, in `netdev`."""

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"

    @property
    def is_misnamed(self) -> bool:
        """Whether it has the name of a chain of iptables, and is none: another type, hook or priority."""
        return self.family in ("ip", "ip6") and self.name in BUILT_IN.get(self.table, ()) and not is_of_iptables(self)


class NativeTable(Value):
    """A table of nf_tables, with what one family of packets can meet in it."""

    family: str
    name: str
    is_dormant: bool
    """Whether it has the flag by which none of its chains is asked."""
    base_chains: tuple[BaseChain, ...]
    """Those that are not iptables' own."""
    chains: tuple[tuple[str, Sequence[Rule]], ...]
    """Its chains; of a table of iptables only those that have a rule that iptables does not speak."""
    spoken: frozenset[tuple[str, int]] = frozenset()
    """Of a table of iptables, the rules of these chains that iptables shows as they are, by chain and place from 0."""

    @property
    def is_of_iptables(self) -> bool:
        """Whether iptables-nft has a table of this name."""
        return self.family in ("ip", "ip6") and self.name in BUILT_IN

    def __str__(self) -> str:
        return f"{self.family} {self.name}"


def kind_of(table: str, hook: str) -> str:
    """The type of a base chain of iptables."""
    return KIND_NAT if table == NAT else KIND_ROUTE if (table, hook) == (MANGLE, OUTPUT) else KIND_FILTER


def priority_of(table: str, hook: str) -> int:
    """The priority of a base chain of iptables."""
    return SOURCE_NAT if table == NAT and hook in (INPUT, POSTROUTING) else PRIORITIES[table]


MISNAMED = "@nft"
"""What is put behind the name of a base chain that has the name of one of iptables, and is none."""


def is_of_iptables(chain: BaseChain) -> bool:
    """Whether iptables-nft takes this for its own: by name, type, hook and priority."""
    return (
        chain.family in ("ip", "ip6")
        and chain.name in BUILT_IN.get(chain.table, ())
        and (chain.kind, chain.hook, chain.priority)
        == (kind_of(chain.table, chain.name), chain.name, priority_of(chain.table, chain.name))
    )


def at_hook(chain: BaseChain) -> tuple[int, int]:
    """Where in its hook a chain is asked: its priority, and for those of type nat that of the NAT hook and then theirs.

    All of them are asked where the first NAT hook is, and their priorities order them among themselves only (tried on
    the kernel: one at -199 sees a mark that a filter chain sets at -150).
    """
    if chain.kind == KIND_NAT:
        return (SOURCE_NAT if chain.hook in (INPUT, POSTROUTING) else PRIORITIES[NAT]), chain.priority
    return chain.priority, 0


class Station(Value):
    """A base chain with all that a packet can meet from there on."""

    layer: int
    """Which of the rulesets has it; behind those of iptables come the native tables."""
    table: str
    """As a trace names it: `nat`, or `inet consul_tproxy`."""
    chain: str
    hook: str
    kind: str
    place: tuple[int, int]
    drops: bool
    handle: int
    device: str
    rules: Mapping[str, Sequence[Rule]]
    """All chains of its table."""


def stations(
    rulesets: Sequence[Ruleset], natives: Sequence[NativeTable] = (), order: Sequence[int] = ()
) -> dict[str, list[Station]]:
    """What each hook asks, in order. Base chains without a rule that drop nothing are left out.

    Of two base chains at one place the kernel asks the one first that was made later (nf_hook_entries_grow of
    net/netfilter/core.c), and nothing tells which that is but for two of one table: `order` says which layer is.
    """
    ranks = {layer: rank for rank, layer in enumerate(order)}
    found: list[Station] = []
    for layer, ruleset in enumerate(rulesets):
        for table in ruleset.tables:
            rules, policies = table.chains(), dict(table.policies)
            for hook in () if table.is_dormant else BUILT_IN.get(table.table, ()):
                base = BaseChain(
                    "", table.table, hook, kind_of(table.table, hook), hook, priority_of(table.table, hook)
                )
                drops = policies.get(hook) == "DROP"
                found.append(Station(layer, table.table, hook, hook, base.kind, at_hook(base), drops, 0, "", rules))
    for layer, native in enumerate(natives, len(rulesets)):
        rules = dict(native.chains)
        for base in () if native.is_dormant else native.base_chains:
            label, place = str(native), at_hook(base)
            found.append(
                Station(
                    layer, label, base.name, base.hook, base.kind, place, base.drops, base.handle, base.device, rules
                )
            )
    hooks: dict[str, list[Station]] = {}
    for station in sorted(found, key=lambda each: (each.place, ranks.get(each.layer, each.layer), -each.handle)):
        if station.drops or station.rules.get(station.chain):
            hooks.setdefault(station.hook, []).append(station)
    return hooks


def undecided(hooks: Mapping[str, Sequence[Station]]) -> tuple[int, ...]:
    """The layers of which it can make a difference which was made first, and is not known."""
    found: dict[int, None] = {}
    for those in hooks.values():
        for station, following in pairwise(those):
            if station.place == following.place and station.layer != following.layer:
                found[station.layer] = found[following.layer] = None
    return tuple(found)


def merged(ruleset: Ruleset, natives: Sequence[NativeTable]) -> tuple[Ruleset, tuple[NativeTable, ...]]:
    """What iptables-nft shows, with the truth about what it cannot show; and the native tables with what it shows.

    In a table that others share, a rule that iptables does not speak is printed as one that asks for less, or a chain
    is not printed at all, and of a dormant table it says nothing.
    """
    own = {native.name: native for native in natives if native.is_of_iptables and native.family == NAME[ruleset.family]}
    tables = [corrected(table, own[table.table]) if table.table in own else table for table in ruleset.tables]
    there = {table.table for table in tables}
    tables += [corrected(TableRules(name, (), ()), native) for name, native in own.items() if name not in there]
    shown = {table.table: tuple(table.chains().items()) for table in tables}
    return ruleset.but(tables=tuple(tables)), tuple(
        native.but(chains=shown[native.name]) if own.get(native.name) is native else native for native in natives
    )


def corrected(table: TableRules, native: NativeTable) -> TableRules:
    """A table as iptables shows it, with the chains of the native one where they say more."""
    chains = table.chains()
    for chain, rules in native.chains:
        shown = chains.get(chain, ())
        if len(shown) == len(rules):
            rules = tuple(
                its if (chain, at) in native.spoken else true.but(text=its.text)
                for at, (its, true) in enumerate(zip(shown, rules, strict=True))
            )
        chains[chain] = rules
    blocks = tuple(Block(chain, rules) for chain, rules in chains.items() if rules)
    declared = tuple(chain for chain in chains if not table.is_built_in(chain))
    return table.but(declared=declared, blocks=blocks, is_dormant=native.is_dormant)
