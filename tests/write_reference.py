"""`make docs`: writes `docs/reference.md` from the declared settings, the commands and the tree of errors."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

import click

from capture import errors
from capture.commands import COMMANDS
from capture.commands.base import group
from capture.help.pages import tree
from capture.settings import parsers
from capture.settings.declared import DECLARED
from capture.settings.groups import grouped
from capture.settings.model import plain
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.settings.declared import Declaration

PAGE = ROOT / "docs" / "reference.md"
WIDTH = 100

TAKES: dict[Any, str] = {
    parsers.text: "text",
    parsers.boolean: "true or false",
    parsers.port: "a port, 1 to 65535",
    parsers.mark: "a fwmark, 1 to 4294967295",
    parsers.routing_table: "a routing table, 1 to 4294967295, not 253 to 255",
    parsers.duration: "a duration above 0",
    parsers.whole_seconds: "a duration of at least 1s",
    parsers.rate: "a number, 1 to 100",
    parsers.nflog_group: "a number, 1 to 65535",
    parsers.log_level: "a level, or `SCOPE:LEVEL,…`",
    parsers.ipv4_loopback: "an IPv4 CIDR inside 127.0.0.0/8",
    parsers.ports: "list of ports and ranges",
    parsers.all_or_ports: "`*`, or a list of ports and ranges",
    parsers.cidrs: "list of CIDRs",
    parsers.all_or_cidrs: "`*`, or a list of CIDRs",
    parsers.interfaces: "list of interfaces",
    parsers.owners: "list of ids or names",
    parsers.owner_groups: "`*`, or a list of ids or names",
    parsers.uid_ranges: "list of uids and ranges",
    parsers.ports_of_users: "`[PROTOCOL:]PORTS:UIDS;…`",
    parsers.udp_policies: "list of `PORT=POLICY`",
    parsers.addresses: "one address of each family",
}
"""What each reader takes. The readers of one word out of several are not listed: they know their words."""

NOTATIONS = f"""\
## How values are read

A flag wins over a variable, a variable over a file ([config.md](config.md)), a file over the default. Where a setting
has several variables, the one that is named first wins. A variable that is set but empty counts as not set, but for
`ISTIO_OUTBOUND_OWNER_GROUPS`, which then means none, and `ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR`, which is then refused.
A flag that is given and empty (`-x ""`) is an empty value. The last of several equal flags counts.

| notation | what is read |
| --- | --- |
| flag | `-p 15001`, `-p15001`, `-p=15001`, `--envoy-port 15001`, `--envoy-port=15001`; `--` ends the flags |
| switch | alone it is true; a value follows an equals sign (`--dry-run=false`); short ones can share a dash |
| true or false | `1 t T TRUE true True`, `0 f F FALSE false False` |
| list | separated by commas; empty entries and spaces around an entry are dropped |
| `@PATH`, `@-` | wherever a list is taken, by a flag or a variable: the list is in this file, or on standard input |
| `*` | everything; it stands alone |
| port, range | `80`, `8000-8080`, `8000:8080` |
| CIDR | IPv4 or IPv6; a bare address is a /32 or /128; host bits are cleared, with a warning |
| id | a number, 0 to {parsers.HIGHEST_ID} (2^32-2), or a name that this host knows |
| mark, routing table | decimal, `0x…`, `0o…`, `0b…`; a leading 0 is octal |
| interface | up to {parsers.LONGEST_INTERFACE} characters; `+` at the end stands for every name that begins so |
| duration | as in Go: `500ms`, `5s`, `1m30s` |

A list in a file has one or more entries a line, separated by commas (`--exclude-outbound-ports-for-uids`: semicolons)
or spaces; `#` begins a comment. The file is a regular one of at most 8 MiB, in UTF-8: no FIFO, device or directory.
Standard input is read once, so one setting can have it. An argument of a command line holds 128 KiB, some 11,000
networks; beyond that a file is the way. A refusal names the line. An interface whose name begins with `@` is given
behind a comma (`,@a`).

