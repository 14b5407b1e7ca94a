"""Each file in `sessions` is what somebody types in a pod, and what is printed: on the kernel in memory, to the letter.

The first line names the pod by its addresses, as `cases` do. A line behind `$ ` is a command, and below it stands what
it printed: stdout, then stderr behind `! ` without its time, and the exit status if it is not 0. Of the log, warnings
and errors are said, unless a line asks for more. Besides `capture` these are understood:

- `load BACKEND NAME`: the rules of `tests/cases/NAME` come into place.
- `iptables-BACKEND -t TABLE …`: one rule is changed.
- `socket STATE PORT PEER`: a connection is open, or somebody listens.
- `refuse ACT`: from now on the kernel refuses each act that begins so.
- `namespace NAME`: there is another pod.

`--update-golden` or UPDATE_GOLDEN=1 rewrites all that was printed.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

import pytest

from capture.iptables.iptables import PROGRAM
from capture.kernel.netns import names_many
from rules.netfilter.values import Family
from tests.golden.test_golden import ADDRESSES, LOGGED
from tests.rig.in_process import capture
from tests.rig.memory import Memory

SESSIONS = sorted((Path(__file__).parent / "sessions").glob("*.txt"))
CASES = Path(__file__).parents[1] / "cases"
NUMBERED, TIMED = re.compile(r"net:\[\d+\]"), re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
SUFFIX = {Family.V4: "v4", Family.V6: "v6"}


def done(kernel: Memory, line: str) -> str:
    """Do what a line says; what it prints."""
    words = shlex.split(line)
    at = next((at for at, word in enumerate(words) if "=" not in word), 0)
    match words[at:]:
        case ["capture", *argv]:
            environ = {"LOG_OUTPUT_LEVEL": "warn"} | dict(word.split("=", 1) for word in words[:at])
            ended = capture(kernel, *argv, environ=environ)
            out = ended.stdout.splitlines(keepends=True)
            out = sorted(out) if names_many(argv, environ) else out  # each as it is done
            status = [f"exit status {ended.status}\n"] if ended.status else []
            return "".join([*out, *map(said_of, ended.stderr.splitlines()), *status])
        case ["load", backend, name]:
            for family, suffix in SUFFIX.items():
                rules = CASES / name / f"rules.{suffix}"
                if rules.exists():
                    kernel.load(backend, family, rules.read_text())
        case ["namespace", name]:
            kernel.others[name] = Memory("127.0.0.1/8", "10.244.0.9/24")
        case ["socket", state, port, peer]:
            kernel.sockets.append((int(state), int(port), int(peer)))
        case ["refuse", *act]:
            kernel.refuse = lambda asked: errno.EINVAL if act and asked.startswith(" ".join(act)) else None
        case [program, "-t", table, *_]:
            command, _, backend = program.partition("-")
            family = next(family for family, its in PROGRAM.items() if its == command)
            kernel.commit(backend, family, table, [line.partition(f"-t {table} ")[2]])
        case _:
            raise AssertionError(f"a session does not know {line!r}")
    return ""


def said_of(line: str) -> str:
    """A line of stderr, without its time and the number of the namespace."""
    said = NUMBERED.sub("net:[1]", LOGGED.sub(lambda found: f"{found[1]}: ", line))
    return f"! {TIMED.sub('now', said)}\n"


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.stem)
def test_a_session_goes_as_it_is_written(session: Path, request: pytest.FixtureRequest) -> None:
    """To the letter, each command in what those before it left."""
    pod, *lines = session.read_text().splitlines()
    kernel, written = Memory("127.0.0.1/8", "::1/128", *ADDRESSES[pod]), f"{pod}\n"
    for line in lines:
        if line.startswith("$ "):
            written += f"\n{line}\n{done(kernel, line[2:])}"
    if request.config.getoption("--update-golden", default=False) or os.environ.get("UPDATE_GOLDEN"):
        session.write_text(written)
    else:
        assert written == session.read_text()
