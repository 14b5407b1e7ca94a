"""What matches and targets of iptables mean that we neither write nor rewrite: those of others, kept to the letter.

What is not known here is not guessed: the match cannot be told, and of the target nothing is said. All of them are in
iptables-extensions(8); the arithmetic of marks is that of net/netfilter/xt_mark.c and xt_connmark.c.
"""

from __future__ import annotations

from rules.addresses import ip_address, ip_network
from rules.iptables.quoting import OPTIONS_UNREAD
from rules.netfilter import effects as e
from rules.netfilter import fields as f
from rules.netfilter.spans import joined, one
from rules.netfilter.targets import Reject, Zone
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from rules.netfilter.spans import Span

    Reader: TypeAlias = Callable[[Sequence[str]], tuple[f.Condition, ...] | None]

WHOLE = 0xFFFFFFFF
FLAGS = {"FIN": f.FIN, "SYN": f.SYN, "RST": f.RST, "PSH": f.PSH, "ACK": f.ACK, "URG": f.URG, "ECE": f.ECE, "CWR": f.CWR,
         "ALL": f.FIN | f.SYN | f.RST | f.PSH | f.ACK | f.URG, "NONE": 0}  # fmt: skip
KINDS = frozenset({"LOCAL", "UNICAST", "MULTICAST", "BROADCAST"})
"""The address types that can be told from a host's addresses."""
FIRST_ONLY = f.FIN | f.SYN | f.RST | f.ACK
"""The mask of `--syn`."""


# --- matches ----------------------------------------------------------------------------------------------


def match_meaning(words: Sequence[str]) -> tuple[f.Condition, ...]:
    """What a match asks for, from its words: a module with its options, or options of the packet itself."""
    found: list[f.Condition] = []
    module, at, began = "", 0, 0
    while at < len(words):
        if words[at] == "-m":
            module, at, began = words[at + 1] if at + 1 < len(words) else "", at + 2, len(found)
            if module in SAYS_NOTHING:
                return tuple(found)
            if module not in MODULES:
                return (*found, f.Untold(" ".join(words)))
            continue
        negated = words[at] == "!"
        at += negated
        option = words[at] if at < len(words) else ""
        end = at + 1
        while end < len(words) and words[end] != "!" and not (words[end].startswith("-") and words[end] != "-"):
            end += 1
        told = read(module, option, words[at + 1 : end])
        if option == "--ctproto" and asks_for_a_state_without_a_connection(words):
            told = None  # where it holds, nothing else is asked
        if told is None:
            certain = found if module in INDEPENDENT else found[:began]
            return (*certain, f.Untold(" ".join(words)))
        found += f.opposite(told, of_version(words)) if negated else told
        if (module, option) == ("conntrack", "--ctproto"):
            found.append(KNOWN)
        at = max(end, at + 1)
    return tuple(found)


def asks_for_a_state_without_a_connection(words: Sequence[str]) -> bool:
    if "--ctstate" not in words:
        return False
    at = words.index("--ctstate")
    named = ",".join(words[at + 1 : at + 2]).split(",")
    return words[at - 1] == "!" or not {"INVALID", "UNTRACKED"}.isdisjoint(named)


def read(module: str, option: str, values: Sequence[str]) -> tuple[f.Condition, ...] | None:
    reader = OPTIONS.get((module, option))
    try:
        return reader(values) if reader else None
    except (ValueError, KeyError, IndexError):
        return None


def of_version(words: Sequence[str]) -> dict[int, Span]:
    """What addresses can be, in the family of these words."""
    family = Family.V6 if any(":" in word for word in words) else Family.V4
    return {f.SOURCE: f.domain(f.SOURCE, family), f.DESTINATION: f.domain(f.DESTINATION, family)}


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


def port_span(text: str) -> Span:
    """`80`, `80:90`, or a list of these."""
    intervals = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        low = port(first) if first else 0
        intervals.append((low, (port(last) if last else 65535 if colon else low) + 1))
    return joined(sorted(intervals))


