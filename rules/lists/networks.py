"""Lists of networks as numbers, and as few as they can be: the kernel pays for every rule with every new connection.

A network that another one holds, or that was decided before, has no rule of its own; those that adjoin become one. What
is left keeps the order in which it was given.
"""

from __future__ import annotations

from _collections_abc import Sequence  # what `collections.abc` wraps, and loaded already

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
V6 = 1 << 136
"""What a network of IPv6 has in its number besides its first address, shifted by 8 bits, and its length."""
WIDTH = 18
"""Bytes of such a number."""


class Networks(Sequence[Network]):
    """Many networks as numbers: as objects they take ten times the memory, and as much longer to make.

    Equal to a tuple of the same networks.
    """

    __slots__ = ("packed",)

    def __init__(self, codes: Iterable[int]) -> None:
        packed = bytearray()
        for code in codes:
            packed += code.to_bytes(WIDTH, "big")
        self.packed = bytes(packed)

    def codes(self) -> Iterator[int]:
        """The numbers: see `code_of`."""
        packed = self.packed
        return (int.from_bytes(packed[at : at + WIDTH], "big") for at in range(0, len(packed), WIDTH))

    def __len__(self) -> int:
        return len(self.packed) // WIDTH

    def __iter__(self) -> Iterator[Network]:
        return map(network_of, self.codes())

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return tuple(self)[at]
        place = WIDTH * range(len(self))[at]
        return network_of(int.from_bytes(self.packed[place : place + WIDTH], "big"))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Networks):
            return self.packed == other.packed
        return isinstance(other, tuple) and len(self) == len(other) and tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def of(self, version: int) -> Networks:
        """Those of one family, each once."""
        packed, is_v6 = self.packed, version == 6
        apart = {packed[at : at + WIDTH] for at in range(0, len(packed), WIDTH)}
        if len(apart) == len(self) and {*packed[::WIDTH]} == {is_v6}:  # the first byte of each tells its family
            return self
        return Networks(code for code in dict.fromkeys(self.codes()) if (code >= V6) is is_v6)

    def texts(self) -> Iterator[str]:
        return map(text_of, self.codes())


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
    codes = list(given.codes() if isinstance(given, Networks) else map(code_of, given))
    kept = merged(codes)
    if len(kept) == len(codes):
        return given
    return Networks(kept) if isinstance(given, Networks) else list(map(network_of, kept))


def merged(codes: Sequence[int]) -> list[int]:
    """The same for networks as numbers."""
    family = codes[0] & V6
    bits = 128 if family else 32
    # In ascending order a network comes behind the one that holds it, and behind the other half of one twice its size.
    if is_fewest(sorted(codes), family, bits):
        return list(codes)
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


def is_fewest(codes: Iterable[int], family: int, bits: int) -> bool:
    """Whether none of these, in ascending order, holds another one, and no two are halves of one."""
    end = last = -1
    for code in codes:
        low, size = (code ^ family) >> 8, 1 << bits - (code & 255)
        if low < end or (low == end and size == last and low & size):
            return False
        end, last = low + size, size
    return True


def ends(code: int) -> tuple[int, int]:
    """The first address of a network, and the one behind its last."""
    first = (code & V6 - 1) >> 8
    return first, first + (1 << (128 if code >= V6 else 32) - (code & 255))


def outside(networks: Sequence[Network], others: Iterable[Network]) -> Sequence[Network]:
    """Those of the networks that the others, of the same family, do not hold whole."""
    ranges = sorted(ends(code_of(each)) for each in fewest(others)) if networks else []
    if not ranges:
        return networks
    from bisect import bisect_right  # few pods exclude networks that they do not capture anyway

    firsts = [first for first, _ in ranges]
    family = V6 if networks and code_of(networks[0]) >= V6 else 0
    low, high = ranges[0][0] << 8 | family, ranges[-1][1] << 8 | family

    def is_held(code: int) -> bool:
        if not low <= code < high:  # as most of a list are not
            return False
        first, end = ends(code)
        at = bisect_right(firsts, first) - 1
        return at >= 0 and end <= ranges[at][1]

    if isinstance(networks, Networks):
        left = [code for code in networks.codes() if not is_held(code)]
        return networks if len(left) == len(networks) else Networks(left)
    return [network for network in networks if not is_held(code_of(network))]
