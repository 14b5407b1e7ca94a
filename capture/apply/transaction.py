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
from capture.netlink import nftables
from capture.steps.acts import ENDING_SIGNALS
from capture.steps.restore import Restore
from rules.iptables.quoting import MARKER, for_shell, typed
from rules.iptables.writing import UNSUPPORTED, rule_text
from rules.live.changes import Change, RemoveChain, changes
from rules.live.routing_changes import routing_to_add, routing_to_remove
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import ForeignTarget, Jump
from rules.netfilter.values import BUILT_IN, Family
from rules.ours.meshes import chains_of_other_meshes
from rules.ours.recognition import holds_ours, is_our_jump, is_ours, recognised
from rules.plan.names import PROTOCOL
from rules.plan.plan import NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from capture.host.live import Live
    from capture.iptables.iptables import Told
    from capture.log import Log
    from capture.steps.acts import Act, Step
    from capture.steps.passing import LetPacketsPass
    from capture.steps.routing import SetPassthroughAddress, SetRouting
    from rules.live.changes import Company
    from rules.live.routing_changes import RoutingChange
    from rules.netfilter.rulesets import Rule, TableRules
    from rules.netfilter.targets import Target
    from rules.plan.plan import Plan

ORDER = (Family.V6, Family.V4)
FILES = 12
"""How many files a step may have open at once: a program's streams, a lock, a netlink socket, and some to spare."""


def steps(
    live: Live, planned: Plan, backend: str, *, take_over: bool = False, ours_first: bool = False
) -> Iterator[Act]:
    """What has to be done, in order; nothing if the namespace is as planned.

    `take_over` removes the chains of other meshes in the same commits; `ours_first` goes above all rules of others.
    """
    if planned.passthrough_address and live.passthrough is None:
        yield set_passthrough_address(adds=True)
    yield from set_routing(routing_to_add(live.policy_rules, live.local_routes, planned.routing))
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
        from capture.steps.pickup import beside_what_is_open  # where a pod starts there are none

        first, restores = beside_what_is_open(live, wanted, restores)
        yield from first
    yield from handed_over(live, wanted, restores)
    removals = set_routing(routing_to_remove(live.policy_rules, live.local_routes, planned.routing))
    if restores and removals:
        yield let_packets_pass(*removals[0].families)
    yield from removals
    if not planned.passthrough_address and live.passthrough and live.passthrough.protocol == PROTOCOL:
        yield set_passthrough_address(adds=False)
    for tool, ruleset in places:
        yield from emptied(live, tool, ruleset, is_removal=planned is NOTHING)


def set_passthrough_address(*, adds: bool) -> SetPassthroughAddress:
    from capture.steps.routing import SetPassthroughAddress  # a capture of IPv4 by REDIRECT needs no such step

    return SetPassthroughAddress(adds)


def set_routing(some: Iterable[RoutingChange]) -> list[SetRouting]:
    wanted = list(some)
    if not wanted:
        return []
    from capture.steps.routing import SetRouting

    return list(map(SetRouting, wanted))


def let_packets_pass(family: Family) -> LetPacketsPass:
    from capture.steps.passing import LetPacketsPass  # where nothing is captured yet there is no pause

    return LetPacketsPass(family)


def restoring(live: Live, tool: Iptables, planned: Ruleset, company: Company, *, take_over: bool) -> Iterator[Restore]:
    before = recognised(live.saved(tool).ruleset, planned)
    if take_over:
        company = taking_over(company, before)
    needed = changes(before, planned, company)
    if needed or (tool.backend == NATIVE and tool.family in live.unsound):
        refuse_if_used(tool, before, needed, company.taken_over)
        yield Restore(tool, needed, planned, before, company, live.saved(tool).native)


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
            for rule in block.rules if not is_ours(table, block.chain, also) else ():
                target = chain_named(rule.target)
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
                yield let_packets_pass(family)
            begun.add(family)
            yield restore.but(changes=(change,))


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
    """Whether any of this is done in our own tables, and so by `capture.steps.load`."""
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
    told: dict[Iptables, Told] = {}
    try:
        for step in doing:
            done.append(step)
            first, _, rest = str(step).partition("\n")
            log.info(f"Running {first}", text=rest)
            del rest  # a text can be long, and what runs now needs the memory
            try:
                if (said := step.do(log)) and isinstance(step, Restore):
                    told[step.tool] = said
            except OSError as error:
                what = str(step).partition("\n")[0]
                raise KernelRefused(f"the kernel refused `{what}`: {error.strerror or error}") from error
        for each in comparing(doing):
            each.check(log, told)
    except BaseException as error:
        put_back(done, live, log, error)
        raise


def comparing(doing: Iterable[Step]) -> Iterable[Restore | SetRouting]:
    """What is held against the kernel when all is done; of the restores of one tool the last, which knows all that is
    planned."""
    found: dict[object, Restore | SetRouting] = {}
    for step in doing:
        for each in getattr(step, "comparing", ()):
            found[each.tool if isinstance(each, Restore) else each] = each
    return found.values()


def put_back(done: Sequence[Step], live: Live, log: Log, error: BaseException) -> None:
    """Undo these steps, the last one first. Raises NotPutBack if that fails.

    Where one fails, nothing more of its family is undone: what is behind it in time may be what its rules need, or the
    rules that they replaced. The other family does not suffer for it.
    """
    failed: dict[Family, CaptureError | OSError] = {}
    for step in reversed(done):
        if not failed.keys() & set(step.families):
            try:
                step.undo(log)
            except (CaptureError, OSError) as second:
                failed |= dict.fromkeys(step.families, second)
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
