"""iptables as a program: where its binaries are, reading what a namespace holds, and handing it text.

Full names are called (`iptables-nft-restore`), never a shell, and never a name whose meaning the distribution's
alternatives decide, unless nothing else is installed.
"""

from __future__ import annotations

import errno
import os

from capture.errors import BackendUnusable, KernelRefused, LiveStateUnreadable
from capture.iptables.saved import Saved
from capture.kernel import netns
from capture.kernel.locks import flocked
from capture.kernel.process import FOR_THE_MOMENT, LEGACY_TABLES, anonymous, locate, patiently, read_words, run
from capture.netlink import nftables
from rules.iptables.quoting import MARKER, arguments, for_shell, lines, typed
from rules.iptables.writing import rule_text
from rules.live.changes import restore_lines
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import BUILT_IN, Family
from rules.plan.names import NATIVE_TABLE, OURS
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Literal, TypeAlias

    from capture.iptables.native import Native
    from capture.kernel.process import Completed
    from rules.live.changes import Change
    from rules.netfilter.rulesets import Rule

    Backend: TypeAlias = Literal["nft", "legacy", "native"]

NFT: Backend = "nft"
LEGACY: Backend = "legacy"
NATIVE: Backend = "native"
"""A table of our own of nf_tables, which nft writes, without iptables."""
BACKENDS: tuple[Backend, ...] = (NFT, LEGACY, NATIVE)
OF_IPTABLES = (NFT, LEGACY)
PROGRAM = {Family.V4: "iptables", Family.V6: "ip6tables"}
OUR_TABLES = frozenset(OURS)
"""The tables in which anything of ours can be."""

CANNOT_PARSE = "Parsing nftables rule failed"
"""What iptables-nft-save says, and ends, at a rule with an expression that it does not know."""

LOCK_WAIT = 30
"""Seconds that iptables may wait for its lock, as istio-iptables asks."""
LOCK_FILE = "/run/xtables.lock"


NOTE = "# Table `"
"""How iptables-nft-save begins to say of a table that it cannot tell all of it."""


class Told(Value):
    """What iptables-legacy-restore told of what it left."""

    listing: str
    """As `-S` prints it."""
    tables: tuple[str, ...]
    """Of which tables, in order."""


