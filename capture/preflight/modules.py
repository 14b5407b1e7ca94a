"""What is known of this kernel without trying: which modules it has, built in, loaded, or on disk."""

from __future__ import annotations

import gzip
import os
import platform
from functools import cache
from typing import TYPE_CHECKING

from capture.iptables.diagnosis import REGISTERED, needs
from capture.kernel.files import MOST, read_text
from capture.kernel.process import read_words
from rules.iptables.reading import SPOKEN_MODULES, TARGETS
from rules.netfilter.matches import DPort, Not, Proto, SPort
from rules.netfilter.values import Family
from rules.value import Value

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from rules.netfilter.rulesets import Rule
    from rules.plan.plan import Plan

    Verdict: TypeAlias = Literal["ok", "warn", "missing", "unknown"]

OK: Verdict = "ok"
WARN: Verdict = "warn"
MISSING: Verdict = "missing"
UNKNOWN: Verdict = "unknown"
MATCH, TARGET = "match", "target"
ON_DEMAND = "the kernel loads it on demand, if the node has it"
IN_CORE = frozenset({"RETURN", "ACCEPT", "DROP"})
"""Targets that are verdicts: no extension is behind them."""
PREFIX = {Family.V4: "ipt", Family.V6: "ip6t"}
"""By which the kernel asks for an extension (xt_request_find_match, net/netfilter/x_tables.c)."""
PROC_MODULES = "/proc/modules"
SYS_MODULE = "/sys/module"
PROC_CONFIG = "/proc/config.gz"
MODULES_DISABLED = "/proc/sys/kernel/modules_disabled"
FOLDERS = tuple(f"{root}/{platform.release()}" for root in ("/lib/modules", "/usr/lib/modules"))
"""Where the node keeps what it knows of its modules. Few containers see it."""
BOOT_CONFIG = f"/boot/config-{platform.release()}"
OTHER_FILES = {"mark": "xt_mark", "connmark": "xt_connmark", "tcp": "xt_tcpudp", "udp": "xt_tcpudp", "dnat": "xt_nat"}
"""Modules that hold several extensions, by the name of one in lower case."""


class Extension(Value):
    """A match or a target that is an extension of the kernel's."""

    kind: str
    """`match` or `target`."""
    name: str
    """By which the kernel registers it."""
    family: Family

    @property
    def modules(self) -> tuple[str, ...]:
        """What its module may be called."""
        names = [f"xt_{self.name}", f"{PREFIX[self.family]}_{self.name}"]
        if self.name.lower() in OTHER_FILES:
            names.insert(0, OTHER_FILES[self.name.lower()])
        return tuple(dict.fromkeys(names))

    @property
    def symbols(self) -> tuple[str, ...]:
        """What the kernel's configuration may call it."""
        name, kind = self.name.upper(), self.kind.upper()
        ip = "IP" if self.family is Family.V4 else "IP6"
        special = {"TCP": ("NETFILTER_XTABLES",), "UDP": ("NETFILTER_XTABLES",), "DNAT": ("NETFILTER_XT_NAT",)}
        return (*special.get(name, ()), f"NETFILTER_XT_{kind}_{name}", f"NETFILTER_XT_{name}", f"{ip}_NF_{kind}_{name}")


def extensions(planned: Plan) -> dict[Extension, Rule]:
    """What the rules of this plan need of the kernel, each with the first rule that needs it."""
    found: dict[Extension, Rule] = {}
    for ruleset in planned.rulesets:
        for _, _, rule in ruleset.rules():
            matches, targets = needs(rule)
            for kind, names in ((MATCH, matches | ports_of(rule)), (TARGET, targets)):
                for name in sorted(names):
                    found.setdefault(Extension(kind, name, ruleset.family), rule)
    return found


def ports_of(rule: Rule) -> set[str]:
    """The match behind `--dport` and `--sport`, which `-p` names without `-m`."""
    plain = [match.match if isinstance(match, Not) else match for match in rule.matches]
    if not any(isinstance(match, DPort | SPort) for match in plain):
        return set()
    return {match.name for match in plain if isinstance(match, Proto)}


def all_extensions(family: Family) -> list[Extension]:
    """Every one that some settings or other need."""
    matches = [Extension(MATCH, name, family) for name in sorted(SPOKEN_MODULES)]
    return matches + [Extension(TARGET, name, family) for name in sorted(TARGETS.keys() - IN_CORE)]


def of_extension(extension: Extension) -> tuple[Verdict, str]:
    """The verdict on an extension, and what it rests on."""
    registered = read_words(REGISTERED[extension.family][extension.kind == TARGET]) or ()
    if extension.name in registered:
        return OK, "registered in the kernel"
    return of_module(extension.modules, extension.symbols)


def of_module(modules: tuple[str, ...], symbols: tuple[str, ...]) -> tuple[Verdict, str]:
    """The verdict on what is called one of these as a module, and one of those in the kernel's configuration."""
    for name in modules:
        if name in loaded() or os.path.isdir(f"{SYS_MODULE}/{name}"):
            return OK, f"the module {name} is loaded"
    for name in modules:
        if name in built_in():
            return OK, f"{name} is built into the kernel"
    for name in modules:
        if name in on_disk():
            if modules_disabled():
                return MISSING, f"the module {name} is not loaded, and kernel.modules_disabled forbids loading it"
            return OK, f"the module {name} is on disk, and loaded on demand"
    config = configured()
    answers = [config[symbol] for symbol in symbols if symbol in config]
    if "y" in answers:
        return OK, "built into the kernel"
    if config and not answers:
        return MISSING, f"this kernel was built without it (no CONFIG_{symbols[0]})"
    if modules_disabled():
        return MISSING, "it is not loaded, and kernel.modules_disabled forbids loading it"
    return UNKNOWN, f"not loaded; {ON_DEMAND}"


@cache
def loaded() -> frozenset[str]:
    """The modules that are loaded."""
    return frozenset(line.split()[0] for line in lines_of(PROC_MODULES))


@cache
def built_in() -> frozenset[str]:
    """The modules that are part of the kernel, as its installation lists them."""
    return frozenset(name_of(line) for folder in FOLDERS for line in lines_of(f"{folder}/modules.builtin"))


@cache
def on_disk() -> frozenset[str]:
    """The modules that can be loaded."""
    files = (f"{folder}/modules.dep" for folder in FOLDERS)
    return frozenset(name_of(line.partition(":")[0]) for file in files for line in lines_of(file))


@cache
def configured() -> dict[str, str]:
    """The kernel's configuration by symbol without `CONFIG_`, if it is kept anywhere: `y`, or `m` for a module."""
    try:
        with gzip.open(PROC_CONFIG, "rt", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        places = (BOOT_CONFIG, *(f"{folder}/config" for folder in FOLDERS))
        lines = next(filter(None, map(lines_of, places)), [])
    pairs = (line.removeprefix("CONFIG_").split("=", 1) for line in lines if line.startswith("CONFIG_"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1] in ("y", "m")}


def modules_disabled() -> bool:
    """Whether loading modules was forbidden for good, or the kernel cannot load any."""
    return read_words(MODULES_DISABLED) == ["1"]


def name_of(path: str) -> str:
    """A module's name from that of its file: `kernel/net/netfilter/xt_owner.ko.xz`."""
    return os.path.basename(path.strip()).partition(".")[0].replace("-", "_")


def lines_of(path: str) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        return read_text(path, MOST).splitlines()
    except OSError:
        return []
