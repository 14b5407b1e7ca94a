"""First rules beside connections that are open: conntrack is told of them before a rule can meet their packets.

Conntrack starts with our first rule that needs it, and takes a packet in mid-stream for the first of a new connection
(see `rules.live.connections`). So where something is open, our chains come first, without the jumps that lead there:
conntrack runs, and nobody is captured. Whatever begins from now on is in its book, or its packets are. What began
before has a socket, and gets an entry. Then come the jumps. No rule is different for it, and nothing stays behind.
"""

from __future__ import annotations

import os

from capture.kernel import sockets
from capture.kernel.ctnetlink import write_down
from capture.kernel.iptables import BACKENDS, Iptables
from rules.live.changes import Append, NewChain, holds_ours, ours_in
from rules.live.connections import Flow, Socket, connections, uses_conntrack
from rules.netfilter.values import BUILT_IN, Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from capture.apply.transaction import Restore
    from capture.host.live import Live
    from capture.kernel.iptables import Saved
    from capture.log import Log
    from rules.live.changes import Command
    from rules.netfilter.rulesets import Ruleset

ANY_STATE = 0xFFF
"""As a mask (net/tcp_states.h)."""


class PickUp(Value):
    """Write down what is open in these families."""

    families: tuple[Family, ...]

    def __str__(self) -> str:
        names = " and ".join(family.value for family in self.families)
        return f"conntrack -I, for each open {names} connection, so that it goes on as it is"

    @property
    def family(self) -> Family:
        return self.families[-1]

    def do(self, log: Log) -> None:
        """What cannot be written down is said, and no failure: a capture is worth more than a connection."""
        try:
            found = dict(open_connections(self.families))
            refused = write_down(found.items())
        except OSError as error:
            log.warn(f"connections that are open may be reset: conntrack cannot be told of them: {error.strerror}")
            return
        for number, flows in refused.items():
            some = ", ".join(map(str, flows[:3])) + (" …" if len(flows) > 3 else "")
            log.warn(
                f"{len(flows)} open connections may be reset, because conntrack cannot be told of them "
                f"({os.strerror(number)}): {some}"
            )
        log.info(f"{len(found)} connections that are open go on as they are")

    def check(self, log: Log, read: Callable[[Iptables], Saved]) -> None:
        """The kernel answered the request itself."""

    def undo(self, log: Log) -> None:  # one signature for all steps
        """What conntrack knows of them is true, whatever rules there are."""


def open_connections(families: Sequence[Family]) -> Iterator[tuple[Flow, int]]:
    """What is open, with the state of its socket. Raises OSError where the kernel does not tell."""
    found = [
        Socket(Flow(number, it.address, it.port, it.peer, it.peer_port), it.state)
        for protocol, number in sockets.PROTOCOLS.items()
        for it in sockets.sockets(protocol, ANY_STATE)
    ]
    return (it for it in connections(found) if it[0].family in families)


def beside_what_is_open(
    live: Live, wanted: Mapping[Family, Ruleset], restores: Sequence[Restore]
) -> tuple[list[Restore | PickUp], list[Restore]]:
    """What comes first, and what is left of these restores. Where nothing is open, or conntrack runs for rules of ours,
    nothing comes first.
    """
    starting = tuple(family for family in wanted if uses_conntrack(wanted[family]) and not held_by_us(live, family))
    try:
        if not starting or not any(open_connections(starting)):
            return [], list(restores)
    except OSError:
        pass  # PickUp will tell
    first: list[Restore | PickUp] = []
    left = []
    for restore in restores:
        is_fresh = restore.family in starting and not any(map(holds_ours, restore.before.tables))
        chains = restore.only(makes_a_chain) if is_fresh else None
        if chains:
            first.append(chains)
            left.append(restore.only(lambda table, command: not makes_a_chain(table, command)))
        else:
            left.append(restore)
    return [*first, PickUp(starting)], [restore for restore in left if restore]


def held_by_us(live: Live, family: Family) -> bool:
    """Whether conntrack runs in this family for rules of ours."""
    return any(uses_conntrack(ours_in(live.saved(Iptables(backend, family)).ruleset)) for backend in BACKENDS)


def makes_a_chain(table: str, command: Command) -> bool:
    """Whether this brings a chain of ours, or fills it, and leads nobody there."""
    return isinstance(command, NewChain) or (isinstance(command, Append) and command.chain not in BUILT_IN[table])