class Iptables(Value):
    """One backend's tools for one family, in the namespace we are in."""

    backend: str
    """`nft`, `legacy` or `native`."""
    family: Family

    def __str__(self) -> str:
        if self.backend == NATIVE:
            return f"nft {'ip' if self.family is Family.V4 else 'ip6'}"
        return f"{PROGRAM[self.family]}-{self.backend}"

    @property
    def writer(self) -> str:
        """What makes changes, as a log names it."""
        return "nft" if self.backend == NATIVE else f"{self}-restore"

    @property
    def teller(self) -> str:
        """What tells what is there, as a log names it."""
        return f"{self} {NATIVE_TABLE}" if self.backend == NATIVE else f"{self}-save"

    def path(self, verb: str) -> str | None:
        """Where `iptables-nft-restore` is; or a plain `iptables-restore` that is known to be of this backend.

        Without a verb, `iptables-nft` itself.
        """
        if self.backend == NATIVE:
            return locate("nft")
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
        other = next(name for name in OF_IPTABLES if name != self.backend)
        return f", or use --force-iptables-binary={other}" if self.but(backend=other).is_installed else ""

    def require(self) -> None:
        """Raises BackendUnusable if a program is missing that doing, reading back or undoing takes."""
        for verb in ("restore", "save"):
            self.command(verb)

    def command(self, verb: str) -> str:
        path = self.path(verb)
        if path is None and self.backend == NATIVE:
            raise BackendUnusable("nft is not installed", hint="install nftables 1.0.6 or later")
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
        if self.backend == NATIVE:
            from capture.iptables.own import own_saved

            return own_saved(self.family)
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
        options = ["-c"] if counters else []
        done = run(program, *options, environ=self.environ())
        text, unprinted = done.stdout, frozenset[str]()
        if done.status and self.backend == NFT and CANNOT_PARSE in done.stderr:
            # It ends at the first rule that it does not know: table by table.
            each = {name: run(program, *options, "-t", name, environ=self.environ()) for name in self.tables()}
            text = "".join(done.stdout for done in each.values() if not done.status)
            unprinted = frozenset(name for name, done in each.items() if done.status)
        elif done.status:
            from capture.iptables.diagnosis import complaint, permission_hint

            if any(os.strerror(number) in done.stderr for number in FOR_THE_MOMENT):
                raise NotAllTold(complaint(done))
            raise LiveStateUnreadable(
                f"{self}-save failed, so what the namespace holds is not known; nothing was changed",
                details=[("it said", complaint(done))],
                hint=permission_hint(done.stderr, is_legacy=self.backend == LEGACY),
            )
        if self.backend == NFT:
            return self.told_by_nf_tables(text, unprinted, counters=counters)
        return self.told_by_legacy(text)

    def parsed(self, text: str) -> Ruleset:
        """Raises NotAllTold for what is cut off."""
        from rules.iptables import reading  # what is known at sight is not read
        from rules.iptables.printed import Expected

        planned = _expected.get(self.family)
        try:
            return Ruleset(self.family, reading.tables(text, Expected(planned, OURS) if planned else None))
        except reading.NotSaveText as error:
            raise NotAllTold(str(error)) from error

    def tables(self) -> Iterable[str]:
        """The tables that the kernel names, as far as anything of ours can be in them. Raises OSError."""
        if self.backend == LEGACY:
            return read_words(LEGACY_TABLES[self.family]) or ()
        return sorted(nftables.nft_tables()[0][self.family] & OUR_TABLES)

    def told_by_legacy(self, text: str) -> Saved:
        """What iptables-legacy-save prints, or -restore listed, held against the kernel. Raises OSError."""
        ruleset = self.parsed(text)
        for table in self.tables():
            if table not in {each.table for each in ruleset.tables}:
                raise NotAllTold(f"the table {table}")
        return Saved(ruleset, text)

    def told_by_nf_tables(self, text: str, unprinted: frozenset[str], *, counters: bool) -> Saved:
        """What iptables-nft-save printed, held against the kernel, and completed by what it does not print."""
        spoken = lines(text) if NOTE in text else ()
        notes = (line for _, line in spoken if line.startswith(NOTE) and "is incompatible" in line)
        noted = frozenset(map(named_in, notes))
        there, raw = self.tables(), nftables.raw_rules(self.family)
        unprinted |= noted & OUR_TABLES
        if unprinted:
            from capture.iptables.unprinted import printed

            chains, rules = nftables.nft_chains(), nftables.taken_apart(raw)
            shown = (
                printed(self, table, chains.get((self.family, table), {}), rules, counters=counters)
                for table in sorted(unprinted.intersection(there))
            )
            text += "".join(f"{line}\n" for table in shown for line in table)
        ruleset = self.parsed(text)
        printed_rules = {table.table: table.chains() for table in ruleset.tables}
        needs_more = False
        for table in there:
            if table not in printed_rules:
                raise NotAllTold(f"the table {table}")
        for (table, chain), in_kernel in raw.items():
            if table in OUR_TABLES:
                count = len(printed_rules.get(table, {}).get(chain, ()))
                if count != len(in_kernel) and not self.is_hidden(table, chain):
                    raise NotAllTold(f"rules of {chain} in {table}: of {len(in_kernel)} it prints {count}")
                needs_more |= count != len(in_kernel) or may_leave_out(b"".join(in_kernel))
        if not (needs_more or unprinted):
            return Saved(ruleset, text)
        from capture.iptables.unprinted import completed, native_among_ours

        rules = nftables.taken_apart(raw)
        ruleset = ruleset.but(tables=tuple(completed(self.family, table, rules) for table in ruleset.tables))
        return Saved(ruleset, text, native_among_ours(self.family, ruleset, rules))

    def is_hidden(self, table: str, chain: str) -> bool:
        """Whether this is a base chain that iptables does not print, because it is none of its own."""
        from capture.iptables.unprinted import is_printed

        found = nftables.nft_chains().get((self.family, table), {}).get(chain)
        return found is not None and not is_printed(table, chain, found)

    def restore(self, changes: Sequence[Change], say: Callable[[str], None]) -> Told | None:
        """Make these changes, each table in one commit.

        `say` is told for whom we wait. The result is what the legacy backend holds afterwards, as the same program
        tells it: a program less to start. Raises KernelRefused, or LockHeld.
        """
        given, listed = restore_lines(changes), tuple[str, ...]()
        if self.backend == LEGACY:
            from rules.iptables.listing import asking

            tables = {*self.tables(), *(change.table for change in changes)}
            listed = tuple(sorted(tables)) if tables <= BUILT_IN.keys() else ()
            given = (line for part in (given, asking(listed)) for line in part)
        done = self.written(say, "restore", "--noflush", f"--wait={LOCK_WAIT}", given=given)
        if done.status:
            raise self.refusal(changes, done)
        return Told(done.stdout, listed) if listed else None

    def heard(self, told: Told) -> Saved | None:
        """What a restore told; None if that is not all there is, so that it has to be asked."""
        from rules.iptables.listing import as_saved

        try:
            return self.told_by_legacy(as_saved(told.listing, told.tables))
        except (ValueError, OSError):
            return None

    def replace(
        self,
        table: str,
        chain: str,
        position: int,
        rule: Rule,
        native: Mapping[tuple[str, str], Native],
        say: Callable[[str], None],
    ) -> None:
        """Put a rule that the kernel once told in the place of another. Raises as `restore`."""
        if rule.text.startswith(MARKER):
            from capture.iptables.native import handle_in, put_back

            try:
                there = nftables.nft_rules(self.family)[table, chain][position - 1]
                put_back(self.family, table, chain, there, native[table, handle_in(rule.text)])
            except (OSError, LookupError) as error:
                raise KernelRefused(
                    f"the kernel refused the native {self.family.value} rule that was there before",
                    details=[("the rule", rule_text(rule)), ("it said", str(error))],
                    family=self.family,
                ) from error
            return
        place = (f"--wait={LOCK_WAIT}", "-t", table, "-R", chain, str(position))
        done = self.written(say, "", *place, *arguments(rule.text))
        if done.status:
            from capture.iptables.diagnosis import complaint

            raise KernelRefused(
                f"the kernel refused the {self.family.value} rule that was there before",
                details=[(f"{self} said", complaint(done)), ("the rule", f"-A {for_shell(chain)} {typed(rule.text)}")],
                family=self.family,
            )

    def written(self, say: Callable[[str], None], verb: str, *arguments: str, given: Iterable[str] = ()) -> Completed:
        """How a program that changes something ended. Raises KernelRefused if it did not end, and LockHeld.

        The legacy backend has a lock, one for the host. We take it and not the child, which would wait for whoever can
        open the file.
        """
        program, path = self.command(verb), os.environ.get("XTABLES_LOCKFILE") or LOCK_FILE
        # The lock of the namespace is held anyway, and ours is the child's.
        needs_lock = self.backend == LEGACY and not netns.is_our_lock(path) and path != private_lock()
        try:
            if not needs_lock:
                return run(program, *arguments, lines=given, environ=self.environ())
            with flocked("the lock of iptables", path, LOCK_WAIT, say):
                return run(program, *arguments, lines=given, environ=self.environ())
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

    def refusal(self, changes: Sequence[Change], done: Completed) -> KernelRefused:
        """What was refused, and in the rule's own words what it is for."""
        from capture.iptables.diagnosis import complaint, missing_module_hint, owner_hint, permission_hint, refused_rule
        from rules.netfilter.hooks import NAME

        details = [(f"{self}-restore said", complaint(done))]
        is_legacy = self.backend == LEGACY
        what = f"the kernel refused the {self.family.value} rules"
        if "xtables lock" in done.stderr:
            # It says nothing of what the kernel can do in this family.
            what = f"{self}-restore waited for the lock of iptables, which we hold"
            return KernelRefused(what, details=details, hint="install iptables 1.8.6 or later")
        tables = [f"{NAME[self.family]} {change.table}" for change in changes if not is_legacy]
        hint = permission_hint(done.stderr, is_legacy=is_legacy, tables=tables)
        found = None if hint else refused_rule(changes, done.stderr, family=self.family, is_legacy=is_legacy)
        if not found:
            return KernelRefused(what, details=details, hint=hint, family=self.family)
        chain, rule = found
        details += [("the rule", f"-A {chain} {rule_text(rule)}"), ("its why", rule.why)]
        hint = (
            owner_hint(rule)
            or self.taken_hint(chain, done.stderr)
            or missing_module_hint(rule, family=self.family, is_legacy=is_legacy)
        )
        return KernelRefused(what, details=details, hint=hint, setting=rule.setting, family=self.family)

    def taken_hint(self, chain: str, stderr: str) -> str:
        """What to try if somebody's base chain has the name of the built-in one that this would make."""
        if self.backend != NFT or "CHAIN_ADD failed" not in stderr or chain not in BUILT_IN["mangle"]:
            return ""
        return f"a chain of others is called {chain} and is none of iptables: give it another name{self.or_the_other}"


