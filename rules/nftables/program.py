"""A native rule of nf_tables, read step by step into conditions and effects (linux/netfilter/nf_tables.h).

A native rule is a little program: it loads fields of the packet into registers, compares them, and acts. Read are those
steps that can be told; of any other, what hangs on it cannot be told, and is never guessed.
"""

from __future__ import annotations

from rules.meaning.foreign import GOES_ON, WHOLE
from rules.netfilter import effects as e
from rules.netfilter import fields as f
from rules.netfilter.hooks import IP_FAMILIES
from rules.netfilter.matches import Native
from rules.netfilter.rulesets import Rule
from rules.netfilter.spans import common, joined, one
from rules.netfilter.targets import Accept, Drop, ForeignTarget, Jump, NativeTarget, Reject, Return, Zone
from rules.netfilter.values import Family
from rules.nftables.messages import FAMILY_NAMES, Dump, attributes, number, signed, text
from rules.nftables.registers import Loaded, Mapped, place_of
from rules.nftables.sets import Elements, Sets
from rules.nftables.words import address_words, end_words, interval_words, is_next

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from rules.netfilter.spans import Span
    from rules.netfilter.targets import Target
    from rules.nftables.messages import Expression, Order

    Part: TypeAlias = tuple[f.Condition, ...] | e.Effect


NETMAP = 1 << 6
"""NF_NAT_RANGE_NETMAP of linux/netfilter/nf_nat.h."""
NET_HEADER, TRANSPORT_HEADER = 1, 2
TAGS = {"ip": (1,), "ip6": (0, 1, 2, 3, 7)}
"""The bytes of a header that OUTPUT of a chain of type route compares: TOS; or class and flow label, and hop limit."""
HARMLESS = {
    NET_HEADER: {"ip": frozenset({1, 4, 5, 8}), "ip6": frozenset({0, 1, 2, 3, 7})},
    TRANSPORT_HEADER: dict.fromkeys(TAGS, frozenset({14, 15, 18, 19})),
}
"""The bytes of a header behind whose change the packet is still understood, and is to every rule what it was: TOS,
identification, TTL; class, flow label, hop limit; window and urgent pointer of TCP (RFC 791, 8200, 9293)."""
NF_DROP, NF_ACCEPT, NF_QUEUE = 0, 1, 3
NFT_CONTINUE, NFT_JUMP, NFT_GOTO, NFT_RETURN = -1, -3, -4, -5
EQ, NEQ, LT, LTE, GT, GTE = range(6)
META_PROTOCOL, META_MARK, META_IIF, META_OIF, META_IIFNAME, META_OIFNAME = 1, 3, 4, 5, 6, 7
META_SKUID, META_SKGID, META_NFPROTO, META_L4PROTO = 10, 11, 15, 16
CT_STATE, CT_STATUS, CT_MARK, CT_ZONE = 0, 2, 3, 17
RTN = {1: "UNICAST", 2: "LOCAL", 3: "BROADCAST", 5: "MULTICAST"}
"""linux/rtnetlink.h: the types of addresses that can be told."""
FIB_SADDR, FIB_DADDR, FIB_MARK, FIB_ADDRTYPE = 1, 2, 4, 3
FAMILIES_IN_WORDS = {2: "ipv4", 10: "ipv6", 0x0800: "ip", 0x86DD: "ip6"}
"""What `meta nfproto` (NFPROTO_IPV4, NFPROTO_IPV6) and `meta protocol` (ETH_P_IP, ETH_P_IPV6) are compared with."""
STATE_BITS = {"INVALID": 0x01, "ESTABLISHED": 0x02, "RELATED": 0x04, "NEW": 0x08, "UNTRACKED": 0x40}
"""NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h."""
STATUS_SNAT, STATUS_DNAT = 0x10, 0x20
"""IPS_SRC_NAT and IPS_DST_NAT."""
ADDRESSES_IN = {
    Family.V4: ((f.PROTOCOL, NET_HEADER, 9, 1), (f.SOURCE, NET_HEADER, 12, 4), (f.DESTINATION, NET_HEADER, 16, 4)),
    Family.V6: ((f.PROTOCOL, NET_HEADER, 6, 1), (f.SOURCE, NET_HEADER, 8, 16), (f.DESTINATION, NET_HEADER, 24, 16)),
}
PORTS_AND_FLAGS = (
    (f.SPORT, TRANSPORT_HEADER, 0, 2),
    (f.DPORT, TRANSPORT_HEADER, 2, 2),
    (f.TCP_FLAGS, TRANSPORT_HEADER, 13, 1),
)
"""Where in its header a field stands: base, offset and length in bytes."""
MOST_SHOWN = 6
"""Elements of a set that a rule's text names."""


