"""The entry of both console scripts: a command goes to click, anything else is the init path, which has no click."""

# No module is loaded before Ctrl-C can end us without a traceback: not even __future__, which is a file.
import _signal  # type: ignore[import-not-found] # what `signal` wraps, which takes its time to import
import os
import sys

NEED_CLICK = frozenset({"--help", "-h", "--version", "help", "version"})
"""First arguments that need click, besides the commands. Any other line is one that istio-iptables would be given."""

HELP = frozenset({"--help", "-h"})


def main() -> None:
    """Run what the command line asks for, and end the process. All that goes wrong in the outside world ends here."""
    # Ctrl-C ends us as SIGTERM does: at once, but where a change is under way. Somebody may have left us a SIGCHLD that
    # is ignored, and then no child's status is to be had.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    import gc  # built in, and only now, for the same reason as our own modules

    # We end soon, and what we give up is freed without looking for circles: only `watch` turns this on again.
    gc.disable()
    # Our own modules only now, lest Ctrl-C in the midst of loading them ends in a traceback.
    from capture.errors import in_words
    from capture.output import complain, open_streams

    open_streams()
    try:
        status = dispatch(sys.argv[1:])
    except Exception as error:
        known = in_words(error)
        if known is None:
            raise
        complain(known)
        status = known.exit_status
    sys.exit(status)


def dispatch(argv: list[str]) -> int:
    """The exit status of this command line."""
    from capture.commands import COMMANDS

    if (COMMANDS - {"apply"} | NEED_CLICK).intersection(argv[:1]) or not HELP.isdisjoint(argv):
        from capture.commands.base import main as commands

        commands(argv)
    from capture.init import run

    # A dictionary answers at once; `os.environ` encodes each of the hundred names that are asked for.
    return run(argv[1:] if argv[:1] == ["apply"] else argv, dict(os.environ))


if __name__ == "__main__":
    main()
