"""The entry of `capture-cni`: called by a container runtime, or by a person with one of its commands."""

from __future__ import annotations

import os
import sys

from capture.errors import DONE, REFUSED, in_words

LARGEST = 1 << 24
"""Bytes of a configuration. One that lists what it may drop (GC) has a hundred for each container."""

USAGE = """\
usage: capture-cni install|uninstall|repair …        put the plugin into a node's chain, take it out, capture old pods
       CNI_COMMAND=ADD … capture-cni < configuration   what a container runtime asks

Nothing was touched. capture-cni --help lists the commands.
"""


def main() -> None:
    """Do what the runtime's variables or the command line ask for, and end the process."""
    import _signal  # type: ignore[import-not-found] # what `signal` wraps, which takes its time to import

    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    import gc

    # We end soon, and what we give up is freed without looking for circles.
    gc.disable()
    from capture.bundle import use

    use()
    from capture.output import open_streams

    open_streams()
    if "CNI_COMMAND" in os.environ or not (sys.argv[1:] or os.isatty(0)):
        sys.exit(called())
    if not sys.argv[1:]:
        sys.stderr.write(USAGE)
        sys.exit(REFUSED)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from capture.cni.node import command

    try:
        status = command(sys.argv[1:])
    except Exception as error:
        known = in_words(error)
        if known is None:
            raise
        from capture.log import complain

        complain(known)
        status = known.exit_status
    sys.exit(status)


def called() -> int:
    """Answer the runtime: one JSON object on stdout, or none."""
    from capture.cni import plain_json
    from capture.cni.protocol import answer
    from capture.output import print_for_programs
    from rules.cni.spec import IO_FAILURE, NEWEST, UNDECODABLE, Failure

    try:
        status, result = answer(dict(os.environ), stdin())
    except UnicodeDecodeError as error:
        status, result = 1, Failure(UNDECODABLE, f"the configuration on stdin is not UTF-8: {error}").result(NEWEST)
    except Exception as error:
        # stdout is read as JSON, whatever happened to us; the traceback of a mistake of ours goes to stderr.
        known = in_words(error)
        told = known.what if known else f"a mistake of the plugin: {type(error).__name__}: {error}"
        print_for_programs(plain_json.written(Failure(IO_FAILURE if known else 999, told).result(NEWEST)) + "\n")
        if known is None:
            raise
        return 1
    if result is not None:
        print_for_programs(f"{plain_json.written(result)}\n")
    return status or DONE


def stdin() -> str:
    """All that the runtime gives us to read. Raises OSError."""
    import errno

    parts, left = [], LARGEST
    while part := os.read(0, 1 << 16):
        left -= len(part)
        if left < 0:
            raise OSError(errno.EFBIG, f"it is larger than {LARGEST} bytes", "stdin")
        parts.append(part)
    return b"".join(parts).decode()
