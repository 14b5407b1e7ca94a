"""What this user may do here: capabilities, user namespaces, owners that are mapped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from capture.iptables.diagnosis import unmapped_hint
from capture.iptables.iptables import LEGACY, OUR_TABLES
from capture.kernel.process import LEGACY_TABLES, read_words
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
from capture.preflight.facts import Fact, Here
from capture.preflight.modules import MISSING, OK, UNKNOWN
from capture.settings.declared import DECLARED_BY_NAME
from rules.meaning.spoken import owners_named
from rules.netfilter.values import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.plan.plan import Plan


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
            for found, named in zip((uids, gids), owners_named(rule.matches), strict=True):
                for each in named:
                    found.setdefault(each, rule.setting)
    return uids, gids


def writable_namespace(here: Here) -> Fact:
    """Whether the kernel lets us at the rules of this namespace: it was asked for its tables."""
    area, name = "permissions", "rules of the namespace"
    if isinstance(here.nft_error, PermissionError):
        return Fact(area, name, "not ours to read or write", MISSING, denied_hint(), needed=here.acts)
    return Fact(area, name, "ours to read and write", OK, needed=here.acts)
