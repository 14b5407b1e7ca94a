"""The entry of both console scripts: a command goes to click, anything else is the init path, which has no click."""

# No module is loaded before Ctrl-C can end us without a traceback: not even __future__, which is a file.
import _signal  # type: ignore[import-not-found] # what `signal` wraps, which takes its time to import
import os
import sys

NAMELESS = ("apply", "istio-iptables")
"""First arguments that are no flag, and no command of click's: the nameless command's name, and what injectors put
first, because the reference's image is entered through another program."""

HELP = ("--help", "-h")  # no call stands out here: Python looks for Ctrl-C at each

COMPLETION = ("_CAPTURE_COMPLETE", "_ISTIO_IPTABLES_COMPLETE")
"""By these click is asked for completion, by the line that its manual says. Never is a run meant by that."""


def main() -> None:
    """Run what the command line asks for, and end the process. All that goes wrong in the outside world ends here."""
    # Ctrl-C ends us as SIGTERM does: at once, but where a change is under way. Somebody may have left us a SIGCHLD that
    # is ignored, and then no child's status is to be had.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    import gc  # built in, and only now, for the same reason as our own modules

    # We end soon, and what we give up is freed without looking for circles: only `watch` turns this on again.
    gc.disable()
    from capture.bundle import use

    use()
    # Our own modules only now, lest Ctrl-C in the midst of loading them ends in a traceback.
    from capture.errors import in_words
    from capture.output import open_streams

    open_streams()
    if os.isatty(2) and sys.argv[1:2] != ["watch"]:  # which draws for itself
        from capture.screen.progress import begin

        begin()
    try:
        status = dispatch(sys.argv[1:])
    except Exception as error:
        known = in_words(error)
        if known is None:
            raise
        from capture.log import complain
        from capture.settings.declared import asks_for_json

        complain(known, as_json=asks_for_json(sys.argv[1:], os.environ))
        status = known.exit_status
    sys.stderr.write("")  # takes away what tells how long it takes
    # All is written (our streams keep nothing back), and the kernel closes our files. Taking apart what Python has
    # loaded, object by object, would cost an eighth of a run.
    os._exit(status)


def dispatch(argv: list[str]) -> int:
    """The exit status of this command line."""
    asked_for_completion = [name for name in COMPLETION if name in os.environ]
    if asked_for_completion:
        from capture.completion import answer_click

        return answer_click(asked_for_completion[0], os.environ[asked_for_completion[0]])
    if is_for_click(argv):
        from capture.commands.base import main as commands

        commands(argv)
    from capture.init import is_bare, run
    from capture.kernel.netns import names_many

    # A dictionary answers at once; `os.environ` encodes each of the hundred names that are asked for.
    environ = dict(os.environ)
    if argv in ([], ["istio-iptables"]) and is_bare(environ):
        from capture.errors import REFUSED
        from capture.output import USAGE

        sys.stderr.write(USAGE)
        return REFUSED
    argv = argv[1:] if argv[:1] == ["apply"] else argv
    if names_many(argv, environ):
        from capture.many import run
    return run(argv, environ)


def is_for_click(argv: list[str]) -> bool:
    """Whether a command is named, or what people ask of any program. Any other line is one of istio-iptables."""
    first = argv[0] if argv else "-"
    return first == "--version" or (first[:1] != "-" and first not in NAMELESS) or any(word in argv for word in HELP)


if __name__ == "__main__":
    main()
