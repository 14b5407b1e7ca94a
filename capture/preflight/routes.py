"""Addresses, IPv6, and the ip rules and routes of TPROXY."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.kernel.process import read_words
from capture.preflight.facts import Fact, Here, listed
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from rules.live.drift import REFUSED_FOR, REMEDY, Kind, sentence_of
from rules.live.routing import asking_for_uids, place_for_ours, routing_in_the_way, theirs
from rules.netfilter.values import Family
from rules.plan.names import RULE_PRIORITY
from rules.plan.plan import Routing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.live.drift import Finding


IPV6_SWITCHES = {"all": "/proc/sys/net/ipv6/conf/all/disable_ipv6", "lo": "/proc/sys/net/ipv6/conf/lo/disable_ipv6"}


def addresses(here: Here) -> Iterator[Fact]:
    """Which addresses there are, which families would be captured, and what stands in the way of IPv6."""
    area = "addresses"
    if here.not_entered:
        return
    if here.facts.addresses is None:
        yield Fact(area, "addresses", "the kernel does not tell", UNKNOWN, "allow AF_NETLINK sockets")
    else:
        usable = ", ".join(map(str, here.facts.usable()))
        remedy = "" if usable else "both families are captured meanwhile; --ipv6=off or on decides it"
        yield Fact(area, "addresses", usable or "none that others could reach", OK if usable else WARN, remedy)
    captured = here.resolved.intent.families
    bypassing = (
        here.facts.usable(Family.V6) and Family.V6 not in captured and here.settings.ipv6 not in ("off", "reject")
    )
    ways = "--ipv6=auto captures it, --ipv6=reject" if here.facts.lo_has_ipv6 else "--ipv6=reject"
    remedy = f"IPv6 bypasses the proxy: {ways} refuses what is sent" if bypassing else ""
    shown = " and ".join(family.value for family in captured)
    if here.resolved.intent.ipv6 == "reject":
        shown += "; IPv6 is refused"
    yield Fact(area, "captured families", shown, WARN if bypassing else OK, remedy)
    yield from ipv6(here)


def ipv6(here: Here) -> Iterator[Fact]:
    area, name = "addresses", "IPv6"
    wanted = here.planned.passthrough_address
    if not here.facts.has_ipv6:
        remedy = "the kernel has no IPv6 (booted with ipv6.disable=1?); --ipv6=off" if wanted else ""
        yield Fact(area, name, "not in the kernel", MISSING if wanted else OK, remedy, wanted)
        return
    off = [f"{path} is 1" for path in IPV6_SWITCHES.values() if read_words(path) == ["1"]]
    lacks = not here.facts.lo_has_ipv6 and bool(here.facts.usable(Family.V6))
    remedy = f"what is captured goes over lo: set {IPV6_SWITCHES['lo']} to 0 to have IPv6 captured" if lacks else ""
    yield Fact(area, name, ", ".join(off) or "enabled", WARN if lacks else OK, remedy, needed=wanted or lacks)


def routing(here: Here) -> Iterator[Fact]:
    """Whether the routing table and the mark that TPROXY needs are free, or ours, and its ip rule is asked first."""
    if here.not_entered or here.live is None:
        return
    intent, live = here.resolved.intent, here.live
    table, mark = intent.tproxy_route_table, intent.tproxy_mark
    needed = bool(here.planned.routing)
    planned = here.planned.routing or (Routing(Family.V4, mark, table),)
    found = [each for wanted in planned for each in routing_in_the_way(live.policy_rules, live.routes, wanted)]
    routes = [
        each for each in found if each.kind in (Kind.ROUTE_TAKES_ALL, Kind.ROUTE_TAKES_SOME, Kind.ROUTE_BEHIND_OURS)
    ]
    marks = [each for each in found if each.kind is Kind.MARK_SHARED]
    rules = [each for each in found if each.kind in (Kind.IP_RULE_BEFORE_OURS, Kind.IP_RULE_AT_ZERO)]
    yield of_others(f"table {table}", routes, "free, or ours", needed=needed)
    yield of_others(f"mark {mark:#x}", marks, "no ip rule of others asks for it", needed=needed)
    places = []
    for wanted in planned:
        place = place_for_ours(live.policy_rules, wanted)
        passed = [
            str(rule)
            for rule in theirs(live.policy_rules, wanted)
            if place is not None and rule.priority <= RULE_PRIORITY
        ]
        if passed:
            places.append(f"ours is asked before {listed(passed)} ({wanted.family.value})")
    yield of_others("ip rules of others", rules, "; ".join(places) or "none is asked before ours", needed=needed)
    by_uid = list(asking_for_uids(live.policy_rules, [each.family for each in here.planned.rulesets if each.tables]))
    if by_uid:
        yield of_others("ip rules by uid", by_uid, "", needed=True)


def of_others(name: str, found: list[Finding], free: str, *, needed: bool) -> Fact:
    """What of others is in the way of our routing, as a fact."""
    if not found:
        return Fact("routing", name, free, OK, needed=needed)
    is_refused = any(each.kind in REFUSED_FOR for each in found)
    remedies = dict.fromkeys(REMEDY.get(each.kind, each.rerun) for each in found)
    return Fact(
        "routing",
        name,
        listed([sentence_of(each) for each in found]),
        MISSING if is_refused else WARN,
        "; ".join(remedies),
        needed,
    )
