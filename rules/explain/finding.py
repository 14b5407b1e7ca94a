"""A finding of lint: what it is about, how bad it is, and the sentence that names settings by their fields.

Only the caller knows how each setting was given, so a sentence has their fields in braces (`{outbound_ports}`).
"""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

MISTAKE, SURPRISE, NOTE = "mistake", "surprise", "note"
SEVERITIES = (MISTAKE, SURPRISE, NOTE)
"""`mistake`: hardly what was meant. `surprise`: does something else than it seems to. `note`: good to know."""


class Finding(Value):
    """Something about these settings that will surprise."""

    severity: str
    """`mistake`, `surprise` or `note`."""
    code: str
    """What kind of finding it is, in a word for programs; `warning` for what `apply` warns of as well."""
    settings: tuple[str, ...]
    """The settings involved, the one to change first."""
    text: str
    """The sentence."""
    advice: str = ""
    """What to do; may be empty."""
    entries: tuple[str, ...] = ()
    """The entries of a list that it is about, if not all."""

    TOLD: ClassVar = ("severity", "code", "text", "advice", "settings", "entries")


def named_in(text: str, *but: str) -> tuple[str, ...]:
    """The settings that a sentence names in braces."""
    names = [part.partition("}")[0] for part in text.split("{")[1:]]
    return tuple(dict.fromkeys(name for name in names if name not in but))
