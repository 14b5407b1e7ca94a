"""What will surprise in some settings: those without effect, contradictions, and what goes past the proxy unseen."""

from __future__ import annotations

from rules.analysis.reachability import unmet
from rules.explain.finding import MISTAKE, NOTE, SEVERITIES, SURPRISE, Finding, named_in
from rules.explain.idle import Idle, users_are, why_nothing_is_sent
from rules.explain.planned import planned
from rules.explain.summary import (
    captures_inbound,
    captures_outbound,
    contains,
    excludes_lo,
    ids,
    refuses_quic,
)
from rules.iptables.words import address, listed
from rules.netfilter.targets import Jump
from rules.netfilter.values import All, Family, Ports, family_of
from rules.plan.flows.outbound import captures_loopback
from rules.plan.intent import of_family
from rules.plan.names import DNS_PORT, ISTIO_IN_REDIRECT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.explain.idle import Given
    from rules.plan.intent import Intent

COMMON_IDS = {65532: "nonroot", 65533: "nobody", 65534: "nobody"}
"""Users and groups of many images (distroless, Debian)."""
FIRST_USER = 1000
"""The first uid and gid that Linux distributions give to people, and many images to their application."""
ANY = {Family.V4: "0.0.0.0/0", Family.V6: "::/0"}


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
        self.plan = planned(intent)
        self.sends = [family for family in intent.families if captures_outbound(intent, family)]
        self.takes = [family for family in intent.families if captures_inbound(intent, family)]

    def all(self) -> Iterator[Finding]:
        swallowed = set[str]() if self.sends else {"outbound_cidrs", "outbound_ports"}
        swallowed |= set() if self.takes else {"inbound_ports"}
        yield from Idle(self.intent, self.given, self.plan, sends=bool(self.sends)).all(swallowed)
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

    # --- captures that are none -----------------------------------------------------------------------------------

    def nothing_outbound(self) -> Iterator[Finding]:
        intent = self.intent
        if self.sends or not intent.families:
            return
        if intent.owner_groups == ():
            text = "{owner_groups} is empty: nothing outbound is captured"
            yield Finding(SURPRISE, "captures-nothing", ("owner_groups",), text, "* captures every group")
        elif intent.outbound_cidrs or intent.outbound_ports:
            reason = why_nothing_is_sent(intent, "")
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
        missed = [it for it in intent.nameservers if family_of(it) not in intent.families]
        if not intent.redirect_dns or intent.capture_all_dns or not missed:
            return
        names = listed([address(network) for network in missed], 3)
        family = family_of(missed[0]).value
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
