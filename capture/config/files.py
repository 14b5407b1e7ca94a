"""A file of settings as it is written: names with texts, or lists of them. What they mean is not known here.

No scalar is given a type: `010`, `on` and `22:33` are the texts that the flags would be given, whatever YAML has made
of such words over the years.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Written: TypeAlias = "str | list[Written] | Mapping | None"

STDIN = "-"
LARGEST = 64 << 20
"""Bytes of a file. One that has no end is a device."""


class Unreadable(Exception):
    """A file that cannot be read or understood, and why, as the end of a sentence."""


class Number(str):
    """A number as it was written."""

    __slots__ = ()


class Mapping(list):  # type: ignore[type-arg] # its type would be evaluated, and typing takes its time
    """Names with what stands behind them, in order. A name may stand there twice, which is for others to judge."""


def read(path: str) -> Mapping:
    """The names in a file, or in what stdin gives for `-`. Raises Unreadable."""
    text = contents(path)
    if not text.strip():
        return Mapping()
    found = parsed_json(text) if is_json(path, text) else parsed_yaml(text)
    if found is None:
        return Mapping()
    if not isinstance(found, Mapping):
        raise Unreadable("holds no names of settings; give `proxy_port: 15001`, or in JSON an object")
    return found


def is_json(path: str, text: str) -> bool:
    """By the name; where that does not tell, by how it begins."""
    ending = path.lower().rpartition(".")[2]
    return ending == "json" or (ending not in ("yaml", "yml") and text.lstrip().startswith("{"))


def contents(path: str) -> str:
    try:
        descriptor = 0 if path == STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = b""
            while len(data) <= LARGEST and (part := os.read(descriptor, 1 << 20)):
                data += part
        finally:
            if descriptor:
                os.close(descriptor)
        if len(data) > LARGEST:
            raise Unreadable(f"is larger than {LARGEST >> 20} MiB")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8: byte {error.start + 1}") from None
    except ValueError as error:  # a path with a zero in it
        raise Unreadable(f"cannot be read: {error}") from None


# --- JSON -------------------------------------------------------------------------------------------------


def parsed_json(text: str) -> Written:
    import json

    def constant(word: str) -> str:
        raise Unreadable(f"is no JSON: {word} is no number")

    try:
        return untyped(
            json.loads(text, object_pairs_hook=Mapping, parse_int=Number, parse_float=Number, parse_constant=constant)
        )
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None


def untyped(value: Any) -> Written:
    """Truth as a word; everything else is text already."""
    if isinstance(value, Mapping):
        return Mapping((name, untyped(it)) for name, it in value)
    if isinstance(value, list):
        return [untyped(it) for it in value]
    return str(value).lower() if isinstance(value, bool) else value


# --- YAML -------------------------------------------------------------------------------------------------


def parsed_yaml(text: str) -> Written:
    try:
        import yaml
    except ImportError:
        hint = "which takes PyYAML (pip install 'traffic-capture[yaml]'); JSON is read without it"
        raise Unreadable(f"is taken for YAML, {hint}") from None
    try:
        return from_node(yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), ())
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise Unreadable(f"is no YAML: {place}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise Unreadable(f"is no YAML: {' '.join(str(error).split())}") from None


def from_node(node: Any, above: Sequence[Any]) -> Written:
    """What a node of YAML holds. An alias may lead to a node above it."""
    if any(node is other for other in above):
        raise Unreadable("holds an alias of what it stands in")
    above = (*above, node)
    match node.id if node is not None else "":
        case "mapping":
            return Mapping((name_of(name), from_node(value, above)) for name, value in node.value)
        case "sequence":
            return [from_node(it, above) for it in node.value]
        case "scalar" if not node.style:
            if node.value in ("", "~", "null", "Null", "NULL"):
                return None
            return Number(node.value) if node.value.replace(".", "", 1).isdecimal() else str(node.value)
        case "scalar":
            return str(node.value)
        case _:
            return None


def name_of(node: Any) -> str:
    if node.id != "scalar":
        raise Unreadable(f"is no file of settings: line {node.start_mark.line + 1}: a name is a word")
    return str(node.value)
