"""iptables as a program: where its binaries are, reading what a namespace holds, and handing it text.

Full names are called (`iptables-nft-restore`), never a shell, and never a name whose meaning the distribution's
alternatives decide, unless nothing else is installed.
"""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext

from capture.errors import BackendUnusable, KernelRefused, LiveStateUnreadable
from capture.kernel import netlink, netns
from capture.kernel.diagnosis import missing_module_hint, owner_hint, permission_hint, refused_rule, said
from capture.kernel.locks import flocked
from capture.kernel.process import FOR_THE_MOMENT, anonymous, locate, patiently, read_words, run
from rules.netfilter import iptables_parse
from rules.netfilter.iptables_text import rule_text
from rules.netfilter.quoting import arguments, for_shell, lines, typed
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import BUILT_IN, Family
from rules.plan.names import OURS
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from typing import Literal, TypeAlias

    from capture.kernel.process import Completed
    from rules.live.changes import Change
    from rules.netfilter.rulesets import Rule

    Backend: TypeAlias = Literal["nft", "legacy"]

NFT: Backend = "nft"
LEGACY: Backend = "legacy"
BACKENDS: tuple[Backend, ...] = (NFT, LEGACY)
PROGRAM = {Family.V4: "iptables", Family.V6: "ip6tables"}
OUR_TABLES = frozenset(OURS)
"""The tables in which anything of ours can be."""

LEGACY_TABLES = {
    Family.V4: "/proc/thread-self/net/ip_tables_names",
    Family.V6: "/proc/thread-self/net/ip6_tables_names",
}
"""Where the kernel names the legacy tables of a namespace, to uid 0."""

LOCK_WAIT = 30
"""Seconds that iptables may wait for its lock, as istio-iptables asks."""
LOCK_FILE = "/run/xtables.lock"


