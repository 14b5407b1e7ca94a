"""Each file in `cases` is a command line, an empty line, and what it prints, to the letter.

The word before the `$` is the pod it runs in, by the addresses it has: `ipv4`, `dual`, `ipv6`, or `bare` for none.
Variables may stand before the command. Below stdout stand the warnings and errors of stderr without their time, each
behind `! `, and the exit status if it is not 0. `--update-golden` or UPDATE_GOLDEN=1 rewrites all but the first line.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rules.iptables.reading import tables
from rules.iptables.writing import rule_text
from tests.rig import Namespace
from tests.rig.in_process import capture
from tests.rig.memory import Memory
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = sorted((Path(__file__).parent / "cases").glob("*.txt"))
ADDRESSES = {
    "ipv4": ("10.244.0.5/32",),
    "dual": ("10.244.0.5/32", "fd00:244::5/128"),
    "ipv6": ("fd00:244::5/128",),
    "bare": (),
}
LOGGED = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z\t(\w+)\t")


@pytest.fixture(scope="module")
def pods() -> Iterator[dict[str, Namespace]]:
    """A namespace for each set of addresses. Nothing is ever applied in them."""
    with Namespace("ipv4") as ipv4, Namespace("dual") as dual, Namespace("ipv6") as ipv6, Namespace("bare") as bare:
        made = {"ipv4": ipv4, "dual": dual, "ipv6": ipv6, "bare": bare}
        for name, addresses in ADDRESSES.items():
            for address in addresses:
                made[name].ip("addr", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
        yield made


def printed(line: str, pods: dict[str, Namespace]) -> str:
    """What the command on the first line of a case prints, as the lower half of the file has it."""
    pod, _, command = line.partition("$ ")
    words = shlex.split(command)
    at = words.index("capture")
    environ = dict(word.split("=", 1) for word in words[:at])
    environ |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = pods[pod].run(sys.executable, "-m", *words[at:], env=environ)
    return as_written(done.returncode, done.stdout, done.stderr)


def as_written(status: int, stdout: str, stderr: str) -> str:
    """The lower half of a case."""
    parts = [stdout, *(f"! {said}\n" for said in worth_saying(stderr))]
    if status:
        parts.append(f"exit status {status}\n")
    return "".join(parts)


def worth_saying(stderr: str) -> Iterator[str]:
    """The lines of warnings and errors, without their time, and what was printed without the log."""
    level = "error"
    for line in stderr.splitlines():
        logged = LOGGED.match(line)
        level = logged[1] if logged else level
        if level in ("warn", "error"):
            yield f"{level}: {line[logged.end() :]}" if logged else line


@pytest.mark.netns
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_command_prints_its_golden_output(
    case: Path, pods: dict[str, Namespace], request: pytest.FixtureRequest
) -> None:
    """To the letter."""
    line, _, expected = case.read_text().partition("\n")
    found = printed(line, pods)
    if request.config.getoption("--update-golden", default=False) or os.environ.get("UPDATE_GOLDEN"):
        case.write_text(f"{line}\n\n{found}")
    else:
        assert found == expected.removeprefix("\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_command_prints_its_golden_output_on_a_kernel_in_memory(case: Path) -> None:
    """To the letter, without root: what is found in a pod comes through the seam alone."""
    line, _, expected = case.read_text().partition("\n")
    pod, _, command = line.partition("$ ")
    words = shlex.split(command)
    at = words.index("capture")
    environ = dict(word.split("=", 1) for word in words[:at])
    ended = capture(Memory(*ADDRESSES[pod]), *words[at + 1 :], environ=environ)
    assert as_written(*ended) == expected.removeprefix("\n")


def golden_rules(name: str) -> list[str]:
    """The lines between `*nat` and `COMMIT` of a golden output."""
    text = (Path(__file__).parent / "cases" / f"{name}.txt").read_text()
    return text.partition("*nat\n")[2].partition("\nCOMMIT")[0].splitlines()


def test_the_rules_of_1_20_1_are_those_that_were_recorded(shared: Path) -> None:
    """Rule for rule, in their order: what a user of Istio 1.20.1 found in the log of istio-init."""
    (seed,) = (shared / "seeds").glob("003_*.txt")
    text = seed.read_text().partition("Running iptables-restore with the following input:")[2]
    lines = text.partition("COMMIT")[0].splitlines()
    recorded = [line.partition(" //")[0] for line in lines if line.startswith("-")]
    assert len(recorded) == 22
    assert golden_rules("pod_spec_1_20_1") == recorded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_golden_ruleset_can_be_parsed(case: Path) -> None:
    """What is printed is save text with every rule's words understood by our own parser."""
    _, _, expected = case.read_text().partition("\n\n")
    blocks = re.findall(r"^\*(?:.|\n)*?^COMMIT$", expected, flags=re.MULTILINE)
    for block in blocks:
        (table,) = tables(block + "\n")
        rules = [rule_text(rule) for rules in table.blocks for rule in rules.rules]
        lines = [line.split(" ", 2)[2] for line in block.splitlines() if line.startswith("-A ")]
        assert rules == lines
