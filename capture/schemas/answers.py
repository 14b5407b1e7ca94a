"""Values as the JSON that commands print."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from rules.addresses import IPv4Address, IPv6Address
from rules.iptables.writing import rule_text
from rules.netfilter.rulesets import Rule
from rules.value import Enum, Value


def as_json(value: Any) -> Any:
    """A value as JSON has it: an object of what it tells, or of all its fields, each by its name."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Rule():
            return rule_text(value)
        case Value():
            return {name.rpartition(".")[2]: as_json(attrgetter(name)(value)) for name in fields_of(type(value))}
        case Enum():
            return value.value
        case IPv4Address() | IPv6Address():
            return str(value)
        case tuple() | list():
            return [as_json(each) for each in value]
        case _:
            raise TypeError(f"JSON has nothing for {value!r}")


def fields_of(kind: type[Value]) -> tuple[str, ...]:
    """What JSON has of a kind of value: the fields and properties that its `TOLD` names, or else every field.

    `rule.why` names a field of a field: JSON has it as `why`, beside the others.
    """
    names: tuple[str, ...] = getattr(kind, "TOLD", kind.__match_args__)
    return names
