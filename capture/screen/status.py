"""What is installed, in lines for a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from capture.host.choice import Choice
from capture.screen.lines import columns
from capture.style import style
from rules.iptables.writing import rule_text
from rules.live.drift import count
from rules.ours.meshes import tables_by_mesh
from rules.routing.policy import ip_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.inspect.status import CountedRule, Passthrough, Status

MOST_RULES = 40
"""Rules of one chain that the text lists."""
LEAST_FOR_A_WHY = 40
"""Columns beside a rule below which its why stands on a line of its own."""
UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def report(found: Status) -> Iterator[str]:
    """What is captured, in a line for each family; then what it is made of."""
    if not found.installed:
        yield style("nothing of ours is here", bold=True)
    for each in found.captures:
        yield style(f"{each.installed.family.value}, {each.backend} backend: {each.installed}", fg="green", bold=True)
    yield Choice(found.backend, found.backend_reason).sentence
    yield from proxy(found)
    yield from map(warning, (*found.in_the_way, *found.failing))
    yield from meshes(found)
    yield from routing(found)
    for chain in found.chains:
        yield ""
        place = f"{chain.backend} {chain.family.value} {chain.table} {chain.chain}"
        yield style(f"{place}: {count(len(chain.rules), 'rule')}", bold=True)
        yield from listed(chain.rules)


def proxy(found: Status) -> Iterator[str]:
    """Who listens where the rules send things, and what is wrong with that."""
    if found.heard.unseen:
        yield f"who listens is not known: {found.heard.unseen}"
    for place in found.heard.proxy:
        yield str(place)
    yield from map(warning, found.heard.warnings)


def warning(what: object) -> str:
    return f"{style('warning:', fg='yellow', bold=True)} {what}"


def listed(rules: Sequence[CountedRule]) -> Iterator[str]:
    """A chain's rules: position, packets, rule, why."""
    shown = rules[:MOST_RULES]
    texts = [rule_text(held.rule) for held in shown]
    widths = [max((len(str(held.position)) for held in shown), default=0)]
    widths.append(max((len(str(held.count.packets)) for held in shown), default=0))
    widths.append(min(max(map(len, texts), default=0), 80))
    is_narrow = sys.stdout.isatty() and columns() < sum(widths) + LEAST_FOR_A_WHY
    for held, text in zip(shown, texts, strict=True):
        counted = f"{held.count.packets:>{widths[1]}}"
        first = f"  {held.position:>{widths[0]}}  {style(counted, bold=True) if held.count.packets else counted}  "
        if is_narrow:
            yield first + text
            if held.rule.why:
                yield style(f"{'':{sum(widths[:2]) + 8}}{held.rule.why}", dim=True)
        else:
            why = style(held.rule.why, dim=True) if held.rule.why else ""
            yield f"{first}{text:<{widths[2]}}  {why}".rstrip()
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
        yield warning(f"chains of {place}: {', '.join(chains)}")
    for mesh, tables in tables_by_mesh(found.native_tables).items():
        yield warning(f"tables of {mesh}, in nf_tables: {', '.join(tables)}")
