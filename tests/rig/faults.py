"""The smallest acts of a run, and runs of ours in which one of them fails, or is the last before a SIGKILL.

A run is a process of its own: a fork of this one, which has imported what ours imports, in the pod's namespace and in
mounts that nobody else sees. What happens to it is real: programs on its PATH that do more than their namesakes,
a capability that is gone, binaries that are, mounts that are full, locks that somebody holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import traceback
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING

import pyroute2  # noqa: F401 # once, so that each fork has it

import capture
import rules
from capture import init
from capture.apply import transaction
from capture.errors import KernelRefused
from capture.host.facts import read_facts
from capture.host.live import read_live
from capture.intent.resolve import resolve
from capture.iptables import iptables
from capture.iptables.iptables import LEGACY, Iptables
from capture.iptables.leaving import TakeAway
from capture.kernel import locks, netns
from capture.kernel.process import SUPERUSER_PATH
from capture.netlink import routing
from capture.output import open_streams
from capture.settings.declared import Settings
from capture.steps.half_open import ForgetHalfOpen
from capture.steps.load import Load, in_transactions
from capture.steps.other_meshes import DeleteTables
from capture.steps.passing import LetPacketsPass
from capture.steps.pickup import PickUp
from capture.steps.release import Release
from capture.steps.restore import Restore
from capture.steps.routing import SetPassthroughAddress, SetRouting
from rules.netfilter.values import Family
from rules.plan.plan import NOTHING, plan
from rules.value import assert_never
from tests.rig.namespace import entered
from tests.rig.pod import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeAlias

    from capture.log import Log
    from capture.steps.acts import Act
    from tests.rig.pod import Pod

# What a run imports when it needs it, here at once: some faults leave nothing readable where the code may be.
for package in (capture, rules):
    for found in walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            import_module(found.name)

# --- the acts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commit:
    """One table of one restore: what the kernel takes over as a whole."""

    tool: Iptables
    table: str
    number: int
    """Which of the restore's tables, from 1."""
    restore: int
    """Which of the run's restores, from 1."""
    of_its_program: int
    """Which of those that the same program does, from 1."""

    def __str__(self) -> str:
        return f"{self.tool} {self.table}"


@dataclass(frozen=True)
class Loading:
    """One transaction of nft."""

    tables: str
    number: int
    """Which of the run's, from 1."""

    def __str__(self) -> str:
        return f"nft {self.tables}"


@dataclass(frozen=True)
class Request:
    """One request to rtnetlink."""

    what: str
    number: int
    """Which of the run's requests, from 1."""

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Batch:
    """One batch of deletions for nf_tables."""

    what: str
    number: int
    """Which of the run's, from 1."""

    def __str__(self) -> str:
        return self.what


if TYPE_CHECKING:
    Atom: TypeAlias = Commit | Loading | Request | Batch


def atoms_of(doing: Iterable[Act]) -> list[Atom]:
    """What these steps do, taken apart into what happens as a whole or not at all, in order."""
    found: list[Atom] = []

    def asked(what: str) -> None:
        found.append(Request(what, 1 + sum(isinstance(atom, Request) for atom in found)))

    restores = 0
    programs: list[Iptables] = []
    for step in doing:
        match step:
            case Restore():
                restores += 1
                programs.append(step.tool)
                found += [
                    Commit(step.tool, change.table, number, restores, programs.count(step.tool))
                    for number, change in enumerate(step.changes, 1)
                ]
            case Load():
                families = " and ".join(each.family.value for each in step.restores)
                found.append(Loading(families, 1 + sum(isinstance(atom, Loading) for atom in found)))
            case LetPacketsPass() | ForgetHalfOpen() | PickUp() | Release():
                # Nothing of ours happens in it. To be killed there is to be killed behind the act before.
                continue
            case SetRouting():
                parts = str(step).split(", ")
                for part in parts if step.change.adds else reversed(parts):
                    asked(part)
            case SetPassthroughAddress():
                asked(str(step))
            case TakeAway():
                family = "ip" if step.family is Family.V4 else "ip6"
                what = f"nft delete {family} {step.table}"
                found.append(Batch(what, 1 + sum(isinstance(atom, Batch) for atom in found)))
            case DeleteTables():
                raise AssertionError("no scenario takes tables of another mesh over")
            case _:
                assert_never(step)
    return found


