"""`make docs`: writes the man page from the declared settings, the commands and the exit statuses."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from capture import __version__
from capture.commands import COMMANDS
from capture.commands.base import group
from capture.help.pages import STATUSES
from capture.settings.declared import DECLARED
from capture.settings.groups import grouped, value_of
from capture.settings.model import written
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.settings.declared import Declaration

PAGE = ROOT / "docs" / "man" / "capture.1"
ALIAS = ROOT / "docs" / "man" / "istio-iptables.1"
"""The second name of the program: man(1) follows it to the page."""
TAIL = """\
.SH FILES
.TP
.I /dev/termination\\-log
Where it exists, cause and cure of a failure are written there, for Kubernetes to show with the pod's status.
.TP
.I /etc/resolv.conf
Names the nameservers whose queries \\fB\\-\\-redirect\\-dns\\fR captures.
.SH EXAMPLES
.TP
.B capture \\-p 15001 \\-z 15006 \\-u 1337
Capture all TCP of this network namespace but that of uid and gid 1337.
.TP
.B capture \\-n \\-u 1337
Print what that would do, and touch nothing.
.TP
.B capture trace \\-\\-live 9.9.9.9:80
Say what becomes of a connection under the rules that are there.
.TP
.B capture clean
Remove everything again.
.SH SEE ALSO
.BR iptables (8),
.BR nft (8),
.BR ip\\-netns (8)
"""


def page() -> str:
    return "\n".join(lines())


def lines() -> Iterator[str]:
    yield '.\\" Written by `make docs` from the code. Changes made here are lost.'
    yield f'.TH CAPTURE 1 "" "capture {__version__}" "User Commands"\n.nh\n.ad l'
    yield ".SH NAME\ncapture, istio\\-iptables \\- send a pod's TCP connections to its proxy"
    yield ".SH SYNOPSIS\n.B capture\n[\\fIsetting\\fR ...]\n.br"
    yield ".B capture\n\\fIcommand\\fR [\\fIoption\\fR ...] [\\fIsetting\\fR ...]"
    yield f".SH DESCRIPTION\n{paragraphs(inspect.cleandoc(group.help or ''))}"
    yield ".SH COMMANDS"
    context = click.Context(group)
    for name in sorted(COMMANDS):
        command = group.get_command(context, name)
        assert command is not None
        yield from of_command(name, command)
    yield ".SH SETTINGS\nOf a run. A command that looks takes them, too: what was looked at is what will be done."
    yield "A flag wins over its variable, a variable over the file of \\fB\\-\\-config\\fR, that over the default."
    for title, members in grouped(DECLARED):
        yield f".SS {escaped(title)}"
        for setting in members:
            yield from of_setting(setting)
    yield ".SH EXIT STATUS"
    for status, meaning in STATUSES:
        yield f".TP\n.B {escaped(status)}\n{escaped(meaning)}"
    yield TAIL


def of_command(name: str, command: click.Command) -> Iterator[str]:
    arguments = [
        param.make_metavar(click.Context(command)) for param in command.params if isinstance(param, click.Argument)
    ]
    yield f".SS {escaped(' '.join(filter(None, ('capture', name, *arguments))))}"
    yield paragraphs(inspect.cleandoc(command.help or COMMANDS[name]))
    for option in command.params:
        if isinstance(option, click.Option):
            takes = "" if option.is_flag else escaped(option.make_metavar(click.Context(command)).lower())
            yield f".TP\n{bold(', '.join(option.opts))}{f' {italic(takes)}' if takes else ''}"
            yield escaped(option.help or "")


def of_setting(setting: Declaration) -> Iterator[str]:
    flags = ", ".join(bold(flag) for flag in (setting.short, setting.long) if flag) or bold(setting.env[0])
    value = value_of(setting)
    yield f".TP\n{flags}{f' {italic(escaped(value))}' if value and setting.long else ''}"
    yield escaped(setting.about)
    default = written(setting, setting.default)
    known = [f"Variable: {', '.join(setting.env)}." if setting.long else ""]
    known.append(f"Default: {default}." if default not in ("", "false") else "")
    yield escaped(" ".join(filter(None, known)))


def paragraphs(text: str) -> str:
    return "\n.PP\n".join(escaped(" ".join(part.split())) for part in text.split("\n\n"))


def escaped(text: str) -> str:
    """Text that roff takes for text: what Markdown marks as code is bold."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    while safe.count("`") > 1:
        safe = safe.replace("`", "\\fB", 1).replace("`", "\\fR", 1)
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{text}\\fR"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    ALIAS.write_text(".so man1/capture.1\n", encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(page().splitlines())} lines")
