"""What the registers of a native rule hold while it is read."""

from __future__ import annotations

from rules.netfilter.effects import Choice
from rules.netfilter.fields import Untold
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rules.netfilter.effects import Effect
    from rules.netfilter.fields import Condition
    from rules.nftables.messages import Order


class Loaded(Value):
    """A field of the packet in a register, or some bytes of a header."""

    name: str
    """As nft calls it."""
    field: int = -1
    """-1: bytes of a header, or what cannot be told."""
    size: int = 0
    """In bytes."""
    order: Order = "big"
    base: int = 0
    offset: int = 0
    mask: int = -1
    """The bits that are left of it; all of them by default."""
    flip: int = 0
    is_known: bool = True
    special: str = ""
    """`state`, `status`, `type`: what needs a translation; `constant`: always `flip`."""

    @property
    def is_whole(self) -> bool:
        return self.mask == -1 and not self.flip


class Mapped(Value):
    """What a map gives: one of these, each under its conditions."""

    cases: tuple[tuple[tuple[Condition, ...], bytes], ...]

    @property
    def is_told(self) -> bool:
        """Whether it can be told which of them."""
        return not any(isinstance(each, Untold) for asked, _ in self.cases for each in asked)

    def to(self, done: Callable[[bytes], Effect]) -> Effect:
        """What is done with what it gives."""
        return Choice(tuple((asked, done(data)) for asked, data in self.cases))


def place_of(register: int) -> int:
    """Where a register begins, in bytes: four of 16 bytes lie over sixteen of 4 (NFT_REG_1, NFT_REG32_00)."""
    return (register - 1) * 16 if register <= 4 else (register - 8) * 4
