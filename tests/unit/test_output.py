"""Where text leaves: nothing of others is obeyed by a terminal, and nothing that a stream may be breaks us."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.errors import CaptureError, OutputLost, in_words
from capture.log import Log
from capture.output import Output, colour, json_text
from capture.text import ESC, one_line, spelled_out

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = (
    "\x1b[2J",
    "\r",
    "\x00",
    "\x7f",
    "\x85",
    "\x9b2J",
    "\u2028",
    "\u202e",
    "\u2066",
    "\u2069",
    "\udcff",
    "\ufeff",
)
ANY_TEXT = st.text(st.characters(exclude_characters=ESC) | st.sampled_from([c for text in HOSTILE for c in text]))
"""Whatever text there is, surrogates included; what stands for our own escape character comes from nobody else."""


@given(text=ANY_TEXT)
def test_whatever_it_is_it_shows_on_one_line(text: str) -> None:
    """And what shows anyway is left as it is."""
    shown = one_line(text)
    assert shown.isprintable()
    assert one_line(shown) == shown
    assert not text.isprintable() or shown == text


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Two ends, for reading and for writing."""
    reading, writing = os.pipe()
    yield reading, writing
    for file in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(file)


def written(
    pipe: tuple[int, int], text: str, *, encoding: str = "utf-8", in_colour: bool = False, terminal: bool = False
) -> bytes:
    output = Output(pipe[1], encoding, must_be_heard=True)
    output.in_colour, output.is_terminal = in_colour, terminal
    assert output.write(text) == len(text)
    return os.read(pipe[0], 1 << 16)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("wanted", "after"), [("auto", None), ("never", False), ("always", True)])
def test_colours_are_as_wanted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, wanted: str, *, after: bool | None, before: bool
) -> None:
    """With `auto` as the stream has found them to be of use. One that is not ours has none to switch."""
    output = Output(pipe[1], "utf-8", must_be_heard=True)
    output.in_colour = before
    monkeypatch.setattr(sys, "stdout", output)
    colour(wanted)
    assert output.in_colour is (before if after is None else after)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_obey_is_spelled_out(pipe: tuple[int, int], text: str) -> None:
    """Also where we write in colour; only line breaks, tabs and what is ours pass."""
    for in_colour in (True, False):
        got = written(pipe, f"a\tb{text}\n", in_colour=in_colour).decode()
        assert got == f"a\tb{spelled_out(text)}\n"
        assert got.replace("\n", "").replace("\t", "").isprintable()


def test_our_own_colours_pass_where_they_are_of_use(pipe: tuple[int, int]) -> None:
    """And vanish elsewhere."""
    assert written(pipe, f"{ESC}[31mred{ESC}[0m", in_colour=True) == b"\x1b[31mred\x1b[0m"
    assert written(pipe, f"{ESC}[31mred{ESC}[0m") == b"red"
    for in_colour in (True, False):
        assert written(pipe, f"{ESC}[?25h{ESC}[K.", in_colour=in_colour, terminal=True) == b"\x1b[?25h\x1b[K."
        assert written(pipe, f"{ESC}[?25h{ESC}[K.", in_colour=in_colour) == b"."
    assert written(pipe, f"{ESC}[31mred{ESC}[0m", terminal=True) == b"red"


@pytest.mark.parametrize(("encoding", "got"), [("latin-1", b"\\u2192 \xe9"), ("ascii", b"\\u2192 \\xe9")])
def test_what_the_encoding_lacks_is_spelled_out(pipe: tuple[int, int], encoding: str, got: bytes) -> None:
    """No text is refused."""
    assert written(pipe, "→ é", encoding=encoding) == got


@given(text=ANY_TEXT)
def test_json_stays_json(text: str) -> None:
    """It reads back, and nothing in it is obeyed by a terminal."""
    told = json_text({"key": [text]})
    assert all(c.isprintable() or c == "\n" for c in told)
    assert json.loads(told) == json.loads(json.dumps({"key": [text]}))


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "iso8859-15"])
def test_json_reads_back_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """What the encoding lacks is escaped as JSON escapes it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    told = json_text("é → 😀")
    assert json.loads(told.encode(encoding).decode(encoding)) == "é → 😀"


def test_a_reader_that_went_away_has_seen_enough(pipe: tuple[int, int]) -> None:
    """What is written after that is nobody's loss."""
    output = Output(pipe[1], "utf-8", must_be_heard=True)
    os.close(pipe[0])
    assert output.write("one\n") == 4
    assert output.is_lost
    output.write("two\n")


def test_what_cannot_be_written_is_an_error_in_words_once() -> None:
    """Of stdout; without stderr it is only a pity."""
    with open("/dev/full", "w") as full:
        output = Output(full.fileno(), "utf-8", must_be_heard=True)
        with pytest.raises(OutputLost, match="No space left on device"):
            output.write("x")
        output.write("y")
        Output(full.fileno(), "utf-8", must_be_heard=False).write("x")


def test_a_stream_that_does_not_wait_for_its_reader_is_waited_for(pipe: tuple[int, int]) -> None:
    """As one that a parent made non-blocking for its own use: all of it comes through."""
    os.set_blocking(pipe[1], False)
    text = "x" * 300_000
    child = os.fork()
    if not child:
        os.close(pipe[0])
        Output(pipe[1], "utf-8", must_be_heard=True).write(text)
        os._exit(0)
    os.close(pipe[1])
    got = b""
    while part := os.read(pipe[0], 1 << 16):
        got += part
    os.waitpid(child, 0)
    assert got.decode() == text


# --- the log ------------------------------------------------------------------------------------------------


FORGED = "a\n2026-01-01T00:00:00.000000Z\tinfo\tThe capture is in place"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_of_the_log_is_one_line(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """Whatever is in it; what is several lines says so."""
    Log(as_json=as_json).warn(FORGED, "second")
    said = capsys.readouterr().err
    assert not any(line.startswith("2026-01-01") for line in said.splitlines())
    assert said.count("\n") == (1 if as_json else 2)


def test_no_part_of_an_error_forges_a_line() -> None:
    """Neither what, nor details, nor hint; what a child said may have several lines, and is indented."""
    error = CaptureError(FORGED, details=[("it said", FORGED)], hint=FORGED)
    lines = list(error.lines())
    assert len(lines) == 4
    assert all(line.isprintable() and not line.startswith("2026") for line in lines)
    assert error.in_one_line.isprintable()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/proc/locks"), "/proc/locks: Too many open files"),
        (OSError("odd"), "odd"),
        (OSError(), "OSError"),
        (FileNotFoundError(errno.ENOENT, "No such file", b"\xff\n"), "No such file"),
        (MemoryError(), "there is not enough memory"),
        (SystemError("error return without exception set"), "Python itself failed"),
        (ModuleNotFoundError("No module named 'pydantic'"), "No module named 'pydantic'"),
    ],
)
def test_the_outside_world_is_told_in_words(error: BaseException, says: str) -> None:
    """And a mistake of ours is not: it keeps its traceback."""
    told = in_words(error)
    assert told
    assert says in told.what
    assert in_words(KeyError("x")) is None
