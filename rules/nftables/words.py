"""Parts of a native rule as nft(8) writes them."""

from __future__ import annotations

from rules.addresses import IPv4Address, IPv6Address, ip_address, summarize_address_range
from rules.netfilter.effects import Bind
from rules.netfilter.fields import DESTINATION, SOURCE
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.effects import Effect
    from rules.nftables.registers import Loaded


def is_next(first: bytes, beyond: bytes | None) -> bool:
    """Whether an interval holds one value alone."""
    return beyond is not None and int.from_bytes(beyond, "big") == int.from_bytes(first, "big") + 1


def address_words(data: bytes, family: Family) -> str:
    size = 4 if family is Family.V4 else 16
    if len(data) > size:
        return str(ip_address(data[:size]))
    address = str(ip_address(data.ljust(size, b"\0")))
    return address if len(data) == size else f"{address}/{len(data) * 8}"


def interval_words(loaded: Loaded, first: bytes, beyond: bytes) -> str:
    """An interval of a set, as nft writes it."""
    low, high = int.from_bytes(first, "big"), int.from_bytes(beyond, "big") - 1
    if loaded.field not in (SOURCE, DESTINATION):
        return str(low) if low == high else f"{low}-{high}"
    make = IPv4Address if len(first) == 4 else IPv6Address
    networks = list(summarize_address_range(make(low), make(max(low, high))))
    if len(networks) > 1:
        return f"{make(low)}-{make(high)}"
    return str(networks[0]).removesuffix("/32").removesuffix("/128")


def end_words(effect: Effect | None, family: Family) -> str:
    if not isinstance(effect, Bind):
        return "one of several" if effect else "something unknown"
    addresses, ports = effect.ends[0]
    size = 4 if family is Family.V4 else 16
    words = ""
    if addresses:
        words = str(ip_address(addresses[0].to_bytes(size, "big")))
        if addresses[1] - addresses[0] > 1:
            words += f"-{ip_address((addresses[1] - 1).to_bytes(size, 'big'))}"
        words = f"[{words}]" if size == 16 and ports else words
    if ports:
        words += f":{ports[0]}" + (f"-{ports[1] - 1}" if ports[1] - ports[0] > 1 else "")
    return words
