"""A command line of ours run in this process, on a kernel that stands in for that of the host: no root, no start."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

from capture.__main__ import dispatch
from capture.errors import in_words
from capture.log import complain
from capture.output import Output
from capture.settings.declared import asks_for_json

if TYPE_CHECKING:
    from collections.abc import Mapping


class Ended(NamedTuple):
    """What a command printed, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


def capture(*argv: str, environ: Mapping[str, str] | None = None) -> Ended:
    """Run `capture` with these arguments and variables, with streams of ours, as the program has them."""
    with (
        TemporaryFile() as out,
        TemporaryFile() as err,
        patch.dict(os.environ, environ or {}, clear=True),
        redirect_stdout(Output(out.fileno(), "utf-8", must_be_heard=True)),
        redirect_stderr(Output(err.fileno(), "utf-8", must_be_heard=False)),
    ):
        try:
            status = dispatch(list(argv))
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
