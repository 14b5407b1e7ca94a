"""The setting that excludes from our capture what a rule of others asks for."""

from __future__ import annotations

from itertools import islice

from rules.addresses import summarize_address_range
from rules.meaning.spoken import asked_of
from rules.netfilter import fields as f
from rules.netfilter.spans import common, one, single
from rules.netfilter.targets import Jump
from rules.netfilter.values import OUTPUT, PREROUTING, Family, address_of_family
from rules.plan.names import ISTIO_IN_REDIRECT, ISTIO_INBOUND, ISTIO_OUTPUT, ISTIO_TPROXY, LOOPBACK_INTERFACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Ruleset
    from rules.netfilter.spans import Span

EXCLUDED = (f.PROTOCOL, f.SOURCE, f.DESTINATION, f.DPORT, f.UID, f.GID, f.ARRIVED_ON, f.LEAVES_ON)
"""The fields by which settings exclude."""
MOST_NETWORKS = 16
"""So many networks are named; nobody excludes more by hand."""


def exclusion(matches: Sequence[Match], hook: str, planned: Ruleset) -> str:
    """The settings that exclude what meets all of these in a hook, as they are given; empty if there are none."""
    family = planned.family
    asked = {field: named(field, matches, family) for field in EXCLUDED}
    protocol = next((name for name in ("tcp", "udp") if asked[f.PROTOCOL] == one(f.PROTOCOLS[name])), "")
    networks = network_list(asked[f.DESTINATION if hook == OUTPUT else f.SOURCE], family)
    ports = number_list(asked[f.DPORT])
    interface = interface_name(asked[f.LEAVES_ON if hook == OUTPUT else f.ARRIVED_ON])
    if hook == PREROUTING:
        if protocol == "udp":
            return ""
        if networks:
            return f"--exclude-inbound-cidrs {networks}"
        if ports:
            return f"-d {ports}" if captures_all_inbound(planned) else f"-b without {ports}"
        return f"--exclude-inbound-interfaces {interface}" if interface else ""
    if any(asked[owner] in proxies(planned, owner) for owner in (f.UID, f.GID)):
        return ""
    if networks and protocol != "udp":
        return f"-x {networks}"
    if asked[f.UID]:
        uids = number_list(asked[f.UID])
        of_ports = f"--exclude-outbound-ports-for-uids {protocol}:{ports}:{uids}"
        return of_ports if ports and protocol else f"--exclude-uids {uids}"
    if ports:
        return f"-o {ports}"
    if single(asked[f.GID]):
        return f"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE={asked[f.GID][0]}"
    return f"-c {interface}" if interface else ""


def named(field: int, matches: Iterable[Match], family: Family) -> Span:
    """What all of these ask of a field together, but for what they only deny; empty if they name nothing."""
    whole = f.domain(field, family)
    found: Span = ()
    for span in asked_of(field, matches):
        if span and (span[0], span[-1]) != (whole[0], whole[-1]):
            found = common(found, span) if found else span
    return found


def network_list(span: Span, family: Family) -> str:
    """The networks of a span of addresses, if there are few."""
    ends = [(span[at], span[at + 1] - 1) for at in range(0, len(span), 2)]
    made = (
        network
        for first, last in ends
        for network in summarize_address_range(*(address_of_family(family, each) for each in (first, last)))
    )
    networks = list(islice(map(str, made), MOST_NETWORKS + 1))
    return ",".join(networks) if len(networks) <= MOST_NETWORKS else ""


def number_list(span: Span) -> str:
    """`80,8000-8100`."""
    ends = [(span[at], span[at + 1] - 1) for at in range(0, len(span), 2)]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def interface_name(span: Span) -> str:
    """An interface that is not lo, or all that begin so."""
    if len(span) != 2 or span[0] == LOOPBACK_INTERFACE:
        return ""
    return str(span[0]) if span == one(span[0]) else f"{span[0]}+"


def captures_all_inbound(planned: Ruleset) -> bool:
    """Whether inbound ports are excluded by name, and not by leaving them out of a list."""
    return any(
        rule.target in (Jump(ISTIO_IN_REDIRECT), Jump(ISTIO_TPROXY)) and not any(asked_of(f.DPORT, rule.matches))
        for table in planned.tables
        for rule in table.chains().get(ISTIO_INBOUND, ())
    )


def proxies(planned: Ruleset, owner: int) -> set[Span]:
    """The proxy's uids, or gids: what they send over lo is captured, and no setting excludes it."""
    rules = planned.table("nat").chains().get(ISTIO_OUTPUT, ())
    leading = (rule for rule in rules if rule.target == Jump(ISTIO_IN_REDIRECT))
    return {span for rule in leading for span in asked_of(owner, rule.matches)}
