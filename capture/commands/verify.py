"""`capture verify`: whether the namespace holds what settings ask for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.errors import LiveStateUnreadable
from capture.inspect.verify import DIFFERENT, NOTHING, STATUS, Comparison, compared, in_the_way
from capture.intent.here import looked_up
from capture.log import Log
from capture.output import say, say_json
from capture.schemas.answers import as_json
from capture.settings.declared import MEANING
from rules.live.drift import Kind, count
from rules.plan.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.live.drift import Finding
    from rules.netfilter.values import Family
    from rules.plan.plan import Plan

MOST_OF_A_KIND = 20
"""Findings of one kind in one chain that the text lists."""


@click.command(cls=SettingsCommand, uses=MEANING)
@click.option(
    "--witness",
    type=click.Choice(["libiptc", "pyroute2"]),
    multiple=True,
    help="Read in a second way as well, libiptc the legacy tables, pyroute2 ip rules, routes and addresses; where the "
    "two disagree, it cannot be told. May be repeated.",
)
@click.option("--strict", is_flag=True, help="Count what only deserves a mention as a difference.")
@output_option("what was found", Comparison)
def command(witness: tuple[str, ...], strict: bool, output: str) -> None:
    """Say whether the namespace holds what these settings ask for, in every table, in order.

    Compares and changes nothing. Exit status 0: as planned; 3: nothing of ours is here; 4: it differs; 1: cannot tell.
    What of others only deserves a mention, or is narrower than ours and keeps what it takes, is listed, and is no
    difference without --strict.
    """
    with reporting():
        settings = settings_given()
        _, resolved = looked_up(settings)
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        found = compared(settings, plan(resolved.intent), log).but(strict=strict)
        for name in witness:
            confirm(found, name)
    if output == "json":
        say_json(as_json(found))
    else:
        say(*report(found))
    sys.exit(STATUS[found.verdict])


def confirm(found: Comparison, witness: str) -> None:
    """Raises CaptureError if this witness sees something else than we do, or cannot be asked."""
    if witness == "libiptc":
        from capture.inspect.libiptc import libiptc_differences

        what, differences = "the legacy tables", list(map(str, libiptc_differences(found.live, found.backend)))
    else:
        from capture.inspect.iproute import pyroute2_differences

        what, differences = "ip rules, routes and addresses", pyroute2_differences(found.live)
    if differences:
        raise LiveStateUnreadable(
            f"the two witnesses of {what} disagree, so what the namespace holds is not known",
            details=[("they say", "\n".join(differences))],
            hint="if a run was at work meanwhile, ask again",
        )


def report(found: Comparison) -> Iterator[str]:
    """The verdict, and a sentence for each finding."""
    yield verdict(found)
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
    return f"as planned: {summary(found.planned, found.backend)}{but}"


def summary(planned: Plan, backend: str) -> str:
    """What is planned, counted."""
    parts = []
    for ruleset in planned.rulesets:
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
            yield str(found)
    for (backend, family, table, chain, kind), number in listed.items():
        if number > MOST_OF_A_KIND:
            place = f"{backend} {family.value} {table} {chain}"
            yield f"{place}: {number - MOST_OF_A_KIND} more of the kind `{kind.value}`; --output json lists all"
