"""The matches: what a rule asks about a packet."""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from rules.netfilter.fields import Condition
    from rules.netfilter.values import Network, Ports


class Proto(Value):
    """The transport protocol, by its name in /etc/protocols (`tcp`, `udp`, `icmp`)."""

    name: str


class Src(Value):
    """The packet comes from this network."""

    network: Network


class Dst(Value):
    """The packet goes to this network."""

    network: Network


class InIface(Value):
    """It arrived on this interface; a trailing `+` means every name that begins so. Not known in OUTPUT."""

    name: str


class OutIface(Value):
    """It will leave on this interface; a trailing `+` means every name that begins so. Not known in PREROUTING."""

    name: str


class DPort(Value):
    """Its destination port is one of these. Needs a `Proto` of tcp or udp beside it (iptables-extensions(8), tcp)."""

    ports: Ports


class SPort(Value):
    """Its source port is one of these. Needs a `Proto` of tcp or udp beside it."""

    ports: Ports


class DPorts(Value):
    """Its destination port is in one of these ranges: the multiport match, at most 15 places, a range takes two."""

    ranges: tuple[Ports, ...]

    def checked(self) -> None:
        if not self.ranges or sum(places(ports) for ports in self.ranges) > MULTIPORT_PLACES:
            raise ValueError(f"multiport holds 1 to {MULTIPORT_PLACES} places, a range takes two")


MULTIPORT_PLACES = 15
"""XT_MULTI_PORTS of the kernel's xt_multiport.h."""


def places(ports: Ports) -> int:
    """How many of a multiport match's places these take."""
    return 1 if ports.first == ports.last else 2


class OwnerUid(Value):
    """The socket that sends it was opened by this uid. Only packets made on this host have an owner."""

    uid: int


class OwnerUids(Value):
    """The socket that sends it was opened by a uid from `first` to `last`, both included."""

    first: int
    last: int

    def checked(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(f"{self.first}-{self.last} is not a range of uids")


class OwnerGid(Value):
    """The socket that sends it was opened with this effective gid (supplementary groups do not count)."""

    gid: int


class CtState(Value):
    """Conntrack puts it in one of these states (`NEW`, `ESTABLISHED`, `INVALID` …)."""

    states: frozenset[str]


class Mark(Value):
    """It carries exactly this fwmark, 32 bits wide."""

    value: int


class ConnMark(Value):
    """Its connection remembers exactly this mark."""

    value: int


class Limit(Value):
    """It is among the first so many in a unit of time (`10/sec`), with bursts of up to five."""

    rate: str


class Foreign(Value):
    """A match we do not speak, kept to the letter, module and all: another tool's rule, never ours to change."""

    text: str


class Native(Value):
    """What a rule of nf_tables asks that iptables did not write: all of these conditions, in the words of nft."""

    conditions: tuple[Condition, ...]
    text: str


class Not(Value):
    """The match does not hold."""

    match: Plain


if TYPE_CHECKING:
    Owner: TypeAlias = OwnerUid | OwnerUids | OwnerGid
    Plain: TypeAlias = (
        Proto | Src | Dst | InIface | OutIface | DPort | SPort | DPorts | Owner | CtState | Mark | ConnMark | Limit
    )
    Match: TypeAlias = Plain | Not | Foreign | Native
