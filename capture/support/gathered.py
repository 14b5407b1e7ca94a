"""What a report holds: each thing as a text with a name, or the reason why it is not there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from capture import __version__
from capture.kernel import netns
from capture.kernel.files import read_text
from capture.settings.declared import VARIABLES
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST = 20
"""Seconds that a program is waited for."""
PROGRAMS = (
    ("rules/nft.v4", "iptables-nft-save", "-c"),
    ("rules/nft.v6", "ip6tables-nft-save", "-c"),
    ("rules/legacy.v4", "iptables-legacy-save", "-c"),
    ("rules/legacy.v6", "ip6tables-legacy-save", "-c"),
    ("rules/nft", "nft", "-a", "list", "ruleset"),
    ("routing/rules.v4", "ip", "-4", "-details", "rule"),
    ("routing/rules.v6", "ip", "-6", "-details", "rule"),
    ("routing/routes.v4", "ip", "-4", "-details", "route", "show", "table", "all"),
    ("routing/routes.v6", "ip", "-6", "-details", "route", "show", "table", "all"),
    ("routing/addresses", "ip", "-details", "addr"),
    ("versions/iptables-nft", "iptables-nft", "--version"),
    ("versions/iptables-legacy", "iptables-legacy", "--version"),
    ("versions/nft", "nft", "--version"),
    ("versions/ip", "ip", "-V"),
)
"""The name of each, and the program that tells it. None of them changes anything, tables included."""
SETTINGS_OF_THE_KERNEL = (
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_events",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_loose",
    "net/netfilter/nf_log_all_netns",
)
OF_NETFILTER = re.compile(
    r"netfilter|nf_|nft|nfnetlink|xt_|ip6?t_|ip6?_?tables|conntrack|tproxy|x_tables", re.IGNORECASE
)
"""Lines of the kernel's log that concern us."""
MOST_LINES = 500
"""Of them, the last."""
LEFT_OUT = (
    "Left out on purpose: arguments and environments of processes, for they may hold secrets; of our own environment "
    "all but the variables that are settings.",
    "Nothing is blacked out: addresses, networks, ports, users, and names of hosts, files and programs are in it as "
    "they are. Read it before you send it.",
)


class Thing(Value):
    """One file of a report."""

    name: str
    about: str
    """What it tells, in a few words."""
    text: str
    missing: str = ""
    """Why it is not there; empty if it is."""


def gathered() -> Iterator[Thing]:
    """Everything that can be told of this place without our own commands. Nothing is changed."""
    yield asked("versions/capture", "ours, of Python, of what we import, and of the kernel", versions)
    yield asked("environment", "variables that are settings", environment)
    yield asked("resolv.conf", "the nameservers", lambda: read_text("/etc/resolv.conf"))
    yield asked("processes", "who lives in this network namespace: pid, parent, uid, program", processes)
    yield asked("sysctl", "settings of the kernel that decide about us", settings_of_the_kernel)
    yield asked("modules", "kernel modules of netfilter", lambda: of_netfilter(read_text("/proc/modules")))
    yield asked("kernel.log", "lines of the kernel's log that concern netfilter", kernel_log)
    for name, program, *arguments in PROGRAMS:
        line = " ".join((program, *arguments))
        yield asked(name, f"what `{line}` prints", partial(printed, program, *arguments))


def asked(name: str, about: str, tell: Callable[[], str]) -> Thing:
    """A thing, or why it cannot be told."""
    try:
        return Thing(name, about, tell())
    except subprocess.TimeoutExpired:
        return Thing(name, about, "", f"no answer within {LONGEST} s")
    except FileNotFoundError as error:
        return Thing(name, about, "", f"{error.filename} is not there")
    except OSError as error:
        return Thing(name, about, "", error.strerror or str(error))


def printed(*words: str) -> str:
    """All that a program prints; what it complains of, and its status if it failed, stand behind that."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST, check=False)
    text = done.stdout.decode(errors="replace")
    if done.stderr:
        text += f"# it complained:\n{done.stderr.decode(errors='replace')}"
    return text if not done.returncode else f"{text}# exit status {done.returncode}\n"


def versions() -> str:
    lines = [
        f"capture {__version__}",
        f"Python {platform.python_version()}",
        f"kernel {' '.join(os.uname()[i] for i in (0, 2, 3, 4))}",
    ]
    for package in ("click", "pydantic", "pyroute2", "python-iptables", "pyyaml"):
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    lines.append(f"uid {os.geteuid()}, gid {os.getegid()}, groups {' '.join(map(str, os.getgroups()))}")
    lines += [
        line for line in read_text("/proc/self/status").splitlines() if line.startswith(("Cap", "Seccomp", "NoNew"))
    ]
    lines.append(f"network namespace {netns.described('')}")
    try:
        lines += read_text("/etc/os-release").splitlines()
    except OSError as error:
        lines.append(f"/etc/os-release: {error.strerror}")
    return "".join(f"{line}\n" for line in lines)


def environment() -> str:
    return "".join(f"{name}={os.environ[name]!r}\n" for name in VARIABLES if name in os.environ) or "none is set\n"


def processes() -> str:
    """Those whose network namespace is ours, as far as this user may see it."""
    ours, lines, unseen = os.stat("/proc/self/ns/net").st_ino, [], 0
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino == ours:
                status = dict(
                    line.split(":\t", 1) for line in read_text(f"/proc/{pid}/status").splitlines() if ":\t" in line
                )
                uid = status.get("Uid", "?").split()[1]
                lines.append(f"{pid} {status.get('PPid', '?')} {uid} {status.get('Name', '?')}\n")
        except PermissionError:
            unseen += 1
        except OSError:  # it ended meanwhile
            continue
    return "".join(lines) + (f"{unseen} more may not be seen by this user\n" if unseen else "")


def settings_of_the_kernel() -> str:
    def value(name: str) -> str:
        try:
            return read_text(f"/proc/sys/{name}").strip()
        except OSError as error:
            return f"({error.strerror})"

    return "".join(f"{name} = {value(name)}\n" for name in SETTINGS_OF_THE_KERNEL)


def of_netfilter(text: str) -> str:
    found = [line for line in text.splitlines() if OF_NETFILTER.search(line)]
    return "".join(f"{line}\n" for line in found[-MOST_LINES:]) or "none\n"


def kernel_log() -> str:
    """From the kernel itself: each read of /dev/kmsg is one record, until there is none."""
    records = []
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                records.append(os.read(log, 1 << 16).decode(errors="replace").split("\n", 1)[0])
            except BlockingIOError:
                return of_netfilter("\n".join(records))
            except BrokenPipeError:  # records were overwritten before they were read
                continue
    finally:
        os.close(log)
