"""What the kernel asks on an interface beside netfilter: XDP programs and tc filters, which can drop or turn packets.

They are programs, and what they do is not read: it is enough to say that they are there. (`netdev` chains of nf_tables,
asked in the same place, are read as all others are.)
"""

from __future__ import annotations

import struct
from _socket import if_indextoname

from capture.netlink.messages import NETLINK_ROUTE, attributes, dump, text
from rules.value import Value

# linux/rtnetlink.h, linux/if_link.h, linux/pkt_sched.h
RTM_GETLINK, RTM_GETQDISC, RTM_GETTFILTER = 18, 38, 46
IFLA_IFNAME, IFLA_XDP, IFLA_XDP_ATTACHED, NESTED = 3, 43, 2, 0x3FFF
TCA_KIND = 1
INFO, MESSAGE = struct.Struct("=BxHiII"), struct.Struct("=BxxxiIII")
"""struct ifinfomsg, and tcmsg: family, interface, handle, parent, info."""
CLASSIFIED = ("ingress", "clsact")
"""The queueing disciplines that only hold filters."""
PARENTS = {0xFFFF0000: "arrives", 0xFFFFFFF2: "arrives", 0xFFFFFFF3: "leaves"}
"""Where filters hang on them: TC_H_INGRESS, and the two sides of clsact."""


class Early(Value):
    """A program that the kernel asks on an interface, before netfilter when packets arrive or behind it."""

    interface: str
    """Where it is."""
    kind: str
    """`XDP program`, or `tc filter` with its kind."""
    when: str
    """`arrives` or `leaves`."""

    def __str__(self) -> str:
        where = "before netfilter" if self.when == "arrives" else "behind netfilter"
        article = "an" if self.kind.startswith("X") else "a"
        when = f"{article} {self.kind} is asked {where} when a packet {self.when}"
        return f"{self.interface}: {when}, and what it does is not read"


def early() -> tuple[Early, ...]:
    """All of them, by interface. Needs no privilege. Raises OSError if the kernel does not answer."""
    found = []
    for message in dump(NETLINK_ROUTE, RTM_GETLINK, bytes(INFO.size)):
        read = {key & NESTED: value for key, value in attributes(message[INFO.size :]).items()}
        if IFLA_XDP in read and any(attributes(read[IFLA_XDP]).get(IFLA_XDP_ATTACHED, b"")):
            found.append(Early(text(read.get(IFLA_IFNAME, b"")), "XDP program", "arrives"))
    for message in dump(NETLINK_ROUTE, RTM_GETQDISC, bytes(MESSAGE.size)):
        _, interface, *_ = MESSAGE.unpack_from(message)
        if text(attributes(message[MESSAGE.size :]).get(TCA_KIND, b"")) in CLASSIFIED:
            found += filters(interface)
    return tuple(dict.fromkeys(found))


def filters(interface: int) -> list[Early]:
    """The filters of an interface, in both directions."""
    found = []
    for parent, when in PARENTS.items():
        try:
            answer = dump(NETLINK_ROUTE, RTM_GETTFILTER, MESSAGE.pack(0, interface, 0, parent, 0))
            name = if_indextoname(interface)
        except OSError:
            continue  # it has no such side, or is gone
        for message in answer:
            kind = text(attributes(message[MESSAGE.size :]).get(TCA_KIND, b""))
            found.append(Early(name, f"tc filter ({kind})", when))
    return found
