"""All that can go wrong for a reason the operator can act on, and the exit status of each.

    CaptureError            1    the capture was not made; the namespace is as it was
    ├── BadSettings         2    a flag or variable was refused; nothing was touched
    ├── NamespaceUnusable   1    --network-namespace names nothing that can be entered
    ├── WrongPlace          1    the namespace of a Kubernetes node, which --allow-host permits
    ├── OtherMesh           1    the rules of another mesh are here, which --take-over replaces
    ├── BackendUnusable     1    no iptables here that can do it, or no permission to use it
    ├── ChainInUse          1    a rule of others leads to a chain of ours that is to go
    ├── LiveStateUnreadable 1    what the namespace holds could not be read, so nothing was changed
    ├── KernelRefused       1    iptables-restore failed; what it had changed was put back
    │   └── NotPutBack      1    … and putting back failed too: the one case in which the state is not as it was
    └── ValidationFailed  126    the rules do not do what they should; repair controllers look for this status

A mistake of ours is an ordinary exception, with its traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

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
        what = "; ".join(line.strip() for line in self.what.splitlines())
        return f"capture failed: {what}{f'. To mend it: {self.hint}' if self.hint else ''}"

    def __str__(self) -> str:
        width = max((len(label) for label, _ in self.details), default=0)
        lines = [self.what]
        for label, text in self.details:
            for number, line in enumerate(text.splitlines() or [""]):
                lines.append(f"  {(label + ':') if not number else '':<{width + 1}} {line}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class Refusal:
    """One value that was refused: where it came from, what it was, and what would be right."""

    def __init__(self, source: str, value: str | None, reason: str) -> None:
        self.source = source
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        given = "" if self.value is None else f" {quoted(self.value)}"
        return f"{self.source}{given}: {self.reason}"


class BadSettings(CaptureError):
    """Flags or variables that cannot mean anything. All of them, not just the first."""

    exit_status = REFUSED

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        count = "a setting was" if len(refusals) == 1 else f"{len(refusals)} settings were"
        super().__init__("\n  ".join([f"{count} refused; nothing was touched", *map(str, refusals)]))

    @property
    def in_one_line(self) -> str:
        more = f", and {len(self.refusals) - 1} more" if len(self.refusals) > 1 else ""
        return f"capture failed: refused {self.refusals[0]}{more}"


class NamespaceUnusable(CaptureError):
    """The network namespace that was named cannot be entered."""


class WrongPlace(CaptureError):
    """The namespace is that of a Kubernetes node."""


class OtherMesh(CaptureError):
    """Another mesh captures this namespace's traffic already."""


class BackendUnusable(CaptureError):
    """No iptables that can do it: a missing binary, kernel module or capability."""


class ChainInUse(CaptureError):
    """Somebody's rule jumps to one of our chains, which therefore cannot be removed."""


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


class ValidationFailed(CaptureError):
    """--run-validation found that traffic does not go where it should, or could prove nothing at all."""

    exit_status = NOT_VALID


def on_one_line(value: str) -> str:
    """The value as it is, unless it could be taken for more than one line of the log."""
    return value if value.isprintable() else quoted(value)


def quoted(value: str) -> str:
    """The value as one readable line: control characters are shown, a very long value is cut."""
    shown = value if len(value) <= 80 else value[:77] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + '"'
