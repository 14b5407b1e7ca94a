"""Whether the namespace holds what settings ask for: rules in both backends, ip rules, routes and `::6`.

Reads, and takes no lock: what it sees is what packets meet, also while a run is at work.
"""

from __future__ import annotations

from capture.errors import DIFFERS, DONE, NOTHING_HERE
from capture.host.live import choose_backend, read_live
from capture.host.neighbours import findings_of_others, proofs
from capture.iptables.iptables import BACKENDS, Iptables, expect
from capture.kernel.process import LEGACY_TABLES
from capture.kernel.rights import not_permitted
from capture.netlink.early import early
from rules.live.drift import Finding, Kind, compare, not_tracked
from rules.live.routing import asking_for_uids, is_like_ours, ours_to_keep, routing_in_the_way
from rules.live.routing_changes import routing_to_add, routing_to_remove
from rules.meaning.spoken import asked_of
from rules.native.compiled import as_held
from rules.netfilter.fields import UID
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.spans import single
from rules.netfilter.values import Family
from rules.ours.meshes import chains_of_other_meshes, native_tables
from rules.ours.recognition import holds_ours, ours_in
from rules.plan.names import LOOPBACK_INTERFACE, PASSTHROUGH, PROTOCOL
from rules.plan.plan import Routing
from rules.routing.policy import PolicyRule, Route, ip_command
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import ClassVar, Final, Literal, TypeAlias

    from capture.host.choice import Choice
    from capture.host.live import Live
    from capture.log import Log
    from capture.settings.declared import Settings
    from rules.live.routing_changes import RoutingChange
    from rules.plan.plan import Plan
    from rules.proof.proof import Proof

    Verdict: TypeAlias = Literal["as planned", "differs", "nothing"]

AS_PLANNED: Final = "as planned"
DIFFERENT: Final = "differs"
NOTHING: Final = "nothing"
STATUS = {AS_PLANNED: DONE, DIFFERENT: DIFFERS, NOTHING: NOTHING_HERE}
"""The exit status of each answer."""


class Comparison(Value):
    """What `capture verify` found: what a namespace holds beside what is planned for it."""

    live: Live
    planned: Plan
    backend: str
    """The backend of iptables that a run would use."""
    findings: tuple[Finding, ...]
    """Every difference, by backend, family, table, chain and position; of an empty namespace, all that is missing."""
    ours_first: bool = False
    """Whether our jumps are to stand above all rules of others."""
    strict: bool = False
    """Whether what only deserves a mention counts as a difference as well."""

    proofs: tuple[Proof, ...] = ()
    """Whether every connection fares as planned, for each family; none if nothing of ours is here."""

    backend_reason: str = ""
    """Why a run would use that backend."""
    unread: tuple[str, ...] = ()
    """What is asked on interfaces beside netfilter and is not read: XDP programs and tc filters."""

    TOLD: ClassVar = ("verdict", "backend", "backend_reason", "findings", "proofs", "unread")

    @property
    def verdict(self) -> Verdict:
        """as planned: exit status 0. differs: 4. nothing: nothing of ours is here, 3."""
        if not self.findings or (not self.strict and all(finding.is_note for finding in self.findings)):
            return AS_PLANNED
        return DIFFERENT if holds_any(self.live) else NOTHING


def compared(settings: Settings, planned: Plan, log: Log) -> Comparison:
    """Read the namespace we are in, and compare. Raises CaptureError if that cannot be told."""
    expect(planned.rulesets)
    live = read(log)
    planned = live.beside(planned)
    choice = choose_backend(live, settings, planned)
    ours_first = settings.precedence == "ours"
    found = tuple(findings_of(live, planned, choice, ours_first=ours_first))
    compared = Comparison(live, planned, choice.backend, found, ours_first, backend_reason=choice.reason)
    if compared.verdict == NOTHING or choice.comes_from:
        return compared
    proved = tuple(proofs(live, planned))
    if compared.verdict == AS_PLANNED:
        found = (*found, *unexplained(proved, found))
    return compared.but(findings=found, proofs=proved, unread=tuple(map(str, early())))


