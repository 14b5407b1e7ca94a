"""Lists of any length: networks as numbers, as few as they can be, and values that are made when they are asked for."""

from __future__ import annotations

from _collections_abc import Sequence  # what `collections.abc` wraps, and loaded already

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    T = TypeVar("T")


def joined(*parts: Iterable[T]) -> Sequence[T]:
    """One behind the other: a tuple, but where one of them is long (`rules.lists.long`)."""
    if any(isinstance(part, Sequence) and not isinstance(part, tuple | list) for part in parts):
        from rules.lists.long import Joined

        return Joined(part if isinstance(part, Sequence) else tuple(part) for part in parts)
    return tuple(each for part in parts for each in part)
