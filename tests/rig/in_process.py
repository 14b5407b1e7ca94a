"""A command line of ours run in this process, on a kernel that stands in for that of the host: no root, no start."""

from __future__ import annotations

import os
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

from capture.__main__ import dispatch
from capture.cni.node import command
from capture.cni.program import called
from capture.errors import in_words
from capture.kernel.seam import standing_in
from capture.log import complain
from capture.output import Output
from capture.settings.declared import asks_for_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from capture.kernel.seam import Kernel


class Ended(NamedTuple):
    """What a command printed, and how it ended."""

    status: int
    stdout: str
    stderr: str


@contextmanager
def given(text: str) -> Iterator[None]:
    """On standard input."""
    former = os.dup(0)
    with TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(former, 0)
            os.close(former)


def capture(kernel: Kernel, *argv: str, environ: Mapping[str, str] | None = None, stdin: str = "") -> Ended:
    """Run `capture` with these arguments and no variables but these."""
    return ended(kernel, dispatch, argv, environ or {}, stdin)


def capture_cni(kernel: Kernel, *argv: str, environ: Mapping[str, str] | None = None, stdin: str = "") -> Ended:
    """Run `capture-cni`, as people do, or, without arguments, as a runtime does."""
    act = (lambda _: called()) if not argv else command
    return ended(kernel, act, argv, environ or {}, stdin)


def ended(
    kernel: Kernel, act: Callable[[list[str]], int], argv: Sequence[str], environ: Mapping[str, str], stdin: str
) -> Ended:
    """Act with streams of ours, as our programs have them, and tell what is wrong as they do."""
    with (
        standing_in(kernel),
        given(stdin),
        TemporaryFile() as out,
        TemporaryFile() as err,
        patch.dict(os.environ, environ, clear=True),
        redirect_stdout(Output(out.fileno(), "utf-8", must_be_heard=True)),
        redirect_stderr(Output(err.fileno(), "utf-8", must_be_heard=False)),
    ):
        try:
            status = act(list(argv))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except Exception as error:
            known = in_words(error)
            if known is None:
                raise
            complain(known, as_json=asks_for_json(argv, os.environ))
            status = known.exit_status
        out.seek(0)
        err.seek(0)
        return Ended(status, out.read().decode(), err.read().decode())
