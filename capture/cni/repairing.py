"""Pods that came up before the plugin: found from the network namespaces on the node, and captured or reported."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from capture.cni import conflist
from capture.errors import DONE, FAILED, NOTHING_HERE, CaptureError, in_words
from capture.host.facts import Facts, read_facts
from capture.host.listening import owners_of
from capture.host.live import read_live
from capture.init import follow
from capture.inspect.verify import holds_any
from capture.intent.resolve import resolve
from capture.kernel import netns
from capture.log import Log, complain
from capture.netlink import sockets
from capture.settings.argv import Argument, read_argv
from capture.settings.declared import FLAGS, SWITCHES, Settings
from rules.cni.chain import TYPE, plugins_of
from rules.cni.network import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.plan.intent import Intent

FIRST = "/proc/1/ns/net"
"""The node's own namespace, where the pids of the node are seen (hostPID)."""
FOUND = NOTHING_HERE
"""The exit status where pods were found, and reported only."""


def configured(folder: str) -> tuple[str, ...]:
    """The flags that the node's chain has for our plugin; none if it is not there. Raises CaptureError."""
    path = conflist.chosen(folder)
    for plugin in plugins_of(json.loads(conflist.whole(path))):
        if plugin.get("type") == TYPE:
            return tuple(plugin.get(KEY, {}).get("args", ()))
    raise CaptureError(f"{path} does not have the plugin", hint="give the settings behind `--`, or install it")


def repair(flags: Sequence[str], only: Sequence[str] = (), *, captures: bool) -> int:
    """Look into these namespaces, or into each; the exit status. What is found is said on stdout, a line for each."""
    statuses = {visited(path, flags, captures=captures) for path in only or namespaces()}
    return next((status for status in (FAILED, FOUND) if status in statuses), DONE)


def namespaces() -> Iterator[str]:
    """A path of every network namespace but our own and that of the node: by name, else by a process in it."""
    seen = {os.stat(netns.OURS).st_ino, os.stat(FIRST).st_ino}
    named = [f"{netns.NAMED}/{name}" for name in sorted(os.listdir(netns.NAMED))] if os.path.isdir(netns.NAMED) else []
    for path in (*named, *(f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit())):
        try:
            number = os.stat(path).st_ino
        except OSError:
            continue  # it ended meanwhile
        if number not in seen:
            seen.add(number)
            yield path


def visited(path: str, flags: Sequence[str], *, captures: bool) -> int:
    """Repair one namespace, in a process of its own: from a user's namespace nobody comes back. Its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = FAILED
    try:
        status = repaired(path, flags, captures=captures)
    except Exception as error:
        known = in_words(error)
        if known is None:
            raise
        complain(known)
    finally:
        sys.stdout.flush()
        os._exit(status)


def repaired(path: str, flags: Sequence[str], *, captures: bool) -> int:
    arguments, unreadable = read_argv(flags, FLAGS, switches=SWITCHES)
    quiet, within = Argument("--log_output_level", "warn"), Argument("--network-namespace", path)
    settings = Settings.from_arguments([quiet, *arguments, within], unreadable, {})
    netns.enter(path)
    facts = read_facts({}, settings.nameservers_file)
    proxy = listening_proxy(facts, resolve(settings, facts).intent)
    if not proxy or holds_any(read_live()):
        return DONE
    what = f"{path}: {proxy}, and nothing is captured"
    if not captures:
        print(f"{what}; `capture-cni repair --capture` captures it")
        return FOUND
    follow(settings, {}, Log("warn"))
    print(f"{what}: it is now")
    return DONE


def listening_proxy(facts: Facts, intent: Intent) -> str:
    """The process of the proxy's owner that listens where outbound traffic is sent, in words; empty if none does."""
    found = [each for each in sockets.listeners() if each.port == intent.proxy_port and each.protocol == "tcp"]
    owners = owners_of({each.inode for each in found}, facts.processes)
    for each in found:
        owner = owners.get(each.inode)
        if owner and (owner.uid in intent.proxy_uid or owner.gid in intent.proxy_gid):
            return f"pid {owner.pid} ({owner.name}) of uid {owner.uid} listens on port {each.port}"
        if not owner and each.uid in intent.proxy_uid:
            return f"a process of uid {each.uid} listens on port {each.port}"
    return ""
