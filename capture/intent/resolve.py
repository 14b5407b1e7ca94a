"""From what the operator said and what the host answered to what is meant, with nothing left to look up."""

from __future__ import annotations

from capture.errors import BadSettings, Refusal
from capture.host import facts
from capture.host.facts import LO_DISABLES_IPV6
from capture.kernel.netns import RESOLV_CONF
from capture.settings.declared import DECLARED_BY_NAME, Origin, SettingsWarning
from capture.settings.parsers import Name
from capture.text import on_one_line, quoted
from rules.netfilter.values import ALL, All, Family, Ports
from rules.plan.intent import Intent
from rules.plan.names import MOST_OWNERS_IN_A_RULE, PROXY_LOOP_MARK
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from capture.host.facts import Facts
    from capture.netlink.rtnetlink import Address
    from capture.settings.declared import Settings
    from rules.netfilter.values import Network

DEFAULT_PROXY_UID = 1337
NO_EFFECT = "no-effect"
"""The code of warnings of settings that change nothing; `rules.explain.lint` has it too."""


class Resolved(Value):
    """What is meant, where the values that nobody gave came from, and what will surprise."""

    intent: Intent
    derived: dict[str, Origin]
    """The origin of each value that was derived, by the setting's name."""
    warnings: tuple[SettingsWarning, ...]
    needs_ipv6: bool
    """Whether IPv6 was asked for, or the pod has an address in it: then a kernel that cannot capture it is an error."""


def resolve(settings: Settings, found: Facts) -> Resolved:
    """Raises BadSettings for values that cannot mean anything on this host, or not together."""
    return _Resolution(settings, found).resolved()


