"""JSON without the module `json`, whose import of `re` costs as much as a third of a run.

The scanner is the same one: `_json` is what `json` wraps. Numbers with a fraction are kept as they are written.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

WHITE = " \t\r\n"
WORDS = {None: "null", True: "true", False: "false"}


class Fraction(str):
    """A number with a fraction or an exponent, as it was written."""

    __slots__ = ()


class _Context:
    """What the scanner asks of a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = Fraction
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")


def read(text: str) -> Any:
    """The value that a text is. Raises ValueError with a reason."""
    start = len(text) - len(text.lstrip(WHITE))
    try:
        value, end = _json.make_scanner(_Context)(text, start)  # type: ignore[arg-type] # has all that it asks for
    except StopIteration as stopped:
        raise ValueError(f"no value at character {stopped.value}" if text.strip(WHITE) else "it is empty") from None
    except SystemError:  # the scanner looks for the exception of a module that nobody has loaded
        import json

        json.loads(text)
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text[end:].strip(WHITE):
        raise ValueError(f"something follows the value at character {end}")
    return value


def written(value: Any) -> str:
    """The value as JSON on one line, in ASCII."""
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    if value is None or isinstance(value, bool):
        return WORDS[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return f"{{{', '.join(f'{written(key)}: {written(each)}' for key, each in value.items())}}}"
