"""What of others decides where packets with our mark go, and where our ip rule has to stand to be asked first.

TPROXY marks what it hands to the proxy, and the answers to it; whatever else such a packet says, it has to stay here.
So our ip rule stands before every other that could decide about one: it asks for the mark and nothing else, so nobody
else's packets notice.
"""

from __future__ import annotations

from rules.netfilter.values import Family
from rules.plan.names import PROTOCOL, RULE_PRIORITY
from rules.routing.policy import (
    GOTO,
    LOCAL,
    LOOKUP,
    REFUSALS,
    TABLE_NAMES,
    TCP,
    Flow,
    PolicyRule,
    holds,
    ip_command,
    may_decide,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rules.live.drift import Finding
    from rules.plan.plan import Routing
    from rules.routing.policy import Route


def is_like_ours(rule: PolicyRule, wanted: Routing) -> bool:
    """Whether it does what ours does, whoever put it there."""
    return rule.is_plain and (rule.family, rule.mark, rule.table) == (wanted.family, wanted.mark, wanted.table)


def theirs(rules: Iterable[PolicyRule], wanted: Routing) -> Iterator[PolicyRule]:
    """The rules of others that could decide about a packet with our mark, in the kernel's order."""
    flow = Flow(wanted.family, wanted.mark, transport=TCP)
    for rule in rules:
        if rule.family is wanted.family and not is_like_ours(rule, wanted) and may_decide(rule, flow):
            yield rule


def rules_before(rules: Sequence[PolicyRule], wanted: Routing) -> tuple[PolicyRule, ...]:
    """The rules of others that are asked before the first that is as ours; all of them if there is none."""
    first = next((at for at, rule in enumerate(rules) if is_like_ours(rule, wanted)), len(rules))
    return tuple(theirs(rules[:first], wanted))


def is_asked_first(rules: Sequence[PolicyRule], wanted: Routing) -> bool:
    """Whether one that is as ours is there, and no rule of others that could decide is asked before it."""
    return any(is_like_ours(rule, wanted) for rule in rules) and not rules_before(rules, wanted)


def place_for_ours(rules: Iterable[PolicyRule], wanted: Routing) -> int | None:
    """The highest priority at which ours is asked first, and at most the usual one; None if there is no such place.

    The lowest possible one would change what becomes of the rules that others add later without a priority of their
    own: the kernel puts those before the first rule that is not of priority 0 (fib_default_rule_pref).
    """
    lowest = min((rule.priority for rule in theirs(rules, wanted)), default=RULE_PRIORITY + 1)
    return min(lowest - 1, RULE_PRIORITY) if lowest else None


def ours_to_keep(rules: Sequence[PolicyRule], wanted: Routing) -> PolicyRule | None:
    """The one rule with our signature that stays, if one is there and need not move."""
    has_place = place_for_ours(rules, wanted) is not None
    for at, rule in enumerate(rules):
        if rule.protocol == PROTOCOL and is_like_ours(rule, wanted):
            return None if has_place and any(theirs(rules[:at], wanted)) else rule
    return None


def routing_in_the_way(rules: Sequence[PolicyRule], routes: Sequence[Route], wanted: Routing) -> Iterator[Finding]:
    """What of others decides about packets with our mark, or would be surprised by our rule."""
    from rules.live.drift import Finding, Kind  # a run imports it where there is something to say

    family = wanted.family
    has_place = place_for_ours(rules, wanted) is not None
    is_there = any(is_like_ours(rule, wanted) for rule in rules)
    for rule in rules_before(rules, wanted):
        if not has_place and rule.priority == 0:
            yield Finding(Kind.IP_RULE_AT_ZERO, family, rule=f"{ip_command(family)} rule: {rule}")
        elif has_place and is_there:
            yield Finding(Kind.IP_RULE_BEFORE_OURS, family, rule=f"{ip_command(family)} rule: {rule}")
    for rule in rules:
        asks = rule.family is family and rule.mark and not rule.inverted and not is_like_ours(rule, wanted)
        if asks and rule.protocol != PROTOCOL and holds(rule, Flow(family, wanted.mark)) is not False:
            yield Finding(Kind.MARK_SHARED, family, rule=f"{ip_command(family)} rule: {rule}")
    in_table = [route for route in routes if (route.family, route.table) == (family, wanted.table)]
    defaults = sorted((route for route in in_table if route.is_default), key=lambda route: route.metric)
    wins = next((at for at, route in enumerate(defaults) if route.kind == LOCAL), len(defaults))
    for route in in_table:
        if route.kind == LOCAL:
            continue
        kind = Kind.ROUTE_TAKES_SOME
        if route.is_default:
            is_first = route in defaults[:wins] and (wins < len(defaults) or route.metric <= OUR_METRIC[family])
            kind = Kind.ROUTE_TAKES_ALL if is_first else Kind.ROUTE_BEHIND_OURS
        yield Finding(kind, family, rule=f"{ip_command(family)} route: {route}")


def asking_for_uids(
    rules: Iterable[PolicyRule], families: Iterable[Family], proxies: Iterable[int] = ()
) -> Iterator[Finding]:
    """The rules of others that tell packets apart by their uid, and send or refuse them as the table main would not.

    What an application answers itself without the capture is the proxy's to answer with it, and not every answer is
    looked up with the uid of its socket.
    """
    from rules.live.drift import Finding, Kind  # as above

    for rule in rules:
        if rule.family not in families or not rule.uids or rule.uids == (0, LAST_UID):
            continue
        if rule.action == GOTO or (rule.action == LOOKUP and rule.table in TABLE_NAMES):
            continue
        first, last = rule.uids
        is_the_proxys = any((first <= uid <= last) is not rule.inverted for uid in proxies)
        # Where nothing but the uid is asked for, whatever that proxy sends is refused.
        alone = PolicyRule(rule.family, rule.priority, action=rule.action, inverted=rule.inverted, uids=rule.uids)
        asks_no_more = (
            rule.arrives in ("", "lo") and rule.but(arrives="", table=0, protocol=0, mask=alone.mask) == alone
        )
        is_refused = rule.action in REFUSALS and is_the_proxys and asks_no_more
        kind = Kind.PROXY_REFUSED if is_refused else Kind.IP_RULE_BY_UID
        yield Finding(kind, rule.family, rule=f"{ip_command(rule.family)} rule: {rule}")


LAST_UID = (1 << 32) - 1
OUR_METRIC = {Family.V4: 0, Family.V6: 1024}
"""What the kernel gives to a route that states none (IP6_RT_PRIO_USER of linux/ipv6_route.h)."""
