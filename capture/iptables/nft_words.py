"""A rule of nf_tables in the words of iptables, as far as these go: for rules that iptables-save does not print.

It refuses a whole table for one native statement, and of a native set it prints nothing, so that the rule reads as one
that matches more. What has no words here stands in brackets, as iptables-save has it itself (`[unsupported revision]`),
and is a match that nobody knows: such a rule is never said to take this packet or that.
"""

from __future__ import annotations

import sys

from capture.netlink.messages import attributes, pairs
from rules.addresses import IPv4Address, IPv6Address
from rules.iptables.quoting import MARKER, OPTIONS_UNREAD, as_saved
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeAlias

    Attributes: TypeAlias = Mapping[int, bytes]

# linux/netfilter/nf_tables.h
HANDLE, EXPRESSIONS = 3, 4
EXPR_NAME, EXPR_DATA = 1, 2
META_DREG, META_KEY, META_SREG = 1, 2, 3
MARK, IIFNAME, OIFNAME, L4PROTO = 3, 6, 7, 16
PAYLOAD_DREG, PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LEN = 1, 2, 3, 4
NETWORK, TRANSPORT = 1, 2
BITWISE_MASK, BITWISE_XOR = 4, 5
CMP_OP, CMP_DATA = 2, 3
EQUAL, NOT_EQUAL, AT_MOST, AT_LEAST = 0, 1, 3, 5
RANGE_OP, RANGE_FROM, RANGE_TO = 2, 3, 4
IMMEDIATE_DATA = 2
DATA_VALUE, DATA_VERDICT = 1, 2
VERDICT_CODE, VERDICT_CHAIN = 1, 2
NAT_TYPE, DNAT = 1, 1
XT_NAME, XT_REVISION, XT_INFO = 1, 2, 3
PORTS_GIVEN = 2
"""NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h."""
REDIRECT_ENDS = {16: (4, 16, 18), 24: (4, 16, 18), 40: (0, 36, 38)}
"""Where struct nf_nat_ipv4_multi_range_compat, and nf_nat_range of IPv6, have flags and ports (by size)."""
WITHOUT_OPTIONS = frozenset({"MASQUERADE", "SNAT", "TRACE", "CHECKSUM"})
"""Targets that do the same to a packet's way whatever their options."""
COUNTER_BYTES, COUNTER_PACKETS = 1, 2

VERDICTS = {0: "-j DROP", 1: "-j ACCEPT", -5: "-j RETURN", -1: ""}
"""NF_DROP, NF_ACCEPT, NFT_RETURN, NFT_CONTINUE."""
JUMP, GOTO = -3, -4
STATEMENTS = {
    "masq": "-j MASQUERADE",
    "notrack": "-j NOTRACK",
    "queue": "-j NFQUEUE",
    "redir": "-j REDIRECT",
    "reject": "-j REJECT",
    "tproxy": "-j TPROXY",
}
"""What ends a rule, but for its details, by the name of the expression."""
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
PROTOCOL_FIELD = {Family.V4: 9, Family.V6: 6}
ADDRESS_FIELDS = {Family.V4: {12: "-s", 16: "-d"}, Family.V6: {8: "-s", 24: "-d"}}
"""Where they stand in the header of the network."""
STATES = {1: "INVALID", 2: "ESTABLISHED", 4: "RELATED", 8: "NEW", 256: "UNTRACKED"}
"""The bits of linux/netfilter/xt_conntrack.h."""
STATE_FLAG, MATCH_FLAGS, INVERT_FLAGS, STATE_MASK = 1, 146, 148, 150
"""Where they stand in struct xt_conntrack_mtinfo3, behind sixteen addresses, two times and five ports."""


def expressions(rule: Attributes) -> Iterator[tuple[str, dict[int, bytes]]]:
    """The steps of a rule: the name of each, and its attributes."""
    for _, element in pairs(rule.get(EXPRESSIONS, b"")):
        read = attributes(element)
        yield string(read.get(EXPR_NAME)), attributes(read.get(EXPR_DATA, b""))


def number(raw: bytes | None) -> int:
    """An attribute of nf_tables, in network order; 0 if it is not there."""
    return int.from_bytes(raw or b"", "big")


def handle(rule: Attributes) -> int:
    return number(rule.get(HANDLE))


def counted(rule: Attributes) -> str:
    """What it counted, as iptables-save -c begins a line: `[packets:bytes] `."""
    found = next((read for name, read in expressions(rule) if name == "counter"), {})
    return f"[{number(found.get(COUNTER_PACKETS))}:{number(found.get(COUNTER_BYTES))}] "


