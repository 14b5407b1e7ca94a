"""`capture-cni install`, `uninstall` and `repair`: the plugin's place on a node."""

from __future__ import annotations

import os
import signal
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

import capture
from capture.cni import conflist, repairing
from capture.errors import DONE, BadSettings, CaptureError, Refusal
from capture.log import Log
from capture.output import say
from capture.settings.argv import read_argv
from capture.settings.declared import FLAGS, SWITCHES, Settings
from rules.cni import chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

LOOK_AGAIN = 2.0
"""Seconds after which a watcher looks although nothing was seen to change: the executable may be gone."""
MARK = "# capture-cni"
PROGRAM = """\
#!{python} -IS
{mark}: put here by `capture-cni install`, and removed by `capture-cni uninstall`.
import sys

sys.path.append({packages!r})
from capture.cni.program import main

main()
"""
ENTERING = """\
#!/bin/sh
{mark}: put here by `capture-cni install --in-container`, and removed by `capture-cni uninstall`.
# The programs are in the file system of that process, which runs in a container on this node and watches this file.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin exec nsenter --target {pid} --mount -- {program} "$@"
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """Put the plugin into a node's chain, take it out, and capture pods that came before it.

    Without a command it is called by a container runtime: docs/cni.md.
    """


def places(command: F) -> F:
    """The options that say where things are on the node."""
    command = click.option(
        "--conf-dir", default="/etc/cni/net.d", show_default=True, help="Where the runtime's networks are configured."
    )(command)
    return click.option("--bin-dir", default="/opt/cni/bin", show_default=True, help="Where the plugins are.")(command)


@group.command(short_help="Put the plugin into a node's chain.")
@places
@click.option(
    "--conf-name", default="", help="The file to stand in. By default the first, which is what runtimes read."
)
@click.option("--exclude-namespace", multiple=True, help="A namespace whose pods are left alone. May be repeated.")
@click.option(
    "--watch", is_flag=True, help="Stay, and put it back whenever another program rewrites the configuration."
)
@click.option(
    "--in-container",
    is_flag=True,
    help="The node has no Python of ours: the plugin enters the file system of this process, by its pid on the node "
    "(hostPID), and with it this has to go on: only with --watch.",
)
@click.option("--out-at-end", is_flag=True, help="Told to end (SIGTERM), take the plugin out. Only with --watch.")
@click.argument("settings", nargs=-1)
def install(
    bin_dir: str,
    conf_dir: str,
    conf_name: str,
    exclude_namespace: tuple[str, ...],
    watch: bool,
    in_container: bool,
    out_at_end: bool,
    settings: tuple[str, ...],
) -> None:
    """Put the executable into --bin-dir, and behind the last plugin of the chain in --conf-dir.

    SETTINGS are flags as an init container has them, behind `--`: they are checked, and written there. A second
    run with the same settings changes nothing.
    """
    if in_container and not watch:
        raise click.UsageError("--in-container goes with --watch: the plugin works while this process does")
    if out_at_end and not watch:
        raise click.UsageError("--out-at-end goes with --watch: without it, there is `capture-cni uninstall`")
    refuse(settings)
    ours = chain.ours(settings, exclude_namespace or None)
    if not watch:
        put_program(bin_dir, in_container=in_container)
        say(conflist.put_in(conflist.chosen(conf_dir, conf_name), ours) or "in the chain already: nothing was changed")
        return
    if out_at_end:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        keep(bin_dir, conf_dir, conf_name, ours, in_container=in_container)
    except KeyboardInterrupt:
        if out_at_end:
            say(*removed(bin_dir, conf_dir))


def keep(bin_dir: str, conf_dir: str, conf_name: str, ours: dict[str, Any], *, in_container: bool) -> NoReturn:
    """Put it in, and back whenever somebody takes it out. What is wrong is said once, until something else is."""
    from capture.cni.watching import Folder

    folder, log, before = Folder(conf_dir), Log(), ""
    while True:
        try:
            put_program(bin_dir, in_container=in_container)
            done, before = conflist.put_in(conflist.chosen(conf_dir, conf_name), ours), ""
            if done:
                log.info(done)
        except CaptureError as error:
            if error.what != before:
                log.warn(*error.lines())
            before = error.what
        folder.wait(LOOK_AGAIN)


@group.command(short_help="Take the plugin out of every chain.")
@places
def uninstall(bin_dir: str, conf_dir: str) -> None:
    """Take the plugin out of every chain in --conf-dir, then its executable out of --bin-dir.

    One that watches has to be stopped before. Pods that are captured stay so.
    """
    say(*removed(bin_dir, conf_dir))


def removed(bin_dir: str, conf_dir: str) -> list[str]:
    """Take the plugin out, and say from where. Raises CaptureError."""
    out = [f"{path}: taken out" for path in conflist.taken_out(conf_dir)]
    path = os.path.join(bin_dir, chain.TYPE)
    if os.path.lexists(path):
        if not is_our_program(path):
            raise CaptureError(f"{path} is not what `capture-cni install` puts there", hint="remove it yourself")
        os.unlink(path)
        out.append(f"{path}: removed")
    return out or ["not installed: nothing was changed"]


@group.command(short_help="Find pods that came before it, and capture them.")
@click.option("--conf-dir", default="/etc/cni/net.d", show_default=True, help="Where the plugin's settings are read.")
@click.option("--capture", "captures", is_flag=True, help="Capture them. Without it they are only reported.")
@click.option("--netns", multiple=True, help="Look into this namespace only, by its path. May be repeated.")
@click.argument("settings", nargs=-1)
def repair(conf_dir: str, captures: bool, netns: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Find pods with a proxy but without a capture, which came up before the plugin did, and capture or report them.

    They are found from the network namespaces on this node: one in which a process of the proxy's uid listens on the
    proxy's port, and nothing of ours is. SETTINGS are those of the plugin's configuration, unless they are given behind
    `--`. Exit status 0: there is none left; 3: there are, and they were reported; 1: one could not be captured.
    """
    refuse(settings)
    sys.exit(repairing.repair(settings or repairing.configured(conf_dir), netns, captures=captures))


