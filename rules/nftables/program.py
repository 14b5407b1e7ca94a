"""From the messages in which the kernel tells of nf_tables to tables, chains and rules (linux/netfilter/nf_tables.h).

A native rule is a little program: it loads fields of the packet into registers, compares them, and acts. Read are those
steps that can be told; of any other, what hangs on it cannot be told, and is never guessed.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, summarize_address_range

from rules.meaning.foreign import GOES_ON, WHOLE
from rules.netfilter.effects import (
    Bind,
    BindSource,
    Choice,
    Forget,
    Goto,
    Hand,
    Nothing,
    NoTrack,
    Queue,
    Remark,
    Then,
    Unknown,
)
from rules.netfilter.fields import (
    ARRIVED_ON,
    BOTH,
    CONNMARK,
    DESTINATION,
    DNAT,
    DPORT,
    GID,
    LAST,
    LEAVES_ON,
    MARK,
    NEVER,
    PROTOCOL,
    PROTOCOLS,
    REWRITTEN,
    SNAT,
    SOURCE,
    SPORT,
    STATE,
    STATES,
    TCP_FLAGS,
    UID,
    Among,
    AnyOf,
    OfType,
    Untold,
    domain,
    masked,
    opposite,
    width,
)
from rules.netfilter.hooks import HOOKS, IP_FAMILIES, MISNAMED, BaseChain, NativeTable, is_of_iptables
from rules.netfilter.matches import Native
from rules.netfilter.rulesets import Rule
from rules.netfilter.spans import common, joined, one
from rules.netfilter.targets import Accept, Drop, ForeignTarget, Jump, NativeTarget, Reject, Return, Zone
from rules.netfilter.values import Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Literal, TypeAlias

    from rules.netfilter.effects import Effect
    from rules.netfilter.fields import Condition
    from rules.netfilter.spans import Span
    from rules.netfilter.targets import Target

    Order: TypeAlias = Literal["little", "big"]
    Part: TypeAlias = tuple[Condition, ...] | Effect
    Expression: TypeAlias = tuple[str, dict[int, bytes]]

FAMILY_NAMES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""NFPROTO_* of linux/netfilter.h."""
DORMANT = 1
NETMAP = 1 << 6
"""NF_NAT_RANGE_NETMAP of linux/netfilter/nf_nat.h."""
INTERVAL, IS_MAP = 4, 8
"""NFT_SET_INTERVAL and NFT_SET_MAP."""
INTERVAL_END, CATCH_ALL = 1, 2
NET_HEADER, TRANSPORT_HEADER = 1, 2
NF_DROP, NF_ACCEPT, NF_QUEUE = 0, 1, 3
NFT_CONTINUE, NFT_JUMP, NFT_GOTO, NFT_RETURN = -1, -3, -4, -5
EQ, NEQ, LT, LTE, GT, GTE = range(6)
META_PROTOCOL, META_MARK, META_IIF, META_OIF, META_IIFNAME, META_OIFNAME = 1, 3, 4, 5, 6, 7
META_SKUID, META_SKGID, META_NFPROTO, META_L4PROTO = 10, 11, 15, 16
CT_STATE, CT_STATUS, CT_MARK, CT_ZONE = 0, 2, 3, 17
RTN = {1: "UNICAST", 2: "LOCAL", 3: "BROADCAST", 5: "MULTICAST"}
"""linux/rtnetlink.h: the types of addresses that can be told."""
FIB_SADDR, FIB_DADDR, FIB_ADDRTYPE = 1, 2, 3
STATE_BITS = {"INVALID": 0x01, "ESTABLISHED": 0x02, "RELATED": 0x04, "NEW": 0x08, "UNTRACKED": 0x40}
"""NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h."""
STATUS_SNAT, STATUS_DNAT = 0x10, 0x20
"""IPS_SRC_NAT and IPS_DST_NAT."""
ADDRESSES_IN = {
    Family.V4: ((PROTOCOL, NET_HEADER, 9, 1), (SOURCE, NET_HEADER, 12, 4), (DESTINATION, NET_HEADER, 16, 4)),
    Family.V6: ((PROTOCOL, NET_HEADER, 6, 1), (SOURCE, NET_HEADER, 8, 16), (DESTINATION, NET_HEADER, 24, 16)),
}
PORTS_AND_FLAGS = (
    (SPORT, TRANSPORT_HEADER, 0, 2),
    (DPORT, TRANSPORT_HEADER, 2, 2),
    (TCP_FLAGS, TRANSPORT_HEADER, 13, 1),
)
"""Where in its header a field stands: base, offset and length in bytes."""
MOST_SHOWN = 6
"""Elements of a set that a rule's text names."""


class Dump(Value):
    """The messages of the kernel about tables, chains, rules, sets and their elements, without netlink headers."""

    tables: tuple[bytes, ...] = ()
    chains: tuple[bytes, ...] = ()
    rules: tuple[bytes, ...] = ()
    sets: tuple[bytes, ...] = ()
    elements: tuple[bytes, ...] = ()
    interfaces: tuple[tuple[int, str], ...] = ()
    """The names of interfaces by index, by which `meta iif` asks."""
    order: Order = "little"
    """This machine's byte order."""


def attributes(raw: bytes, order: Order = "little") -> Iterator[tuple[int, bytes]]:
    """The attributes of a message, in order; a list has several of one type."""
    at = 0
    while at + 4 <= len(raw):
        length = int.from_bytes(raw[at : at + 2], order)
        if length < 4:
            return
        yield int.from_bytes(raw[at + 2 : at + 4], order) & 0x3FFF, raw[at + 4 : at + length]
        at += length + 3 & ~3


def family_of(message: bytes) -> str:
    """The family of nf_tables that a message is about; empty for one that nobody knows."""
    return FAMILY_NAMES.get(number(message[:1]), "")


def number(raw: bytes | None) -> int:
    """An attribute of nf_tables, which are all big-endian; 0 if it is not there."""
    return int.from_bytes(raw or b"", "big")


