"""`Value`, which every record here is made of: frozen, slotted, and told apart by its type."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest

from rules.addresses import IPv4Network
from rules.netfilter.matches import DPort, DPorts, Dst, Not, OwnerGid, OwnerUid, Proto, Src
from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules, when
from rules.netfilter.targets import Accept, Drop, Jump, Return
from rules.netfilter.values import ALL, All, Family, Ports
from rules.plan.intent import Intent
from rules.value import Enum, Value, assert_never

if TYPE_CHECKING:
    from typing import ClassVar


class Point(Value):
    """Two fields, one of which has a default, and a class variable."""

    origin: ClassVar[int] = 0
    x: int
    y: int = 2


class Spot(Value):
    """The same fields under another name."""

    x: int
    y: int = 2


NETWORK = IPv4Network("10.0.0.0/8")
RULE = when(Proto("tcp"), DPort(Ports(80, 90))).then(Jump("OTHERS"), why="because", setting="inbound_ports")
VALUES: list[Value] = [
    Point(1),
    ALL,
    Ports(1, 2),
    Dst(NETWORK),
    Not(OwnerUid(1337)),
    RULE,
    Ruleset(Family.V4, (TableRules("nat", ("OTHERS",), (Block("OTHERS", (RULE,)),)),)),
    Intent(),
]


def test_fields_are_given_by_place_by_name_or_by_default() -> None:
    """As with a dataclass."""
    assert Point(1) == Point(1, 2) == Point(x=1) == Point(y=2, x=1)
    assert Point(1).origin == 0
    assert Point.__match_args__ == ("x", "y")


@pytest.mark.parametrize(
    ("places", "names", "said"),
    [
        ((), {}, "Point needs x"),
        ((1, 2, 3), {}, "Point has 2 fields, not 3"),
        ((1,), {"z": 3}, "Point has no field z"),
        ((1,), {"x": 3}, "Point has no field x"),
    ],
)
def test_wrong_fields_are_named(places: tuple[int, ...], names: dict[str, int], said: str) -> None:
    """Missing, too many, unknown and doubled fields are a TypeError that says which."""
    with pytest.raises(TypeError, match=said):
        Point(*places, **names)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_cannot_be_changed(value: Value) -> None:
    """Neither set, deleted, nor given a new attribute: it has slots and no dictionary."""
    for field in (*value.__match_args__, "novel"):
        with pytest.raises(AttributeError, match="is frozen"):
            setattr(value, field, 1)
        with pytest.raises(AttributeError, match="is frozen"):
            delattr(value, field)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_copies_are_equal_and_have_the_same_hash(value: Value) -> None:
    """Through pickle, copy and deepcopy, fields for people included."""
    for same in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value), value.but()):  # noqa: S301 # our own
        assert same == value
        assert hash(same) == hash(value)
        assert repr(same) == repr(value)


def test_values_of_different_types_differ() -> None:
    """Even if their fields are equal; and no value equals a tuple."""
    assert Point(1) != Spot(1)
    assert Src(NETWORK) != Dst(NETWORK)
    assert OwnerUid(1) != OwnerGid(1)
    assert len({Return(), Accept(), Drop(), All()}) == 4
    assert Point(1) != (1, 2)
    assert len({Point(1), Spot(1), Point(1, 2), Point(2)}) == 3


def test_a_value_shows_itself_as_it_was_made() -> None:
    """repr() is code."""
    assert repr(Point(1)) == "Point(x=1, y=2)"
    assert repr(ALL) == "All()"
    assert eval(repr(RULE), {kind.__name__: kind for kind in (Rule, Proto, DPort, Ports, Jump)}) == RULE  # noqa: S307 # our own


def test_a_value_is_taken_apart_by_match() -> None:
    """By place and by name."""
    match Not(OwnerUid(1337)):
        case Not(OwnerUid(uid)):
            assert uid == 1337
        case _:
            pytest.fail("no case matched")
    match Point(1):
        case Point(x=1, y=y):
            assert y == 2
        case _:
            pytest.fail("no case matched")


def test_but_replaces_fields() -> None:
    """The original stays, and an unknown field is a TypeError."""
    value = Point(1)
    assert value.but(y=5) == Point(1, 5)
    assert value == Point(1)
    with pytest.raises(TypeError, match="no field z"):
        value.but(z=1)


def test_the_end_of_a_match_names_what_has_no_case() -> None:
    """For a reader that has yet to learn a new value."""
    with pytest.raises(AssertionError, match=r"no case for Point\(x=1, y=2\)"):
        assert_never(Point(1))  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (1, 65536), (-1, 5)])
def test_ports_that_cannot_be_are_not_made(first: int, last: int) -> None:
    """A value that cannot mean anything cannot be made."""
    with pytest.raises(ValueError, match="is not a range of ports"):
        Ports(first, last)


@pytest.mark.parametrize(("singles", "ranges"), [(0, 0), (16, 0), (0, 8), (2, 7)])
def test_a_multiport_match_holds_fifteen_places(singles: int, ranges: int) -> None:
    """None at all and more than fit cannot be made; a range takes two places."""
    with pytest.raises(ValueError, match="1 to 15 places"):
        DPorts(tuple(Ports.one(80) for _ in range(singles)) + tuple(Ports(1, 2) for _ in range(ranges)))
    assert len(DPorts((Ports.one(80), *(Ports(1, 2) for _ in range(7)))).ranges) == 8


def test_an_intent_has_at_most_64_owner_groups() -> None:
    """As the setting has."""
    assert len(Intent(owner_groups=tuple(range(64))).owner_groups) == 64  # type: ignore[arg-type] # no All
    with pytest.raises(ValueError, match="at most 64 owner groups, not 65"):
        Intent(owner_groups=tuple(range(65)))


def test_rules_are_equal_if_the_kernel_cannot_tell_them_apart() -> None:
    """Neither the order of the matches nor the fields for people count; the target and the set of matches do."""
    tcp, port = Proto("tcp"), DPort(Ports.one(80))
    rule = Rule((tcp, port), Return(), "why", "setting")
    same = Rule((port, tcp), Return())
    assert rule == same
    assert hash(rule) == hash(same)
    assert rule != Rule((tcp,), Return())
    assert rule != Rule((tcp, port), Accept())
    assert rule != Rule((tcp, Not(port)), Return())


def test_tables_are_equal_whatever_the_order_of_their_chains() -> None:
    """Chains are compared by name, their rules in order; blocks of one chain belong together."""
    one, two = Rule((), Return()), Rule((), Accept())
    table = TableRules("nat", ("A", "B"), (Block("A", (one,)), Block("B", (two,)), Block("A", (two,))))
    same = TableRules("nat", ("B", "A"), (Block("B", (two,)), Block("A", (one, two))), (("OUTPUT", "DROP"),))
    assert table == same
    assert hash(table) == hash(same)
    assert table != TableRules("nat", ("A", "B"), (Block("A", (two, one)), Block("B", (two,))))
    assert table != TableRules("raw", table.declared, table.blocks)
    assert table != TableRules("nat", ("A", "B", "C"), table.blocks), "an empty chain is a chain"


class Way(Enum):
    """One of a few."""

    OUT = "out"
    IN = "in"

    @property
    def other(self) -> Way:
        return Way.IN if self is Way.OUT else Way.OUT


def test_one_of_a_few() -> None:
    """What `enum` would make of it: by name, by value, in order, equal only to itself, however it was copied."""
    assert [way.value for way in Way] == ["out", "in"]
    assert (Way.OUT.name, str(Way.IN), repr(Way.IN)) == ("OUT", "Way.IN", "<Way.IN: 'in'>")
    assert (len(Way), Way.IN in Way, "in" in [way.name for way in Way]) == (2, True, False)
    assert Way("in") is Way.IN is Way.OUT.other
    assert copy.deepcopy(Way.IN) is Way.IN
    assert pickle.loads(pickle.dumps(Way.OUT)) is Way.OUT  # noqa: S301 # our own bytes
    assert len({Way.IN, Way.OUT, Way("in")}) == 2
    with pytest.raises(ValueError, match="'up' is not a valid Way"):
        Way("up")
