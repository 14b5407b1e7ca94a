"""All facts that decide whether a run can work here, each with a verdict. Asks, and changes nothing.

Each function answers for one area, from what `Here` has gathered once. A fact that these settings do not depend on is
told as well, and is marked as not needed. What this user may not see is unknown, and says why.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
from typing import TYPE_CHECKING

from capture import __version__
from capture.apply.transaction import steps
from capture.errors import CaptureError, NamespaceUnusable
from capture.host import place
from capture.host.facts import read_facts, read_text
from capture.host.listening import heard, not_of_the_proxy
from capture.host.live import choose_backend, read_live
from capture.host.neighbours import found_among_others
from capture.iptables.diagnosis import unmapped_hint
from capture.iptables.iptables import (
    BACKENDS,
    LEGACY,
    LEGACY_TABLES,
    LOCK_FILE,
    LOCK_WAIT,
    NFT,
    OUR_TABLES,
    Iptables,
    is_lockable,
)
from capture.kernel import locks, netns
from capture.kernel.conntrack import CLOSE_WAIT, CLOSE_WAIT_FILE
from capture.kernel.process import read_words, run
from capture.kernel.rights import (
    FROM_OUTSIDE,
    NAMES,
    NET_ADMIN,
    NET_RAW,
    SYS_ADMIN,
    denied_hint,
    effective,
    how_to_add,
    legacy_unseen_hint,
)
from capture.kernel.userns import covers, mapped, owner_of_the_namespace, unmapped
from capture.log import TERMINATION_LOG
from capture.netlink import messages, nftables
from capture.preflight import modules, trial
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from capture.settings.declared import DECLARED_BY_NAME
from capture.settings.resolve import nameservers_in, resolve
from rules.live.drift import REFUSED_FOR, REMEDY, Kind, said
from rules.live.meshes import chains_of_other_meshes, native_tables
from rules.live.routing import found_of_others, place_for_ours, theirs
from rules.netfilter.matches import Not, OwnerGid, OwnerUid, OwnerUids
from rules.netfilter.values import FILTER, MANGLE, NAT, OUTPUT, PREROUTING, RAW, Family
from rules.plan.names import RULE_PRIORITY
from rules.plan.plan import NOTHING, Routing, plan
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import ClassVar

    from capture.host.facts import Facts
    from capture.host.live import Choice, Live
    from capture.preflight.modules import Verdict
    from capture.preflight.trial import Rehearsal
    from capture.settings.declared import Settings
    from capture.settings.resolve import Resolved
    from rules.live.drift import Finding
    from rules.plan.plan import Plan

OLDEST_IPTABLES = (1, 8, 7)
IPV6_SWITCHES = {
    "all": "/proc/sys/net/ipv6/conf/all/disable_ipv6",
    "lo": "/proc/sys/net/ipv6/conf/lo/disable_ipv6",
}
TABLE_MODULES = {
    Family.V4: {FILTER: "iptable_filter", NAT: "iptable_nat", MANGLE: "iptable_mangle", RAW: "iptable_raw"},
    Family.V6: {FILTER: "ip6table_filter", NAT: "ip6table_nat", MANGLE: "ip6table_mangle", RAW: "ip6table_raw"},
}
NFT_MSG_GETCHAIN = 10 << 8 | 4
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_TYPE = 1, 3, 4, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
HOOKS = {PREROUTING: 0, OUTPUT: 3}
"""linux/netfilter.h."""
PRIORITIES = {(RAW, PREROUTING): -300, (RAW, OUTPUT): -300, (MANGLE, PREROUTING): -150, (MANGLE, OUTPUT): -150,
              (NAT, PREROUTING): -100, (NAT, OUTPUT): -100, (FILTER, OUTPUT): 0}  # fmt: skip
"""linux/netfilter_ipv4.h: where iptables hooks its tables in."""


class Fact(Value):
    """One thing that was found out, and what it means for a run with these settings."""

    area: str
    """What it is about."""
    name: str
    """What was looked at."""
    value: str
    """What was found."""
    verdict: Verdict
    """ok; warn: a run works, but mind this; missing: it does not; unknown: not to be seen from here."""
    remedy: str = ""
    """What to do if the verdict is not ok."""
    needed: bool = True
    """Whether a run with these settings depends on it."""

    @property
    def prevents(self) -> bool:
        """Whether a run fails for it."""
        return self.needed and self.verdict == MISSING


class Checked(Value):
    """Whether a run with these settings would work here, and every fact that was looked at."""

    facts: tuple[Fact, ...]
    """Every fact, in the order of the table."""

    TOLD: ClassVar = ("works", "facts")

    @property
    def works(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not any(fact.prevents for fact in self.facts)


class Here:
    """What was gathered of this place, once, for all functions that judge it."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, rehearse: bool = True) -> None:
        """Raises BadSettings as a run would."""
        self.settings = settings
        self.environ = environ
        self.not_entered: NamespaceUnusable | None = None
        if settings.network_namespace:
            try:
                netns.enter(settings.network_namespace)
            except NamespaceUnusable as error:
                self.not_entered = error
        self.facts: Facts = read_facts(environ, settings.nameservers_file)
        self.resolved: Resolved = resolve(settings, self.facts)
        self.acts = not settings.dry_run and (settings.cleanup_only or not settings.skip_rule_apply)
        """Whether a run would touch the kernel at all."""
        self.planned: Plan = NOTHING if settings.cleanup_only or not self.acts else plan(self.resolved.intent)
        self.live, self.live_error = self.look()
        self.planned = self.live.beside(self.planned) if self.live else self.planned
        self.choice, self.choice_error = self.choose()
        self.nft_error = self.live.nft_error if self.live else nft_error()
        self.rehearsal: Rehearsal | None = self.rehearsed() if rehearse and not self.not_entered else None

    def look(self) -> tuple[Live | None, Exception | None]:
        """Read what the namespace holds, exactly as a run does; or why that cannot be."""
        try:
            return read_live(), None
        except (CaptureError, OSError) as error:
            return None, error

    def choose(self) -> tuple[Choice | None, CaptureError | None]:
        """Choose the backend, exactly as a run does; or why that cannot be."""
        if not self.live:
            return None, None
        try:
            forced, native = self.settings.force_iptables_binary, self.settings.native_nftables
            return choose_backend(self.live, forced, self.planned, native=native), None
        except CaptureError as error:
            return None, error

    def rehearsed(self) -> Rehearsal | None:
        if not self.choice or not self.has_rules:
            return None
        fallback = None if self.resolved.needs_ipv6 else plan(self.resolved.intent.but(families=(Family.V4,)))
        return trial.rehearse(self.planned, self.choice.backend, without_ipv6=fallback)

    @property
    def backend(self) -> str:
        """The one that a run uses; where that cannot be told, the one that it would prefer."""
        return self.choice.backend if self.choice else self.settings.force_iptables_binary or NFT

    @property
    def has_rules(self) -> bool:
        return any(ruleset.tables for ruleset in self.planned.rulesets)

    def plans(self, family: Family) -> bool:
        """Whether there is anything to put in place in this family."""
        return any(ruleset.tables for ruleset in self.planned.rulesets if ruleset.family is family)

    def must_have(self, family: Family) -> bool:
        """Whether a run fails where the kernel refuses the rules of this family."""
        return self.plans(family) and (family is Family.V4 or self.resolved.needs_ipv6)


