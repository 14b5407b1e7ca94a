"""Connections that are alike, as one: a thousand a second are few flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.watch.words import by, end
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.watch.watch import Seen


class Flow(Value):
    """Connections from one address to one address and port, of which the same is known."""

    seen: Seen
    """One of them."""
    number: int
    """How many they are."""

    def __str__(self) -> str:
        made = self.seen.connection
        source = (
            end(made.source, made.source_port) if self.number == 1 else f"{made.source} ({self.number} connections)"
        )
        ends = f"{source} → {end(made.destination, made.destination_port)} {made.protocol}"
        outcome = {True: "captured", False: "bypasses", None: "unknown"}[self.seen.captured]
        outcome = "redirected" if self.seen.redirected_by_others else outcome
        to = f", answered by {end(made.answered_by, made.answered_by_port)}" if made.is_redirected else ""
        return f"{'out' if self.seen.is_outbound else 'in '} {outcome} {ends}{to}; {by(self.seen)}"


def alike(seen: Seen) -> Seen:
    """The same for all connections of a flow: without the port of who made it."""
    return seen.but(connection=seen.connection.but(source_port=0))


def added(flows: dict[Seen, Flow], seen: Iterable[Seen]) -> dict[Seen, Flow]:
    """Flows with more connections, those that had some last at the end."""
    for each in seen:
        key = alike(each)
        before = flows.pop(key, None)
        flows[key] = Flow(each, before.number + 1 if before else 1)
    return flows
