"""What commands print as JSON, and the schema of that: both come from the values."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import pytest

from capture.apply.clean import Cleaned, Thing
from capture.commands import COMMANDS
from capture.inspect.hunks import ChainDiff, Diff, Hunk, Line
from capture.schemas.answers import as_json
from capture.schemas.derive import DIALECT, VERSION, model, schema
from rules.addresses import IPv4Address
from rules.live.drift import Finding, Kind
from rules.netfilter.rulesets import Rule
from rules.netfilter.targets import Return
from rules.netfilter.values import Family
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import ClassVar, TypeAlias

    Answer: TypeAlias = IPv4Address | None


def printing() -> Iterator[str]:
    """The commands that print a schema of their JSON."""
    for name in COMMANDS:
        options = import_module(f"capture.commands.{name}").command.params
        choices = [option.type.choices for option in options if isinstance(option.type, click.Choice)]
        if any("schema" in each for each in choices):
            yield name


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    command = import_module(f"capture.commands.{name}").command
    command.main(["--output", "schema"], prog_name=name, standalone_mode=False)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize("name", sorted(printing()))
def test_every_command_names_and_describes_all_that_it_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The dialect, a name with the format's version in it, and a description of each kind and each field."""
    answer = printed(name, capsys)
    head = ("$schema", "$id", "version", "title")
    assert [answer[key] for key in head] == [DIALECT, f"urn:capture:{name}:{VERSION}", VERSION, name.capitalize()]
    for each in (answer, *answer.get("$defs", {}).values()):
        assert each["description"], each["title"]
        for field, said in each.get("properties", {}).items():
            assert said["description"].strip(), f"{each['title']}.{field}"
            assert "None" not in said["description"], f"{each['title']}.{field}: JSON has null"


FINDING = Finding(Kind.RULE_MISSING, Family.V4, "nat", "ISTIO_OUTPUT", planned_position=3, rule="-j RETURN", why="so")
ANSWERS = [
    FINDING.but(backend="nft"),
    Cleaned((Thing("lo", "::6"),), (Thing("routing", "a rule", "of others"),), ()),
    Diff(
        "differs",
        "nft",
        (ChainDiff("nft", Family.V6, "nat", "OUTPUT", "made", (Hunk(1, 0, 1, 1, (Line("+", "-j RETURN"),)),)),),
        (Line("-", "ip rule: 1: lookup 2"),),
        (Finding(Kind.NOT_TRACKED, Family.V4, "raw", "OUTPUT", 1),),
    ),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_is_what_its_model_takes_and_gives(answer: Value) -> None:
    """Field by field, in the same order, with nothing turned into something else."""
    told = as_json(answer)
    given = model(type(answer)).model_validate_json(json.dumps(told), strict=True).model_dump(mode="json")
    assert json.dumps(given) == json.dumps(told)


class Small(Value):
    """A value with all that JSON can have."""

    at: Answer
    """Where; None for nowhere."""
    kind: Kind
    """Of what kind."""
    rule: Rule
    """Which rule."""
    more: tuple[Small, ...] = ()
    secret: int = 0

    TOLD: ClassVar = ("at", "kind", "rule", "double")

    @property
    def double(self) -> int:
        """Twice the secret."""
        return 2 * self.secret


class Bare(Value):
    """A value of which a field is not described."""

    at: int


class Strange(Value):
    """A value with a field that JSON has nothing for."""

    at: bytes
    """Where."""


def test_a_value_tells_the_fields_and_properties_that_it_names() -> None:
    """With the docstrings of the fields and of the properties, and in JSON's words."""
    small = Small(IPv4Address("10.0.0.1"), Kind.CHAIN_LEFT, Rule((), Return()), secret=4)
    assert as_json(small) == {"at": "10.0.0.1", "kind": "chain left over", "rule": "-j RETURN", "double": 8}
    described = {name: it["description"] for name, it in schema("small", Small)["properties"].items()}
    assert described == {
        "at": "Where; null for nowhere.",
        "kind": "Of what kind.",
        "rule": "Which rule.",
        "double": "Twice the secret.",
    }


@pytest.mark.parametrize(("kind", "why"), [(Bare, "Bare.at has no docstring"), (Strange, "JSON has nothing for")])
def test_what_is_not_described_or_cannot_be_told_is_refused(kind: type[Value], why: str) -> None:
    """When the schema is made, so that a test fails, and not a reader."""
    with pytest.raises(TypeError, match=why):
        model(kind)


def test_json_has_nothing_for_what_no_schema_knows() -> None:
    """Rather than some text that looks like an answer."""
    with pytest.raises(TypeError, match="JSON has nothing"):
        as_json(Strange(b""))