def check(settings: Settings, environ: Mapping[str, str], *, rehearse: bool = True) -> list[Fact]:
    """Every fact about this place. Raises BadSettings for settings that a run would refuse."""
    here = Here(settings, environ, rehearse=rehearse)
    return [fact for area in AREAS for fact in area(here)]


# --- the machine --------------------------------------------------------------------------------------------


def machine(_: Here) -> Iterator[Fact]:
    """The kernel and the Python that this runs on."""
    area = "machine"
    yield Fact(area, "kernel", f"{platform.system()} {platform.release()} {platform.machine()}", OK)
    yield Fact(area, "Python", f"{platform.python_version()}, {sys.executable}", OK)
    yield Fact(area, "capture", __version__, OK)
    for path in ("/", "/run"):
        yield Fact(area, path, "read-only" if is_read_only(path) else "writable", OK, needed=False)


def is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


# --- programs -----------------------------------------------------------------------------------------------


def programs(here: Here) -> Iterator[Fact]:
    """iptables-restore and iptables-save, of both backends and families, with their versions."""
    for backend in BACKENDS:
        for family in Family:
            tool = Iptables(backend, family)
            written = backend == here.backend and (here.plans(family) or family is Family.V4)
            read = bool(here.live and family in (here.live.nft if backend == NFT else here.live.legacy))
            needed = here.acts and (written or read)
            found = {verb: tool.path(verb) for verb in ("restore", "save")}
            missing = [f"{tool}-{verb}" for verb, path in found.items() if not path]
            if missing:
                remedy = f"install iptables 1.8.7 or later with {' and '.join(missing)}"
                yield Fact("programs", str(tool), f"{', '.join(missing)} not found", MISSING, remedy, needed)
                continue
            verdict, version, remedy = version_of(str(found["restore"]), backend)
            where = ", ".join(str(path) for path in found.values())
            yield Fact("programs", str(tool), f"{version}: {where}", verdict, remedy, needed)


def version_of(program: str, backend: str) -> tuple[Verdict, str, str]:
    """The verdict on an iptables program, its version, and a remedy. `--version` looks at nothing."""
    try:
        done = run(program, "--version")
    except OSError as error:
        return MISSING, f"cannot be run ({error.strerror})", f"reinstall iptables: {program} is no program"
    words = done.stdout.split()
    text = next((word[1:] for word in words if word[:1] == "v" and word[1:2].isdigit()), "")
    numbers = tuple(int(part) for part in text.split(".") if part.isdigit())
    if not numbers:
        return UNKNOWN, "version not known", f"see what `{program} --version` says"
    if numbers < OLDEST_IPTABLES:
        return WARN, text, f"iptables {'.'.join(map(str, OLDEST_IPTABLES))} is the oldest that was tried"
    named = "nf_tables" if backend == NFT else "legacy"
    if f"({named})" not in words:
        return MISSING, f"{text}, not {named}", f"{program} is of the other backend: reinstall iptables"
    return OK, text, ""