def unexplained(proved: Sequence[Proof], found: Sequence[Finding]) -> Iterator[Finding]:
    """Connections that fare otherwise than planned, by rules that no other finding names."""
    named = {(each.backend, each.table, each.chain, each.position) for each in found}
    for proof in proved:
        for its in proof.differences:
            if not (named & its.met or named & {("", *place[1:]) for place in its.met}):
                yield Finding(
                    Kind.FARES_OTHERWISE,
                    proof.family,
                    its.table,
                    its.chain,
                    its.position,
                    rule=its.rule,
                    why=its.sentence,
                    backend=its.backend,
                )


def in_the_way(live: Live) -> str:
    """Why a run is refused where nothing of ours is yet: another mesh captures here. Empty if none does."""
    saved = (*live.nft.values(), *live.legacy.values())
    names = dict.fromkeys(mesh for each in saved for mesh, _, _ in chains_of_other_meshes(each.ruleset))
    names |= dict.fromkeys(native_tables(live.table_names()).values())
    return f"{' and '.join(names)} captures here, and a run is refused without --take-over" if names else ""


def read(log: Log, *, counters: bool = False) -> Live:
    """What is live, if all of it may be seen. Raises CaptureError."""
    live = read_live(counters=counters)
    if isinstance(live.nft_error, PermissionError):
        raise not_permitted()
    if not live.legacy_is_known:
        log.warn(f"only uid 0 may read {LEGACY_TABLES[Family.V4]}: whether legacy tables hold anything is not known")
    return live


def findings_of(live: Live, planned: Plan, choice: Choice, *, ours_first: bool = False) -> Iterator[Finding]:
    """Every difference; none exactly when a run has nothing to do or to regret.

    Where a rerun brings ours over to rules of others in the other backend, what those take is what it repairs.
    """
    if not choice.comes_from:
        yield from findings(live, planned, choice.backend, ours_first=ours_first)
        return
    named = set()
    for finding in findings(live, planned, choice.comes_from, ours_first=ours_first):
        if finding.backend == choice.backend and finding.kind in (Kind.OTHERS_TAKE_ALL, Kind.OTHERS_TAKE_SOME):
            named.add(finding.family)
            yield finding.but(kind=Kind.OTHERS_ELSEWHERE)
        else:
            yield finding
    for family in live.taken_by_others(choice.backend, planned):
        if family not in named:
            yield Finding(Kind.OTHERS_ELSEWHERE, family, backend=choice.backend)


def findings(live: Live, planned: Plan, backend: str, *, ours_first: bool = False) -> Iterator[Finding]:
    """Every difference, where ours are to stay in this backend."""
    wanted = {ruleset.family: ruleset for ruleset in planned.rulesets}
    company = live.company(ours_first=ours_first)
    for here in (backend, *(other for other in BACKENDS if other != backend)):
        for family in Family:
            ruleset = live.saved(Iptables(here, family)).ruleset
            asked = as_held(backend, wanted[family]) if here == backend else Ruleset(family)
            for found in compare(ruleset, asked, company):
                yield found.but(backend=here)
    for here in BACKENDS:
        for family in Family:
            for finding in not_tracked(live.saved(Iptables(here, family)).ruleset, wanted[family]):
                yield finding.but(backend=here)
    yield from findings_of_others(live, planned.rulesets, planned.routing, backend)
    yield from routing_findings(live, planned)
    yield from address_findings(live, planned)


