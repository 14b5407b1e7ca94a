"""The words of netfilter as values: families, tables, matches, targets, rules and rulesets.

Every value is frozen, slotted, and told apart by its type. They are made by `Value`, which does what a frozen,
slotted dataclass does without generating code: thirty dataclasses cost an init container's start-up as much
time as everything else it does, because `dataclasses` imports `inspect` and compiles each method.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, ClassVar, NoReturn, Self, TypeAlias, dataclass_transform
else:

    def dataclass_transform(**_claims):
        return lambda it: it


class _ValueType(type):
    """Turns the annotations of a class body into slots, in order, and its assigned names into defaults."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _ValueType:
        fields = tuple(f for f, kind in body.get("__annotations__", {}).items() if not kind.startswith("ClassVar"))
        defaults = {field: body.pop(field) for field in fields if field in body}
        body["__slots__"] = body["__match_args__"] = fields
        body["_defaults"] = defaults
        return super().__new__(cls, name, bases, body)


@dataclass_transform(frozen_default=True)
class Value(metaclass=_ValueType):
    """A frozen record: compared, hashed and shown by its fields, and equal only to its own type.

    A subclass states its fields as annotations, with defaults where it has them, and may check them in `checked`.
    """

    __match_args__: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[dict[str, Any]]

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.__match_args__
        if len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, not {len(values)}")
        for field, value in zip(fields, values, strict=False):
            object.__setattr__(self, field, value)
        for field in fields[len(values) :]:
            if field in named:
                object.__setattr__(self, field, named.pop(field))
            elif field in self._defaults:
                object.__setattr__(self, field, self._defaults[field])
            else:
                raise TypeError(f"{type(self).__name__} needs {field}")
        if named:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(named)}")
        self.checked()

    def checked(self) -> None:
        """Raises ValueError for fields that cannot mean anything together. By default all can."""

    def __setattr__(self, field: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {field} cannot be set")

    def __delattr__(self, field: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {field} cannot be deleted")

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__name__}({inside})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self._fields())

    def but(self, **changed: Any) -> Self:
        """The same value with some fields replaced."""
        return type(self)(**({field: getattr(self, field) for field in self.__match_args__} | changed))


def assert_never(value: NoReturn) -> NoReturn:
    """The end of a match that covers its union; `typing.assert_never` without importing `typing`."""
    raise AssertionError(f"no case for {value!r}")


# --- where ------------------------------------------------------------------------------------------------


class Family(Enum):
    """An address family that netfilter keeps separate tables for."""

    V4 = "IPv4"
    V6 = "IPv6"


RAW = "raw"
MANGLE = "mangle"
NAT = "nat"
FILTER = "filter"

PREROUTING = "PREROUTING"
OUTPUT = "OUTPUT"

BUILT_IN: dict[str, frozenset[str]] = {
    "raw": frozenset({PREROUTING, OUTPUT}),
    "mangle": frozenset({PREROUTING, "INPUT", "FORWARD", OUTPUT, "POSTROUTING"}),
    "nat": frozenset({PREROUTING, "INPUT", OUTPUT, "POSTROUTING"}),
    "filter": frozenset({"INPUT", "FORWARD", OUTPUT}),
    "security": frozenset({"INPUT", "FORWARD", OUTPUT}),
}
"""The built-in chains of each table, by its name in save text (iptables(8), TABLES). `security` is one we only read."""

if TYPE_CHECKING:
    Network: TypeAlias = IPv4Network | IPv6Network


class All(Value):
    """Everything: the `*` of a list."""


ALL = All()


class Ports(Value):
    """TCP or UDP ports from `first` to `last`, both included, 1 to 65535."""

    first: int
    last: int

    def checked(self) -> None:
        if not 1 <= self.first <= self.last <= 65535:
            raise ValueError(f"{self.first}:{self.last} is not a range of ports")

    @classmethod
    def one(cls, port: int) -> Ports:
        return cls(port, port)

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}:{self.last}"


# --- matches ----------------------------------------------------------------------------------------------


class Proto(Value):
    """The transport protocol, by its name in /etc/protocols (`tcp`, `udp`, `icmp`)."""

    name: str


class Src(Value):
    """The packet comes from this network."""

    network: Network


class Dst(Value):
    """The packet goes to this network."""

    network: Network


