"""What is captured and what is not, as a short list in plain language."""

from __future__ import annotations

from rules.analysis.reachability import walked
from rules.explain.planned import planned
from rules.iptables.words import address, listed, port_words
from rules.netfilter.fields import DPORT
from rules.netfilter.targets import Redirect, Tproxy
from rules.netfilter.values import MANGLE, NAT, OUTPUT, PREROUTING, All, Family, Ports, family_of
from rules.plan.flows.outbound import captures_loopback
from rules.plan.flows.words import merged
from rules.plan.intent import of_family
from rules.plan.names import DNS_PORT, PASSTHROUGH
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.targets import Verdict
    from rules.netfilter.values import Network
    from rules.plan.intent import Intent, PortsOfUsers

CAPTURED, PASSES, REFUSED, DROPPED = "captured", "not captured", "refused", "dropped"
MOST = 6
"""Entries of a list that are named before the rest is counted."""
QUIC = 443
"""The UDP port of HTTP/3 (RFC 9114)."""


class Point(Value):
    """One line of the list."""

    subject: str
    """The traffic, in a word or two."""
    outcome: str
    """`captured`, `not captured`, `refused` or `dropped`."""
    text: str
    settings: tuple[str, ...] = ()
    """The fields of `Intent` that decide it."""


def summary(intent: Intent) -> tuple[Point, ...]:
    """What is captured first, then what is not. The order is that in which people ask."""
    points = [*outbound(intent), *inbound(intent), *dns(intent), *virtual_machines(intent), *never(intent)]
    points += [*exclusions(intent), *other_protocols(intent), *other_families(intent)]
    points += [*bound_sockets(intent), *always()]
    order = (CAPTURED, REFUSED, DROPPED, PASSES)
    return tuple(sorted(points, key=lambda point: order.index(point.outcome)))


def outbound(intent: Intent) -> Iterator[Point]:
    captured = [family for family in intent.families if captures_outbound(intent, family)]
    settings: tuple[str, ...] = ("outbound_cidrs", "outbound_ports", "proxy_port")
    if not captured:
        yield Point("outbound TCP", PASSES, "none of it goes to the proxy", settings)
        return
    to = f"goes to the proxy's port {intent.proxy_port}"
    where = " and ".join(filter(None, (destinations(intent, captured), ports_of(intent))))
    whose = ""
    if not isinstance(intent.owner_groups, All):
        gids = [str(gid) for gid in dict.fromkeys(intent.owner_groups)]
        whose = f", if sent with gid {listed(gids, MOST).replace(' and ', ' or ')}"
        settings += ("owner_groups",)
    yield Point("outbound TCP", CAPTURED, f"{named(captured)} {where}{whose}: {to}", settings)
    missing = [family for family in intent.families if family not in captured]
    if missing:
        yield Point("outbound TCP", PASSES, f"{named(missing)}: none of it goes to the proxy", settings)


def destinations(intent: Intent, captured: Iterable[Family]) -> str:
    if isinstance(intent.outbound_cidrs, All):
        return "to everywhere"
    networks = [network for family in captured for network in of_family(intent.outbound_cidrs, family)]
    return f"to {networks_listed(networks)}" if networks else ""


def ports_of(intent: Intent) -> str:
    if not intent.outbound_ports or isinstance(intent.outbound_cidrs, All):
        return ""
    return f"to {ports_listed(intent.outbound_ports)} everywhere"


def inbound(intent: Intent) -> Iterator[Point]:
    captured = [family for family in intent.families if captures_inbound(intent, family)]
    settings = ("inbound_ports", "inbound_capture_port")
    if not captured:
        yield Point("inbound TCP", PASSES, "none of it goes to the proxy", settings)
    else:
        everywhere = isinstance(intent.inbound_ports, All)
        where = "every port" if isinstance(intent.inbound_ports, All) else ports_listed(taken(intent))
        how = " by TPROXY, with the client's address" if intent.uses_tproxy else ""
        but = ", but for those below" if everywhere and has_exceptions(intent) else ""
        text = f"{named(captured)} to {where}{but}: goes to the proxy's port {intent.inbound_capture_port}{how}"
        yield Point("inbound TCP", CAPTURED, text, settings)
    if intent.families and not excludes_lo(intent):
        text = (
            "what the proxy sends to the pod's own address: an application called itself through a service; goes to "
            f"the proxy's port {intent.inbound_capture_port}, as inbound"
        )
        if captured or not intent.uses_tproxy:
            yield Point("a call to itself", CAPTURED, text, ("proxy_uid", "proxy_gid", "inbound_capture_port"))


