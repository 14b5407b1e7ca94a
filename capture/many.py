"""One command line for many network namespaces: all pods of a node, in one process that is loaded once.

A few workers, copies of this process, take the namespaces one after the other. Each gets what it would get from a run
of its own, and one line that says how that ended; what fails in one changes nothing for the others.
"""

from __future__ import annotations

import os
import sys
from fcntl import F_SETPIPE_SZ, fcntl

from capture import init
from capture.errors import DONE, FAILED, BadSettings, CaptureError, Refusal, in_words
from capture.host.place import remember_who_lives_where
from capture.kernel.files import MOST
from capture.kernel.netns import FLAG, LISTED, namespaces_in
from capture.log import Log
from capture.output import json_text, say
from capture.settings.declared import DECLARED, Origin, Settings, asks_for_json
from capture.text import on_one_line, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MOST_AT_ONCE = 8
"""Workers, also where there are more processors: a node has other things to do."""
HELD, MOST_NAMES = 1 << 14, 1 << 18
"""Numbers that a pipe holds as it is made, and as large as root may make it (pipe-max-size of pipe(7))."""
LONGEST_RESULT = 1000
"""Characters, of up to four bytes each: what is written to a pipe stays together up to 4096 bytes (PIPE_BUF)."""


class Told(Log):
    """What is said while one namespace is at work: warnings and errors, with its name; of all else the last word."""

    def __init__(self, name: str, level: str, *, as_json: bool) -> None:
        super().__init__(level, as_json=as_json)
        self.name = name
        self.last = ""

    def info(self, *lines: str, text: str = "") -> None:  # noqa: ARG002 # of a text only what stands before it
        self.last = lines[0]

    def warn(self, *lines: str) -> None:
        super().warn(*self.named(lines))

    def error(self, *lines: str) -> None:
        super().error(*self.named(lines))

    def named(self, lines: tuple[str, ...]) -> Iterator[str]:
        yield f"{on_one_line(self.name)}: {lines[0]}"
        yield from lines[1:]


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what a command line asks for in each namespace that it names. The result is the worst exit status."""
    try:
        settings = Settings.load(argv, environ)
        log = Log(settings.log_output_level, as_json=settings.log_as_json)
        names = list(dict.fromkeys(named(argv, settings)))
        refuse(settings, names)
    except CaptureError as error:
        init.report(error, Log(as_json=asks_for_json(argv, environ)))
        return error.exit_status
    remember_who_lives_where()
    statuses = dict.fromkeys(names, FAILED)
    unfinished = dict.fromkeys(names)
    for name, status, result in results(names, settings, environ):
        statuses[name] = status
        del unfinished[name]
        tell(name, status, result, as_json=settings.log_as_json)
    for name in unfinished:
        tell(name, FAILED, "not done: the process that worked for it was ended", as_json=settings.log_as_json)
    failed = sum(status != DONE for status in statuses.values())
    log.info(f"{len(names) - failed} of {len(names)} namespaces are done, {failed} failed")
    return max(statuses.values(), default=DONE)


def named(argv: Sequence[str], settings: Settings) -> Iterator[str]:
    """The namespaces that a command line names, in order."""
    for name in namespaces_in(argv) or [settings.network_namespace]:
        if name != LISTED:
            yield name
            continue
        if reader := reader_of_stdin(settings):
            raise BadSettings(
                [Refusal(f"flag {FLAG}", LISTED, f"{reader} has read standard input, which there is once")]
            )
        listed = sys.stdin.read(MOST + 1) if sys.stdin else ""
        if len(listed) > MOST:
            raise BadSettings([Refusal(f"flag {FLAG}", LISTED, f"reads a list that is longer than {MOST} characters")])
        lines = (line.strip() for line in listed.split("\n"))
        yield from (line for line in lines if line and not line.startswith("#"))


def reader_of_stdin(settings: Settings) -> str:
    """Which other setting was read from standard input; empty if none was."""
    read = (origin for name, origin in settings.origins.items() if origin.text == ("-" if name == "config" else "@-"))
    return next(map(str, read), "")


def refuse(settings: Settings, names: Sequence[str]) -> None:
    """Raises BadSettings for what makes no sense with many."""
    if settings.dry_run:
        reason = "prints the rules of one namespace; name only one, or leave out the dry run"
        raise BadSettings([Refusal(str(settings.origins["dry_run"]), None, reason)])
    if len(names) > MOST_NAMES:
        reason = f"names {len(names):,} namespaces; one command line is for {MOST_NAMES:,} at most"
        raise BadSettings([Refusal(f"flag {FLAG}", None, reason)])
    if "" in names:
        raise BadSettings([Refusal(f"flag {FLAG}", "", "names no namespace, among others that are named")])


def tell(name: str, status: int, result: str, *, as_json: bool) -> None:
    """A line of stdout: what became of a namespace."""
    if as_json:
        say(json_text({"namespace": name, "exit_status": status, "result": result}, indent=None))
    else:
        say(f"{on_one_line(name)}: {f'failed with status {status}: ' if status else ''}{result}")


# --- workers ------------------------------------------------------------------------------------------------


def results(names: Sequence[str], settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    """The namespaces as they are done, each with its exit status and how that reads."""
    # What is read from a pipe nobody else gets: each worker takes the next number, and none twice.
    waiting, numbers = os.pipe()
    if len(names) > HELD:
        fcntl(numbers, F_SETPIPE_SZ, 4 * len(names))
    os.write(numbers, b"".join(at.to_bytes(4, "big") for at in range(len(names))))
    os.close(numbers)
    incoming, outgoing = os.pipe()
    parent, workers = os.getpid(), []
    for _ in range(min(len(names), len(os.sched_getaffinity(0)), MOST_AT_ONCE)):
        pid = os.fork()
        if not pid:
            try:
                os.close(incoming)
                # Whoever waits for us may be ended meanwhile: then nothing more is begun.
                while (number := os.read(waiting, 4)) and os.getppid() == parent:
                    at = int.from_bytes(number, "big")
                    status, result = in_one(in_namespace(settings, names[at]), environ)
                    line = f"{at} {status} {one_line(result)[:LONGEST_RESULT]}\n"
                    os.write(outgoing, line.encode(errors="backslashreplace"))
            finally:
                os._exit(FAILED)
        workers.append(pid)
    os.close(outgoing)
    os.close(waiting)
    with open(incoming, encoding="utf-8") as lines:
        for line in lines:
            which, ended, said = line.removesuffix("\n").split(" ", 2)
            yield names[int(which)], int(ended), said
    for pid in workers:
        os.waitpid(pid, 0)


def in_namespace(settings: Settings, name: str) -> Settings:
    """The same settings for one namespace."""
    values = {each.name: getattr(settings, each.name) for each in DECLARED}
    origins = {**settings.origins, "network_namespace": Origin("flag", FLAG, name)}
    return Settings(values | {"network_namespace": name}, origins, settings.warnings)


def in_one(settings: Settings, environ: Mapping[str, str]) -> tuple[int, str]:
    """Do it in one namespace: the exit status, and how it ended in a sentence."""
    log = Told(settings.network_namespace, settings.log_output_level, as_json=settings.log_as_json)
    try:
        init.follow(settings, environ, log)
    except Exception as error:
        known = in_words(error)
        if known is None:
            # A mistake of ours, but the other namespaces need not suffer for it.
            sys.excepthook(type(error), error, error.__traceback__)
            return FAILED, f"{type(error).__name__}: {error}"
        log.error(*known.lines())
        return known.exit_status, known.in_one_line.removeprefix("capture failed: ")
    return DONE, log.last
