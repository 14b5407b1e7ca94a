"""What keeps a host from reaching itself: what is redirected to this host goes over lo."""

from __future__ import annotations

from capture.kernel.loopback import lo_is_up
from rules.addresses import ip_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.netlink.rtnetlink import Address
    from rules.addresses import IPv4Address, IPv6Address


def lost_on_lo(address: IPv4Address | IPv6Address, own: Iterable[Address]) -> str:
    """Why what is sent from here to this address of this host does not arrive, in a sentence; empty if it does."""
    if lo_is_up() is False:
        return "lo is down, so it hangs: what goes from this host to itself goes over lo (`ip link set lo up`)"
    if address.is_loopback and not any(address in ip_network(str(its), strict=False) for its in own):
        return f"no interface has {address}, so it hangs: lo should have it (`ip addr show lo`)"
    return ""