def taken(intent: Intent) -> list[Ports]:
    """The listed inbound ports without the tunnel's, where that is let go."""
    tunnel = Ports.one(intent.inbound_tunnel_port)
    listed_ports = () if isinstance(intent.inbound_ports, All) else intent.inbound_ports
    return [ports for ports in listed_ports if intent.uses_tproxy or ports != tunnel]


def has_exceptions(intent: Intent) -> bool:
    return not intent.uses_tproxy or bool(intent.inbound_ports_exclude or (not intent.capture_ssh and intent.ssh_ports))


def dns(intent: Intent) -> Iterator[Point]:
    captured = [family for family in intent.families if intent.captures_dns(family)]
    settings: tuple[str, ...] = ("redirect_dns", "capture_all_dns", "dns_capture_port")
    if takes_dns(intent):
        known = [address(network) for family in captured for network in of_family(intent.nameservers, family)]
        whose = "any nameserver" if intent.capture_all_dns else listed(known, MOST)
        at = listed([str(a) for a in intent.dns_capture_address]) or "loopback"
        text = f"queries to {whose}, UDP and TCP port 53: go to the proxy's resolver on {at}, port "
        yield Point("DNS", CAPTURED, f"{text}{intent.dns_capture_port}", settings)
        if not intent.capture_all_dns:
            yield Point("DNS to others", PASSES, "queries over UDP to any other nameserver", settings)
    elif captured:
        yield Point("DNS", PASSES, "port 53 is excluded", ("outbound_ports_exclude", "redirect_dns"))
    else:
        yield Point("DNS", PASSES, "queries over UDP go straight to the nameservers", settings)


def virtual_machines(intent: Intent) -> Iterator[Point]:
    if intent.virtual_interfaces:
        on = listed([shown_interface(name) for name in intent.virtual_interfaces])
        text = f"TCP that arrives on {on}, to a captured destination: goes to the proxy's port {intent.proxy_port}"
        settings = ("virtual_interfaces", "outbound_cidrs")
        if intent.uses_tproxy:
            text += ", unless TPROXY has taken it as inbound"
        if any(captures_machines(intent, family) for family in intent.families):
            yield Point("virtual machines", CAPTURED, text, settings)
        else:
            text = f"nothing that arrives on {on} goes to the proxy as outbound"
            yield Point("virtual machines", PASSES, text, settings)


def never(intent: Intent) -> Iterator[Point]:
    """What no setting but the proxy's own would change."""
    uids, gids = ids("uid", intent.proxy_uid), ids("gid", intent.proxy_gid)
    text = f"what {uids} or {gids} sends to others: it would loop"
    yield Point("the proxy itself", PASSES, text, ("proxy_uid", "proxy_gid"))
    passed = listed([str(PASSTHROUGH[family].network_address) for family in intent.families]).replace(" and ", " or ")
    if intent.families:
        yield Point("the proxy to the app", PASSES, f"what it hands on over lo from {passed}")
    local = listed([address(intent.loopback(family)) for family in intent.families])
    if not intent.families:
        return
    if captures_loopback(intent):
        text = f"what goes to {local}; other connections over lo are asked like any other"
        yield Point("loopback", PASSES, text, ("outbound_cidrs", "ipv4_loopback_cidr"))
    else:
        text = f"what an application sends over lo (to the pod's own addresses as well), and to {local}"
        if takes_dns(intent):
            text += "; DNS aside"
        yield Point("loopback", PASSES, text, ("ipv4_loopback_cidr",))


