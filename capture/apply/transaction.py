"""The order of acts: from what is live to what is planned, in tables, families, backends and routing, or back.

iptables-restore is atomic per table of one family and no further. A run is a list of steps, each with its undoing;
if one is refused, those before it are undone in reverse, and the namespace is as it was.

What lets rules work (addresses, routes) comes before them and goes after them. IPv6 goes before IPv4: it is the
family whose kernel support is most often missing, and when it is refused IPv4 has not been touched. What must be
removed from the other backend goes behind both, so that at no instant neither holds rules.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what `signal` wraps, which takes its time to import
import os

from capture.errors import CaptureError, ChainInUse, KernelRefused, NotPutBack
from capture.iptables.iptables import BACKENDS, NATIVE, NFT, OUR_TABLES, Iptables
from capture.iptables.leaving import TakeAway
from capture.netlink import nftables, rtnetlink
from rules.iptables.quoting import MARKER, for_shell, typed
from rules.iptables.writing import UNSUPPORTED, rule_text
from rules.live.changes import ALONE, Change, RemoveChain, changes, changes_back, restore_text, with_stand_ins
from rules.live.routing_changes import routing_to_add, routing_to_remove
from rules.netfilter.routing import ip_command
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import ForeignTarget, Jump
from rules.netfilter.values import BUILT_IN, Family
from rules.ours.meshes import chains_of_other_meshes
from rules.ours.recognition import as_judged, holds_ours, is_our_jump, is_ours, recognised
from rules.plan.names import PROTOCOL
from rules.plan.plan import NOTHING
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from capture.apply.load import Load
    from capture.apply.pickup import PickUp
    from capture.apply.release import Release
    from capture.foreign.tables import DeleteTables
    from capture.host.live import Live
    from capture.iptables.native import Native
    from capture.iptables.saved import Saved
    from capture.log import Log
    from rules.live.changes import Command, Company
    from rules.live.routing_changes import RoutingChange
    from rules.netfilter.rulesets import Rule, TableRules
    from rules.netfilter.targets import Target
    from rules.plan.plan import Plan

ORDER = (Family.V6, Family.V4)
FILES = 12
"""How many files a step may have open at once: a program's streams, a lock, a netlink socket, and some to spare."""
ENDING_SIGNALS = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)

# `capture.netlink.routing` is imported by the steps that need it: an IPv4 capture by REDIRECT does not.


class Restore(Value):
    """One family in one backend: the changes to make, and what of ours was there before."""

    tool: Iptables
    changes: tuple[Change, ...]
    text: str
    """The changes as iptables-restore is given them."""
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

    def only(self, those: Callable[[str, Command], bool]) -> Restore | None:
        """The same with some commands only, by table and command; None if there are none."""
        parts = (
            Change(change.table, tuple(command for command in change.commands if those(change.table, command)))
            for change in self.changes
        )
        some = tuple(part for part in parts if part.commands)
        return self.but(changes=some, text=restore_text(some)) if some else None

    def do(self, log: Log) -> None:
        self.tool.restore(self.changes, self.text, log.warn)

    def judged(self, saved: Saved) -> Saved:
        """What was read just now; whose it is does not change with what we do."""
        return saved.but(ruleset=as_judged(saved.ruleset, self.before))

    def check(self, log: Log, read: Callable[[Iptables], Saved]) -> None:
        """Raise KernelRefused if the kernel does not hold what was asked for, by what is read back."""
        now = self.judged(read(self.tool))
        missing = changes(now.ruleset, self.planned, self.company)
        if missing:
            raise KernelRefused(
                f"{self.tool.writer} reported success, but the {self.tool.family.value} rules differ",
                details=[("missing", restore_text(missing))],
                hint="other software may be changing the same chains at the same time; see what runs in the pod",
            )
        log.info(f"{self.tool.teller} says:", *now.lines())

    def undo(self, log: Log) -> None:
        """Put back what was in the tables of this step."""
        mine = {change.table for change in self.changes}
        back = changes_back(self.judged(self.tool.save()).ruleset, self.before, self.company.taken_over)
        back = tuple(change for change in back if change.table in mine)
        if back:
            back, waiting = with_stand_ins(back)
            self.tool.restore(back, restore_text(back), log.warn)
            if waiting:
                self.replace(waiting, log)

    def replace(self, waiting: Mapping[Rule, Rule], log: Log) -> None:
        """Put the rules that iptables-restore cannot be given in the places of those that stand in for them."""
        for table in self.tool.save().ruleset.tables:
            for chain, rules in table.chains().items():
                for position, rule in enumerate(rules, 1):
                    if rule in waiting:
                        self.tool.replace(table.table, chain, position, waiting[rule], self.native, log.warn)


