"""What arrives at the pod: PREROUTING and ISTIO_INBOUND of the nat table.

istio-iptables asks about interfaces in PREROUTING itself. We ask first thing in ISTIO_INBOUND: the answer is the
same for every packet, a bypass leaves the rules of others in PREROUTING in force, and every rule of ours in a
built-in chain is a jump that can be known by its name.
"""

from __future__ import annotations

from rules.lists.networks import fewest
from rules.netfilter.matches import DPort, DPorts, Src
from rules.netfilter.rulesets import Block, when
from rules.netfilter.targets import Jump
from rules.netfilter.values import PREROUTING, All, Ports
from rules.plan.flows.words import BYPASS, TCP, arriving_on, for_each, going_to, port_matches
from rules.plan.intent import of_family
from rules.plan.names import ISTIO_IN_REDIRECT, ISTIO_INBOUND, ISTIO_REDIRECT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.values import Family
    from rules.plan.intent import Intent


FOR_SSH = "the SSH server of this host"
"""The why of a rule by which a later run knows it again, where it is written down with it."""


def hook(intent: Intent) -> Block:
    """PREROUTING sends TCP to ISTIO_INBOUND, unless nothing that arrives is of interest to the nat table."""
    return Block.of(PREROUTING, jump(intent))


def never_captured(intent: Intent, family: Family) -> Block:
    """The first part of ISTIO_INBOUND: what is decided before any list of ports is read."""
    return Block.of(
        ISTIO_INBOUND,
        virtual_machines(intent, family),
        excluded_interfaces(intent),
        tunnel(intent),
    )


def captured(intent: Intent, family: Family) -> Block:
    """The rest of ISTIO_INBOUND: what the proxy takes. In TPROXY mode the mangle table decides that."""
    if intent.uses_tproxy:
        return Block(ISTIO_INBOUND, ())
    tunnel_port = Ports.one(intent.inbound_tunnel_port)
    return Block.of(
        ISTIO_INBOUND,
        excluded_sources(intent, family),
        ssh(intent),
        excluded_ports(intent, tunnel_port),
        included_ports(intent, tunnel_port),
    )


def jump(intent: Intent) -> Iterator[Rule]:
    if intent.inbound_ports and not intent.uses_tproxy:
        yield when(TCP).then(Jump(ISTIO_INBOUND), why="TCP that arrives is looked at", setting="inbound_ports")
    elif intent.virtual_interfaces:
        why = "a virtual machine's TCP arrives here although it is outbound"
        yield when(TCP).then(Jump(ISTIO_INBOUND), why=why, setting="virtual_interfaces")


def virtual_machines(intent: Intent, family: Family) -> Iterator[Rule]:
    """A VM in the pod sends through its own interface: captured destinations are outbound, all else is let go."""
    asked = list(arriving_on(intent.virtual_interfaces))
    for interface in asked:
        for destination in captured_destinations(intent, family):
            yield when(interface, *destination).then(
                Jump(ISTIO_REDIRECT), why="a virtual machine's outbound traffic", setting="virtual_interfaces"
            )
    for interface in asked:
        why = "a virtual machine's traffic to a destination that is not captured"
        yield when(interface).then(BYPASS, why=why, setting="virtual_interfaces")


def captured_destinations(intent: Intent, family: Family) -> Iterator[tuple[Match, ...]]:
    if isinstance(intent.outbound_cidrs, All):
        yield ()
    else:
        for network in fewest(of_family(intent.outbound_cidrs, family)):
            yield going_to(network)


def excluded_interfaces(intent: Intent) -> Iterator[Rule]:
    for interface in arriving_on(intent.exclude_interfaces):
        yield when(interface).then(BYPASS, why="nothing is captured on this interface", setting="exclude_interfaces")
    for interface in arriving_on(intent.exclude_inbound_interfaces):
        why = "nothing that arrives on this interface is captured"
        yield when(interface).then(BYPASS, why=why, setting="exclude_inbound_interfaces")


def tunnel(intent: Intent) -> Iterator[Rule]:
    yield when(TCP, DPort(Ports.one(intent.inbound_tunnel_port))).then(
        BYPASS, why="the proxy listens on the tunnel port itself", setting="inbound_tunnel_port"
    )


def excluded_sources(intent: Intent, family: Family) -> Iterable[Rule]:
    networks = fewest(of_family(intent.exclude_inbound_cidrs, family))
    return for_each(networks, Src, BYPASS, why="an excluded source", setting="exclude_inbound_cidrs")


def ssh(intent: Intent) -> Iterator[Rule]:
    """On a host that somebody came to by SSH, or nobody would come in any more.

    Each port in a multiport match of its own, which nothing else of ours is: so a later run knows it again.
    """
    for ports in let_go_for_ssh(intent):
        yield when(TCP, DPorts((ports,))).then(BYPASS, why=FOR_SSH, setting="capture_ssh")


def let_go_for_ssh(intent: Intent) -> tuple[Ports, ...]:
    return () if intent.capture_ssh else intent.ssh_ports


def excluded_ports(intent: Intent, *before: Ports) -> Iterator[Rule]:
    """Only of use when every other port is captured: a list of ports says already what is not.

    To those that are decided `before`, nothing gets here.
    """
    if isinstance(intent.inbound_ports, All):
        for ports in port_matches(intent.inbound_ports_exclude, (*before, *let_go_for_ssh(intent))):
            yield when(TCP, ports).then(BYPASS, why="an excluded inbound port", setting="inbound_ports_exclude")


def included_ports(intent: Intent, *before: Ports) -> Iterator[Rule]:
    if isinstance(intent.inbound_ports, All):
        why = "every other inbound port goes to the proxy"
        yield when(TCP).then(Jump(ISTIO_IN_REDIRECT), why=why, setting="inbound_ports")
    else:
        for ports in port_matches(intent.inbound_ports, (*before, *let_go_for_ssh(intent))):
            yield when(TCP, ports).then(Jump(ISTIO_IN_REDIRECT), why="a captured inbound port", setting="inbound_ports")
