"""All that can go wrong for a reason the operator can act on, and the exit status of each.

    CaptureError            1    the capture was not made; the namespace is as it was
    ├── BadSettings         2    a flag or variable was refused; nothing was touched
    │   └── UnknownCommand  2    there is no such command; nothing was touched
    ├── NamespaceUnusable   1    --network-namespace names nothing that can be entered
    ├── WrongPlace          1    the namespace of a Kubernetes node, which --allow-host permits
    ├── OtherMesh           1    the rules of another mesh are here, which --take-over replaces
    ├── OthersFirst         1    an ip rule or route of others decides before ours, which no place can help
    ├── BackendUnusable     1    no iptables here that can do it, or no permission to use it
    ├── ChainInUse          1    a rule leads to a chain of another mesh that --take-over would remove
    ├── LiveStateUnreadable 1    what the namespace holds could not be read, so nothing was changed
    ├── KernelRefused       1    iptables-restore failed; what it had changed was put back
    │   └── NotPutBack      1    … and putting back failed too: the one case in which the state is not as it was
    ├── LockHeld            1    another run, or a program that may change rules, holds a lock for too long
    ├── Outside             1    something else that we do not have in hand: memory, descriptors, a file of our own
    ├── OutputLost          1    what was asked for could not be written to stdout, as on a full disk
    └── ValidationFailed  126    the rules do not do what they should; repair controllers look for this status

Ctrl-C ends us by that signal, which a shell shows as 130, as SIGTERM does with 143. A reader of our output that went
away has seen enough: that is no failure.

A mistake of ours is an ordinary exception, with its traceback.
"""

from __future__ import annotations

from capture.text import on_one_line, one_line, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rules.netfilter.values import Family

DONE = 0
FAILED = 1
REFUSED = 2
NOTHING_HERE = 3
DIFFERS = 4
DEPENDS = 5
NOT_VALID = 126


class CaptureError(Exception):
    """Something the operator can act on. `str()` is the whole message, ready to print."""

    exit_status = FAILED

    def __init__(self, what: str, *, details: Sequence[tuple[str, str]] = (), hint: str = "") -> None:
        self.what = what
        self.details = tuple(details)
        self.hint = hint
        super().__init__(what)

    @property
    def in_one_line(self) -> str:
        """Cause and cure for those who read one line only."""
        return one_line(f"capture failed: {self.what}{f'. Fix: {self.hint}' if self.hint else ''}")

    def lines(self) -> Iterator[str]:
        """The whole message, line by line. What others said may be several, and is indented lest it passes for ours."""
        yield one_line(self.what)
        width = max((len(label) for label, _ in self.details), default=0)
        for label, text in self.details:
            for number, line in enumerate(text.removesuffix("\n").split("\n")):
                yield one_line(f"  {(label + ':') if not number else '':<{width + 1}} {line}")
        if self.hint:
            yield one_line(f"hint: {self.hint}")

    def __str__(self) -> str:
        return "\n".join(self.lines())


class Refusal:
    """One value that was refused: where it came from, what it was, and what would be right."""

    def __init__(self, source: str, value: str | None, reason: str) -> None:
        self.source = source
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        given = "" if self.value is None else f" {quoted(self.value)}"
        return one_line(f"{self.source}{given}: {self.reason}")


class BadSettings(CaptureError):
    """Flags or variables that cannot mean anything. All of them, not just the first."""

    exit_status = REFUSED
    what_it_is = "setting"

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        its = self.what_it_is
        count = f"a {its} was" if len(refusals) == 1 else f"{len(refusals)} {its}s were"
        super().__init__(f"{count} refused; nothing was touched")

    def lines(self) -> Iterator[str]:
        yield from super().lines()
        yield from (f"  {refusal}" for refusal in self.refusals)

    @property
    def in_one_line(self) -> str:
        more = f", and {len(self.refusals) - 1} more" if len(self.refusals) > 1 else ""
        return f"capture failed: refused {self.refusals[0]}{more}"


class UnknownCommand(BadSettings):
    """The first word of the command line is neither a flag nor a command, or asks for what there is not."""

    what_it_is = "command"


class NamespaceUnusable(CaptureError):
    """The network namespace that was named cannot be entered."""


class WrongPlace(CaptureError):
    """The namespace is that of a Kubernetes node."""


class OtherMesh(CaptureError):
    """Another mesh captures this namespace's traffic already."""


class OthersFirst(CaptureError):
    """An ip rule or a route of others takes what TPROXY needs, and ours cannot be asked before it."""


class BackendUnusable(CaptureError):
    """No iptables that can do it: a missing binary, kernel module or capability."""


class ChainInUse(CaptureError):
    """Somebody's rule leads to a chain of a mesh that is taken over, which therefore cannot be removed."""


class LiveStateUnreadable(CaptureError):
    """iptables-save failed, or printed what cannot be understood."""


class KernelRefused(CaptureError):
    """iptables-restore failed, or the kernel holds something other than what was asked for."""

    def __init__(
        self,
        what: str,
        *,
        details: Sequence[tuple[str, str]] = (),
        hint: str = "",
        setting: str = "",
        family: Family | None = None,
    ) -> None:
        super().__init__(what, details=details, hint=hint)
        self.family = family
        """Whose rules were refused, if any were."""
        self.setting = setting
        """The setting that asked for the refused rule, by its name in `Settings`; empty if none or not known."""


class NotPutBack(KernelRefused):
    """A change failed half way and undoing it failed as well."""


class LockHeld(CaptureError):
    """Somebody who may change rules is at work, and does not come to an end."""


class Outside(CaptureError):
    """The outside world failed us where nothing better is known than what it said."""


class OutputLost(CaptureError):
    """What was asked for cannot be written to stdout."""


class ValidationFailed(CaptureError):
    """--run-validation found that traffic does not go where it should, or could prove nothing at all."""

    exit_status = NOT_VALID


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest to one that is not known, as the end of a sentence; empty if none is near."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1, cutoff=0.6 if len(word) < 8 else 0.75)
    return f"; did you mean {close[0]}?" if close else ""


HINTS = {
    "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENFILE": "the node has too many open files: see /proc/sys/fs/file-nr",
    "ENOMEM": "raise the limit of memory",
}


def in_words(error: BaseException) -> CaptureError | None:
    """The error as one that can be told; None for a mistake of ours, which is told by its traceback."""
    match error:
        case CaptureError():
            return error
        case MemoryError():
            return Outside("there is not enough memory", hint="raise the limit of memory (also `ulimit -v`)")
        case SystemError():
            return Outside(f"Python itself failed: {error}", hint="memory or open files may be short (`ulimit -a`)")
        case OSError():
            import errno

            where = f"{on_one_line(str(error.filename))}: " if error.filename is not None else ""
            what = f"{where}{error.strerror or str(error) or type(error).__name__}"
            return Outside(what, hint=HINTS.get(errno.errorcode.get(error.errno or 0, ""), ""))
        case ImportError():
            hint = "reinstall it; or memory or open files are short (`ulimit -a`)"
            return Outside(f"a part of the program cannot be loaded: {error}", hint=hint)
        case _:
            return None