class SetRouting(Value):
    """Make a change of ip rules and routes."""

    change: RoutingChange

    def __str__(self) -> str:
        return str(self.change)

    @property
    def family(self) -> Family:
        return self.change.routing.family

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=self.change.adds)

    def check(self, log: Log, read: Callable[[Iptables], Saved]) -> None:  # noqa: ARG002 # one signature for all steps
        """Raises KernelRefused if something else is in the place of what was added.

        The kernel knows a rule or a route by less than all that it says: to one that says something else it answers
        that ours is there already.
        """
        if not self.change.adds:
            return
        from rules.live.drift import REFUSED_FOR, REMEDY, Kind, sentence_of
        from rules.live.routing import is_like_ours, routing_in_the_way

        rules, routes = rtnetlink.policy_rules(), rtnetlink.routes()
        if not any(is_like_ours(rule, self.change.routing) for rule in rules):
            raise KernelRefused(
                f"an ip rule of somebody else's stands in the place of ours for fwmark {self.change.routing.mark:#x}",
                details=[("what is needed", str(self))],
                hint=f"see `{ip_command(self.family)} rule`; remove it, or give -t and -r numbers that nobody uses",
            )
        for found in routing_in_the_way(rules, routes, self.change.routing):
            if found.kind in (*REFUSED_FOR, Kind.IP_RULE_BEFORE_OURS):
                hint = REMEDY.get(found.kind, "run it again: that rule was added meanwhile")
                raise KernelRefused(sentence_of(found), details=[("what is needed", str(self))], hint=hint)

    def undo(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=not self.change.adds)

    def set(self, *, adds: bool) -> None:
        """The route is there before a rule looks it up, and stays until none does."""
        from capture.netlink import routing

        family, mark, table = self.change.routing.family, self.change.routing.mark, self.change.routing.table
        if adds and self.change.has_route:
            routing.add_route(family, table)
        if self.change.rule_priority is not None:
            if adds:
                routing.add_rule(family, self.change.rule_priority, mark, table)
            else:
                routing.remove_rule(family, self.change.rule_priority, mark, table)
        if not adds and self.change.has_route:
            routing.remove_route(family, table)


