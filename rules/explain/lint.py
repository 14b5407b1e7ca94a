"""What will surprise in some settings: those without effect, contradictions, and what goes past the proxy unseen.

Most is not a list of known mistakes but a question to the plan: what would become of every packet without this
setting, or without this entry of it? If nothing changes, it is said, with the reason where one is known.

A sentence names settings by their fields in braces (`{outbound_ports}`), because only the caller knows how each was
given.
"""

from __future__ import annotations

from itertools import groupby

from rules.analysis.reachability import Outcomes, unmet
from rules.explain.summary import (
    captures_inbound,
    captures_outbound,
    contains,
    excludes_lo,
    ids,
    named,
    network_family,
    refuses_quic,
)
from rules.iptables.words import address, listed, rule_words
from rules.netfilter.targets import Jump
from rules.netfilter.values import All, Family, Ports
from rules.plan.flows.outbound import captures_loopback
from rules.plan.flows.words import merged
from rules.plan.intent import Intent, PortsOfUsers, UdpPolicy, Uids, of_family
from rules.plan.names import DNS_PORT, ISTIO_IN_REDIRECT
from rules.plan.plan import plan
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network
    from typing import Any, TypeAlias

    from rules.analysis.reachability import Unmet

    Given: TypeAlias = Mapping[str, Intent | None]

MISTAKE, SURPRISE, NOTE = "mistake", "surprise", "note"
SEVERITIES = (MISTAKE, SURPRISE, NOTE)
"""`mistake`: hardly what was meant. `surprise`: does something else than it seems to. `note`: good to know."""

MOST_ENTRIES = 64
"""Entries of one setting that are tried one by one. Longer lists are only looked through for what another entry of
the same list contains."""

COMMON_IDS = {65532: "nonroot", 65533: "nobody", 65534: "nobody"}
"""Users and groups of many images (distroless, Debian)."""
FIRST_USER = 1000
"""The first uid and gid that Linux distributions give to people, and many images to their application."""


class Finding(Value):
    """Something about these settings that will surprise."""

    severity: str
    code: str
    """What kind of finding it is, in a word for programs."""
    settings: tuple[str, ...]
    """The settings involved, the one to change first."""
    text: str
    """A sentence, in which `{field}` stands for a setting."""
    advice: str = ""
    """What to do."""
    entries: tuple[str, ...] = ()
    """The entries of a list that it is about, if not all."""


def findings(intent: Intent, given: Given) -> tuple[Finding, ...]:
    """All there is to say, the worst first.

    `given` has the settings that somebody gave, but for those whose value would be the same by default, and for each
    what would be meant without it; None where the rest would be refused without it.
    """
    found = [*_Lint(intent, given).all()]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


