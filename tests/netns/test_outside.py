"""No traceback for what the outside world does: words and a documented status, and the state before or planned."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import site
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.rig.chance import ALL
from tests.rig.deny import CALLS, MACHINE
from tests.rig.pod import ROOT, Result, readable_source, without_empty_legacy_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.rig import Pod

    Meaning = dict[tuple[str, str], list[str]]

DOCUMENTED = {0, 1, 2, 3, 4, 5, 126}
"""docs/errors.md."""
ENDED = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}
APPLY = ("-u", "1337")
LOOKING = (
    ("-n", *APPLY),
    ("render",),
    ("settings",),
    ("settings", "--output", "json"),
    ("explain",),
    ("check", *APPLY),
    ("verify", *APPLY),
    ("diff", "-u", "1338", "--color=always"),
    ("status",),
    ("status", "--output", "json"),
    ("graph",),
    ("graph", "--live"),
    ("trace", "9.9.9.9:80"),
    ("trace", "--live", "9.9.9.9:80", "--output", "json"),
    ("escapes", *APPLY),
    ("escapes", "--live"),
    ("watch", "--count", "1", "--interval", "50ms"),
    ("clean", "-n"),
    ("--help",),
    ("--version",),
)
COMMANDS = (*LOOKING, APPLY, (*APPLY, "--run-validation"), ("--cleanup-only",), APPLY, ("clean",), APPLY)
"""Every command; those that change something begin where the capture is in place, and leave it in place."""
STREAMS = {
    "stdout full": ">/dev/full",
    "stderr full": "2>/dev/full",
    "both full": ">/dev/full 2>&1",
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "stdout for reading": "1</dev/null",
}
ENCODINGS = {
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"LC_ALL": "C"},
    "POSIX, to the letter": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
REFUSED = {
    "flock": "flock:ENOSYS",
    "membarrier": "membarrier:EPERM",
    "memfd_create": "memfd_create:ENOSYS",
    "setns": "setns:EPERM",
    "unshare": "unshare:EPERM",
    "prctl": "prctl:EPERM",
    "all of them": ",".join(f"{name}:EPERM" for name in CALLS),
}
FEWEST_FILES = 4
"""With fewer, Python itself does not start."""


class States:
    """What a pod may hold: what it held before the first run, or what is planned."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.before = self.now()
        pod.applied(*APPLY)
        self.planned = self.now()

    def now(self) -> Meaning:
        return without_empty_legacy_tables(self.pod.meaning())

    def check(self, what: object) -> None:
        assert self.now() in (self.before, self.planned), what


@pytest.fixture
def states(ipv4_pod: Pod) -> States:
    """Those of a pod in which the capture is in place."""
    return States(ipv4_pod)


def commands(what: str, some: Sequence[tuple[str, ...]] = COMMANDS) -> list[tuple[str, ...]]:
    """Those of these commands to try here: all that change something, and of those that look a few."""
    looking = LOOKING if ALL else sample(what, 6)
    return [command for command in some if command in looking or command not in LOOKING]


def sample(seed: object, number: int) -> list[tuple[str, ...]]:
    """Some commands that look, the same for each seed."""
    return random.Random(str(seed)).sample(LOOKING, number)