def exclusions(intent: Intent) -> Iterator[Point]:
    if not isinstance(intent.outbound_cidrs, All) and any(captures_outbound(intent, it) for it in intent.families):
        ports = " to other ports" if intent.outbound_ports else ""
        yield Point("destinations", PASSES, f"everywhere else{ports}", ("outbound_cidrs",))
    here = [network for network in intent.outbound_cidrs_exclude if family_of(network) in intent.families]
    if here and sends(intent):
        yield Point("destinations", PASSES, f"what goes to {networks_listed(here)}", ("outbound_cidrs_exclude",))
    if intent.outbound_ports_exclude and sends(intent):
        text = f"what goes to {ports_listed(intent.outbound_ports_exclude)}, wherever it is"
        yield Point("outbound ports", PASSES, text, ("outbound_ports_exclude",))
    if intent.exclude_uids and sends(intent):
        text = f"what {ids('uid', intent.exclude_uids)} sends"
        yield Point("users", PASSES, text, ("exclude_uids",))
    if intent.exclude_outbound_ports_for_uids and sends(intent):
        entries = [ports_of_users(entry) for entry in intent.exclude_outbound_ports_for_uids]
        yield Point("ports of users", PASSES, f"what {listed(entries, MOST)}", ("exclude_outbound_ports_for_uids",))
    if not isinstance(intent.owner_groups, All) and intent.owner_groups and sends(intent):
        yield Point("groups", PASSES, "what is sent with any other gid", ("owner_groups",))
    elif isinstance(intent.owner_groups, All) and intent.owner_groups_exclude and sends(intent):
        text = f"what is sent with {ids('gid', intent.owner_groups_exclude)}"
        yield Point("groups", PASSES, text, ("owner_groups_exclude",))
    yield from inbound_exclusions(intent)
    if intent.exclude_interfaces:
        on = listed([shown_interface(name) for name in intent.exclude_interfaces])
        yield Point("interfaces", PASSES, f"what arrives or leaves on {on}", ("exclude_interfaces",))


def inbound_exclusions(intent: Intent) -> Iterator[Point]:
    if not intent.inbound_ports:
        return
    listed_ports = not isinstance(intent.inbound_ports, All)
    ports = [] if listed_ports else [*intent.inbound_ports_exclude]
    settings = ("inbound_ports_exclude",) if ports else ()
    if listed_ports:
        yield Point("inbound ports", PASSES, "every other port", ("inbound_ports",))
    elif not intent.uses_tproxy:
        tunnel = Ports.one(intent.inbound_tunnel_port)
        rest = [entry for entry in ports if entry != tunnel]
        text = f"port {tunnel} (the proxy's tunnel)" + (f" and {ports_listed(rest)}" if rest else "")
        yield Point("inbound ports", PASSES, text, ("inbound_tunnel_port", *settings))
    elif ports:
        yield Point("inbound ports", PASSES, ports_listed(ports), settings)
    if intent.ssh_ports and not intent.capture_ssh:
        yield Point(
            "SSH", PASSES, f"{ports_listed(intent.ssh_ports)}, of the SSH server of this host", ("capture_ssh",)
        )
    sources = [network for network in intent.exclude_inbound_cidrs if family_of(network) in intent.families]
    if sources:
        yield Point("sources", PASSES, f"what arrives from {networks_listed(sources)}", ("exclude_inbound_cidrs",))
    if intent.exclude_inbound_interfaces:
        on = listed([shown_interface(name) for name in intent.exclude_inbound_interfaces])
        yield Point("inbound interfaces", PASSES, f"what arrives on {on}", ("exclude_inbound_interfaces",))


def other_protocols(intent: Intent) -> Iterator[Point]:
    for policy, outcome in (("reject", REFUSED), ("drop", DROPPED)):
        ports = [entry.ports for entry in intent.udp if entry.policy == policy]
        if ports:
            yield Point("UDP", outcome, f"what leaves for {ports_listed(ports)}, the proxy's own aside", ("udp",))
    if intent.drop_invalid:
        yield Point("invalid packets", DROPPED, "what arrives and conntrack cannot place", ("drop_invalid",))
    quic = "" if refuses_quic(intent) else "; QUIC (HTTP/3, UDP port 443) leaves past the proxy"
    rest = "all other" if any(entry.policy != "leave" for entry in intent.udp) else "all"
    aside = " but DNS" if takes_dns(intent) else ""
    yield Point("UDP", PASSES, f"{rest} of it{aside}, in both directions{quic}", ("udp",))
    yield Point("other protocols", PASSES, "ICMP, SCTP and whatever else is not TCP")


def other_families(intent: Intent) -> Iterator[Point]:
    if Family.V6 not in intent.families:
        if intent.ipv6 == "reject":
            text = "TCP and UDP that applications begin beyond the link; what arrives is not captured"
            yield Point("IPv6", REFUSED, text, ("ipv6",))
        else:
            yield Point("IPv6", PASSES, "all of it, in both directions", ("ipv6", "dual_stack"))
    if Family.V4 not in intent.families:
        yield Point("IPv4", PASSES, "all of it, in both directions")


