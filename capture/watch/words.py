"""What a watch sees, in words: a line for each connection, count and difference."""

from __future__ import annotations

from rules.live.drift import count
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.watch.watch import Row, Seen, Tick
    from rules.connections.attribution import Decision


def by(seen: Seen) -> str:
    """Who decided, as far as it can be told."""
    if not seen.decided_by:
        return "no rule of ours counted it"
    if len(seen.decided_by) == 1:
        return of_decision(seen.decided_by[0])
    return f"one of {', '.join(f'{each.chain} {each.position}' for each in seen.decided_by)}"


def of_decision(decision: Decision) -> str:
    return f"{decision.chain} {decision.position}" + (f": {decision.why}" if decision.why else "")


def end(ip: object, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"


def of_row(row: Row) -> str:
    family = "" if row.family is Family.V4 else " IPv6"
    return f"{row.packets} more, {row.since_start} since the start{family}: {of_decision(row.decision)}"


def of_drift(tick: Tick, against: str) -> Iterator[str]:
    who = f" (nf_tables was changed by {', '.join(tick.changed_by)})" if tick.changed_by else ""
    if not tick.drift:
        yield f"repaired: no drift from {against} is left{who}"
        return
    yield f"drift: {count(len(tick.drift), 'difference')} from {against}{who}"
    for found in tick.drift[:20]:
        yield f"drift: {found}"
    if len(tick.drift) > 20:
        yield f"drift: and {len(tick.drift) - 20} more"
