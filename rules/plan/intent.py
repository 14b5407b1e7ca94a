"""What the operator means, with nothing left to look up: the input of every plan."""

from __future__ import annotations

from rules.lists.networks import Networks
from rules.netfilter.values import ALL, All, Family, Ports
from rules.plan.names import DNS_CAPTURE_PORT, LOOPBACK, MOST_OWNER_GROUPS, MOST_OWNERS_IN_A_RULE
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.values import Network

REDIRECT, TPROXY = "REDIRECT", "TPROXY"


class Uids(Value):
    """The users with a uid from `first` to `last`, both included."""

    first: int
    last: int

    def checked(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"{self.first}-{self.last} is not a range of uids")

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class PortsOfUsers(Value):
    """Ports of a protocol, for some users."""

    protocols: tuple[str, ...]
    """`tcp`, `udp` or both."""
    ports: tuple[Ports, ...]
    """All of them if empty."""
    users: tuple[Uids, ...]

    def __str__(self) -> str:
        protocol = f"{self.protocols[0]}:" if len(self.protocols) == 1 else ""
        return f"{protocol}{','.join(map(str, self.ports)) or '*'}:{','.join(map(str, self.users))}"


class UdpPolicy(Value):
    """What becomes of UDP to a port: `leave` lets it go, `reject` and `drop` do not.

    Either way the sender's own call fails at once with EPERM, because netfilter tells a local process of its
    verdict; `reject` sends an ICMP error as well, which sockets remember and report as ECONNREFUSED.
    """

    ports: Ports
    policy: str

    def __str__(self) -> str:
        return f"{self.ports}={self.policy}"


def of_family(networks: Iterable[Network], family: Family) -> Iterable[Network]:
    """Those networks that this family's tables can hold, each once."""
    version = 4 if family is Family.V4 else 6
    if isinstance(networks, Networks):
        return networks.of(version)
    return (network for network in dict.fromkeys(networks) if network.version == version)


class Intent(Value):
    """Which traffic goes to the proxy. The fields have the names of the settings that decide them.

    Every field has the default of a plain `capture -p 15001 -z 15006 -u 1337`: everything, in both directions.
    """

    families: tuple[Family, ...] = (Family.V4,)
    """The families that are captured. A family that is not here is planned empty: nothing of ours stays in it."""
    ipv6: str = ""
    """`reject` if outgoing IPv6 is refused because it is not captured; all else is said by `families`."""

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

    interception_mode: str = REDIRECT
    """How inbound TCP gets to the proxy: `REDIRECT` or `TPROXY`."""
    tproxy_mark: int = 1337
    """The fwmark of what TPROXY hands to the proxy."""
    tproxy_route_table: int = 133
    """The routing table that keeps packets with that mark on this host."""

    inbound_ports: All | tuple[Ports, ...] = ALL
    """Inbound ports to capture."""
    inbound_ports_exclude: tuple[Ports, ...] = ()
    """Inbound ports that are not captured. They matter only when everything else is."""

    capture_ssh: bool = True
    """Whether `ssh_ports` are captured as any other."""
    ssh_ports: tuple[Ports, ...] = ()
    """Ports by which somebody may be logged in to this host."""
    exclude_inbound_cidrs: Sequence[Network] = ()
    """Sources whose connections to the pod are not captured."""

    outbound_cidrs: All | Sequence[Network] = ALL
    """Destinations to capture."""
    outbound_cidrs_exclude: Sequence[Network] = ()
    """Destinations that are not captured, whatever the port."""
    outbound_ports: tuple[Ports, ...] = ()
    """Ports captured for every destination that is not excluded."""
    outbound_ports_exclude: tuple[Ports, ...] = ()
    """Ports never captured, whatever the destination."""

    owner_groups: All | tuple[int, ...] = ALL
    """Gids whose outbound traffic is captured."""
    owner_groups_exclude: tuple[int, ...] = ()
    """Gids whose outbound traffic is not captured. They matter only when all others are."""

    exclude_uids: tuple[Uids, ...] = ()
    """Users whose outbound traffic is not captured, who are otherwise like anybody."""
    exclude_outbound_ports_for_uids: tuple[PortsOfUsers, ...] = ()
    """Outbound ports that are not captured for some users."""

    exclude_interfaces: tuple[str, ...] = ()
    """Nothing is captured in either direction on these."""
    exclude_inbound_interfaces: tuple[str, ...] = ()
    """Nothing that arrives on these is captured."""
    virtual_interfaces: tuple[str, ...] = ()
    """What arrives here comes from a virtual machine inside the pod: it is outbound traffic."""

    ipv4_loopback_cidr: Network = LOOPBACK[Family.V4]
    """What counts as loopback in IPv4."""
    redirect_dns: bool = False
    """DNS queries of applications go to the proxy's resolver."""
    capture_all_dns: bool = False
    """Those to any nameserver, not only to `nameservers`."""
    nameservers: tuple[Network, ...] = ()
    """The nameservers of resolv.conf, each as a network of one address."""
    dns_capture_port: int = DNS_CAPTURE_PORT
    """Where the resolver listens."""
    dns_capture_address: tuple[IPv4Address | IPv6Address, ...] = ()
    """On which address of each family, if not on loopback."""

    udp: tuple[UdpPolicy, ...] = ()
    """What becomes of UDP that leaves the pod past the proxy."""
    log_connections: str = ""
    """`log` or `nflog` if captured connections are logged."""
    log_connections_rate: int = 10
    """At most so many of each direction in a second."""
    nflog_group: int = 5
    """The nfnetlink_log group of `nflog`."""

    drop_invalid: bool = False
    """Drop packets that conntrack cannot place, before they are delivered unredirected."""

    def checked(self) -> None:
        if not isinstance(self.owner_groups, All) and len(self.owner_groups) > MOST_OWNER_GROUPS:
            raise ValueError(f"at most {MOST_OWNER_GROUPS} owner groups, not {len(self.owner_groups)}")
        owners = len(set(self.proxy_uid)) + len(set(self.proxy_gid))
        if owners > MOST_OWNERS_IN_A_RULE:
            raise ValueError(f"at most {MOST_OWNERS_IN_A_RULE} owners of the proxy, not {owners}")

    @property
    def uses_tproxy(self) -> bool:
        """Whether inbound is captured by TPROXY. Where nothing inbound is, the mode makes no difference."""
        return self.interception_mode == TPROXY and bool(self.inbound_ports)

    def captures_dns(self, family: Family) -> bool:
        """Whether a query in this family can go to the proxy's resolver."""
        return self.redirect_dns and (self.capture_all_dns or any(of_family(self.nameservers, family)))

    def loopback(self, family: Family) -> Network:
        """What counts as loopback in this family."""
        return self.ipv4_loopback_cidr if family is Family.V4 else LOOPBACK[family]