# --- permissions --------------------------------------------------------------------------------------------


def permissions(here: Here) -> Iterator[Fact]:
    """Who we are, and what we may do here."""
    area = "permissions"
    # A run reads what legacy tables there are, whichever backend it writes to.
    there = {name for path in LEGACY_TABLES.values() for name in read_words(path) or ()}
    legacy = here.acts and (here.backend == LEGACY or bool(there & OUR_TABLES))
    yield uid(here)
    for number, needed in (
        (NET_ADMIN, here.acts),
        (NET_RAW, legacy),
        (SYS_ADMIN, bool(here.settings.network_namespace)),
    ):
        name, is_effective = NAMES[number], effective(number)
        if is_effective is None:
            yield Fact(area, name, "/proc/self/status cannot be read", UNKNOWN, "mount /proc", needed)
        elif is_effective:
            yield Fact(area, name, "effective", OK, needed=needed)
        else:
            yield Fact(area, name, "not effective", MISSING, how_to_add(name[4:]), needed)
    if not here.not_entered:
        yield from user_namespace(here)
        yield writable_namespace(here)


def uid(here: Here) -> Fact:
    """Who we are, which matters to the legacy backend alone."""
    area, name, needed = "permissions", "uid", here.acts and here.backend == LEGACY
    if all(read_words(path) is not None for path in LEGACY_TABLES.values()):
        return Fact(area, name, str(os.geteuid()), OK, needed=needed)
    value = f"{os.geteuid()}: only uid 0 may read {LEGACY_TABLES[Family.V4]}"
    return Fact(area, name, value, MISSING, legacy_unseen_hint(), needed)


def user_namespace(here: Here) -> Iterator[Fact]:
    """Whether ours owns the network namespace, and knows the users that the rules ask for."""
    area = "permissions"
    asked_uids, asked_gids = owners(here.planned)
    uids = mapped("/proc/self/uid_map")
    value = "all ids" if covers(uids, 0, (1 << 32) - 2) else ", ".join(f"{a}-{b}" for a, b in uids) or "none"
    unknown = unmapped(list(asked_uids), list(asked_gids))
    if unknown:
        settings = [
            (asked_uids if kind == "uid" else asked_gids)[int(number)] for kind, number in map(str.split, unknown)
        ]
        flags = " or ".join(DECLARED_BY_NAME[name].shown for name in dict.fromkeys(settings) if name)
        yield Fact(
            area,
            "user namespace",
            f"maps uids {value}, but not {', '.join(unknown)}",
            MISSING,
            unmapped_hint(unknown, flags),
        )
    else:
        yield Fact(area, "user namespace", f"maps {value}", OK)
    owner = owner_of_the_namespace()
    if owner is None:
        yield Fact(area, "owner of the namespace", "cannot be seen", UNKNOWN, "it is shown to those who may enter it")
    elif owner:
        yield Fact(area, "owner of the namespace", "our user namespace", OK)
    else:
        yield Fact(
            area,
            "owner of the namespace",
            "another user namespace",
            MISSING,
            FROM_OUTSIDE,
            needed=bool(asked_uids or asked_gids),
        )


def owners(planned: Plan) -> tuple[dict[int, str], dict[int, str]]:
    """The uids and gids that the rules ask for, each with the setting that it is of."""
    uids: dict[int, str] = {}
    gids: dict[int, str] = {}
    for ruleset in planned.rulesets:
        for _, _, rule in ruleset.rules():
            for match in rule.matches:
                match match.match if isinstance(match, Not) else match:
                    case OwnerUid(uid):
                        uids.setdefault(uid, rule.setting)
                    case OwnerUids(first, last):
                        uids.setdefault(first, rule.setting)
                        uids.setdefault(last, rule.setting)
                    case OwnerGid(gid):
                        gids.setdefault(gid, rule.setting)
                    case _:
                        pass
    return uids, gids


def writable_namespace(here: Here) -> Fact:
    """Whether the kernel lets us at the rules of this namespace: it was asked for its tables."""
    area, name = "permissions", "rules of the namespace"
    if isinstance(here.nft_error, PermissionError):
        return Fact(
            area,
            name,
            "not ours to read or write",
            MISSING,
            denied_hint(),
            needed=here.acts,
        )
    return Fact(area, name, "ours to read and write", OK, needed=here.acts)


def nft_error() -> OSError | None:
    try:
        nftables.nft_tables()
    except OSError as error:
        return error
    return None


# --- the namespace ------------------------------------------------------------------------------------------