class InIface(Value):
    """It arrived on this interface; a trailing `+` means every name that begins so. Not known in OUTPUT."""

    name: str


class OutIface(Value):
    """It will leave on this interface; a trailing `+` means every name that begins so. Not known in PREROUTING."""

    name: str


class DPort(Value):
    """Its destination port is one of these. Needs a `Proto` of tcp or udp beside it (iptables-extensions(8), tcp)."""

    ports: Ports


class SPort(Value):
    """Its source port is one of these. Needs a `Proto` of tcp or udp beside it."""

    ports: Ports


class DPorts(Value):
    """Its destination port is in one of these ranges: the multiport match, at most 15 places, a range takes two."""

    ranges: tuple[Ports, ...]

    def checked(self) -> None:
        if not self.ranges or sum(places(ports) for ports in self.ranges) > MULTIPORT_PLACES:
            raise ValueError(f"multiport holds 1 to {MULTIPORT_PLACES} places, a range takes two")


MULTIPORT_PLACES = 15
"""XT_MULTI_PORTS of the kernel's xt_multiport.h."""


def places(ports: Ports) -> int:
    """How many of a multiport match's places these take."""
    return 1 if ports.first == ports.last else 2


class OwnerUid(Value):
    """The socket that sends it was opened by this uid. Only packets made on this host have an owner."""

    uid: int


class OwnerUids(Value):
    """The socket that sends it was opened by a uid from `first` to `last`, both included."""

    first: int
    last: int

    def checked(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(f"{self.first}-{self.last} is not a range of uids")


class OwnerGid(Value):
    """The socket that sends it was opened with this effective gid (supplementary groups do not count)."""

    gid: int


class CtState(Value):
    """Conntrack puts it in one of these states (`NEW`, `ESTABLISHED`, `INVALID` …)."""

    states: frozenset[str]


class Mark(Value):
    """It carries exactly this fwmark, 32 bits wide."""

    value: int


class ConnMark(Value):
    """Its connection remembers exactly this mark."""

    value: int


class Limit(Value):
    """It is among the first so many in a unit of time (`10/sec`), with bursts of up to five."""

    rate: str


class Foreign(Value):
    """A match we do not speak, kept to the letter, module and all: another tool's rule, never ours to change."""

    text: str


class Not(Value):
    """The match does not hold."""

    match: Plain


if TYPE_CHECKING:
    Owner: TypeAlias = OwnerUid | OwnerUids | OwnerGid
    Plain: TypeAlias = (
        Proto | Src | Dst | InIface | OutIface | DPort | SPort | DPorts | Owner | CtState | Mark | ConnMark | Limit
    )
    Match: TypeAlias = Plain | Not | Foreign


# --- targets ----------------------------------------------------------------------------------------------


class Return(Value):
    """Back to the chain that jumped here; in a built-in chain, its policy."""


class Accept(Value):
    """Let it through: no further rule of this table is asked."""


class Drop(Value):
    """Discard it without an answer."""


class Jump(Value):
    """Ask the rules of this user-defined chain, then go on behind this rule unless one of them decided."""

    chain: str


class Redirect(Value):
    """Change its destination to this host and this port (iptables-extensions(8), REDIRECT). Needs a `Proto`."""

    port: int


class Dnat(Value):
    """Change its destination to this address and port (iptables-extensions(8), DNAT). Needs a `Proto`."""

    address: IPv4Address | IPv6Address
    port: int


class Tproxy(Value):
    """Hand it, unchanged, to the transparent listener on this port, and mark it so that routing keeps it here.

    See iptables-extensions(8), TPROXY, and the kernel's Documentation/networking/tproxy.rst.
    """

    port: int
    mark: int


class SetMark(Value):
    """Give it this fwmark, and go on behind this rule."""

    value: int


class SaveMark(Value):
    """Have its connection remember its fwmark, and go on behind this rule."""


class RestoreMark(Value):
    """Give it the mark that its connection remembers, and go on behind this rule."""


class Zone(Value):
    """Keep its connection in this conntrack zone, and go on behind this rule. For the raw table."""

    zone: int


class Reject(Value):
    """Discard it and answer with this error (iptables-extensions(8), REJECT). For the filter table."""

    answer: str


class Log(Value):
    """Write it to the kernel log behind this prefix, with the uid that sent it, and go on behind this rule."""

    prefix: str


class Nflog(Value):
    """Send it to the listeners of this nfnetlink_log group behind this prefix, and go on behind this rule."""

    group: int
    prefix: str


class ForeignTarget(Value):
    """A target we do not speak, kept to the letter with its `-j` or `-g`; empty for a rule that only counts."""

    text: str


if TYPE_CHECKING:
    Verdict: TypeAlias = Return | Accept | Drop | Jump | Redirect | Dnat | Tproxy | Reject
    Remark: TypeAlias = SetMark | SaveMark | RestoreMark | Zone | Log | Nflog
    Target: TypeAlias = Verdict | Remark | ForeignTarget


# --- rules ------------------------------------------------------------------------------------------------


class Rule(Value):
    """Matches that must all hold, and the target if they do.

    Two rules are equal if the kernel cannot tell them apart: the order of the matches and the two fields that
    are for people do not count.
    """

    matches: tuple[Match, ...]
    target: Target
    why: str = ""
    """What this rule is for, in the words of someone reading a trace. Empty in what was read from the kernel."""
    setting: str = ""
    """The field of `Intent` that asked for it; empty if every capture has this rule."""

    def _meaning(self) -> tuple[frozenset[Match], Target]:
        return (frozenset(self.matches), self.target)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return False
        return self.target == other.target and (
            self.matches == other.matches or frozenset(self.matches) == frozenset(other.matches)
        )

    def __hash__(self) -> int:
        return hash(self._meaning())


class When(Value):
    """The matches of a rule that waits for its target, so that a flow reads: when this, then that."""

    matches: tuple[Match, ...]

    def then(self, target: Target, *, why: str, setting: str = "") -> Rule:
        return Rule(self.matches, target, why, setting)


def when(*matches: Match) -> When:
    """`when(TCP, DPort(22)).then(BYPASS, why=…)`."""
    return When(matches)


class Block(Value):
    """Consecutive rules of one chain, as text has them. A chain is all its blocks, in order."""

    chain: str
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, chain: str, *answers: Iterable[Rule]) -> Block:
        """The rules of several questions, asked one after the other."""
        return cls(chain, tuple(rule for answer in answers for rule in answer))


