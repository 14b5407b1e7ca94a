"""`capture explain`: what settings mean, in words."""

from __future__ import annotations

import os

import click

from capture.commands.base import SettingsCommand, answer, output_option, reporting, settings_given
from capture.host.facts import read_facts
from capture.inspect.explanation import Explanation, explanation
from capture.kernel import netns
from capture.screen.explain import text
from rules.netfilter.values import Family

FAMILIES = {"ipv4": (Family.V4,), "ipv6": (Family.V6,), "both": tuple(Family)}


@click.command(cls=SettingsCommand)
@click.option("--family", type=click.Choice(list(FAMILIES)), default="both", help="Only one family's rules.")
@output_option("the explanation", Explanation)
def command(family: str, output: str) -> None:
    """Say in words what these settings mean: what is captured, what will surprise, and each rule with its reason.

    Reads this host's addresses, users and nameservers, and none of the rules that are there. Findings are no
    failure: the status is 0.
    """
    with reporting():
        said = settings_given()
        if said.network_namespace:
            netns.enter(said.network_namespace)
        told = explanation(said, read_facts(os.environ, said.nameservers_file), FAMILIES[family])
    answer(output, told, text(told))