def steps_in(pod: Pod, arguments: Sequence[str], backend: str) -> list[Act]:
    """What a run of ours with this command line would do in this pod now."""
    with entered(pod.inside):
        settings = Settings.load(list(arguments), {})
        facts = read_facts({}, f"/etc/netns/{pod.inside.name}/resolv.conf")
        planned = NOTHING if settings.cleanup_only else plan(resolve(settings, facts).intent)
        live = read_live()
        doing = list(transaction.steps(live, planned, backend))
        return in_transactions(doing, live.unsound, is_quiet=not live.has_sockets)


# --- the faults -------------------------------------------------------------------------------------------


class Fault(Enum):
    """What befalls a run, at one of its acts or as a whole."""

    REFUSED = "refused"
    """The kernel refuses the act: a rule that it does not take, a request without CAP_NET_ADMIN."""
    REFUSED_FOR_GOOD = "for good"
    """… and every later one of the same program, so that nothing can be put back with it."""
    KILLED_BEFORE = "killed before"
    """SIGKILL before the act. Only asked of the first: before another is after the one above."""
    KILLED = "killed after"
    """SIGKILL when the act is done."""
    KILLED_CLEANED = "…, cleaned"
    """The same, with a removal as the next run."""
    CHILD_ALONE = "child alone"
    """SIGKILL while iptables-restore runs, which finishes."""
    KILLED_UNDOING = "killed undoing"
    """The act is refused, and SIGKILL comes when half of what was done is taken back."""
    NO_RESTORE = "no restore"
    """The program that restores is not installed."""
    NO_SAVE = "no save"
    """Nor the one that saves."""
    RESTORE_GONE = "restore gone"
    """It vanishes before the act."""
    SAVE_GONE = "save gone"
    """It vanishes before the act."""
    LOCK = "xtables lock"
    """Somebody takes the lock of iptables before the act and keeps it."""
    RUNS_LOCK = "other run"
    """Another run of ours does not end."""
    FULL = "disk full"
    """Wherever something could be written, nothing more can."""
    READ_ONLY = "read-only"
    """Wherever something could be written, it cannot."""
    MUTE = "full stderr"
    """What is said goes to a file on a full disk."""


KILLING = (Fault.KILLED_BEFORE, Fault.KILLED, Fault.KILLED_CLEANED, Fault.CHILD_ALONE, Fault.KILLED_UNDOING)
OF_THE_WHOLE_RUN = (Fault.RUNS_LOCK, Fault.FULL, Fault.READ_ONLY, Fault.MUTE)


def faults_of(atoms: Sequence[Atom], at: int) -> Iterator[Fault]:
    """What can befall this act."""
    atom = atoms[at]
    yield Fault.REFUSED
    if at == 0:
        yield Fault.KILLED_BEFORE
    yield from (Fault.KILLED, Fault.KILLED_CLEANED)
    match atom:
        case Commit(tool, _, number, _, of_its_program):
            yield Fault.KILLED_UNDOING
            if number == 1:
                yield from (Fault.REFUSED_FOR_GOOD, Fault.CHILD_ALONE)
                if of_its_program == 1:
                    yield from (Fault.NO_RESTORE, Fault.NO_SAVE)
                yield from (Fault.RESTORE_GONE, Fault.SAVE_GONE)
                if tool.backend == LEGACY:
                    yield Fault.LOCK
        case Loading(_, number):
            yield from (Fault.KILLED_UNDOING, Fault.REFUSED_FOR_GOOD, Fault.CHILD_ALONE, Fault.RESTORE_GONE)
            if number == 1:
                yield Fault.NO_RESTORE
        case Request() | Batch():
            pass
        case _:
            assert_never(atom)


@dataclass
class Armed:
    """How to run ours so that the fault befalls it."""

    environ: dict[str, str] = field(default_factory=dict)
    prepare: list[Callable[[], None]] = field(default_factory=list)
    """What the run does first, when it is in its namespaces."""
    finished: Path | None = None
    """A pipe that says when a child that outlives the run has finished."""


def armed(fault: Fault, atom: Atom | None, folder: Path) -> Armed:
    """The fault at this act, or of the whole run. `folder` is empty and of this cell alone."""
    match atom:
        case None:
            return armed_as_a_whole(fault, folder)
        case Commit():
            return armed_commit(fault, atom, folder)
        case Loading(_, number):
            return armed_loading(fault, number, folder)
        case Request(_, number):
            functions = [name for name in dir(routing) if name.startswith(("add_", "remove_"))]
            return Armed(prepare=[lambda: strike(routing, functions, number, fault)])
        case Batch(_, number):
            return Armed(prepare=[lambda: strike(TakeAway, ["do"], number, fault)])
        case _:
            assert_never(atom)