class Reader:
    """Reads the rules of one dump for packets of one family."""

    def __init__(self, dump: Dump, family: Family) -> None:
        self.order: Order = dump.order
        self.family = family
        self.sets = Sets(dump)
        self.numbers = {name: at for at, name in FAMILY_NAMES.items()}
        self.interfaces = dict(dump.interfaces)
        self.ip = "ip" if family is Family.V4 else "ip6"
        self.header = (*ADDRESSES_IN[family], *PORTS_AND_FLAGS)
        self.domains = {f.SOURCE: f.domain(f.SOURCE, family), f.DESTINATION: f.domain(f.DESTINATION, family)}

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
        elif isinstance(effect, e.Goto):
            target = ForeignTarget(f"-g {effect.chain}")
        return Rule((Native(conditions, words[0]),) if conditions else (), target)


def folded(parts: Sequence[Part]) -> tuple[tuple[f.Condition, ...], e.Effect]:
    """The conditions up to the first thing that is done, and that with all that follows."""
    asked: list[f.Condition] = []
    for at, part in enumerate(parts):
        if isinstance(part, tuple):
            asked += part
            continue
        conditions, following = folded(parts[at + 1 :])
        last = isinstance(following, e.Nothing)
        return tuple(asked), part if last else e.Then(part, conditions, following)
    return tuple(asked), e.Nothing()


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

    def ask(self, conditions: Iterable[f.Condition], words: str) -> None:
        self.parts.append(tuple(conditions))
        self.words.append(words)

    def do(self, effect: e.Effect, words: str) -> None:
        self.parts.append(effect)
        self.words.append(words)

    def give_up(self, what: str) -> None:
        """Behind this step nothing can be told."""
        self.do(e.Unknown(what), what)
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
        if 5 in read:
            self.set_payload(base, self.changed(base, offset, size, self.at(number(read[5]))))
            return
        whole = next((field for field, *place in self.reader.header if place == [base, offset, size]), -1)
        name = NAMES_OF.get(whole, "@nh" if base == NET_HEADER else "@th" if base == TRANSPORT_HEADER else "@ll")
        if whole in (f.SOURCE, f.DESTINATION):
            name = f"{self.reader.ip} {name}"
        elif whole in (f.SPORT, f.DPORT):
            name = f"{self.transport or 'th'} {name}"
            if self.words[-1:] == [f"meta l4proto {self.transport}"]:
                self.words.pop()  # nft adds it to a rule that names a port
                self.words.append("")
        self.load(read.get(1), Loaded(name, whole, size, "big", base, offset))

    def changed(self, base: int, offset: int, size: int, value: Loaded | Mapped | bytes) -> list[int]:
        """Which bytes of a header this writes anew: nft reads a neighbour as well, for the checksum, and keeps it."""
        places = range(offset, offset + size)
        if not (isinstance(value, Loaded) and value.is_known and (value.base, value.offset) == (base, offset)):
            return list(places)
        masks, flips = ((bits & ((1 << 8 * size) - 1)).to_bytes(size, "big") for bits in (value.mask, value.flip))
        return [at for at, mask, flip in zip(places, masks, flips, strict=True) if mask != 0xFF or flip]

    def set_payload(self, base: int, changed: Sequence[int]) -> None:
        if base in (NET_HEADER, TRANSPORT_HEADER) and not HARMLESS[base][self.reader.ip].issuperset(changed):
            self.give_up("payload set")
        elif base == NET_HEADER and any(at in changed for at in TAGS[self.reader.ip]):
            self.do(e.Retag("payload set"), "payload set")
        else:
            self.do(e.Nothing(), "payload set")

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
            name = "meta nfproto" if key == META_NFPROTO else "meta protocol"
            self.load(read.get(1), Loaded(name, size=size, order="big", flip=value, special="constant"))
        elif key in (META_IIF, META_OIF):
            field, name = (f.ARRIVED_ON, "iif") if key == META_IIF else (f.LEAVES_ON, "oif")
            self.load(read.get(1), Loaded(name, field, 4, self.order, special="index"))
        else:
            self.load(read.get(1), Loaded(f"meta key {key}", is_known=False))

    def set_meta(self, key: int, value: Loaded | Mapped | bytes) -> None:
        if key == META_MARK:
            self.do(self.remark(f.MARK, value), f"meta mark set {self.set_to(value)}")
        else:
            self.do(e.Nothing(), "")

    def set_to(self, value: Loaded | Mapped | bytes) -> str:
        if isinstance(value, bytes):
            return f"{int.from_bytes(value, self.order):#x}"
        if isinstance(value, Mapped):
            return "one of several"
        masks = "" if value.is_whole else f" & {value.mask & WHOLE:#x} ^ {value.flip:#x}"
        return f"{value.name}{masks}"

    def remark(self, onto: int, value: Loaded | Mapped | bytes) -> e.Effect:
        if isinstance(value, bytes):
            return e.Remark(onto, 0, 0, int.from_bytes(value, self.order))
        if isinstance(value, Loaded) and value.is_known and value.field in (f.MARK, f.CONNMARK) and not value.special:
            mask = value.mask & WHOLE
            keep, taken = (mask, 0) if value.field == onto else (0, mask)
            return e.Remark(onto, keep, taken, value.flip)
        if isinstance(value, Mapped) and value.is_told:
            return value.to(lambda data: e.Remark(onto, 0, 0, int.from_bytes(data, self.order)))
        return e.Forget(onto)

    def ct(self, read: dict[int, bytes]) -> None:
        key = number(read.get(2))
        if 4 in read:
            value = self.at(number(read[4]))
            if key == CT_MARK:
                self.do(self.remark(f.CONNMARK, value), f"ct mark set {self.set_to(value)}")
            elif key == CT_ZONE:
                if isinstance(value, bytes):
                    zone = int.from_bytes(value[:2], self.order)
                    self.do(Zone(zone) if zone else e.Nothing(), f"ct zone set {zone}")
                else:
                    self.give_up("ct zone set")
            else:
                self.do(e.Nothing(), "")
            return
        loaded = {
            CT_STATE: Loaded("ct state", f.STATE, 4, self.order, special="state"),
            CT_STATUS: Loaded("ct status", f.REWRITTEN, 4, self.order, special="status"),
            CT_MARK: Loaded("ct mark", f.CONNMARK, 4, self.order),
        }
        self.load(read.get(1), loaded.get(key, Loaded(f"ct key {key}", is_known=False)))

    def fib(self, read: dict[int, bytes]) -> None:
        flags = number(read.get(3))
        if number(read.get(2)) == FIB_ADDRTYPE and flags & ~FIB_MARK in (FIB_SADDR, FIB_DADDR):
            field, side = (f.SOURCE, "saddr") if flags & FIB_SADDR else (f.DESTINATION, "daddr")
            special, words = ("type by mark", f"{side} . mark") if flags & FIB_MARK else ("type", side)
            self.load(read.get(1), Loaded(f"fib {words} type", field, 4, self.order, special=special))
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
            self.is_over = not isinstance(effect, e.Nothing)
        else:
            self.load(read.get(1), parts.get(1, b""))

    def verdict(self, parts: dict[int, bytes]) -> tuple[e.Effect, str]:
        read = dict(attributes(parts.get(2, b""), self.order))
        code, chain = signed(read.get(1)), text(read.get(2))
        match code:
            case 0:
                return Drop(), "drop"
            case 1:
                return Accept(), "accept"
            case -1:
                return e.Nothing(), "continue"
            case -3:
                return Jump(chain), f"jump {chain}"
            case -4:
                return e.Goto(chain), f"goto {chain}"
            case -5:
                return Return(), "return"
            case _:
                return (
                    (e.Queue(), "queue")
                    if code & 0xFF == NF_QUEUE
                    else (e.Unknown(f"verdict {code}"), f"verdict {code}")
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
            self.ask([f.Untold("compare")], "compare")
            return
        asked = self.compared(loaded, op, data)
        self.ask(asked, self.in_words(loaded, op, data))
        if loaded.field == f.PROTOCOL and op == EQ:
            self.transport = self.value(loaded, data)
        # A rule for the other family: what follows does not concern us.
        self.is_over = loaded.special == "constant" and asked == (f.NEVER,)

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
                name = f"{self.reader.ip} " if field in (f.SOURCE, f.DESTINATION) else ""
                found.append(f"{name}{NAMES_OF[field]} {'!= ' if op == NEQ else ''}{value}")
        return " ".join(found) or loaded.name

    def value(self, loaded: Loaded, data: bytes) -> str:
        """A value of this field as nft writes it."""
        value = int.from_bytes(data, loaded.order) if data else 0
        if loaded.special == "constant":
            return FAMILIES_IN_WORDS.get(value, str(value))
        if loaded.special in ("type", "type by mark"):
            return RTN.get(value, str(value)).lower()
        if loaded.special == "state":
            return ",".join(states_in(value)).lower()
        if loaded.special == "index":
            return self.reader.interfaces.get(value, str(value))
        if loaded.field in (f.SOURCE, f.DESTINATION):
            return address_words(data, self.reader.family)
        if loaded.field in (f.ARRIVED_ON, f.LEAVES_ON):
            return text(data) if b"\0" in data else f"{text(data)}*"
        if loaded.field == f.PROTOCOL:
            return PROTOCOL_NAMES.get(value, str(value))
        return f"{value:#x}" if loaded.field in (f.MARK, f.CONNMARK) else str(value)

    def compared(self, loaded: Loaded, op: int, data: bytes) -> tuple[f.Condition, ...]:
        if not loaded.is_known:
            return (f.Untold(loaded.name),)
        value = int.from_bytes(data, loaded.order)
        if loaded.special == "constant":
            holds = {EQ: loaded.flip == value, NEQ: loaded.flip != value}.get(op)
            return (f.Untold(loaded.name),) if holds is None else () if holds else (f.NEVER,)
        if loaded.special in ("state", "status"):
            return self.bits(loaded, op, value)
        if loaded.special.startswith("type"):
            kind = RTN.get(value)
            if kind is None or op not in (EQ, NEQ):
                return (f.Untold(loaded.name),)
            return (f.OfType(loaded.field, (kind,), op == NEQ, by_fib=True, with_mark=loaded.special != "type"),)
        if loaded.field in (f.ARRIVED_ON, f.LEAVES_ON):
            return self.named(loaded, op, data, value)
        if loaded.field < 0:
            return self.header_bytes(loaded, op, data)
        bits = f.width(loaded.field, self.reader.family)
        whole = (1 << bits) - 1
        value ^= loaded.flip
        if op in (EQ, NEQ):
            return self.real(f.masked(loaded.field, loaded.mask & whole, value, bits, negated=op == NEQ))
        if not loaded.is_whole:
            return (f.Untold(loaded.name),)
        span = {LT: (0, value), LTE: (0, value + 1), GT: (value + 1, whole + 1), GTE: (value, whole + 1)}[op]
        return self.real(f.Among(loaded.field, span if span[0] < span[1] else ()))

    def real(self, condition: f.Condition) -> tuple[f.Condition, ...]:
        """A rule that asks for an owner or a connection's mark stops where there is none, whatever it asks."""
        if isinstance(condition, f.Among) and condition.field in (f.UID, f.GID):
            return (f.Among(condition.field, common(condition.span, (0, 1 << 32)) if condition.span else ()),)
        return (condition,)

    def bits(self, loaded: Loaded, op: int, value: int) -> tuple[f.Condition, ...]:
        """`ct state new,established` is: these bits of it are not all 0."""
        if op not in (EQ, NEQ) or loaded.flip:
            return (f.Untold(loaded.name),)
        if loaded.special == "status":
            kinds = {STATUS_DNAT: (f.DNAT, f.DNAT + 1, f.BOTH, f.BOTH + 1), STATUS_SNAT: (f.SNAT, f.BOTH + 1)}
            span = kinds.get(loaded.mask)
            if span is None or value:
                return (f.Untold(loaded.name),)
            asked: tuple[f.Condition, ...] = (f.Among(f.REWRITTEN, span),)
            # Without a connection the rule stops here (nft_ct_get_eval of net/netfilter/nft_ct.c).
            return (f.Among(f.STATE, f.KNOWN_STATES), *(asked if op == NEQ else f.opposite(asked, {})))
        if loaded.mask != -1 and value == 0:
            names, is_so = states_in(loaded.mask), op == NEQ
        else:
            names, is_so = [name for name, bit in STATE_BITS.items() if bit & loaded.mask == value], op == EQ
        asked = (f.Among(f.STATE, joined((at, at + 1) for at, name in enumerate(f.STATES) if name in names)),)
        return asked if is_so else f.opposite(asked, {})

    def named(self, loaded: Loaded, op: int, data: bytes, value: int) -> tuple[f.Condition, ...]:
        if op not in (EQ, NEQ) or not loaded.is_whole:
            return (f.Untold(loaded.name),)
        if loaded.special == "index":
            name = self.reader.interfaces.get(value)
            # An interface that is gone is nobody's; without one the index is 0.
            span: Span = one(name) if name else one("") if value == 0 else ()
        else:
            name = text(data)
            span = one(name) if b"\0" in data else (name, name + f.LAST)
        asked = (f.Among(loaded.field, span),)
        return asked if op == EQ else f.opposite(asked, {})

    def header_bytes(self, loaded: Loaded, op: int, data: bytes) -> tuple[f.Condition, ...]:
        """Part of a field, or several at once."""
        if op not in (EQ, NEQ):
            return (f.Untold(loaded.name),)
        size = len(data)
        all_bits = (1 << size * 8) - 1
        mask, value = loaded.mask & all_bits, (int.from_bytes(data, "big") ^ loaded.flip) & all_bits
        asked: list[f.Condition] = []
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
                asked.append(f.masked(field, of_field, (value & part) >> shift << up, length * 8))
        if mask & ~covered:
            asked.append(f.Untold(loaded.name))
        return tuple(asked) if op == EQ else f.opposite(asked, self.reader.domains) if asked else (f.NEVER,)

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
            self.ask([f.Untold("range")], "range")
            return
        span = between(int.from_bytes(low, loaded.order), int.from_bytes(high, loaded.order) + 1)
        asked: tuple[f.Condition, ...] = (f.Among(loaded.field, span),)
        if op == NEQ:
            asked = f.opposite(asked, self.reader.domains)
        sign = "!= " if op == NEQ else ""
        self.ask(self.real(asked[0]), f"{loaded.name} {sign}{self.value(loaded, low)}-{self.value(loaded, high)}")

    def lookup(self, read: dict[int, bytes]) -> None:
        name, inverted = text(read.get(1)), bool(number(read.get(5)) & 1)
        held = self.reader.sets.get((self.family, self.table, name))
        keys = self.keys(number(read.get(2)), held)
        shown = " . ".join(each.name for each in keys)
        if held is None or not all(each.is_known and (not each.flip or each.special == "constant") for each in keys):
            if 3 in read and number(read.get(3)) == 0:
                self.do(self.any_verdict(held), f"{shown} vmap @{name}")
            elif 3 in read:
                self.load(read[3], self.any_of_map(held, shown))
            else:
                self.ask([f.Untold(f"{shown} @{name}")], f"{shown} @{name}")
            return
        label = self.set_words(name, keys, held)
        if 3 not in read and not inverted and (span := self.all_at_once(keys, held)):
            self.ask((f.Among(keys[0].field, span),), f"{shown} {label}")
            return
        cases = [(self.element(keys, held, first, beyond), data) for first, beyond, data in held.elements]
        cases = [(conditions, data) for conditions, data in cases if f.NEVER not in conditions]  # the other family's
        if 3 in read and number(read[3]) == 0:
            chosen = []
            for conditions, data in cases:
                effect, _ = self.verdict(data or {})
                chosen.append((conditions, effect))
            self.do(e.Choice(tuple(chosen)), f"{shown} vmap {label}")
        elif 3 in read:
            self.load(read[3], Mapped(tuple((conditions, self.element_data(data)) for conditions, data in cases)))
            any_of = self.union([conditions for conditions, _ in cases])
            self.ask(any_of, f"{shown} map {label}")
        else:
            asked = self.union([conditions for conditions, _ in cases])
            if inverted:
                asked = f.opposite(asked, self.reader.domains)
                asked = tuple(each for condition in asked for each in self.real(condition))
            self.ask(asked, f"{shown} {'!= ' if inverted else ''}{label}")

    def any_of_map(self, held: Elements | None, shown: str) -> Mapped | Loaded:
        """A map whose key cannot be told: any of what it gives."""
        if held is None:
            return Loaded("a map", is_known=False)
        return Mapped(tuple(((f.Untold(shown),), self.element_data(data)) for _, _, data in held.elements))

    def any_verdict(self, held: Elements | None) -> e.Effect:
        """A verdict map whose key cannot be told: any of its verdicts, or none."""
        if held is None:
            return e.Unknown("a verdict map")
        return e.Choice(tuple(((f.Untold("its key"),), self.verdict(data or {})[0]) for _, _, data in held.elements))

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
    ) -> tuple[f.Condition, ...]:
        """What an element of a set asks for."""
        if not first:
            return ()  # the rest, whatever it is
        if len(keys) == 1 and held.is_interval:
            return self.interval(keys[0], first, beyond)
        asked: list[f.Condition] = []
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
                and loaded.field not in (f.ARRIVED_ON, f.LEAVES_ON)
            ):
                asked.append(
                    f.Among(loaded.field, between(int.from_bytes(low, "big"), int.from_bytes(high, "big") + 1))
                )
            else:
                asked.append(f.Untold(loaded.name))
            at += loaded.size + 3 & ~3
        return tuple(asked)

    def interval(self, loaded: Loaded, first: bytes, beyond: bytes | None) -> tuple[f.Condition, ...]:
        if loaded.special or not loaded.is_whole:
            return (f.Untold(loaded.name),)
        if loaded.field in (f.ARRIVED_ON, f.LEAVES_ON):
            name = text(first)
            return (f.Among(loaded.field, one(name) if is_next(first, beyond) else (name, name + f.LAST)),)
        if loaded.field < 0:
            return (f.Untold(loaded.name),)
        end = int.from_bytes(beyond, "big") if beyond is not None else f.domain(loaded.field, self.reader.family)[-1]
        return (f.Among(loaded.field, between(int.from_bytes(first, "big"), end)),)

    def all_at_once(self, keys: Sequence[Loaded], held: Elements) -> Span:
        """What a set of numbers asks for, or of their intervals, all at once; empty for any other."""
        loaded = keys[0]
        if len(keys) != 1 or loaded.special or loaded.field < 0 or loaded.field in (f.ARRIVED_ON, f.LEAVES_ON):
            return ()
        if not all(first for first, _, _ in held.elements):
            return ()
        end = f.domain(loaded.field, self.reader.family)[-1]
        number_of = int.from_bytes
        if not held.is_interval:
            left = (1 << f.width(loaded.field, self.reader.family)) - 1 & ~loaded.mask
            starts = sorted(number_of(first, loaded.order) for first, _, _ in held.elements)
            # The mask leaves the lowest bits open, and no value asks for one of them.
            is_plain = left & left + 1 == 0 and not any(start & left for start in starts)
            return joined((start, start + left + 1) for start in starts) if is_plain else ()
        if not loaded.is_whole:
            return ()
        return joined(
            sorted(
                (number_of(first, "big"), end if beyond is None else number_of(beyond, "big"))
                for first, beyond, _ in held.elements
            )
        )

    def union(self, alternatives: Sequence[tuple[f.Condition, ...]]) -> tuple[f.Condition, ...]:
        """That one of these holds: in one field a span."""
        if any(not each for each in alternatives):
            return ()
        fields = {each[0].field for each in alternatives if len(each) == 1 and isinstance(each[0], f.Among)}
        if len(fields) == 1 and all(len(each) == 1 and isinstance(each[0], f.Among) for each in alternatives):
            spans = [each[0].span for each in alternatives if isinstance(each[0], f.Among)]
            intervals = sorted((span[at], span[at + 1]) for span in spans for at in range(0, len(span), 2))
            return (f.Among(fields.pop(), joined(intervals)),)
        if not alternatives:
            return (f.NEVER,)
        return (f.AnyOf(tuple(alternatives)),)

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
            elif loaded.field in (f.ARRIVED_ON, f.LEAVES_ON):
                words = f"{text(first)}*"
            else:
                words = interval_words(loaded, first, beyond)
            shown.append(f"{words} : {self.verdict(data)[1]}" if data and 2 in data else words)
        more = ", …" if len(held.elements) > MOST_SHOWN else ""
        return f"{{ {', '.join(shown)}{more} }}"

    # --- what is done ---------------------------------------------------------------------------------

    def nat(self, read: dict[int, bytes]) -> None:
        """`snat` and `dnat`: addresses and ports stand in registers, as they are or as what a map gives."""
        if self.is_for_others(read.get(2)):
            self.do(e.Nothing(), "nat of the other family")  # nft_nat_inet_eval of net/netfilter/nft_nat.c
            return
        if number(read.get(1)) == 0:
            self.do(e.BindSource(), "snat")
        else:
            low, high, first, last = (number(read.get(key)) for key in (3, 4, 5, 6))
            size = 4 if self.reader.family is Family.V4 else 16
            # A map that gives both has the port behind the address, in one element.
            both = bool(low and first) and place_of(first) == place_of(low) + size
            mapped = self.at(low) if low else None
            if both and isinstance(mapped, Mapped):
                effect: e.Effect = mapped.to(
                    lambda data: e.Bind(((number_span(data[:size]), number_span(data[size : size + 2])),))
                )
            else:
                effect = self.bound(self.span(low, high, size), self.span(first, last, 2))
                if number(read.get(7)) & NETMAP and isinstance(effect, e.Bind):
                    effect = effect.but(is_mapped=True)
            self.do(effect, f"dnat to {end_words(effect, self.reader.family)}")
        self.is_over = True

    def redir(self, read: dict[int, bytes]) -> None:
        effect = self.bound(None, self.span(number(read.get(1)), number(read.get(2)), 2), is_here=True)
        ports = end_words(effect, self.reader.family)
        self.do(effect, f"redirect to {ports}" if ports else "redirect")
        self.is_over = True

    def span(self, low: int, high: int, size: int) -> Span | Mapped | e.Unknown | None:
        """What these two registers hold, from one value to the other; None without a register."""
        if not low:
            return None
        first, last = self.at(low), self.at(high) if high else b""
        if isinstance(first, Mapped):
            return first
        if not isinstance(first, bytes) or not isinstance(last, bytes):
            return e.Unknown("nat to something that cannot be told")
        low, end = (int.from_bytes(each[:size], "big") for each in (first, last or first))
        return (low, end + 1) if low <= end else e.Unknown("nat to something that cannot be told")

    @staticmethod
    def bound(
        addresses: Span | Mapped | e.Unknown | None, ports: Span | Mapped | e.Unknown | None, *, is_here: bool = False
    ) -> e.Effect:
        """Sent to these; of two maps it is not known what one gives where the other gives something."""
        if isinstance(addresses, tuple | None):
            if isinstance(ports, Mapped):
                return ports.to(lambda data: e.Bind(((addresses, number_span(data[:2])),), is_here))
            if isinstance(ports, tuple | None):
                return e.Bind(((addresses, ports),), is_here)
        elif isinstance(addresses, Mapped) and isinstance(ports, tuple | None):
            return addresses.to(lambda data: e.Bind(((number_span(data), ports),), is_here))
        return e.Unknown("nat to something that cannot be told")

    def masq(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(e.BindSource(), "masquerade")
        self.is_over = True

    def is_for_others(self, its: bytes | None) -> bool:
        """Whether an expression is for packets of this family alone, and it is not the one that is asked about."""
        wanted = FAMILY_NAMES.get(number(its), "")
        return wanted in IP_FAMILIES and self.reader.family not in IP_FAMILIES[wanted]

    def tproxy(self, read: dict[int, bytes]) -> None:
        if self.is_for_others(read.get(1)):
            self.ask([f.NEVER], "tproxy of the other family")
            return
        port = self.at(number(read.get(3))) if 3 in read else b"\0\0"
        if not isinstance(port, bytes):
            self.give_up("tproxy")
            return
        where = int.from_bytes(port[:2], "big")
        self.do(e.Hand(where, WHOLE, 0, accepts=False), f"tproxy to :{where}" if where else "tproxy")

    def queue(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(e.Queue(), "queue")
        self.is_over = True

    def reject(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(Reject(""), "reject")
        self.is_over = True

    def notrack(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(e.NoTrack(), "notrack")

    def nothing(self, read: dict[int, bytes]) -> None:
        """Counts, writes, or remembers."""

    def log(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        self.do(e.Nothing(), "log")

    def chance(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        """Holds for some packets and not for others: limit, quota."""
        self.ask([f.Untold("limit")], "limit")

    def connections(self, read: dict[int, bytes]) -> None:  # noqa: ARG002 # as all steps
        """Holds as long as there are few connections, which conntrack counts."""
        self.ask([f.Untold("ct count")], "ct count")

    def dynset(self, read: dict[int, bytes]) -> None:
        words = f"update @{text(read.get(1))}"
        if 7 in read or 10 in read or number(read.get(9)) & 1:
            self.ask([f.Untold(words)], words)
        else:
            self.do(e.Nothing(), words)

    def objref(self, read: dict[int, bytes]) -> None:
        kind = number(read.get(1))
        if kind in HARMLESS_OBJECTS and 1 in read:
            return
        if kind == SYNPROXY:
            self.give_up("synproxy")
        else:
            self.ask([f.Untold("a named object")], "a named object")

    def match(self, read: dict[int, bytes]) -> None:
        name = text(read.get(1))
        self.ask(() if name == "comment" else [f.Untold(f"xt match {name}")], "" if name == "comment" else f"xt {name}")

    def target(self, read: dict[int, bytes]) -> None:
        name = text(read.get(1))
        if name in GOES_ON:
            self.do(e.Nothing(), f"xt {name}")
        elif name in ("MASQUERADE", "SNAT"):
            self.do(e.BindSource(), f"xt {name}")
        else:
            self.give_up(f"xt target {name}")


def between(first: int, end: int) -> Span:
    """From one number to before another."""
    return (first, end) if first < end else ()


def number_span(data: bytes) -> Span:
    return one(int.from_bytes(data, "big"))


def states_in(mask: int) -> list[str]:
    return [name for name, bit in STATE_BITS.items() if bit & mask]


NAMES_OF = {f.PROTOCOL: "ip protocol", f.SOURCE: "saddr", f.DESTINATION: "daddr", f.SPORT: "sport", f.DPORT: "dport",
            f.TCP_FLAGS: "tcp flags"}  # fmt: skip


PROTOCOL_NAMES = {number: name for name, number in reversed(f.PROTOCOLS.items())}
META: dict[int, tuple[str, int, int]] = {
    META_MARK: ("meta mark", f.MARK, 4),
    META_IIFNAME: ("iifname", f.ARRIVED_ON, 16),
    META_OIFNAME: ("oifname", f.LEAVES_ON, 16),
    META_SKUID: ("meta skuid", f.UID, 4),
    META_SKGID: ("meta skgid", f.GID, 4),
    META_L4PROTO: ("meta l4proto", f.PROTOCOL, 1),
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
    "connlimit": _Program.connections,
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
