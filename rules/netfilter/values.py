"""Where a rule can be, and the plain quantities it speaks of: families, tables, built-in chains, networks, ports."""

from __future__ import annotations

from rules.addresses import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from rules.value import Enum, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias


class Family(Enum):
    """An address family that netfilter keeps separate tables for."""

    V4 = "IPv4"
    V6 = "IPv6"


RAW = "raw"
MANGLE = "mangle"
NAT = "nat"
FILTER = "filter"

PREROUTING = "PREROUTING"
OUTPUT = "OUTPUT"

BUILT_IN: dict[str, frozenset[str]] = {
    "raw": frozenset({PREROUTING, OUTPUT}),
    "mangle": frozenset({PREROUTING, "INPUT", "FORWARD", OUTPUT, "POSTROUTING"}),
    "nat": frozenset({PREROUTING, "INPUT", OUTPUT, "POSTROUTING"}),
    "filter": frozenset({"INPUT", "FORWARD", OUTPUT}),
    "security": frozenset({"INPUT", "FORWARD", OUTPUT}),
}
"""The built-in chains of each table, by its name in save text (iptables(8), TABLES). `security` is one we only read."""


def family_of(it: IPv4Address | IPv6Address | Network) -> Family:
    """The family of an address or a network."""
    return Family.V4 if it.version == 4 else Family.V6


def address_of_family(family: Family, number: int) -> IPv4Address | IPv6Address:
    return IPv4Address(number) if family is Family.V4 else IPv6Address(number)


if TYPE_CHECKING:
    Network: TypeAlias = IPv4Network | IPv6Network


class All(Value):
    """Everything: the `*` of a list."""


ALL = All()


class Ports(Value):
    """TCP or UDP ports from `first` to `last`, both included, 1 to 65535."""

    first: int
    last: int

    def checked(self) -> None:
        if not 1 <= self.first <= self.last <= 65535:
            raise ValueError(f"{self.first}:{self.last} is not a range of ports")

    @classmethod
    def one(cls, port: int) -> Ports:
        return cls(port, port)

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}:{self.last}"


def network(text: str) -> Network:
    """A network from the kernel's text, where an address stands for itself alone (`10.0.0.1` is `10.0.0.1/32`)."""
    return ip_network(text, strict=False)