class _Resolution:
    """The resolving of one set of settings: collects what is refused, derived, and worth a warning."""

    def __init__(self, settings: Settings, found: Facts) -> None:
        self.settings = settings
        self.facts = found
        self.refusals: list[Refusal] = []
        self.derived: dict[str, Origin] = {}
        self.warnings = list(settings.warnings)

    def resolved(self) -> Resolved:
        settings = self.settings
        self.refuse_contradictions()
        uids = self.proxy_uids()
        gids = self.proxy_gids(uids)
        if len(uids) + len(gids) > MOST_OWNERS_IN_A_RULE:
            what = f"makes {len(uids)} uids and {len(gids)} gids of the proxy; at most {MOST_OWNERS_IN_A_RULE} together"
            self.refuse("proxy_uid", what)
        groups = settings.owner_groups
        included = groups if isinstance(groups, All) else self.ids("owner_groups", groups, facts.gid_of)
        excluded = self.ids("owner_groups_exclude", settings.owner_groups_exclude, facts.gid_of)
        nameservers = self.nameservers()
        families = self.families()
        if self.refusals:
            raise BadSettings(self.refusals)
        redirects_dns = settings.redirect_dns and (settings.capture_all_dns or bool(nameservers))
        self.warn_of_settings_without_effect()
        self.warn_of_owners(uids, gids)
        self.warn_of_processes(uids, gids)
        self.warn_of_own_ports()
        self.tell_of_ssh()
        as_said: dict[str, Any] = {
            name: getattr(settings, name) for name in Intent.__match_args__ if name in DECLARED_BY_NAME
        }
        worked_out: dict[str, Any] = {
            "families": families,
            "ipv6": settings.ipv6 if settings.ipv6 == "reject" else "",
            "proxy_uid": uids,
            "proxy_gid": gids,
            "ssh_ports": tuple(Ports.one(port) for port, _ in self.facts.ssh_ports),
            "outbound_cidrs": self.outbound_cidrs(),
            "owner_groups": included,
            "owner_groups_exclude": excluded,
            "redirect_dns": redirects_dns,
            "capture_all_dns": redirects_dns and settings.capture_all_dns,
            "nameservers": nameservers if redirects_dns else (),
        }
        intent = Intent(**(as_said | worked_out))
        needs_ipv6 = settings.dual_stack or settings.ipv6 in ("on", "auto") or bool(self.facts.usable(Family.V6))
        return Resolved(intent, self.derived, tuple(self.warnings), needs_ipv6)

    def warn(self, code: str, setting: str, what: str, fix: str = "") -> None:
        self.warnings.append(SettingsWarning(code, setting, what, fix))

    # --- refusals -----------------------------------------------------------------------------------------

    def refuse(self, name: str, reason: str) -> None:
        origin = self.settings.origins[name]
        self.refusals.append(Refusal(str(origin), origin.text, reason))

    def refuse_contradictions(self) -> None:
        settings = self.settings
        if settings.native_nftables and settings.force_iptables_binary in ("nft", "legacy"):
            self.refuse("force_iptables_binary", "contradicts --native-nftables; give one of the two")
        if settings.proxy_port == settings.inbound_capture_port:
            name = "proxy_port" if settings.origins["proxy_port"].text else "inbound_capture_port"
            reason = "is the port for both directions; the proxy cannot tell them apart on one listener"
            self.refuse(name, reason)
        if settings.dual_stack and settings.ipv6 in ("off", "reject"):
            self.refuse("ipv6", f"contradicts {settings.origins['dual_stack']}, which asks for IPv6 to be captured")
        if settings.interception_mode == "TPROXY" and settings.tproxy_mark == PROXY_LOOP_MARK:
            self.refuse("tproxy_mark", "is the mark of the proxy's calls to its own pod; give another, such as 1337")

    # --- owners -------------------------------------------------------------------------------------------

    def proxy_uids(self) -> tuple[int, ...]:
        if self.settings.proxy_uid:
            return self.ids("proxy_uid", self.settings.proxy_uid, facts.uid_of)
        user = self.settings.envoy_user
        uid = facts.uid_of(user)
        if uid is None:
            self.derived["proxy_uid"] = Origin("derived", f"(there is no user {on_one_line(user)})")
            return (DEFAULT_PROXY_UID,)
        self.derived["proxy_uid"] = Origin("derived", f"from the user {user}")
        return (uid,)

    def proxy_gids(self, uids: tuple[int, ...]) -> tuple[int, ...]:
        if self.settings.proxy_gid:
            return self.ids("proxy_gid", self.settings.proxy_gid, facts.gid_of)
        self.derived["proxy_gid"] = Origin("derived", "from --proxy-uid")
        return uids

    def ids(self, name: str, owners: Sequence[int | Name], lookup: Callable[[str], int | None]) -> tuple[int, ...]:
        found = []
        for owner in owners:
            number = lookup(owner.name) if isinstance(owner, Name) else owner
            if number is None:
                kind = "user" if lookup is facts.uid_of else "group"
                self.refuse(name, f"{owner} is no {kind} on this host; give its number")
            else:
                found.append(number)
        return tuple(dict.fromkeys(found))

    # --- what is captured ---------------------------------------------------------------------------------

    def outbound_cidrs(self) -> All | Sequence[Network]:
        settings = self.settings
        if settings.outbound_cidrs is not None:
            return settings.outbound_cidrs
        if settings.outbound_ports:
            self.derived["outbound_cidrs"] = Origin("derived", "(nothing, because --istio-outbound-ports is given)")
            return ()
        return ALL

    def families(self) -> tuple[Family, ...]:
        """IPv4 always. IPv6 as --ipv6 says; else if the first usable address is one, or with --dual-stack if any is."""
        both, ipv4 = (Family.V4, Family.V6), (Family.V4,)
        usable, ipv6 = self.facts.usable(), self.facts.usable(Family.V6)
        choice = self.settings.ipv6
        if choice == "on" and not self.facts.has_ipv6:
            self.refuse("ipv6", "asks for IPv6, which this kernel does not have; give auto or off")
        if choice in ("off", "reject"):
            return ipv4
        if self.facts.has_ipv6 and not self.facts.lo_has_ipv6:
            self.tell_of_lo(ipv6)
            return ipv4
        if choice == "on":
            return both
        if not usable:
            known = "the addresses cannot be read" if self.facts.addresses is None else "there is no usable address yet"
            if not self.facts.has_ipv6:
                return ipv4
            self.warn("both-families", "ipv6", f"{known}, so both IPv4 and IPv6 are captured")
            return both
        if usable[0].ip.version == 6 or (ipv6 and (self.settings.dual_stack or choice == "auto")):
            return both
        if ipv6:
            shown = ", ".join(str(address.ip) for address in ipv6)
            what = (
                f"IPv6 is not captured: the first address is {usable[0].ip}, but the pod also has {shown}, and what is "
                "sent or received there bypasses the proxy"
            )
            self.warn("ipv6-not-captured", "ipv6", what, "--ipv6=auto captures it, --ipv6=reject refuses what is sent")
        elif self.settings.dual_stack:
            self.warn(NO_EFFECT, "dual_stack", "--dual-stack is without effect: there is no usable IPv6 address")
        return ipv4

    def tell_of_lo(self, usable: tuple[Address, ...]) -> None:
        """IPv6 that is captured goes over lo: where lo has none, capturing would only take away what works."""
        what = f"lo has no IPv6 here ({LO_DISABLES_IPV6} is 1), and what is captured goes over lo"
        if self.settings.ipv6 == "on":
            self.refuse("ipv6", f"asks for IPv6, but {what}; set that to 0, or give auto or off")
        elif usable:
            shown = ", ".join(str(address.ip) for address in usable)
            what = f"IPv6 is not captured: {what}. What is sent or received by {shown} bypasses the proxy"
            self.warn("ipv6-not-captured", "ipv6", what, "--ipv6=reject refuses what is sent")
        elif self.settings.dual_stack:
            self.warn(NO_EFFECT, "dual_stack", f"--dual-stack is without effect: {what}")

    # --- DNS ----------------------------------------------------------------------------------------------

    def nameservers(self) -> tuple[Network, ...]:
        """Those of resolv.conf, each once, IPv4 first; none if no setting needs them."""
        settings = self.settings
        if not settings.nameservers_file:
            return ()
        if self.facts.resolv_conf is None:
            what = f"needs the nameservers, but cannot read {self.facts.resolv_conf_error}"
            instead = "; give --resolv-conf FILE, or --capture-all-dns" if settings.network_namespace else ""
            self.refuse("redirect_dns", what + instead)
            return ()
        if settings.network_namespace and settings.nameservers_file == RESOLV_CONF:
            what = (
                f"the nameservers are those of {RESOLV_CONF} here, because the namespace "
                f"{quoted(settings.network_namespace)} has no resolv.conf of its own"
            )
            self.warn("nameservers-of-another", "resolv_conf", what, "--resolv-conf names another file")
        from capture.intent.nameservers import nameservers_in

        found, unreadable = nameservers_in(self.facts.resolv_conf)
        for line in unreadable:
            what = f"{settings.nameservers_file}: {quoted(line)} names no address and is passed over"
            self.warn("passed-over", "resolv_conf", what)
        if not found:
            what = f"DNS is not captured: {settings.nameservers_file} names no nameserver"
            self.warn("dns-not-captured", "redirect_dns", what, "--capture-all-dns captures all")
        return found

    def warn_of_settings_without_effect(self) -> None:
        settings = self.settings
        if settings.inbound_ports_exclude and not isinstance(settings.inbound_ports, All):
            lists = f"{settings.origins['inbound_ports']} lists the captured ports already"
            what = f"{settings.origins['inbound_ports_exclude']} is without effect: {lists}"
            self.warn(NO_EFFECT, "inbound_ports_exclude", what)
        if settings.owner_groups_exclude and not isinstance(settings.owner_groups, All):
            lists = f"{settings.origins['owner_groups']} lists the captured groups already"
            what = f"{settings.origins['owner_groups_exclude']} is without effect: {lists}"
            self.warn(NO_EFFECT, "owner_groups_exclude", what)
        if settings.owner_groups == ():
            what = f"{settings.origins['owner_groups']} is empty: nothing outbound is captured"
            self.warn("captures-nothing", "owner_groups", what)
        if settings.capture_all_dns and not settings.redirect_dns:
            what = "--capture-all-dns is without effect without --redirect-dns"
            self.warn(NO_EFFECT, "capture_all_dns", what)
        for name in ("probe_port", "probe_timeout"):
            if settings.origins[name].kind == "flag" and not settings.run_validation:
                what = f"{DECLARED_BY_NAME[name].shown} is without effect without --run-validation"
                self.warn(NO_EFFECT, name, what)
        if settings.log_connections == "log" and not self.facts.kernel_logs:
            what = (
                f"{settings.origins['log_connections']}: in a pod the kernel logs nothing, unless "
                "net.netfilter.nf_log_all_netns is 1 on the node"
            )
            self.warn("not-logged", "log_connections", what, "nflog logs everywhere")

    def warn_of_owners(self, uids: tuple[int, ...], gids: tuple[int, ...]) -> None:
        if 0 in uids:
            origin = self.derived.get("proxy_uid", self.settings.origins["proxy_uid"])
            what = f"{origin}: with uid 0 as the proxy, nothing that root sends is captured"
            self.warn("owner-clash", "proxy_uid", what)
        elif 0 in gids:
            origin = self.derived.get("proxy_gid", self.settings.origins["proxy_gid"])
            what = (
                f"{origin}: with gid 0 as the proxy, nothing is captured that a process of group 0 sends: by default "
                "that is every process of root, and in OpenShift every container"
            )
            self.warn("owner-clash", "proxy_gid", what)

    def warn_of_processes(self, uids: tuple[int, ...], gids: tuple[int, ...]) -> None:
        settings = self.settings
        alike = [p for p in self.facts.processes if (p.uid and p.uid in uids) or (p.gid and p.gid in gids)]
        if not alike:
            return
        from capture.host.listening import not_of_the_proxy

        ports = (settings.proxy_port, settings.inbound_capture_port)
        for process in not_of_the_proxy(alike, self.facts.processes, ports):
            who = f"uid {process.uid}" if process.uid in uids else f"gid {process.gid}"
            what = f"pid {process.pid} ({process.name}) runs as {who}: it is taken for the proxy and never captured"
            self.warn("taken-for-the-proxy", "proxy_uid" if process.uid in uids else "proxy_gid", what)

    def tell_of_ssh(self) -> None:
        if self.settings.inbound_ports and not self.settings.capture_ssh:
            for port, how in self.facts.ssh_ports:
                what = f"port {port} is not captured: {how}"
                self.warn("ssh-not-captured", "capture_ssh", what, "--capture-ssh captures it all the same")

    def warn_of_own_ports(self) -> None:
        """A listed port on which the proxy itself listens would be captured into itself."""
        settings = self.settings
        if isinstance(settings.inbound_ports, All):
            return
        for name in ("proxy_port", "inbound_capture_port"):
            own = getattr(settings, name)
            if any(ports.first <= own <= ports.last for ports in settings.inbound_ports):
                origin = settings.origins["inbound_ports"]
                self.warn("own-port", name, f"{origin} captures port {own}, which is the proxy's own")