class Iptables(Value):
    """One backend's tools for one family, in the namespace we are in."""

    backend: str
    """`nft` or `legacy`."""
    family: Family

    def __str__(self) -> str:
        return f"{PROGRAM[self.family]}-{self.backend}"

    def path(self, verb: str) -> str | None:
        """Where `iptables-nft-restore` is; or a plain `iptables-restore` that is known to be of this backend.

        Without a verb, `iptables-nft` itself.
        """
        behind = f"-{verb}" if verb else ""
        exact = locate(f"{self}{behind}")
        if exact:
            return exact
        plain = locate(f"{PROGRAM[self.family]}{behind}")
        if plain and os.path.basename(os.path.realpath(plain)) == f"xtables-{self.backend}-multi":
            return plain
        return None

    @property
    def is_installed(self) -> bool:
        return bool(self.path("restore") and self.path("save"))

    @property
    def or_the_other(self) -> str:
        """The other backend as a remedy, if it is one."""
        other = next(name for name in BACKENDS if name != self.backend)
        return f", or use --force-iptables-binary={other}" if self.but(backend=other).is_installed else ""

    def require(self) -> None:
        """Raises BackendUnusable if a program is missing that doing, reading back or undoing takes."""
        for verb in ("restore", "save"):
            self.command(verb)

    def command(self, verb: str) -> str:
        path = self.path(verb)
        if path is None:
            raise BackendUnusable(
                f"{self}{verb and '-'}{verb} is not installed",
                hint=f"install iptables 1.8.7 or later with its {self.backend} backend{self.or_the_other}",
            )
        return path

    def save(self, *, counters: bool = False) -> Saved:
        """What the namespace holds, on demand with packet counters in the text. Reads, and creates nothing.

        Raises LiveStateUnreadable if iptables-save fails, prints what we cannot read, or less than the kernel names.
        """
        program = self.command("save")
        try:
            return patiently(lambda: self.saved(program, counters=counters))
        except NotAllTold as error:
            raise LiveStateUnreadable(
                f"{self}-save does not tell all that the kernel holds; nothing was changed",
                details=[("it lacks", str(error))],
                hint="run it again; see what changes rules here all the time, and what limits it (`ulimit -a`)",
            ) from error
        except OSError as error:
            raise LiveStateUnreadable(
                f"{program} cannot be run, so what the namespace holds is not known: {error.strerror}",
                hint=f"reinstall iptables{self.or_the_other}",
            ) from error

    def saved(self, program: str, *, counters: bool) -> Saved:
        """The same, tried once. Raises OSError, and its NotAllTold, where another attempt may do better."""
        done = run(program, *(["-c"] if counters else []), environ=self.environ())
        if done.status:
            if any(os.strerror(number) in done.stderr for number in FOR_THE_MOMENT):
                raise NotAllTold(said(done))
            raise LiveStateUnreadable(
                f"{self}-save failed, so what the namespace holds is not known; nothing was changed",
                details=[("it said", said(done))],
                hint=permission_hint(done.stderr, is_legacy=self.backend == LEGACY),
            )
        notes = [line for _, line in lines(done.stdout) if line.startswith("# Table `")]
        for line in notes:
            if "is incompatible" in line and named_in(line) in OUR_TABLES:
                raise LiveStateUnreadable(
                    f"{self}-save cannot read a table that we share, because other software filled it with nft",
                    details=[("it said", line)],
                    hint="`nft list ruleset` shows the table; it has to be emptied, or its owner moved to another one",
                )
        try:
            saved = Saved(Ruleset(self.family, iptables_parse.tables(done.stdout)), done.stdout)
        except iptables_parse.NotSaveText as error:
            raise NotAllTold(str(error)) from error
        lacking = next(self.lacking(saved.ruleset, {named_in(line) for line in notes}), "")
        if lacking:
            raise NotAllTold(lacking)
        return saved

    def lacking(self, told: Ruleset, in_part: Container[str]) -> Iterator[str]:
        """What the kernel names and iptables-save did not print; `in_part` are tables of which it says so itself."""
        printed = {table.table: table.chains() for table in told.tables}
        if self.backend == LEGACY:
            there: Iterable[str] = read_words(LEGACY_TABLES[self.family]) or ()
            rules = {}
        else:
            there = netlink.nft_tables()[0][self.family] & OUR_TABLES
            rules = netlink.nft_rules(self.family)
        yield from (f"the table {table}" for table in there if table not in printed)
        for (table, chain), in_kernel in rules.items():
            chains = printed.get(table, {})
            is_shown = chain in chains or chain in OURS.get(table, ())
            is_shown |= chain in BUILT_IN.get(table, ()) and table not in in_part
            if is_shown and table in OUR_TABLES and len(chains.get(chain, ())) != len(in_kernel):
                yield f"rules of {chain} in {table}: of {len(in_kernel)} it prints {len(chains.get(chain, ()))}"

    def restore(self, asked: Sequence[Change], text: str, say: Callable[[str], None]) -> None:
        """Make these changes, each table in one commit; `text` is what they read like.

        `say` is told for whom we wait. Raises KernelRefused, or LockHeld.
        """
        done = self.written(say, "restore", "--noflush", f"--wait={LOCK_WAIT}", text=text)
        if done.status:
            raise self.refusal(asked, done)

    def replace(self, table: str, chain: str, position: int, rule: Rule, say: Callable[[str], None]) -> None:
        """Put a rule that the kernel once printed in the place of another. Raises as `restore`."""
        place = (f"--wait={LOCK_WAIT}", "-t", table, "-R", chain, str(position))
        done = self.written(say, "", *place, *arguments(rule.text))
        if done.status:
            raise KernelRefused(
                f"the kernel refused the {self.family.value} rule that was there before",
                details=[(f"{self} said", said(done)), ("the rule", f"-A {for_shell(chain)} {typed(rule.text)}")],
                family=self.family,
            )

    def written(self, say: Callable[[str], None], verb: str, *arguments: str, text: str = "") -> Completed:
        """How a program that changes something ended. Raises KernelRefused if it did not end, and LockHeld.

        The legacy backend has a lock, one for the host. We take it and not the child, which would wait for whoever can
        open the file.
        """
        program, path = self.command(verb), os.environ.get("XTABLES_LOCKFILE") or LOCK_FILE
        # The lock of the namespace is held anyway, and ours is the child's.
        needs_lock = self.backend == LEGACY and not netns.is_our_lock(path) and path != private_lock()
        try:
            with flocked("the lock of iptables", path, LOCK_WAIT, say) if needs_lock else nullcontext():
                return run(program, *arguments, text=text, environ=self.environ())
        except TimeoutError as error:
            raise KernelRefused(f"{program} hangs: {error.strerror}", hint="see what it waited for") from error

    def environ(self) -> dict[str, str]:
        """The environment of a child: with a lock file of its own, for we hold the one that others look at.

        But for one that was chosen and cannot be had: iptables says so.
        """
        environ = dict(os.environ)
        chosen = environ.get("XTABLES_LOCKFILE")
        if self.backend == LEGACY and (not chosen or is_lockable(chosen)):
            environ["XTABLES_LOCKFILE"] = private_lock()
        return environ

    def refusal(self, asked: Sequence[Change], done: Completed) -> KernelRefused:
        """What was refused, and in the rule's own words what it is for."""
        details = [(f"{self}-restore said", said(done))]
        is_legacy = self.backend == LEGACY
        what = f"the kernel refused the {self.family.value} rules"
        if "xtables lock" in done.stderr:
            # It says nothing of what the kernel can do in this family.
            what = f"{self}-restore waited for the lock of iptables, which we hold"
            return KernelRefused(what, details=details, hint="install iptables 1.8.6 or later")
        hint = permission_hint(done.stderr, is_legacy=is_legacy)
        found = None if hint else refused_rule(asked, done.stderr, family=self.family, is_legacy=is_legacy)
        if not found:
            return KernelRefused(what, details=details, hint=hint, family=self.family)
        chain, rule = found
        details += [("the rule", f"-A {chain} {rule_text(rule)}"), ("its why", rule.why)]
        hint = owner_hint(rule) or missing_module_hint(rule, family=self.family, is_legacy=is_legacy)
        return KernelRefused(what, details=details, hint=hint, setting=rule.setting, family=self.family)


class NotAllTold(InterruptedError):
    """iptables-save said less than there is: it was cut off, or others changed the rules meanwhile. Says what."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EINTR, what)

    def __str__(self) -> str:
        return self.strerror or ""


def named_in(note: str) -> str:
    """The table in "# Table `nat' is incompatible, use 'nft' tool."."""
    return note.partition("`")[2].partition("'")[0]


class Saved(Value):
    """What a namespace holds, as a value and in the kernel's words."""

    ruleset: Ruleset
    text: str

    def lines(self) -> list[str]:
        """The text line by line: a comment may have line breaks in it, which end none."""
        return [line for _, line in lines(self.text.strip("\n"))]


def private_lock() -> str:
    """A lock file that only our children see."""
    if not _private_locks:
        _private_locks.append(anonymous("xtables.lock"))
    return f"/proc/{os.getpid()}/fd/{_private_locks[0]}"


_private_locks: list[int] = []
"""The open file behind that lock, once it was needed."""


def is_lockable(path: str) -> bool:
    """Whether iptables could open or make its lock file there."""
    return os.access(path, os.R_OK) if os.path.exists(path) else os.access(os.path.dirname(path) or ".", os.W_OK)
