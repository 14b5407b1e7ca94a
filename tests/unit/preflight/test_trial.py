"""A run tried out apart from everybody: what is said of how it went."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING

import pytest

from capture.iptables.iptables import LEGACY, NFT
from capture.kernel.seam import standing_in
from capture.preflight import trial
from capture.preflight.trial import NOT_TRIED, PROVED, REFUSED, Rehearsal, rehearse
from rules.netfilter.values import Family
from rules.plan.intent import Intent
from rules.plan.plan import plan
from tests.rig.memory import Memory, everything

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = plan(Intent(families=(Family.V4, Family.V6)))
IPV4 = plan(Intent(families=(Family.V4,)))


def refusing(*acts: str) -> Callable[[str], int | None]:
    return lambda act: errno.EPERM if act.startswith(acts) else None


@pytest.mark.parametrize("backend", [NFT, LEGACY])
def test_what_the_kernel_takes_is_proved_and_nothing_of_it_is_here(backend: str) -> None:
    """The families that were tried; whoever asked has what he had."""
    with standing_in(Memory("10.244.0.5/24")) as kernel:
        assert isinstance(kernel, Memory)
        before = everything(kernel)
        assert rehearse(BOTH, backend, without_ipv6=IPV4) == Rehearsal(PROVED, families=(Family.V4, Family.V6))
        assert rehearse(IPV4, backend, without_ipv6=None) == Rehearsal(PROVED, families=(Family.V4,))
        assert everything(kernel) == before


def test_ipv6_that_nobody_asked_for_may_be_refused() -> None:
    """It is left out, and why is said; where it was asked for, that is a refusal; and so is one of IPv4."""
    with standing_in(Memory()) as kernel:
        assert isinstance(kernel, Memory)
        kernel.refuse = refusing("ip6tables")
        why = "the kernel refused the IPv6 rules"
        tried = rehearse(BOTH, NFT, without_ipv6=IPV4)
        assert (tried.outcome, tried.families, tried.ipv6_refused.split(": ")[1]) == (PROVED, (Family.V4,), why)
        tried = rehearse(BOTH, NFT, without_ipv6=None)
        assert (tried.outcome, tried.families, tried.why.partition(" (")[0]) == (REFUSED, (), why)
        assert "ip6tables-nft-restore said: " in tried.why
        kernel.refuse = refusing("iptables")
        tried = rehearse(BOTH, NFT, without_ipv6=IPV4)
        assert (tried.outcome, tried.why.partition(" (")[0]) == (REFUSED, "the kernel refused the IPv4 rules")


def test_without_the_right_to_be_apart_nothing_is_tried() -> None:
    """And the capability that it takes is named."""
    with standing_in(Memory()) as kernel:
        assert isinstance(kernel, Memory)
        kernel.refuse = refusing("be apart")
        tried = rehearse(BOTH, NFT, without_ipv6=None)
        assert tried == Rehearsal(NOT_TRIED, "a network namespace of our own takes CAP_SYS_ADMIN: refused on demand")


def test_one_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many seconds, and what had begun it is ended."""
    monkeypatch.setattr(trial, "LONGEST", 0.05)
    monkeypatch.setattr(trial, "rehearsed", lambda *_: signal.pause())
    tried = rehearse(BOTH, NFT, without_ipv6=None)
    assert (tried.outcome, "did not end within" in tried.why) == (NOT_TRIED, True)
