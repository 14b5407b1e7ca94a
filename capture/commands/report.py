"""`capture report`: everything that an issue needs, in one archive."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from capture.commands.base import SettingsCommand, main, reporting, settings_given
from capture.config.files import STDIN
from capture.config.writing import yaml_lines
from capture.intent.listing import filed
from capture.kernel import netns
from capture.output import open_streams, say
from capture.screen.lines import show
from capture.settings.argv import read_argv
from capture.settings.declared import FLAGS, SWITCHES
from capture.support.archive import contents, packed, write
from capture.support.gathered import asked, gathered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.settings.declared import Settings

ASKED = (
    ("check", "whether a run works here, and what it lacks", ["check", "--no-rehearsal"]),
    ("check.json", "the same for programs", ["check", "--no-rehearsal", "--output", "json"]),
    ("status", "what is installed, with counters and who listens", ["status"]),
    ("status.json", "the same for programs", ["status", "--output", "json"]),
    ("verify", "what differs from these settings", ["verify"]),
    ("escapes", "what does not reach the proxy, live", ["escapes", "--live"]),
    ("settings.json", "every setting, and where it came from", ["settings", "--output", "json"]),
    ("settings.yaml", "those that were given, as a file for --config", ["settings", "--output", "yaml"]),
    ("diff", "what a run with these settings would change", ["diff", "--why"]),
)
"""Commands of ours, which only look."""


@click.command(cls=SettingsCommand, needs=lambda _: False)
@click.option("--file", "path", metavar="FILE", help="Where to; by default capture-report-TIME.tar.gz, here.")
def command(path: str | None) -> None:
    """Gather all that a bug report needs: versions, check, status, settings, live rules, routes, processes, kernel log.

    Give it the flags of the run that went wrong. Changes nothing; takes the rights of a run to see everything, and says
    what it could not see. What is in it and what was left out is printed, and stands in its README; nothing is blacked
    out. Only its owner may read the file.
    """
    with reporting():
        settings = settings_given()
        if settings.network_namespace:
            netns.enter(settings.network_namespace)
        name = f"capture-report-{time.strftime('%Y%m%d-%H%M%S')}"
        path = path or f"{name}.tar.gz"
        with flags_of(settings) as flags:
            ours = [asked(name, about, partial(answered, [*words, *flags])) for name, about, words in ASKED]
        things = [*ours, *gathered()]
        write(path, packed(things, name))
    say(f"{path}: {len([thing for thing in things if not thing.missing])} files")
    show(contents(things))


@contextmanager
def flags_of(settings: Settings) -> Iterator[list[str]]:
    """The flags that were given, good or bad, for other commands; what stdin said, they could not read again."""
    typed, _ = read_argv(sys.argv[sys.argv.index("report") + 1 :], FLAGS | {"--file"}, switches=SWITCHES)
    flags = [f"{each.flag}={each.value}" for each in typed if each.flag != "--file"]
    if settings.config != STDIN:
        yield flags
        return
    with tempfile.NamedTemporaryFile("w", prefix="capture-report-", suffix=".yaml") as kept:
        kept.write("\n".join(yaml_lines(it for it in filed(settings) if settings.origins[it[0]].kind == "file")))
        kept.flush()
        yield [*flags, f"--config={kept.name}"]


def answered(words: list[str]) -> str:
    """What a command of ours says, and how it ends: in a process of its own, for commands end theirs."""
    is_json = "json" in words
    with tempfile.TemporaryFile() as file, open(os.devnull, "wb") as nowhere:
        child = os.fork()
        if not child:
            status = 70
            try:
                os.dup2(file.fileno(), 1)
                os.dup2(nowhere.fileno() if is_json else file.fileno(), 2)
                open_streams()
                sys.argv[1:] = words
                main(words)
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 1
            except BaseException:
                import traceback

                os.write(2, traceback.format_exc().encode(errors="replace"))
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        file.seek(0)
        text = file.read().decode(errors="surrogateescape")
    return text if is_json else f"{text}# exit status {os.waitstatus_to_exitcode(status)}\n"