class TableRules(Value):
    """What one table of one family holds, or should hold.

    `declared` names the user-defined chains, `blocks` the rules in the order of the text; the blocks of a
    built-in chain are our hooks in it (planned), or all there is (live). `policies` are a live table's answers
    where no rule gave one. Equal if every chain exists in both with the same rules: neither the order in which
    the chains are written down counts, nor the policies, which are never ours.
    """

    table: str
    declared: tuple[str, ...]
    blocks: tuple[Block, ...]
    policies: tuple[tuple[str, str], ...] = ()

    def chains(self) -> dict[str, tuple[Rule, ...]]:
        """Every user-defined chain, and every built-in one that has rules, with its rules in order."""
        chains: dict[str, tuple[Rule, ...]] = dict.fromkeys(self.declared, ())
        for block in self.blocks:
            if block.rules:
                before = chains.get(block.chain, ())
                chains[block.chain] = before + block.rules if before else block.rules
        return chains

    def is_built_in(self, chain: str) -> bool:
        return chain in BUILT_IN.get(self.table, ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableRules) and self.table == other.table and self.chains() == other.chains()

    def __hash__(self) -> int:
        return hash((self.table, frozenset(self.chains().items())))


class Ruleset(Value):
    """The tables of one family: what should be there (a plan), or what is (parsed from the kernel)."""

    family: Family
    tables: tuple[TableRules, ...] = ()

    def table(self, name: str) -> TableRules:
        """The table of that name; an empty one if nothing is said of it."""
        for table in self.tables:
            if table.table == name:
                return table
        return TableRules(name, (), ())

    def rules(self) -> Iterator[tuple[str, str, Rule]]:
        """Every rule with its table and chain, in the order of the text."""
        for table in self.tables:
            for block in table.blocks:
                for rule in block.rules:
                    yield table.table, block.chain, rule


def network(text: str) -> Network:
    """A network from the kernel's text, where an address stands for itself alone (`10.0.0.1` is `10.0.0.1/32`)."""
    return ip_network(text, strict=False)
