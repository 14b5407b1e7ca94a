"""Addresses and networks of IPv4 and IPv6: as much of `ipaddress` as is used here, with its names.

Importing that one takes a pod a third of what Python itself takes to start, for it brings `functools`, `collections`
and `types`. Texts are those of RFC 5952; `tests/property/test_addresses.py` holds all of it against the library.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import ClassVar, Self

HEX = frozenset("0123456789abcdefABCDEF")
RUNS_OF_ZEROS = tuple(":0" * groups + ":" for groups in range(8, 1, -1))
"""Of which an address of IPv6 leaves out one (RFC 5952), the longest first."""


class _Address:
    """A number of 32 or 128 bits; made from it, from its bytes in network order, or from text.

    Raises ValueError for what is none.
    """

    __slots__ = ("_number",)
    version: ClassVar[int]
    max_prefixlen: ClassVar[int]
    _loopback: ClassVar[tuple[int, int]]
    _link_local: ClassVar[tuple[int, int]]
    _multicast: ClassVar[tuple[int, int]]
    """The bits of that network, and how many follow them."""

    def __init__(self, address: int | bytes | str) -> None:
        if isinstance(address, str):
            number = self._read(address)
        elif isinstance(address, int):
            number = address
            if not 0 <= number < 1 << self.max_prefixlen:
                raise ValueError(f"{number} is no address of IPv{self.version}")
        else:
            if len(address) * 8 != self.max_prefixlen:
                raise ValueError(f"{len(address)} bytes are no address of IPv{self.version}")
            number = int.from_bytes(address, "big")
        self._number = number

    @staticmethod
    def _read(text: str) -> int:
        raise NotImplementedError  # each family below reads its own

    def __int__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._number == other._number

    def __hash__(self) -> int:
        return hash((self.version, self._number))

    def __lt__(self, other: Self) -> bool:
        if type(self) is not type(other):
            raise TypeError(f"{self} and {other} are of two families")
        return self._number < other._number

    def __add__(self, more: int) -> Self:
        return type(self)(self._number + more)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self._number,)

    @property
    def packed(self) -> bytes:
        """In network order."""
        return self._number.to_bytes(self.max_prefixlen // 8, "big")

    @property
    def is_loopback(self) -> bool:
        bits, behind = self._loopback
        return self._number >> behind == bits

    @property
    def is_link_local(self) -> bool:
        bits, behind = self._link_local
        return self._number >> behind == bits

    @property
    def is_multicast(self) -> bool:
        bits, behind = self._multicast
        return self._number >> behind == bits

    @property
    def is_unspecified(self) -> bool:
        return self._number == 0


class IPv4Address(_Address):
    __slots__ = ()
    version = 4
    max_prefixlen = 32
    _loopback, _link_local, _multicast = (127, 24), (0xA9FE, 16), (0b1110, 28)

    def __str__(self) -> str:
        number = self._number
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    @staticmethod
    def _read(text: str) -> int:
        parts, number = text.split("."), 0
        for part in parts:
            # A leading zero is octal to some.
            if not (part.isascii() and part.isdigit()) or len(part) > 3 or (part[0] == "0" != part) or int(part) > 255:
                break
            number = number << 8 | int(part)
        else:
            if len(parts) == 4:
                return number
        raise ValueError(f"{text!r} is no address of IPv4")


class IPv6Address(_Address):
    """Without a zone: `%eth0` is none of the address."""

    __slots__ = ()
    version = 6
    max_prefixlen = 128
    _loopback, _link_local, _multicast = (1, 0), (0xFE80 >> 6, 118), (255, 120)

    @property
    def ipv4_mapped(self) -> IPv4Address | None:
        """The address of IPv4 that this stands for (`::ffff:0:0/96`), if it does."""
        return IPv4Address(self._number & 0xFFFFFFFF) if self._number >> 32 == 0xFFFF else None

    def __str__(self) -> str:
        # In four digits each; then without the zeros before them, but for the last.
        groups = f":{self.packed.hex(':', 2)}:".replace(":0", ":").replace(":0", ":").replace(":0", ":")
        # The longest run of zeros, the first of those, and no single one, is left out.
        for zeros in RUNS_OF_ZEROS if ":0:0:" in groups else ():
            before, found, behind = groups.partition(zeros)
            if found:
                return f"{before[1:]}::{behind[:-1]}"
        return groups[1:-1]

    @staticmethod
    def _read(text: str) -> int:
        whole = text
        head, dots, last = text.rpartition(":")
        try:
            if dots and "." in last:
                low = IPv4Address._read(last)  # the same module
                text = f"{head}:{low >> 16:x}:{low & 0xFFFF:x}"
            before, gap, behind = text.partition("::")
            left = before.split(":") if before else []
            right = behind.split(":") if behind else []
            missing = 8 - len(left) - len(right)
            if (missing < 1 if gap else missing != 0) or any(
                not 1 <= len(group) <= 4 or not HEX.issuperset(group) for group in (*left, *right)
            ):
                raise ValueError(whole)
        except ValueError:
            raise ValueError(f"{whole!r} is no address of IPv6") from None
        number = 0
        for group in (*left, *["0"] * missing, *right):
            number = number << 16 | int(group, 16)
        return number


class _Network:
    """A network by its first address and its length; made from text, or from those two.

    Raises ValueError for what is none, and, unless it need not be strict, for an address within it.
    """

    __slots__ = ("_first", "prefixlen")
    version: ClassVar[int]
    max_prefixlen: ClassVar[int]

    def __init__(self, network: str | tuple[int | bytes | str, int], strict: bool = True) -> None:
        address: int | bytes | str
        if isinstance(network, str):
            address, slash, length = network.partition("/")
            if slash and not (length.isascii() and length.isdigit() and len(length) <= 3):
                raise ValueError(f"{network!r} has no length of a network")
            prefix = int(length) if slash else self.max_prefixlen
        else:
            address, prefix = network
        if not 0 <= prefix <= self.max_prefixlen:
            raise ValueError(f"{network!r} has no length of a network")
        number = address if isinstance(address, int) else int(self._address(address))
        first = number >> self.max_prefixlen - prefix << self.max_prefixlen - prefix
        if number >> self.max_prefixlen or (first != number and strict):
            raise ValueError(f"{network!r} is no network: it has host bits set")
        self._first, self.prefixlen = first, prefix

    @classmethod
    def _address(cls, address: int | bytes | str) -> IPv4Address | IPv6Address:
        raise NotImplementedError  # each family below names its own

    @property
    def _end(self) -> int:
        """The number behind its last address."""
        return self._first + self.num_addresses

    @property
    def num_addresses(self) -> int:
        return 1 << self.max_prefixlen - self.prefixlen

    def __str__(self) -> str:
        return f"{self._address(self._first)}/{self.prefixlen}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[int, int]]]:
        return type(self), ((self._first, self.prefixlen),)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and (self._first, self.prefixlen) == (other._first, other.prefixlen)

    def __hash__(self) -> int:
        return hash((self.version, self._first, self.prefixlen))

    def __lt__(self, other: Self) -> bool:
        if type(self) is not type(other):
            raise TypeError(f"{self} and {other} are of two families")
        return (self._first, self.prefixlen) < (other._first, other.prefixlen)

    def __contains__(self, address: object) -> bool:
        is_of_family = isinstance(address, _Address) and address.version == self.version
        return is_of_family and self._first <= int(address) < self._end  # type: ignore[call-overload] # asked a line before

    def overlaps(self, other: Self) -> bool:
        return self.version == other.version and self._first < other._end and other._first < self._end

    def subnet_of(self, wider: Self) -> bool:
        return self.version == wider.version and wider._first <= self._first and self._end <= wider._end

    @property
    def is_loopback(self) -> bool:
        """Whether all of it is."""
        return self._address(self._first).is_loopback and self._address(self._end - 1).is_loopback


class IPv4Network(_Network):
    __slots__ = ()
    version = 4
    max_prefixlen = 32
    _address = IPv4Address

    @property
    def network_address(self) -> IPv4Address:
        """Its first."""
        return IPv4Address(self._first)

    @property
    def broadcast_address(self) -> IPv4Address:
        """Its last."""
        return IPv4Address(self._end - 1)

    def __getitem__(self, at: int) -> IPv4Address:
        return IPv4Address(range(self._first, self._end)[at])


class IPv6Network(_Network):
    __slots__ = ()
    version = 6
    max_prefixlen = 128
    _address = IPv6Address

    @property
    def network_address(self) -> IPv6Address:
        """Its first."""
        return IPv6Address(self._first)

    @property
    def broadcast_address(self) -> IPv6Address:
        """Its last."""
        return IPv6Address(self._end - 1)

    def __getitem__(self, at: int) -> IPv6Address:
        return IPv6Address(range(self._first, self._end)[at])


def ip_address(address: bytes | str) -> IPv4Address | IPv6Address:
    """The address of either family that this text, or these bytes, are. Raises ValueError."""
    is_v6 = ":" in address if isinstance(address, str) else len(address) == 16
    return IPv6Address(address) if is_v6 else IPv4Address(address)


def ip_network(
    network: str | tuple[bytes | str, int] | IPv4Address | IPv6Address, strict: bool = True
) -> IPv4Network | IPv6Network:
    """The network of either family; of an address, the one that holds it alone. Raises ValueError."""
    if isinstance(network, _Address):
        network = network.packed, network.max_prefixlen
    address = network if isinstance(network, str) else network[0]
    is_v6 = ":" in address if isinstance(address, str) else len(address) == 16
    return IPv6Network(network, strict) if is_v6 else IPv4Network(network, strict)


def summarize_address_range(
    low: IPv4Address | IPv6Address, high: IPv4Address | IPv6Address
) -> Iterator[IPv4Network | IPv6Network]:
    """As few networks as hold all from the one to the other, both of one family. Raises ValueError for the reverse."""
    first, last, bits = int(low), int(high), low.max_prefixlen
    if last < first:
        raise ValueError(f"{low} is behind {high}")
    make = IPv4Network if low.version == 4 else IPv6Network
    while first <= last:
        # As many as it can begin, and no more than are left.
        free = min(bits, (first & -first).bit_length() - 1) if first else bits
        free = min(free, (last - first + 1).bit_length() - 1)
        yield make((first, bits - free))
        first += 1 << free