def signed(raw: bytes | None) -> int:
    return int.from_bytes(raw or b"", "big", signed=True)


def text(raw: bytes | None) -> str:
    return (raw or b"").partition(b"\0")[0].decode("utf-8", "surrogateescape")


# --- tables and base chains -------------------------------------------------------------------------------


def base_chains(messages: Iterable[bytes], order: Order = "little") -> Iterator[BaseChain]:
    """The chains among these that a hook asks."""
    for message in messages:
        family = family_of(message)
        read = dict(attributes(message[4:], order))
        hook = dict(attributes(read.get(4, b""), order))
        if 1 not in hook:
            continue
        at = number(hook[1])
        if family in ("netdev",) or (family == "inet" and at == len(HOOKS)):
            names = ("INGRESS", "EGRESS")
            name = names[at % len(HOOKS)] if at % len(HOOKS) < len(names) else f"hook {at}"
        else:
            name = HOOKS[at] if at < len(HOOKS) else f"hook {at}"
        yield BaseChain(
            family,
            text(read.get(1)),
            text(read.get(3)),
            text(read.get(7)),
            name,
            signed(hook.get(2)),
            number(read.get(5)) == NF_DROP and 5 in read,
            number(read.get(2)),
            text(hook.get(3)),
        )


def dormant_tables(messages: Iterable[bytes], order: Order = "little") -> frozenset[tuple[str, str]]:
    """The tables, by family and name, none of whose chains is asked."""
    found = []
    for message in messages:
        read = dict(attributes(message[4:], order))
        if number(read.get(2)) & DORMANT:
            found.append((family_of(message), text(read.get(1))))
    return frozenset(found)


def native_tables(dump: Dump, family: Family) -> tuple[NativeTable, ...]:
    """The tables that packets of this family can meet, with the base chains and rules that are not iptables' own."""
    asleep = dormant_tables(dump.tables, dump.order)
    reader = Reader(dump, family)
    chains: dict[tuple[str, str], dict[str, list[tuple[Expression, ...]]]] = {}
    for name, table, *_ in names_of(dump.tables, dump.order, 1):
        if family in IP_FAMILIES.get(name, ()):
            chains[name, table] = {}
    for name, table, chain in names_of(dump.chains, dump.order, 1, 3):
        if (name, table) in chains:
            chains[name, table][chain] = []
    for message in dump.rules:
        read = dict(attributes(message[4:], dump.order))
        place = (family_of(message), text(read.get(1)))
        if place in chains:
            of_chain = chains[place].setdefault(text(read.get(2)), [])
            of_chain.append(expressions(read.get(4, b""), dump.order))
    bases = [chain for chain in base_chains(dump.chains, dump.order) if not is_of_iptables(chain)]
    for misnamed in (chain for chain in bases if chain.is_misnamed):
        there = chains.get((misnamed.family, misnamed.table), {})
        there[misnamed.name + MISNAMED] = there.pop(misnamed.name, [])
    bases = [chain.but(name=chain.name + MISNAMED) if chain.is_misnamed else chain for chain in bases]
    found = []
    for place, held in chains.items():
        of_table = tuple(chain for chain in bases if (chain.family, chain.table) == place)
        native = NativeTable(*place, place in asleep, of_table, ())
        spoken = {
            (chain, at)
            for chain, steps in held.items()
            for at, each in enumerate(steps)
            if native.is_of_iptables and is_spoken_by_iptables(each)
        }
        read_chains = tuple(
            (chain, tuple(reader.rule(*place, each) for each in steps))
            for chain, steps in held.items()
            if not native.is_of_iptables or any((chain, at) not in spoken for at in range(len(steps)))
        )
        native = native.but(chains=read_chains, spoken=frozenset(spoken))
        if not native.is_of_iptables or native.is_dormant or native.base_chains or native.chains:
            found.append(native)
    return tuple(found)


def names_of(messages: Iterable[bytes], order: Order, *attribute: int) -> Iterator[tuple[str, ...]]:
    """The family and these names of each message."""
    for message in messages:
        read = dict(attributes(message[4:], order))
        yield (family_of(message), *(text(read.get(each)) for each in attribute))


def expressions(raw: bytes, order: Order) -> tuple[Expression, ...]:
    """The steps of a rule: each with its name and its attributes."""
    found = []
    for _, element in attributes(raw, order):
        read = dict(attributes(element, order))
        found.append((text(read.get(1)), dict(attributes(read.get(2, b""), order))))
    return tuple(found)


IPTABLES_META = frozenset({META_IIFNAME, META_OIFNAME, META_L4PROTO, META_IIF, META_OIF, META_MARK})


def is_spoken_by_iptables(steps: Sequence[Expression]) -> bool:
    """Whether iptables-nft writes such rules. Of others, what iptables-save prints may leave out what they ask for."""
    base = 0
    for name, read in steps:
        match name:
            case "match" | "target" | "counter" | "limit" | "log" | "bitwise":
                pass
            case "cmp" if number(read.get(2)) in (EQ, NEQ) or base != NET_HEADER:
                pass
            case "range" if base != NET_HEADER:
                pass
            case "immediate" if number(read.get(1)) == 0:
                pass
            case "meta" if 3 not in read and number(read.get(2)) in IPTABLES_META:
                base = 0
            case "payload" if 5 not in read:
                base = number(read.get(2))
                if base == TRANSPORT_HEADER and number(read.get(3)) not in IPTABLES_TRANSPORT:
                    return False
            case _:
                return False
    return True


IPTABLES_TRANSPORT = frozenset({0, 1, 2, 13})
"""Where in a transport header iptables' matches look: ports, the type and code of ICMP, flags of TCP."""


# --- sets -------------------------------------------------------------------------------------------------


class Elements(Value):
    """What a set or map holds: each key as bytes, with the first one behind its interval, and what it maps to."""

    is_interval: bool
    elements: tuple[tuple[bytes, bytes | None, dict[int, bytes] | None], ...]


