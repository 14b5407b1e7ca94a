"""From the text of a flag or variable to a checked value. Nothing else ever reaches a rule.

Each reader raises ValueError with a sentence that says what is wrong and what would be right.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from capture.text import quoted
from rules.addresses import IPv4Address, IPv6Address
from rules.lists.networks import MANY, V6, Networks, network_of
from rules.netfilter.values import ALL, All, Ports
from rules.plan.intent import PortsOfUsers, UdpPolicy, Uids
from rules.plan.names import MOST_OWNER_GROUPS
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    from rules.netfilter.values import Network

    T = TypeVar("T")
    Reader = Callable[[str], T]

LONGEST_INTERFACE = 15
"""IFNAMSIZ of linux/if.h, less the terminating zero."""
INTERFACE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@=~#%")
"""What may stand in an interface name here. The kernel allows more; none of that is in use, and some of it would
have another meaning in the text that iptables-restore reads."""
HIGHEST_ID = 2**32 - 2
"""Uids and gids are 32 bits wide, and all ones means "no such id" (chown(2))."""
HIGHEST_U32 = 2**32 - 1
KERNEL_TABLES = {253: "default", 254: "main", 255: "local"}
"""Routing tables that the kernel uses itself (ip-route(8))."""


class Name(Value):
    """A user or group by name, still to be looked up on this host."""

    name: str

    def __str__(self) -> str:
        return self.name


# --- numbers ----------------------------------------------------------------------------------------------


def is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def port(text: str) -> int:
    """A TCP port, 1 to 65535."""
    if not is_decimal(text) or not 1 <= int(text) <= 65535:
        raise ValueError("is not a port; give a number from 1 to 65535")
    return int(text)


def mark(text: str) -> int:
    """A fwmark, 1 to 2^32-1, decimal or with the prefix 0x, 0o, 0b, or 0 for octal as in Go."""
    number = go_number(text)
    if number is None or not 1 <= number <= HIGHEST_U32:
        raise ValueError("is not a fwmark; give a number from 1 to 4294967295, decimal or 0x…")
    return number


def routing_table(text: str) -> int:
    """A routing table that the kernel does not use itself, in the same notations as a mark."""
    number = go_number(text)
    if number is None or not 1 <= number <= HIGHEST_U32:
        raise ValueError("is not a routing table; give a number from 1 to 4294967295, for example 133")
    if number in KERNEL_TABLES:
        raise ValueError(f"is the kernel's own table `{KERNEL_TABLES[number]}`; give another, for example 133")
    return number


def go_number(text: str) -> int | None:
    """What Go's strconv reads with base 0: it takes a leading 0 for octal, and underscores between digits."""
    if not (text.isascii() and text[:1].isdigit() and text.replace("_", "").isalnum()):
        return None
    octal = len(text) > 1 and text[0] == "0" and (text[1].isdigit() or text[1] == "_")
    try:
        return int(text, 8 if octal else 0)
    except ValueError:
        return None


DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

LONGEST_DURATION = 2**63 / 1e9
"""Seconds that Go's time.Duration can hold."""


def duration(text: str) -> float:
    """A Go duration greater than zero (`500ms`, `1m30s`), in seconds."""
    seconds, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = digits
        while unit < len(rest) and not (rest[unit].isdigit() or rest[unit] == "."):
            unit += 1
        try:
            seconds += float(rest[:digits]) * DURATION_UNITS[rest[digits:unit]]
        except (ValueError, KeyError):
            seconds = 0.0
            break
        rest = rest[unit:]
    if not 0.0 < seconds <= LONGEST_DURATION:
        raise ValueError("is not a duration; give for example 500ms, 5s or 1m30s, more than zero")
    return seconds


GO_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


def boolean(text: str) -> bool:
    """What Go's strconv.ParseBool reads."""
    try:
        return GO_BOOLEANS[text]
    except KeyError:
        raise ValueError("is neither true nor false; give true, false, 1 or 0") from None


# --- words ------------------------------------------------------------------------------------------------


def text(text: str) -> str:
    """Any text."""
    return text


def one_of(*words: str, empty: str | None = None) -> Reader[str]:
    """One of these words, as it stands; `empty` is what no text at all means, if that means anything."""

    def read(text: str) -> str:
        if text == "" and empty is not None:
            return empty
        if text in words:
            return text
        raise ValueError(f"is not one of {', '.join(words)}")

    read.words = words  # type: ignore[attr-defined] # asked for by `words_of`
    return read


def words_of(reader: Reader[Any]) -> tuple[str, ...]:
    """The words that a reader takes, where it takes no others."""
    if reader is boolean:
        return ("true", "false")
    if reader is log_level:
        return LOG_LEVELS
    return getattr(reader, "words", ())


LOG_LEVELS = ("debug", "info", "warn", "error", "fatal", "none")


