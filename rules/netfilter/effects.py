"""What a rule does to a packet that meets it, whatever tool wrote it: all that a walk needs to know of a target."""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from rules.netfilter.fields import Condition
    from rules.netfilter.spans import Span
    from rules.netfilter.targets import Accept, Drop, Jump, Reject, Return, Zone

    End: TypeAlias = tuple[Span | None, Span | None]
    """The addresses and the ports of which one becomes the new one; None: it stays what it is."""
    Effect: TypeAlias = (
        Return
        | Accept
        | Drop
        | Jump
        | Reject
        | Zone
        | "Goto | Bind | BindSource | Hand | Remark | Forget"
        | "NoTrack | Retag | Nothing | Queue | Choice | Then | Unknown"
    )


class Goto(Value):
    """Ask the rules of this chain, and do not come back."""

    chain: str


class Bind(Value):
    """Send its connection somewhere else: one of these ends. For chains of type nat."""

    ends: tuple[End, ...]
    is_here: bool = False
    """Whether the new address is this host's, as REDIRECT has it."""
    is_mapped: bool = False
    """Whether each address of a network becomes its counterpart of another, as NETMAP has it."""


class BindSource(Value):
    """Give its connection another source (SNAT, MASQUERADE). For chains of type nat."""


class Hand(Value):
    """Hand it, unchanged, to the transparent listener on this port."""

    port: int
    """0: its own destination port."""
    keep: int
    flip: int
    """The new mark is `mark & keep ^ flip`."""
    accepts: bool = True
    """Whether that ends the walk, as TPROXY does; the `tproxy` of nft goes on."""


class Remark(Value):
    """Change a mark, of the packet (`MARK`) or of its connection (`CONNMARK`): own & keep ^ other & taken ^ flip."""

    onto: int
    keep: int
    taken: int
    flip: int


class Forget(Value):
    """Give it a mark that nobody can tell."""

    onto: int


class NoTrack(Value):
    """Keep it from conntrack, and so from every chain of type nat."""


class Retag(Value):
    """Change TOS, traffic class or the hop limit of IPv6: as for a mark, a chain of type route routes it anew."""

    text: str


class Nothing(Value):
    """Nothing that a later rule asks about, or that decides where it goes: count, log, TTL …"""


class Queue(Value):
    """A program decides: to accept or to drop, as far as can be told."""


class Choice(Value):
    """The first of these whose conditions hold; nothing if none does."""

    cases: tuple[tuple[tuple[Condition, ...], Effect], ...]


class Then(Value):
    """Do the first, and then the second, if these conditions hold."""

    first: Effect
    conditions: tuple[Condition, ...]
    second: Effect


class Unknown(Value):
    """Whatever it does, we do not know it."""

    text: str


def first_of(effect: Effect) -> tuple[Effect, ...]:
    """All that an effect may do, without those that only hold others together."""
    match effect:
        case Choice(cases):
            return tuple(each for _, chosen in cases for each in first_of(chosen))
        case Then(first, _, second):
            return (*first_of(first), *first_of(second))
        case _:
            return (effect,)
