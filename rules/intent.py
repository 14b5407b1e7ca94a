"""What the operator means, with nothing left to look up: the input of every plan."""

from __future__ import annotations

from rules.names import LOOPBACK, MOST_OWNER_GROUPS
from rules.values import ALL, All, Family, Ports, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.values import Network


class Intent(Value):
    """Which traffic goes to the proxy. The fields have the names of the settings that decide them.

    Every field has the default of a plain `capture -p 15001 -z 15006 -u 1337`: everything, in both directions.
    """

    families: tuple[Family, ...] = (Family.V4,)
    """The families that are captured. A family that is not here is planned empty: nothing of ours stays in it."""

    proxy_port: int = 15001
    """Where captured outbound TCP goes."""
    inbound_capture_port: int = 15006
    """Where captured inbound TCP goes."""
    inbound_tunnel_port: int = 15008
    """The HBONE port. The proxy terminates it itself, so it is never captured."""

    proxy_uid: tuple[int, ...] = (1337,)
    """Who is never captured, and whose calls over loopback are inbound."""
    proxy_gid: tuple[int, ...] = (1337,)
    """The same by the gid a socket was opened with."""

    inbound_ports: All | tuple[Ports, ...] = ALL
    """Inbound ports to capture."""
    inbound_ports_exclude: tuple[Ports, ...] = ()
    """Inbound ports that are not captured. They matter only when everything else is."""

    outbound_cidrs: All | tuple[Network, ...] = ALL
    """Destinations to capture."""
    outbound_cidrs_exclude: tuple[Network, ...] = ()
    """Destinations that are not captured, whatever the port."""
    outbound_ports: tuple[Ports, ...] = ()
    """Ports captured for every destination that is not excluded."""
    outbound_ports_exclude: tuple[Ports, ...] = ()
    """Ports never captured, whatever the destination."""

    owner_groups: All | tuple[int, ...] = ALL
    """Gids whose outbound traffic is captured."""
    owner_groups_exclude: tuple[int, ...] = ()
    """Gids whose outbound traffic is not captured. They matter only when all others are."""

    exclude_interfaces: tuple[str, ...] = ()
    """Nothing is captured in either direction on these."""
    virtual_interfaces: tuple[str, ...] = ()
    """What arrives here comes from a virtual machine inside the pod: it is outbound traffic."""

    ipv4_loopback_cidr: Network = LOOPBACK[Family.V4]
    """What counts as loopback in IPv4."""
    drop_invalid: bool = False
    """Drop packets that conntrack cannot place, before they are delivered unredirected."""

    def checked(self) -> None:
        if not isinstance(self.owner_groups, All) and len(self.owner_groups) > MOST_OWNER_GROUPS:
            raise ValueError(f"at most {MOST_OWNER_GROUPS} owner groups, not {len(self.owner_groups)}")

    def loopback(self, family: Family) -> Network:
        """What counts as loopback in this family."""
        return self.ipv4_loopback_cidr if family is Family.V4 else LOOPBACK[family]
