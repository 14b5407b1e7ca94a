"""Removing what is ours, and telling what that was, what was left alone and why, and whether anything remains."""

from __future__ import annotations

from capture.apply.converge import converge_locked
from capture.apply.transaction import deleting
from capture.errors import CaptureError
from capture.host.live import chosen, read_live
from capture.iptables.iptables import BACKENDS, LEGACY, NATIVE, OUR_TABLES, Iptables, expect
from capture.kernel.conntrack import CLOSE_WAIT, CLOSE_WAIT_FILE, DEFAULT_CLOSE_WAIT
from capture.kernel.locks import locked
from capture.kernel.process import LEGACY_TABLES, read_words
from rules.iptables.quoting import typed
from rules.iptables.writing import rule_text
from rules.native.names import chain_name as native_name
from rules.netfilter.hooks import NAME
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import BUILT_IN, Family
from rules.ours.meshes import mesh_of
from rules.ours.recognition import is_our_jump, is_ours, ours_in, recognised
from rules.plan.names import PROTOCOL
from rules.plan.plan import NOTHING
from rules.routing.policy import ip_command
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.host.live import Live
    from capture.log import Log
    from capture.settings.declared import Settings
    from rules.netfilter.rulesets import TableRules
    from rules.routing.policy import PolicyRule, Route


class Thing(Value):
    """Something in a namespace."""

    where: str
    """The table with its tool, such as `iptables-nft nat`; or `routing`, `lo`, `conntrack`, `nf_tables …`, `legacy`."""
    what: str
    """What it is."""
    why: str = ""
    """Why it was left alone; empty for what was removed."""
    remedy: str = ""
    """The command that removes it, if it may have been left by an older istio-iptables, or keeps a chain of ours."""

    def __str__(self) -> str:
        why = "; ".join(filter(None, (self.why, f"to remove it: `{self.remedy}`" if self.remedy else "")))
        return f"{self.where}: {self.what}{f' ({why})' if why else ''}"


class Cleaned(Value):
    """What `capture clean` did."""

    removed: tuple[Thing, ...]
    """What was ours, or was made for it, and is gone."""
    left: tuple[Thing, ...]
    """What was left alone: it is not ours, or cannot be taken away."""
    remaining: tuple[Thing, ...]
    """What is ours and still there. If there is any, the exit status is 1."""
    reset: tuple[Thing, ...] = ()
    """The captured connections that were reset by it, as far as the kernel told."""
    kept: tuple[Thing, ...] = ()
    """Chains of ours that are empty now, and stay as long as something of others leads there."""
    dry_run: bool = False
    """Whether this is what a removal would do: then nothing was touched."""
    backend: str = ""
    """The backend that was used, nft or legacy of iptables, or native. Ours are removed from the others as well."""
    backend_reason: str = ""
    """Why that backend, or why none."""

    def raise_if_any_remains(self) -> None:
        """Raises CaptureError that names what is ours and still there."""
        if self.remaining:
            raise CaptureError(
                "something of ours is still here",
                details=[("remains", str(thing)) for thing in self.remaining],
                hint="see the warnings above, and run it again",
            )


def clean(settings: Settings, log: Log) -> Cleaned:
    """Remove everything of ours from this namespace, in both backends, whatever settings put it there.

    Raises CaptureError with the namespace as it was.
    """
    with locked(log.warn):
        expect(NOTHING.rulesets)
        before = read_live()
        reset = converge_locked(settings, NOTHING, log, before)
        return with_backend(outcome(before, read_live()), before, settings).but(
            reset=tuple(Thing(f"conntrack {it.family.value}", str(it)) for it in reset)
        )


def with_backend(cleaned: Cleaned, before: Live, settings: Settings) -> Cleaned:
    choice = chosen(before, settings)
    return cleaned.but(backend=choice.backend, backend_reason=choice.reason)


def foreseen(before: Live, settings: Settings) -> Cleaned:
    """What a removal would do here. Tables that would be empty then are not told of."""
    removal = Cleaned(tuple(ours(before)), tuple(left_alone(before, before)), ())
    return with_backend(removal.but(kept=tuple(kept(before)), dry_run=True), before, settings)


def outcome(before: Live, after: Live) -> Cleaned:
    """What a removal did, by what was there before it and what is there now."""
    had, has = list(ours(before)), list(ours(after))
    removed = [thing for thing in had if thing not in has]
    return Cleaned(
        (*removed, *taken_away(before, after)), tuple(left_alone(before, after)), tuple(has), kept=tuple(kept(after))
    )


