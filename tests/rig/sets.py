"""Whether a packet is in a set that `capture escapes` lists, by what its JSON says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.addresses import ip_address, ip_network
from rules.netfilter.fields import PROTOCOLS
from rules.packets.packet import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.packets.packet import Packet
    from rules.proof.escapes import Escape, Packets
    from rules.simulator.simulate import Address


def is_listed(packet: Packet, escapes: Iterable[Escape]) -> bool:
    """Whether it is in one of these sets."""
    alike = (each for each in escapes if (each.family, each.direction) == (packet.family, packet.direction))
    return any(is_in(packet, told) for each in alike for told in each.packets)


def is_in(packet: Packet, told: Packets) -> bool:
    ported = packet.protocol in ("tcp", "udp")
    return (
        is_protocol(packet.protocol, told.protocols)
        and has_address(packet.source, told.sources)
        and has_address(packet.destination, told.destinations)
        and has_number(packet.source_port if ported else None, told.source_ports)
        and has_number(packet.port if ported else None, told.ports)
        and has_number(packet.uid, told.uids)
        and has_number(packet.gid, told.gids)
        and (told.interfaces is None or packet.direction is Direction.OUT or packet.interface in told.interfaces)
    )


def is_protocol(name: str, told: tuple[str, ...] | None) -> bool:
    number = int(name) if name.isdigit() else PROTOCOLS[name]
    return told is None or any(
        number in span(each) if each[0].isdigit() else number == PROTOCOLS[each] for each in told
    )


def has_number(number: int | None, told: tuple[str, ...] | None) -> bool:
    return told is None or (number is not None and any(number in span(each) for each in told))


def span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def has_address(address: Address, told: tuple[str, ...] | None) -> bool:
    if told is None:
        return True
    for each in told:
        first, dash, last = each.partition("-")
        if dash and int(ip_address(first)) <= int(address) <= int(ip_address(last)):
            return True
        if not dash and address in ip_network(each):
            return True
    return False
