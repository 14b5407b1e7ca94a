"""What is found of a place before a run, and whether it prevents one, on a kernel in memory."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest

from capture.iptables.iptables import LEGACY, NFT
from capture.kernel.conntrack import CLOSE_WAIT_FILE
from capture.kernel.seam import standing_in
from capture.netlink import messages
from capture.preflight import around, trial
from capture.preflight import rules as of_rules
from capture.preflight.facts import Fact, Here, listed, worst
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from capture.preflight.rules import NFT_MSG_GETCHAIN, blocked_chains, rehearsed
from capture.preflight.trial import NOT_TRIED, REFUSED, Rehearsal
from capture.settings.declared import Settings
from rules.netfilter.values import Family
from tests.rig.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from capture.preflight.modules import Verdict

V4, V6 = Family.V4, Family.V6


@pytest.fixture
def kernel() -> Iterator[Memory]:
    with standing_in(Memory("127.0.0.1/8", "10.244.0.5/24")) as memory:
        assert isinstance(memory, Memory)
        yield memory


def here(*flags: str, **environ: str) -> Here:
    return Here(Settings.load(flags, environ), environ, rehearse=False)


def only(facts: Iterator[Fact]) -> Fact:
    (fact,) = facts
    return fact


# --- around -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "text", "verdict", "needed"),
    [
        (("--redirect-dns",), "nameserver 10.96.0.10\n", OK, True),
        (("--redirect-dns",), "search here\n", WARN, True),
        ((), "nameserver 10.96.0.10\n", OK, False),
        ((), "", OK, False),
        (("--redirect-dns", "--capture-all-dns"), "", OK, True),
    ],
)
def test_nameservers_are_looked_for_where_their_queries_are_captured(
    kernel: Memory,  # noqa: ARG001 # it stands in
    tmp_path: Path,
    flags: Sequence[str],
    text: str,
    verdict: Verdict,
    needed: bool,
) -> None:
    """Without one DNS is not captured, unless all of it is."""
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    fact = only(around.dns(here(*flags, RESOLV_CONF=str(file), CAPTURE_RESOLV_CONF=str(file))))
    assert (fact.verdict, fact.needed) == (verdict, needed)
    assert bool(fact.remedy) is (verdict == WARN)
    assert not fact.prevents


@pytest.mark.parametrize("has_file", [True, False])
@pytest.mark.parametrize(("flags", "needed"), [((), False), (("--close-wait-timeout", "5s"), True)])
def test_the_sysctl_of_conntrack_is_looked_at(
    kernel: Memory, monkeypatch: pytest.MonkeyPatch, flags: Sequence[str], needed: bool, has_file: bool
) -> None:
    """It matters where it is to be set; what cannot be read is not known."""
    monkeypatch.setattr(kernel, "read_words", lambda path: ["60"] if has_file and path == CLOSE_WAIT_FILE else [])
    monkeypatch.setattr(os, "access", lambda *_: False)
    place = here()
    place.settings = Settings.load(flags, {})
    fact = only(around.conntrack(place))
    assert fact.verdict == ((WARN if needed else OK) if has_file else UNKNOWN)
    assert fact.needed is needed
    assert ("is 60 s, not writable" in fact.value) is has_file


@pytest.mark.parametrize(
    ("flags", "logs", "verdict"),
    [((), False, OK), (("--log-connections", "log"), False, WARN), (("--log-connections", "log"), True, OK)],
)
def test_a_log_that_nobody_writes_is_told(
    kernel: Memory,  # noqa: ARG001 # it stands in
    flags: Sequence[str],
    logs: bool,
    verdict: Verdict,
) -> None:
    place = here(*flags)
    place.facts = place.facts.but(kernel_logs=logs)
    assert only(around.logging(place)).verdict == verdict


@pytest.mark.parametrize(
    ("flags", "told"),
    [(("--run-validation",), 1), ((), 0), (("--run-validation", "-n"), 0), (("--run-validation", "--cleanup-only"), 0)],
)
def test_validation_is_mentioned_where_it_will_run(
    kernel: Memory,  # noqa: ARG001 # it stands in
    flags: Sequence[str],
    told: int,
) -> None:
    assert len(list(around.validation(here(*flags)))) == told


# --- rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Rehearsal(trial.PROVED, families=(V4,)), OK),
        (Rehearsal(trial.PROVED, families=(V4,), ipv6_refused="no ip6tables"), WARN),
        (Rehearsal(REFUSED, "the kernel refused it"), MISSING),
        (Rehearsal(NOT_TRIED, "no CAP_SYS_ADMIN"), UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_a_rehearsal_is_told_as_it_went(
    kernel: Memory,  # noqa: ARG001 # it stands in
    outcome: Rehearsal | None,
    verdict: Verdict,
) -> None:
    """Only what the kernel refused prevents a run; what was not tried has a remedy."""
    place = here()
    place.rehearsal = outcome
    fact = rehearsed(place)
    assert (fact.verdict, fact.prevents) == (verdict, verdict == MISSING)
    assert bool(fact.remedy) is (verdict != OK)


def chain(family: int, table: str, name: str, kind: str, hook: int, priority: int) -> bytes:
    """A base chain, as the kernel tells it."""
    place = messages.attribute(1, struct.pack(">I", hook)) + messages.attribute(2, struct.pack(">i", priority))
    return (
        bytes([family, 0, 0, 0])
        + messages.attribute(1, table.encode() + b"\0")
        + messages.attribute(3, name.encode() + b"\0")
        + messages.attribute(4, place)
        + messages.attribute(7, kind.encode() + b"\0")
    )


@pytest.mark.parametrize(
    ("told", "flags", "verdict"),
    [
        (chain(2, "nat", "OUTPUT", "nat", 3, -100), (), OK),
        (chain(2, "nat", "OUTPUT", "nat", 3, -99), (), MISSING),
        (chain(2, "nat", "OUTPUT", "filter", 3, -100), (), MISSING),
        (chain(2, "nat", "OUTPUT", "nat", 0, -100), (), MISSING),
        (chain(10, "nat", "OUTPUT", "nat", 3, -99), (), OK),
        (chain(10, "nat", "OUTPUT", "nat", 3, -99), ("--ipv6", "on"), MISSING),
        (chain(2, "mangle", "OUTPUT", "route", 3, -150), ("-m", "TPROXY"), OK),
        (chain(2, "mangle", "OUTPUT", "filter", 3, -150), ("-m", "TPROXY"), MISSING),
        (chain(2, "mangle", "OUTPUT", "filter", 3, -150), (), OK),
        (chain(2, "nat", "INPUT", "nat", 3, -99), (), OK),
    ],
)
def test_a_chain_with_the_name_of_a_built_in_one_is_in_the_way(
    kernel: Memory, monkeypatch: pytest.MonkeyPatch, told: bytes, flags: Sequence[str], verdict: Verdict
) -> None:
    """By type, hook or priority it is another one; what is not planned there is nobody's loss."""
    place = here("-u", "1337", *flags)
    assert place.backend == NFT
    monkeypatch.setattr(kernel, "dump", lambda _, question, __: [told] if question == NFT_MSG_GETCHAIN else [])
    assert only(blocked_chains(place)).verdict == verdict


