"""The help of `capture-cni`."""

from __future__ import annotations

from click.testing import CliRunner

from capture.cni.node import group


def test_the_summaries_of_the_commands_are_whole() -> None:
    """In the list of commands, on a terminal of 80 columns."""
    listed = CliRunner().invoke(group, ["--help"]).output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == ["install", "repair", "uninstall"]
    assert [line for line in listed if not line.endswith(".") or line.endswith("...") or len(line) > 80] == []
