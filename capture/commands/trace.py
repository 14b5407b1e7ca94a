"""`capture trace`: what would become of a packet, and the rule that decides it."""

from __future__ import annotations

import sys
from typing import Any

import click

from capture.commands.base import SettingsCommand, answer, output_option, reporting, settings_given
from capture.errors import DEPENDS
from capture.settings.declared import MEANING
from capture.trace.answer import Answer, Answered
from capture.trace.question import Question
from rules.netfilter.fields import STATES
from rules.packets.packet import NEW
from rules.packets.trace import Became


class TraceCommand(SettingsCommand):
    """Tells `--udp`, the protocol, from `--udp PORT=POLICY`, the setting."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        for at, word in enumerate(words):
            following = words[at + 1] if at + 1 < len(words) else ":"
            if word == "--":
                break
            is_policy = not following or ("=" in following and not following.startswith("-"))
            if word == "--tcp" or (word == "--udp" and not is_policy):
                words[at] = f"--protocol={word[2:]}"
        return super().parse_args(ctx, words)


@click.command(cls=TraceCommand, uses=MEANING, needs=lambda asked: not asked["live"])
@click.argument("to", metavar="[HOST]:PORT", nargs=-1)
@click.option("--out", "outward", is_flag=True, help="A process in the pod sends it. This is the default.")
@click.option("--in", "inward", is_flag=True, help="It arrives from outside.")
@click.option(
    "--protocol",
    type=click.Choice(["tcp", "udp"]),
    default="tcp",
    help="`--tcp` and `--udp` are short for it. `--udp PORT=POLICY` is the setting.",
)
@click.option("--uid", "user", metavar="USER", help="Who sends it, by uid or name. By default an application.")
@click.option("--gid", "group", metavar="GROUP", help="The group it is sent with. By default the uid.")
@click.option("--src", "source", metavar="IP[:PORT]", help="Where it comes from.")
@click.option("--iface", "interface", metavar="NAME", help="The interface it arrives on, or would leave by.")
@click.option(
    "--state",
    type=click.Choice([state.lower() for state in STATES]),
    default=NEW.lower(),
    help="What conntrack makes of it. `established`: a later packet, in the direction of the first.",
)
@click.option("--mark", metavar="MARK", help="The fwmark that it has from the start.")
@click.option("--live", is_flag=True, help="Ask the rules that the namespace holds, not those of the settings.")
@click.option("--all-rules", is_flag=True, help="Show every rule that is asked, not only those that match.")
@output_option("the trace", Answered)
def command(**asked: Any) -> None:
    """Tell what becomes of a packet, and which rule decides it, of which setting.

    The packet is followed through the rules that the settings mean, as the kernel would; nothing is sent, and no
    privilege is needed. With --live it is followed through the rules that are there, of both backends, which takes
    the rights to read them. Ends with status 5 if it depends on rules of others that cannot be asked.
    """
    with reporting():
        found = Answer(Question(asked), settings_given())
    answer(asked["output"], found.told(), found.lines(all_rules=asked["all_rules"]))
    if found.trace.became is Became.DEPENDS:
        sys.exit(DEPENDS)
