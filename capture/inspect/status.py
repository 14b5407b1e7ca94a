"""What is installed in a namespace, without knowing the settings that put it there."""

from __future__ import annotations

import struct
import time

from capture.host.listening import heard
from capture.host.live import chosen, has_only_nft
from capture.inspect.reach import lost_on_lo
from capture.inspect.verify import holds_any, others_in_the_way, others_routing
from capture.iptables.iptables import BACKENDS, Iptables
from capture.kernel.conntrack import fullness
from capture.netlink import messages, rtnetlink
from rules.iptables.counters import Count
from rules.live.changes import precedents_of
from rules.live.drift import Finding, above_ours, not_tracked
from rules.netfilter.values import Family
from rules.ours.installed import Installed, installed
from rules.ours.meshes import chains_of_other_meshes, native_tables
from rules.ours.reasons import explained
from rules.ours.recognition import holds_ours, is_our_jump, is_ours, ours_in
from rules.plan.names import LOOPBACK, PASSTHROUGH, PROTOCOL
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import ClassVar

    from capture.host.facts import Facts
    from capture.host.listening import Heard
    from capture.host.live import Live
    from capture.iptables.iptables import Backend
    from capture.settings.declared import Settings
    from rules.netfilter.rulesets import Rule
    from rules.routing.policy import PolicyRule, Route

IFA_CACHEINFO = 6
CACHE_INFO = struct.Struct("=IIII")
"""struct ifa_cacheinfo of linux/if_addr.h; the third is `cstamp`, in hundredths of a second since boot."""
WRAPS = 1 << 32


class Captures(Value):
    """What the rules of one family capture in one backend, told from the rules themselves."""

    backend: Backend
    """nft or legacy, of iptables; or native, our own tables."""
    installed: Installed
    """What that is."""

    TOLD: ClassVar = (
        "backend",
        "installed.family",
        "installed.outbound_port",
        "installed.all_outbound",
        "installed.inbound_port",
        "installed.all_inbound",
        "installed.mode",
        "installed.dns",
        "installed.proxy_uids",
        "installed.proxy_gids",
        "installed.refuses",
        "installed.sentence",
    )


class CountedRule(Value):
    """A rule of ours, with what it has counted."""

    position: int
    """In its chain, counted from 1."""
    rule: Rule
    """As iptables-save writes it, without command and chain."""
    count: Count

    TOLD: ClassVar = ("position", "rule", "count.packets", "count.bytes", "why", "setting")

    @property
    def why(self) -> str:
        """What it is for, as its shape tells; several if they look alike, empty if its shape is none of ours."""
        return self.rule.why

    @property
    def setting(self) -> str:
        """The setting behind it, if only one can be."""
        return self.rule.setting


class Chain(Value):
    """A chain of ours, or a built-in one with our jumps in it."""

    backend: Backend
    """nft or legacy, of iptables; or native, our own tables."""
    family: Family
    """Whose table it is."""
    table: str
    """raw, mangle, nat or filter."""
    chain: str
    """Its name."""
    rules: tuple[CountedRule, ...]
    """Its rules in order; of a built-in chain, our jumps."""


class Passthrough(Value):
    """`::6`, from which the proxy hands inbound IPv6 to the application."""

    ours: bool
    """Whether it carries our signature."""
    age: float | None
    """How many seconds ago it was added; None if the kernel does not tell. About 16 months are the longest it can."""


class OtherMesh(Value):
    """A chain of another mesh."""

    mesh: str
    """Whose it is, by its name."""
    backend: Backend
    """nft or legacy, of iptables; or native, our own tables."""
    family: Family
    """Whose table it is in."""
    table: str
    """Which table."""
    chain: str
    """The chain."""


class Status(Value):
    """What `capture status` shows: what is ours in a namespace, and what of others is in its way."""

    installed: bool
    """Whether anything of ours is in the namespace: exit status 0, else 3."""
    captures: tuple[Captures, ...]
    """For each backend and family that holds chains of ours."""
    chains: tuple[Chain, ...]
    """Our chains and hooks, by backend, family and table."""
    ip_rules: tuple[PolicyRule, ...]
    """Those that carry our signature."""
    routes: tuple[Route, ...]
    """Those that carry our signature."""
    passthrough: Passthrough | None
    """`::6`; None if it is on no interface."""
    heard: Heard
    """Who listens where our rules send things."""
    in_the_way: tuple[Finding, ...]
    """Rules of others by which traffic gets past ours: above our jumps, or turning conntrack off; and ip rules and
    routes of others in the way of ours."""
    other_meshes: tuple[OtherMesh, ...]
    """Chains of other meshes."""
    native_tables: tuple[str, ...]
    """Tables of nf_tables that another mesh programs without iptables."""
    backend: str
    """The backend that a run here uses, nft or legacy of iptables, or native; empty if it can use none."""
    backend_reason: str
    """Why that backend, or why none."""
    only_nft: bool = False
    """Whether nft is installed here and no iptables that can be used, so that a run takes tables of its own."""
    failing: tuple[str, ...] = ()
    """What of the namespace itself keeps captured connections from working, in sentences: lo is down or lacks its
    address, or conntrack is as good as full."""

    TOLD: ClassVar = (
        "installed",
        "backend",
        "backend_reason",
        "only_nft",
        "captures",
        "chains",
        "ip_rules",
        "routes",
        "passthrough",
        "heard.proxy",
        "heard.resolvers",
        "in_the_way",
        "failing",
        "other_meshes",
        "native_tables",
    )


