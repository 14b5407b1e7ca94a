"""Advice on permissions: what is asked for is what is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from capture.iptables import diagnosis
from capture.kernel import rights, userns
from capture.netlink import nftables

if TYPE_CHECKING:
    from collections.abc import Callable

ALL, NONE, ADMIN = "000001ffffffffff", "0000000000000000", "0000000000001000"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this process look as told."""

    def look(
        capabilities: str, *, seccomp: str = "0", label: str = "unconfined\n", uid: int = 0, owner: bool = True
    ) -> None:
        files = {rights.STATUS: f"CapEff:\t{capabilities}\nSeccomp:\t{seccomp}\n", rights.LABEL: label}
        monkeypatch.setattr(rights, "read_text", lambda path: files[path])
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(userns, "owner_of_the_namespace", lambda: owner)

    return look


def test_a_capability_that_is_missing_is_asked_for(here: Callable[..., None]) -> None:
    """To run as root is advice for those who are not."""
    here(NONE)
    assert "takes CAP_NET_ADMIN" in rights.denied_hint()
    assert "run as root" not in rights.denied_hint()
    here(NONE, uid=1000)
    assert "on a host, run as root" in rights.denied_hint()


@pytest.mark.parametrize(
    ("seccomp", "label", "at_work"),
    [
        ("2", "unconfined\n", "a seccomp filter"),
        ("0", "docker-default (enforce)\n", "the AppArmor profile docker-default (enforce)"),
        ("0", "system_u:system_r:container_t:s0:c1,c2\0", "SELinux, as system_u:system_r:container_t:s0:c1,c2"),
        ("2", "a (enforce)", "a seccomp filter, the AppArmor profile a (enforce)"),
        ("0", "", ""),
    ],
)
def test_where_it_is_effective_others_forbid_it(
    here: Callable[..., None], seccomp: str, label: str, at_work: str
) -> None:
    """All three are named, and those that are seen at work; the capability is not asked for again."""
    here(ADMIN, seccomp=seccomp, label=label)
    hint = rights.denied_hint()
    assert hint.startswith("CAP_NET_ADMIN is effective, so it is SELinux, AppArmor or a seccomp filter that forbids it")
    assert f"at work here: {at_work}." in hint if at_work else "at work" not in hint
    assert "capabilities.add" not in hint


def test_in_another_user_namespace_it_is_of_no_use(here: Callable[..., None]) -> None:
    """The way in is told."""
    here(ALL, owner=False)
    assert "another user namespace owns the network namespace: run in" in rights.denied_hint()


NO_TABLE = "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'"


@pytest.mark.parametrize(
    ("capabilities", "has_nft", "said", "not_said"),
    [
        (ADMIN, True, "takes CAP_NET_RAW besides", "modprobe"),
        (ALL, True, "has no such table: `modprobe iptable_nat", "CAP_NET_RAW"),
        (
            ALL,
            False,
            "neither nf_tables (Protocol not supported) nor the legacy tables",
            "the nft backend does without",
        ),
        (ADMIN, False, "takes CAP_NET_RAW besides", "the nft backend does without"),
    ],
)
def test_what_iptables_legacy_says_of_every_cause_is_told_apart(
    here: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capabilities: str,
    has_nft: bool,
    said: str,
    not_said: str,
) -> None:
    """A capability, a module, or a kernel in which no backend works; the nft backend is advice where there is one."""

    def asked() -> tuple[dict[object, frozenset[str]], frozenset[str]]:
        if has_nft:
            return {}, frozenset()
        raise OSError(93, os.strerror(93))

    here(capabilities)
    monkeypatch.setattr(nftables, "nft_tables", asked)
    hint = diagnosis.permission_hint(NO_TABLE, is_legacy=True)
    assert said in hint
    assert not_said not in hint


def test_who_may_see_legacy_tables(here: Callable[..., None]) -> None:
    """Whoever is root already is not told to become it."""
    here(ALL, uid=1000)
    assert rights.legacy_unseen_hint().startswith("run as root")
    here(ALL)
    assert "root (" not in rights.legacy_unseen_hint()
    assert "user namespace that owns" in rights.legacy_unseen_hint()