def namespace(here: Here) -> Iterator[Fact]:
    """Which network namespace it is, whose, and who else is at work in it."""
    area = "namespace"
    named = here.settings.network_namespace
    if here.not_entered:
        yield Fact(area, "--network-namespace", here.not_entered.what, MISSING, here.not_entered.hint)
        return
    if named:
        yield Fact(area, "--network-namespace", f"{netns.path_of(named)} was entered", OK)
    yield from lo(here)
    if here.live:
        signs = place.signs_of_a_node(here.live.chains(), here.live.table_names())
        refused = bool(signs) and here.planned is not NOTHING and not here.settings.allow_host
        remedy = "a pod with hostNetwork: true must not run this; --allow-host does it all the same" if signs else ""
        verdict = MISSING if refused else WARN if signs else OK
        yield Fact(area, "Kubernetes node", listed(signs) or "no sign of one", verdict, remedy)
        yield from others(here, here.live)
    else:
        yield Fact(area, "Kubernetes node", "not known without the rules", UNKNOWN, "see what the namespace holds")
    as_proxy = list(taken_for_the_proxy(here))
    remedy = "run it as another user and group: it is taken for the proxy and never captured" if as_proxy else ""
    yield Fact(area, "processes as the proxy", ", ".join(as_proxy) or "none", WARN if as_proxy else OK, remedy)
    ports = [f"{port} ({how})" for port, how in here.facts.ssh_ports]
    found = {port for port, _ in here.facts.ssh_ports}
    kept = here.planned.intent.ssh_ports if here.planned.intent else ()
    ports += [f"{each} (a former run left it alone)" for each in kept if each.first not in found]
    left = bool(ports) and bool(here.resolved.intent.inbound_ports) and not here.settings.capture_ssh
    remedy = "--capture-ssh captures it all the same" if left else ""
    yield Fact(area, "SSH ports", ", ".join(ports) or "none", WARN if left else OK, remedy)
    yield another_run()


def taken_for_the_proxy(here: Here) -> Iterator[str]:
    """The processes that run as the proxy's user or group and are not of it."""
    intent, processes = here.resolved.intent, here.facts.processes
    by_uid = [each for each in processes if each.uid and each.uid in intent.proxy_uid]
    by_gid = [each for each in processes if each.gid and each.gid in intent.proxy_gid and each not in by_uid]
    for each in not_of_the_proxy(by_uid + by_gid, processes, (intent.proxy_port, intent.inbound_capture_port)):
        who = f"uid {each.uid}" if each in by_uid else f"gid {each.gid}"
        yield f"pid {each.pid} ({each.name}, {who})"


def proxy(here: Here) -> Iterator[Fact]:
    """Who listens where the rules will send things. That nobody does yet is no fault: the proxy comes later."""
    if here.not_entered or here.planned is NOTHING:
        return
    found = heard(here.planned.rulesets, here.facts)
    if found.unseen:
        yield Fact("proxy", "listeners", found.unseen, UNKNOWN, "allow AF_NETLINK sockets", needed=False)
    for each in found.proxy:
        what, _, who = str(each).partition(": ")
        yield Fact("proxy", what, who, WARN if each.problems else OK, "; ".join(each.problems))
    for loop in found.resolvers:
        who, _, remedy = loop.rpartition("; ")
        yield Fact("proxy", "DNS servers", who, WARN, remedy)


def lo(here: Here) -> Iterator[Fact]:
    up = trial.lo_is_up()
    if up is None:
        yield Fact("namespace", "lo", "cannot be asked", UNKNOWN, "see `ip link show lo`")
    elif up:
        yield Fact("namespace", "lo", "up", OK)
    else:
        # Of the two families only IPv6 refuses a local route while lo is down.
        fails = any(routing.family is Family.V6 for routing in here.planned.routing)
        remedy = "`ip link set lo up`: " + (
            "the IPv6 route of TPROXY needs it" if fails else "captured traffic needs it"
        )
        yield Fact("namespace", "lo", "down", MISSING if fails else WARN, remedy)


def others(here: Here, live: Live) -> Iterator[Fact]:
    """Chains of other captures, and rules in both backends."""
    found: dict[str, list[str]] = {}
    for saved in (*live.nft.values(), *live.legacy.values()):
        for mesh, _, chain in chains_of_other_meshes(saved.ruleset):
            found.setdefault(mesh, []).append(chain)
    refused = here.planned is not NOTHING and not here.settings.take_over
    for mesh, chains in found.items():
        remedy = "--take-over removes them in the commit that brings ours; or keep that mesh out of this pod"
        yield Fact("namespace", f"chains of {mesh}", listed(chains), MISSING if refused else WARN, remedy)
    native = native_tables(live.table_names())
    if native:
        remedy = "remove them with that mesh's tool, or with `nft delete table`; --take-over does not"
        yield Fact("namespace", "tables of another mesh", listed(native), MISSING, remedy)
    if live.holds_rules(NFT) and live.holds_rules(LEGACY):
        remedy = "both act on traffic: keep rules in one of them"
        yield Fact("namespace", "backends that hold rules", "nft and legacy", WARN, remedy)
    for each in found_among_others(live, here.planned.rulesets, here.planned.routing, here.backend):
        yield Fact("namespace", each.kind.value, f"{each.place}: {said(each)}", WARN, each.rerun)


