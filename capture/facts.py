"""What the host answers: addresses and users. Looking needs no privilege and changes nothing."""

from __future__ import annotations

import grp
import pwd

from capture import netlink
from rules.names import PASSTHROUGH
from rules.values import Family, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.netlink import Address

LO_DISABLES_IPV6 = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"


class Facts(Value):
    """What we know of the namespace whose traffic is to be captured."""

    addresses: tuple[Address, ...] | None
    """Its addresses in the kernel's order, or None if the kernel would not say."""
    has_ipv6: bool = True
    """Whether the kernel has IPv6 at all."""
    lo_has_ipv6: bool = True
    """Whether lo may have IPv6 addresses (it may not where `disable_ipv6` is set)."""

    @property
    def lacks_passthrough_address(self) -> bool:
        """Whether `::6` is still to be put on lo, and can be."""
        there = any(address.ip == PASSTHROUGH[Family.V6].network_address for address in self.addresses or ())
        return self.lo_has_ipv6 and not there

    def usable(self, family: Family | None = None) -> tuple[Address, ...]:
        """The addresses that other hosts could reach, of one family or of both."""
        version = {Family.V4: 4, Family.V6: 6, None: None}[family]
        return tuple(
            address for address in self.addresses or () if address.is_usable and version in (None, address.ip.version)
        )


def read_facts() -> Facts:
    """The facts of the namespace we are in."""
    try:
        addresses = netlink.addresses()
    except OSError:
        # A sandbox that forbids netlink sockets: a dry run does without.
        addresses = None
    try:
        with open(LO_DISABLES_IPV6, encoding="ascii") as file:
            return Facts(addresses, has_ipv6=True, lo_has_ipv6=file.read().strip() == "0")
    except OSError:
        return Facts(addresses, has_ipv6=False, lo_has_ipv6=False)


def uid_of(name: str) -> int | None:
    """The uid of this user on this host, if there is one."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def gid_of(name: str) -> int | None:
    """The gid of this group on this host, if there is one."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