def strike(holder: Any, names: Sequence[str], number: int, fault: Fault) -> None:
    """Let the fault befall the n-th call of these functions."""
    calls = 0

    def struck(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: Any, **named: Any) -> object:
            nonlocal calls
            calls += 1
            if calls != number:
                return function(*arguments, **named)
            if fault is Fault.REFUSED:
                with without_net_admin():
                    return function(*arguments, **named)
            if fault is Fault.KILLED_BEFORE:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("still alive")

        return call

    for name in names:
        setattr(holder, name, struck(getattr(holder, name)))


REFUSED_IN_NAT = "-A POSTROUTING -p tcp -j REDIRECT --to-ports 1"
REFUSED_ELSEWHERE = "-A OUTPUT -p tcp -j REDIRECT --to-ports 1"
"""Rules that both tools accept and the kernel does not: REDIRECT has no meaning there."""


def armed_commit(fault: Fault, commit: Commit, folder: Path) -> Armed:
    """The fault in a wrapper of the restore program, in its first run, or in what it finds."""
    program = f"{commit.tool}-restore"
    rule = f't == "nat" ? "{REFUSED_IN_NAT}" : "{REFUSED_ELSEWHERE}"'
    refusing = (
        "awk '/^\\*/ {t = substr($0, 2)} "
        f'/^COMMIT$/ && ++c == {commit.number} {{print ({rule})}} {{print}}\' | $real "$@"'
    )
    only_until = f"awk 'c < {commit.number} {{print}} /^COMMIT$/ {{c++}}' | $real \"$@\""
    match fault:
        case Fault.REFUSED:
            return wrapped(folder, program, refusing, commit.of_its_program)
        case Fault.REFUSED_FOR_GOOD:
            return wrapped(folder, program, refusing, commit.of_its_program, once=False)
        case Fault.KILLED_BEFORE:
            return wrapped(folder, program, "kill -9 $PPID", commit.of_its_program)
        case Fault.KILLED | Fault.KILLED_CLEANED:
            return wrapped(folder, program, f"{only_until}; kill -9 $PPID", commit.of_its_program)
        case Fault.CHILD_ALONE:
            os.mkfifo(folder / "finished")
            work = f'kill -9 $PPID; $real "$@"; echo > {folder}/finished'
            made = wrapped(folder, program, work, commit.of_its_program)
            made.finished = folder / "finished"
            return made
        case Fault.KILLED_UNDOING:
            made = wrapped(folder, program, refusing, commit.of_its_program)
            made.prepare.append(kill_after_the_first_undoing)
            return made
        case Fault.NO_RESTORE | Fault.NO_SAVE | Fault.RESTORE_GONE | Fault.SAVE_GONE:
            verb = "restore" if fault in (Fault.NO_RESTORE, Fault.RESTORE_GONE) else "save"
            names = [f"{commit.tool}-{verb}", f"{iptables.PROGRAM[commit.tool.family]}-{verb}"]
            goes_now = fault in (Fault.NO_RESTORE, Fault.NO_SAVE)
            return without(folder, names, 0 if goes_now else commit.restore)
        case Fault.LOCK:
            return locked_out(folder, commit.restore)
        case _:
            raise AssertionError(f"{fault} does not befall a commit")


def armed_loading(fault: Fault, number: int, folder: Path) -> Armed:
    """The same for a transaction of nft. What it lists meanwhile is no run of it."""
    refusing = '{ cat; echo "delete table ip there-is-none"; } | $real "$@"'
    match fault:
        case Fault.REFUSED:
            return wrapped(folder, "nft", refusing, number)
        case Fault.REFUSED_FOR_GOOD:
            return wrapped(folder, "nft", refusing, number, once=False)
        case Fault.KILLED_BEFORE:
            return wrapped(folder, "nft", "kill -9 $PPID", number)
        case Fault.KILLED | Fault.KILLED_CLEANED:
            return wrapped(folder, "nft", '$real "$@"; kill -9 $PPID', number)
        case Fault.CHILD_ALONE:
            os.mkfifo(folder / "finished")
            made = wrapped(folder, "nft", f'kill -9 $PPID; $real "$@"; echo > {folder}/finished', number)
            made.finished = folder / "finished"
            return made
        case Fault.KILLED_UNDOING:
            made = wrapped(folder, "nft", refusing, number)
            made.prepare.append(kill_after_the_first_undoing)
            return made
        case Fault.NO_RESTORE | Fault.RESTORE_GONE:
            return without(folder, ["nft"], 0 if fault is Fault.NO_RESTORE else number)
        case _:
            raise AssertionError(f"{fault} does not befall a transaction")