class SetPassthroughAddress(Value):
    """`::6` on lo, from which the proxy hands inbound IPv6 to the application: add it, or remove it."""

    adds: bool

    @property
    def family(self) -> Family:
        return Family.V6

    def __str__(self) -> str:
        return f"ip -6 addr {'add' if self.adds else 'del'} ::6/128 dev lo"

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=self.adds)

    def check(self, log: Log, read: Callable[[Iptables], Saved]) -> None:
        """The kernel answered the request itself."""

    def undo(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.set(adds=not self.adds)

    @staticmethod
    def set(*, adds: bool) -> None:
        from capture.netlink import routing

        if adds:
            routing.add_passthrough_address()
        else:
            routing.remove_passthrough_address()


class LetPacketsPass(Value):
    """Between two commits of which the second lets go what the first takes over: see `capture.kernel.rcu`."""

    family: Family

    def __str__(self) -> str:
        return "membarrier(2): packets that met the former rules get through before the next commit"

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        from capture.kernel.rcu import let_packets_pass

        let_packets_pass()

    def check(self, log: Log, read: Callable[[Iptables], Saved]) -> None:
        """There is nothing to see."""

    def undo(self, log: Log) -> None:
        """The same on the way back."""
        self.do(log)


if TYPE_CHECKING:
    Step: TypeAlias = (
        Restore | Load | DeleteTables | SetRouting | SetPassthroughAddress | LetPacketsPass | PickUp | Release
    )
    Act: TypeAlias = Step | TakeAway


def steps(
    live: Live, planned: Plan, backend: str, *, take_over: bool = False, ours_first: bool = False
) -> Iterator[Act]:
    """What has to be done, in order; nothing if the namespace is as planned.

    `take_over` removes the chains of other meshes in the same commits; `ours_first` goes above all rules of others.
    """
    if planned.passthrough_address and live.passthrough is None:
        yield SetPassthroughAddress(adds=True)
    yield from map(SetRouting, routing_to_add(live.policy_rules, live.local_routes, planned.routing))
    wanted = {ruleset.family: ruleset for ruleset in planned.rulesets}
    held = wanted
    if backend == NATIVE:
        from rules.native.compiled import compiled

        held = {family: compiled(ruleset) for family, ruleset in wanted.items()}
    places = [(Iptables(backend, family), held[family]) for family in ORDER]
    others = [Iptables(other, family) for other in BACKENDS if other != backend for family in ORDER]
    places += [(tool, Ruleset(tool.family)) for tool in others]
    company = live.company(ours_first=ours_first)
    restores = [step for place in places for step in restoring(live, *place, company, take_over=take_over)]
    if restores and live.has_sockets:
        from capture.apply.pickup import beside_what_is_open  # where a pod starts there are none

        first, restores = beside_what_is_open(live, wanted, restores)
        yield from first
    yield from handed_over(live, wanted, restores)
    removals = list(map(SetRouting, routing_to_remove(live.policy_rules, live.local_routes, planned.routing)))
    if restores and removals:
        yield LetPacketsPass(removals[0].family)
    yield from removals
    if not planned.passthrough_address and live.passthrough and live.passthrough.protocol == PROTOCOL:
        yield SetPassthroughAddress(adds=False)
    for tool, ruleset in places:
        yield from emptied(live, tool, ruleset, is_removal=planned is NOTHING)


def restoring(live: Live, tool: Iptables, planned: Ruleset, company: Company, *, take_over: bool) -> Iterator[Restore]:
    before = recognised(live.saved(tool).ruleset, planned)
    if take_over:
        company = taking_over(company, before)
    needed = changes(before, planned, company)
    if needed or (tool.backend == NATIVE and tool.family in live.unsound):
        refuse_if_used(tool, before, needed, company.taken_over)
        yield Restore(tool, needed, restore_text(needed), planned, before, company, live.saved(tool).native)


def taking_over(company: Company, live: Ruleset) -> Company:
    """The same company, of which the chains of other meshes go."""
    return company.but(taken_over=frozenset(chain for _, _, chain in chains_of_other_meshes(live)))


def refuse_if_used(tool: Iptables, before: Ruleset, needed: Sequence[Change], also: frozenset[str]) -> None:
    """Raises ChainInUse if a rule of others leads to a chain that is to go: the kernel would refuse, in fewer words.

    That is one of a mesh that is taken over. Those of ours stay, empty (`rules.ours.held`).
    """
    for change in needed:
        table = before.table(change.table)
        going = {command.chain for command in change.commands if isinstance(command, RemoveChain)}
        for block in table.blocks if going else ():
            for rule in block.rules:
                theirs = not is_ours(table, block.chain, also)
                target = chain_named(rule.target) if theirs else ""
                if target in going and not (table.is_built_in(block.chain) and is_our_jump(table, rule, also)):
                    what = f"a rule of others leads to {target}, which is to be removed; nothing was touched"
                    hint = f"delete that rule first: {deleting(tool, table, block.chain, rule)}"
                    raise ChainInUse(what, details=[("the rule", rule_text(rule))], hint=hint)


def deleting(tool: Iptables, table: TableRules, chain: str, rule: Rule) -> str:
    """The command that deletes this rule of others, as one types it."""
    if rule.text.startswith(MARKER):
        family = "ip" if tool.family is Family.V4 else "ip6"
        from capture.iptables.native import handle_in
        from rules.netfilter.hooks import MISNAMED

        of = f"{family} {table.table} {for_shell(chain.removesuffix(MISNAMED))} handle {handle_in(rule.text)}"
        return f"nft delete rule {of}"
    # What iptables has no words for it finds by its place.
    words = table.chains()[chain].index(rule) + 1 if UNSUPPORTED in rule.text else typed(rule.text)
    return f"{tool} -t {table.table} -D {for_shell(chain)} {words}"


def chain_named(target: Target) -> str:
    """The chain that this target leads to, by a jump or by `-g`; empty if it leads to none."""
    if isinstance(target, Jump):
        return target.chain
    return target.text.removeprefix("-g ") if isinstance(target, ForeignTarget) else ""


def handed_over(
    live: Live, wanted: Mapping[Family, Ruleset], restores: Sequence[Restore]
) -> Iterator[Restore | LetPacketsPass]:
    """The same restores; of a family that is captured and stays so, one for each table, and a pause between two.

    Where nothing is captured yet, or nothing will be, one restore does all tables.
    """
    captured = {restore.tool.family for restore in restores if restore.company.taken_over} | {
        tool.family
        for tool in (Iptables(backend, family) for backend in BACKENDS for family in Family)
        if any(map(holds_ours, live.saved(tool).ruleset.tables))
    }
    captured = {family for family in captured if wanted[family].tables}
    begun = set()
    for restore in restores:
        family = restore.tool.family
        if family not in captured:
            yield restore
            continue
        for change in restore.changes:
            if family in begun:
                yield LetPacketsPass(family)
            begun.add(family)
            yield restore.but(changes=(change,), text=restore_text((change,)))


def emptied(live: Live, tool: Iptables, planned: Ruleset, *, is_removal: bool) -> Iterator[TakeAway]:
    """The tables of nf_tables that hold something of ours, and for which nothing is planned.

    A removal also finishes what one that was killed has left: tables in which there is nothing at all.
    """
    kept = {table.table for table in planned.tables}
    for name in sorted(live.nft_tables[tool.family] & OUR_TABLES - kept) if tool.backend == NFT else ():
        from capture.netlink.tidying import is_as_made

        chains, table = live.nft_chains.get((tool.family, name), {}), live.saved(tool).ruleset.table(name)
        ours = [chain.handle for it, chain in chains.items() if is_ours(table, it)]
        if ours or (is_removal and all(is_as_made(name, it, chain) for it, chain in chains.items())):
            yield TakeAway(tool.family, name, min(ours, default=0))


def uses_nft(doing: Sequence[Act]) -> bool:
    """Whether any of this is done in our own tables, and so by `capture.apply.load`."""
    return any(isinstance(act, Restore) and act.tool.backend == NATIVE for act in doing)


def apply(doing: Sequence[Act], live: Live, log: Log) -> None:
    """Do all steps, or none. Raises KernelRefused (or another CaptureError) with the namespace as it was.

    A signal that would end us waits until then: neither we nor the children are stopped half way.
    """
    require_files()
    unblocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        do_all_or_none([step for step in doing if not isinstance(step, TakeAway)], live, log)
        for step in doing:
            if isinstance(step, TakeAway):
                log.info(f"Running {step}")
                step.do(log)
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, unblocked)


