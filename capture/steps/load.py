"""One transaction of nft: our own tables of both families, all that changes in them or nothing."""

from __future__ import annotations

from itertools import groupby, zip_longest

from capture.errors import KernelRefused
from capture.iptables.iptables import NATIVE
from capture.kernel.process import patiently, run
from capture.steps.passing import LetPacketsPass
from capture.steps.restore import Restore
from rules.native.applied import applied
from rules.native.writing import transaction, transactions
from rules.netfilter.hooks import NAME
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family
from rules.plan.names import NATIVE_TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, TypeAlias

    from capture.iptables.iptables import Iptables
    from capture.log import Log
    from capture.steps.acts import Act
    from rules.native.reading import Own
    from rules.netfilter.rulesets import Rule

    Line: TypeAlias = tuple[str, Family, Rule | None]
    """Of the input of nft, with its family and the rule that it makes."""
    Before: TypeAlias = Own | str
    """Our table of a family: in what we speak, or as nft lists it."""


class Load:
    """What is to be done to our own tables in one transaction, and what was there before."""

    def __init__(
        self, restores: Sequence[Restore], there: frozenset[Family], lines: Sequence[Line], before: dict[Family, Before]
    ) -> None:
        self.restores = restores
        self.there = there
        """The families that have a table of ours before it."""
        self.lines = lines
        self.before = before
        """Our tables as they were, once this is done; where two transactions are one step, before the first of them."""
        self.may_be_done = False
        """Whether the kernel may have it: a transaction that was refused has changed nothing."""

    @property
    def text(self) -> str:
        return joined(self.lines)

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(restore.family for restore in self.restores)

    @property
    def comparing(self) -> Sequence[Restore]:
        return self.restores

    @property
    def tool(self) -> Iptables:
        return self.restores[-1].tool

    def __str__(self) -> str:
        return f"nft -f - with the following input:\n{self.text}"

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        if not self.before:
            self.before |= as_they_are([restore.tool for restore in self.restores if restore.family in self.there])
        program = self.tool.command("")
        self.may_be_done = True
        done = run(program, "-f", "-", text=self.text)
        if done.status:
            self.may_be_done = False
            from capture.iptables.diagnosis import refused_by_nft

            raise refused_by_nft(self.lines, done)

    def undo(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        """Put back what was there before."""
        for text in self.undoing() if self.may_be_done else ():
            done = run(self.tool.command(""), "-f", "-", text=text)
            if done.status:
                from capture.iptables.diagnosis import complaint

                raise KernelRefused(
                    "the kernel refused the tables of ours that were there before",
                    details=[("nft said", complaint(done))],
                )

    def undoing(self) -> Iterator[str]:
        """What nft is given for it, one transaction after the other. Raises OSError."""
        from capture.netlink import nf_tables
        from rules.native.reading import Own, own

        told = patiently(nf_tables.read)
        beforehand = then = ""
        for family in self.families:
            before, now = self.before.get(family) or Own(Ruleset(family), {}), own(told, family)
            if isinstance(before, str):
                table = f"{NAME[family]} {NATIVE_TABLE}"
                then += f"add table {table}\ndelete table {table}\n{before}"
            elif now is None:
                then += joined(transaction(Ruleset(family), before.ruleset, before.counts, anew=True))
            else:
                first, last = transactions(now.ruleset, before.ruleset, before.counts)
                beforehand += joined(first)
                then += joined(last)
        yield from filter(None, (beforehand, then))


def joined(lines: Iterable[Sequence[Any]]) -> str:
    """The input of nft."""
    return "".join(f"{line[0]}\n" for line in lines)


def as_they_are(tools: Sequence[Iptables]) -> dict[Family, Before]:
    """Our tables of these families: as we read them, or, where more is in them than we speak, as nft lists them.

    Raises OSError.
    """
    if not tools:
        return {}
    from capture.netlink import nf_tables
    from rules.native.reading import own

    told = patiently(nf_tables.read)
    found: dict[Family, Before] = {}
    for tool in tools:
        held = own(told, tool.family)
        found[tool.family] = held if held and held.is_in_our_words else listed(tool)
    return found


def listed(tool: Iptables) -> str:
    """Our table of this family as nft prints it, which it reads again; empty if it is not there."""
    done = run(tool.command(""), "-nn", "list", "table", NAME[tool.family], NATIVE_TABLE)
    return "" if done.status else done.stdout


def in_transactions(doing: Sequence[Act], unsound: frozenset[Family], *, is_quiet: bool = False) -> list[Act]:
    """The same acts; those on our own tables that stand beside each other are one transaction.

    `unsound` are the families whose table has to be made anew. Where it `is_quiet`, nobody has a socket to which a
    packet could come in the midst of a commit.
    """
    now: dict[Family, Ruleset] = {}
    acts: list[Act] = []
    for is_native, group in groupby(doing, is_of_ours):
        those = list(group)
        restores = [act for act in those if isinstance(act, Restore)]
        if is_native and restores:
            first, last = those.index(restores[0]), those.index(restores[-1])
            acts += [*those[:first], *loads(restores, now, unsound, is_quiet=is_quiet), *those[last + 1 :]]
        else:
            acts += those
    return acts


def is_of_ours(act: Act) -> bool:
    """Whether this changes our own tables, or is a pause between two such."""
    return isinstance(act, LetPacketsPass) or (isinstance(act, Restore) and act.tool.backend == NATIVE)


def loads(
    restores: Sequence[Restore], now: dict[Family, Ruleset], unsound: frozenset[Family], *, is_quiet: bool
) -> Iterator[Load | LetPacketsPass]:
    """The first step of each family in one transaction, then the second of each behind a pause, and so on."""
    of_family = [[each for each in restores if each.family is family] for family in Family]
    for number, together in enumerate(zip_longest(*of_family)):
        those = [each for each in together if each]
        if number:
            yield LetPacketsPass(those[0].family)
        there = {each.family for each in those if now.get(each.family, each.before).tables} | unsound
        beforehand: list[Line] = []
        lines: list[Line] = []
        for restore in those:
            family = restore.family
            first, then = lines_of(restore, now, unsound, is_quiet=is_quiet)
            beforehand += [(line, family, rule) for line, rule in first]
            lines += [(line, family, rule) for line, rule in then]
        before: dict[Family, Before] = {}
        if beforehand:
            yield Load(those, frozenset(there), beforehand, before)
        yield Load(those, frozenset(there), lines, before)


def lines_of(
    restore: Restore, now: dict[Family, Ruleset], unsound: frozenset[Family], *, is_quiet: bool
) -> tuple[list[tuple[str, Rule | None]], list[tuple[str, Rule | None]]]:
    """What is done beforehand, and then, so that `now` is as it is afterwards."""
    family = restore.family
    anew = family not in now and family in unsound
    before = now.get(family, restore.before)
    now[family] = applied(before, restore.changes)
    if anew or is_quiet:
        return [], list(transaction(before, now[family], anew=anew))
    return transactions(before, now[family])