def status_of(live: Live, facts: Facts, settings: Settings) -> Status:
    """What this live state, which was read with its counters, holds of ours, and who listens where it leads."""
    captures, chains, in_the_way, meshes, rulesets = [], [], [], [], []
    for backend in BACKENDS:
        for family in Family:
            ruleset = live.saved(Iptables(backend, family)).ruleset
            meshes += [OtherMesh(mesh, backend, family, *place) for mesh, *place in chains_of_other_meshes(ruleset)]
            if not any(map(holds_ours, ruleset.tables)):
                continue
            captures.append(Captures(backend, installed(ruleset)))
            rulesets.append(ruleset)
            chains += list(chains_of(live, backend, family))
            in_the_way += list(in_the_way_of(live, backend, family))
    in_the_way += list(others_in_the_way(live))
    in_the_way += list(others_routing(live))
    choice = chosen(live, settings)
    return Status(
        holds_any(live),
        tuple(captures),
        tuple(chains),
        tuple(rule for rule in live.policy_rules if rule.protocol == PROTOCOL),
        tuple(route for route in live.local_routes if route.protocol == PROTOCOL),
        Passthrough(live.passthrough.protocol == PROTOCOL, passthrough_age()) if live.passthrough else None,
        heard(rulesets, facts),
        tuple(in_the_way),
        tuple(meshes),
        tuple(native_tables(live.table_names())),
        choice.backend,
        choice.reason,
        has_only_nft(live),
        tuple(dict.fromkeys(failing(live, [each.installed for each in captures]))),
    )


def failing(live: Live, captures: Sequence[Installed]) -> Iterator[str]:
    """What of the namespace itself keeps what these capture from working."""
    for each in captures:
        lost = each.outbound_port and lost_on_lo(LOOPBACK[each.family].network_address, live.addresses)
        if lost:
            yield f"outbound {each.family.value} that is captured: {lost}"
    full = captures and fullness()
    if full:
        yield full


def chains_of(live: Live, backend: Backend, family: Family) -> Iterator[Chain]:
    """Our chains with all their rules, and the built-in ones that jump to them with those jumps; with counters."""
    saved = live.saved(Iptables(backend, family))
    counted = saved.counted()
    for table in explained(saved.ruleset).tables:
        chains = table.chains()
        for chain in (*filter(table.is_built_in, chains), *table.declared):
            ours = [
                CountedRule(position, rule, counted.get((table.table, chain, position), Count(0, 0)))
                for position, rule in enumerate(chains[chain], 1)
                if is_ours(table, chain) or is_our_jump(table, rule)
            ]
            if ours if table.is_built_in(chain) else is_ours(table, chain):
                yield Chain(backend, family, table.table, chain, tuple(ours))


def in_the_way_of(live: Live, backend: str, family: Family) -> Iterator[Finding]:
    """Rules of others by which traffic gets past ours."""
    ruleset = live.saved(Iptables(backend, family)).ruleset
    ours = ours_in(ruleset)
    for table in ruleset.tables:
        for chain, rules in table.chains().items():
            if table.is_built_in(chain):
                for precedent in precedents_of(table, chain, rules, ours, live.company()):
                    yield above_ours(precedent, table.table, chain, ours).but(backend=backend)
    for other in BACKENDS:
        for found_there in not_tracked(live.saved(Iptables(other, family)).ruleset, ours):
            yield found_there.but(backend=other)


def passthrough_age() -> float | None:
    """How many seconds ago `::6` was added, or None if the kernel does not tell."""
    wanted = PASSTHROUGH[Family.V6].network_address.packed
    try:
        for message in messages.dump(messages.NETLINK_ROUTE, rtnetlink.RTM_GETADDR, bytes(8)):
            read = messages.attributes(message[8:])
            if read.get(rtnetlink.IFA_ADDRESS) == wanted and IFA_CACHEINFO in read:
                made: int = CACHE_INFO.unpack(read[IFA_CACHEINFO])[2]
                now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 10_000_000
                return float((now - made) % WRAPS) / 100
    except OSError:
        pass
    return None
