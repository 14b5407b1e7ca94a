"""What there is at the cursor of a command line: commands, their options, settings and their values."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import click

from capture.kernel.netns import NAMED
from capture.settings import parsers
from capture.settings.argv import FORMER_NAME
from capture.settings.declared import DECLARED, DECLARED_BY_FLAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from capture.settings.declared import Declaration

LONGEST = 70
"""Characters of what is said about a word."""
PAGES = {"errors": "Exit statuses, and what goes wrong."}
"""What `capture help` knows besides commands."""
FILES = frozenset({"config", "resolv_conf", "dry_run_file"})
"""Settings that name a file."""


class Candidate:
    """One word that could stand at the cursor, or `files` for whatever files there are."""

    def __init__(self, value: str, about: str = "", kind: str = "word") -> None:
        self.value = value
        self.about = about
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.kind}\t{self.value}\t{self.about}"


def candidates(words: Sequence[str], group: click.Group, commands: Mapping[str, str]) -> list[Candidate]:
    """What could stand where the last word does, of which so much was typed already.

    `commands` has what each command of the group is for.
    """
    *before, current = words or [""]
    if before[:1] == [FORMER_NAME]:
        del before[0]
    return [
        it for it in offered(before, current, group, commands) if it.kind == "files" or it.value.startswith(current)
    ]


def offered(before: list[str], current: str, group: click.Group, commands: Mapping[str, str]) -> Iterator[Candidate]:
    """The same, whatever was typed of it."""
    named = [Candidate(name, about) for name, about in commands.items()]
    if not before and not current.startswith("-"):
        yield from named
        yield from (Candidate(word, about) for word, about in (("help", "Help."), ("version", "The version.")))
        return
    if before[:1] == ["help"]:
        if len(before) == 1:
            yield from named
            yield from (Candidate(name, about) for name, about in PAGES.items())
        return
    name = before.pop(0) if before and before[0] in commands else "apply"
    command = group.get_command(click.Context(group), name)
    if command:
        yield from of_command(command, before, current)


def of_command(command: click.Command, before: Sequence[str], current: str) -> Iterator[Candidate]:
    """What a command takes behind these words of its own."""
    options = {name: option for option in command.params if isinstance(option, click.Option) for name in option.opts}
    taken = settings_of(command)
    flag, equals, _ = current.partition("=")
    waiting = before[-1] if before else ""
    if "--" in before:
        return
    if equals and flag.startswith("--"):
        for value in values_of(flag, options, taken):
            yield Candidate(f"{flag}={value.value}", value.about, value.kind)
    elif waits_for_a_value(waiting, options, taken):
        yield from values_of(waiting, options, taken)
    elif current.startswith("-"):
        yield from flags(options, taken)
    else:
        arguments = [param for param in command.params if isinstance(param, click.Argument)]
        if len(before) < len(arguments) and isinstance(arguments[len(before)].type, click.Choice):
            yield from (Candidate(str(word)) for word in arguments[len(before)].type.choices)  # type: ignore[attr-defined] # a Choice has them


def settings_of(command: click.Command) -> dict[str, Declaration]:
    """The settings that a command takes notice of, by each of their flags."""
    if not hasattr(command, "uses"):
        return {}
    used: frozenset[str] | None = command.uses
    return {flag: it for flag, it in DECLARED_BY_FLAG.items() if used is None or it.name in used}


def waits_for_a_value(flag: str, options: Mapping[str, click.Option], settings: Mapping[str, Declaration]) -> bool:
    if flag in options:
        return not options[flag].is_flag
    return flag in settings and not settings[flag].is_switch


def flags(options: Mapping[str, click.Option], settings: Mapping[str, Declaration]) -> Iterator[Candidate]:
    """Those of the command first, then those of settings: each by its long name, a short one where there is one."""
    for name, option in options.items():
        yield Candidate(name, sentence(option.help or ""))
    for setting in DECLARED:
        for flag in (setting.long, setting.short):
            if flag in settings:
                yield Candidate(flag, sentence(setting.about))
    yield Candidate("--help", "What it takes.")


def values_of(
    flag: str, options: Mapping[str, click.Option], settings: Mapping[str, Declaration]
) -> Iterable[Candidate]:
    """The values that can be told in full."""
    if flag in options:
        return [Candidate(str(word)) for word in getattr(options[flag].type, "choices", ())]
    setting = settings.get(flag)
    if setting is None:
        return []
    if setting.name in FILES:
        return [Candidate("", kind="files")]
    if setting.name == "network_namespace":
        return [Candidate(name) for name in named_namespaces()]
    return [Candidate(word) for word in parsers.words_of(setting.read)]


def named_namespaces() -> list[str]:
    """The namespaces that `ip netns` knows."""
    try:
        return sorted(os.listdir(NAMED))
    except OSError:
        return []


def sentence(about: str) -> str:
    """The first sentence of a help, on one line."""
    return textwrap.shorten(" ".join(about.split()).partition(". ")[0].rstrip("."), LONGEST, placeholder=" …")
