"""The order of acts: from what is live to what is planned, in both families and backends, or back to how it was.

iptables-restore is atomic per table of one family and no further. A run is a list of steps, each with its undoing;
if one is refused, those before it are undone in reverse, and the namespace is as it was.

IPv6 goes first: it is the family whose kernel support is most often missing, and when it is refused IPv4 has not
been touched. What must be removed from the other backend goes last, so that at no instant neither holds rules.
"""

from __future__ import annotations

from capture import routing
from capture.errors import CaptureError, KernelRefused, NotPutBack
from capture.kernel import BACKENDS, Iptables
from rules.diff import changes, ours_in, restore_text
from rules.values import Family, Ruleset, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from capture.kernel import Live
    from capture.log import Log
    from rules.diff import Change

ORDER = (Family.V6, Family.V4)


class Restore(Value):
    """One family in one backend: the changes to make, and what of ours was there before."""

    tool: Iptables
    changes: tuple[Change, ...]
    planned: Ruleset
    before: Ruleset

    def do(self, log: Log) -> None:
        log.info(f"Running {self.tool}-restore --noflush with the following input:\n{restore_text(self.changes)}")
        self.tool.restore(self.changes)

    def check(self, log: Log) -> None:
        """Read back, and raise KernelRefused if the kernel does not hold what was asked for."""
        now = self.tool.save()
        if changes(now.ruleset, self.planned):
            raise KernelRefused(
                f"{self.tool}-restore reported success, but the {self.tool.family.value} rules differ",
                details=[("missing", restore_text(changes(now.ruleset, self.planned)))],
                hint="other software may be changing the same chains at the same time; see what runs in the pod",
            )
        log.info(f"{self.tool}-save says:\n{now.text.strip()}")

    def undo(self) -> None:
        back = changes(self.tool.save().ruleset, self.before)
        if back:
            self.tool.restore(back)


class AddPassthroughAddress(Value):
    """`::6` on lo, the address from which the proxy hands inbound IPv6 to the application."""

    def do(self, log: Log) -> None:
        log.info("Adding ::6/128 to lo")
        routing.add_passthrough_address()

    def check(self, log: Log) -> None:
        """The kernel answered the request itself."""

    def undo(self) -> None:
        routing.remove_passthrough_address()


if TYPE_CHECKING:
    Step: TypeAlias = Restore | AddPassthroughAddress


def steps(live: Live, planned: Sequence[Ruleset], backend: str, *, needs_passthrough_address: bool) -> Iterator[Step]:
    """What has to be done, in order; nothing if the namespace is as planned."""
    if needs_passthrough_address:
        yield AddPassthroughAddress()
    yield from restores(live, planned, backend)


def restores(live: Live, planned: Sequence[Ruleset], backend: str) -> Iterator[Restore]:
    """The steps that change rules: what is planned into this backend, and nothing of ours in the other."""
    wanted = {ruleset.family: ruleset for ruleset in planned}
    for tool in (Iptables(backend, family) for family in ORDER):
        yield from restoring(live, tool, wanted[tool.family])
    for other in BACKENDS:
        if other != backend:
            for tool in (Iptables(other, family) for family in ORDER):
                yield from restoring(live, tool, Ruleset(tool.family))


def restoring(live: Live, tool: Iptables, planned: Ruleset) -> Iterator[Restore]:
    before = live.saved(tool).ruleset
    needed = changes(before, planned)
    if needed:
        yield Restore(tool, needed, planned, ours_in(before))


def apply(doing: Sequence[Step], live: Live, log: Log) -> None:
    """Do all steps, or none. Raises KernelRefused (or another CaptureError) with the namespace as it was."""
    done: list[Step] = []
    try:
        for step in doing:
            done.append(step)
            step.do(log)
        for step in doing:
            step.check(log)
    except BaseException as error:
        put_back(done, live, log, error)
        raise


def put_back(done: Sequence[Step], live: Live, log: Log, error: BaseException) -> None:
    """Undo these steps, the last one first. Raises NotPutBack if that fails."""
    for step in reversed(done):
        try:
            step.undo()
        except (CaptureError, OSError) as second:
            raise NotPutBack(
                "a change failed, and putting back what was there failed too: the namespace may be half configured",
                details=[("the failure", str(error)), ("putting back", str(second))],
                hint="run it again, or remove what is there with --cleanup-only",
            ) from second
    if done:
        routing.remove_empty_tables(live.nft_tables)
        log.warn("what had been changed was put back: the namespace is as it was")