def ran(pod: Pod, script: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Result:
    """Run ours in a shell's words, in which `"$@"` stands for the command."""
    line = ["bash", "-c", script, "bash", *pod.command(*command)]
    done = subprocess.run(
        ["ip", "netns", "exec", pod.inside.name, *line],
        env={**pod.environ(), **(env or {})},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    said = [stream.decode(errors="surrogateescape") for stream in (done.stdout, done.stderr)]
    return Result(done.returncode, *said)


def judge(got: Result, what: object, *, heard: bool = True, statuses: set[int] = DOCUMENTED) -> None:
    """Words where they are heard, and a documented status."""
    assert "Traceback" not in got.stdout + got.stderr, (what, got.stderr)
    assert "Exception" not in got.stderr, (what, got.stderr)
    assert got.status in statuses, (what, got)
    if heard and got.status == 1:
        assert "error" in got.stderr or "will fail" in got.stdout or "STILL HERE" in got.stdout, (what, got)


@pytest.mark.parametrize("streams", STREAMS)
def test_streams_may_be_anything(states: States, streams: str) -> None:
    """What cannot be told is an error, where it can be said; nothing is told at a place where it is not asked for."""
    redirection = STREAMS[streams]
    for command in commands(streams):
        got = ran(states.pod, f'"$@" {redirection}', command)
        judge(got, command, heard="stderr" not in streams and "both" not in streams and "all" not in streams)
        if streams == "stdout full" and command in LOOKING:
            assert got.status == 1 or not ran(states.pod, '"$@"', command).stdout, command
        if "closed" in streams:
            assert got.status != 1, (command, got)
        if streams == "stderr closed":
            assert "\tinfo\t" not in got.stdout, "the log is not for stdout"
        if command not in LOOKING:
            states.check(command)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_streams_may_have_any_encoding(states: States, encoding: str) -> None:
    """What it lacks is spelled out."""
    for command in commands(encoding, LOOKING):
        plain = ran(states.pod, '"$@"', command)
        got = ran(states.pod, '"$@"', command, ENCODINGS[encoding])
        judge(got, command)
        assert got.status == plain.status, (command, got.stderr)


def test_a_reader_that_goes_away_is_no_failure(states: States) -> None:
    """Whatever it leaves unread; the status is the command's own."""
    for command in commands("gone", LOOKING):
        plain = ran(states.pod, '"$@"', command)
        gone = ran(states.pod, '{ "$@"; echo "status $?" >&2; } | exec true', command)
        gone = Result(int(gone.stderr.split()[-1]), "", gone.stderr)
        judge(gone, command)
        assert gone.status == plain.status, (command, gone.stderr)


def test_without_proc(states: States) -> None:
    """What needs it says so."""
    script = 'exec unshare -m sh -ec \'mount -t tmpfs none /proc; exec "$@"\' sh "$@"'
    for command in commands("proc"):
        judge(ran(states.pod, script, command), command)
        if command not in LOOKING:
            states.check(command)
    refused = ran(states.pod, script, ("clean",))
    assert refused.status == 1
    assert "/proc" in refused.stderr


@pytest.mark.skipif(not CALLS, reason=f"{MACHINE}: its numbers of system calls are not listed in tests/rig/deny.py")
@pytest.mark.parametrize("calls", REFUSED)
def test_system_calls_may_be_refused(states: States, calls: str) -> None:
    """Nothing that is of use only is missed; what cannot be done without is told."""
    script = f'exec {shlex.join([sys.executable, str(ROOT / "tests/rig/deny.py"), REFUSED[calls]])} "$@"'
    for command in commands(calls):
        got = ran(states.pod, script, command)
        judge(got, command)
        assert got.status in (0, 4), (command, got.stderr)
        if command not in LOOKING:
            states.check(command)
    entered = ("status", "--network-namespace", states.pod.inside.name)
    got = ran(states.pod, script, entered)
    judge(got, entered)
    assert (got.status == 0) is (calls not in ("setns", "all of them")), got.stderr


def test_with_few_files(states: States) -> None:
    """As few as Python starts with, and some more."""
    for most in range(FEWEST_FILES, 21, 1 if ALL else 3):
        for command in (*sample(most, 3), ("clean",), (*APPLY, "-m", "TPROXY"), ("clean",), APPLY):
            got = ran(states.pod, f'ulimit -n {most}; exec "$@"', command)
            if "Fatal Python error" in got.stderr or "init_import_site" in got.stderr:
                continue
            judge(got, (most, command))
        ran(states.pod, '"$@"', ("clean",))
        states.pod.applied(*APPLY)
        states.check(most)


def test_with_little_memory(states: States) -> None:
    """As much as it takes to begin with."""
    for kilobytes in (24_000, 28_000, 32_000, 40_000, 60_000):
        for command in (*sample(kilobytes, 4), APPLY, ("clean",), APPLY):
            got = ran(states.pod, f'ulimit -v {kilobytes}; exec "$@"', command)
            if "Fatal Python error" in got.stderr or "error while loading shared libraries" in got.stderr:
                continue
            judge(got, (kilobytes, command))
            states.check((kilobytes, command))
        states.pod.applied(*APPLY)


def test_any_folder_umask_and_environment(states: States) -> None:
    """A working directory that was deleted, a umask that permits nothing, names and values that are no UTF-8."""
    scripts = (
        'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$@"',
        'umask 0777; exec "$@"',
        "export $'ENVOY_USER=a\\xff\\nb' $'XX=\\xfe' $'SSH_CONNECTION=\\xff 1 10.1.1.1 \\xb2' $'TERM=\\xff'; \"$@\"",
        "exec -a $'a\\xff' \"$@\"",
        "trap '' CHLD PIPE TERM; exec \"$@\"",
    )
    # By such a name Python does not find the virtual environment that it is of.
    path = os.pathsep.join([states.pod.environ()["PYTHONPATH"], *site.getsitepackages()])
    for script in scripts:
        for command in commands(script):
            got = ran(states.pod, script, command, {"PYTHONPATH": path})
            judge(got, (script, command))
            assert got.status in (0, 4), (script, command, got)
        states.check(script)


@pytest.mark.parametrize(
    "words",
    [
        ("-u", "a\udcff"),
        ("-c", "v\udcff\n"),
        ("--network-namespace", "/x\udcff\x1b[2J"),
        ("--resolv-conf", "/\udcff", "--redirect-dns"),
        ("\udcff",),
        ("--\udcff=\n",),
        ("--output", "\udcff\x1b"),
        ("--log_output_level", "\u202e"),
    ],
    ids=str,
)
def test_arguments_may_be_any_bytes(states: States, words: tuple[str, ...]) -> None:
    """They are refused in words that a terminal may show; in a container also where Kubernetes looks for them."""
    container = (
        "exec unshare -m sh -ec 'mount -t tmpfs d /dev; mknod /dev/null c 1 3; mknod /dev/urandom c 1 9; "
        ': >/dev/termination-log; exec "$@"\' sh "$@"'
    )
    for command in (("-n",), ("status",), ("check",), ("settings",), ("trace", "--live")):
        for script in ('exec "$@"', container):
            got = ran(states.pod, script, (*command, *words))
            judge(got, command)
            assert all(c.isprintable() or c in "\n\t" for c in got.stderr), got.stderr


# --- Ctrl-C -----------------------------------------------------------------------------------------------------


FIRST = re.compile(
    r'(?:  File "\S+/capture/__main__\.py", line \d+, in (?:<module>|main)\n(?:    .*\n)*)+(?=\S)', re.MULTILINE
)
"""The last frames, if Python had only just come to our entry: nothing of ours was loaded yet."""
INTERRUPTED = (APPLY, (*APPLY, "-m", "TPROXY"), ("clean",), ("verify", *APPLY), ("status",), ("check", *APPLY), ("-n",))


@pytest.mark.parametrize("command", INTERRUPTED, ids=" ".join)
def test_ctrl_c_at_any_instant(states: States, tell: Callable[[str], None], command: tuple[str, ...]) -> None:
    """It ends at once, or finishes what it is about: nothing is left half done. SEED= repeats the instants."""
    if "TPROXY" in command:
        states.pod.applied(*command)
        states.planned = states.now()
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    tell(f"SEED={seed}")
    drawn = random.Random(seed)
    ours = [f'File "{root}/{package}/' for root in (ROOT, readable_source()) for package in ("capture", "rules")]
    longest, _ = interrupted(states.pod, command, None)
    for _ in range(50 if ALL else 8):
        instant = drawn.uniform(0, 1.1 * longest)
        _, got = interrupted(states.pod, command, instant)
        # Python itself may be interrupted while it starts, up to our first statement; that of Debian 13 may say it
        # without a traceback.
        is_python = "Traceback" in got.stderr or got.stderr.startswith("Could not import runpy module")
        if not is_python or any(frame in FIRST.sub("", got.stderr) for frame in ours):
            judge(got, (seed, command, instant), statuses=DOCUMENTED | ENDED)
        states.check((seed, command, instant))


def interrupted(pod: Pod, command: Sequence[str], after: float | None) -> tuple[float, Result]:
    """Begin a run and press Ctrl-C so many seconds later: how long it took, and how it ended."""
    began = time.monotonic()
    line = ["ip", "netns", "exec", pod.inside.name, *pod.command(*command)]
    with subprocess.Popen(line, env=pod.environ(), stdin=-3, stdout=-3, stderr=subprocess.PIPE, text=True) as process:
        if after is not None:
            time.sleep(after)
            process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    return time.monotonic() - began, Result(process.returncode, "", said)
