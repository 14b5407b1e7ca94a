"""What differs, in lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.inspect.verify import DIFFERENT, NOTHING, in_the_way
from capture.iptables.iptables import NATIVE, Iptables
from capture.style import style
from rules.live.drift import Kind, count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.inspect.verify import Comparison
    from rules.live.drift import Finding
    from rules.netfilter.values import Family

COLOURS = {NOTHING: "yellow", DIFFERENT: "red"}
MOST_OF_A_KIND = 20
"""Findings of one kind in one chain that the text lists."""


def report(found: Comparison) -> Iterator[str]:
    """The verdict, and a sentence for each finding."""
    yield style(verdict(found), fg=COLOURS.get(found.verdict, "green"), bold=True)
    if found.verdict != NOTHING:
        for line in sentences(found.findings):
            yield f"  {line}"
        yield from (f"  {unread}" for unread in found.unread)
        for proof in found.proofs:
            yield f"  {proof.sentence}"
            yield from (f"    `{its.command}` follows it" for its in (*proof.differences, *proof.untold)[:1])


def verdict(found: Comparison) -> str:
    """The first line."""
    if found.verdict == NOTHING:
        return f"nothing of ours is here; {in_the_way(found.live) or 'a rerun puts all of it in place'}"
    if found.verdict == DIFFERENT:
        beyond = sum(not finding.repaired_by_rerun for finding in found.findings)
        more = f", {beyond} of which a rerun cannot repair" if beyond else ""
        return f"differs in {count(len(found.findings), 'place')}{more}"
    kept = sum(finding.kind is Kind.NARROWER_ABOVE for finding in found.findings)
    but = f"; but {count(kept, 'rule')} of others, asked before ours" if kept else ""
    return f"as planned: {summary(found)}{but}"


def summary(found: Comparison) -> str:
    """What is planned, counted as it is held: natively a list is one rule."""
    planned, backend, parts = found.planned, found.backend, []
    for each in planned.rulesets:
        ruleset = found.live.saved(Iptables(backend, each.family)).ruleset if backend == NATIVE else each
        if ruleset.tables:
            chains = sum(len(table.declared) for table in ruleset.tables)
            rules = sum(len(block.rules) for table in ruleset.tables for block in table.blocks)
            parts.append(f"{ruleset.family.value} {count(chains, 'chain')} with {count(rules, 'rule')}")
    if planned.routing:
        parts.append(
            f"{count(len(planned.routing), 'ip rule')} with {'its' if len(planned.routing) == 1 else 'their'} "
            f"{'route' if len(planned.routing) == 1 else 'routes'}"
        )
    if planned.passthrough_address:
        parts.append("::6 on lo")
    return f"{', '.join(parts)}; in the {backend} backend" if parts else "nothing is to be captured"


def sentences(findings: Sequence[Finding]) -> Iterator[str]:
    """One for each finding; where a chain has very many of a kind, the rest are counted."""
    listed: dict[tuple[str, Family, str, str, Kind], int] = {}
    for found in findings:
        alike = (found.backend, found.family, found.table, found.chain, found.kind)
        listed[alike] = listed.get(alike, 0) + 1
        if listed[alike] <= MOST_OF_A_KIND:
            yield style(str(found), fg="yellow") if found.is_note else str(found)
    for (backend, family, table, chain, kind), number in listed.items():
        if number > MOST_OF_A_KIND:
            place = f"{backend} {family.value} {table} {chain}"
            yield f"{place}: {number - MOST_OF_A_KIND} more of the kind `{kind.value}`; --output json lists all"