def log_level(text: str) -> str:
    """`LEVEL` or `SCOPE:LEVEL,…`; we have one scope, so the one for `default` or `all` counts, else the first."""
    levels: dict[str, str] = {}
    for entry in text.split(","):
        scope, colon, level = entry.rpartition(":")
        if level not in LOG_LEVELS:
            raise ValueError(f"names no level; give one of {', '.join(LOG_LEVELS)}, alone or as default:LEVEL")
        levels.setdefault(scope if colon else "default", level)
    return levels.get("default") or levels.get("all") or "info"


def interface(text: str) -> str:
    """An interface name, or a prefix with `+` behind it. Up to 15 characters."""
    stem = text[:-1] if text.endswith("+") else text
    if not stem or stem in (".", ".."):
        raise ValueError("is not an interface; give a name such as eth0, or a prefix such as br-+")
    if len(text) > LONGEST_INTERFACE:
        raise ValueError(f"is no interface name: it has {len(text)} characters, and the kernel's limit is 15")
    if not INTERFACE_CHARACTERS.issuperset(stem) or stem.startswith("-"):
        raise ValueError("is no interface name; give letters, digits and ._-@=~#% only, not beginning with -")
    return text


def cidr(text: str) -> Network:
    """A network of either family; a bare address is itself alone; host bits are cleared (see `host_bits`)."""
    return network_of(coded(text))


def coded(text: str) -> int:
    """The same as its number in `Networks`."""
    address, slash, length = text.partition("/")
    kind, bits, family = (AF_INET6, 128, V6) if ":" in address else (AF_INET, 32, 0)
    if slash and not is_decimal(length):
        raise ValueError(NO_CIDR)
    left = bits - (int(length) if slash else bits)
    try:
        number = int.from_bytes(inet_pton(kind, address), "big")
        return (number >> left << left + 8) + bits - left | family
    except (OSError, ValueError):
        raise ValueError(NO_CIDR) from None


def host_bits(text: str, networks: object) -> Iterator[str]:
    """A sentence for each network in the text of these whose host bits were cleared."""
    if isinstance(networks, Networks) and not networks.had_host_bits:
        return
    for entry in entries(text):
        if entry != "*" and "/" in entry and has_host_bits(entry):
            yield f"{entry} has host bits, which mean nothing to a rule: taken as {cidr(entry)}"


def has_host_bits(entry: str) -> bool:
    """Whether an address behind which a length stands is not the first of its network."""
    written, _, length = entry.partition("/")
    kind, bits = (AF_INET6, 128) if ":" in written else (AF_INET, 32)
    return bool(int.from_bytes(inet_pton(kind, written), "big") & (1 << bits - int(length)) - 1)


NO_CIDR = "is no network of IPv4 or IPv6; give for example 10.0.0.0/8, 2001:db8::/32, or one address"


def ipv4_loopback(text: str) -> Network:
    """An IPv4 network inside 127.0.0.0/8."""
    if text and ":" not in text:
        network = cidr(text)
        if network.prefixlen >= 8 and network.network_address.is_loopback:
            return network
    raise ValueError("is no IPv4 loopback network; give one from 127.0.0.0/8 to 127.255.255.255/32")


def owner(text: str) -> int | Name:
    """A uid or gid by number, 0 to 2^32-2, or a name for this host to look up."""
    if is_decimal(text):
        if int(text) > HIGHEST_ID:
            raise ValueError(f"is too large for an id; the highest is {HIGHEST_ID}")
        return int(text)
    if text[:1].isalpha() or text[:1] == "_":
        return Name(text)
    raise ValueError(f"is no id; give a number from 0 to {HIGHEST_ID}, or a name")


def uid_range(text: str) -> Uids:
    """A uid, or a range of them such as 1000-2000."""
    first, dash, last = text.replace(":", "-", 1).partition("-")
    if is_decimal(first) and (is_decimal(last) or not dash):
        low, high = int(first), int(last or first)
        if low <= high <= HIGHEST_ID:
            return Uids(low, high)
    raise ValueError(f"is no uid; give a number from 0 to {HIGHEST_ID}, or a range such as 1000-2000")


def address(text: str) -> IPv4Address | IPv6Address:
    """An address of either family."""
    try:
        return IPv6Address(text) if ":" in text and "%" not in text else IPv4Address(text)
    except ValueError:
        raise ValueError("is no address of IPv4 or IPv6") from None


PROTOCOLS = ("tcp", "udp")


def port_of_users(text: str) -> PortsOfUsers:
    """`tcp:80,443:1000-2000`; without a protocol both, with `*` or without ports all of them."""
    protocol, _, rest = text.partition(":")
    protocols, parts = ((protocol,), rest.split(":")) if protocol in PROTOCOLS else (PROTOCOLS, text.split(":"))
    if not 1 <= len(parts) <= 2 or not parts[-1]:
        raise ValueError("is not [PROTOCOL:]PORTS:UIDS; give for example tcp:80,443:1000-2000")
    named = "" if len(parts) == 1 or parts[0] == "*" else parts[0]
    users = uid_ranges(parts[-1])
    if not users:
        raise ValueError("names no user; give for example tcp:80,443:1000-2000")
    return PortsOfUsers(protocols, ports(named), users)


