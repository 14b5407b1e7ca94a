"""Settings as YAML that `--config` reads again. JSON is YAML, too, but for some characters: no library is needed."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


def yaml_lines(settings: Iterable[tuple[str, Any, str]]) -> Iterator[str]:
    """A line for each setting, and for each entry of a list: name, plain value, and a comment."""
    for name, value, comment in settings:
        behind = f"  # {comment}" if comment else ""
        if isinstance(value, list) and value:
            yield f"{name}:{behind}"
            yield from (f"  - {scalar(entry)}" for entry in value)
        else:
            yield f"{name}: {'[]' if isinstance(value, list) else scalar(value)}{behind}"


def scalar(value: Any) -> str:
    """Words in quotes, whatever is in them; what YAML takes for numbers and truth without."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return '"' + "".join(map(escaped, str(value))) + '"'


def escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isascii() and character.isprintable() else f"\\U{ord(character):08x}"