def marked(rule: Attributes, text: str) -> str:
    """The text of a rule that iptables does not find again by it."""
    return f"{MARKER}{handle(rule)}] {text}".rstrip()


def left_out(rule: Attributes, family: Family) -> str:
    """What iptables-save leaves out of a rule that it prints, in brackets; empty if nothing.

    Of what it does not know it says so, but for sets, and for addresses and names that are compared by size.
    """
    return " ".join(word for word in words(rule, family) if word in UNSAID)


BY_SIZE = "[range]"
UNSAID = ("[lookup]", BY_SIZE)


def led_to(rule: Attributes) -> str:
    """The chain that it jumps or goes to; empty if to none."""
    for name, read in expressions(rule):
        if name == "immediate":
            verdict = attributes(attributes(read.get(IMMEDIATE_DATA, b"")).get(DATA_VERDICT, b""))
            if VERDICT_CHAIN in verdict:
                return string(verdict[VERDICT_CHAIN])
    return ""


def string(raw: bytes | None) -> str:
    """An attribute that ends with a zero. Bytes that are no UTF-8 are kept (PEP 383)."""
    return (raw or b"").rstrip(b"\0").decode(errors="surrogateescape")


def text_of(rule: Attributes, family: Family) -> str:
    """The rule behind its `-A CHAIN`."""
    return marked(rule, " ".join(words(rule, family)))


def words(rule: Attributes, family: Family) -> Iterator[str]:
    """The matches and the target, one by one; what has no words by the name of its expression."""
    protocol = ""
    loaded: tuple[object, ...] = ()
    mask: bytes | None = None
    waiting, lowest = False, 0
    for name, read in expressions(rule):
        match name:
            case "counter" | "log":
                continue
            case "meta" if META_DREG in read:
                loaded, mask, waiting = ("meta", number(read.get(META_KEY))), None, True
            case "payload" if PAYLOAD_DREG in read:
                place = (number(read.get(key)) for key in (PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LEN))
                loaded, mask, waiting = ("payload", *place), None, True
            case "bitwise" if waiting and not number(value(read, BITWISE_XOR)):
                mask = value(read, BITWISE_MASK)
            case "cmp" if is_port(loaded) and number(read.get(CMP_OP)) == AT_LEAST:
                lowest = number(value(read, CMP_DATA))
            case "cmp" if is_port(loaded) and number(read.get(CMP_OP)) == AT_MOST:
                waiting = False
                yield port(loaded, protocol, f"{lowest}:{number(value(read, CMP_DATA))}", "")
            case "range" if is_port(loaded):
                waiting = False
                span = ":".join(str(number(value(read, key))) for key in (RANGE_FROM, RANGE_TO))
                yield port(loaded, protocol, span, "! " if number(read.get(RANGE_OP)) == NOT_EQUAL else "")
            case "cmp":
                asked = compared(loaded, mask, value(read, CMP_DATA), family, protocol)
                op = number(read.get(CMP_OP))
                waiting = False
                if not asked or op not in (EQUAL, NOT_EQUAL):
                    yield "[field]" if op in (EQUAL, NOT_EQUAL) else BY_SIZE
                    continue
                module, option = asked
                yield f"{module}{'! ' if op == NOT_EQUAL else ''}{option}"
                if option.startswith("-p ") and op == EQUAL:
                    protocol = option[3:]
            case "immediate":
                verdict = attributes(attributes(read.get(IMMEDIATE_DATA, b"")).get(DATA_VERDICT, b""))
                if verdict:
                    yield from filter(None, [verdict_text(verdict)])
            case "match":
                yield xt_match(read)
            case "target":
                yield xt_target(read)
            case "nat":
                yield "-j DNAT" if number(read.get(NAT_TYPE)) == DNAT else "-j SNAT"
            case _ if name in STATEMENTS:
                yield STATEMENTS[name]
            case _:
                waiting = False
                yield f"[{name}]"
    if waiting:
        yield "[load]"


def is_port(loaded: tuple[object, ...]) -> bool:
    return loaded in (("payload", TRANSPORT, 0, 2), ("payload", TRANSPORT, 2, 2))


def port(loaded: tuple[object, ...], protocol: str, span: str, negation: str) -> str:
    """A match of a port, which takes a protocol beside it."""
    module = f"-m {protocol} " if protocol else "[th] "
    return f"{module}{negation}--{'dport' if loaded[2] else 'sport'} {span}"


