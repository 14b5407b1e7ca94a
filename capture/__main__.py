"""The entry of both console scripts: a command goes to click, anything else is the init path, which has no click."""

from __future__ import annotations

import os
import sys

from capture.commands import COMMANDS

NEED_CLICK = COMMANDS - {"apply"} | {"--help", "-h", "--version", "help", "version"}
"""First arguments that need click. Any other command line is one that istio-iptables would be given."""

HELP = frozenset({"--help", "-h"})


def main() -> None:
    argv = sys.argv[1:]
    if NEED_CLICK.intersection(argv[:1]) or not HELP.isdisjoint(argv):
        from capture.commands.base import main as commands

        commands(argv)
    else:
        from capture.init import run

        sys.exit(run(argv[1:] if argv[:1] == ["apply"] else argv, os.environ))


if __name__ == "__main__":
    main()