def ports(*fields: int) -> Reader:
    def read_ports(values: Sequence[str]) -> tuple[f.Condition, ...]:
        (text,) = values
        each = tuple(f.Among(field, port_span(text)) for field in fields)
        return each if len(each) == 1 else (f.AnyOf(tuple((way,) for way in each)),)

    return read_ports


def address(field: int) -> Reader:
    """A network whose mask may be no prefix length."""

    def read_address(values: Sequence[str]) -> tuple[f.Condition, ...]:
        (text,) = values
        host, slash, mask = text.partition("/")
        number, bits = int(ip_address(host)), 128 if ":" in host else 32
        if not slash:
            return (f.Among(field, one(number)),)
        if mask.isdigit():
            network = ip_network(text, strict=False)
            first = int(network.network_address)
            return (f.Among(field, (first, first + network.num_addresses)),)
        bits_asked = int(ip_address(mask))
        return (f.masked(field, bits_asked, number & bits_asked, bits),)

    return read_address


def address_range(field: int) -> Reader:
    def read_range(values: Sequence[str]) -> tuple[f.Condition, ...]:
        (text,) = values
        first, _, last = text.partition("-")
        return (f.Among(field, (int(ip_address(first)), int(ip_address(last or first)) + 1)),)

    return read_range


def mark(field: int) -> Reader:
    def read_mark(values: Sequence[str]) -> tuple[f.Condition, ...]:
        (text,) = values
        value, mask = value_and_mask(text)
        return (f.masked(field, mask, value, 32),)

    return read_mark


