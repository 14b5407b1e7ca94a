"""Conntrack's book by netlink: which connections are in it, and writing down one that it did not see begin.

ctnetlink's entries are kept also while conntrack does not run, so one can be written before the rule that switches it
on (net/netfilter/nf_conntrack_netlink.c). Needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import struct

from capture.netlink.messages import CREATE, NETLINK_NETFILTER, NUMBERS, acknowledged, attribute, attributes, big, dump
from rules.addresses import ip_address
from rules.connections.captured import Entry
from rules.connections.flow import IN_CONNTRACK, SYN_SENT, TCP, Flow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h, nf_conntrack_tcp.h
IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1 << 8, 1 << 8 | 1, 1 << 8 | 2
NFGENMSG = 4
"""The length of struct nfgenmsg."""
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_TIMEOUT, CTA_MARK = 1, 2, 3, 4, 7, 8
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4, CTA_IP_V6 = (1, 2), (3, 4)
"""The source and the destination."""
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_TCP_STATE, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY = 1, 4, 5
NLA_F_NESTED = 0x8000
IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED = 2, 4, 8
SACK_PERM, BE_LIBERAL = 0x02, 0x08
"""IP_CT_TCP_FLAG_*: what the kernel itself assumes of a connection that it picks up: its windows are not known."""
TCP_TIMEOUT, UDP_TIMEOUT = 432000, 120
"""Seconds of silence after which an entry is forgotten: the kernel's defaults (nf_conntrack-sysctl.rst)."""
SOON_OVER = {1: 120, 2: 60, 6: 30}
"""The same where only a word or two are still to come: SYN_SENT, SYN_RECV, LAST_ACK. One that is closed on one side may
go on for long."""


def entries() -> Iterator[Entry]:
    """What conntrack has in its book, of protocols with ports. Raises OSError where ctnetlink cannot be asked."""
    for message in dump(NETLINK_NETFILTER, IPCTNL_MSG_CT_GET, bytes(4)):
        read = attributes(message[NFGENMSG:])
        began, answers = (flow_of(read.get(which, b"")) for which in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
        if began and answers:
            tcp = attributes(attributes(read.get(CTA_PROTOINFO, b"")).get(CTA_PROTOINFO_TCP, b""))
            state = tcp.get(CTA_PROTOINFO_TCP_STATE, b"\0")[0]
            yield Entry(began, answers, state, big(read.get(CTA_MARK)))


def flow_of(raw: bytes) -> Flow | None:
    """The packets of one direction; None if they have no ports."""
    read = attributes(raw)
    ips, protocol = (attributes(read.get(which, b"")) for which in (CTA_TUPLE_IP, CTA_TUPLE_PROTO))
    source, destination = CTA_IP_V4 if CTA_IP_V4[0] in ips else CTA_IP_V6
    if {source, destination} - ips.keys() or {CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT} - protocol.keys():
        return None
    return Flow(
        big(protocol.get(CTA_PROTO_NUM)),
        ip_address(ips[source]),
        big(protocol[CTA_PROTO_SRC_PORT]),
        ip_address(ips[destination]),
        big(protocol[CTA_PROTO_DST_PORT]),
    )


def write_down(open_connections: Iterable[tuple[Flow, int]]) -> dict[int, list[Flow]]:
    """Make an entry for each of these connections, given with the state of its socket.

    The result are those for which none was made, by errno: EEXIST if there is one. Raises OSError where ctnetlink
    cannot be asked.
    """
    known = list(open_connections)
    requests = [(IPCTNL_MSG_CT_NEW, CREATE, entry(*one)) for one in known]
    refused: dict[int, list[Flow]] = {}
    for (flow, _), error in zip(known, refusals(requests), strict=True):
        if error:
            refused.setdefault(error.errno or 0, []).append(flow)
    return refused


def forget(flows: Iterable[Flow]) -> None:
    """Delete the entries of what began so, if there are any. Raises OSError where ctnetlink cannot be asked."""
    requests = [(IPCTNL_MSG_CT_DELETE, 0, nfgenmsg(flow) + tuple_as(CTA_TUPLE_ORIG, flow)) for flow in flows]
    refusals(requests)


def refusals(requests: Sequence[tuple[int, int, bytes]]) -> list[OSError | None]:
    """What conntrack has refused each of these with, or None. If there are none it is not asked."""
    return acknowledged(NETLINK_NETFILTER, requests) if requests else []


def nfgenmsg(flow: Flow) -> bytes:
    return struct.pack("=BBH", NUMBERS[flow.family], 0, 0)


def entry(began: Flow, state: int) -> bytes:
    """What asks for an entry of this connection, whose socket is in this state."""
    is_tcp = began.protocol == TCP
    status = IPS_CONFIRMED if state == SYN_SENT else IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED
    body = nfgenmsg(began) + tuple_as(CTA_TUPLE_ORIG, began) + tuple_as(CTA_TUPLE_REPLY, began.answered())
    body += attribute(CTA_STATUS, struct.pack(">I", status))
    timeout = SOON_OVER.get(IN_CONNTRACK[state], TCP_TIMEOUT) if is_tcp else UDP_TIMEOUT
    body += attribute(CTA_TIMEOUT, struct.pack(">I", timeout))
    if is_tcp:
        flags = bytes([SACK_PERM | BE_LIBERAL] * 2)
        tcp = attribute(CTA_PROTOINFO_TCP_STATE, bytes([IN_CONNTRACK[state]]))
        tcp += attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, flags) + attribute(CTA_PROTOINFO_TCP_FLAGS_REPLY, flags)
        body += nested(CTA_PROTOINFO, nested(CTA_PROTOINFO_TCP, tcp))
    return body


def tuple_as(kind: int, flow: Flow) -> bytes:
    source, destination = CTA_IP_V4 if flow.source.version == 4 else CTA_IP_V6
    addresses = attribute(source, flow.source.packed) + attribute(destination, flow.destination.packed)
    ports = attribute(CTA_PROTO_SRC_PORT, struct.pack(">H", flow.source_port))
    ports += attribute(CTA_PROTO_DST_PORT, struct.pack(">H", flow.destination_port))
    protocol = attribute(CTA_PROTO_NUM, bytes([flow.protocol])) + ports
    return nested(kind, nested(CTA_TUPLE_IP, addresses) + nested(CTA_TUPLE_PROTO, protocol))


def nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, value)
