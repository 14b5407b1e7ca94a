"""Letting go of captured connections: how many there are is said before, and on demand they are waited for.

While we wait, new connections are captured no more: the jumps to our chains are gone from nat, and TPROXY's chain is
empty. The chains themselves stay: conntrack runs and knows where the captured ones really go, and marks are restored.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what `signal` wraps: see `capture.steps.acts`
import time

from capture.errors import CaptureError
from capture.iptables.iptables import LEGACY, NATIVE, NFT, Iptables
from capture.netlink import ctnetlink, sockets
from capture.steps.acts import ENDING_SIGNALS
from capture.steps.restore import Restore
from rules.connections.captured import Released, released
from rules.connections.flow import TCP, Flow
from rules.live.changes import Delete, Redeclare, RemoveChain
from rules.live.drift import count
from rules.netfilter.values import MANGLE, NAT
from rules.plan.names import ISTIO_REDIRECT, ISTIO_TPROXY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from capture.host.live import Live
    from capture.log import Log
    from capture.steps.acts import Act
    from rules.connections.captured import Entry
    from rules.live.changes import Command
    from rules.netfilter.values import Family
    from rules.plan.plan import Plan

BETWEEN = 0.2
"""Seconds between two looks at what is left."""


class Release:
    """What a change lets go of. As a step of it, the wait for that."""

    def __init__(self, parts: Sequence[Released], patience: float) -> None:
        self.parts = parts
        self.patience = patience
        """How long to wait, in seconds; not at all if 0."""
        self.cut: tuple[Flow, ...] = ()
        """The captured connections that were, or will be, reset."""

    def __str__(self) -> str:
        return f"nothing until captured connections have ended, for up to {self.patience:g} s"

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(part.family for part in self.parts)

    def held(self) -> list[tuple[Released, Entry]]:
        """The captured connections that are open and let go of. Raises OSError where the kernel does not tell."""
        found = [(part, entry) for entry in ctnetlink.entries() for part in self.parts if part.includes(entry)]
        # An entry may outlive its connection, if conntrack did not see the end. The sockets of the proxy are here.
        open_now = sockets.connections() if found else ()
        ends = {Flow(TCP, socket.address, socket.port, socket.peer, socket.peer_port) for socket in open_now}
        return [(part, entry) for part, entry in found if entry.answers in ends]

    def announced(self, doing: Sequence[Act], log: Log) -> list[Act]:
        """The same acts, with the wait among them if there is something to wait for. Says what will be cut.

        Raises CaptureError if a wait was asked for and nobody can tell for what.
        """
        try:
            held = self.held()
        except OSError as error:
            if self.patience:
                raise CaptureError(
                    f"cannot wait for captured connections: the kernel does not tell which there are: {error.strerror}",
                    hint="without --drain they are reset; `modprobe nf_conntrack_netlink` on the node lets it tell",
                ) from error
            log.warn(f"captured connections will be reset; how many, the kernel does not tell: {error.strerror}")
            return list(doing)
        self.cut = tuple(entry.began for part, entry in held if part.cuts(entry))
        if self.patience and held:
            some = count(len(held), "captured connection")
            log.warn(f"waiting up to {self.patience:g} s for {some} to end; new ones are not captured any more")
            return self.waiting(doing)
        if self.cut:
            log.warn(
                f"{count(len(self.cut), 'captured connection')} will be reset by this; "
                "--drain 30s waits for them to end, and captures no new ones meanwhile"
            )
        self.tell_of_those_that_go_on(len(held) - len(self.cut), log)
        return list(doing)

    def waiting(self, doing: Sequence[Act]) -> list[Act]:
        """First what captures elsewhere, then what stops capturing here, then the wait, then the rest."""
        last = max((at for at, act in enumerate(doing) if isinstance(act, Restore)), default=-1) + 1
        early: list[Act] = []
        stops: list[Act] = []
        late: list[Act] = []
        for act in doing[:last]:
            stop = act.only(stopping(act)) if isinstance(act, Restore) else None
            if stop and isinstance(act, Restore):
                done = {(change.table, command) for change in stop.changes for command in change.commands}
                stops.append(stop)
                rest = act.only(lambda table, command, done=done: (table, command) not in done)  # type: ignore[misc] # bound here
                late += [rest] if rest else []
            else:
                early.append(act)
        return [*early, *stops, self, *late, *doing[last:]] if stops else list(doing)

    def do(self, log: Log) -> None:
        """Wait. Raises CaptureError when we are told to end, so that the capture is put back as it was."""
        began = time.monotonic()
        while True:
            held = self.held()
            self.cut = tuple(entry.began for part, entry in held if part.cuts(entry))
            waited = time.monotonic() - began
            if not held or waited > self.patience:
                break
            if _signal.sigpending() & set(ENDING_SIGNALS):
                raise CaptureError("told to end while waiting for captured connections; the capture goes on")
            time.sleep(BETWEEN)
        if not held:
            log.info(f"All captured connections have ended, after {waited:.1f} s")
        elif self.cut:
            log.warn(
                f"{count(len(self.cut), 'captured connection')} did not end in {self.patience:g} s and will be reset"
            )
        self.tell_of_those_that_go_on(len(held) - len(self.cut), log)

    def tell_of_those_that_go_on(self, number: int, log: Log) -> None:
        if number:
            log.warn(
                f"{count(number, 'captured connection')} will go on through the proxy as long as that runs: "
                "rules of others keep conntrack and NAT running"
            )

    def undo(self, log: Log) -> None:
        """There is nothing to undo."""


def stopping(restore: Restore) -> Callable[[str, Command], bool]:
    """Which commands of a restore that takes our capture away end it for new connections and leave it to old ones."""
    going = {
        (change.table, command.chain)
        for change in restore.changes
        for command in change.commands
        if isinstance(command, RemoveChain)
    }

    def stops(table: str, command: Command) -> bool:
        if table == NAT and (NAT, ISTIO_REDIRECT) in going:
            return isinstance(command, Delete)
        return table == MANGLE and (MANGLE, ISTIO_TPROXY) in going and command == Redeclare(ISTIO_TPROXY)

    return stops


def release_of(live: Live, planned: Plan, patience: float) -> Release | None:
    """What a change from what is live to what is planned lets go of; None if nothing."""
    parts = []
    for ruleset in planned.rulesets:
        nft, legacy, own = (live.saved(Iptables(backend, ruleset.family)).ruleset for backend in (NFT, LEGACY, NATIVE))
        part = released(nft, legacy, own, ruleset, live.natives.get(ruleset.family, ()))
        if part:
            parts.append(part)
    return Release(parts, patience) if parts else None
