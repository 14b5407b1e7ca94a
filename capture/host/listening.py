"""Who listens here where the rules send things, and who is taken for the proxy without being it."""

from __future__ import annotations

from capture.host.neighbours import host_of
from capture.host.place import sockets_of
from capture.netlink import sockets
from rules.explain.listeners import INBOUND, Listener, Place, looping_resolvers, places
from rules.plan.names import DNS_PORT, PASSTHROUGH
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.host.facts import Facts
    from capture.host.place import Process
    from rules.netfilter.rulesets import Ruleset


class Heard(Value):
    """Who listens where some rules send things."""

    proxy: tuple[Place, ...] = ()
    """Where our rules send things, and who listens there."""
    resolvers: tuple[str, ...] = ()
    """DNS servers in the namespace whose own queries are captured, in a sentence each."""
    unseen: str = ""
    """Why it cannot be told, if it cannot."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong, in sentences."""
        return (*(f"{place}: {problem}" for place in self.proxy for problem in place.problems), *self.resolvers)


def heard(rulesets: Sequence[Ruleset], facts: Facts) -> Heard:
    """Who listens in this namespace where these rules send things."""
    around = host_of(facts.addresses or ())
    wanted = places(rulesets, around, ())
    if not wanted:
        return Heard()
    try:
        found, open_now = sockets.listeners(), sockets.connections()
    except OSError as error:
        return Heard(unseen=f"the kernel does not tell who listens: {error.strerror}")
    ports = {DNS_PORT, *(place.port for place in wanted)}
    listening = listeners([e for e in found if e.port in ports and not e.is_stand_in], facts.processes)
    own = {address.ip for address in facts.usable()}
    inbound = {place.port for place in wanted if place.what == INBOUND}
    # REDIRECT sends what comes over lo to loopback: so arrives what the proxy itself sends to the pod's own address.
    from_ourselves = [
        each.peer for each in open_now if each.port in inbound and each.peer in own and each.address.is_loopback
    ]
    passes_on = any(end in network for each in open_now for end in (each.address, each.peer) for network in PASSED_ON)
    proxy = places(rulesets, around, listening, from_ourselves, passes_on=passes_on)
    return Heard(proxy, tuple(looping_resolvers(rulesets, around, listening)))


PASSED_ON = tuple(PASSTHROUGH.values())


def listeners(found: Sequence[sockets.Socket], processes: Sequence[Process]) -> list[Listener]:
    """Those that listen, each with the process whose it is, as far as we may look."""
    owners = owners_of({each.inode for each in found}, processes)
    listening = []
    for each in found:
        owner = owners.get(each.inode)
        uid, gid, name = (owner.uid, owner.gid, f"pid {owner.pid} ({owner.name})") if owner else (each.uid, None, "")
        more = (each.only_ipv6, each.is_transparent)
        listening.append(Listener(each.protocol, each.address, each.port, uid, gid, name, *more))
    return listening


def owners_of(inodes: set[int], processes: Sequence[Process]) -> dict[int, Process]:
    """The processes that have these sockets open, by inode, as far as we may look."""
    if not inodes:
        return {}
    return {int(inode): each for each in processes for inode in sockets_of(each.pid) if int(inode) in inodes}


# --- who is taken for the proxy -----------------------------------------------------------------------------


def not_of_the_proxy(
    alike: Sequence[Process], everybody: Sequence[Process], ports: tuple[int, ...]
) -> Iterator[Process]:
    """Of the processes that the rules take for the proxy, by user or group, those that are not it.

    The proxy is who listens on one of these ports; what it descends from and what descends from it are of it.
    """
    try:
        found = {each.inode for each in sockets.listeners() if each.protocol == "tcp" and each.port in ports}
    except OSError:
        found = set()
    proxies = set(owners_of(found, alike).values())
    by_pid = {each.pid: each for each in everybody}
    for each in alike:
        ancestors = set(lineage(each, by_pid))
        if not any(proxy in ancestors or each in lineage(proxy, by_pid) for proxy in proxies):
            yield each


def lineage(process: Process, by_pid: dict[int, Process]) -> Iterator[Process]:
    """A process, the one that began it, and so on."""
    seen: set[int] = set()
    at: Process | None = process
    while at and at.pid not in seen:
        seen.add(at.pid)
        yield at
        at = by_pid.get(at.parent)