class _Lint:
    """The look at one intent."""

    def __init__(self, intent: Intent, given: Given) -> None:
        self.intent = intent
        self.given = given
        self.plan = plan(intent)
        self.outcomes = Outcomes(self.plan)
        self.sends = [family for family in intent.families if captures_outbound(intent, family)]
        self.takes = [family for family in intent.families if captures_inbound(intent, family)]

    def all(self) -> Iterator[Finding]:
        """Whatever is without effect is not named once more entry by entry, or for its rules that never match."""
        idle = list(self.without_effect())
        swallowed = set[str]() if self.sends else {"outbound_cidrs", "outbound_ports"}
        swallowed |= set() if self.takes else {"inbound_ports"}
        idle += self.entries_without_effect({finding.settings[0] for finding in idle} | swallowed)
        yield from idle
        yield from self.never_met({finding.settings[0] for finding in idle} | swallowed)
        for question in (
            self.nothing_outbound,
            self.nothing_inbound,
            self.a_family_without_destinations,
            self.own_ports,
            self.own_ports_outbound,
            self.ports_of_nothing,
            self.dns_excluded,
            self.dns_of_another_family,
            self.proxy_owners,
            self.proxy_among_excluded,
            self.loopback,
            self.machines,
            self.transparent,
            self.past_the_proxy,
        ):
            yield from question()

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
        if name in ("owner_groups_exclude", "owner_groups") and self.are_the_proxys(getattr(intent, name)):
            return "it names the proxy's own groups, and the proxy is never captured", leave_out
        if name in ("exclude_uids",) and all(users_are(intent.proxy_uid, users) for users in intent.exclude_uids):
            return "it names the proxy's own users, and the proxy is never captured", leave_out
        if name in ("tproxy_mark", "tproxy_route_table") and not intent.uses_tproxy:
            return self.why_no_tproxy(), "-m TPROXY makes use of it"
        if name == "interception_mode" and not intent.uses_tproxy:
            return self.why_no_tproxy(), leave_out
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
        if name in OF_NETWORKS and self.is_of_another_family(name):
            other = "IPv6" if Family.V6 not in intent.families else "IPv4"
            return f"it names {other} networks only, and {other} is not captured", ""
        if name in OUTBOUND and not self.sends and not intent.redirect_dns:
            return f"nothing outbound is captured, because {self.why_nothing_is_sent(name)}", leave_out
        if name in ("outbound_cidrs_exclude", "outbound_ports_exclude"):
            return "what it excludes would not be captured anyway", leave_out
        if name == "outbound_ports":
            return self.why_ports_idle(), leave_out
        return "", ""

    def why_ports_idle(self) -> str:
        if isinstance(self.intent.outbound_cidrs, All):
            return "{outbound_cidrs} captures every port already"
        if self.intent.outbound_ports_exclude:
            return "{outbound_ports_exclude} lets these ports go first"
        return "what it asks for is captured or let go before"

    def why_no_tproxy(self) -> str:
        if not self.intent.inbound_ports:
            return "{inbound_ports} captures nothing inbound, so the mode makes no difference"
        return "{interception_mode} is not TPROXY"

    def why_nothing_is_sent(self, name: str) -> str:
        """Which setting it is that nothing outbound gets past. Not the one that is asked about."""
        intent = self.intent
        if intent.owner_groups == () and name != "owner_groups":
            return "{owner_groups} is empty"
        if self.are_the_proxys(intent.owner_groups):
            return "{owner_groups} names the proxy's own groups only, and the proxy is never captured"
        if intent.outbound_cidrs == () and not intent.outbound_ports:
            return "{outbound_cidrs} is empty"
        if not isinstance(intent.outbound_cidrs, All) and self.is_of_another_family("outbound_cidrs"):
            return "{outbound_cidrs} names no network of a captured family"
        if name != "outbound_ports_exclude" and merged(intent.outbound_ports_exclude) == [Ports(1, 65535)]:
            return "{outbound_ports_exclude} excludes every port"
        if name != "outbound_cidrs_exclude" and swallows(intent):
            return "{outbound_cidrs_exclude} excludes every destination of {outbound_cidrs}"
        return "everything is excluded"

    def are_the_proxys(self, gids: All | tuple[int, ...]) -> bool:
        return not isinstance(gids, All) and bool(gids) and set(gids) <= set(self.intent.proxy_gid)

    def is_of_another_family(self, name: str) -> bool:
        """Whether a list of networks has none of a captured family."""
        networks = getattr(self.intent, name)
        return bool(networks) and not any(network_family(network) in self.intent.families for network in networks)

    # --- entries without effect -------------------------------------------------------------------------------

    def entries_without_effect(self, told: set[str]) -> Iterator[Finding]:
        for name in self.given:
            entries = getattr(self.intent, name, ())
            if isinstance(entries, tuple) and len(entries) > 1 and name not in told:
                yield from self.idle_entry_findings(name, entries, list(self.idle_entries(name, entries)))

    def idle_entries(self, name: str, entries: tuple[Any, ...]) -> Iterator[Any]:
        """Those that could go, tried from the narrowest to the widest and from the last to the first."""
        if len(entries) > MOST_ENTRIES:
            yield from contained(entries)
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
        explained = sorted(((self.why_entry_idle(name, entries, entry), entry) for entry in idle), key=lambda it: it[0])
        for reason, group in groupby(explained, key=lambda it: it[0]):
            texts = [shown(entry) for _, entry in group]
            verb = "has" if len(texts) == 1 else "have"
            text = f"of {{{name}}}, {listed(texts, 6)} {verb} no effect: {reason}"
            yield Finding(SURPRISE, "no-effect", (name, *named_in(reason, name)), text, "leave it out", tuple(texts))

    def why_entry_idle(self, name: str, entries: tuple[Any, ...], entry: Any) -> str:
        intent = self.intent
        if entries.count(entry) > 1:
            return "it is listed twice"
        if name in ("proxy_uid", "proxy_gid"):
            return "no connection fares differently without it"
        if name in OF_NETWORKS and network_family(entry) not in intent.families:
            return f"{network_family(entry).value} is not captured"
        wider = next((other for other in entries if other != entry and holds(other, entry)), None)
        if wider is not None:
            return f"{shown(wider)} contains it"
        if name in ("inbound_ports", "inbound_ports_exclude") and entry == Ports.one(intent.inbound_tunnel_port):
            return "it is {inbound_tunnel_port}, the tunnel port, which is never captured"
        if name in ("owner_groups", "owner_groups_exclude") and entry in intent.proxy_gid:
            return "it is the proxy's own group, and the proxy is never captured"
        if name == "exclude_uids" and users_are(intent.proxy_uid, entry):
            return "it is the proxy's own, and the proxy is never captured"
        if name == "outbound_cidrs":
            if any(entry.version == other.version and entry.subnet_of(other) for other in self.excluded()):
                return "{outbound_cidrs_exclude} excludes it first"
            if self.is_loopback(entry):
                return "it counts as loopback, which is let go first"
        if name == "outbound_ports":
            if any(holds(other, entry) for other in intent.outbound_ports_exclude):
                return "{outbound_ports_exclude} lets it go first"
            return self.why_ports_idle()
        if name in ("outbound_cidrs_exclude", "outbound_ports_exclude", "owner_groups_exclude", "exclude_uids"):
            return "what it excludes would not be captured anyway"
        if name == "exclude_outbound_ports_for_uids" and only_udp((entry,)) and not intent.redirect_dns:
            return "of UDP only DNS is ever captured, and {redirect_dns} does not ask for that"
        if name == "udp" and entry.policy == "leave":
            return "to leave UDP alone is what happens anyway"
        return "no connection fares differently without it"

    def excluded(self) -> tuple[Any, ...]:
        return self.intent.outbound_cidrs_exclude

    def is_loopback(self, network: IPv4Network | IPv6Network) -> bool:
        loopback = self.intent.loopback(network_family(network))
        return network.version == loopback.version and network.subnet_of(loopback)  # type: ignore[arg-type] # of one version

    # --- rules that never match ---------------------------------------------------------------------------------

    def never_met(self, told: set[str]) -> Iterator[Finding]:
        """Rules that some setting asked for and no packet can meet, though the setting has an effect elsewhere."""
        seen: dict[tuple[str, str, str], list[tuple[Family, Unmet, str]]] = {}
        for ruleset in self.plan.rulesets:
            for it in unmet(ruleset):
                name = it.rule.setting
                if name not in self.given or name in told or name in ("proxy_uid", "proxy_gid"):
                    continue
                rules = ruleset.table(it.table).chains()[it.chain]
                first = [rules[position - 1] for position in it.by]
                # What a setting itself asked first is no surprise; of a chain that nothing is sent to, the jump is.
                if first and not all(rule.setting == name for rule in first):
                    takers = [f'rule {at} ("{rule_words(rule)}")' for at, rule in zip(it.by, first, strict=True)]
                    seen.setdefault((name, it.chain, rule_words(it.rule)), []).append(
                        (ruleset.family, it, f"{listed(takers, 3)} take{'s' if len(first) == 1 else ''} that before")
                    )
        for (name, chain, said), met in seen.items():
            (_, it, because), families = met[0], named(dict.fromkeys(family for family, _, _ in met))
            text = f'rule {it.position} of {chain} ({families}), for {{{name}}}, never matches ("{said}"): {because}'
            yield Finding(SURPRISE, "never-matches", (name,), text, "see whether the earlier rule is meant")

    # --- captures that are none -----------------------------------------------------------------------------------

    def nothing_outbound(self) -> Iterator[Finding]:
        intent = self.intent
        if self.sends or not intent.families:
            return
        if intent.owner_groups == ():
            text = "{owner_groups} is empty: nothing outbound is captured"
            yield Finding(SURPRISE, "captures-nothing", ("owner_groups",), text, "* captures every group")
        elif intent.outbound_cidrs or intent.outbound_ports:
            reason = self.why_nothing_is_sent("")
            text = f"nothing outbound is captured: {reason}"
            settings = tuple(dict.fromkeys((*named_in(reason), "outbound_cidrs")))
            advice = 'if that is meant, -i "" says it; else see which exclusion is too wide'
            yield Finding(MISTAKE, "captures-nothing", settings, text, advice)

    def nothing_inbound(self) -> Iterator[Finding]:
        intent = self.intent
        if self.takes or not intent.families:
            return
        if intent.inbound_ports:
            text = "nothing inbound is captured: every port of {inbound_ports} is let go first"
            advice = 'if that is meant, -b "" says it; else see which exclusion is too wide'
            yield Finding(MISTAKE, "captures-nothing", ("inbound_ports",), text, advice)
        elif not excludes_lo(intent):
            text = (
                "{inbound_ports} captures nothing that arrives, but what the proxy sends to its own pod still goes to "
                f"its inbound listener, port {intent.inbound_capture_port}"
            )
            yield Finding(NOTE, "calls-to-itself", ("inbound_ports",), text, "something must listen there")

    def a_family_without_destinations(self) -> Iterator[Finding]:
        missing = [family for family in self.intent.families if family not in self.sends]
        networks = self.intent.outbound_cidrs
        if not self.sends or not missing or isinstance(networks, All):
            return
        for family in missing:
            if not any(of_family(networks, family)):
                text = f"{{outbound_cidrs}} names no {family.value} network: nothing is captured of what is sent in it"
                yield Finding(
                    NOTE, "family-without-destinations", ("outbound_cidrs",), text, f"{ANY[family]} is all of it"
                )

    # --- the proxy and its ports ----------------------------------------------------------------------------------

    def own_ports(self) -> Iterator[Finding]:
        """A listed port on which the proxy itself listens would be captured into itself."""
        intent = self.intent
        if isinstance(intent.inbound_ports, All) or not self.takes:
            return
        for name in ("proxy_port", "inbound_capture_port"):
            port = getattr(intent, name)
            if contains(intent.inbound_ports, port):
                text = f"{{inbound_ports}} captures port {port}, which is the proxy's own"
                advice = "leave it out: the proxy would take connections to its listener for the application's"
                yield Finding(MISTAKE, "own-port", ("inbound_ports", name), text, advice)

    def own_ports_outbound(self) -> Iterator[Finding]:
        for name in ("outbound_ports", "outbound_ports_exclude"):
            for own in ("proxy_port", "inbound_capture_port"):
                port = getattr(self.intent, own)
                entries = getattr(self.intent, name)
                if self.sends and any(ports == Ports.one(port) for ports in entries):
                    text = (
                        f"{{{name}}} has port {port}, on which the proxy listens; outbound lists are about ports of "
                        "other hosts, and the proxy's own traffic is never captured"
                    )
                    yield Finding(
                        NOTE, "own-port-outbound", (name, own), text, "leave it out, unless others listen there"
                    )

    def ports_of_nothing(self) -> Iterator[Finding]:
        intent = self.intent
        without = intent.but(outbound_ports_exclude=())
        if self.sends or intent.redirect_dns or not intent.outbound_ports_exclude:
            return
        if intent.families and not any(captures_outbound(without, family) for family in intent.families):
            text = "{outbound_ports_exclude} lets nothing go that would be captured, for nothing outbound is"
            if not intent.uses_tproxy:
                text += "; it only keeps what the proxy sends to its own pod, on these ports, from its inbound listener"
            settings = ("outbound_ports_exclude", "outbound_cidrs")
            yield Finding(SURPRISE, "excludes-nothing", settings, text, "leave it out")

    def dns_excluded(self) -> Iterator[Finding]:
        intent = self.intent
        if intent.redirect_dns and contains(intent.outbound_ports_exclude, DNS_PORT):
            text = (
                "{outbound_ports_exclude} has port 53: no query goes to the proxy's resolver, although {redirect_dns} "
                "asks for that"
            )
            settings = ("outbound_ports_exclude", "redirect_dns")
            yield Finding(MISTAKE, "dns-excluded", settings, text, "give one of the two")

    def dns_of_another_family(self) -> Iterator[Finding]:
        intent = self.intent
        missed = [it for it in intent.nameservers if network_family(it) not in intent.families]
        if not intent.redirect_dns or intent.capture_all_dns or not missed:
            return
        names = listed([address(network) for network in missed], 3)
        family = network_family(missed[0]).value
        text = f"{{redirect_dns}}: queries to {names} go past the proxy, for {family} is not captured"
        severity = MISTAKE if len(missed) == len(intent.nameservers) else SURPRISE
        yield Finding(severity, "dns-past-the-proxy", ("redirect_dns",), text, "--ipv6 on captures both families")

    def proxy_owners(self) -> Iterator[Finding]:
        intent = self.intent
        if 0 in intent.proxy_uid:
            text = "{proxy_uid}: with uid 0 as the proxy, nothing that root sends is captured"
            yield Finding(MISTAKE, "owner-clash", ("proxy_uid",), text, "run the proxy as a user of its own")
        elif 0 in intent.proxy_gid:
            text = (
                "{proxy_gid}: with gid 0 as the proxy, nothing is captured that a process of group 0 sends: by default "
                "that is every process of root, and in OpenShift every container"
            )
            yield Finding(MISTAKE, "owner-clash", ("proxy_gid",), text, "run the proxy with a group of its own")
        for name, kind in (("proxy_uid", "uid"), ("proxy_gid", "gid")):
            for owner in getattr(intent, name):
                known = (
                    f"`{COMMON_IDS[owner]}`"
                    if owner in COMMON_IDS
                    else "the first user's"
                    if owner == FIRST_USER
                    else ""
                )
                if known and not (name == "proxy_gid" and owner in intent.proxy_uid):
                    text = (
                        f"{{{name}}}: {kind} {owner} is {known} in many images; whatever runs as that is taken for "
                        "the proxy and never captured"
                    )
                    advice = "see that no application has it; 1337 is the usual one of the proxy"
                    yield Finding(SURPRISE, "owner-clash", (name,), text, advice)
        if (
            "proxy_gid" in self.given
            and not intent.uses_tproxy
            and len(set(intent.proxy_uid)) == len(set(intent.proxy_gid)) == 1
        ):
            behind = [
                it
                for ruleset in self.plan.rulesets
                for it in unmet(ruleset)
                if it.rule.setting == "proxy_gid" and it.rule.target == Jump(ISTIO_IN_REDIRECT)
            ]
            if behind:
                text = (
                    "over lo the proxy is known by {proxy_uid} alone: everybody else is let go there before "
                    "{proxy_gid} is asked about, as in istio-iptables"
                )
                advice = "the proxy is to run with that uid, not with that gid alone"
                yield Finding(NOTE, "gid-behind-uid", ("proxy_gid", "proxy_uid"), text, advice)

    def proxy_among_excluded(self) -> Iterator[Finding]:
        intent = self.intent
        for users in intent.exclude_uids:
            inside = [uid for uid in dict.fromkeys(intent.proxy_uid) if users.first <= uid <= users.last]
            if inside and not users_are(intent.proxy_uid, users):
                text = (
                    f"{{exclude_uids}} has {users}, and in it the proxy's {ids('uid', inside)}, never captured anyway"
                )
                yield Finding(NOTE, "proxy-excluded", ("exclude_uids", "proxy_uid"), text)

    # --- loopback and interfaces ------------------------------------------------------------------------------------

    def loopback(self) -> Iterator[Finding]:
        intent = self.intent
        if excludes_lo(intent):
            text = (
                "{exclude_interfaces} has lo: an application that calls itself through a service skips what the proxy "
                "enforces inbound"
            )
            yield Finding(MISTAKE, "lo-excluded", ("exclude_interfaces",), text, "leave lo out")
        if captures_loopback(intent) and not isinstance(intent.outbound_cidrs, All):
            networks = [address(it) for it in intent.outbound_cidrs if it.network_address.is_loopback]
            text = (
                f"{{outbound_cidrs}} has a loopback address ({listed(networks)}): connections of applications over lo "
                "are not let go as such, but asked like any other"
            )
            advice = "leave it out, unless calls over lo are to go through the proxy"
            yield Finding(SURPRISE, "loopback-captured", ("outbound_cidrs",), text, advice)

    def machines(self) -> Iterator[Finding]:
        """What comes from a virtual machine is asked for its destination only, as in istio-iptables."""
        intent = self.intent
        if not intent.virtual_interfaces:
            return
        passed_over = [
            name
            for name in ("outbound_cidrs_exclude", "outbound_ports_exclude", "outbound_ports")
            if getattr(intent, name) and name in self.given
        ]
        if passed_over:
            verb = "is" if len(passed_over) == 1 else "are"
            text = (
                "what arrives on {virtual_interfaces} goes to the proxy if {outbound_cidrs} has its destination; "
                f"{listed([f'{{{name}}}' for name in passed_over])} {verb} not asked of it, as in istio-iptables"
            )
            yield Finding(NOTE, "machines-not-asked", ("virtual_interfaces", *passed_over), text)

    def transparent(self) -> Iterator[Finding]:
        intent = self.intent
        if not intent.uses_tproxy:
            return
        port = intent.inbound_tunnel_port
        ports = intent.inbound_ports
        excluded = isinstance(ports, All) and contains(intent.inbound_ports_exclude, port)
        if (isinstance(ports, All) or contains(ports, port)) and not excluded:
            text = f"with TPROXY the tunnel port {port} is captured like any other"
            settings = ("inbound_tunnel_port", "interception_mode")
            severity = SURPRISE if "inbound_tunnel_port" in self.given else NOTE
            yield Finding(severity, "tunnel-captured", settings, text, "put it into -d if the proxy serves HBONE there")
        if intent.virtual_interfaces:
            text = (
                "with TPROXY, what arrives on {virtual_interfaces} at a captured inbound port is captured as inbound, "
                "before it is asked whether it came from a virtual machine"
            )
            settings = ("virtual_interfaces", "interception_mode")
            yield Finding(SURPRISE, "machines-behind-tproxy", settings, text, "-m REDIRECT asks that first")

    # --- what nobody asked about ----------------------------------------------------------------------------------

    def past_the_proxy(self) -> Iterator[Finding]:
        if self.sends and not refuses_quic(self.intent):
            text = "UDP leaves past the proxy; so does QUIC (HTTP/3, UDP port 443), which clients prefer where offered"
            yield Finding(NOTE, "quic", ("udp",), text, "--udp 443=reject makes them fall back to TCP")