def value_and_mask(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if mask else WHOLE


def states(values: Sequence[str]) -> tuple[f.Condition, ...]:
    (text,) = values
    return (state_condition(text.split(",")),)


def state_condition(names: Sequence[str]) -> f.Condition:
    """One of these states of conntrack; SNAT and DNAT are asked of the connection, beside the others."""
    plain = f.Among(f.STATE, joined((at, at + 1) for at, state in enumerate(f.STATES) if state in names))
    rewritten = {"SNAT": (f.SNAT, f.BOTH + 1), "DNAT": (f.DNAT, f.DNAT + 1, f.BOTH, f.BOTH + 1)}
    alternatives = [f.Among(f.REWRITTEN, span) for name, span in rewritten.items() if name in names]
    if not alternatives:
        return plain
    return f.AnyOf(tuple((way,) for way in ([plain] if plain.span else []) + alternatives))


def tcp_flags(values: Sequence[str]) -> tuple[f.Condition, ...]:
    mask, compared = values
    bits = [sum(FLAGS[name] for name in set(text.split(","))) for text in (mask, compared)]
    return (f.masked(f.TCP_FLAGS, bits[0], bits[1], 8),)


def syn(values: Sequence[str]) -> tuple[f.Condition, ...]:  # noqa: ARG001 # as all readers
    return (f.masked(f.TCP_FLAGS, FIRST_ONLY, f.SYN, 8),)


def fragment(values: Sequence[str]) -> tuple[f.Condition, ...]:  # noqa: ARG001 # as all readers
    """Conntrack puts fragments together before any table is asked, and the first is none."""
    return (f.NEVER,)


def address_type(field: int) -> Reader:
    def read_type(values: Sequence[str]) -> tuple[f.Condition, ...] | None:
        (text,) = values
        kinds = tuple(text.split(","))
        return (f.OfType(field, kinds),) if KINDS.issuperset(kinds) else None

    return read_type


def owner(field: int) -> Reader:
    def read_owner(values: Sequence[str]) -> tuple[f.Condition, ...]:
        (text,) = values
        first, _, last = text.partition("-")
        return (f.Among(field, (int(first), int(last or first) + 1)),)

    return read_owner


def has_socket(values: Sequence[str]) -> tuple[f.Condition, ...]:  # noqa: ARG001 # as all readers
    return (f.Among(f.UID, (f.NOBODY[-1], f.OWNERS[-1])),)


def protocol(values: Sequence[str]) -> tuple[f.Condition, ...]:
    (name,) = values
    return (f.Among(f.PROTOCOL, one(int(name) if name.isdigit() else f.PROTOCOLS[name])),)


KNOWN = f.Among(f.STATE, f.KNOWN_STATES)
"""A packet of a connection: of any other conntrack asks nothing but its state (conntrack_mt of
net/netfilter/xt_conntrack.c)."""
SAYS_NOTHING = frozenset({"comment"})
MODULES = frozenset(
    {"", "tcp", "udp", "multiport", "iprange", "mark", "connmark", "conntrack", "state", "addrtype", "owner"}
)
INDEPENDENT = frozenset({"", "tcp", "udp", "conntrack"})
"""Those whose options each narrow what is met. Of others one may change what another means: `--suppl-groups` of owner
lets more groups in, and with `--limit-iface-out` of addrtype fewer addresses are LOCAL."""
OPTIONS: dict[tuple[str, str], Reader] = {
    ("", "-p"): protocol,
    ("", "-s"): address(f.SOURCE),
    ("", "-d"): address(f.DESTINATION),
    ("", "-f"): fragment,
    ("", "--sport"): ports(f.SPORT),
    ("", "--dport"): ports(f.DPORT),
    ("", "--tcp-flags"): tcp_flags,
    ("", "--syn"): syn,
    ("tcp", "--sport"): ports(f.SPORT),
    ("tcp", "--dport"): ports(f.DPORT),
    ("tcp", "--tcp-flags"): tcp_flags,
    ("tcp", "--syn"): syn,
    ("udp", "--sport"): ports(f.SPORT),
    ("udp", "--dport"): ports(f.DPORT),
    ("multiport", "--sports"): ports(f.SPORT),
    ("multiport", "--dports"): ports(f.DPORT),
    ("multiport", "--ports"): ports(f.SPORT, f.DPORT),
    ("iprange", "--src-range"): address_range(f.SOURCE),
    ("iprange", "--dst-range"): address_range(f.DESTINATION),
    ("mark", "--mark"): mark(f.MARK),
    ("connmark", "--mark"): mark(f.CONNMARK),
    ("conntrack", "--ctstate"): states,
    ("conntrack", "--ctproto"): protocol,
    ("state", "--state"): states,
    ("addrtype", "--src-type"): address_type(f.SOURCE),
    ("addrtype", "--dst-type"): address_type(f.DESTINATION),
    ("owner", "--uid-owner"): owner(f.UID),
    ("owner", "--gid-owner"): owner(f.GID),
    ("owner", "--socket-exists"): has_socket,
}
"""How each option is read, by its module."""


# --- targets ----------------------------------------------------------------------------------------------


GOES_ON = frozenset({
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "ECN", "IDLETIMER", "LED", "LOG", "NFLOG", "RATEEST", "SECMARK",
    "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TRACE", "TTL", "ULOG",
})  # fmt: skip
"""Targets behind which the walk goes on, and which change nothing that decides where a packet goes."""
SET_TO_NOTHING = frozenset({"0", "0x0", "0x00", "0x00/0xff"})
"""The values of these that a packet has whose sender asked for nothing."""
RETAGS = frozenset({"DSCP", "HL", "TOS"})
"""Those that change what a chain of type route compares before and after (nf_route_table_hook4 and nf_route_table_hook6
of net/netfilter/nft_chain_route.c, ipt_mangle_out and ip6t_mangle_out)."""


def target_meaning(words: Sequence[str]) -> e.Effect:
    """What a target does, from its words with their `-j` or `-g`."""
    if not words:
        return e.Nothing()
    name = words[1] if len(words) > 1 else ""
    if words[0] == "-g":
        return e.Goto(name)
    if name in RETAGS:
        return e.Retag(" ".join(words)) if SET_TO_NOTHING.isdisjoint(words) else e.Nothing()
    if name in GOES_ON:
        return e.Nothing()
    reader = TARGETS.get(name) if OPTIONS_UNREAD not in words else None
    try:
        return reader(options_of(words[2:])) if reader else e.Unknown(" ".join(words))
    except (ValueError, KeyError, IndexError):
        return e.Unknown(" ".join(words))


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Options with their values; those without one have the empty word."""
    options: dict[str, str] = {}
    for word in words:
        if word.startswith("--"):
            options[word] = ""
        elif options:
            options[next(reversed(options))] = word
    return options


def set_mark(options: dict[str, str]) -> e.Effect:
    return mark_set(f.MARK, options)


def mark_set(onto: int, options: dict[str, str]) -> e.Remark:
    """`--set-xmark`, which iptables-save prints for all of them; and those for people."""
    (option, text), *_ = options.items()
    value, mask = value_and_mask(text)
    match option:
        case "--set-xmark":
            return e.Remark(onto, WHOLE & ~mask, 0, value)
        case "--set-mark":
            return e.Remark(onto, WHOLE & ~(mask | value), 0, value)
        case "--and-mark":
            return e.Remark(onto, value, 0, 0)
        case "--or-mark":
            return e.Remark(onto, WHOLE & ~value, 0, value)
        case "--xor-mark":
            return e.Remark(onto, WHOLE, 0, value)
        case _:
            raise KeyError(option)


def connmark(options: dict[str, str]) -> e.Effect:
    if "--left-shift-mark" in options or "--right-shift-mark" in options:
        return e.Forget(f.MARK if "--restore-mark" in options else f.CONNMARK)
    both = options.get("--mask", hex(WHOLE))
    of_packet, of_connection = (int(options.get(name, both), 0) for name in ("--nfmask", "--ctmask"))
    if "--save-mark" in options:
        return e.Remark(f.CONNMARK, WHOLE & ~of_connection, of_packet, 0)
    if "--restore-mark" in options:
        return e.Remark(f.MARK, WHOLE & ~of_packet, of_connection, 0)
    return mark_set(f.CONNMARK, options)


def conntrack(options: dict[str, str]) -> e.Effect:
    if "--notrack" in options:
        return e.NoTrack()
    # A zone of one direction only (--zone-orig, --zone-reply) keeps answers known.
    zone = options.get("--zone", "0")
    return Zone(int(zone)) if zone.isdigit() and int(zone) else e.Nothing()


def redirect(options: dict[str, str]) -> e.Effect:
    return e.Bind(((None, target_ports(options["--to-ports"]) if "--to-ports" in options else None),), is_here=True)


def target_ports(text: str) -> Span:
    """`8000` or `8000-8010`; behind a slash stands where the counting begins."""
    first, _, last = text.partition("/")[0].partition("-")
    return port(first), port(last or first) + 1


def dnat(options: dict[str, str]) -> e.Effect:
    text = options["--to-destination"]
    host, ports_text = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        ports_text = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, ports_text = text.partition(":")
    first, _, last = host.partition("-")
    first, last = first.strip("[]"), last.strip("[]")
    addresses = (int(ip_address(first)), int(ip_address(last or first)) + 1) if first else None
    return e.Bind(((addresses, target_ports(ports_text) if ports_text else None),))


def netmap(options: dict[str, str]) -> e.Effect:
    """Each address of one network becomes its counterpart of the other."""
    network = ip_network(options["--to"], strict=False)
    first = int(network.network_address)
    return e.Bind((((first, first + network.num_addresses), None),), is_mapped=True)


def tproxy(options: dict[str, str]) -> e.Effect:
    on = options.get("--on-ip", "")
    if on and not ip_address(on).is_unspecified:
        return e.Unknown(f"-j TPROXY --on-ip {on}")
    value, mask = value_and_mask(options.get("--tproxy-mark") or "0/0")
    return e.Hand(port(options.get("--on-port") or "0"), WHOLE & ~mask, value)


TARGETS: dict[str, Callable[[dict[str, str]], e.Effect]] = {
    "MARK": set_mark,
    "CONNMARK": connmark,
    "HMARK": lambda _: e.Forget(f.MARK),
    "CT": conntrack,
    "NOTRACK": lambda _: e.NoTrack(),
    "REDIRECT": redirect,
    "DNAT": dnat,
    "NETMAP": netmap,
    "SNAT": lambda _: e.BindSource(),
    "MASQUERADE": lambda _: e.BindSource(),
    "TPROXY": tproxy,
    "REJECT": lambda options: Reject(options.get("--reject-with", "")),
    "NFQUEUE": lambda _: e.Queue(),
    "QUEUE": lambda _: e.Queue(),
}
"""How the options of each target are read."""
