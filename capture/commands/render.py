"""`capture render`: the rules that settings mean, for a namespace that holds none of ours."""

from __future__ import annotations

import sys

import click

from capture.commands.base import SettingsCommand, reporting, settings_given
from capture.host.live import choice_of
from capture.intent.here import resolved_here
from capture.iptables.iptables import NATIVE
from capture.settings.declared import MEANING
from rules.live.changes import changes, restore_text
from rules.native.compiled import compiled
from rules.native.writing import transaction
from rules.netfilter.rulesets import Ruleset
from rules.plan.plan import plan


@click.command(cls=SettingsCommand, uses=MEANING)
@click.option("--family", type=click.Choice(["ipv4", "ipv6", "both"]), default="both", help="Only one family's rules.")
@click.option("--why", is_flag=True, help="Say above each rule what it is for.")
def command(family: str, why: bool) -> None:
    """Print the rules that these settings mean, for a namespace that holds none of ours.

    For iptables-restore; with --native-nftables, or where nft is installed and no iptables, for nft, where every rule
    says what it is for in a comment. Reads this host's addresses, users and nameservers, and none of the rules that are
    there. What apply would do here and now is shown by -n.
    """
    with reporting():
        settings = settings_given()
        choice = choice_of(settings)
        for planned in plan(resolved_here(settings).intent).rulesets:
            one = planned.family
            if planned.tables and family in ("both", one.value.lower()):
                heading = one.value
                if choice.backend == NATIVE:
                    heading = f"{one.value}, {choice}"
                    text = "".join(f"{line}\n" for line, _ in transaction(Ruleset(one), compiled(planned)))
                else:
                    text = f"{annotated(planned)}\n" if why else restore_text(changes(Ruleset(one), planned))
                sys.stdout.write(f"# {heading}\n{text}")


def annotated(planned: Ruleset) -> str:
    """The restore text with the reason of each rule in a comment above it."""
    lines = []
    for change in changes(Ruleset(planned.family), planned):
        for line, asked in change.lines():
            rule = getattr(asked, "rule", None)
            if rule:
                lines.append(f"# {rule.why}")
            lines.append(line)
    return "\n".join(lines)
