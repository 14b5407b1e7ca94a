"""One restore of iptables: what changes in one family of one backend, and how it is undone."""

from __future__ import annotations

from capture.errors import KernelRefused
from capture.iptables.iptables import NATIVE, NFT
from capture.sight import in_place
from rules.live.changes import ALONE, Change, changes, changes_back, restore_text, with_stand_ins
from rules.ours.recognition import as_judged
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from capture.iptables.iptables import Iptables, Told
    from capture.iptables.native import Native
    from capture.iptables.saved import Saved
    from capture.log import Log
    from rules.live.changes import Command, Company
    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.values import Family


class Restore(Value):
    """One family in one backend: the changes to make, and what of ours was there before."""

    tool: Iptables
    changes: tuple[Change, ...]
    planned: Ruleset
    before: Ruleset
    """All that was there, so that undoing it finds every jump's place."""
    company: Company = ALONE
    """Who else is here, and who goes first."""
    native: dict[tuple[str, str], Native] = {}  # noqa: RUF012 # a default that nobody changes
    """What of it iptables-restore cannot put back: see `Saved`."""

    def __str__(self) -> str:
        return f"{self.tool.writer} --noflush with the following input:\n{self.text}"

    @property
    def family(self) -> Family:
        return self.tool.family

    @property
    def text(self) -> str:
        """The changes as iptables-restore is given them."""
        return restore_text(self.changes)

    @property
    def families(self) -> tuple[Family]:
        return (self.tool.family,)

    @property
    def comparing(self) -> tuple[Restore]:
        return (self,)

    def only(self, those: Callable[[str, Command], bool]) -> Restore | None:
        """The same with some commands only, by table and command; None if there are none."""
        parts = (
            Change(change.table, tuple(command for command in change.commands if those(change.table, command)))
            for change in self.changes
        )
        some = tuple(part for part in parts if part.commands)
        return self.but(changes=some) if some else None

    def do(self, log: Log) -> Told | None:
        """The result is what the tool told of what it left, if it did."""
        return self.tool.restore(self.changes, log.warn)

    def judged(self, saved: Saved) -> Saved:
        """What was read just now; whose it is does not change with what we do."""
        return saved.but(ruleset=as_judged(saved.ruleset, self.before))

    def check(self, log: Log, told: Mapping[Iptables, Told]) -> None:
        """Raise KernelRefused if the kernel does not hold what is planned: at sight, by what was told, or read back."""
        if self.planned.tables and self.is_held():
            log.info(f"nf_tables holds the {self.tool.family.value} rules as planned")
            return
        heard = self.tool.heard(told[self.tool]) if self.tool in told else None
        now = self.judged(heard or self.tool.save())
        missing = changes(now.ruleset, self.planned, self.company)
        if missing and heard:  # which could be cut off
            heard, now = None, self.judged(self.tool.save())
            missing = changes(now.ruleset, self.planned, self.company)
        if missing:
            raise KernelRefused(
                f"{self.tool.writer} reported success, but the {self.tool.family.value} rules differ",
                details=[("missing", restore_text(missing))],
                hint="other software may be changing the same chains at the same time; see what runs in the pod",
            )
        now.said_by(self.tool.writer if heard else self.tool.teller, log)

    def is_held(self) -> bool:
        """Whether the kernel holds what is planned, as far as that is told at sight. Raises OSError."""
        if self.tool.backend == NATIVE:
            from capture.sight import own  # of two backends, each run loads one

            return own.holds(self.planned)
        return self.tool.backend == NFT and in_place.holds(self.planned)

    def undo(self, log: Log) -> None:
        """Put back what was in the tables of this step."""
        mine = {change.table for change in self.changes}
        back = changes_back(self.judged(self.tool.save()).ruleset, self.before, self.company.taken_over)
        back = tuple(change for change in back if change.table in mine)
        if back:
            back, waiting = with_stand_ins(back)
            self.tool.restore(back, log.warn)
            if waiting:
                self.replace(waiting, log)

    def replace(self, waiting: Mapping[Rule, Rule], log: Log) -> None:
        """Put the rules that iptables-restore cannot be given in the places of those that stand in for them."""
        for table in self.tool.save().ruleset.tables:
            for chain, rules in table.chains().items():
                for position, rule in enumerate(rules, 1):
                    if rule in waiting:
                        self.tool.replace(table.table, chain, position, waiting[rule], self.native, log.warn)
