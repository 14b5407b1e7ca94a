"""What a file of settings gives to each of them: the text that its flag would be given."""

from __future__ import annotations

from capture.config.files import STDIN, Mapping, Number, Unreadable, read
from capture.errors import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.config.files import Written
    from capture.config.names import Setting


def given(path: str, asked_by: str, declared: Sequence[Setting]) -> tuple[dict[str, str], list[Refusal]]:
    """The text for each setting that the file names, and everything that is wrong in it.

    `asked_by` is the flag or variable that names the file. A name without a value says nothing, as if it were absent.
    """
    try:
        names = read(path)
    except Unreadable as unreadable:
        return {}, [Refusal(asked_by, path, str(unreadable))]
    by_name = {setting.name: setting for setting in declared}
    texts: dict[str, str] = {}
    seen: set[str] = set()
    refusals: list[Refusal] = []
    for name, value in names:
        if name in seen:
            refusals.append(Refusal(described(path), name, "stands there twice"))
        elif name not in by_name:
            refusals += unknown(described(path), name, value, declared)
        elif value is not None:
            try:
                texts[name] = text_of(by_name[name], value)
            except ValueError as refused:
                refusals.append(Refusal(described(path), name, str(refused)))
        seen.add(name)
    return texts, refusals


def described(path: str) -> str:
    """How a message calls the file."""
    return "stdin" if path == STDIN else f"file {path}"


def unknown(where: str, name: str, value: Written, declared: Sequence[Setting]) -> Iterator[Refusal]:
    """A refusal for a name that is none of ours; for each name below it, where there are any."""
    from capture.config.names import why_unknown

    if isinstance(value, Mapping) and value:
        for inner, deeper in value:
            yield from unknown(where, f"{name}.{inner}", deeper, declared)
    else:
        yield Refusal(where, name, why_unknown(name, declared))


def text_of(setting: Setting, value: Written) -> str:
    """Raises ValueError if the value is nested, or a list where there is one value only."""
    match value:
        case Mapping():
            raise ValueError("has names below it; give a text, a number or a list")
        case Number() if setting.is_duration:
            return f"{value}s"
        case str():
            return str(value)
        case list() if all(isinstance(entry, str) and not isinstance(entry, Mapping) for entry in value):
            if not setting.is_list and len(value) != 1:
                raise ValueError("is a list, and takes one value")
            return setting.separator.join(map(str, value))
        case _:
            raise ValueError("holds what is no text; give texts or numbers")