def value(read: Attributes, key: int) -> bytes:
    return attributes(read.get(key, b"")).get(DATA_VALUE, b"")


def verdict_text(verdict: Attributes) -> str:
    code = int.from_bytes(verdict.get(VERDICT_CODE, b""), "big", signed=True)
    if code in (JUMP, GOTO):
        return f"{'-j' if code == JUMP else '-g'} {string(verdict.get(VERDICT_CHAIN))}"
    return VERDICTS.get(code, f"[verdict {code}]")


def compared(
    loaded: tuple[object, ...], mask: bytes | None, data: bytes, family: Family, protocol: str
) -> tuple[str, str] | None:
    """The module with its `-m`, and the option, that asks the same; None if iptables has none that we know."""
    match loaded:
        case ("meta", key) if key == L4PROTO:
            return "", f"-p {PROTOCOLS.get(number(data), str(number(data)))}"
        case ("payload", base, offset, 1) if base == NETWORK and offset == PROTOCOL_FIELD[family]:
            return "", f"-p {PROTOCOLS.get(number(data), str(number(data)))}"
        case ("meta", key) if key in (IIFNAME, OIFNAME) and mask is None:
            # iptables compares a name with its zero, and of `eth+` what stands before the plus.
            name = string(data)
            plus = "" if data.endswith(b"\0") or len(data) == 16 else "+"
            return "", f"{'-i' if key == IIFNAME else '-o'} {name}{plus}"
        case ("meta", key) if key == MARK:
            marks = [f"{int.from_bytes(each, sys.byteorder):#x}" for each in (data, *([mask] if mask else []))]
            return "-m mark ", f"--mark {'/'.join(marks)}"
        case ("payload", base, int(offset), int(size)) if base == NETWORK and offset in ADDRESS_FIELDS[family]:
            return address(ADDRESS_FIELDS[family][offset], data, mask or b"\xff" * size, family)
        case ("payload", _, offset, _) if is_port(loaded) and protocol and mask is None:
            return f"-m {protocol} ", f"--{'dport' if offset else 'sport'} {number(data)}"
        case ("payload", base, 0, 4) if base == TRANSPORT and protocol and mask is None:
            return f"-m {protocol} ", f"--sport {number(data[:2])} --dport {number(data[2:])}"
        case _:
            return None


def address(option: str, data: bytes, mask: bytes, family: Family) -> tuple[str, str] | None:
    """A network: iptables loads only as many bytes of an address as its prefix has."""
    size = 4 if family is Family.V4 else 16
    bits = f"{number(mask):0{len(mask) * 8}b}"
    length = len(bits.rstrip("0"))
    if "0" in bits[:length] or len(data) > size:
        return None
    whole = data.ljust(size, b"\0")
    made = IPv4Address(whole) if family is Family.V4 else IPv6Address(whole)
    return "", f"{option} {made}/{length}"


def xt_target(read: Attributes) -> str:
    """A target of iptables' own, of which the kernel tells a struct; `[options]` for one that is not read here."""
    name = string(read.get(XT_NAME))
    info = read.get(XT_INFO, b"")
    at = REDIRECT_ENDS.get(len(info) // 8 * 8)
    if name == "REDIRECT" and at is not None:
        flags, (first, last) = at[0], (number(info[end : end + 2]) for end in at[1:])
        if not int.from_bytes(info[flags : flags + 4], sys.byteorder) & PORTS_GIVEN:
            return "-j REDIRECT"
        return f"-j REDIRECT --to-ports {first}{f'-{last}' if last != first else ''}"
    return f"-j {name}" if name in WITHOUT_OPTIONS else f"-j {name} {OPTIONS_UNREAD}"


def xt_match(read: Attributes) -> str:
    """A match of iptables' own, of which the kernel tells a struct."""
    name = string(read.get(XT_NAME))
    info = read.get(XT_INFO, b"")
    if name == "comment":
        return f"-m comment --comment {as_saved(string(info.partition(bytes(1))[0]))}"
    if name == "conntrack" and number(read.get(XT_REVISION)) == 3 and len(info) >= STATE_MASK + 2:
        flags, inverted, states = (
            int.from_bytes(info[at : at + 2], sys.byteorder) for at in (MATCH_FLAGS, INVERT_FLAGS, STATE_MASK)
        )
        named = [STATES[bit] for bit in STATES if states & bit]
        if flags == STATE_FLAG and sum(bit for bit in STATES if states & bit) == states:
            return f"-m conntrack {'! ' if inverted & STATE_FLAG else ''}--ctstate {','.join(named)}"
    return f"[{name}]"