class NotAllTold(InterruptedError):
    """iptables-save said less than there is: it was cut off, or others changed the rules meanwhile. Says what."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EINTR, what)

    def __str__(self) -> str:
        return self.strerror or ""


def may_leave_out(raw: bytes) -> bool:
    """Whether iptables-nft-save may have left out a part of these rules without a word: a native set, or a range.

    Told in a moment, and of some rules too many; `capture.iptables.nft_words.left_out` tells exactly.
    """
    if b"lookup\0" in raw or b"range\0" in raw:
        return True
    at = raw.find(COMPARISON)
    while at >= 0:
        if raw[at + WHERE_ITS_OP_ENDS : at + WHERE_ITS_OP_ENDS + 1] > NOT_EQUAL:
            return True
        at = raw.find(COMPARISON, at + 1)
    return False


COMPARISON, WHERE_ITS_OP_ENDS = b"cmp\0", 23
"""The name of the expression; a nest, a register and the operator follow (NFTA_EXPR_DATA, NFTA_CMP_SREG and _OP)."""
NOT_EQUAL = b"\1"
"""NFT_CMP_NEQ; those above it compare by size."""


def expect(rulesets: Iterable[Ruleset]) -> None:
    """From now on, know at sight what is as planned."""
    _expected.update((ruleset.family, ruleset) for ruleset in rulesets)


_expected: dict[Family, Ruleset] = {}


def named_in(note: str) -> str:
    """The table in "# Table `nat' is incompatible, use 'nft' tool."."""
    return note.partition("`")[2].partition("'")[0]


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