A value that cannot be read is refused, with exit status 2, before anything is touched. All refusals are printed,
not only the first. What each message means: [errors.md](errors.md).
"""


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Reference",
            "",
            "<!-- Written by `make docs` from the code. Changes made here are lost. -->",
            "",
            wrapped(
                "Every setting, command and exit status. `capture settings` lists the settings of this host with the "
                "value of each and where it came from; `capture schema config` has the same as JSON schema."
            ),
            "",
            NOTATIONS,
            *settings(),
            *commands(),
            *statuses(),
        ]
    )


# --- settings ---------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    for title, members in grouped(DECLARED):
        yield f"## {title}"
        yield ""
        yield "| flag and variables | takes | default | meaning |"
        yield "| --- | --- | --- | --- |"
        yield from map(row, members)
        yield ""


def row(setting: Declaration) -> str:
    """One line of a table."""
    flags = " ".join(code(flag) for flag in (setting.short, setting.long) if flag)
    variables = " ".join(map(code, setting.env))
    cells = ("<br>".join(filter(None, (flags, variables))), takes(setting), default(setting), meaning(setting))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    return f"`{text}`"


def takes(setting: Declaration) -> str:
    """What the setting's reader takes, in words."""
    if setting.read in TAKES:
        return TAKES[setting.read]
    return ", ".join(map(code, parsers.words_of(setting.read)))


def default(setting: Declaration) -> str:
    """What counts where nothing was said."""
    value = plain(setting.default)
    if value is None:
        return "not set" if setting.read is parsers.whole_seconds else "derived"
    shown = ",".join(map(str, value)) if isinstance(value, list) else str(value).lower() if value is False else value
    if setting.read is parsers.duration:
        return code(f"{value:g}s")
    return code(str(shown)) if shown != "" else "empty"


def meaning(setting: Declaration) -> str:
    """Its help, in which flags and the star are set as code."""
    if setting.about.startswith("Accepted for compatibility;"):
        return f"**No effect of its own.** {setting.about}"
    return setting.about.replace(" * ", " `*` ").replace(" *.", " `*`.").replace(" *,", " `*`,")


# --- commands ---------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    yield "## Commands"
    yield ""
    yield wrapped(
        "Without a command, `capture` applies the rules: that is how pods call it. `istio-iptables` is a second name "
        "of the same program, and `istio-iptables` as the first argument is passed over. Each command takes all "
        "settings that are of use to it, so that what was looked at is what will be done."
    )
    yield ""
    context = click.Context(group, info_name="capture")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield f"### `capture {name}`"
        yield ""
        yield inspect.cleandoc(command.help or "")
        yield ""
        own = [it for it in command.params if isinstance(it, click.Option)]
        if own:
            yield "| option | takes | default | meaning |"
            yield "| --- | --- | --- | --- |"
            with click.Context(command, info_name=name, parent=context):
                for option in own:
                    yield option_row(option)
            yield ""
    yield wrapped(
        "`capture --help`, `capture help COMMAND` (or `COMMAND --help`), `capture help errors` and `capture --version` "
        "print and end with status 0. The name alone, typed at a terminal without a variable that is a setting, prints "
        "the usage and ends with 2; without a terminal, as in an image, it captures."
    )
    yield ""


def option_row(option: click.Option) -> str:
    words = getattr(option.type, "choices", ())
    value = "nothing" if option.is_flag else ", ".join(map(code, words)) or option.metavar or option.type.name
    standard = "off" if option.is_flag else code(option.default) if isinstance(option.default, str) else "none"
    return f"| {' '.join(map(code, option.opts))} | {value} | {standard} | {option.help or ''} |"


# --- exit statuses ----------------------------------------------------------------------------------------


def statuses() -> Iterator[str]:
    yield "## Exit statuses"
    yield ""
    yield wrapped(
        "0: what was asked for is in place, was removed, or was printed. Each error below has the status behind its "
        "name and says what state things are in. [errors.md](errors.md) has the cause and the cure of each."
    )
    yield ""
    yield wrapped(
        f"Commands that look end with 0 (as planned, or answered), {errors.NOTHING_HERE} (nothing of ours is here), "
        f"{errors.DIFFERS} (it differs), {errors.DEPENDS} (`trace`: it depends), or {errors.FAILED} (cannot tell; "
        "`check`: a run would fail). Ctrl-C, SIGTERM and SIGHUP end a run by that signal, which a shell shows as 130, "
        "143 and 129; a change that is under way is finished or taken back first."
    )
    yield ""
    yield "```text"
    yield tree()
    yield "```"
    yield ""


def wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(DECLARED)} settings, {len(COMMANDS)} commands")


if __name__ == "__main__":
    main()