def listed(found: list[str]) -> str:
    """The first few, and how many more."""
    found = list(dict.fromkeys(found))
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def another_run() -> Fact:
    try:
        holders = locks.runs_at_work()
    except (CaptureError, OSError) as error:
        return Fact("namespace", "other runs", f"not known: {error}", UNKNOWN, "mount /proc")
    value = f"one is at work: {locks.in_words(holders)}" if holders else "none at work"
    remedy = f"a run waits for it, up to {locks.LONGEST_WAIT} s" if holders else ""
    return Fact("namespace", "other runs", value, WARN if holders else OK, remedy)


# --- the backend --------------------------------------------------------------------------------------------


def backends(here: Here) -> Iterator[Fact]:
    """What each backend has and holds, and which of them a run would use."""
    area = "backend"
    if here.not_entered:
        return
    yield nf_tables(here)
    yield from legacy_tables(here)
    if here.live_error:
        what, hint = told(here.live_error)
        yield Fact(area, "what the namespace holds", what, MISSING, hint or "see what the kernel says", here.acts)
        yield Fact(area, "backend", "not known without it", UNKNOWN, "make the rules readable", here.acts)
        return
    if here.live:
        for backend in BACKENDS:
            yield held_in(here, here.live, backend)
    if here.choice:
        yield Fact(area, "backend", f"{here.choice.backend}: {here.choice.reason}", OK, needed=here.acts)
    elif isinstance(here.nft_error, PermissionError):
        yield Fact(area, "backend", "not known, for the rules are not ours to read", UNKNOWN, denied_hint(), here.acts)
    elif here.choice_error:
        what, hint = told(here.choice_error)
        yield Fact(area, "backend", what, MISSING, hint, here.acts)
    yield from lock(here)


def told(error: Exception) -> tuple[str, str]:
    """An error's sentence with its details, and its hint."""
    if not isinstance(error, CaptureError):
        return str(error), ""
    details = "; ".join(f"{label}: {text}" for label, text in error.details)
    return error.what + (f" ({details})" if details else ""), error.hint


def nf_tables(here: Here) -> Fact:
    name = "nf_tables"
    needed = here.acts and here.backend == NFT
    error = here.nft_error
    if error is None:
        return Fact("backend", name, "in the kernel", OK, needed=needed)
    if isinstance(error, PermissionError):
        return Fact("backend", name, "not shown: permission denied", UNKNOWN, denied_hint(), needed)
    remedy = f"`modprobe nf_tables` on the node{Iptables(NFT, Family.V4).or_the_other}"
    return Fact("backend", name, f"not in the kernel ({error.strerror})", MISSING, remedy, needed)


def legacy_tables(here: Here) -> Iterator[Fact]:
    """The tables of the legacy backend, by family: those in use, and whether the others can be made."""
    for family in Family:
        wanted = [
            table.table for ruleset in here.planned.rulesets if ruleset.family is family for table in ruleset.tables
        ]
        needed = here.acts and here.backend == LEGACY and here.must_have(family)
        names = read_words(LEGACY_TABLES[family])
        proved = bool(here.rehearsal and here.backend == LEGACY and family in here.rehearsal.families)
        verdicts: list[tuple[Verdict, str, str]] = []
        for table in wanted or [NAT]:
            module = TABLE_MODULES[family][table]
            symbol = f"IP{'6' if family is Family.V6 else ''}_NF_{table.upper()}"
            if table in (names or ()) or proved:
                verdicts.append((OK, f"{table} works" if proved else f"{table} is in use", ""))
            else:
                verdict, why = modules.of_module((module,), (symbol,))
                instead = Iptables(LEGACY, family).or_the_other if here.nft_error is None else ""
                remedy = f"`modprobe {module}` on the node{instead}"
                verdicts.append((verdict, f"{table}: {why}", remedy))
        verdict = worst([each[0] for each in verdicts])
        remedy = next((each[2] for each in verdicts if each[0] == verdict and verdict != OK), "")
        value = "; ".join(dict.fromkeys(each[1] for each in verdicts))
        if names is None:
            value += "; which are in use, only uid 0 may see"
        yield Fact("backend", f"legacy {family.value} tables", value, verdict, remedy, needed)


def worst(verdicts: list[Verdict]) -> Verdict:
    return max(verdicts, key=(OK, WARN, UNKNOWN, MISSING).index, default=OK)


def held_in(here: Here, live: Live, backend: str) -> Fact:
    """What of ours and of others a backend holds."""
    name = f"held in {backend}"
    if backend == LEGACY and not live.legacy_is_known:
        return Fact(
            "backend", name, "only uid 0 may see the legacy tables", UNKNOWN, "run as root to see", needed=False
        )
    if backend == NFT and isinstance(live.nft_error, PermissionError):
        return Fact("backend", name, "not shown: permission denied", UNKNOWN, denied_hint(), needed=False)
    if live.holds_ours(backend):
        if here.choice and here.planned is not NOTHING:
            left = list(steps(live, here.planned, here.choice.backend))
            value = "ours, and a run would change it" if left else "ours, as planned: a run changes nothing"
            return Fact("backend", name, value, OK, needed=False)
        return Fact("backend", name, "ours", OK, needed=False)
    return Fact("backend", name, "rules of others" if live.holds_rules(backend) else "no rules", OK, needed=False)