def bound_sockets(intent: Intent) -> Iterator[Point]:
    """REDIRECT sends to lo what a bound socket may send by its own interface only."""
    if any(captures_outbound(intent, family) for family in intent.families):
        text = "outbound TCP of one that is bound to an interface (SO_BINDTODEVICE, `curl --interface eth0`): it hangs"
        yield Point("bound sockets", DROPPED, text, ("outbound_cidrs_exclude",))


def always() -> Iterator[Point]:
    yield Point("old connections", PASSES, "those that were established before the rules: they keep their way")


# --- what the rules say -----------------------------------------------------------------------------------


def captures_outbound(intent: Intent, family: Family) -> bool:
    """Whether any packet that is sent in this family goes to the outbound listener."""
    return leads(intent, family, NAT, OUTPUT, Redirect(intent.proxy_port))


def captures_inbound(intent: Intent, family: Family) -> bool:
    """Whether any packet that arrives in this family goes to the inbound listener."""
    if intent.uses_tproxy:
        target = Tproxy(intent.inbound_capture_port, intent.tproxy_mark)
        return leads(intent, family, MANGLE, PREROUTING, target)
    return leads(intent, family, NAT, PREROUTING, Redirect(intent.inbound_capture_port))


def captures_machines(intent: Intent, family: Family) -> bool:
    """Whether anything that arrives goes to the outbound listener."""
    return leads(intent, family, NAT, PREROUTING, Redirect(intent.proxy_port))


def leads(intent: Intent, family: Family, table: str, hook: str, target: Verdict) -> bool:
    """Whether any packet of this built-in chain meets this end. Port 0 is one that nothing can listen on."""
    its = next(it for it in planned(intent).rulesets if it.family is family)
    outcomes = walked(its.table(table), family).outcomes.get(hook, {})
    return any(
        box[DPORT] != (0, 1) for outcome, boxes in outcomes.items() if outcome.verdict == target for box in boxes
    )


def takes_dns(intent: Intent) -> bool:
    """Whether any query goes to the proxy's resolver."""
    return not contains(intent.outbound_ports_exclude, DNS_PORT) and any(map(intent.captures_dns, intent.families))


def sends(intent: Intent) -> bool:
    """Whether anything outbound is to be captured, as far as destinations go."""
    return bool(intent.outbound_cidrs or intent.outbound_ports or intent.redirect_dns)


def refuses_quic(intent: Intent) -> bool:
    """Whether UDP port 443 meets a policy other than to leave it. The first entry that names it counts."""
    for entry in intent.udp:
        if contains([entry.ports], QUIC):
            return entry.policy != "leave"
    return False


def excludes_lo(intent: Intent) -> bool:
    """Whether -c names the loopback interface."""
    return any("lo".startswith(name[:-1]) if name.endswith("+") else name == "lo" for name in intent.exclude_interfaces)


# --- words ------------------------------------------------------------------------------------------------


def contains(ranges: Iterable[Ports], port: int) -> bool:
    return any(ports.first <= port <= ports.last for ports in ranges)


def named(families: Iterable[Family]) -> str:
    return listed([family.value for family in families])


def networks_listed(networks: Iterable[Network]) -> str:
    return listed([address(network) for network in dict.fromkeys(networks)], MOST)


def ports_listed(ranges: Iterable[Ports]) -> str:
    """In ascending order; where they are many, neighbours are joined and the rest is counted."""
    apart = sorted(set(ranges), key=lambda ports: (ports.first, ports.last))
    if len(apart) <= MOST:
        return port_words(apart)
    ranges = merged(apart)
    if len(ranges) > MOST + 1:
        return f"{port_words(ranges[:MOST]).replace(' and ', ', ')} and {len(ranges) - MOST} more"
    return port_words(ranges)


def ids(kind: str, entries: Iterable[object]) -> str:
    """`uid 1337`, `uid 1337 or 1338`."""
    return f"{kind} {listed([str(entry) for entry in dict.fromkeys(entries)], MOST).replace(' and ', ' or ')}"


def ports_of_users(entry: PortsOfUsers) -> str:
    protocols = listed([name.upper() for name in entry.protocols])
    return f"{ids('uid', entry.users)} sends to {protocols} {ports_listed(entry.ports) if entry.ports else 'ports'}"


def shown_interface(name: str) -> str:
    return f"{name[:-1]}…" if name.endswith("+") else name
