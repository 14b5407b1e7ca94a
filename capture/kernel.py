"""iptables as a program: where its binaries are, what a namespace holds, and handing it text.

Full names are called (`iptables-nft-restore`), never a shell, and never a name whose meaning the distribution's
alternatives decide, unless nothing else is installed.
"""

from __future__ import annotations

import os

from capture import netlink
from capture.errors import BackendUnusable, KernelRefused, LiveStateUnreadable
from rules import parse
from rules.diff import Append, Insert, holds_ours
from rules.names import OURS
from rules.render import rule_text
from rules.values import (
    ConnMark,
    CtState,
    Dnat,
    DPorts,
    Family,
    Limit,
    Log,
    Mark,
    Nflog,
    Not,
    OwnerGid,
    OwnerUid,
    OwnerUids,
    Redirect,
    Reject,
    RestoreMark,
    Ruleset,
    SaveMark,
    SetMark,
    Tproxy,
    Value,
    Zone,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from capture.facts import Facts
    from capture.netlink import Address, LocalRoute, PolicyRule
    from rules.diff import Change
    from rules.values import Rule

NFT, LEGACY = "nft", "legacy"
BACKENDS = (NFT, LEGACY)
PROGRAM = {Family.V4: "iptables", Family.V6: "ip6tables"}
OUR_TABLES = frozenset(OURS)
"""The tables in which anything of ours can be."""

LOCK_WAIT = 30
"""Seconds that iptables may wait for its lock, as istio-iptables asks."""
LOCK_FILE = "/run/xtables.lock"
NAMESPACE_LOCK = "/proc/self/ns/net"
"""A file that stands for this namespace and nothing else, and that anyone may lock."""
SUPERUSER_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where iptables is, whatever PATH an unprivileged user was given."""
LEGACY_TABLES = {
    Family.V4: "/proc/thread-self/net/ip_tables_names",
    Family.V6: "/proc/thread-self/net/ip6_tables_names",
}
REGISTERED = {
    Family.V4: ("/proc/thread-self/net/ip_tables_matches", "/proc/thread-self/net/ip_tables_targets"),
    Family.V6: ("/proc/thread-self/net/ip6_tables_matches", "/proc/thread-self/net/ip6_tables_targets"),
}

children_run: list[str] = []
"""The programs that this process has run, in order; for the log and for those who count."""


class Completed(Value):
    """How a child process ended."""

    status: int
    stdout: str
    stderr: str


def run(program: str, *arguments: str, text: str = "", environ: Mapping[str, str] | None = None) -> Completed:
    """Run a program to its end. Raises FileNotFoundError or PermissionError if it cannot be started.

    Its three streams are anonymous files rather than pipes: nothing can block, so neither threads nor `select`
    are needed, nor the `subprocess` module, which would cost the init path 5 ms.
    """
    files = [os.memfd_create(stream) for stream in ("stdin", "stdout", "stderr")]
    try:
        write_all(files[0], text.encode())
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
        children_run.append(program)
        pid = os.posix_spawn(
            program, (program, *arguments), os.environ if environ is None else environ, file_actions=actions
        )
        _, status = os.waitpid(pid, 0)
        return Completed(os.waitstatus_to_exitcode(status), read_all(files[1]), read_all(files[2]))
    finally:
        for file in files:
            os.close(file)


def write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def read_all(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    parts = []
    while part := os.read(file, 1 << 20):
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


def locate(program: str) -> str | None:
    """The full path of an executable, from PATH and the usual places."""
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), *SUPERUSER_PATH):
        path = os.path.join(folder, program)
        if folder and os.access(path, os.X_OK):
            return path
    return None


class Iptables(Value):
    """One backend's tools for one family, in the namespace we are in."""

    backend: str
    """`nft` or `legacy`."""
    family: Family

    def __str__(self) -> str:
        return f"{PROGRAM[self.family]}-{self.backend}"

    def path(self, verb: str) -> str | None:
        """Where `iptables-nft-restore` is; or a plain `iptables-restore` that is known to be of this backend."""
        exact = locate(f"{self}-{verb}")
        if exact:
            return exact
        plain = locate(f"{PROGRAM[self.family]}-{verb}")
        if plain and os.path.basename(os.path.realpath(plain)) == f"xtables-{self.backend}-multi":
            return plain
        return None

    @property
    def is_installed(self) -> bool:
        return bool(self.path("restore") and self.path("save"))

    def command(self, verb: str) -> str:
        path = self.path(verb)
        if path is None:
            raise BackendUnusable(
                f"{self}-{verb} is not installed",
                hint=f"install iptables with its {self.backend} backend, or choose the other with "
                "--force-iptables-binary",
            )
        return path

    def save(self) -> Saved:
        """What the namespace holds. Reads, and creates nothing.

        Raises LiveStateUnreadable if iptables-save fails or prints what we cannot read.
        """
        done = run(self.command("save"), environ=self.environ())
        if done.status:
            raise LiveStateUnreadable(
                f"{self}-save failed, so what the namespace holds is not known; nothing was changed",
                details=[("it said", said(done))],
                hint=permission_hint(done.stderr),
            )
        for line in done.stdout.splitlines():
            if line.startswith("# Table `") and "is incompatible" in line and line[9:].partition("'")[0] in OUR_TABLES:
                raise LiveStateUnreadable(
                    f"{self}-save cannot read a table that we share, because other software filled it with nft",
                    details=[("it said", line)],
                    hint="`nft list ruleset` shows the table; it has to be emptied, or its owner moved to another one",
                )
        try:
            return Saved(Ruleset(self.family, parse.tables(done.stdout)), done.stdout)
        except parse.NotSaveText as error:
            raise LiveStateUnreadable(f"{self}-save printed what we cannot read: {error}") from error

    def restore(self, asked: Sequence[Change], text: str) -> None:
        """Make these changes, each table in one commit; `text` is what they read like. Raises KernelRefused."""
        arguments = ("--noflush", f"--wait={LOCK_WAIT}")
        done = run(self.command("restore"), *arguments, text=text, environ=self.environ())
        if done.status:
            raise self.refusal(asked, done)

    def environ(self) -> dict[str, str]:
        """The environment of a child: without a lock file it could not open."""
        environ = dict(os.environ)
        if self.backend == LEGACY and "XTABLES_LOCKFILE" not in environ and not is_lockable(LOCK_FILE):
            environ["XTABLES_LOCKFILE"] = NAMESPACE_LOCK
        return environ

    def refusal(self, asked: Sequence[Change], done: Completed) -> KernelRefused:
        """What was refused, and in the rule's own words what it is for."""
        details = [(f"{self}-restore said", said(done))]
        found = self.refused_rule(asked, done.stderr)
        what = f"the kernel refused the {self.family.value} rules"
        if not found:
            return KernelRefused(what, details=details, hint=permission_hint(done.stderr), family=self.family)
        chain, rule = found
        details += [("the rule", f"-A {chain} {rule_text(rule)}"), ("its why", rule.why)]
        hint = permission_hint(done.stderr) or missing_module_hint(self, rule)
        return KernelRefused(what, details=details, hint=hint, setting=rule.setting, family=self.family)

    def refused_rule(self, asked: Sequence[Change], stderr: str) -> tuple[str, Rule] | None:
        """The rule at the line that iptables-restore names, or else the first that needs what the kernel lacks."""
        commands = [command for change in asked for _, command in change.lines()]
        line = line_number(stderr)
        if line and line <= len(commands):
            command = commands[line - 1]
            if isinstance(command, Append | Insert):
                return command.chain, command.rule
        if self.backend == LEGACY:
            for command in commands:
                if isinstance(command, Append | Insert) and lacking(self.family, command.rule):
                    return command.chain, command.rule
        return None


class Saved(Value):
    """What a namespace holds, as a value and in the kernel's words."""

    ruleset: Ruleset
    text: str


def said(done: Completed) -> str:
    """What a failed child printed, without the lines that are the same for every failure."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Try `")]
    return "\n".join(lines) or f"nothing, and ended with status {done.status}"


def line_number(stderr: str) -> int | None:
    """The line that iptables-restore names, in any of its three wordings."""
    for line in reversed(stderr.splitlines()):
        for before in ("line ", "line: "):
            _, found, rest = line.partition(before)
            digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
            if found and digits:
                return int(digits)
    return None


def is_lockable(path: str) -> bool:
    """Whether iptables could open or make its lock file there."""
    return os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK)


# --- hints ------------------------------------------------------------------------------------------------


MODULES: dict[type, str] = {
    OwnerUid: "owner",
    OwnerUids: "owner",
    OwnerGid: "owner",
    DPorts: "multiport",
    CtState: "conntrack",
    Mark: "mark",
    ConnMark: "connmark",
    Limit: "limit",
}
"""The extension behind each match that is one, by the name under which the kernel registers it."""

EXTENSIONS: dict[type, str] = {
    Redirect: "REDIRECT",
    Dnat: "DNAT",
    Tproxy: "TPROXY",
    SetMark: "MARK",
    SaveMark: "CONNMARK",
    RestoreMark: "CONNMARK",
    Zone: "CT",
    Reject: "REJECT",
    Log: "LOG",
    Nflog: "NFLOG",
}
"""The same for targets."""


def needs(rule: Rule) -> tuple[set[str], set[str]]:
    """The match and target extensions that a rule needs of the kernel."""
    asked = (match.match if isinstance(match, Not) else match for match in rule.matches)
    matches = {MODULES[type(match)] for match in asked if type(match) in MODULES}
    return matches, {EXTENSIONS[type(rule.target)]} if type(rule.target) in EXTENSIONS else set()


def lacking(family: Family, rule: Rule) -> list[str]:
    """The extensions that a rule needs and the kernel, by its own account, does not have."""
    lacking = []
    for file, needed in zip(REGISTERED[family], needs(rule), strict=True):
        have = read_lines(file)
        if have:
            lacking += sorted(needed - set(have))
    return lacking


def missing_module_hint(tool: Iptables, rule: Rule) -> str:
    matches, targets = needs(rule)
    wanted = [f"xt_{name}" for name in (*sorted(matches), *sorted(targets))]
    if not wanted:
        return ""
    lacks = "lacks" if tool.backend == LEGACY and lacking(tool.family, rule) else "may lack"
    modules = " ".join(wanted)
    return f"the node's kernel {lacks} what the rule needs: try `modprobe {modules}` on the node"


def permission_hint(stderr: str) -> str:
    if "ermission denied" in stderr or "must be root" in stderr or "not permitted" in stderr:
        return (
            "this takes CAP_NET_ADMIN (with the legacy backend also CAP_NET_RAW) in the user namespace that owns the "
            "network namespace: in a pod, securityContext.capabilities.add"
        )
    return ""


def read_lines(path: str) -> list[str] | None:
    """The lines of a file of the kernel; none if it does not exist, None if we may not read it."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except FileNotFoundError:
        return []
    except OSError:
        return None


# --- what the namespace holds -----------------------------------------------------------------------------


class Live(Value):
    """What the namespace holds, in both backends and families. Only what could hold anything was read."""

    nft: dict[Family, Saved]
    legacy: dict[Family, Saved]
    nft_tables: dict[Family, frozenset[str]]
    """Which tables the nft backend has already, ours or not."""
    nft_error: OSError | None
    """Why nf_tables cannot be used here, if it cannot."""
    policy_rules: tuple[PolicyRule, ...] = ()
    local_routes: tuple[LocalRoute, ...] = ()
    passthrough: Address | None = None
    """`::6`, if it is on an interface."""
    can_have_passthrough: bool = False
    """Whether lo may have it."""
    legacy_is_known: bool = True
    """Whether we may see which legacy tables there are: only uid 0 may."""

    def saved(self, tool: Iptables) -> Saved:
        held = self.nft if tool.backend == NFT else self.legacy
        return held.get(tool.family, Saved(Ruleset(tool.family), ""))

    def holds_ours(self, backend: str) -> bool:
        return any(
            holds_ours(table) for family in Family for table in self.saved(Iptables(backend, family)).ruleset.tables
        )

    def holds_rules(self, backend: str) -> bool:
        return any(
            block.rules
            for family in Family
            for table in self.saved(Iptables(backend, family)).ruleset.tables
            for block in table.blocks
        )


def read_live(facts: Facts) -> Live:
    """Ask the kernel which tables there are, and read those that could hold something of ours; and the routing.

    In a new namespace this runs no child process. Raises LiveStateUnreadable, or BackendUnusable where there are
    tables but no program to read them with.
    """
    error: OSError | None = None
    try:
        nft_tables = netlink.nft_tables()
    except OSError as refused:
        error, nft_tables = refused, {family: frozenset() for family in Family}
    nft = {family: Iptables(NFT, family).save() for family in Family if nft_tables[family] & OUR_TABLES}
    legacy_tables = {family: read_lines(LEGACY_TABLES[family]) for family in Family}
    legacy = {
        family: Iptables(LEGACY, family).save()
        for family, names in legacy_tables.items()
        if OUR_TABLES.intersection(names or ())
    }
    return Live(
        nft,
        legacy,
        nft_tables,
        error,
        netlink.policy_rules(),
        netlink.local_default_routes(),
        facts.passthrough_address,
        facts.lo_has_ipv6,
        legacy_is_known=None not in legacy_tables.values(),
    )


class Choice(Value):
    """The backend that is used, and why."""

    backend: str
    reason: str


def choose_backend(live: Live, forced: str, *, native: bool = False) -> Choice:
    """The backend for this namespace. Decides from what was read; probes nothing.

    Raises BackendUnusable if neither can be used, or not the one that was asked for.
    """
    if forced or native:
        backend = forced or NFT
        asked = "--force-iptables-binary" if forced else "--native-nftables"
        require(live, backend, f"{asked} asks for it")
        return Choice(backend, f"{asked} asks for it")
    for backend in BACKENDS:
        if live.holds_ours(backend):
            return Choice(backend, "the namespace holds our chains there")
    if isinstance(live.nft_error, PermissionError):
        raise not_permitted()
    if live.holds_rules(LEGACY) and not live.holds_rules(NFT) and Iptables(LEGACY, Family.V4).is_installed:
        return Choice(LEGACY, "the namespace holds the rules of others there, and none in nft")
    if live.nft_error is None and Iptables(NFT, Family.V4).is_installed:
        return Choice(NFT, "the kernel has nf_tables")
    require(live, LEGACY, "the only one left")
    if live.nft_error:
        return Choice(LEGACY, f"the kernel has no nf_tables ({live.nft_error.strerror})")
    return Choice(LEGACY, "iptables-nft is not installed")


def require(live: Live, backend: str, reason: str) -> None:
    if isinstance(live.nft_error, PermissionError):
        raise not_permitted()
    if not Iptables(backend, Family.V4).is_installed:
        raise BackendUnusable(
            f"the {backend} backend of iptables is not installed, and {reason}",
            hint=f"install iptables 1.8.7 or later with iptables-{backend}-restore and iptables-{backend}-save",
        )
    if backend == LEGACY and not live.legacy_is_known:
        raise BackendUnusable(
            f"only uid 0 may read {LEGACY_TABLES[Family.V4]}, without which the legacy tables cannot be saved",
            hint="run as root (in a pod, securityContext.runAsUser: 0), or with the nft backend",
        )
    if backend == NFT and live.nft_error:
        raise BackendUnusable(
            f"the kernel has no nf_tables ({live.nft_error.strerror}), and {reason}",
            hint="try `modprobe nf_tables` on the node, or --force-iptables-binary=legacy",
        )


def not_permitted() -> BackendUnusable:
    return BackendUnusable(
        "not permitted to read or change the rules of this network namespace; nothing was touched",
        hint=permission_hint("permission denied"),
    )
