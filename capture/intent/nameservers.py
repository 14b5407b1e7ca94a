"""The nameservers that a resolv.conf names, as glibc reads them."""

from __future__ import annotations

from capture.settings.parsers import cidr
from rules.addresses import IPv4Address, IPv6Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.values import Network

NAMESERVER = "nameserver"


def nameservers_in(text: str) -> tuple[tuple[Network, ...], tuple[str, ...]]:
    """The nameservers of a resolv.conf(5), each once, IPv4 first, and the nameserver lines that name no address.

    Lines and words end where they do for glibc (`res_vinit_1`).
    """
    found: dict[Network, None] = {}
    unreadable = []
    for line in text.split("\n"):
        name, rest = line[: len(NAMESERVER)], line[len(NAMESERVER) :]
        if name == NAMESERVER and rest[:1] in (" ", "\t"):
            word = rest.lstrip(" \t")
            for end in ";# \t":
                word = word.partition(end)[0]
            try:
                found[cidr(str(nameserver(word)))] = None
            except ValueError:
                unreadable.append(line)
    return tuple(sorted(found, key=lambda network: network.version)), tuple(unreadable)


def nameserver(text: str) -> IPv4Address | IPv6Address:
    """The address that is asked where a resolv.conf names this one, as glibc reads it (`res_vinit_1` in res_init.c).

    `10.1` is 10.0.0.1, a part that begins with 0 is octal. A scope (`fe80::1%eth0`) is not part of it. What is no
    address of a host is where the kernel sends it: 0.0.0.0 to this one, ::ffff:10.0.0.10 to 10.0.0.10.
    """
    if ":" in text:
        written = IPv6Address(text.partition("%")[0])
        asked = written if written.ipv4_mapped is None else written.ipv4_mapped
    else:
        asked = inet_aton(text)
    if asked.is_unspecified:
        return IPv6Address("::1") if asked.version == 6 else IPv4Address("127.0.0.1")
    return asked


def inet_aton(text: str) -> IPv4Address:
    """What inet_aton(3) reads: up to four numbers, the last of which fills what is left. Raises ValueError."""
    parts = text.split(".")
    numbers = [c_number(part) for part in parts]
    most = 256 ** (5 - len(parts)) if len(parts) <= 4 else 0
    if any(number > 255 for number in numbers[:-1]) or numbers[-1] >= most:
        raise ValueError("is no address")
    value = numbers[-1]
    for place, number in enumerate(numbers[:-1]):
        value += number << 24 - 8 * place
    return IPv4Address(value)


def c_number(text: str) -> int:
    """What strtoul(3) reads with base 0, all of it: decimal, 0x… or octal behind a 0. Raises ValueError."""
    if not (text.isascii() and text.isalnum() and text[0].isdigit()):
        raise ValueError("is no number")
    if text[:2].lower() == "0x":
        return int(text[2:], 16)
    return int(text, 8 if text[0] == "0" else 10)
