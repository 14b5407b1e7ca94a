"""Settings, entries of lists and rules without effect.

A question to the plan, not a list of known mistakes: what would become of every packet without this setting, or without
this entry of it? If nothing changes, it is said, with the reason where one is known.
"""

from __future__ import annotations

from _collections_abc import Sequence  # what `collections.abc` wraps, and loaded already
from itertools import groupby

from rules.analysis.reachability import Outcomes, unmet
from rules.explain.entries import MOST_COMPARED, holders, holds, shown, width
from rules.explain.finding import NOTE, SURPRISE, Finding, named_in
from rules.explain.summary import captures_outbound, named
from rules.iptables.words import listed, rule_words
from rules.netfilter.values import All, Family, Ports, family_of
from rules.plan.flows.words import merged
from rules.plan.plan import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeAlias

    from rules.analysis.reachability import Unmet
    from rules.plan.intent import Intent, PortsOfUsers, Uids
    from rules.plan.plan import Plan

    Given: TypeAlias = Mapping[str, Intent | None]

INBOUND = frozenset({"inbound_ports_exclude", "exclude_inbound_cidrs", "capture_ssh", "drop_invalid"})
OUTBOUND = frozenset(
    {
        "outbound_cidrs",
        "outbound_cidrs_exclude",
        "outbound_ports",
        "outbound_ports_exclude",
        "owner_groups",
        "owner_groups_exclude",
        "exclude_uids",
        "exclude_outbound_ports_for_uids",
        "ipv4_loopback_cidr",
        "proxy_port",
        "virtual_interfaces",
    }
)
OF_NETWORKS = frozenset({"outbound_cidrs", "outbound_cidrs_exclude", "exclude_inbound_cidrs", "dns_capture_address"})
OF_THE_HOST = frozenset({"dual_stack", "ipv6", "capture_ssh"})
"""Settings that a pod spec gives for whatever it may meet."""


