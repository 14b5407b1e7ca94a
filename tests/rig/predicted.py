"""What the simulator says of the rig's calls: the pod as a `Host`, a call as a packet, its end as a landing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.addresses import ip_address
from rules.netfilter.values import Family
from rules.packets.packet import Direction, Host, Local, Packet
from rules.packets.trace import Became
from rules.plan.names import PASSTHROUGH
from rules.simulator.simulate import SENT_AWAY, STRAYED
from tests.rig.pod import ADDRESSES, PROXY_PORTS, TCP_PORTS, UDP_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.addresses import IPv4Address, IPv6Address
    from rules.packets.trace import Trace
    from rules.plan.plan import Routing

LOCAL = (
    Local("eth0", ip_address(ADDRESSES[4]), 24),
    Local("eth0", ip_address(ADDRESSES[6]), 64),
)
PASSTHROUGH_ON_LO = Local("lo", PASSTHROUGH[Family.V6].network_address, 128)
TRANSPARENT_PORTS = (15006, 16006)
RESOLVERS, RESOLVER_PORT = ("127.0.0.1", "::1"), 15053
"""Where the rig's resolver listens."""


def host(routing: Iterable[Routing] = (), *, passthrough: bool = False, ipv6: bool = True) -> Host:
    """The rig's pod."""
    local = LOCAL if ipv6 else LOCAL[:1]
    return Host((*local, *([PASSTHROUGH_ON_LO] if passthrough else [])), "eth0", tuple(routing))


def sent(
    here: Host,
    destination: str,
    port: int,
    *,
    proto: str = "tcp",
    uid: int = 0,
    gid: int = 0,
    source: str | None = None,
    mark: int = 0,
) -> Packet:
    """The first packet of a call from inside."""
    to = ip_address(destination)
    family = family_of(to)
    came_from = ip_address(source) if source else here.source_to(family, to)
    leaves = here.leaves_on(family, to, mark)
    packet = Packet(Direction.OUT, family, proto, came_from, to, port, leaves, None, uid, gid, mark)
    return packet.but(is_bound=source is not None)


def arriving(destination: str, port: int, *, source: str, proto: str = "tcp") -> Packet:
    """The first packet of a call from outside."""
    to = ip_address(destination)
    return Packet(Direction.IN, family_of(to), proto, ip_address(source), to, port, "eth0")


def family_of(address: IPv4Address | IPv6Address) -> Family:
    return Family.V4 if address.version == 4 else Family.V6


def is_outside(address: IPv4Address | IPv6Address | None) -> bool:
    """Whether it is none of the pod's own."""
    is_own = address is not None and (
        address.is_loopback or address.is_link_local or str(address) in ADDRESSES.values()
    )
    return address is not None and not is_own


def is_unanswered(trace: Trace) -> bool:
    """Whether routing keeps it here and no ordinary socket answers for the address: IPv4 sends only from its own
    (ip_route_output_key_hash_rcu of net/ipv4/route.c)."""
    is_for_us = trace.bound or trace.became is not Became.DELIVERED or not is_outside(trace.address)
    return not is_for_us and trace.packet.family is Family.V4 and trace.port not in TRANSPARENT_PORTS


def landing(trace: Trace) -> str:
    """Where the rig would report this packet's call to have arrived, in the words of `Landing`."""
    packet = trace.packet
    is_tcp, from_inside = packet.protocol == "tcp", packet.direction is Direction.OUT
    if trace.reason == STRAYED and not trace.steps:
        return "error: EINVAL"
    if trace.reason == SENT_AWAY or (trace.became is Became.BYPASSED and not is_outside(trace.address)):
        return "timeout"  # an ip rule sends it out with an address of the pod, and nobody there has it
    if trace.became in (Became.DROPPED, Became.REFUSED):
        hooks = [trace.decided.hook] if trace.decided else [step.hook for step in trace.steps]
        in_output = "PREROUTING" not in hooks and "INPUT" not in hooks
        if not is_tcp and from_inside and in_output:
            return "error: EPERM"  # netfilter tells a local sender of its verdict
        return "refused" if trace.became is Became.REFUSED else "timeout"
    assert trace.became is not Became.DEPENDS, trace.depends_on
    # What TPROXY hands over keeps its address, and is here.
    leaves = trace.became is Became.REDIRECTED and trace.bound and is_outside(trace.address)
    if trace.became is Became.BYPASSED or leaves:
        return f"ext:{trace.port}" if trace.port in (TCP_PORTS if is_tcp else UDP_PORTS) else "refused"
    listening = {*PROXY_PORTS, *TCP_PORTS} if is_tcp else {*UDP_PORTS}
    if is_unanswered(trace) and (is_tcp or trace.port not in listening):
        return "timeout"
    if not is_tcp and str(trace.address) in RESOLVERS:
        listening.add(RESOLVER_PORT)
    return f"pod:{trace.port}" if trace.port in listening else "refused"
