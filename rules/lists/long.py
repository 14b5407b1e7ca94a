"""Sequences of very many values, made when they are asked for: an object for each would be most of a run's memory."""

from __future__ import annotations

from _collections_abc import Sequence  # what `collections.abc` wraps, and loaded already
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")
else:
    T = object


class Long(Sequence[T]):
    """What a tuple of the same values would be, and equal to it. Who goes through them finds the same objects again."""

    __slots__ = ("kept",)
    kept: tuple[T, ...]
    """All of them, once somebody went through them."""

    def anew(self) -> Iterator[T]:
        """The values, of which none is kept."""
        raise NotImplementedError  # each kind below says how it makes them

    def whole(self) -> tuple[T, ...]:
        """The values, which are kept."""
        try:
            return self.kept
        except AttributeError:
            self.kept = tuple(self.anew())
            return self.kept

    def __iter__(self) -> Iterator[T]:
        return iter(self.whole())

    def __getitem__(self, at: Any) -> Any:
        return self.whole()[at]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Long | tuple) or len(self) != len(other):
            return False
        others = other.anew() if isinstance(other, Long) else other
        return all(one == its for one, its in zip(self.anew(), others, strict=True))

    def __hash__(self) -> int:
        return hash(self.whole())

    def __repr__(self) -> str:
        return repr(self.whole())


class Made(Long[T]):
    """A value of each item, all of them alike but for that."""

    __slots__ = ("items", "made")

    def __init__(self, items: Sequence[Any], made: Callable[[Any], T]) -> None:
        self.items = items
        self.made = made

    def __len__(self) -> int:
        return len(self.items)

    def anew(self) -> Iterator[T]:
        return map(self.made, self.items.anew() if isinstance(self.items, Long) else self.items)


class Read(Made[T]):
    """What was read where just these values were expected."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        mine, its = self.items, other.items if isinstance(other, Read) else other
        return mine is its or super().__eq__(other)

    __hash__ = Long.__hash__

    def parts(self) -> Iterator[Sequence[T]]:
        """What stands behind each other in it, each made of the items that the expected is made of."""
        for part in parts_of(self.items):
            yield (
                Made(part.items, chained(part.made, self.made))
                if isinstance(part, Made)
                else tuple(map(self.made, part))
            )


class Joined(Long[T]):
    """One behind the other."""

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Sequence[T]]) -> None:
        self.parts: tuple[Sequence[T], ...] = tuple(part for each in parts for part in parts_of(each) if part)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def anew(self) -> Iterator[T]:
        for part in self.parts:
            yield from part.anew() if isinstance(part, Long) else part


class Lines(Long[str]):
    """The lines of a part of a text."""

    __slots__ = ("end", "length", "start", "text")

    def __init__(self, text: str, start: int, end: int, length: int) -> None:
        self.text = text
        self.start = start
        self.end = end
        """Behind the last line feed."""
        self.length = length

    def __len__(self) -> int:
        return self.length

    def anew(self) -> Iterator[str]:
        at = self.start
        while at < self.end:
            behind = self.text.index("\n", at)
            yield self.text[at:behind]
            at = behind + 1


def chained(first: Callable[[Any], Any], then: Callable[[Any], T]) -> Callable[[Any], T]:
    return lambda item: then(first(item))


def parts_of(values: Sequence[T]) -> tuple[Sequence[T], ...]:
    """What stands behind each other in it, long or not."""
    return values.parts if isinstance(values, Joined) else (values,)


def lots(values: Sequence[T]) -> Iterator[tuple[T, int]]:
    """Each value once, and of those that are alike but for an item one, with how many there are."""
    for part in parts_of(values.items if isinstance(values, Read) else values):
        if isinstance(part, Made):
            yield from ((each, len(part)) for each in islice(part.anew(), 1))
        else:
            yield from ((each, 1) for each in part)
