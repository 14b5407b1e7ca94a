"""What is open while rules come: sockets, and the entries by which conntrack is to know them.

Conntrack runs in a namespace while some rule needs it (NAT, `-m conntrack` …). What it did not see begin it takes for
new: a packet in mid-stream would walk the nat table, be sent to the proxy, and its connection would be reset. A
connection that has an entry keeps its fate, whatever rules come: nat asks for a new one only, and leaves alone what is
in the book already (nf_nat_setup_info in net/netfilter/nf_nat_core.c).
"""

from __future__ import annotations

from rules.meaning.tracking import needs_conntrack
from rules.netfilter.values import family_of
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.rulesets import Ruleset
    from rules.netfilter.values import Family

    Ip: TypeAlias = IPv4Address | IPv6Address

TCP, UDP = 6, 17
"""IPPROTO_TCP and IPPROTO_UDP."""
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2 = 1, 2, 3, 4, 5
TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING, NEW_SYN_RECV = 6, 7, 8, 9, 10, 11, 12
"""States of a socket (net/tcp_states.h). One of UDP is established if it is connected, else closed."""
NOT_OPEN = frozenset({TIME_WAIT, CLOSE, LISTEN})

CLOSED_HERE = frozenset({FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING})

IN_CONNTRACK = {
    ESTABLISHED: 3,
    SYN_SENT: 1,
    SYN_RECV: 2,
    NEW_SYN_RECV: 2,
    FIN_WAIT1: 4,
    FIN_WAIT2: 4,
    CLOSE_WAIT: 5,
    LAST_ACK: 6,
    CLOSING: 6,
}
"""The same in the words of conntrack (linux/netfilter/nf_conntrack_tcp.h)."""


class Flow(Value):
    """The packets of one direction; what conntrack calls a tuple."""

    protocol: int
    """`TCP` or `UDP`."""
    source: Ip
    source_port: int
    destination: Ip
    destination_port: int

    def answered(self) -> Flow:
        """The packets of the other direction, if nobody changes an address."""
        return Flow(self.protocol, self.destination, self.destination_port, self.source, self.source_port)

    def __str__(self) -> str:
        source, destination = (f"[{ip}]" if ip.version == 6 else str(ip) for ip in (self.source, self.destination))
        return f"{source}:{self.source_port} to {destination}:{self.destination_port}"

    @property
    def family(self) -> Family:
        return family_of(self.source)


class Socket(Value):
    """One end of a connection in this namespace, or a listener."""

    sends: Flow
    """What it sends: from its own address to that of its peer."""
    state: int
    is_left: bool = False
    """Whether its process has closed it, and the kernel keeps it until the peer has heard of that."""


def connections(sockets: Iterable[Socket]) -> Iterator[tuple[Flow, int]]:
    """What is open, as the packets that began it went, each with the state of its socket.

    Who listens on the port was called. A connection within the namespace has two sockets and comes twice.
    """
    found = list(sockets)
    listening = {socket.sends.source_port for socket in found if socket.state == LISTEN}
    for socket in found:
        if socket.state not in NOT_OPEN:
            was_called = socket.sends.source_port in listening
            yield (socket.sends.answered() if was_called else socket.sends), socket.state


def uses_conntrack(ruleset: Ruleset) -> bool:
    """Whether any rule here does."""
    return any(map(needs_conntrack, ruleset.kinds()))
