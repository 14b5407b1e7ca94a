"""Command lines as istio-iptables reads them: the grammar of Go's pflag, which click does not speak.

`--flag value`, `--flag=value`, `-f value`, `-fvalue`, `-f=value`; a switch alone is true and takes a value only
behind `=`; several switches may share one dash; the last of several equal flags counts; `--` ends the flags.
"""

from __future__ import annotations

from capture.errors import Refusal, did_you_mean
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

FORMER_NAME = "istio-iptables"
"""What injectors put first in the arguments, because the reference's image is entered through another program."""


class Argument(Value):
    """One flag on a command line, `-x` or `--long`, as it was typed."""

    flag: str
    value: str
    annotation: str = ""
    """The pod's annotation that gave it, where none was typed."""


def read_argv(
    argv: Sequence[str], flags: AbstractSet[str], *, switches: AbstractSet[str], command: str = "apply"
) -> tuple[list[Argument], list[Refusal]]:
    """The flags of a command line, and what in it cannot be understood. The help of `command` lists the flags."""
    reading = _Reading(list(argv), flags, switches, f"; `capture {command} --help` lists the flags")
    if reading.waiting[:1] == [FORMER_NAME]:
        del reading.waiting[0]
    while reading.waiting:
        reading.next_word()
    return reading.arguments, reading.refusals


class _Reading:
    """A command line while it is read: the words still waiting, and what was made of the others."""

    def __init__(self, waiting: list[str], flags: AbstractSet[str], switches: AbstractSet[str], listed: str) -> None:
        self.waiting = waiting
        self.flags = flags
        self.switches = switches
        self.listed = listed
        """Where the flags are listed, as the end of a sentence."""
        self.arguments: list[Argument] = []
        self.refusals: list[Refusal] = []

    def next_word(self) -> None:
        word = self.waiting.pop(0)
        if word == "--":
            while self.waiting:
                self.refuse_word(self.waiting.pop(0))
        elif word.startswith("--"):
            flag, equals, value = word.partition("=")
            self.flag(flag, value if equals else None)
        elif word.startswith("-") and len(word) > 1:
            self.short_flags(word)
        else:
            self.refuse_word(word)

    def short_flags(self, word: str) -> None:
        """`-p15001`, `-p=15001`, `-p`, `-n`, or switches and one more flag behind a single dash."""
        flag, rest = word[:2], word[2:]
        if rest.startswith("="):
            self.flag(flag, rest[1:])
        elif rest and flag in self.switches:
            self.flag(flag, None)
            self.short_flags("-" + rest)
        else:
            self.flag(flag, rest or None)

    def flag(self, flag: str, value: str | None) -> None:
        if flag not in self.flags:
            self.refusals.append(
                Refusal(f"flag {flag}", None, f"is not known{did_you_mean(flag, self.flags) or self.listed}")
            )
            return
        if value is None:
            if flag in self.switches:
                value = "true"
            elif not self.waiting:
                self.refusals.append(Refusal(f"flag {flag}", None, 'needs a value; "" is one that is empty'))
                return
            elif self.is_flag(self.waiting[0]):
                # Left in place, to be read as the flag it was meant to be.
                reason = f'needs a value, and the next word is the flag {self.waiting[0]}; for an empty value give ""'
                self.refusals.append(Refusal(f"flag {flag}", None, reason))
                return
            else:
                value = self.waiting.pop(0)
        self.arguments.append(Argument(flag, value))

    def is_flag(self, word: str) -> bool:
        return word.partition("=")[0] in self.flags or (word[:2] in self.flags and word[:2] != "--")

    def refuse_word(self, word: str) -> None:
        reason = "is not a flag, and flags are all this command takes; a command such as `settings` comes first"
        self.refusals.append(Refusal("argument", word, reason))