def wrapped(folder: Path, program: str, work: str, at_run: int, *, once: bool = True) -> Armed:
    """This script stands in for the program, which it finds in `$real`, in one of its runs or from that one on."""
    real = shutil.which(program, path=os.pathsep.join((os.environ["PATH"], *SUPERUSER_PATH)))
    listing = '[ "$1" = -nn ] && exec $real "$@"\n' if program == "nft" else ""
    count = f"{listing}echo >> {folder}/runs; runs=$(wc -l < {folder}/runs)"
    bypass = f'[ "$runs" -{"eq" if once else "ge"} {at_run} ] || exec $real "$@"'
    (folder / program).write_text(f"#!/bin/sh\nreal={real}\n{count}\n{bypass}\n{work}\n")
    (folder / program).chmod(0o755)
    return Armed({"PATH": f"{folder}:{os.environ['PATH']}"})


def kill_after_the_first_undoing() -> None:
    """SIGKILL when the step that failed was undone, before those that were done are."""
    for kind in (Restore, Load):
        undo: Callable[[Any, Log], None] = kind.undo

        def undone(step: Any, log: Log, undo: Callable[[Any, Log], None] = undo) -> None:
            undo(step, log)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(kind, "undo", undone)  # noqa: B010 # a step is frozen, its class is not


def refused_in_the_end() -> Armed:
    """The kernel is found to hold something else when all is done, so that all is undone."""

    def refuse(*_: object) -> None:
        raise KernelRefused("the kernel was said to hold something else")

    return Armed(prepare=[lambda: setattr(Restore, "check", refuse)])


def without(folder: Path, names: Sequence[str], restore: int) -> Armed:
    """Programs of these names are not there: from the start, or (n) when the n-th restore is to be done."""
    programs, real, nothing = folder / "bin", folder / "real", folder / "nothing"
    for made in (programs, real, nothing):
        made.mkdir()
    found = Path(shutil.which("iptables-nft-restore", path=os.pathsep.join(SUPERUSER_PATH)) or "").resolve().parent
    for path in (*found.glob("ip*tables*"), found / "nft"):
        (programs / path.name).symlink_to(real / path.resolve().name)

    def prepare() -> None:
        mount(str(found), str(real), MS_BIND)
        for place in dict.fromkeys(os.path.realpath(place) for place in SUPERUSER_PATH):
            if os.path.isdir(place):
                mount(str(nothing), place, MS_BIND)
        before_restore(restore, remove)

    def remove() -> None:
        for name in names:
            (programs / name).unlink(missing_ok=True)

    return Armed({"PATH": str(programs)}, [prepare])


def before_restore(number: int, act: Callable[[], None]) -> None:
    """Do this when the n-th restore is to be done, or now for 0."""
    if not number:
        act()
        return
    calls = 0
    for kind, name in ((Iptables, "restore"), (Load, "do")):
        real = getattr(kind, name)

        def restored(its: object, *arguments: Any, real: Callable[..., object] = real) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                act()
            return real(its, *arguments)

        setattr(kind, name, restored)