def ours(live: Live) -> Iterator[Thing]:
    """Everything of ours that is in the namespace."""
    for tool, table in tables(live):
        mine = {chain: rules for chain, rules in table.chains().items() if is_ours(table, chain)}
        held = {chain: mine.pop(chain) for chain in table.held}
        is_native = tool.backend == NATIVE
        if mine:
            names = [native_name(table.table, chain) if is_native else chain for chain in mine]
            count = sum(map(len, mine.values()))
            yield Thing(place(tool, table), f"the chains {', '.join(names)}, with {counted(count, 'rule')}")
        for chain, rules in held.items():
            if rules:
                yield Thing(place(tool, table), f"what the chain {chain} held, {counted(len(rules), 'rule')}")
        hooks = [
            is_our_jump(table, rule)
            for found in ours_in(recognised(live.saved(tool).ruleset, Ruleset(tool.family))).tables
            for block in found.blocks
            for rule in block.rules
            if found.table == table.table and found.is_built_in(block.chain)
        ]
        if any(hooks):
            bases = [native_name(table.table, chain) for chain in table.chains() if table.is_built_in(chain)]
            where = f"the base {plural(bases, 'chain')} {', '.join(bases)}" if is_native else "built-in chains"
            yield Thing(place(tool, table), f"{counted(sum(hooks), 'jump')} to them in {where}")
        if not all(hooks):
            what = f"{counted(hooks.count(False), 'rule')} of an older istio-iptables in built-in chains"
            yield Thing(place(tool, table), what)
    for rule in live.policy_rules:
        if rule.protocol == PROTOCOL:
            yield Thing("routing", ip_rule_text(rule))
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
    yield from maybe_of_istio(before, after)
    yield from close_wait_timeout(before)
    ours_before = [rule for rule in before.policy_rules if rule.protocol == PROTOCOL]
    looked_up = {(rule.family, rule.table) for rule in ours_before} | {
        (route.family, route.table) for route in before.local_routes
    }
    unsigned = f"it does not carry our signature, protocol {PROTOCOL}"
    for rule in after.policy_rules:
        if rule.protocol != PROTOCOL and (rule.family, rule.table) in looked_up:
            remedy = f"{ip_command(rule.family)} rule del priority {str(rule).replace(':', '', 1)}"
            yield Thing("routing", ip_rule_text(rule), unsigned, remedy)
    for route in after.local_routes:
        if route.protocol != PROTOCOL:
            remedy = f"{ip_command(route.family)} route del {route}"
            yield Thing("routing", route_text(route), unsigned, remedy)
    if after.passthrough and after.passthrough.protocol != PROTOCOL:
        yield Thing("lo", str(after.passthrough), unsigned, "ip -6 addr del ::6/128 dev lo")
    if not after.legacy_is_known:
        unseen = [path for path in LEGACY_TABLES.values() if read_words(path) is None]
        yield Thing("legacy", "tables, if there are any", f"only uid 0 may read {' and '.join(unseen)}")


def kept(after: Live) -> Iterator[Thing]:
    """Our chains that are there for others only, with what leads there."""
    for tool, table in tables(after):
        if not table.held:
            continue
        from rules.ours.held import holders

        shown = list(holders(table))
        for chain in sorted(table.held):
            what, where = f"the chain {chain}, empty", place(tool, table)
            rules = [(place, rule) for to, place, rule in shown if to == chain]
            for of, rule in rules:
                why = f"the rule `{rule_text(rule)}` of others in {of} leads there"
                yield Thing(where, what, why, deleting(tool, table, of, rule))
            if not rules:
                yield Thing(where, what, f"a map of others leads there: see `nft list maps {NAME[tool.family]}`")


def close_wait_timeout(before: Live) -> Iterator[Thing]:
    """What a run with --close-wait-timeout has set stays: the kernel knows no value from before."""
    value = next(iter(read_words(CLOSE_WAIT_FILE) or ()), "")
    if value and value != str(DEFAULT_CLOSE_WAIT) and any(before.holds_ours(backend) for backend in BACKENDS):
        why = "a run with --close-wait-timeout may have set it, and what it was before is not known"
        yield Thing("conntrack", f"{CLOSE_WAIT} = {value}", f"{why}; the kernel's default is {DEFAULT_CLOSE_WAIT}")


def maybe_of_istio(before: Live, after: Live) -> Iterator[Thing]:
    """Rules in built-in chains that an older istio-iptables may have made, or anybody else."""
    from rules.ours.older import doubtful

    for backend in BACKENDS:
        for family in Family:
            tool = Iptables(backend, family)
            for table, chain, rule in doubtful(before.saved(tool).ruleset):
                if rule in after.saved(tool).ruleset.table(table).chains().get(chain, ()):
                    remedy = f"{tool} -t {table} -D {chain} {typed(rule.text)}"
                    why = "an older istio-iptables may have made it, or somebody else"
                    yield Thing(f"{tool} {table}", f"-A {chain} {rule.text}", why, remedy)


def tables(live: Live) -> Iterator[tuple[Iptables, TableRules]]:
    """The tables in which anything of ours could be, by backend and family."""
    for backend in BACKENDS:
        for family in Family:
            tool = Iptables(backend, family)
            for table in live.saved(tool).ruleset.tables:
                if table.table in OUR_TABLES:
                    yield tool, table


def place(tool: Iptables, table: TableRules) -> str:
    return tool.teller if tool.backend == NATIVE else f"{tool} {table.table}"


def ip_rule_text(rule: PolicyRule) -> str:
    return f"{ip_command(rule.family)} rule {rule}"


def route_text(route: Route) -> str:
    return f"{ip_command(route.family)} route {route}"


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def plural(things: list[str], word: str) -> str:
    return word if len(things) == 1 else f"{word}s"
