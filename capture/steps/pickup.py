"""First rules beside connections that are open: conntrack is told of them before a rule can meet their packets.

Conntrack starts with our first rule that needs it, and takes a packet in mid-stream for the first of a new connection
(see `rules.connections.flow`). So where something is open, our chains come first, without the jumps that lead there:
conntrack runs, and nobody is captured. Whatever begins from now on is in its book, or its packets are. What began
before has a socket, and gets an entry. Then come the jumps. No rule is different for it, and nothing stays behind.
"""

from __future__ import annotations

import errno
import os

from capture.iptables.iptables import BACKENDS, Iptables
from capture.netlink import ctnetlink, messages, rtnetlink, sockets
from rules.connections.captured import is_outdated
from rules.connections.flow import (
    CLOSED_HERE,
    ESTABLISHED,
    SYN_SENT,
    TCP,
    UDP,
    Flow,
    Socket,
    connections,
    uses_conntrack,
)
from rules.live.changes import Fill, NewChain
from rules.meaning.tracking import needs_conntrack
from rules.netfilter.values import BUILT_IN, Family
from rules.ours.recognition import holds_ours, ours_in
from rules.plan.names import DNS_PORT
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from capture.host.live import Live
    from capture.log import Log
    from capture.steps.restore import Restore
    from rules.live.changes import Command
    from rules.netfilter.rulesets import Rule, Ruleset


class PickUp(Value):
    """Write down what is open in these families."""

    families: tuple[Family, ...]
    running: tuple[Family, ...] = ()
    """Those in which conntrack runs already, for rules of others: it knows what is being opened or closed, or has
    forgotten it with good reason, and an entry of ours would hold the ports for nobody."""

    def __str__(self) -> str:
        names = " and ".join(family.value for family in self.families)
        return f"conntrack -I, for each open {names} connection, so that it goes on as it is"

    def do(self, log: Log) -> None:
        """What cannot be written down is said, and no failure: a capture is worth more than a connection."""
        try:
            ends = all_sockets()
            found = {
                flow: state
                for flow, state in open_among(ends, self.families)
                if state == ESTABLISHED or flow.family not in self.running
            }
            refused = ctnetlink.write_down(found.items())
            in_book = refused.pop(errno.EEXIST, [])
            written = found.keys() - set(in_book)
            if in_book:
                forgotten = forget_outdated(found, {socket.sends for socket in ends if not socket.is_left})
                anew = found.keys() & {flow for one in forgotten for flow in (one, one.answered())}
                refused |= ctnetlink.write_down((flow, found[flow]) for flow in anew)
                refused.pop(errno.EEXIST, None)
                written |= anew
            ended = over(written)
            ctnetlink.forget(ended)
        except OSError as error:
            log.warn(f"connections that are open may be reset: conntrack cannot be told of them: {error.strerror}")
            return
        for number, flows in refused.items():
            some = ", ".join(map(str, flows[:3])) + (" …" if len(flows) > 3 else "")
            log.warn(
                f"{len(flows)} open connections may be reset, because conntrack cannot be told of them "
                f"({os.strerror(number)}): {some}"
            )
        if going_on := len(found) - len(ended):
            log.info(f"{going_on} connections that are open go on as they are")

    def undo(self, log: Log) -> None:  # one signature for all steps
        """What conntrack knows of them is true, whatever rules there are."""


def all_sockets() -> list[Socket]:
    """Every TCP and UDP socket. Raises OSError where the kernel does not tell."""
    found: list[Socket] = []
    for protocol, number in sockets.PROTOCOLS.items():
        try:
            found += [
                Socket(
                    Flow(number, it.address, it.port, it.peer, it.peer_port),
                    it.state,
                    it.state in CLOSED_HERE and not it.inode,
                )
                for it in sockets.sockets(protocol, sockets.OPEN)
            ]
        except OSError as error:
            if number == TCP or not messages.is_absence(error):
                raise  # without udp_diag there is still TCP
    return found


def forget_outdated(found: Mapping[Flow, int], sends: AbstractSet[Flow]) -> list[Flow]:
    """Forget what conntrack has kept from a capture that is over; the result is what began so."""
    here = {address.ip for address in rtnetlink.addresses()}
    begun = {flow for flow, state in found.items() if state != SYN_SENT}
    outdated = [entry.began for entry in ctnetlink.entries() if is_outdated(entry, begun, sends, here)]
    ctnetlink.forget(outdated)
    return outdated


def over(written: AbstractSet[Flow]) -> list[Flow]:
    """Those of these connections that have ended by now.

    One that was reset between the look at its socket and the entry left nobody behind who could end the entry. It would
    stay for five days, and what is called next from its port would go out by it, past the proxy.
    """
    alive = {socket.sends for socket in all_sockets()} if written else set()
    return [flow for flow in written if not {flow, flow.answered()} & alive]


def open_among(ends: Sequence[Socket], families: Sequence[Family]) -> Iterator[tuple[Flow, int]]:
    """What is open, with the state of its socket. A DNS query is no connection: each is on its own."""
    for flow, state in connections(ends):
        if flow.family in families and not (flow.protocol == UDP and flow.destination_port == DNS_PORT):
            yield flow, state


def beside_what_is_open(
    live: Live, wanted: Mapping[Family, Ruleset], restores: Sequence[Restore]
) -> tuple[list[Restore | PickUp], list[Restore]]:
    """What comes first, and what is left of these restores; nothing where conntrack runs for rules of ours.

    That nothing is open would be true of one moment: who calls without pause may be between two calls then.
    """
    starting = tuple(
        family for family in wanted if uses_conntrack(wanted[family]) and not tracked_for_ours(live, family)
    )
    if not starting:
        return [], list(restores)
    first: list[Restore | PickUp] = []
    left = []
    for restore in restores:
        is_fresh = restore.family in starting and not any(it.held or holds_ours(it) for it in restore.before.tables)
        chains = restore.only(makes_a_chain) if is_fresh else None
        if chains:
            first.append(chains)
            left.append(restore.only(lambda table, command: not makes_a_chain(table, command)))
        else:
            left.append(restore)
    running = tuple(family for family in starting if any(map(needs_conntrack, rules_in(live, family))))
    return [*first, PickUp(starting, running)], [restore for restore in left if restore]


def rules_in(live: Live, family: Family) -> Iterator[Rule]:
    """All kinds of rules that packets of this family can meet."""
    for backend in BACKENDS:
        yield from live.saved(Iptables(backend, family)).ruleset.kinds()
    for table in (*live.natives.get(family, ()), *live.leaving.get(family, ())):
        yield from (rule for _, rules in table.chains for rule in rules)


def tracked_for_ours(live: Live, family: Family) -> bool:
    """Whether conntrack runs in this family for rules of ours."""
    return any(uses_conntrack(ours_in(live.saved(Iptables(backend, family)).ruleset)) for backend in BACKENDS)


def makes_a_chain(table: str, command: Command) -> bool:
    """Whether this brings a chain of ours, or fills it, and leads nobody there."""
    return isinstance(command, NewChain) or (isinstance(command, Fill) and command.chain not in BUILT_IN[table])
