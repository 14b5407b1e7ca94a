"""Removing what is ours, and telling what that was, what was left alone and why, and whether anything remains."""

from __future__ import annotations

from capture.apply.converge import converge_locked
from capture.errors import CaptureError
from capture.host.live import read_live
from capture.kernel import netns
from capture.kernel.iptables import BACKENDS, LEGACY, LEGACY_TABLES, OUR_TABLES, Iptables
from capture.kernel.process import read_words
from rules.live.changes import is_our_jump, is_ours, ours_in
from rules.live.meshes import mesh_of
from rules.netfilter.values import BUILT_IN, Family
from rules.plan.names import PROTOCOL
from rules.plan.plan import NOTHING
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.host.facts import Facts
    from capture.host.live import Live
    from capture.kernel.netlink import LocalRoute, PolicyRule
    from capture.log import Log
    from capture.settings.declared import Settings
    from rules.netfilter.rulesets import TableRules


class Thing(Value):
    """Something in a namespace."""

    where: str
    """The table with its backend and family, or `routing`, `lo`."""
    what: str
    why: str = ""
    """Why it was left alone; empty for what was removed."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}{f' ({self.why})' if self.why else ''}"


class Cleaned(Value):
    """What became of a removal."""

    removed: tuple[Thing, ...]
    left: tuple[Thing, ...]
    """What is not ours, or cannot be taken away."""
    remaining: tuple[Thing, ...]
    """What is ours and still there. Not empty only if something failed."""

    def raise_if_any_remains(self) -> None:
        """Raises CaptureError that names what is ours and still there."""
        if self.remaining:
            raise CaptureError(
                "something of ours is still here",
                details=[("remains", str(thing)) for thing in self.remaining],
                hint="see the warnings above, and run it again",
            )


def clean(settings: Settings, facts: Facts, log: Log) -> Cleaned:
    """Remove everything of ours from this namespace, in both backends, whatever settings put it there.

    Raises CaptureError with the namespace as it was.
    """
    with netns.locked():
        before = read_live(facts)
        converge_locked(settings, facts, NOTHING, log)
        return outcome(before, read_live(facts))


def outcome(before: Live, after: Live) -> Cleaned:
    """What a removal did, by what was there before it and what is there now."""
    had, has = list(ours(before)), list(ours(after))
    removed = [thing for thing in had if thing not in has]
    return Cleaned((*removed, *taken_away(before, after)), tuple(left_alone(before, after)), tuple(has))


def ours(live: Live) -> Iterator[Thing]:
    """Everything of ours that is in the namespace."""
    for tool, table in tables(live):
        mine = {chain: rules for chain, rules in table.chains().items() if is_ours(table, chain)}
        if mine:
            count = sum(map(len, mine.values()))
            yield Thing(place(tool, table), f"the chains {', '.join(mine)}, with {counted(count, 'rule')}")
        jumps = sum(
            len(block.rules)
            for found in ours_in(live.saved(tool).ruleset).tables
            for block in found.blocks
            if found.table == table.table and found.is_built_in(block.chain)
        )
        if jumps:
            yield Thing(place(tool, table), f"{counted(jumps, 'jump')} to them in built-in chains")
    for rule in live.policy_rules:
        if rule.protocol == PROTOCOL:
            yield Thing("routing", rule_text(rule))
    for route in live.local_routes:
        if route.protocol == PROTOCOL:
            yield Thing("routing", route_text(route))
    if live.passthrough and live.passthrough.protocol == PROTOCOL:
        yield Thing("lo", str(live.passthrough))


def taken_away(before: Live, after: Live) -> Iterator[Thing]:
    """What of nf_tables is gone besides our own chains: what iptables had made for us, or what was as empty."""
    for family in Family:
        for table in sorted(before.nft_tables[family] - after.nft_tables[family]):
            yield Thing(f"nf_tables {family.value}", f"the table {table}, in which nothing else was")
        for table in sorted(after.nft_tables[family] & OUR_TABLES):
            had, has = (live.nft_chains.get((family, table), {}) for live in (before, after))
            gone = [chain for chain in had if chain in BUILT_IN[table] and chain not in has]
            if gone:
                what = f"the built-in {plural(gone, 'chain')} {', '.join(gone)}, made for our rules"
                yield Thing(f"nf_tables {family.value} {table}", what)


def left_alone(before: Live, after: Live) -> Iterator[Thing]:
    """What somebody might take for ours, or miss, and why it is still there."""
    for tool, table in tables(after):
        theirs = sum(
            not is_our_jump(table, rule)
            for block in table.blocks
            if not is_ours(table, block.chain)
            for rule in block.rules
        )
        if theirs:
            yield Thing(place(tool, table), counted(theirs, "rule"), "of others")
        for chain in table.declared:
            mesh = mesh_of(table, chain)
            if mesh:
                yield Thing(place(tool, table), f"the chain {chain}", f"of {mesh}")
        if tool.backend == LEGACY and not theirs and not table.declared:
            yield Thing(place(tool, table), "the empty table", "the kernel cannot take a legacy table back")
    ours_before = [rule for rule in before.policy_rules if rule.protocol == PROTOCOL]
    looked_up = {(rule.family, rule.table) for rule in ours_before} | {
        (route.family, route.table) for route in before.local_routes
    }
    unsigned = f"it does not carry our signature, protocol {PROTOCOL}"
    for rule in after.policy_rules:
        if rule.protocol != PROTOCOL and (rule.family, rule.table) in looked_up:
            yield Thing("routing", rule_text(rule), unsigned)
    for route in after.local_routes:
        if route.protocol != PROTOCOL:
            yield Thing("routing", route_text(route), unsigned)
    if after.passthrough and after.passthrough.protocol != PROTOCOL:
        yield Thing("lo", str(after.passthrough), unsigned)
    if not after.legacy_is_known:
        unseen = [path for path in LEGACY_TABLES.values() if read_words(path) is None]
        yield Thing("legacy", "tables, if there are any", f"only uid 0 may read {' and '.join(unseen)}")


def tables(live: Live) -> Iterator[tuple[Iptables, TableRules]]:
    """The tables in which anything of ours could be, by backend and family."""
    for backend in BACKENDS:
        for family in Family:
            tool = Iptables(backend, family)
            for table in live.saved(tool).ruleset.tables:
                if table.table in OUR_TABLES:
                    yield tool, table


def place(tool: Iptables, table: TableRules) -> str:
    return f"{tool} {table.table}"


def rule_text(rule: PolicyRule) -> str:
    family = "ip" if rule.family is Family.V4 else "ip -6"
    return f"{family} rule {rule.priority}: fwmark {rule.mark:#x} lookup {rule.table}"


def route_text(route: LocalRoute) -> str:
    family = "ip" if route.family is Family.V4 else "ip -6"
    return f"{family} route local default dev lo table {route.table}"


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def plural(things: list[str], word: str) -> str:
    return word if len(things) == 1 else f"{word}s"
