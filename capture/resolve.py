"""From what the operator said and what the host answered to what is meant, with nothing left to look up."""

from __future__ import annotations

from capture import facts
from capture.checked import Name
from capture.errors import BadSettings, Refusal
from capture.settings import DECLARED_BY_NAME, Origin
from rules.intent import Intent
from rules.values import ALL, All, Family, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.facts import Facts
    from capture.settings import Settings
    from rules.values import Network

DEFAULT_PROXY_UID = 1337

NOT_BUILT = {
    "redirect_dns": "DNS capture",
    "capture_all_dns": "DNS capture",
    "run_validation": "validation",
}
"""Switches of the contract that are not built yet: asking for them must not be answered by silence."""


class Resolved(Value):
    """What is meant, where the values that nobody gave came from, and what will surprise."""

    intent: Intent
    derived: dict[str, Origin]
    """The origin of each value that was derived, by the setting's name."""
    warnings: tuple[str, ...]


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
        said = self.settings
        self.refuse_what_is_not_built()
        self.refuse_contradictions()
        uids = self.proxy_uids()
        gids = self.proxy_gids(uids)
        groups = said.owner_groups
        included = groups if isinstance(groups, All) else self.ids("owner_groups", groups, facts.gid_of)
        excluded = self.ids("owner_groups_exclude", said.owner_groups_exclude, facts.gid_of)
        if self.refusals:
            raise BadSettings(self.refusals)
        self.warn_of_settings_without_effect()
        intent = Intent(
            families=self.families(),
            proxy_port=said.proxy_port,
            inbound_capture_port=said.inbound_capture_port,
            inbound_tunnel_port=said.inbound_tunnel_port,
            proxy_uid=uids,
            proxy_gid=gids,
            inbound_ports=said.inbound_ports,
            inbound_ports_exclude=said.inbound_ports_exclude,
            outbound_cidrs=self.outbound_cidrs(),
            outbound_cidrs_exclude=said.outbound_cidrs_exclude,
            outbound_ports=said.outbound_ports,
            outbound_ports_exclude=said.outbound_ports_exclude,
            owner_groups=included,
            owner_groups_exclude=excluded,
            exclude_interfaces=said.exclude_interfaces,
            virtual_interfaces=said.virtual_interfaces,
            ipv4_loopback_cidr=said.ipv4_loopback_cidr,
            drop_invalid=said.drop_invalid,
        )
        return Resolved(intent, self.derived, tuple(self.warnings))

    # --- refusals -----------------------------------------------------------------------------------------

    def refuse(self, name: str, reason: str) -> None:
        origin = self.settings.origins[name]
        self.refusals.append(Refusal(str(origin), origin.text, reason))

    def refuse_what_is_not_built(self) -> None:
        for name, what in NOT_BUILT.items():
            if getattr(self.settings, name):
                self.refuse(name, f"{what} is not built yet in this version")
        if self.settings.interception_mode == "TPROXY":
            self.refuse("interception_mode", "TPROXY is not built yet in this version; REDIRECT is")

    def refuse_contradictions(self) -> None:
        said = self.settings
        if said.native_nftables and said.force_iptables_binary == "legacy":
            self.refuse("force_iptables_binary", "contradicts --native-nftables; give one of the two")
        if said.proxy_port == said.inbound_capture_port:
            name = "proxy_port" if said.origins["proxy_port"].text else "inbound_capture_port"
            reason = "is the port for both directions; the proxy cannot tell them apart on one listener"
            self.refuse(name, reason)

    # --- owners -------------------------------------------------------------------------------------------

    def proxy_uids(self) -> tuple[int, ...]:
        if self.settings.proxy_uid:
            return self.ids("proxy_uid", self.settings.proxy_uid, facts.uid_of)
        user = self.settings.envoy_user
        uid = facts.uid_of(user)
        if uid is None:
            self.derived["proxy_uid"] = Origin("derived", f"(there is no user {user})")
            return (DEFAULT_PROXY_UID,)
        self.derived["proxy_uid"] = Origin("derived", f"from the user {user}")
        return (uid,)

    def proxy_gids(self, uids: tuple[int, ...]) -> tuple[int, ...]:
        if self.settings.proxy_gid:
            return self.ids("proxy_gid", self.settings.proxy_gid, facts.gid_of)
        self.derived["proxy_gid"] = Origin("derived", "from --proxy-uid")
        return uids

    def ids(self, name: str, owners: tuple[int | Name, ...], lookup: Callable[[str], int | None]) -> tuple[int, ...]:
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

    def outbound_cidrs(self) -> All | tuple[Network, ...]:
        said = self.settings
        if said.outbound_cidrs is not None:
            return said.outbound_cidrs
        if said.outbound_ports:
            self.derived["outbound_cidrs"] = Origin("derived", "(nothing, because --istio-outbound-ports is given)")
            return ()
        return ALL

    def families(self) -> tuple[Family, ...]:
        """IPv4 always. IPv6 if the first usable address is one; with --dual-stack, if any is."""
        usable = self.facts.usable()
        if not usable:
            known = "the addresses cannot be read" if self.facts.addresses is None else "there is no usable address yet"
            if not self.facts.has_ipv6:
                return (Family.V4,)
            self.warnings.append(f"{known}, so both IPv4 and IPv6 are captured")
            return (Family.V4, Family.V6)
        ipv6 = self.facts.usable(Family.V6)
        if usable[0].ip.version == 6 or (self.settings.dual_stack and ipv6):
            return (Family.V4, Family.V6)
        if ipv6:
            shown = ", ".join(str(address.ip) for address in ipv6)
            self.warnings.append(
                f"IPv6 is not captured: the first address is {usable[0].ip}, but the pod also has {shown}, "
                "and what is sent or received there bypasses the proxy; --dual-stack captures both"
            )
        elif self.settings.dual_stack:
            self.warnings.append("--dual-stack is without effect: there is no usable IPv6 address")
        return (Family.V4,)

    def warn_of_settings_without_effect(self) -> None:
        said = self.settings
        if said.inbound_ports_exclude and not isinstance(said.inbound_ports, All):
            self.warnings.append(
                f"{said.origins['inbound_ports_exclude']} is without effect: {said.origins['inbound_ports']} lists "
                "the captured ports already"
            )
        if said.owner_groups_exclude and not isinstance(said.owner_groups, All):
            self.warnings.append(
                f"{said.origins['owner_groups_exclude']} is without effect: {said.origins['owner_groups']} lists "
                "the captured groups already"
            )
        if said.owner_groups == ():
            self.warnings.append(f"{said.origins['owner_groups']} is empty: nothing outbound is captured")
        for name in ("probe_port", "probe_timeout"):
            if said.origins[name].kind == "flag" and not said.run_validation:
                self.warnings.append(f"{DECLARED_BY_NAME[name].shown} is without effect without --run-validation")
        if said.native_nftables:
            self.warnings.append("--native-nftables: the rules go to nf_tables through iptables-nft")