def elements_by_set(dump: Dump) -> dict[tuple[int, str, str], Elements]:
    flags: dict[tuple[int, str, str], int] = {}
    for message in dump.sets:
        read = dict(attributes(message[4:], dump.order))
        flags[number(message[:1]), text(read.get(1)), text(read.get(2))] = number(read.get(3))
    raw: dict[tuple[int, str, str], list[dict[int, bytes]]] = {place: [] for place in flags}
    for message in dump.elements:
        read = dict(attributes(message[4:], dump.order))
        place = (number(message[:1]), text(read.get(1)), text(read.get(2)))
        for _, element in attributes(read.get(3, b""), dump.order):
            raw.setdefault(place, []).append(dict(attributes(element, dump.order)))
    return {place: elements_of(those, flags.get(place, 0), dump.order) for place, those in raw.items()}


def elements_of(raw: Sequence[dict[int, bytes]], flags: int, order: Order) -> Elements:
    def value(part: bytes | None) -> bytes:
        return dict(attributes(part or b"", order)).get(1, b"")

    found: list[tuple[bytes, bytes | None, dict[int, bytes] | None]] = []
    if not flags & INTERVAL or any(10 in each for each in raw):
        for each in raw:
            data = dict(attributes(each[2], order)) if 2 in each else None
            if number(each.get(3)) & CATCH_ALL:
                found.append((b"", b"", data))
            else:
                last = value(each.get(10)) if 10 in each else None
                found.append((value(each.get(1)), last, data))
        return Elements(bool(flags & INTERVAL), tuple(found))
    ends = sorted(
        ((value(each.get(1)), number(each.get(3)) & INTERVAL_END, each) for each in raw if 1 in each),
        key=lambda end: (end[0], not end[1]),
    )
    for at, (key, is_end, each) in enumerate(ends):
        if not is_end:
            beyond = ends[at + 1][0] if at + 1 < len(ends) else None
            found.append((key, beyond, dict(attributes(each[2], order)) if 2 in each else None))
    catch_all = [each for each in raw if number(each.get(3)) & CATCH_ALL]
    found += [(b"", b"", dict(attributes(each[2], order)) if 2 in each else None) for each in catch_all]
    return Elements(True, tuple(found))


# --- registers --------------------------------------------------------------------------------------------


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

    def to(self, done: Callable[[bytes], Effect]) -> Effect:
        """What is done with what it gives."""
        return Choice(tuple((asked, done(data)) for asked, data in self.cases))


class Reader:
    """Reads the rules of one dump for packets of one family."""

    def __init__(self, dump: Dump, family: Family) -> None:
        self.order: Order = dump.order
        self.family = family
        self.sets = elements_by_set(dump)
        self.numbers = {name: at for at, name in FAMILY_NAMES.items()}
        self.interfaces = dict(dump.interfaces)
        self.ip = "ip" if family is Family.V4 else "ip6"
        self.header = (*ADDRESSES_IN[family], *PORTS_AND_FLAGS)
        self.domains = {SOURCE: domain(SOURCE, family), DESTINATION: domain(DESTINATION, family)}

    def rule(self, family: str, table: str, steps: Sequence[Expression]) -> Rule:
        """One rule."""
        program = _Program(self, self.numbers[family], table)
        for name, read in steps:
            program.step(name, read)
            if program.is_over:
                break
        conditions, effect = folded(program.parts)
        asked = next((at for at, part in enumerate(program.parts) if not isinstance(part, tuple)), len(program.parts))
        words = [" ".join(filter(None, those)) for those in (program.words[:asked], program.words[asked:])]
        target: Target = NativeTarget(effect, words[1])
        if isinstance(effect, Return | Accept | Drop | Jump):
            target = effect
        elif isinstance(effect, Goto):
            target = ForeignTarget(f"-g {effect.chain}")
        return Rule((Native(conditions, words[0]),) if conditions else (), target)


def folded(parts: Sequence[Part]) -> tuple[tuple[Condition, ...], Effect]:
    """The conditions up to the first thing that is done, and that with all that follows."""
    asked: list[Condition] = []
    for at, part in enumerate(parts):
        if isinstance(part, tuple):
            asked += part
            continue
        conditions, following = folded(parts[at + 1 :])
        last = isinstance(following, Nothing)
        return tuple(asked), part if last else Then(part, conditions, following)
    return tuple(asked), Nothing()


