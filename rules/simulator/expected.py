"""What becomes of a path that is to be tried, by all rules together: a setting may decide what another one promises."""

from __future__ import annotations

from rules.packets.packet import Direction, Packet
from rules.packets.trace import Became
from rules.simulator.simulate import simulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.analysis.probes import Path
    from rules.netfilter.rulesets import Ruleset
    from rules.packets.packet import Host


def expected(path: Path, rulesets: Sequence[Ruleset], host: Host, interface: str) -> Path | None:
    """The same path with where these rules send it, and the rule that decides; None where they do not tell.

    `interface` is the one by which it would leave.
    """
    trace = simulate(rulesets, packet_of(path, host, interface), host)
    if trace.became in (Became.DEPENDS, Became.REDIRECTED, Became.DROPPED):
        return None
    lands = trace.port if trace.became.is_captured and trace.port else 0
    if lands == path.lands or trace.decided is None:
        return path.but(lands=lands)
    return path.but(lands=lands, chain=trace.decided.chain, rule=trace.decided.rule)


def packet_of(path: Path, host: Host, interface: str) -> Packet:
    """The first packet of what is sent to try this path; where it names no source, the kernel chooses one."""
    return Packet(
        Direction.OUT,
        path.family,
        path.protocol,
        path.source or host.source_to(path.family, path.destination),
        path.destination,
        path.port,
        interface,
        uid=path.sender.uid,
        gid=path.sender.gid,
        is_bound=path.source is not None,
    )