def lock(here: Here) -> Iterator[Fact]:
    """The lock that legacy iptables takes, one for the whole host; a run does without it where it cannot be opened."""
    chosen = here.environ.get("XTABLES_LOCKFILE", "")
    path = chosen or LOCK_FILE
    needed = here.acts and here.backend == LEGACY
    name = "lock of iptables"
    if chosen and netns.is_our_lock(chosen):
        yield Fact("backend", name, f"{path} is the namespace itself, which a run locks anyway", OK, needed=needed)
        return
    if not is_lockable(path):
        if chosen:
            remedy = "XTABLES_LOCKFILE must name a file that can be opened or made; or unset it"
            yield Fact("backend", name, f"{path} (XTABLES_LOCKFILE) cannot be opened", MISSING, remedy, needed)
        else:
            yield Fact("backend", name, f"{path} cannot be opened; a run uses one of its own", OK, needed=needed)
        return
    holders = locks.holders_of(path)
    if any(holder is None or holder.is_privileged for holder in holders):
        remedy = f"a run waits for it, up to {LOCK_WAIT} s for each family, and then fails"
        yield Fact("backend", name, f"{path} is held by {locks.in_words(holders)}", WARN, remedy, needed)
    elif holders:
        value = f"{path} is held by {locks.in_words(holders)}, who may not change rules: a run passes it by"
        yield Fact("backend", name, value, OK, needed=needed)
    else:
        yield Fact("backend", name, f"{path} can be opened, and nobody holds it", OK, needed=needed)


# --- rules --------------------------------------------------------------------------------------------------


def rules(here: Here) -> Iterator[Fact]:
    """Whether the kernel takes the rules that are planned: by trying them, else by what is known of it."""
    area = "rules"
    if not here.acts or here.not_entered:
        return
    if here.has_rules:
        yield rehearsed(here)
        yield from blocked_chains(here)
    needed = modules.extensions(here.planned)
    for extension in (*modules.all_extensions(Family.V4),):
        pairs = [(e, rule) for e, rule in needed.items() if (e.kind, e.name) == (extension.kind, extension.name)]
        name = f"{extension.name} {extension.kind}"
        if not pairs:
            verdict, why = modules.of_extension(extension)
            yield Fact(area, name, why, verdict, "" if verdict == OK else "not needed", needed=False)
            continue
        judged = [(e, *judge(here, e)) for e, _ in pairs]
        verdict = worst([each[1] for each in judged])
        reasons = dict.fromkeys(why for _, each, why in judged if each == verdict)
        shown = f"{'; '.join(reasons)} ({', '.join(e.family.value for e, _ in pairs)})"
        remedy = ""
        if verdict != OK:
            aliases = " ".join(f"{modules.PREFIX[e.family]}_{e.name}" for e, each, _ in judged if each == verdict)
            remedy = f"`modprobe {aliases}` on the node; needed for: {pairs[0][1].why}"
        yield Fact(area, name, shown, verdict, remedy, any(here.must_have(e.family) for e, _ in pairs))


def judge(here: Here, extension: modules.Extension) -> tuple[Verdict, str]:
    if here.rehearsal and extension.family in here.rehearsal.families:
        return OK, "proved by the rehearsal"
    return modules.of_extension(extension)


def rehearsed(here: Here) -> Fact:
    area, name = "rules", "rehearsal"
    done = here.rehearsal
    if done is None:
        why = "not asked for" if here.choice else "not tried: the backend is not known"
        remedy = "leave out --no-rehearsal" if here.choice else "see the backend"
        return Fact(area, name, why, UNKNOWN, remedy)
    if done.outcome == trial.NOT_TRIED:
        remedy = "run `capture check` with CAP_SYS_ADMIN on this node to prove that the kernel takes the rules"
        return Fact(area, name, f"not tried: {done.why}", UNKNOWN, remedy)
    if done.outcome == trial.REFUSED:
        return Fact(area, name, done.why, MISSING, done.hint or "see what the kernel lacks")
    families = " and ".join(family.value for family in done.families)
    value = f"the {families} rules work in a namespace of their own, with {here.backend}"
    if done.ipv6_refused:
        return Fact(area, name, f"{value}; IPv6: {done.ipv6_refused}", WARN, "a run leaves IPv6 out, with a warning")
    return Fact(area, name, value, OK)


def blocked_chains(here: Here) -> Iterator[Fact]:
    """Chains of nf_tables with the names of built-in ones that are something else: iptables-nft cannot use them."""
    if here.backend != NFT or here.nft_error:
        return
    try:
        chains = list(messages.dump(messages.NETLINK_NETFILTER, NFT_MSG_GETCHAIN, bytes(4)))
    except OSError as error:
        remedy = "see `nft list chains`"
        yield Fact("rules", "built-in chains", f"cannot be read: {error.strerror}", UNKNOWN, remedy)
        return
    in_the_way = []
    for message in chains:
        family = messages.FAMILIES.get(message[0])
        read = messages.attributes(message[4:])
        table, chain = (messages.text(read.get(key, b"")) for key in (NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME))
        if family and hooked(here.planned, family, table, chain) and not is_built_in(read, table, chain):
            in_the_way.append((family, f"{'ip' if family is Family.V4 else 'ip6'} {table} {chain}"))
    shown = ", ".join(name for _, name in in_the_way)
    if not shown:
        yield Fact("rules", "built-in chains", "free for iptables-nft", OK)
        return
    prevents = any(here.must_have(family) for family, _ in in_the_way)
    remedy = "another program made a chain of that name with nft; `nft list ruleset` shows it: remove or rename it"
    value = f"of another type, hook or priority than that of iptables: {shown}"
    yield Fact("rules", "built-in chains", value, MISSING if prevents else WARN, remedy)


