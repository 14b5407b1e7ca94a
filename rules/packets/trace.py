"""What became of a packet, step by step."""

from __future__ import annotations

from rules.value import Enum, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.rulesets import Rule
    from rules.packets.packet import Packet

    Address: TypeAlias = IPv4Address | IPv6Address


class Step(Value):
    """A rule that the packet was asked."""

    hook: str
    """The built-in chain in which the walk through this table began."""
    table: str
    """Whose chain it is."""
    chain: str
    """The chain that has it."""
    position: int
    """In its chain, counted from 1."""
    rule: Rule
    """As iptables-save has it, without `-A` and the chain."""
    matched: bool | None
    """Whether the packet met it; None if that cannot be told."""
    layer: int = 0
    """Which of the rulesets has it, where there are several (one of each backend)."""
    option: str = ""
    """The setting that asked for it, with value and origin; empty if none did."""
    backend: str = ""
    """Of rules that the namespace holds, nft or legacy; else empty."""

    TOLD: ClassVar = (
        "hook",
        "table",
        "chain",
        "position",
        "rule",
        "rule.why",
        "option",
        "rule.setting",
        "matched",
        "backend",
    )


class Became(Enum):
    """What becomes of a packet, in the words of the answer."""

    CAPTURED_OUTBOUND = "captured outbound"
    CAPTURED_INBOUND = "captured inbound"
    CAPTURED_DNS = "captured dns"
    REDIRECTED = "redirected"
    """A rule that is not ours changed its destination."""
    BYPASSED = "bypassed"
    """It leaves the pod, or passes through it, past the proxy."""
    DELIVERED = "delivered"
    """It reaches the port in the pod that it was sent to."""
    DROPPED = "dropped"
    REFUSED = "refused"
    DEPENDS = "depends"
    """On rules that we do not speak."""

    @property
    def is_captured(self) -> bool:
        return self in (Became.CAPTURED_OUTBOUND, Became.CAPTURED_INBOUND, Became.CAPTURED_DNS)

    @property
    def is_a_deed(self) -> bool:
        """Whether a rule does it, rather than leaving the packet alone."""
        return self not in (Became.BYPASSED, Became.DELIVERED, Became.DEPENDS)


class Trace(Value):
    """What becomes of a packet, and every rule it was asked on the way."""

    packet: Packet
    """The packet that was asked about."""
    became: Became
    address: Address | None
    """Where it goes in the end; None if nowhere, or if that depends."""
    port: int | None
    steps: tuple[Step, ...]
    """Every rule it was asked."""
    decided: Step | None
    """The rule that decided it; none if it fell through them all, or a policy or the routing decided."""
    reason: str = ""
    """Why, where no rule says it."""
    marked: int = 0
    """Its fwmark in the end."""
    zone: int = 0
    """The conntrack zone that it was put in."""
    remembered: int = 0
    """What its connection remembers of marks in the end."""
    bound: Step | None = None
    """The rule that sends its connection somewhere else, if one does."""
    names_address: bool = False
    """Whether that rule names an address, and not only a port of this host."""
    one_of: str = ""
    """All the places of which that rule chooses one, where they are too many to be followed."""
    untracked: Step | None = None
    """The rule that keeps it from conntrack, and so from nat."""
    hindered: str = ""
    """Why its connection fails all the same."""
    depends_on: tuple[Step, ...] = ()
    """The rules that cannot be asked and that make a difference, if it depends."""
    ways: tuple[Trace, ...] = ()
    """What could become of it, one of each kind, if it depends."""
    lost: Trace | None = None
    """What becomes of its answers, if they do not arrive."""
    translated: tuple[Address, int] | None = None
    """Where conntrack has its packets go, if a rule changed that. TPROXY may hand them to another port all the same."""
    doubted: str = ""
    """What its connection may fail by all the same, where that cannot be told."""

    @property
    def matched(self) -> tuple[Step, ...]:
        """The rules that matched, which are those whose counters move."""
        return tuple(step for step in self.steps if step.matched)
