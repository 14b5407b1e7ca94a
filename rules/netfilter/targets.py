"""The targets: what becomes of a packet that a rule's matches hold for."""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.effects import Effect


class Return(Value):
    """Back to the chain that jumped here; in a built-in chain, its policy."""


class Accept(Value):
    """Let it through: no further rule of this table is asked."""


class Drop(Value):
    """Discard it without an answer."""


class Jump(Value):
    """Ask the rules of this user-defined chain, then go on behind this rule unless one of them decided."""

    chain: str


class Redirect(Value):
    """Change its destination to this host and this port (iptables-extensions(8), REDIRECT). Needs a `Proto`."""

    port: int


class Dnat(Value):
    """Change its destination to this address and port (iptables-extensions(8), DNAT). Needs a `Proto`."""

    address: IPv4Address | IPv6Address
    port: int


class Tproxy(Value):
    """Hand it, unchanged, to the transparent listener on this port, and mark it so that routing keeps it here.

    See iptables-extensions(8), TPROXY, and the kernel's Documentation/networking/tproxy.rst.
    """

    port: int
    mark: int


class SetMark(Value):
    """Give it this fwmark, and go on behind this rule."""

    value: int


class SaveMark(Value):
    """Have its connection remember its fwmark, and go on behind this rule."""


class RestoreMark(Value):
    """Give it the mark that its connection remembers, and go on behind this rule."""


class Zone(Value):
    """Keep its connection in this conntrack zone, and go on behind this rule. For the raw table."""

    zone: int


class Reject(Value):
    """Discard it and answer with this error (iptables-extensions(8), REJECT). For the filter table."""

    answer: str


class Log(Value):
    """Write it to the kernel log behind this prefix, with the uid that sent it, and go on behind this rule."""

    prefix: str


class Nflog(Value):
    """Send it to the listeners of this nfnetlink_log group behind this prefix, and go on behind this rule."""

    group: int
    prefix: str


class ForeignTarget(Value):
    """A target we do not speak, kept to the letter with its `-j` or `-g`; empty for a rule that only counts."""

    text: str


class NativeTarget(Value):
    """What a rule of nf_tables does that iptables did not write, with what it asks on the way, in the words of nft."""

    effect: Effect
    text: str


if TYPE_CHECKING:
    Verdict: TypeAlias = Return | Accept | Drop | Jump | Redirect | Dnat | Tproxy | Reject
    Remark: TypeAlias = SetMark | SaveMark | RestoreMark | Zone | Log | Nflog
    Target: TypeAlias = Verdict | Remark | ForeignTarget | NativeTarget
