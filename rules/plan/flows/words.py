"""The vocabulary that the flows share: the commonest matches and targets, and lists of ports as few rules."""

from __future__ import annotations

from rules.lists.networks import Networks
from rules.netfilter.matches import (
    MULTIPORT_PLACES,
    DPort,
    DPorts,
    Dst,
    InIface,
    Limit,
    OutIface,
    OwnerGid,
    OwnerUid,
    OwnerUids,
    Proto,
    Src,
    places,
)
from rules.netfilter.rulesets import when
from rules.netfilter.targets import Log, Nflog, Return
from rules.netfilter.values import Ports
from rules.plan.intent import Uids
from rules.plan.lists import widest, widest_names
from rules.plan.names import LOOPBACK_INTERFACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rules.netfilter.matches import Match, Owner
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Network
    from rules.plan.intent import Intent

TCP = Proto("tcp")
UDP = Proto("udp")
ON_LO = OutIface(LOOPBACK_INTERFACE)
BYPASS = Return()

ONE_RULE_EACH = 15
"""A port list no longer than this becomes one rule for each entry, in the order given, so that each has a counter
of its own and reads as it was written. A longer one is packed: its order means nothing to the kernel, which would
pay for every rule with every new connection."""


def for_each(
    networks: Sequence[Network], asked: type[Dst | Src], target: Target, *beside: Match, why: str, setting: str
) -> Iterable[Rule]:
    """A rule for each network, which asks for something beside it."""

    def made(network: Network) -> Rule:
        # All of a family (`0.0.0.0/0`) is no match: the kernel would not keep it.
        return when(*beside, *((asked(network),) if network.prefixlen else ())).then(target, why=why, setting=setting)

    if isinstance(networks, Networks) and len(networks) > 1:
        from rules.lists.long import Made  # of a list that is not long a tuple is made

        return Made(networks, made)
    return map(made, networks)


def going_to(network: Network) -> tuple[Match, ...]:
    """The match for a destination. All of a family (`0.0.0.0/0`) is no match: the kernel would not keep it."""
    return (Dst(network),) if network.prefixlen else ()


def port_matches(ports: tuple[Ports, ...], but: tuple[Ports, ...] = ()) -> Iterator[DPort | DPorts]:
    """Matches that together hold for these ports, but for entries that one of those decided before holds whole."""
    if len(ports) <= ONE_RULE_EACH:
        yield from map(DPort, widest(ports, merged(but)))
        return
    left = widest(merged(ports), merged(but))
    if not left:
        return
    batch: list[Ports] = []
    room = MULTIPORT_PLACES
    for entry in left:
        if places(entry) > room:
            yield DPorts(tuple(batch))
            batch, room = [], MULTIPORT_PLACES
        batch.append(entry)
        room -= places(entry)
    is_one_port = len(batch) == 1 and places(batch[0]) == 1  # which as a multiport match is of SSH
    yield DPort(batch[0]) if is_one_port else DPorts(tuple(batch))


def merged(ports: Iterable[Ports]) -> list[Ports]:
    """The same ports in ascending order, with neighbours and overlaps joined."""
    joined: list[Ports] = []
    for entry in sorted(ports, key=lambda entry: (entry.first, entry.last)):
        if joined and entry.first <= joined[-1].last + 1:
            joined[-1] = Ports(joined[-1].first, max(joined[-1].last, entry.last))
        else:
            joined.append(entry)
    return joined


def arriving_on(interfaces: Iterable[str]) -> Iterator[Match]:
    return map(InIface, widest_names(interfaces))


def leaving_on(interfaces: Iterable[str]) -> Iterator[Match]:
    return map(OutIface, widest_names(interfaces))


def not_the_proxy(intent: Intent, users: Iterable[Uids], *before: Uids) -> list[Uids]:
    """Those of the users who are not the proxy, nor among those who are let go before."""
    return widest(users, [*(Uids(uid, uid) for uid in intent.proxy_uid), *before])


def user_match(users: Uids) -> OwnerUid | OwnerUids:
    """The owner match for one user or a range of them."""
    return OwnerUid(users.first) if users.first == users.last else OwnerUids(users.first, users.last)


def proxy_owners(intent: Intent) -> Iterator[tuple[Owner, str]]:
    """Everyone who is the proxy, with the setting that says so."""
    for uid in dict.fromkeys(intent.proxy_uid):
        yield OwnerUid(uid), "proxy_uid"
    for gid in dict.fromkeys(intent.proxy_gid):
        yield OwnerGid(gid), "proxy_gid"


def logged(intent: Intent, *matches: Match, prefix: str) -> Iterator[Rule]:
    """A line in the log for what is about to be captured, if that is asked for."""
    if intent.log_connections:
        target = Log(prefix) if intent.log_connections == "log" else Nflog(intent.nflog_group, prefix)
        rate = Limit(f"{intent.log_connections_rate}/sec")
        yield when(*matches, rate).then(target, why="captured connections are logged", setting="log_connections")
