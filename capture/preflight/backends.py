"""Which backend of iptables a run would use, and what keeps it from the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.apply.transaction import steps
from capture.errors import CaptureError
from capture.iptables.iptables import BACKENDS, LEGACY, LOCK_FILE, LOCK_WAIT, NATIVE, NFT, Iptables, is_lockable
from capture.kernel import locks, netns
from capture.kernel.process import LEGACY_TABLES, read_words
from capture.kernel.rights import denied_hint
from capture.preflight import modules
from capture.preflight.facts import Fact, Here, worst
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from rules.netfilter.values import FILTER, MANGLE, NAT, RAW, Family
from rules.plan.plan import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.host.live import Live
    from capture.preflight.modules import Verdict


TABLE_MODULES = {
    Family.V4: {FILTER: "iptable_filter", NAT: "iptable_nat", MANGLE: "iptable_mangle", RAW: "iptable_raw"},
    Family.V6: {FILTER: "ip6table_filter", NAT: "ip6table_nat", MANGLE: "ip6table_mangle", RAW: "ip6table_raw"},
}


def backends(here: Here) -> Iterator[Fact]:
    """What each backend has and holds, and which of them a run would use."""
    area = "backend"
    if here.not_entered:
        return
    yield nf_tables(here)
    yield from legacy_tables(here)
    if here.live_error:
        what, hint = words_of(here.live_error)
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
        what, hint = words_of(here.choice_error)
        yield Fact(area, "backend", what, MISSING, hint, here.acts)
    yield from lock(here)


def words_of(error: Exception) -> tuple[str, str]:
    """An error's sentence with its details, and its hint."""
    if not isinstance(error, CaptureError):
        return str(error), ""
    details = "; ".join(f"{label}: {text}" for label, text in error.details)
    return error.what + (f" ({details})" if details else ""), error.hint


def nf_tables(here: Here) -> Fact:
    name = "nf_tables"
    needed = here.acts and here.backend in (NFT, NATIVE)
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


def held_in(here: Here, live: Live, backend: str) -> Fact:
    """What of ours and of others a backend holds."""
    name = f"held in {backend}"
    if backend == LEGACY and not live.legacy_is_known:
        return Fact(
            "backend", name, "only uid 0 may see the legacy tables", UNKNOWN, "run as root to see", needed=False
        )
    if backend != LEGACY and isinstance(live.nft_error, PermissionError):
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
