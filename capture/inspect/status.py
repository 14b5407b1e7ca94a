"""What is installed in a namespace, without knowing the settings that put it there."""

from __future__ import annotations

import struct
import time

from capture.host.listening import heard
from capture.inspect.verify import holds_any, others_routing
from capture.kernel import netlink
from capture.kernel.iptables import BACKENDS, Iptables
from rules.live.changes import above, holds_ours, is_our_jump, is_ours, ours_in
from rules.live.drift import Finding, Kind, finding, not_tracked
from rules.live.installed import Installed, installed
from rules.live.meshes import chains_of_other_meshes, native_tables
from rules.live.reasons import explained
from rules.netfilter.counters import Count, counters
from rules.netfilter.values import Family
from rules.plan.names import PASSTHROUGH, PROTOCOL
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.host.facts import Facts
    from capture.host.listening import Heard
    from capture.host.live import Live
    from rules.netfilter.routing import PolicyRule, Route
    from rules.netfilter.rulesets import Rule

IFA_CACHEINFO = 6
CACHE_INFO = struct.Struct("=IIII")
"""struct ifa_cacheinfo of linux/if_addr.h; the third is `cstamp`, in hundredths of a second since boot."""
WRAPS = 1 << 32


class Held(Value):
    """One rule of ours, and what it has counted."""

    backend: str
    family: Family
    table: str
    chain: str
    position: int
    rule: Rule
    """With its why, as far as its shape tells."""
    count: Count


class Passthrough(Value):
    """`::6`, which is on an interface."""

    is_ours: bool
    """Whether it carries our signature."""
    age: float | None
    """How many seconds ago it was added, if the kernel tells; about 16 months are the longest it can."""


class Status(Value):
    """What is ours in a namespace, and what of others is in its way."""

    captures: tuple[tuple[str, Installed], ...]
    """For each backend and family that holds chains of ours."""
    chains: tuple[tuple[str, Family, str, str], ...]
    """Our chains, and the built-in ones that jump to them: backend, family, table, chain."""
    rules: tuple[Held, ...]
    """Our rules, in order."""
    policy_rules: tuple[PolicyRule, ...]
    """Our ip rules."""
    routes: tuple[Route, ...]
    """Our routes."""
    passthrough: Passthrough | None
    in_the_way: tuple[Finding, ...]
    """Rules of others above our jumps that can take traffic away, or that turn conntrack off; ip rules and routes of
    others in the way of ours."""
    other_meshes: tuple[tuple[str, str, Family, str, str], ...]
    """Chains of other meshes: the mesh, backend, family, table, chain."""
    native_tables: tuple[str, ...]
    """Tables of nf_tables that another mesh programs without iptables."""
    is_there: bool
    """Whether anything of ours is."""
    heard: Heard
    """Who listens where our rules send things."""


def status_of(live: Live, facts: Facts) -> Status:
    """What this live state, which was read with its counters, holds of ours, and who listens where it leads."""
    captures, chains, rules, in_the_way, meshes, rulesets = [], [], [], [], [], []
    for backend in BACKENDS:
        for family in Family:
            ruleset = live.saved(Iptables(backend, family)).ruleset
            meshes += [(mesh, backend, family, table, chain) for mesh, table, chain in chains_of_other_meshes(ruleset)]
            if not any(map(holds_ours, ruleset.tables)):
                continue
            captures.append((backend, installed(ruleset)))
            rulesets.append(ruleset)
            chains += list(chains_of(live, backend, family))
            rules += list(held(live, backend, family))
            in_the_way += list(usurpers(live, backend, family))
    in_the_way += list(others_routing(live))
    return Status(
        tuple(captures),
        tuple(chains),
        tuple(rules),
        tuple(rule for rule in live.policy_rules if rule.protocol == PROTOCOL),
        tuple(route for route in live.local_routes if route.protocol == PROTOCOL),
        Passthrough(live.passthrough.protocol == PROTOCOL, passthrough_age()) if live.passthrough else None,
        tuple(in_the_way),
        tuple(meshes),
        tuple(native_tables(live.table_names())),
        holds_any(live),
        heard(rulesets, facts),
    )


def chains_of(live: Live, backend: str, family: Family) -> Iterator[tuple[str, Family, str, str]]:
    for table in live.saved(Iptables(backend, family)).ruleset.tables:
        now = table.chains()
        hooks = [chain for chain in now if table.is_built_in(chain)]
        for chain in (*hooks, *table.declared):
            has_jump = any(is_our_jump(table, rule) for rule in now[chain]) if chain in hooks else False
            if has_jump or is_ours(table, chain):
                yield backend, family, table.table, chain


def held(live: Live, backend: str, family: Family) -> Iterator[Held]:
    """Our rules with counters: all of our chains, and our jumps in the built-in ones."""
    saved = live.saved(Iptables(backend, family))
    counted = counters(saved.text)
    for table in explained(saved.ruleset).tables:
        for chain, rules in table.chains().items():
            is_chain = is_ours(table, chain)
            for position, rule in enumerate(rules, 1):
                if is_chain or (table.is_built_in(chain) and is_our_jump(table, rule)):
                    count = counted.get((table.table, chain, position), Count(0, 0))
                    yield Held(backend, family, table.table, chain, position, rule, count)


def usurpers(live: Live, backend: str, family: Family) -> Iterator[Finding]:
    """Rules of others by which traffic gets past ours."""
    ruleset = live.saved(Iptables(backend, family)).ruleset
    for table in ruleset.tables:
        for chain, rules in table.chains().items():
            if table.is_built_in(chain):
                jumps = [rule for rule in rules if is_our_jump(table, rule)]
                found = {position: rule for jump in jumps for position, rule in above(table, chain, jump)}
                for position, rule in sorted(found.items()):
                    told = finding(Kind.OTHERS_ABOVE, family, table.table, chain, position, 0, rule)
                    yield told.but(backend=backend)
    ours = ours_in(ruleset)
    for other in BACKENDS:
        for found_there in not_tracked(live.saved(Iptables(other, family)).ruleset, ours):
            yield found_there.but(backend=other)


def passthrough_age() -> float | None:
    """How many seconds ago `::6` was added, or None if the kernel does not tell."""
    wanted = PASSTHROUGH[Family.V6].network_address.packed
    try:
        for message in netlink.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETADDR, bytes(8)):
            read = netlink.attributes(message[8:])
            if read.get(netlink.IFA_ADDRESS) == wanted and IFA_CACHEINFO in read:
                made: int = CACHE_INFO.unpack(read[IFA_CACHEINFO])[2]
                now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 10_000_000
                return float((now - made) % WRAPS) / 100
    except OSError:
        pass
    return None