def hooked(planned: Plan, family: Family, table: str, chain: str) -> bool:
    """Whether the plan has rules in this built-in chain."""
    return any(
        block.chain == chain and held.is_built_in(chain)
        for ruleset in planned.rulesets
        if ruleset.family is family
        for held in ruleset.tables
        if held.table == table
        for block in held.blocks
        if block.rules
    )


def is_built_in(read: dict[int, bytes], table: str, chain: str) -> bool:
    """Whether a chain of nf_tables is the one that iptables-nft would make."""
    kind = messages.text(read.get(NFTA_CHAIN_TYPE, b""))
    hook = messages.attributes(read.get(NFTA_CHAIN_HOOK, b""))
    if NFTA_HOOK_HOOKNUM not in hook or NFTA_HOOK_PRIORITY not in hook:
        return False
    number = int.from_bytes(hook[NFTA_HOOK_HOOKNUM], "big")
    (priority,) = struct.unpack("!i", hook[NFTA_HOOK_PRIORITY])
    wanted = "nat" if table == NAT else "route" if (table, chain) == (MANGLE, OUTPUT) else "filter"
    return (kind, number, priority) == (wanted, HOOKS.get(chain), PRIORITIES.get((table, chain)))


# --- addresses and routing ----------------------------------------------------------------------------------


def addresses(here: Here) -> Iterator[Fact]:
    """Which addresses there are, which families would be captured, and what stands in the way of IPv6."""
    area = "addresses"
    if here.not_entered:
        return
    if here.facts.addresses is None:
        yield Fact(area, "addresses", "the kernel does not tell", UNKNOWN, "allow AF_NETLINK sockets")
    else:
        usable = ", ".join(map(str, here.facts.usable()))
        remedy = "" if usable else "both families are captured meanwhile; --ipv6=off or on decides it"
        yield Fact(area, "addresses", usable or "none that others could reach", OK if usable else WARN, remedy)
    captured = here.resolved.intent.families
    bypassing = (
        here.facts.usable(Family.V6) and Family.V6 not in captured and here.settings.ipv6 not in ("off", "reject")
    )
    ways = "--ipv6=auto captures it, --ipv6=reject" if here.facts.lo_has_ipv6 else "--ipv6=reject"
    remedy = f"IPv6 bypasses the proxy: {ways} refuses what is sent" if bypassing else ""
    shown = " and ".join(family.value for family in captured)
    if here.resolved.intent.ipv6 == "reject":
        shown += "; IPv6 is refused"
    yield Fact(area, "captured families", shown, WARN if bypassing else OK, remedy)
    yield from ipv6(here)


def ipv6(here: Here) -> Iterator[Fact]:
    area, name = "addresses", "IPv6"
    wanted = here.planned.passthrough_address
    if not here.facts.has_ipv6:
        remedy = "the kernel has no IPv6 (booted with ipv6.disable=1?); --ipv6=off" if wanted else ""
        yield Fact(area, name, "not in the kernel", MISSING if wanted else OK, remedy, wanted)
        return
    off = [f"{path} is 1" for path in IPV6_SWITCHES.values() if read_words(path) == ["1"]]
    lacks = not here.facts.lo_has_ipv6 and bool(here.facts.usable(Family.V6))
    remedy = f"what is captured goes over lo: set {IPV6_SWITCHES['lo']} to 0 to have IPv6 captured" if lacks else ""
    yield Fact(area, name, ", ".join(off) or "enabled", WARN if lacks else OK, remedy, needed=wanted or lacks)


def routing(here: Here) -> Iterator[Fact]:
    """Whether the routing table and the mark that TPROXY needs are free, or ours, and its ip rule is asked first."""
    if here.not_entered or here.live is None:
        return
    intent, live = here.resolved.intent, here.live
    table, mark = intent.tproxy_route_table, intent.tproxy_mark
    needed = bool(here.planned.routing)
    planned = here.planned.routing or (Routing(Family.V4, mark, table),)
    found = [each for wanted in planned for each in found_of_others(live.policy_rules, live.routes, wanted)]
    routes = [
        each for each in found if each.kind in (Kind.ROUTE_TAKES_ALL, Kind.ROUTE_TAKES_SOME, Kind.ROUTE_BEHIND_OURS)
    ]
    marks = [each for each in found if each.kind is Kind.MARK_SHARED]
    rules = [each for each in found if each.kind in (Kind.IP_RULE_BEFORE_OURS, Kind.IP_RULE_AT_ZERO)]
    yield of_others(f"table {table}", routes, "free, or ours", needed=needed)
    yield of_others(f"mark {mark:#x}", marks, "no ip rule of others asks for it", needed=needed)
    places = []
    for wanted in planned:
        place = place_for_ours(live.policy_rules, wanted)
        passed = [
            str(rule)
            for rule in theirs(live.policy_rules, wanted)
            if place is not None and rule.priority <= RULE_PRIORITY
        ]
        if passed:
            places.append(f"ours is asked before {listed(passed)} ({wanted.family.value})")
    yield of_others("ip rules of others", rules, "; ".join(places) or "none is asked before ours", needed=needed)