def require_files() -> None:
    """Raises OSError where so few files may be open (RLIMIT_NOFILE) that undoing could fail for it."""
    held: list[int] = []
    try:
        while len(held) < FILES:
            held.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for file in held:
            os.close(file)


def do_all_or_none(doing: Sequence[Step], live: Live, log: Log) -> None:
    for step in doing:
        if isinstance(step, Restore):
            step.tool.require()
    done: list[Step] = []
    try:
        for step in doing:
            done.append(step)
            log.info(*f"Running {step}".split("\n"))
            try:
                step.do(log)
            except OSError as error:
                what = str(step).partition("\n")[0]
                raise KernelRefused(f"the kernel refused `{what}`: {error.strerror or error}") from error
        read: dict[Iptables, Saved] = {}

        def once(tool: Iptables) -> Saved:
            """What this tool reads back, for all steps that are its."""
            return read.get(tool) or read.setdefault(tool, tool.save())

        for step in doing:
            step.check(log, once)
    except BaseException as error:
        put_back(done, live, log, error)
        raise


def put_back(done: Sequence[Step], live: Live, log: Log, error: BaseException) -> None:
    """Undo these steps, the last one first. Raises NotPutBack if that fails.

    Where one fails, nothing more of its family is undone: what is behind it in time may be what its rules need, or the
    rules that they replaced. The other family does not suffer for it.
    """
    failed: dict[Family, CaptureError | OSError] = {}
    for step in reversed(done):
        families = step.families if hasattr(step, "families") else (step.family,)
        if not failed.keys() & set(families):
            try:
                step.undo(log)
            except (CaptureError, OSError) as second:
                failed |= dict.fromkeys(families, second)
    try:
        if live.nft_error is None:
            take_new_tables_away(live)
    except OSError as second:
        failed.setdefault(Family.V4, second)
    if failed:
        raise NotPutBack(
            "a change failed, and putting back what was there failed too: the namespace may be half configured",
            details=[("the failure", str(error)), *(("putting back", str(second)) for second in failed.values())],
            hint="run it again, or remove what is there with `capture clean`",
        ) from next(iter(failed.values()))
    log.warn("the namespace is as it was")


def take_new_tables_away(live: Live) -> None:
    """Take away the tables of nf_tables, and built-in chains in them, that are new and empty. Raises OSError."""
    from capture.netlink.tidying import take_away

    chains = nftables.nft_chains()
    for family, names in nftables.nft_tables()[0].items():
        for name in sorted(names & OUR_TABLES):
            there, before = (found.get((family, name), {}) for found in (chains, live.nft_chains))
            new = [it for it, chain in there.items() if it in BUILT_IN[name] - before.keys() and not chain.use]
            take_away(family, name, new, whole=name not in live.nft_tables[family])
