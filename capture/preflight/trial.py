"""A run tried out in a network namespace of its own, which nobody else sees and which ends with the child that made it.

It is the real proof that this kernel, these programs and these permissions can do what is planned: the steps are those
of a run, they are read back as a run does, and the namespace vanishes with the process. What it cannot show is what
others have put into the namespace that is meant.
"""

from __future__ import annotations

import json
import os
import select
import signal
from typing import TYPE_CHECKING, NoReturn

from capture.apply import transaction
from capture.errors import CaptureError, KernelRefused
from capture.host.live import read_live
from capture.iptables.iptables import private_lock
from capture.kernel import netns
from capture.kernel.loopback import raise_lo
from capture.kernel.seam import primitive
from capture.log import Log
from capture.steps.load import in_transactions
from rules.netfilter.values import Family
from rules.value import Value

if TYPE_CHECKING:
    from rules.plan.plan import Plan

PROVED, REFUSED, NOT_TRIED = "proved", "refused", "not tried"
LONGEST = 60
"""Seconds after which a rehearsal is given up."""


class Rehearsal(Value):
    """How a run went in a namespace of its own."""

    outcome: str
    """`proved`, `refused` or `not tried`."""
    why: str = ""
    """What was refused, or why it was not tried."""
    hint: str = ""
    families: tuple[Family, ...] = ()
    """Those whose rules were proved."""
    ipv6_refused: str = ""
    """Why IPv6 was left out, as a run would leave it out with a warning."""


def rehearse(planned: Plan, backend: str, *, without_ipv6: Plan | None) -> Rehearsal:
    """Apply this plan in a namespace that exists for nothing else. Needs CAP_SYS_ADMIN, and says so if it lacks it.

    `without_ipv6` is what a run falls back to where the kernel refuses IPv6 that nobody asked for.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        in_the_child(writing, planned, backend, without_ipv6)
    os.close(writing)
    try:
        answer = read_until(reading, LONGEST)
    finally:
        os.close(reading)
        if not os.waitpid(pid, os.WNOHANG)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if not answer:
        return Rehearsal(NOT_TRIED, f"it did not end within {LONGEST} s, or ended without an answer")
    fields = json.loads(answer)
    return Rehearsal(**{**fields, "families": tuple(map(Family, fields["families"]))})


def read_until(file: int, seconds: float) -> bytes:
    """All that the other end of a pipe writes before it closes; nothing if that takes too long."""
    parts: list[bytes] = []
    while select.select([file], [], [], seconds)[0]:
        part = os.read(file, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""


def in_the_child(answer: int, planned: Plan, backend: str, without_ipv6: Plan | None) -> NoReturn:
    """Rehearse, write the answer as JSON, and end without anything that the parent would do at its end."""
    try:
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silent, stream)
        rehearsal = rehearsed(planned, backend, without_ipv6)
        text = {field: getattr(rehearsal, field) for field in rehearsal.__match_args__}
        text["families"] = [family.value for family in rehearsal.families]
        os.write(answer, json.dumps(text).encode())
    finally:
        os._exit(0)


def rehearsed(planned: Plan, backend: str, without_ipv6: Plan | None) -> Rehearsal:
    try:
        be_apart()
    except OSError as error:
        return Rehearsal(NOT_TRIED, f"a network namespace of our own takes CAP_SYS_ADMIN: {error.strerror}")
    # Nobody else can be at work in there, and the lock of the host is not ours to take, or to make, for this.
    os.environ["XTABLES_LOCKFILE"] = private_lock()
    try:
        try:
            perform(planned, backend)
        except KernelRefused as refused:
            if refused.family is not Family.V6 or without_ipv6 is None:
                raise
            perform(without_ipv6, backend)
            return Rehearsal(PROVED, families=captured(without_ipv6), ipv6_refused=refused.in_one_line)
        return Rehearsal(PROVED, families=captured(planned))
    except CaptureError as refused:
        details = "; ".join(f"{label}: {text}" for label, text in refused.details)
        return Rehearsal(REFUSED, " ".join(filter(None, (refused.what, details and f"({details})"))), refused.hint)


def perform(planned: Plan, backend: str) -> None:
    """What a run does between reading what is there and saying that it is done. Raises CaptureError."""
    live = read_live()
    doing = list(transaction.steps(live, planned, backend))
    transaction.apply(in_transactions(doing, live.unsound, is_quiet=True), live, Log("none"))


def captured(planned: Plan) -> tuple[Family, ...]:
    """The families for which there is anything to put in place."""
    return tuple(ruleset.family for ruleset in planned.rulesets if ruleset.tables)


@primitive
def be_apart() -> None:
    """Be in a network namespace that is nobody else's, with lo up. Raises OSError."""
    unshare(netns.CLONE_NEWNET)
    raise_lo()


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    if hasattr(os, "unshare"):
        os.unshare(flags)
        return
    # os.unshare came with Python 3.12
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