def test_chains_that_cannot_be_read_are_not_known(kernel: Memory) -> None:
    place = here("-u", "1337")
    kernel.silent = {messages.NETLINK_NETFILTER: errno.EPERM}
    assert only(blocked_chains(place)).verdict == UNKNOWN
    place.nft_error = OSError(errno.EPERM, "no")
    assert list(blocked_chains(place)) == []


@pytest.mark.parametrize("flags", [("-n",), ("--skip-rule-apply",)])
def test_where_no_rule_is_applied_none_is_judged(
    kernel: Memory,  # noqa: ARG001 # it stands in
    flags: Sequence[str],
) -> None:
    place = here(*flags)
    assert not place.acts
    assert list(of_rules.rules(place)) == []


# --- the place ----------------------------------------------------------------------------------------------


def test_only_what_is_needed_and_missing_prevents_a_run() -> None:
    for verdict in (OK, WARN, UNKNOWN, MISSING):
        for needed in (True, False):
            assert Fact("", "", "", verdict, needed=needed).prevents is (needed and verdict == MISSING)
    assert worst([OK, UNKNOWN, WARN]) == UNKNOWN
    assert worst([MISSING, UNKNOWN]) == MISSING
    assert worst([]) == OK


def test_a_long_list_is_told_by_its_first_three() -> None:
    assert listed(["a", "b", "a", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("flags", "must_have"),
    [((), {V4}), (("--dual-stack",), {V4, V6}), (("--ipv6", "on"), {V4, V6}), (("--cleanup-only",), set())],
)
def test_a_family_must_be_had_where_a_run_fails_without_it(
    kernel: Memory, flags: Sequence[str], must_have: set[Family]
) -> None:
    """IPv6 only where it was asked for."""
    kernel.addresses = Memory("127.0.0.1/8", "10.244.0.5/24", "fd00:244::5/64").addresses
    place = here("-u", "1337", *flags)
    assert {family for family in Family if place.must_have(family)} == must_have


def test_the_backend_is_the_one_that_a_run_would_use(kernel: Memory) -> None:
    """The one that holds our chains; the one that is forced; or why there is none."""
    assert here("-u", "1337").backend == NFT
    assert here("-u", "1337", "--force-iptables-binary", "legacy").backend == LEGACY
    kernel.installed = {name for name in kernel.installed if LEGACY in name}
    assert here("-u", "1337").backend == LEGACY
    kernel.installed = set()
    place = here("-u", "1337")
    assert place.choice is None
    assert place.choice_error is not None