def locked_out(folder: Path, restore: int) -> Armed:
    """From the n-th restore on somebody else has the lock of iptables; nobody waits for it long."""
    lock = folder / "lock"

    def take() -> None:
        fcntl.flock(os.open(lock, os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)

    def prepare() -> None:
        iptables.LOCK_WAIT = 1
        before_restore(restore, take)

    return Armed({"XTABLES_LOCKFILE": str(lock)}, [prepare])


PLACES = ("/run", "/tmp", "/var")  # noqa: S108 # where a program might write
TERMINATION_LOG = "/dev/termination-log"


def armed_as_a_whole(fault: Fault, folder: Path) -> Armed:
    match fault:
        case Fault.RUNS_LOCK:
            return Armed(prepare=[hold_the_lock_of_runs])
        case Fault.FULL | Fault.READ_ONLY:
            return Armed(prepare=[lambda: nothing_can_be_written(folder, read_only=fault is Fault.READ_ONLY)])
        case Fault.MUTE:
            return Armed(prepare=[say_it_to_a_full_disk])
        case _:
            raise AssertionError(f"{fault} befalls an act")


def say_it_to_a_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


def hold_the_lock_of_runs() -> None:
    """As another run would hold it; nobody waits for it long."""
    locks.LONGEST_WAIT = 0
    held = locks.enlisted()
    assert held
    held.detach()


def nothing_can_be_written(folder: Path, *, read_only: bool) -> None:
    """Small file systems without room, or read-only ones, in the places where programs write."""
    full = folder / "full"
    full.mkdir()
    null = os.open(os.devnull, os.O_RDWR)
    mount("none", str(full), 0, "tmpfs", "size=4k")
    (full / "termination-log").touch()
    (full / "xtables.lock").touch()
    if not read_only:
        with contextlib.suppress(OSError):
            (full / "filling").write_bytes(bytes(1 << 16))
    mount("none", "/dev", 0, "tmpfs", "size=4k")
    (Path("/dev") / "null").touch()
    mount(f"/proc/self/fd/{null}", "/dev/null", MS_BIND)
    Path(TERMINATION_LOG).touch()
    if not read_only:
        with contextlib.suppress(OSError):
            (Path("/dev") / "filling").write_bytes(bytes(1 << 16))
    opened = os.open(full, os.O_PATH)
    for source, place in (("/termination-log", TERMINATION_LOG), *(("", place) for place in PLACES)):
        mount(f"/proc/self/fd/{opened}{source}", place, MS_BIND)
        if read_only:
            mount("none", place, MS_BIND | MS_REMOUNT | MS_RDONLY)


# --- the run ----------------------------------------------------------------------------------------------

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
"""linux/sched.h, linux/mount.h"""
FAILED_ITSELF = 70
"""The status of a run that ended with a traceback."""
_libc = ctypes.CDLL(None, use_errno=True)


def run(pod: Pod, *arguments: str, fault: Armed | None = None) -> Result:
    """Run ours in the pod, to its end; with a negative status if a signal was that."""
    fault = fault or Armed()
    said = os.memfd_create("said")
    pid = os.fork()
    if not pid:
        status = FAILED_ITSELF
        try:
            os.dup2(said, 1)
            os.dup2(said, 2)
            open_streams()
            environ = {**pod.environ(), **fault.environ}
            os.environ.clear()
            os.environ.update(environ)
            enter(pod)
            for prepare in fault.prepare:
                prepare()
            status = init.run(arguments, os.environ)
        except BaseException:
            with open(said, "w", encoding="utf-8", closefd=False) as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    if fault.finished and os.waitstatus_to_exitcode(ended) < 0:
        fault.finished.read_text()
    with open(said, encoding="utf-8") as file:
        file.seek(0)
        return Result(os.waitstatus_to_exitcode(ended), "", file.read())


def enter(pod: Pod) -> None:
    """Into the pod's network namespace and private mounts, in which its resolv.conf is the pod's."""
    netns.enter(pod.inside.path)
    checked(_libc.unshare(CLONE_NEWNS))
    mount("none", "/", MS_REC | MS_PRIVATE)
    resolv_conf = f"/etc/netns/{pod.inside.name}/resolv.conf"
    if os.path.exists(resolv_conf):
        mount(resolv_conf, "/etc/resolv.conf", MS_BIND)


def mount(source: str, target: str, flags: int, kind: str = "none", data: str = "") -> None:
    """mount(2)"""
    checked(_libc.mount(*(text.encode() for text in (source, target, kind)), flags, data.encode()))


def checked(answer: int) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


CAP_NET_ADMIN = 12
_CAPABILITY_VERSION_3 = 0x20080522
"""linux/capability.h"""


@contextlib.contextmanager
def without_net_admin() -> Iterator[None]:
    """In this block this process acts without CAP_NET_ADMIN (capset(2)), and then with it again."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    checked(_libc.capget(header, held))
    ctypes.memmove(less, held, ctypes.sizeof(held))
    less[0] = held[0] & ~(1 << CAP_NET_ADMIN)  # the effective ones; the permitted ones stay
    checked(_libc.capset(header, less))
    try:
        yield
    finally:
        checked(_libc.capset(header, held))
