"""The entries of a setting that is a list: how each is written, how much it stands for, and which contains which."""

from __future__ import annotations

from rules.netfilter.values import Ports
from rules.plan.intent import PortsOfUsers, UdpPolicy, Uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


MOST_COMPARED = 64
"""Entries of a list that are compared each with all others."""


def shown(entry: Any) -> str:
    """An entry as it was written, or nearly."""
    return str(entry).replace(":", "-") if isinstance(entry, Ports) else str(entry)


def width(entry: Any) -> int:
    """How much an entry stands for."""
    if isinstance(entry, Ports | Uids):
        return entry.last - entry.first
    if isinstance(entry, UdpPolicy):
        return entry.ports.last - entry.ports.first
    if isinstance(entry, PortsOfUsers):
        return sum(map(width, entry.ports)) if entry.ports else 65536
    return int(getattr(entry, "num_addresses", 1))


def holds(wider: Any, entry: Any) -> bool:
    """Whether one entry of a list stands for all that another one of the same list does."""
    if isinstance(entry, Ports | Uids):
        return bool(wider.first <= entry.first and entry.last <= wider.last)
    if hasattr(entry, "subnet_of"):
        return bool(entry.version == wider.version and entry.subnet_of(wider))
    if isinstance(entry, str):
        return bool(wider.endswith("+") and entry.startswith(wider[:-1]))
    return bool(entry == wider)


def widest_first(entry: Any) -> tuple[int, ...]:
    """An order in which whatever contains an entry stands before it: networks, or ranges of ports or uids."""
    if isinstance(entry, Ports | Uids):
        return entry.first, -entry.last
    return entry.version, int(entry.network_address), entry.prefixlen


def holders(entries: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """The entries of a list that another of them contains, each with the widest one that does.

    Networks and ranges are not compared each with all others, because a list may have ten thousands; interfaces and all
    else of which there are few are.
    """
    listed = list(entries)
    if not all(hasattr(entry, "subnet_of") or isinstance(entry, Ports | Uids) for entry in listed):
        yield from (
            (entry, wider)
            for entry in (listed if len(listed) <= MOST_COMPARED else ())
            for wider in [next((other for other in listed if other != entry and holds(other, entry)), None)]
            if wider is not None
        )
        return
    widest = None
    for entry in sorted(listed, key=widest_first):
        if widest is not None and holds(widest, entry):
            yield entry, widest
        else:
            widest = entry