class Idle:
    """The look for what is without effect in one intent."""

    def __init__(self, intent: Intent, given: Given, planned: Plan, *, sends: bool) -> None:
        self.intent = intent
        self.given = given
        self.plan = planned
        self.outcomes = Outcomes(planned)
        self.sends = sends
        """Whether anything outbound is captured."""

    def all(self, swallowed: set[str]) -> Iterator[Finding]:
        """Whatever is without effect is not named once more entry by entry, or for its rules that never match.

        Nor are the entries and rules of the `swallowed` settings, of which nothing is captured at all.
        """
        idle = list(self.without_effect())
        idle += self.entries_without_effect({finding.settings[0] for finding in idle} | swallowed)
        yield from idle
        yield from self.never_met({finding.settings[0] for finding in idle} | swallowed)

    # --- settings without effect ------------------------------------------------------------------------------

    def without_effect(self) -> Iterator[Finding]:
        for name, without in self.given.items():
            if without is None:
                continue
            planned = plan(without)
            if self.outcomes.same_as(planned):
                reason, advice = self.why_idle(name)
                text = f"{{{name}}} is without effect: "
                if not reason:
                    reason = (
                        "the rules are the same without it"
                        if planned == self.plan
                        else "there are rules for it, but no connection fares differently without them"
                    )
                severity = NOTE if name in OF_THE_HOST else SURPRISE
                yield Finding(severity, "no-effect", (name, *named_in(reason, name)), text + reason, advice)

    def why_idle(self, name: str) -> tuple[str, str]:
        """The reason why a setting has no effect, and what to do; empty where none is known."""
        intent = self.intent
        leave_out = "leave it out"
        if name == "inbound_ports_exclude" and not isinstance(intent.inbound_ports, All):
            return "{inbound_ports} lists the captured ports already", leave_out
        if name == "owner_groups_exclude" and not isinstance(intent.owner_groups, All):
            return "{owner_groups} lists the captured groups already", leave_out
        if name in ("owner_groups_exclude", "owner_groups") and are_the_proxys(intent, getattr(intent, name)):
            return "it names the proxy's own groups, and the proxy is never captured", leave_out
        if name == "exclude_uids" and all(users_are(intent.proxy_uid, users) for users in intent.exclude_uids):
            return "it names the proxy's own users, and the proxy is never captured", leave_out
        if name in ("tproxy_mark", "tproxy_route_table") and not intent.uses_tproxy:
            return why_no_tproxy(intent), "-m TPROXY makes use of it"
        if name == "interception_mode" and not intent.uses_tproxy:
            return why_no_tproxy(intent), leave_out
        if name == "log_connections_rate" and not intent.log_connections:
            return "{log_connections} is not given", "--log-connections log makes use of it"
        if name == "nflog_group" and intent.log_connections != "nflog":
            return "{log_connections} is not nflog", "--log-connections nflog makes use of it"
        if name == "envoy_user":
            return "{proxy_uid} names the proxy's users already", leave_out
        if name in ("capture_all_dns", "dns_capture_port", "dns_capture_address", "resolv_conf"):
            if not intent.redirect_dns:
                return "DNS is not captured without {redirect_dns}", "--redirect-dns captures it"
            if name == "resolv_conf":
                return "{capture_all_dns} captures queries to every nameserver", leave_out
        if name == "redirect_dns" and not intent.redirect_dns:
            return "no nameserver is known", "--capture-all-dns captures queries to any"
        if name in ("dual_stack", "ipv6"):
            return "with the addresses that are here, the rules are the same without it", ""
        passed_by = not intent.redirect_dns and only_udp(intent.exclude_outbound_ports_for_uids)
        if name == "exclude_outbound_ports_for_uids" and passed_by:
            return "of UDP only DNS is ever captured, and {redirect_dns} does not ask for that", leave_out
        if name == "capture_ssh":
            return "no SSH session and no sshd was found here", leave_out
        if name == "udp" and all(entry.policy == "leave" for entry in intent.udp):
            return "to leave UDP alone is what happens anyway", leave_out
        if name in INBOUND and not intent.inbound_ports:
            return "{inbound_ports} captures nothing inbound", leave_out
        if name in OF_NETWORKS and is_of_another_family(intent, name):
            other = "IPv6" if Family.V6 not in intent.families else "IPv4"
            return f"it names {other} networks only, and {other} is not captured", ""
        if name in OUTBOUND and not self.sends and not intent.redirect_dns:
            return f"nothing outbound is captured, because {why_nothing_is_sent(intent, name)}", leave_out
        if name in ("outbound_cidrs_exclude", "outbound_ports_exclude"):
            return "what it excludes would not be captured anyway", leave_out
        if name == "outbound_ports":
            return why_ports_idle(intent), leave_out
        return "", ""

    # --- entries without effect -------------------------------------------------------------------------------

    def entries_without_effect(self, reported: set[str]) -> Iterator[Finding]:
        for name in self.given:
            entries = getattr(self.intent, name, ())
            is_list = isinstance(entries, Sequence) and not isinstance(entries, str)
            if is_list and len(entries) > 1 and name not in reported:
                listed = tuple(entries)
                yield from self.idle_entry_findings(name, listed, list(self.idle_entries(name, listed)))

    def idle_entries(self, name: str, entries: tuple[Any, ...]) -> Iterator[Any]:
        """Those that could go, tried from the narrowest to the widest and from the last to the first.

        A long list is only looked through for what another entry of it contains.
        """
        if len(entries) > MOST_COMPARED:
            yield from (entry for entry, _ in holders(entries))
            return
        kept = list(entries)
        later_first = list(reversed(entries))
        for entry in sorted(later_first, key=width):
            at = len(kept) - 1 - kept[::-1].index(entry)
            fewer = kept[:at] + kept[at + 1 :]
            if fewer and self.outcomes.same_as(plan(self.intent.but(**{name: tuple(fewer)}))):
                kept = fewer
                yield entry

    def idle_entry_findings(self, name: str, entries: tuple[Any, ...], idle: list[Any]) -> Iterator[Finding]:
        once: set[object] = set()
        twice: set[object] = set()
        for entry in entries:
            (twice if entry in once else once).add(entry)
        wider = dict(holders(entries)) if idle else {}
        reasons = (
            "it is listed twice" if entry in twice else self.why_entry_idle(name, entry, wider.get(entry))
            for entry in idle
        )
        explained = sorted(zip(reasons, idle, strict=True), key=lambda it: it[0])
        for reason, group in groupby(explained, key=lambda it: it[0]):
            texts = [shown(entry) for _, entry in group]
            verb = "has" if len(texts) == 1 else "have"
            text = f"of {{{name}}}, {listed(texts, 6)} {verb} no effect: {reason}"
            yield Finding(SURPRISE, "no-effect", (name, *named_in(reason, name)), text, "leave it out", tuple(texts))

    def why_entry_idle(self, name: str, entry: Any, wider: Any) -> str:
        """The reason why an entry has no effect, of which this other one is wider, if there is one."""
        intent = self.intent
        if name in ("proxy_uid", "proxy_gid"):
            return "no connection fares differently without it"
        if name in OF_NETWORKS and family_of(entry) not in intent.families:
            return f"{family_of(entry).value} is not captured"
        if wider is not None:
            return f"{shown(wider)} contains it"
        if name in ("inbound_ports", "inbound_ports_exclude") and entry == Ports.one(intent.inbound_tunnel_port):
            return "it is {inbound_tunnel_port}, the tunnel port, which is never captured"
        if name in ("owner_groups", "owner_groups_exclude") and entry in intent.proxy_gid:
            return "it is the proxy's own group, and the proxy is never captured"
        if name == "exclude_uids" and users_are(intent.proxy_uid, entry):
            return "it is the proxy's own, and the proxy is never captured"
        if name == "outbound_cidrs":
            if any(holds(other, entry) for other in intent.outbound_cidrs_exclude):
                return "{outbound_cidrs_exclude} excludes it first"
            if holds(intent.loopback(family_of(entry)), entry):
                return "it counts as loopback, which is let go first"
        if name == "outbound_ports":
            if any(holds(other, entry) for other in intent.outbound_ports_exclude):
                return "{outbound_ports_exclude} lets it go first"
            return why_ports_idle(intent)
        if name in ("outbound_cidrs_exclude", "outbound_ports_exclude", "owner_groups_exclude", "exclude_uids"):
            return "what it excludes would not be captured anyway"
        if name == "exclude_outbound_ports_for_uids" and only_udp((entry,)) and not intent.redirect_dns:
            return "of UDP only DNS is ever captured, and {redirect_dns} does not ask for that"
        if name == "udp" and entry.policy == "leave":
            return "to leave UDP alone is what happens anyway"
        return "no connection fares differently without it"

    # --- rules that never match ---------------------------------------------------------------------------------

    def never_met(self, reported: set[str]) -> Iterator[Finding]:
        """Rules that some setting asked for and no packet can meet, though the setting has an effect elsewhere."""
        seen: dict[tuple[str, str, str], list[tuple[Family, Unmet, str]]] = {}
        for ruleset in self.plan.rulesets:
            for it in unmet(ruleset):
                name = it.rule.setting
                if name not in self.given or name in reported or name in ("proxy_uid", "proxy_gid"):
                    continue
                rules = ruleset.table(it.table).chains()[it.chain]
                first = [rules[position - 1] for position in it.by]
                # What a setting itself asked first is no surprise; of a chain that nothing is sent to, the jump is.
                if first and not all(rule.setting == name for rule in first):
                    takers = [f'rule {at} ("{rule_words(rule)}")' for at, rule in zip(it.by, first, strict=True)]
                    seen.setdefault((name, it.chain, rule_words(it.rule)), []).append(
                        (ruleset.family, it, f"{listed(takers, 3)} take{'s' if len(first) == 1 else ''} that before")
                    )
        for (name, chain, words), met in seen.items():
            (_, it, because), families = met[0], named(dict.fromkeys(family for family, _, _ in met))
            text = f'rule {it.position} of {chain} ({families}), for {{{name}}}, never matches ("{words}"): {because}'
            yield Finding(SURPRISE, "never-matches", (name,), text, "see whether the earlier rule is meant")


