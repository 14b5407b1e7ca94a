"""What a value is here: a frozen record, or one of a few, without generated code.

Values are made by `Value`, which does what a frozen, slotted dataclass does without generating code: thirty
dataclasses cost an init container's start-up as much time as everything else it does, because `dataclasses`
imports `inspect` and compiles each method. And `Enum` is what `enum.Enum` is, as far as it is used here: importing that
takes as long as a dozen modules of ours.
"""

from __future__ import annotations

from _operator import attrgetter  # what `operator` wraps, which takes its time to import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import Enum as Enum
    from typing import Any, ClassVar, NoReturn, Self, dataclass_transform
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
    _setters: ClassVar[tuple[Any, ...]]
    """What puts a value into each field, past `__setattr__`."""
    _needed: ClassVar[int]
    """How many of the first fields have no default."""
    _rest: ClassVar[tuple[Any, ...]]
    """The defaults of all fields behind those."""
    _is_checked: ClassVar[bool]
    """Whether the class has a `checked` of its own."""
    _told: ClassVar[Any]
    """The type and all fields of a value at once: a node has tens of thousands of rules to compare."""

    def __init_subclass__(cls) -> None:
        its = vars(cls)
        cls._setters = tuple(its[field].__set__ for field in cls.__match_args__)
        cls._needed = len(cls._setters) - len(cls._defaults)
        cls._rest = tuple(cls._defaults[field] for field in cls.__match_args__[cls._needed :])
        cls._is_checked = "checked" in its
        cls._told = attrgetter("__class__", *cls.__match_args__)

    def __init__(self, *values: Any, **named: Any) -> None:
        if named or len(values) != len(self._setters):
            short = len(values) - self._needed
            is_plain = not named and 0 <= short < len(self._rest)
            values = values + self._rest[short:] if is_plain else self._completed(values, named)
        for put, value in zip(self._setters, values):  # noqa: B905 # as many; saying `strict` costs a third of all this
            put(self, value)
        if self._is_checked:
            self.checked()

    def _completed(self, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """A value for each field, by its place, its name or its default."""
        fields = self.__match_args__
        if len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, not {len(values)}")
        more = []
        for field in fields[len(values) :]:
            if field in named:
                more.append(named.pop(field))
            elif field in self._defaults:
                more.append(self._defaults[field])
            else:
                raise TypeError(f"{type(self).__name__} needs {field}")
        if named:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(named)}")
        return (*values, *more)

    def checked(self) -> None:
        """Raises ValueError for fields that cannot mean anything together. By default all can."""

    def __setattr__(self, field: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {field} cannot be set")

    def __delattr__(self, field: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {field} cannot be deleted")

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self._told(self) == self._told(other))

    def __hash__(self) -> int:
        return hash(self._told(self))

    def __repr__(self) -> str:
        inside = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__name__}({inside})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self._fields())

    def but(self, **changed: Any) -> Self:
        """The same value with some fields replaced."""
        return type(self)(**({field: getattr(self, field) for field in self.__match_args__} | changed))


if not TYPE_CHECKING:

    class _EnumType(type):
        """Turns what a class body assigns to names in capitals into the values there are."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _EnumType:
            values = {name: body.pop(name) for name in list(body) if name.isupper()}
            made = super().__new__(cls, name, bases, body)
            made._all = {}
            for its_name, value in values.items():
                each = made._all[value] = object.__new__(made)
                each.name, each.value = its_name, value
                setattr(made, its_name, each)
            return made

        def __iter__(cls) -> Iterator[Enum]:
            return iter(cls._all.values())

        def __len__(cls) -> int:
            return len(cls._all)

        def __contains__(cls, value: object) -> bool:
            return value in cls._all.values()

        def __call__(cls, value: object) -> Enum:
            """The one of this value. Raises ValueError if there is none."""
            if value not in cls._all:
                raise ValueError(f"{value!r} is not a valid {cls.__name__}")
            return cls._all[value]

    class Enum(metaclass=_EnumType):
        """One of a few, each with a name and a value, and equal only to itself."""

        def __repr__(self) -> str:
            return f"<{self}: {self.value!r}>"

        def __str__(self) -> str:
            return f"{type(self).__name__}.{self.name}"

        def __reduce__(self) -> tuple[Any, ...]:
            return (type(self), (self.value,))


def assert_never(value: NoReturn) -> NoReturn:
    """The end of a match that covers its union; `typing.assert_never` without importing `typing`."""
    raise AssertionError(f"no case for {value!r}")