# --- entries of lists ---------------------------------------------------------------------------------------------

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
ANY = {Family.V4: "0.0.0.0/0", Family.V6: "::/0"}


def shown(entry: Any) -> str:
    """An entry as it was written, or nearly."""
    return str(entry).replace(":", "-") if isinstance(entry, Ports) else str(entry)


def width(entry: Any) -> int:
    """How much an entry stands for."""
    if isinstance(entry, Ports | Uids):
        return entry.last - entry.first
    if isinstance(entry, UdpPolicy):
        return entry.ports.last - entry.ports.first
    if isinstance(entry, PortsOfUsers):
        return sum(map(width, entry.ports)) if entry.ports else 65536
    return int(getattr(entry, "num_addresses", 1))


def holds(wider: Any, entry: Any) -> bool:
    """Whether one entry of a list stands for all that another one of the same list does."""
    if isinstance(entry, Ports | Uids):
        return bool(wider.first <= entry.first and entry.last <= wider.last)
    if hasattr(entry, "subnet_of"):
        return bool(entry.version == wider.version and entry.subnet_of(wider))
    if isinstance(entry, str):
        return bool(wider.endswith("+") and entry.startswith(wider[:-1]))
    return bool(entry == wider)


def widest_first(entry: Any) -> tuple[int, ...]:
    """An order in which whatever contains an entry stands before it: networks, or ranges of ports or uids."""
    if isinstance(entry, Ports | Uids):
        return entry.first, -entry.last
    return entry.version, int(entry.network_address), entry.prefixlen


def contained(entries: tuple[Any, ...]) -> Iterator[Any]:
    """The entries of a long list that another of them contains, without comparing each with all others."""
    if not (hasattr(entries[0], "subnet_of") or isinstance(entries[0], Ports | Uids)):
        return
    widest = None
    for entry in sorted(entries, key=widest_first):
        if widest is not None and holds(widest, entry):
            yield entry
        else:
            widest = entry


def users_are(uids: Sequence[int], users: Uids) -> bool:
    """Whether these users are all the proxy's."""
    return users.last - users.first < len(uids) and all(uid in uids for uid in range(users.first, users.last + 1))


def only_udp(entries: tuple[PortsOfUsers, ...]) -> bool:
    return all(entry.protocols == ("udp",) for entry in entries)


def swallows(intent: Intent) -> bool:
    """Whether the excluded destinations are all there are, or all that is captured."""
    without = intent.but(outbound_cidrs_exclude=())
    return any(captures_outbound(without, family) for family in intent.families)


def named_in(text: str, *but: str) -> tuple[str, ...]:
    """The settings that a sentence names in braces."""
    names = [part.partition("}")[0] for part in text.split("{")[1:]]
    return tuple(dict.fromkeys(name for name in names if name not in but))