def ports_of_users(text: str) -> tuple[PortsOfUsers, ...]:
    """Several of them, separated by semicolons."""
    parts = [part.strip(" ") for part in text.split(";")]
    return tuple(each(port_of_users, part, text) for part in parts if part)


POLICIES = ("leave", "reject", "drop")


def udp_policy(text: str) -> UdpPolicy:
    """`443=reject`."""
    named, _, policy = text.partition("=")
    if policy not in POLICIES:
        raise ValueError("is not PORT=POLICY; give for example 443=reject, with leave, reject or drop")
    return UdpPolicy(each(port_range, named, text), policy)


def whole_seconds(text: str) -> float:
    """A duration of at least a second."""
    seconds = duration(text)
    if seconds < 1:
        raise ValueError("is less than a second, the kernel's unit for it")
    return seconds


def rate(text: str) -> int:
    """A number a second, 1 to 100. The limit match could do others, but would not spell them as it was told to."""
    if not is_decimal(text) or not 1 <= int(text) <= 100:
        raise ValueError("is no rate; give a number of connections a second, from 1 to 100")
    return int(text)


def nflog_group(text: str) -> int:
    """An nfnetlink_log group, 1 to 65535."""
    if not is_decimal(text) or not 1 <= int(text) <= 65535:
        raise ValueError("is no nflog group; give a number from 1 to 65535")
    return int(text)


def port_range(text: str) -> Ports:
    """`80`, `8000-8080` or `8000:8080`."""
    first, colon, last = text.replace("-", ":", 1).partition(":")
    if is_decimal(first) and (is_decimal(last) or not colon):
        low, high = int(first), int(last or first)
        if 1 <= low <= 65535 and 1 <= high <= 65535:
            if low > high:
                raise ValueError(f"is a range that runs backwards; give {high}-{low}")
            return Ports(low, high)
    raise ValueError("is not a port; give numbers from 1 to 65535, or ranges such as 8000-8080")


# --- lists ------------------------------------------------------------------------------------------------


def listed(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """A comma-separated list; empty entries are dropped, and spaces around an entry."""

    def read_list(text: str) -> tuple[T, ...]:
        return tuple(each(read, entry, text) for entry in entries(text))

    return read_list


def all_or(read_list: Reader[Sequence[T]]) -> Reader[All | Sequence[T]]:
    """`*` alone for everything, or a list."""

    def read_all_or_list(text: str) -> All | Sequence[T]:
        return ALL if text.strip(" ") == "*" else read_list(text)

    return read_all_or_list


def cidrs(text: str) -> Sequence[Network]:
    """A list of networks, in `Networks` if it is long."""
    if text.count(",") < MANY - 1:
        return tuple(each(cidr, entry, text) for entry in entries(text))
    from capture.lists.networks import networks  # of a list that is not long a tuple is made

    try:
        return networks(text)
    except (OSError, ValueError):
        return Networks((each(coded, entry, text) for entry in entries(text)), had_host_bits=True)


def entries(text: str) -> list[str]:
    return [entry for entry in (part.strip(" ") for part in text.split(",")) if entry]


def each(read: Reader[T], entry: str, whole: str) -> T:
    """One entry, so that a refusal quotes it out of a longer list."""
    try:
        if entry == "*":
            raise ValueError("means everything, which stands alone, and not where something is excluded or named")
        return read(entry)
    except ValueError as refused:
        if entry == whole:
            raise
        raise ValueError(f"{quoted(entry)} {refused}") from None


ports = listed(port_range)
all_or_ports = all_or(ports)
all_or_cidrs = all_or(cidrs)
interfaces = listed(interface)
owners = listed(owner)
uid_ranges = listed(uid_range)
udp_policies = listed(udp_policy)


def addresses(text: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """At most one address of each family."""
    found = listed(address)(text)
    if len({entry.version for entry in found}) < len(found):
        raise ValueError("has two addresses of one family; give at most one of each")
    return found


def owner_groups(text: str) -> All | Sequence[int | Name]:
    """`*`, or the gids whose outbound traffic is captured."""
    groups = all_or(owners)(text)
    if not isinstance(groups, All) and len(groups) > MOST_OWNER_GROUPS:
        raise ValueError(f"has {len(groups)} groups; at most {MOST_OWNER_GROUPS} can be included")
    return groups


SEPARATORS: dict[Reader[Any], str] = dict.fromkeys(
    (ports, all_or_ports, cidrs, all_or_cidrs, interfaces, owners, uid_ranges, udp_policies, addresses, owner_groups),
    ",",
) | {ports_of_users: ";"}
"""What stands between the entries of a list, by its reader. Those that are not here read no list."""