class _Program:
    """The registers of one rule, and what it has asked and done so far."""

    def __init__(self, reader: Reader, family: int, table: str) -> None:
        self.reader = reader
        self.family = family
        self.table = table
        self.order: Order = reader.order
        self.registers: dict[int, Loaded | Mapped | bytes] = {}
        self.parts: list[Part] = []
        self.words: list[str] = []
        self.is_over = False
        self.transport = ""
        """`tcp` or `udp`, once the rule asked for it."""

    # --- helpers --------------------------------------------------------------------------------------

    def ask(self, conditions: Iterable[Condition], words: str) -> None:
        self.parts.append(tuple(conditions))
        self.words.append(words)

    def do(self, effect: Effect, words: str) -> None:
        self.parts.append(effect)
        self.words.append(words)

    def give_up(self, what: str) -> None:
        """Behind this step nothing can be told."""
        self.do(Unknown(what), what)
        self.is_over = True

    def at(self, register: int) -> Loaded | Mapped | bytes:
        return self.registers.get(place_of(register), Loaded("?", is_known=False))

    def load(self, register: bytes | None, what: Loaded | Mapped | bytes) -> None:
        self.registers[place_of(number(register))] = what

    def data(self, raw: bytes | None) -> bytes:
        return dict(attributes(raw or b"", self.order)).get(1, b"")

    def step(self, name: str, read: dict[int, bytes]) -> None:
        reader = STEPS.get(name)
        if reader is None:
            self.give_up(name or "an expression without a name")
        else:
            reader(self, read)

    # --- loads ----------------------------------------------------------------------------------------

    def payload(self, read: dict[int, bytes]) -> None:
        base, offset, size = number(read.get(2)), number(read.get(3)), number(read.get(4))
        touched = [
            field
            for field, at, start, length in self.reader.header
            if at == base and start < offset + size and offset < start + length
        ]
        if 5 in read:
            if touched:
                self.give_up("payload set")
            else:
                self.do(Nothing(), "payload set")
            return
        whole = next((field for field, *place in self.reader.header if place == [base, offset, size]), -1)
        name = NAMES_OF.get(whole, "@nh" if base == NET_HEADER else "@th" if base == TRANSPORT_HEADER else "@ll")
        if whole in (SOURCE, DESTINATION):
            name = f"{self.reader.ip} {name}"
        elif whole in (SPORT, DPORT):
            name = f"{self.transport or 'th'} {name}"
            if self.words[-1:] == [f"meta l4proto {self.transport}"]:
                self.words.pop()  # nft adds it to a rule that names a port
                self.words.append("")
        self.load(read.get(1), Loaded(name, whole, size, "big", base, offset))

    def meta(self, read: dict[int, bytes]) -> None:
        key = number(read.get(2))
        if 3 in read:
            self.set_meta(key, self.at(number(read[3])))
            return
        known = META.get(key)
        if known:
            self.load(read.get(1), Loaded(*known[:2], known[2], self.order))
        elif key in (META_NFPROTO, META_PROTOCOL):
            is_v4 = self.reader.family is Family.V4
            value, size = ((2 if is_v4 else 10), 1) if key == META_NFPROTO else ((0x0800 if is_v4 else 0x86DD), 2)
            self.load(read.get(1), Loaded("meta nfproto", size=size, order="big", flip=value, special="constant"))
        elif key in (META_IIF, META_OIF):
            field, name = (ARRIVED_ON, "iif") if key == META_IIF else (LEAVES_ON, "oif")
            self.load(read.get(1), Loaded(name, field, 4, self.order, special="index"))
        else:
            self.load(read.get(1), Loaded(f"meta key {key}", is_known=False))

    def set_meta(self, key: int, value: Loaded | Mapped | bytes) -> None:
        if key == META_MARK:
            self.do(self.remark(MARK, value), f"meta mark set {self.set_to(value)}")
        else:
            self.do(Nothing(), "")

    def set_to(self, value: Loaded | Mapped | bytes) -> str:
        if isinstance(value, bytes):
            return f"{int.from_bytes(value, self.order):#x}"
        if isinstance(value, Mapped):
            return "one of several"
        masks = "" if value.is_whole else f" & {value.mask & WHOLE:#x} ^ {value.flip:#x}"
        return f"{value.name}{masks}"

    def remark(self, onto: int, value: Loaded | Mapped | bytes) -> Effect:
        if isinstance(value, bytes):
            return Remark(onto, 0, 0, int.from_bytes(value, self.order))
        if isinstance(value, Loaded) and value.is_known and value.field in (MARK, CONNMARK) and not value.special:
            mask = value.mask & WHOLE
            keep, taken = (mask, 0) if value.field == onto else (0, mask)
            return Remark(onto, keep, taken, value.flip)
        return Forget(onto)

    def ct(self, read: dict[int, bytes]) -> None:
        key = number(read.get(2))
        if 4 in read:
            value = self.at(number(read[4]))
            if key == CT_MARK:
                self.do(self.remark(CONNMARK, value), f"ct mark set {self.set_to(value)}")
            elif key == CT_ZONE:
                if isinstance(value, bytes):
                    zone = int.from_bytes(value[:2], self.order)
                    self.do(Zone(zone) if zone else Nothing(), f"ct zone set {zone}")
                else:
                    self.give_up("ct zone set")
            else:
                self.do(Nothing(), "")
            return
        loaded = {
            CT_STATE: Loaded("ct state", STATE, 4, self.order, special="state"),
            CT_STATUS: Loaded("ct status", REWRITTEN, 4, self.order, special="status"),
            CT_MARK: Loaded("ct mark", CONNMARK, 4, self.order),
        }
        self.load(read.get(1), loaded.get(key, Loaded(f"ct key {key}", is_known=False)))

    def fib(self, read: dict[int, bytes]) -> None:
        flags = number(read.get(3))
        if number(read.get(2)) == FIB_ADDRTYPE and flags in (FIB_SADDR, FIB_DADDR):
            field, side = (SOURCE, "saddr") if flags == FIB_SADDR else (DESTINATION, "daddr")
            self.load(read.get(1), Loaded(f"fib {side} type", field, 4, self.order, special="type"))
        else:
            self.load(read.get(1), Loaded("fib", is_known=False))

    def unknown(self, read: dict[int, bytes]) -> None:
        """Loads something that no rule can tell us: a random number, a hash, an option of a header …"""
        self.load(read.get(1), Loaded("something random or hidden", is_known=False))

    def other_load(self, read: dict[int, bytes]) -> None:
        for register in (read.get(1), read.get(2)):
            if register is not None and len(register) == 4:
                self.load(register, Loaded("a hash or number", is_known=False))

    def immediate(self, read: dict[int, bytes]) -> None:
        parts = dict(attributes(read.get(2, b""), self.order))
        if 2 in parts:
            effect, words = self.verdict(parts)
            self.do(effect, words)
            self.is_over = not isinstance(effect, Nothing)
        else:
            self.load(read.get(1), parts.get(1, b""))

    def verdict(self, parts: dict[int, bytes]) -> tuple[Effect, str]:
        read = dict(attributes(parts.get(2, b""), self.order))
        code, chain = signed(read.get(1)), text(read.get(2))
        match code:
            case 0:
                return Drop(), "drop"
            case 1:
                return Accept(), "accept"
            case -1:
                return Nothing(), "continue"
            case -3:
                return Jump(chain), f"jump {chain}"
            case -4:
                return Goto(chain), f"goto {chain}"
            case -5:
                return Return(), "return"
            case _:
                return (
                    (Queue(), "queue") if code & 0xFF == NF_QUEUE else (Unknown(f"verdict {code}"), f"verdict {code}")
                )

    # --- changes of what is loaded --------------------------------------------------------------------

    def bitwise(self, read: dict[int, bytes]) -> None:
        source = self.at(number(read.get(1)))
        if number(read.get(6)) != 0 or not isinstance(source, Loaded) or 4 not in read:
            name = source.name if isinstance(source, Loaded) else "a value"
            self.load(read.get(2), Loaded(name, is_known=False))
            return
        mask, flip = (int.from_bytes(self.data(read.get(key)), source.order) for key in (4, 5))
        self.load(read.get(2), source.but(mask=source.mask & mask, flip=source.flip & mask ^ flip))

    def byteorder(self, read: dict[int, bytes]) -> None:
        source = self.at(number(read.get(1)))
        if isinstance(source, Loaded):
            source = source.but(order="big") if source.field >= 0 else source
        elif isinstance(source, bytes):
            source = source[::-1]
        self.load(read.get(2), source)

    # --- questions ------------------------------------------------------------------------------------

    def cmp(self, read: dict[int, bytes]) -> None:
        loaded, op, data = self.at(number(read.get(1))), number(read.get(2)), self.data(read.get(3))
        if not isinstance(loaded, Loaded) or op > GTE:
            self.ask([Untold("compare")], "compare")
            return
        asked = self.compared(loaded, op, data)
        self.ask(asked, self.in_words(loaded, op, data))
        if loaded.field == PROTOCOL and op == EQ:
            self.transport = self.value(loaded, data)
        # A rule for the other family: what follows does not concern us.
        self.is_over = loaded.special == "constant" and asked == (NEVER,)

    def in_words(self, loaded: Loaded, op: int, data: bytes) -> str:
        sign = ("", "!= ", "< ", "<= ", "> ", ">= ")[op]
        if loaded.special == "constant":
            return "" if (loaded.flip == int.from_bytes(data, loaded.order)) is (op == EQ) else "(for the other family)"
        if loaded.field < 0 and loaded.base and loaded.flip == 0:
            return self.header_words(loaded, op, data)
        if loaded.special == "state" and op in (EQ, NEQ) and loaded.mask != -1:
            return f"{loaded.name} {'' if op == NEQ else '!= '}{','.join(states_in(loaded.mask)).lower()}"
        both = f" & {loaded.mask:#x}" if loaded.mask != -1 else ""
        return f"{loaded.name}{both} {sign}{self.value(loaded, data)}"

    def header_words(self, loaded: Loaded, op: int, data: bytes) -> str:
        """Several fields that nft compares at once, or the beginning of an address."""
        found = []
        for field, base, start, length in self.reader.header:
            first, end = max(start, loaded.offset), min(start + length, loaded.offset + len(data))
            if base == loaded.base and first < end:
                part = Loaded("", field, length)
                value = self.value(part, data[first - loaded.offset : end - loaded.offset])
                name = f"{self.reader.ip} " if field in (SOURCE, DESTINATION) else ""
                found.append(f"{name}{NAMES_OF[field]} {'!= ' if op == NEQ else ''}{value}")
        return " ".join(found) or loaded.name

    def value(self, loaded: Loaded, data: bytes) -> str:
        """A value of this field as nft writes it."""
        value = int.from_bytes(data, loaded.order) if data else 0
        if loaded.special == "type":
            return RTN.get(value, str(value)).lower()
        if loaded.special == "state":
            return ",".join(states_in(value)).lower()
        if loaded.special == "index":
            return self.reader.interfaces.get(value, str(value))
        if loaded.field in (SOURCE, DESTINATION):
            return address_words(data, self.reader.family)
        if loaded.field in (ARRIVED_ON, LEAVES_ON):
            return text(data) if b"\0" in data else f"{text(data)}*"
        if loaded.field == PROTOCOL:
            return PROTOCOL_NAMES.get(value, str(value))
        return f"{value:#x}" if loaded.field in (MARK, CONNMARK) else str(value)

    def compared(self, loaded: Loaded, op: int, data: bytes) -> tuple[Condition, ...]:
        if not loaded.is_known:
            return (Untold(loaded.name),)
        value = int.from_bytes(data, loaded.order)
        if loaded.special == "constant":
            holds = {EQ: loaded.flip == value, NEQ: loaded.flip != value}.get(op)
            return (Untold(loaded.name),) if holds is None else () if holds else (NEVER,)
        if loaded.special in ("state", "status"):
            return self.bits(loaded, op, value)
        if loaded.special == "type":
            kind = RTN.get(value)
            if kind is None or op not in (EQ, NEQ):
                return (Untold(loaded.name),)
            return (OfType(loaded.field, (kind,), op == NEQ),)
        if loaded.field in (ARRIVED_ON, LEAVES_ON):
            return self.named(loaded, op, data, value)
        if loaded.field < 0:
            return self.header_bytes(loaded, op, data)
        bits = width(loaded.field, self.reader.family)
        whole = (1 << bits) - 1
        value ^= loaded.flip
        if op in (EQ, NEQ):
            return self.real(masked(loaded.field, loaded.mask & whole, value, bits, negated=op == NEQ))
        if not loaded.is_whole:
            return (Untold(loaded.name),)
        span = {LT: (0, value), LTE: (0, value + 1), GT: (value + 1, whole + 1), GTE: (value, whole + 1)}[op]
        return self.real(Among(loaded.field, span if span[0] < span[1] else ()))

    def real(self, condition: Condition) -> tuple[Condition, ...]:
        """A rule that asks for an owner or a connection's mark stops where there is none, whatever it asks."""
        if isinstance(condition, Among) and condition.field in (UID, GID):
            return (Among(condition.field, common(condition.span, (0, 1 << 32)) if condition.span else ()),)
        return (condition,)

    def bits(self, loaded: Loaded, op: int, value: int) -> tuple[Condition, ...]:
        """`ct state new,established` is: these bits of it are not all 0."""
        if op not in (EQ, NEQ) or loaded.flip:
            return (Untold(loaded.name),)
        if loaded.special == "status":
            kinds = {STATUS_DNAT: (DNAT, DNAT + 1, BOTH, BOTH + 1), STATUS_SNAT: (SNAT, BOTH + 1)}
            span = kinds.get(loaded.mask)
            if span is None or value:
                return (Untold(loaded.name),)
            asked: tuple[Condition, ...] = (Among(REWRITTEN, span),)
            return asked if op == NEQ else opposite(asked, {})
        if loaded.mask != -1 and value == 0:
            names, is_so = states_in(loaded.mask), op == NEQ
        else:
            names, is_so = [name for name, bit in STATE_BITS.items() if bit & loaded.mask == value], op == EQ
        asked = (Among(STATE, joined((at, at + 1) for at, name in enumerate(STATES) if name in names)),)
        return asked if is_so else opposite(asked, {})

    def named(self, loaded: Loaded, op: int, data: bytes, value: int) -> tuple[Condition, ...]:
        if op not in (EQ, NEQ) or not loaded.is_whole:
            return (Untold(loaded.name),)
        if loaded.special == "index":
            name = self.reader.interfaces.get(value)
            # An interface that is gone is nobody's; without one the index is 0.
            span: Span = one(name) if name else one("") if value == 0 else ()
        else:
            name = text(data)
            span = one(name) if b"\0" in data else (name, name + LAST)
        asked = (Among(loaded.field, span),)
        return asked if op == EQ else opposite(asked, {})

    def header_bytes(self, loaded: Loaded, op: int, data: bytes) -> tuple[Condition, ...]:
        """Part of a field, or several at once."""
        if op not in (EQ, NEQ):
            return (Untold(loaded.name),)
        size = len(data)
        all_bits = (1 << size * 8) - 1
        mask, value = loaded.mask & all_bits, (int.from_bytes(data, "big") ^ loaded.flip) & all_bits
        asked: list[Condition] = []
        covered = 0
        for field, base, start, length in self.reader.header:
            first, end = max(start, loaded.offset), min(start + length, loaded.offset + size)
            if base != loaded.base or first >= end:
                continue
            shift = (loaded.offset + size - end) * 8
            part = ((1 << (end - first) * 8) - 1) << shift
            covered |= part
            up = (start + length - end) * 8
            of_field = (mask & part) >> shift << up
            if of_field:
                asked.append(masked(field, of_field, (value & part) >> shift << up, length * 8))
        if mask & ~covered:
            asked.append(Untold(loaded.name))
        return tuple(asked) if op == EQ else opposite(asked, self.reader.domains) if asked else (NEVER,)

    def range(self, read: dict[int, bytes]) -> None:
        loaded, op = self.at(number(read.get(1))), number(read.get(2))
        low, high = self.data(read.get(3)), self.data(read.get(4))
        if (
            not isinstance(loaded, Loaded)
            or not loaded.is_known
            or not loaded.is_whole
            or loaded.field < 0
            or loaded.special
        ):
            self.ask([Untold("range")], "range")
            return
        span = between(int.from_bytes(low, loaded.order), int.from_bytes(high, loaded.order) + 1)
        asked: tuple[Condition, ...] = (Among(loaded.field, span),)
        if op == NEQ:
            asked = opposite(asked, self.reader.domains)
        sign = "!= " if op == NEQ else ""
        self.ask(self.real(asked[0]), f"{loaded.name} {sign}{self.value(loaded, low)}-{self.value(loaded, high)}")

    def lookup(self, read: dict[int, bytes]) -> None:
        name, inverted = text(read.get(1)), bool(number(read.get(5)) & 1)
        held = self.reader.sets.get((self.family, self.table, name))
        keys = self.keys(number(read.get(2)), held)
        shown = " . ".join(each.name for each in keys)
        if held is None or not all(each.is_known and not each.flip for each in keys):
            if 3 in read and number(read.get(3)) == 0:
                self.do(self.any_verdict(held), f"{shown} vmap @{name}")
            elif 3 in read:
                self.load(read[3], self.any_of_map(held, shown))
            else:
                self.ask([Untold(f"{shown} @{name}")], f"{shown} @{name}")
            return
        cases = [(self.element(keys, held, first, beyond), data) for first, beyond, data in held.elements]
        label = self.set_words(name, keys, held)
        if 3 in read and number(read[3]) == 0:
            chosen = []
            for conditions, data in cases:
                effect, _ = self.verdict(data or {})
                chosen.append((conditions, effect))
            self.do(Choice(tuple(chosen)), f"{shown} vmap {label}")
        elif 3 in read:
            self.load(read[3], Mapped(tuple((conditions, self.element_data(data)) for conditions, data in cases)))
            any_of = self.union([conditions for conditions, _ in cases])
            self.ask(any_of, f"{shown} map {label}")
        else:
            asked = self.union([conditions for conditions, _ in cases])
            if inverted:
                asked = opposite(asked, self.reader.domains)
                asked = tuple(each for condition in asked for each in self.real(condition))
            self.ask(asked, f"{shown} {'!= ' if inverted else ''}{label}")

    def any_of_map(self, held: Elements | None, shown: str) -> Mapped | Loaded:
        """A map whose key cannot be told: any of what it gives."""
        if held is None:
            return Loaded("a map", is_known=False)
        return Mapped(tuple(((Untold(shown),), self.element_data(data)) for _, _, data in held.elements))

    def any_verdict(self, held: Elements | None) -> Effect:
        """A verdict map whose key cannot be told: any of its verdicts, or none."""
        if held is None:
            return Unknown("a verdict map")
        return Choice(tuple(((Untold("its key"),), self.verdict(data or {})[0]) for _, _, data in held.elements))

    def element_data(self, data: dict[int, bytes] | None) -> bytes:
        return (data or {}).get(1, b"")

    def keys(self, register: int, held: Elements | None) -> list[Loaded]:
        """The fields that together are the key: those in the registers that follow each other."""
        length = len(held.elements[0][0]) if held and held.elements else 0
        place, found = place_of(register), list[Loaded]()
        while True:
            loaded = self.registers.get(place)
            if not isinstance(loaded, Loaded):
                if not found:
                    found.append(Loaded("?", is_known=False))
                break
            found.append(loaded)
            taken = max(loaded.size + 3 & ~3, 4)
            place += taken
            length -= taken
            if length <= 0:
                break
        return found

    def element(
        self, keys: Sequence[Loaded], held: Elements, first: bytes, beyond: bytes | None
    ) -> tuple[Condition, ...]:
        """What an element of a set asks for."""
        if not first:
            return ()  # the rest, whatever it is
        if len(keys) == 1 and held.is_interval:
            return self.interval(keys[0], first, beyond)
        asked: list[Condition] = []
        at = 0
        for loaded in keys:
            end = at + loaded.size
            low, high = first[at:end], beyond[at:end] if beyond else None
            if high is None or high == low:
                asked += self.compared(loaded, EQ, low)
            elif (
                loaded.is_whole
                and not loaded.special
                and loaded.field >= 0
                and loaded.field not in (ARRIVED_ON, LEAVES_ON)
            ):
                asked.append(Among(loaded.field, between(int.from_bytes(low, "big"), int.from_bytes(high, "big") + 1)))
            else:
                asked.append(Untold(loaded.name))
            at += loaded.size + 3 & ~3
        return tuple(asked)

    def interval(self, loaded: Loaded, first: bytes, beyond: bytes | None) -> tuple[Condition, ...]:
        if loaded.special or not loaded.is_whole:
            return (Untold(loaded.name),)
        if loaded.field in (ARRIVED_ON, LEAVES_ON):
            name = text(first)
            return (Among(loaded.field, one(name) if is_next(first, beyond) else (name, name + LAST)),)
        if loaded.field < 0:
            return (Untold(loaded.name),)
        end = int.from_bytes(beyond, "big") if beyond is not None else domain(loaded.field, self.reader.family)[-1]
        return (Among(loaded.field, between(int.from_bytes(first, "big"), end)),)

    def union(self, alternatives: Sequence[tuple[Condition, ...]]) -> tuple[Condition, ...]:
        """That one of these holds: in one field a span."""
        if any(not each for each in alternatives):
            return ()
        fields = {each[0].field for each in alternatives if len(each) == 1 and isinstance(each[0], Among)}
        if len(fields) == 1 and all(len(each) == 1 and isinstance(each[0], Among) for each in alternatives):
            spans = [each[0].span for each in alternatives if isinstance(each[0], Among)]
            intervals = sorted((span[at], span[at + 1]) for span in spans for at in range(0, len(span), 2))
            return (Among(fields.pop(), joined(intervals)),)
        if not alternatives:
            return (NEVER,)
        return (AnyOf(tuple(alternatives)),)

    def set_words(self, name: str, keys: Sequence[Loaded], held: Elements) -> str:
        if not name.startswith(("__set", "__map")) or len(keys) != 1:
            return f"@{name}"
        loaded = keys[0]
        shown = []
        for first, beyond, data in sorted(held.elements, key=lambda element: element[0])[:MOST_SHOWN]:
            if not first:
                words = "*"
            elif beyond is None or not held.is_interval or is_next(first, beyond):
                words = self.value(loaded.but(order="big") if held.is_interval else loaded, first)
            elif loaded.field in (ARRIVED_ON, LEAVES_ON):
                words = f"{text(first)}*"
            else:
                words = interval_words(loaded, first, beyond)
            shown.append(f"{words} : {self.verdict(data)[1]}" if data and 2 in data else words)
        more = ", …" if len(held.elements) > MOST_SHOWN else ""
        return f"{{ {', '.join(shown)}{more} }}"

    # --- what is done ---------------------------------------------------------------------------------

    def nat(self, read: dict[int, bytes]) -> None:
        """`snat` and `dnat`: addresses and ports stand in registers, as they are or as what a map gives."""
        if number(read.get(1)) == 0:
            self.do(BindSource(), "snat")
        else:
            low, high, first, last = (number(read.get(key)) for key in (3, 4, 5, 6))
            size = 4 if self.reader.family is Family.V4 else 16
            # A map that gives both has the port behind the address, in one element.
            both = bool(low and first) and place_of(first) == place_of(low) + size
            mapped = self.at(low) if low else None
            if both and isinstance(mapped, Mapped):
                effect: Effect = mapped.to(
                    lambda data: Bind(((number_span(data[:size]), number_span(data[size : size + 2])),))
                )
            else:
                effect = self.bound(self.span(low, high, size), self.span(first, last, 2))
                if number(read.get(7)) & NETMAP and isinstance(effect, Bind):
                    effect = effect.but(is_mapped=True)
            self.do(effect, f"dnat to {end_words(effect, self.reader.family)}")
        self.is_over = True

    def redir(self, read: dict[int, bytes]) -> None:
        effect = self.bound(None, self.span(number(read.get(1)), number(read.get(2)), 2), is_here=True)
        ports = end_words(effect, self.reader.family)
        self.do(effect, f"redirect to {ports}" if ports else "redirect")
        self.is_over = True

    def span(self, low: int, high: int, size: int) -> Span | Mapped | Unknown | None:
        """What these two registers hold, from one value to the other; None without a register."""
        if not low:
            return None
        first, last = self.at(low), self.at(high) if high else b""
        if isinstance(first, Mapped):
            return first
        if not isinstance(first, bytes) or not isinstance(last, bytes):
            return Unknown("nat to something that cannot be told")
        low, end = (int.from_bytes(each[:size], "big") for each in (first, last or first))
        return (low, end + 1) if low <= end else Unknown("nat to something that cannot be told")

    @staticmethod
    def bound(
        addresses: Span | Mapped | Unknown | None, ports: Span | Mapped | Unknown | None, *, is_here: bool = False
    ) -> Effect:
        """Sent to these; of two maps it is not known what one gives where the other gives something."""
        if isinstance(addresses, tuple | None):
            if isinstance(ports, Mapped):
                return ports.to(lambda data: Bind(((addresses, number_span(data[:2])),), is_here))
            if isinstance(ports, tuple | None):
                return Bind(((addresses, ports),), is_here)
        elif isinstance(addresses, Mapped) and isinstance(ports, tuple | None):
            return addresses.to(lambda data: Bind(((number_span(data), ports),), is_here))
        return Unknown("nat to something that cannot be told")

    def masq(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(BindSource(), "masquerade")
        self.is_over = True

    def tproxy(self, read: dict[int, bytes]) -> None:
        wanted = FAMILY_NAMES.get(number(read.get(1)), "")
        if wanted in IP_FAMILIES and self.reader.family not in IP_FAMILIES[wanted]:
            self.ask([NEVER], "tproxy of the other family")
            return
        port = self.at(number(read.get(3))) if 3 in read else b"\0\0"
        if not isinstance(port, bytes):
            self.give_up("tproxy")
            return
        where = int.from_bytes(port[:2], "big")
        self.do(Hand(where, WHOLE, 0, accepts=False), f"tproxy to :{where}" if where else "tproxy")

    def queue(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(Queue(), "queue")
        self.is_over = True

    def reject(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(Reject(""), "reject")
        self.is_over = True

    def notrack(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(NoTrack(), "notrack")

    def nothing(self, read: dict[int, bytes]) -> None:
        """Counts, writes, or remembers."""

    def log(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(Nothing(), "log")

    def chance(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        """Holds for some packets and not for others: limit, quota, connection limit."""
        self.ask([Untold("limit")], "limit")

    def dynset(self, read: dict[int, bytes]) -> None:
        words = f"update @{text(read.get(1))}"
        if 7 in read or 10 in read or number(read.get(9)) & 1:
            self.ask([Untold(words)], words)
        else:
            self.do(Nothing(), words)

    def objref(self, read: dict[int, bytes]) -> None:
        kind = number(read.get(1))
        if kind in HARMLESS_OBJECTS and 1 in read:
            return
        if kind == SYNPROXY:
            self.give_up("synproxy")
        else:
            self.ask([Untold("a named object")], "a named object")

    def match(self, read: dict[int, bytes]) -> None:
        name = text(read.get(1))
        self.ask(() if name == "comment" else [Untold(f"xt match {name}")], "" if name == "comment" else f"xt {name}")

    def target(self, read: dict[int, bytes]) -> None:
        name = text(read.get(1))
        if name in GOES_ON:
            self.do(Nothing(), f"xt {name}")
        elif name in ("MASQUERADE", "SNAT"):
            self.do(BindSource(), f"xt {name}")
        else:
            self.give_up(f"xt target {name}")


def place_of(register: int) -> int:
    """Where a register begins, in bytes: four of 16 bytes lie over sixteen of 4 (NFT_REG_1, NFT_REG32_00)."""
    return (register - 1) * 16 if register <= 4 else (register - 8) * 4


def between(first: int, end: int) -> Span:
    """From one number to before another."""
    return (first, end) if first < end else ()


def number_span(data: bytes) -> Span:
    return one(int.from_bytes(data, "big"))


def states_in(mask: int) -> list[str]:
    return [name for name, bit in STATE_BITS.items() if bit & mask]


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


NAMES_OF = {PROTOCOL: "ip protocol", SOURCE: "saddr", DESTINATION: "daddr", SPORT: "sport", DPORT: "dport",
            TCP_FLAGS: "tcp flags"}  # fmt: skip
PROTOCOL_NAMES = {number: name for name, number in reversed(PROTOCOLS.items())}
META: dict[int, tuple[str, int, int]] = {
    META_MARK: ("meta mark", MARK, 4),
    META_IIFNAME: ("iifname", ARRIVED_ON, 16),
    META_OIFNAME: ("oifname", LEAVES_ON, 16),
    META_SKUID: ("meta skuid", UID, 4),
    META_SKGID: ("meta skgid", GID, 4),
    META_L4PROTO: ("meta l4proto", PROTOCOL, 1),
}
HARMLESS_OBJECTS = frozenset({1, 3, 7, 8, 9})
"""NFT_OBJECT_*: counter, ct helper, ct timeout, secmark, ct expectation."""
SYNPROXY = 10

STEPS: dict[str, Callable[[_Program, dict[int, bytes]], None]] = {
    "payload": _Program.payload,
    "meta": _Program.meta,
    "ct": _Program.ct,
    "fib": _Program.fib,
    "immediate": _Program.immediate,
    "bitwise": _Program.bitwise,
    "byteorder": _Program.byteorder,
    "cmp": _Program.cmp,
    "range": _Program.range,
    "lookup": _Program.lookup,
    "nat": _Program.nat,
    "redir": _Program.redir,
    "masq": _Program.masq,
    "tproxy": _Program.tproxy,
    "queue": _Program.queue,
    "reject": _Program.reject,
    "notrack": _Program.notrack,
    "counter": _Program.nothing,
    "last": _Program.nothing,
    "dup": _Program.nothing,
    "log": _Program.log,
    "limit": _Program.chance,
    "quota": _Program.chance,
    "connlimit": _Program.chance,
    "dynset": _Program.dynset,
    "objref": _Program.objref,
    "numgen": _Program.unknown,
    "hash": _Program.other_load,
    "rt": _Program.unknown,
    "socket": _Program.other_load,
    "osf": _Program.unknown,
    "exthdr": _Program.unknown,
    "xfrm": _Program.other_load,
    "tunnel": _Program.other_load,
    "match": _Program.match,
    "target": _Program.target,
}
"""How each expression is read. Of any other, nothing behind it is told."""
