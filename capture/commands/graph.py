"""`capture graph`: the chains as a picture, of what settings mean or of what is live."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, reporting, settings_given
from capture.errors import DONE, NOTHING_HERE
from capture.host.choice import NATIVE
from capture.host.live import choice_of
from capture.intent.here import looked_up_or_without, resolved_here
from capture.settings.declared import BACKEND, DECLARED, LOOKING, MEANING
from rules.native.compiled import as_held
from rules.netfilter.values import Family
from rules.ours.reasons import explained
from rules.picture.model import counted_words, picture
from rules.plan.intent import Intent
from rules.plan.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from capture.host.live import Live
    from capture.settings.declared import Settings
    from rules.iptables.counters import Count, Place
    from rules.netfilter.rulesets import Ruleset
    from rules.picture.model import Picture
    from rules.plan.plan import Plan

FORMATS = ("svg", "mermaid", "dot")
FAMILIES = {"ipv4": (Family.V4,), "ipv6": (Family.V6,), "both": tuple(Family)}
MOST_SAID = 16
"""How many entries of a list the subtitle shows."""


@click.command(cls=SettingsCommand, uses=MEANING, least=LOOKING | BACKEND, needs=lambda asked: not asked["live"])
@click.option("--format", "written_as", type=click.Choice(FORMATS), default="svg", help="How the picture is written.")
@click.option("--family", type=click.Choice(list(FAMILIES)), default="ipv4", help="Whose chains are drawn.")
@click.option("--live", is_flag=True, help="Draw what the namespace holds, with counters and the rules of others.")
def command(written_as: str, family: str, live: bool) -> None:
    """Draw where traffic goes: hooks, chains, rules with their reasons, and where each path ends.

    Draws what these settings mean for a namespace that holds nothing else; with --live what is there now, for which
    --network-namespace and --force-iptables-binary count. SVG needs no other program; `mermaid` is for pages that
    draw it, `dot` for Graphviz. Ends with status 3 if --live finds nothing of ours.
    """
    with reporting():
        status = 0
        if live:
            pictures, status = live_pictures(settings_given(), FAMILIES[family])
        else:
            settings = settings_given()
            pictures = planned_pictures(settings, resolved_here(settings).intent, FAMILIES[family])
    sys.stdout.write(written(pictures, written_as))
    sys.exit(status)


def written(pictures: Sequence[Picture], written_as: str) -> str:
    """The pictures in the language that was asked for."""
    if written_as == "mermaid":
        from rules.picture.mermaid import mermaid

        return mermaid(pictures)
    if written_as == "dot":
        from rules.picture.dot import dot

        return dot(pictures)
    from rules.picture.svg import svg

    return svg(pictures)


# --- what settings mean -----------------------------------------------------------------------------------


def planned_pictures(settings: Settings, intent: Intent, families: Sequence[Family]) -> list[Picture]:
    """One picture for each family, of what the settings mean for an empty namespace."""
    planned = plan(intent)
    choice = choice_of(settings)
    by_family = {ruleset.family: as_held(choice.backend, ruleset) for ruleset in planned.rulesets}
    of_backend = [f"{choice.sentence[0].upper()}{choice.sentence[1:]}."] if choice.backend == NATIVE else []
    said = " ".join([*as_said(settings, "environment"), "capture", *as_said(settings, "flag")])
    return [
        picture(
            by_family[family],
            title=f"Where traffic goes: {family.value}",
            said=said,
            notes=[*of_backend, *notes_on_the_plan(planned, family), *notes_on_the_other(by_family, families)],
        )
        for family in families
    ]


def as_said(settings: Settings, kind: str) -> Iterator[str]:
    """The settings that shape rules and that somebody gave, by `flag` or in the `environment`, as one writes them."""
    for setting in DECLARED:
        origin = settings.origins[setting.name]
        how, name = origin.kind, origin.name
        if how == "file":
            how, name = "flag" if setting.long else "environment", setting.shown
        if setting.name in Intent.__match_args__ and how == kind:
            value = shlex.quote(shortened(origin.text)) if origin.text else '""'
            if kind == "environment":
                yield f"{name}={value}"
            else:
                yield name if origin.text == "true" else f"{name} {value}"


def shortened(text: str) -> str:
    """A long list by its beginning, and how many entries it goes on."""
    entries = text.split(",")
    return text if len(entries) <= MOST_SAID else f"{','.join(entries[:MOST_SAID])},… ({len(entries):,} in all)"


def notes_on_the_plan(planned: Plan, family: Family) -> Iterator[str]:
    """What else is set up, that no chain shows."""
    for routing in planned.routing:
        if routing.family is family:
            yield (
                f"Routing: what has mark {routing.mark:#x} looks up table {routing.table}, whose only route delivers "
                "it here, whatever its destination."
            )
    if family is Family.V6 and planned.passthrough_address:
        yield "Addresses: ::6 is put on lo, from which the proxy passes inbound traffic on."
    if not any(ruleset.tables for ruleset in planned.rulesets if ruleset.family is family):
        yield f"{family.value} is not captured: there are no rules."


def notes_on_the_other(rulesets: dict[Family, Ruleset], families: Sequence[Family]) -> Iterator[str]:
    """What is to be said of the family that is not drawn."""
    for family in Family:
        if family not in families:
            (drawn,) = families
            if not rulesets[family].tables:
                yield f"{family.value} is not captured: there are no rules."
            elif outline(rulesets[family]) == outline(rulesets[drawn]):
                yield f"{family.value} has the same rules with its own addresses: --family {family.value.lower()}."
            else:
                yield f"{family.value} has other rules: --family {family.value.lower()}."


def outline(ruleset: Ruleset) -> list[object]:
    """A ruleset without the values that differ from family to family, and the settings that stand for them."""
    return [
        (table, chain, type(rule.target), [type(match) for match in rule.matches])
        for table, chain, rule in ruleset.rules()
    ]


# --- what is live -----------------------------------------------------------------------------------------


def live_pictures(settings: Settings, families: Sequence[Family]) -> tuple[list[Picture], int]:
    """One picture for each family of what the namespace holds, and the exit status."""
    from capture.host.live import choose_backend, read_live
    from capture.iptables.iptables import BACKENDS, Iptables
    from capture.kernel import netns

    planned: Plan | None = None
    if [*as_said(settings, "environment"), *as_said(settings, "flag")]:
        settings, _, resolved = looked_up_or_without(settings, LOOKING | BACKEND)
        planned = plan(resolved.intent)
    elif settings.network_namespace:
        netns.enter(settings.network_namespace)
    live = read_live(counters=True)
    backend = choose_backend(live, settings).backend
    where = f" of {settings.network_namespace}" if settings.network_namespace else ""
    pictures = []
    for family in families:
        saved = live.saved(Iptables(backend, family))
        wanted = next((ruleset for ruleset in planned.rulesets if ruleset.family is family), None) if planned else None
        notes = [note for other in BACKENDS if other != backend for note in notes_on_backend(live, other, family)]
        notes += notes_on_routing(live, family)
        notes += [note for other in Family if other not in families for note in notes_on_family(live, backend, other)]
        if not saved.ruleset.tables:
            notes.append(f"The {backend} backend holds no rules here.")
        held = explained(saved.ruleset, as_held(backend, wanted) if wanted else None)
        pictures.append(live_picture(held, saved.counted(), where, backend, notes))
    return pictures, DONE if live.holds_ours(backend) else NOTHING_HERE


def live_picture(held: Ruleset, hits: Mapping[Place, Count], where: str, backend: str, notes: Sequence[str]) -> Picture:
    """What the kernel holds, with what each rule counted."""
    return picture(
        held,
        title=f"Where traffic went: {held.family.value}",
        said=f"What the network namespace{where} holds now, in the {backend} backend, and how many packets "
        "each rule counted (in nat: the first of each connection).",
        notes=notes,
        counted=hits,
    )


def notes_on_backend(live: Live, backend: str, family: Family) -> Iterator[str]:
    """Rules in the backend that is not drawn."""
    from capture.iptables.iptables import Iptables

    count = sum(1 for _ in live.saved(Iptables(backend, family)).ruleset.rules())
    if count:
        yield f"The {backend} backend holds {counted_words(count, 'rule')} as well: --force-iptables-binary={backend}."


def notes_on_family(live: Live, backend: str, family: Family) -> Iterator[str]:
    """Rules in the family that is not drawn."""
    from capture.iptables.iptables import Iptables

    count = sum(1 for _ in live.saved(Iptables(backend, family)).ruleset.rules())
    what = f"{counted_words(count, 'rule')}: --family {family.value.lower()}" if count else "no rules"
    yield f"{family.value} has {what}."


def notes_on_routing(live: Live, family: Family) -> Iterator[str]:
    """ip rules by mark that lead to a route which delivers here."""
    tables = {route.table for route in live.local_routes if route.family is family}
    for rule in live.policy_rules:
        if rule.family is family and rule.mark and rule.table in tables:
            yield (
                f"Routing: what has mark {rule.mark:#x} looks up table {rule.table}, whose route delivers it here, "
                "whatever its destination."
            )