# --- reasons ----------------------------------------------------------------------------------------------------------


def why_ports_idle(intent: Intent) -> str:
    if isinstance(intent.outbound_cidrs, All):
        return "{outbound_cidrs} captures every port already"
    if intent.outbound_ports_exclude:
        return "{outbound_ports_exclude} lets these ports go first"
    return "what it asks for is captured or let go before"


def why_no_tproxy(intent: Intent) -> str:
    if not intent.inbound_ports:
        return "{inbound_ports} captures nothing inbound, so the mode makes no difference"
    return "{interception_mode} is not TPROXY"


def why_nothing_is_sent(intent: Intent, name: str) -> str:
    """Which setting it is that nothing outbound gets past. Not the one that is asked about."""
    if intent.owner_groups == () and name != "owner_groups":
        return "{owner_groups} is empty"
    if are_the_proxys(intent, intent.owner_groups):
        return "{owner_groups} names the proxy's own groups only, and the proxy is never captured"
    if intent.outbound_cidrs == () and not intent.outbound_ports:
        return "{outbound_cidrs} is empty"
    if not isinstance(intent.outbound_cidrs, All) and is_of_another_family(intent, "outbound_cidrs"):
        return "{outbound_cidrs} names no network of a captured family"
    if name != "outbound_ports_exclude" and merged(intent.outbound_ports_exclude) == [Ports(1, 65535)]:
        return "{outbound_ports_exclude} excludes every port"
    if name != "outbound_cidrs_exclude" and swallows(intent):
        return "{outbound_cidrs_exclude} excludes every destination of {outbound_cidrs}"
    return "everything is excluded"


def are_the_proxys(intent: Intent, gids: All | tuple[int, ...]) -> bool:
    return not isinstance(gids, All) and bool(gids) and set(gids) <= set(intent.proxy_gid)


def is_of_another_family(intent: Intent, name: str) -> bool:
    """Whether a list of networks has none of a captured family."""
    networks = getattr(intent, name)
    return bool(networks) and not any(family_of(network) in intent.families for network in networks)


def users_are(uids: Sequence[int], users: Uids) -> bool:
    """Whether these users are all the proxy's."""
    return users.last - users.first < len(uids) and all(uid in uids for uid in range(users.first, users.last + 1))


def only_udp(entries: tuple[PortsOfUsers, ...]) -> bool:
    return all(entry.protocols == ("udp",) for entry in entries)


def swallows(intent: Intent) -> bool:
    """Whether the excluded destinations are all there are, or all that is captured."""
    without = intent.but(outbound_cidrs_exclude=())
    return any(captures_outbound(without, family) for family in intent.families)