def of_others(name: str, found: list[Finding], free: str, *, needed: bool) -> Fact:
    """What of others is in the way of our routing, as a fact."""
    if not found:
        return Fact("routing", name, free, OK, needed=needed)
    is_refused = any(each.kind in REFUSED_FOR for each in found)
    remedies = dict.fromkeys(REMEDY.get(each.kind, each.rerun) for each in found)
    return Fact(
        "routing",
        name,
        listed([said(each) for each in found]),
        MISSING if is_refused else WARN,
        "; ".join(remedies),
        needed,
    )


# --- what else a run touches ----------------------------------------------------------------------------------


def conntrack(here: Here) -> Iterator[Fact]:
    """The sysctl that --close-wait-timeout sets; a run that cannot is a warning, no failure."""
    path = CLOSE_WAIT_FILE
    needed = here.acts and here.settings.close_wait_timeout is not None
    value = next(iter(read_words(path) or []), "")
    if value:
        writable = os.access(path, os.W_OK)
        verdict = OK if writable or not needed else WARN
        remedy = f"make {path} writable, or set it on the node" if verdict == WARN else ""
        shown = f"{CLOSE_WAIT} is {value} s, {'writable' if writable else 'not writable'}"
        yield Fact("conntrack", "close_wait timeout", shown, verdict, remedy, needed)
    else:
        remedy = "the module nf_conntrack makes it; if it is still missing after the rules: `modprobe nf_conntrack`"
        yield Fact("conntrack", "close_wait timeout", f"{path} cannot be read", UNKNOWN, remedy, needed)


def logging(here: Here) -> Iterator[Fact]:
    """Whether what --log-connections log writes is seen anywhere."""
    needed = here.acts and here.settings.log_connections == "log"
    if here.facts.kernel_logs:
        yield Fact("logging", "kernel log", "LOG writes to it from here", OK, needed=needed)
    else:
        value = "not written from a pod's namespace, unless net.netfilter.nf_log_all_netns is 1 on the node"
        remedy = "--log-connections nflog, which needs no such setting" if needed else ""
        yield Fact("logging", "kernel log", value, WARN if needed else OK, remedy, needed)


def dns(here: Here) -> Iterator[Fact]:
    """The nameservers whose queries are captured."""
    said = here.settings
    path = said.nameservers_file or said.resolv_conf or netns.resolv_conf(said.network_namespace)
    needed = said.redirect_dns
    if said.redirect_dns and said.capture_all_dns:
        yield Fact("DNS", "nameservers", "all are captured", OK)
        return
    text = here.facts.resolv_conf if said.nameservers_file else read_text(path)[0]
    found = ", ".join(str(network.network_address) for network in nameservers_in(text or "")[0])
    if found:
        yield Fact("DNS", "nameservers", f"{found} ({path})", OK, needed=needed)
    else:
        remedy = "DNS is not captured without one; --capture-all-dns captures all" if needed else ""
        yield Fact("DNS", "nameservers", f"none in {path}", WARN if needed else OK, remedy, needed)


def validation(here: Here) -> Iterator[Fact]:
    """--run-validation proves more than can be told before it runs."""
    if here.settings.run_validation and not here.settings.dry_run and not here.settings.cleanup_only:
        value = "real connections will tell, once the rules are in place"
        yield Fact("validation", "--run-validation", value, UNKNOWN, "run it as root, or as the proxy's uid")


def kubernetes(here: Here) -> Iterator[Fact]:
    """Whether this is a container of a pod, and where a failure would be shown."""
    service = here.environ.get(place.IN_KUBERNETES, "")
    value = f"{place.IN_KUBERNETES}={service}" if service else f"{place.IN_KUBERNETES} is not set"
    yield Fact("Kubernetes", "container of a pod", value, OK, needed=False)
    if not os.path.isfile(TERMINATION_LOG):
        yield Fact("Kubernetes", TERMINATION_LOG, "is not there: nothing is written to it", OK, needed=False)
    elif os.access(TERMINATION_LOG, os.W_OK):
        yield Fact("Kubernetes", TERMINATION_LOG, "writable: a failure is written to it", OK, needed=False)
    else:
        remedy = "the reason of a failure is in the log only"
        yield Fact("Kubernetes", TERMINATION_LOG, "not writable", WARN, remedy, needed=False)


AREAS = (
    machine,
    programs,
    permissions,
    namespace,
    proxy,
    backends,
    rules,
    addresses,
    routing,
    conntrack,
    logging,
    dns,
    validation,
    kubernetes,
)
