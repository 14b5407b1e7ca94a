"""Where all text leaves: stdout and stderr that take any text, and cannot fail half way.

Names, comments and values come from whoever is in the namespace, so what a terminal would obey or hide (control
characters, line breaks of other alphabets, marks that turn the writing direction, bytes that are no UTF-8) is spelled
out as `\\x1b` or `\\u202e`. Only this module lets escape sequences of our own through.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from capture.errors import OutputLost
from capture.text import ESC, one_line, spelled_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

STANDARD = range(3)

USAGE = """\
usage: capture [-p PORT] [-z PORT] [-u UID] …     capture the traffic of this network namespace
       capture COMMAND …                          look, remove, explain

Nothing was touched: at a terminal, the name alone captures nothing.

  capture apply                        captures everything, with the defaults of all settings
  capture -p 15001 -z 15006 -u 1337    the same, said in full
  capture -n                           what that would do
  capture check                        whether it would work here
  capture --help                       all commands
"""
"""What a person is told who types our name alone."""


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """The value as JSON in which everything that does not show is escaped, as is what stdout's encoding lacks."""
    import json

    if not sys.stdout.encoding.lower().startswith("utf"):
        return json.dumps(value, indent=indent)
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # Line breaks of strings are escaped already: these are the layout's.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class Output(io.TextIOBase):
    """A standard stream. What its encoding lacks is spelled out too; a reader that went away has seen enough."""

    def __init__(self, descriptor: int, encoding: str, *, must_be_heard: bool) -> None:
        self.descriptor = descriptor
        self._encoding = encoding
        self.must_be_heard = must_be_heard
        """Whether it is an error that nothing can be written, and not only a pity."""
        self.is_lost = False
        """Whether writing failed: then nothing more is tried."""
        self.is_terminal = os.isatty(descriptor)
        """Whether our own escape sequences are of use there."""
        self.in_colour = self.is_terminal and not is_plain(os.environ)
        """Whether those that colour are wanted."""
        self.make_room: Callable[[bytes], None] | None = None
        """Takes away what stands on the terminal only until something is said."""

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only here
        return self._encoding

    errors = "backslashreplace"

    @property
    def name(self) -> str:
        return {1: "stdout", 2: "stderr"}.get(self.descriptor, f"descriptor {self.descriptor}")

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Raises OutputLost if it must be heard, and cannot."""
        self.write_as_it_is(self.shown(text).encode(self._encoding, self.errors))
        return len(text)

    def shown(self, text: str) -> str:
        """What of the text reaches the reader."""
        safe = spelled_out(text, f"\n\t{ESC}")
        if ESC not in safe:
            return safe
        if not (self.is_terminal and self.in_colour):
            import re

            if not self.in_colour:
                safe = re.sub(f"{ESC}\\[[0-9;]*m", "", safe)
            if not self.is_terminal:
                safe = re.sub(f"{ESC}\\[[0-9;?]*[A-Za-ln-z]", "", safe)
        return safe.replace(ESC, "\x1b")

    def write_as_it_is(self, data: bytes) -> None:
        """The same for what another program is to read."""
        if self.make_room:
            self.make_room(data)
        while data and not self.is_lost:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                wait_for_room(self.descriptor)
            except OSError as error:
                self.is_lost = True
                if self.must_be_heard and error.errno != errno.EPIPE:
                    raise OutputLost(
                        f"cannot write to {self.name}: {error.strerror}",
                        hint="what was to be done is done, but for telling it",
                    ) from error


def is_plain(environ: Mapping[str, str]) -> bool:
    """Whether a terminal is to be spared colours: NO_COLOR says so (no-color.org), or it is one that has none."""
    return bool(environ.get("NO_COLOR")) or environ.get("TERM", "dumb") == "dumb"


def colour(wanted: str) -> None:
    """Colour what is printed from now on `always`, `never`, or, with `auto`, where a terminal can show it."""
    if wanted != "auto" and isinstance(sys.stdout, Output):
        sys.stdout.in_colour = wanted == "always"


def wait_for_room(descriptor: int) -> None:
    """Until a stream that was made not to wait for its reader takes more."""
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


AT_ONCE = 500
"""Lines that are written together."""


def open_streams() -> None:
    """Take over stdout and stderr. One that was closed leads nowhere, lest a file that we open gets its number."""
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            try:
                # It gets the lowest number that is free, which is this one.
                os.open(os.devnull, os.O_RDWR)
            except OSError:
                continue
    sys.stdout = output(1, sys.stdout, must_be_heard=True)
    sys.stderr = output(2, sys.stderr, must_be_heard=False)


def output(descriptor: int, former: Any, *, must_be_heard: bool) -> Output:
    return Output(descriptor, getattr(former, "encoding", None) or "utf-8", must_be_heard=must_be_heard)


def print_for_programs(text: str) -> None:
    """Print to stdout what another program is to read, byte for byte; a terminal is none."""
    if isinstance(sys.stdout, Output) and not sys.stdout.isatty():
        sys.stdout.write_as_it_is(text.encode(errors="surrogateescape"))
    else:
        sys.stdout.write(text)


def say(*lines: str) -> None:
    """Print each of these on one line of stdout, whatever is in it. In colour on a terminal, unless told otherwise."""
    for at in range(0, len(lines), AT_ONCE):
        sys.stdout.write("".join(f"{one_line(line)}\n" for line in lines[at : at + AT_ONCE]))


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """Print this as JSON."""
    sys.stdout.write(f"{json_text(value, indent=indent)}\n")


def nobody_reads() -> bool:
    """Whether the reader of stdout went away."""
    return isinstance(sys.stdout, Output) and sys.stdout.is_lost
