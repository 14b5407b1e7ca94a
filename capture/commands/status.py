"""`capture status`: what is installed here now."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, output_option, reporting, settings_given
from capture.errors import DONE, NOTHING_HERE
from capture.host.facts import read_facts
from capture.inspect.status import Status, status_of
from capture.inspect.verify import read
from capture.kernel import netns
from capture.log import Log
from capture.output import say, say_json
from capture.schemas.answers import as_json
from capture.settings.declared import LOOKING
from rules.iptables.writing import rule_text
from rules.live.drift import count
from rules.netfilter.routing import ip_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.inspect.status import CountedRule, Passthrough
    from capture.settings.declared import Settings

MOST_RULES = 40
"""Rules of one chain that the text lists."""
UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


@click.command(cls=SettingsCommand, uses=LOOKING)
@output_option("what is installed", Status)
def command(output: str) -> None:
    """Show what is installed in the namespace now: what it captures, its rules with their counters, its routing.

    Needs no settings and compares with none; --network-namespace and those of the log count. Exit status 0: something
    of ours is here; 3: nothing; 1: cannot tell.
    """
    with reporting():
        found = status_here(settings_given())
    if output == "json":
        say_json(as_json(found))
    else:
        say(*report(found))
    sys.exit(DONE if found.installed else NOTHING_HERE)


def status_here(settings: Settings) -> Status:
    """What the namespace holds, with counters. Raises CaptureError."""
    if settings.network_namespace:
        netns.enter(settings.network_namespace)
    log = Log(settings.log_output_level, as_json=settings.log_as_json)
    facts = read_facts(os.environ)
    return status_of(read(log, counters=True), facts)


def report(found: Status) -> Iterator[str]:
    """What is captured, in a line for each family; then what it is made of."""
    if not found.installed:
        yield "nothing of ours is here"
    for each in found.captures:
        yield f"{each.installed.family.value}, {each.backend} backend: {each.installed}"
    yield from proxy(found)
    yield from (f"mind: {each}" for each in found.in_the_way)
    yield from meshes(found)
    yield from routing(found)
    for chain in found.chains:
        yield ""
        place = f"{chain.backend} {chain.family.value} {chain.table} {chain.chain}"
        yield f"{place}: {count(len(chain.rules), 'rule')}"
        yield from listed(chain.rules)


def proxy(found: Status) -> Iterator[str]:
    """Who listens where the rules send things, and what is wrong with that."""
    if found.heard.unseen:
        yield f"who listens is not known: {found.heard.unseen}"
    for place in found.heard.proxy:
        yield str(place)
    for warning in found.heard.warnings:
        yield f"mind: {warning}"


def listed(rules: Sequence[CountedRule]) -> Iterator[str]:
    """A chain's rules: position, packets, rule, why."""
    shown = rules[:MOST_RULES]
    texts = [rule_text(held.rule) for held in shown]
    widths = [max((len(str(held.position)) for held in shown), default=0)]
    widths.append(max((len(str(held.count.packets)) for held in shown), default=0))
    widths.append(min(max(map(len, texts), default=0), 80))
    for held, text in zip(shown, texts, strict=True):
        line = (
            f"  {held.position:>{widths[0]}}  {held.count.packets:>{widths[1]}}  {text:<{widths[2]}}  {held.rule.why}"
        )
        yield line.rstrip()
    if len(rules) > MOST_RULES:
        packets = sum(held.count.packets for held in rules[MOST_RULES:])
        yield f"  … and {len(rules) - MOST_RULES} more with {count(packets, 'packet')}; --output json lists all"


def routing(found: Status) -> Iterator[str]:
    for rule in found.ip_rules:
        yield f"{ip_command(rule.family)} rule: {rule}"
    for route in found.routes:
        yield f"{ip_command(route.family)} route: {route}"
    if found.passthrough:
        yield f"ip -6 addr: {passthrough(found.passthrough)}"
    if found.installed and not (found.passthrough and found.passthrough.ours and found.passthrough.age is not None):
        yield "age: not known"


def passthrough(address: Passthrough) -> str:
    whose = "::6/128" if address.ours else "::6/128, put there by others"
    return whose if address.age is None else f"{whose}, added {ago(address.age)} ago"


def ago(seconds: float) -> str:
    """`3d4h`, `2m5s`, `7s`."""
    left, parts = int(seconds), []
    for length, unit in UNITS:
        if left >= length:
            parts.append(f"{left // length}{unit}")
            left %= length
    return "".join(parts[:2]) if len(parts) > 1 else "".join([*parts, f"{left}s"])


def meshes(found: Status) -> Iterator[str]:
    """One line for each mesh and place."""
    places: dict[str, list[str]] = {}
    for each in found.other_meshes:
        places.setdefault(f"{each.mesh}, {each.backend} {each.family.value} {each.table}", []).append(each.chain)
    for place, chains in places.items():
        yield f"mind: chains of {place}: {', '.join(chains)}"
    if found.native_tables:
        yield f"mind: tables of another mesh, in nf_tables: {', '.join(found.native_tables)}"
