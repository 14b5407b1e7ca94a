"""What there is at the cursor of a command line."""

from __future__ import annotations

import click
import pytest

from capture.commands import COMMANDS
from capture.commands.base import group
from capture.completion.candidates import candidates
from capture.completion.scripts import SHELLS, script
from capture.settings.declared import DECLARED, REMOVING


def offered(*words: str) -> list[str]:
    return [it.value for it in candidates(words, group, COMMANDS)]


def test_commands_come_first() -> None:
    """Every command, help and version; behind istio-iptables as well, which injectors put there."""
    assert set(offered("")) == {*COMMANDS, "help", "version"}
    assert offered("") == offered("istio-iptables", "") == offered()


def test_a_command_offers_what_it_takes_and_no_more() -> None:
    """clean the settings of a removal, apply all; each by its long and its short name."""
    everything = {flag for setting in DECLARED for flag in (setting.long, setting.short) if flag}
    assert everything <= set(offered("apply", "-"))
    assert set(offered("-")) == set(offered("apply", "-"))
    removing = {flag for it in DECLARED if it.name in REMOVING for flag in (it.long, it.short) if flag}
    assert set(offered("clean", "-")) == removing | {"--output", "--color", "--help"}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--ipv6", ""], ["auto", "on", "off", "reject"]),
        (["--ipv6=r"], ["--ipv6=reject"]),
        (["-m", "T"], ["TPROXY"]),
        (["--dry-run=t"], ["--dry-run=true"]),
        (["--dry-run", ""], []),
        (["--dry-run", "--redirect-d"], ["--redirect-dns"]),
        (["-p", ""], []),
        (["trace", "--state", "e"], ["established"]),
        (["trace", "--live", ""], []),
        (["graph", "--format", ""], ["svg", "mermaid", "dot"]),
        (["help", "ch"], ["check"]),
        (["help", "trace", ""], []),
        (["render", "--", "-"], []),
        (["completion", ""], list(SHELLS)),
        (["completion", "zsh", ""], []),
    ],
)
def test_a_flag_that_waits_offers_its_values(words: list[str], values: list[str]) -> None:
    """Those that can be told in full; behind an equals sign with the flag before them."""
    assert offered(*words) == values


def test_every_command_is_told_in_a_line() -> None:
    """Each has its words, in the list of commands and behind a Tab, and they fit a terminal of 80 columns."""
    context = click.Context(group)
    for name, about in COMMANDS.items():
        assert group.get_command(context, name)
        assert about.endswith((".", "?"))
        assert len(about) <= 60
    assert all("\t" not in it.about and len(it.about) <= 70 for it in candidates(["-"], group, COMMANDS))


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_serve_both_names(shell: str) -> None:
    """And ask by a command that no former version and no istio-iptables takes for a run."""
    text = script(shell)
    assert "istio-iptables" in text
    assert "completion candidates -- " in text