def routing_findings(live: Live, planned: Plan) -> Iterator[Finding]:
    for missing in routing_to_add(live.policy_rules, live.local_routes, planned.routing):
        rule_is_there = any(is_like_ours(rule, missing.routing) for rule in live.policy_rules)
        lacking = missing.but(rule_priority=None) if rule_is_there else missing
        yield from findings_of_change(lacking, Kind.ROUTE_MISSING, Kind.IP_RULE_MISSING)
    for wanted in planned.routing:
        yield from routing_in_the_way(live.policy_rules, live.routes, wanted)
    families = [ruleset.family for ruleset in planned.rulesets if ruleset.tables]
    yield from asking_for_uids(live.policy_rules, families, proxies_of(planned))
    for extra in routing_to_remove(live.policy_rules, live.local_routes, planned.routing):
        if extra.routing not in planned.routing:
            yield from findings_of_change(extra, Kind.ROUTE_LEFT, Kind.IP_RULE_LEFT)
        elif ours_to_keep(live.policy_rules, extra.routing):
            yield from findings_of_change(extra, Kind.ROUTE_LEFT, Kind.IP_RULE_DOUBLED)


def proxies_of(planned: Plan) -> frozenset[int]:
    """The uids of the proxy, as the planned rules ask for them."""
    rules = (rule for ruleset in planned.rulesets for rule in ruleset.kinds() if rule.setting == "proxy_uid")
    return frozenset(span[0] for rule in rules for span in asked_of(UID, rule.matches) if single(span))


def findings_of_change(change: RoutingChange, of_route: Kind, of_rule: Kind) -> Iterator[Finding]:
    """A change of routing as findings, in the words in which ip(8) lists things."""
    family, mark, table = change.routing.family, change.routing.mark, change.routing.table
    if change.has_route:
        route = Route(family, table, device=LOOPBACK_INTERFACE)
        yield Finding(of_route, family, rule=f"{ip_command(family)} route: {route}")
    if change.rule_priority is not None:
        rule = PolicyRule(family, change.rule_priority, mark, table)
        yield Finding(of_rule, family, rule=f"{ip_command(family)} rule: {rule}")


def others_in_the_way(live: Live) -> Iterator[Finding]:
    """What rules of others elsewhere do to what ours capture: in native tables, in filters, in the other backend."""
    kept = (rule for rule in live.policy_rules if rule.protocol == PROTOCOL and rule.mark)
    routing = tuple(Routing(rule.family, rule.mark, rule.table) for rule in kept)
    for backend in BACKENDS:
        ours = [ours_in(live.saved(Iptables(backend, family)).ruleset) for family in Family]
        yield from findings_of_others(live, ours, routing, backend)


def others_routing(live: Live) -> Iterator[Finding]:
    """Ip rules and routes of others in the way of our ip rules, whatever settings those are of."""
    ours = [rule for rule in live.policy_rules if rule.protocol == PROTOCOL and rule.is_plain]
    for wanted in dict.fromkeys(Routing(rule.family, rule.mark, rule.table) for rule in ours):
        yield from routing_in_the_way(live.policy_rules, live.routes, wanted)
    saved = ((family, live.saved(Iptables(backend, family))) for backend in BACKENDS for family in Family)
    families = [family for family, its in saved if any(map(holds_ours, its.ruleset.tables))]
    yield from asking_for_uids(live.policy_rules, families)


def address_findings(live: Live, planned: Plan) -> Iterator[Finding]:
    text = f"ip -6 addr: {PASSTHROUGH[Family.V6]} dev {LOOPBACK_INTERFACE}"
    if planned.passthrough_address and live.passthrough is None:
        why = "the proxy hands inbound IPv6 to the application from it"
        yield Finding(Kind.ADDRESS_MISSING, Family.V6, rule=text, why=why)
    if not planned.passthrough_address and live.passthrough and live.passthrough.protocol == PROTOCOL:
        yield Finding(Kind.ADDRESS_LEFT, Family.V6, rule=text)


def holds_any(live: Live) -> bool:
    """Whether anything of ours is in the namespace."""
    return (
        any(live.holds_ours(backend) for backend in BACKENDS)
        or any(rule.protocol == PROTOCOL for rule in live.policy_rules)
        or any(route.protocol == PROTOCOL for route in live.local_routes)
        or (live.passthrough is not None and live.passthrough.protocol == PROTOCOL)
    )
