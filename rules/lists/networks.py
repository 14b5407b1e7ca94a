"""Lists of networks as numbers, and as few as they can be: the kernel pays for every rule with every new connection.

A network that another one holds, or that was decided before, has no rule of its own; those that adjoin become one. What
is left keeps the order in which it was given.
"""

from __future__ import annotations

from _collections_abc import Sequence  # what `collections.abc` wraps, and loaded already
from itertools import pairwise

from rules.addresses import IPv4Network, IPv6Address, IPv6Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TypeAlias

    Network: TypeAlias = IPv4Network | IPv6Network
else:
    Network = object

MANY = 64
"""Entries from which on a list of networks is kept as numbers."""
AT_ONCE = 2_000
"""Networks whose text is made at once."""
V6 = 1 << 136
"""What a network of IPv6 has in its number besides its first address, shifted by 8 bits, and its length."""


class Networks(Sequence[Network]):
    """Many networks as numbers: as objects they take five times the memory, and ten times as long to make.

    Equal to a tuple of the same networks.
    """

    __slots__ = ("codes", "had_host_bits")

    def __init__(self, codes: Iterable[int], *, had_host_bits: bool = False) -> None:
        self.codes = tuple(codes)
        """The numbers: see `code_of`."""
        self.had_host_bits = had_host_bits
        """Whether any may have been written with an address that is not its first."""

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Network]:
        return map(network_of, self.codes)

    def __getitem__(self, at: Any) -> Any:
        return tuple(map(network_of, self.codes[at])) if isinstance(at, slice) else network_of(self.codes[at])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Networks):
            return self.codes == other.codes
        return isinstance(other, tuple) and len(self) == len(other) and tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def of(self, version: int) -> Networks:
        """Those of one family, each once."""
        codes, is_v6 = self.codes, version == 6
        ordered = sorted(codes)  # in which what is there twice stands together, and IPv6 behind IPv4
        is_of_it = not ordered or (ordered[0] >= V6 if is_v6 else ordered[-1] < V6)
        if is_of_it and not any(one == other for one, other in pairwise(ordered)):
            return self
        return Networks(code for code in dict.fromkeys(codes) if (code >= V6) is is_v6)

    def some(self) -> Iterator[Networks]:
        """All of them, some at a time."""
        return (Networks(self.codes[at : at + AT_ONCE]) for at in range(0, len(self.codes), AT_ONCE))

    def texts(self) -> Iterator[str]:
        """Each as iptables prints it, like `text_of`."""
        codes = self.codes
        if not codes or max(codes) >= V6:
            return map(text_of, codes)
        part = tuple(map(str, range(256)))  # to write a number takes longer than to look it up
        return (
            f"{part[code >> 32]}.{part[code >> 24 & 255]}.{part[code >> 16 & 255]}.{part[code >> 8 & 255]}/{code & 255}"
            for code in codes
        )


def code_of(network: Network) -> int:
    return int(network.network_address) << 8 | network.prefixlen | (V6 if network.version == 6 else 0)


def network_of(code: int) -> Network:
    first, length = (code & V6 - 1) >> 8, code & 255
    return IPv6Network((first, length)) if code >= V6 else IPv4Network((first, length))


def text_of(code: int) -> str:
    """The network as iptables prints it."""
    if code >= V6:
        return f"{IPv6Address((code ^ V6) >> 8)}/{code & 255}"
    return f"{code >> 32}.{code >> 24 & 255}.{code >> 16 & 255}.{code >> 8 & 255}/{code & 255}"


def fewest(networks: Iterable[Network]) -> Sequence[Network]:
    """The same addresses as few networks of one family, each where the first that it holds was given."""
    given = networks if isinstance(networks, Networks) else list(networks)
    if len(given) < 2:
        return given
    codes = given.codes if isinstance(given, Networks) else tuple(map(code_of, given))
    kept = merged(codes)
    if len(kept) == len(codes):
        return given
    return Networks(kept) if isinstance(given, Networks) else list(map(network_of, kept))


def merged(codes: Sequence[int]) -> list[int]:
    """The same for networks as numbers."""
    family = codes[0] & V6
    bits = 128 if family else 32
    if is_fewest(sorted(codes), bits):
        return list(codes)
    # In ascending order a network comes behind the one that holds it, and behind the other half of one twice its size.
    kept: list[tuple[int, int, int]] = []
    end = -1  # behind the last address of the last that is kept
    for at in sorted(range(len(codes)), key=codes.__getitem__):
        code = codes[at] ^ family
        low, length = code >> 8, code & 255
        if low < end:
            if at < kept[-1][2]:
                kept[-1] = (*kept[-1][:2], at)
            continue
        size = 1 << bits - length
        end = low + size
        while kept and kept[-1][1] == length and kept[-1][0] == low - size and not kept[-1][0] & size:
            low, _, before = kept.pop()
            length, size, at = length - 1, size << 1, min(at, before)  # it grows until it has no other half
        kept.append((low, length, at))
    return [low << 8 | length | family for low, length, _ in sorted(kept, key=lambda each: each[2])]


def is_fewest(codes: Sequence[int], bits: int) -> bool:
    """Whether none of these, in ascending order, holds another one, and no two are halves of one.

    One that holds any holds the one behind it, and between two halves stands nothing that they do not hold. So it is
    told by neighbours: the numbers of such a pair differ within the size of the first, or, of two halves, by just that.
    """
    sizes = [1 << bits - length + 8 for length in range(bits + 1)]
    return not any(one ^ other <= sizes[one & 255] for one, other in pairwise(codes))


def ends(code: int) -> tuple[int, int]:
    """The first address of a network, and the one behind its last."""
    first = (code & V6 - 1) >> 8
    return first, first + (1 << (128 if code >= V6 else 32) - (code & 255))


def outside(networks: Sequence[Network], others: Iterable[Network]) -> Sequence[Network]:
    """Those of the networks that the others, of the same family, do not hold whole."""
    ranges = sorted(ends(code_of(each)) for each in fewest(others)) if networks else []
    if not ranges:
        return networks
    family = V6 if networks and code_of(networks[0]) >= V6 else 0
    low, high = ranges[0][0] << 8 | family, ranges[-1][1] << 8 | family
    if isinstance(networks, Networks) and not any(low <= code < high for code in networks.codes):
        return networks
    from bisect import bisect_right  # few pods exclude networks that they do not capture anyway

    firsts = [first for first, _ in ranges]

    def is_held(code: int) -> bool:
        if not low <= code < high:  # as most of a list are not
            return False
        first, end = ends(code)
        at = bisect_right(firsts, first) - 1
        return at >= 0 and end <= ranges[at][1]

    if isinstance(networks, Networks):
        left = [code for code in networks.codes if not is_held(code)]
        return networks if len(left) == len(networks) else Networks(left)
    return [network for network in networks if not is_held(code_of(network))]