def refuse(settings: Sequence[str]) -> None:
    """Raises BadSettings for flags that the plugin would refuse with every pod."""
    from capture.cni.protocol import misplaced

    checked = Settings.from_arguments(*read_argv(settings, FLAGS, switches=SWITCHES), {})
    refusals = list(misplaced(checked.origins))
    if refusals:
        raise BadSettings(refusals)


def put_program(folder: str, *, in_container: bool) -> None:
    """The executable, in its place, written whole. Raises CaptureError."""
    packages = os.path.dirname(os.path.dirname(os.path.abspath(capture.__file__)))
    text = PROGRAM.format(python=sys.executable, packages=packages, mark=MARK)
    if in_container:
        text = ENTERING.format(pid=os.getpid(), program=os.path.abspath(sys.argv[0]), mark=MARK)
    path = os.path.join(folder, chain.TYPE)
    try:
        with suppress(OSError), open(path, encoding="utf-8") as file:
            if file.read() == text and os.stat(path).st_mode & stat.S_IXUSR:
                return
        temporary = os.path.join(folder, f"{conflist.TEMPORARY}{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o755)
        os.rename(temporary, path)
    except OSError as error:
        hint = "--bin-dir names the plugins' folder"
        raise CaptureError(f"cannot write {path}: {error.strerror}", hint=hint) from error


def is_our_program(path: str) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return MARK in file.read(4096)


def command(argv: Sequence[str]) -> int:
    """Run the command that this line names. Raises CaptureError."""
    try:
        status = group.main(list(argv), prog_name="capture-cni", standalone_mode=False)
    except click.UsageError as error:
        raise BadSettings([Refusal("command line", None, error.format_message().rstrip("."))]) from error
    return status if isinstance(status, int) else DONE
