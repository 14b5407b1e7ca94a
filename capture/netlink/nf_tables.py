"""Reading nf_tables as it is: tables, base chains, rules and sets of others, which no iptables command shows.

Read only where there is something that iptables-save cannot show. A new pod has no table at all, and nothing is read.
"""

from __future__ import annotations

import _socket  # what `socket` wraps, which takes its time to import
import struct
import sys

from capture.netlink.messages import ATTRIBUTE, NETLINK_NETFILTER, dump
from capture.netlink.nftables import NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETTABLE
from rules.nftables.messages import Dump, attributes, text

NFT_MSG_GETSET, NFT_MSG_GETSETELEM = 10 << 8 | 10, 10 << 8 | 13
"""linux/netfilter/nf_tables.h"""


def read() -> Dump:
    """All that nf_tables holds. Raises OSError."""
    tables, chains, rules, sets = (
        tuple(dump(NETLINK_NETFILTER, question, bytes(4)))
        for question in (NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET)
    )
    elements = tuple(
        message for named in sets for message in dump(NETLINK_NETFILTER, NFT_MSG_GETSETELEM, those_of(named))
    )
    return Dump(tables, chains, rules, sets, elements, tuple(_socket.if_nameindex()), sys.byteorder)


def those_of(named: bytes) -> bytes:
    """The question for the elements of a set."""
    read = dict(attributes(named[4:], sys.byteorder))
    body = struct.pack("=BBH", named[0], 0, 0)
    for number in (1, 2):
        value = text(read.get(number)).encode("utf-8", "surrogateescape") + b"\0"
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(value), number) + value + bytes(-len(value) % 4)
    return body
