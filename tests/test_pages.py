"""Every command on every page is run and prints what the page shows; a short list says which are not, and why."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.rig.pod import ROOT, readable_source

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHELL, ELISION = "$ ", "…"
WALKED = "docs/start.md"
"""The page that is walked: its blocks follow each other. Those of other pages each have a namespace of their own."""
OWN_TESTS = {"docs/envoy/symptoms.md": "tests/envoy/test_symptoms.py"} | {
    str(page.relative_to(ROOT)): "tests/envoy/test_walks.py"
    for page in PAGES
    if page.parent.name == "envoy" and page.stem not in ("README", "symptoms")
}
"""Pages whose commands are run by a test of their own, which reads them there."""
NOT_RUN = {
    "docker ": "there is no engine here: tests/test_image.py builds and runs the image with other tools",
    "buildah build ": "tests/test_image.py does",
    "kubectl ": "there is no cluster here",
    "python3 place.py": "it goes on until Ctrl-C: tests/envoy/test_walks.py walks each page in what it makes",
    "useradd ": "it changes a host: tests/netns/test_hosts.py starts the units in one of its own",
    "install -m ": "it changes a host: tests/netns/test_hosts.py reads the units from where they lie",
    "systemctl ": "it changes a host: tests/netns/test_hosts.py asks a systemd of its own",
    "setpriv --reuid 1337 --regid 1337 --clear-groups envoy": "tests/envoy runs Envoy so",
    "capture completion fish | source": "it is fish's: tests/netns/test_completion.py drives the shell",
    "source <(capture completion zsh)": "it is zsh's: tests/netns/test_completion.py drives the shell",
    "capture-cni ": "it takes a node: tests/netns/test_cni_node.py runs it on one of its own",
}
"""What a page shows and this file does not run, by how it begins."""
RELEASE = "docs/releasing.md"
"""Its steps need an index of packages, and are walked at a release."""

COMMAND = re.compile(
    r"(\w+=\S+ )*(capture|istio-iptables|capture-cni|make|source|docker|podman|buildah|kubectl|setpriv|systemctl) \S"
)
"""How a command begins that stands in a block or a sentence, whether a test runs it or not."""
IN_A_SENTENCE = re.compile(r"(\w+=\S+ )*(capture|istio-iptables|capture-cni|make|source) \S")
OTHER_TOOLS = re.compile(r"nft list |ip6?tables-\w+-save|ip rule$|ip route show |ip netns list|conntrack -L")
"""Commands of others by which a reader looks at something."""
OUTSIDE = re.compile(r"^ *```.*?^ *```$|^<!-- before:.*?-->$", re.MULTILINE | re.DOTALL)
"""What is no text: blocks, and what is done before them."""
STANDS_FOR = {
    "…": "-u 1337",
    "SETTINGS": "-u 1337",
    "PID": "$$",
    "COMMAND": "trace",
    "bash|zsh|fish": "bash",
    "SHELL": "bash",
    "PROGRAM": "capture",
    "FILE": "bench.json",
}
"""What a reader puts in place of a word in a sentence's command."""
POD = """
mount -t tmpfs none /run/netns && mount --bind resolv.conf /etc/resolv.conf
ip link set lo up
"""
"""A place of its own: no name that anybody else sees, one nameserver."""
ADDRESS = """
ip link add eth0 type veth peer name outside
ip addr add 10.244.0.5/24 dev eth0
ip link set eth0 up
ip link set outside up
ip route add default via 10.244.0.9
"""
"""A pod as the examples have it: one IPv4 address, a way out, nothing captured."""


# --- blocks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A command as a page shows it, with what it prints and how it ends."""

    command: str
    shown: tuple[str, ...]
    status: int


@dataclass(frozen=True)
class Block:
    """A `console` block of a page."""

    page: str
    before: str
    """What is done first, in the comment above the block: what a reader does not see, and takes for granted."""
    examples: tuple[Example, ...]


def blocks(page: Path) -> Iterator[Block]:
    """Those that show a command, in order."""
    text = page.read_text(encoding="utf-8")
    for before, block in re.findall(
        r"(?:^<!-- before:\s(.*?)-->\n+)?^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        yield Block(str(page.relative_to(ROOT)), before, tuple(examples(block)))


def examples(block: str) -> Iterator[Example]:
    command, shown, status = "", list[str](), 0
    lines = iter(block.splitlines())
    for line in lines:
        if line == f"{SHELL}echo $?":
            status = int(next(lines))
        elif line.startswith(SHELL):
            if command:
                yield Example(command, tuple(shown), status)
            command, shown, status = line.removeprefix(SHELL), [], 0
            while command.endswith("\\"):
                command = command[:-1] + next(lines).strip()
        else:
            shown.append(line)
    yield Example(command, tuple(shown), status)


def reason(command: str) -> str:
    """Why a command is not run, or nothing."""
    return next((why for begins, why in NOT_RUN.items() if command.startswith(begins)), "")


def shown_blocks() -> Iterator[object]:
    for page in PAGES:
        name, found = str(page.relative_to(ROOT)), tuple(blocks(page))
        if name == WALKED:
            walk = tuple(example for block in found for example in block.examples)
            yield pytest.param(Block(name, "", walk), id=name)
        elif name not in OWN_TESTS:
            for block in found:
                if all(reason(example.command) for example in block.examples):
                    continue
                yield pytest.param(block, id=f"{name}: {block.examples[0].command[:60]}")


@pytest.mark.netns
@pytest.mark.parametrize("block", list(shown_blocks()))
def test_a_block_prints_what_the_page_shows(tmp_path: Path, block: Block) -> None:
    """Command by command, with the status that is shown, and the lines in their order; `…` is what is left out."""
    shown = [example for example in block.examples if not reason(example.command)]
    prepared = POD if block.page == WALKED else f"{POD}{ADDRESS}{block.before}"
    results = done(prepared, [example.command for example in shown], tmp_path)
    for example, (status, printed) in zip(shown, results, strict=True):
        assert status == example.status, f"{example.command}: {printed}"
        assert_shown(example, printed)


def done(prepared: str, commands: list[str], folder: Path) -> Iterator[tuple[int, str]]:
    """The status of each command and what it printed, in one shell in a namespace that nobody else sees."""
    (folder / "resolv.conf").write_text("nameserver 10.96.0.10\n")
    each = "\n".join(f"(\n{command.replace(ELISION, '-u 1337')}\n)\nprintf '\\036%s\\036' $?" for command in commands)
    script = f"exec </dev/null 2>&1\nset -e\n{prepared}\nset +e\nprintf '\\036'\n{each}"
    env = readable() if any("--reuid" in command for command in commands) else environ()
    ran = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        timeout=120,
        check=False,
    )
    prologue, *said = ran.stdout.split("\036")
    assert len(said) == 2 * len(commands) + 1, f"{prologue}{ran.stdout}{ran.stderr}"
    for printed, status in zip(said[::2], said[1::2], strict=False):
        yield int(status), printed


def environ() -> dict[str, str]:
    """One in which `capture` is the one that belongs to this Python."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}


def readable() -> dict[str, str]:
    """One in which every user may run `capture`, also where the checkout is in somebody's home."""
    source = readable_source()
    if source == str(ROOT):
        return environ()
    programs = Path(source) / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "capture").write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} -m capture "$@"\n')
    (programs / "capture").chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin", "PYTHONPATH": source}


def assert_shown(example: Example, printed: str) -> None:
    lines = iter(printed.splitlines())
    for shown in map(squeezed, example.shown):
        if shown and shown != ELISION:
            wanted = re.compile(".*".join(map(re.escape, shown.split(ELISION))))
            assert any(wanted.fullmatch(squeezed(line)) for line in lines), f"{shown}\n\nis not here in:\n{printed}"


def squeezed(line: str) -> str:
    """Without what differs from run to run or cannot be seen: the time, how long it took, and how wide a space is."""
    line = re.sub(r"^\d{4}-\d\d-\d\dT[\d:.]+Z|^\d\d:\d\d:\d\d", "", line).removeprefix(ELISION + " ")
    return " ".join(re.sub(r"\b[\d.]+ ms\b", "1 ms", line).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_stands_in_a_console_block(page: Path) -> None:
    """Nowhere else in a block, fenced or indented, where nothing would run it."""
    text = page.read_text(encoding="utf-8")
    if str(page.relative_to(ROOT)) == RELEASE:
        return
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for language, block in fenced if language != "console" for line in block.splitlines()]
    lines += re.findall(r"^ {4}(\S.*)$", OUTSIDE.sub("", text), re.MULTILINE)
    assert [line for line in lines if line.startswith(SHELL) or COMMAND.match(line)] == []


@pytest.mark.parametrize("begins", NOT_RUN)
def test_what_is_not_run_stands_on_a_page(begins: str) -> None:
    """The list is as short as it can be."""
    shown = [example.command for page in PAGES for block in blocks(page) for example in block.examples]
    assert any(command.startswith(begins) for command in [*shown, *sentences()])


@pytest.mark.parametrize("test", sorted(set(OWN_TESTS.values())))
def test_a_page_with_a_test_of_its_own_is_read_by_it(test: str) -> None:
    """It names the page, or asks here for its pages."""
    text = (ROOT / test).read_text(encoding="utf-8")
    assert "OWN_TESTS" in text or [page for page, its in OWN_TESTS.items() if its == test and page in text]


# --- sentences --------------------------------------------------------------------------------------------


def sentences() -> dict[str, list[str]]:
    """The commands in sentences and tables, each with the pages where it stands."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for paragraph in OUTSIDE.sub("", page.read_text(encoding="utf-8")).split("\n\n"):
            for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", paragraph):
                command = " ".join(span.replace("\\|", "|").split())
                if IN_A_SENTENCE.match(command) or OTHER_TOOLS.match(command):
                    found.setdefault(command, []).append(str(page.relative_to(ROOT)))
    return found


def to_be_run(command: str) -> str:
    """A sentence's command as a reader would type it."""
    for word, meant in STANDS_FOR.items():
        command = command.replace(word, meant)
    if re.match(r"(\w+=\S+ )*make ", command):
        return f"make -C {shlex.quote(str(ROOT))} --dry-run {command.replace('make ', '', 1)}"
    return f"{command} --for 1s" if command.startswith("capture watch") else command


@pytest.mark.netns
@pytest.mark.parametrize("number", range(8))
def test_a_command_in_a_sentence_is_one(tmp_path: Path, number: int) -> None:
    """In a pod that is captured: it is known, its arguments are understood, and it ends. Nothing printed is compared.

    One that is named without what it takes (`capture schema`) asks for that, and no more.
    """
    commands = [command for command in sorted(sentences()) if not reason(command)][number::8]
    assert commands
    begun = f"{POD}{ADDRESS}capture -u 1337 -m TPROXY"
    for command, (status, printed) in zip(
        commands, done(begun, [to_be_run(command) for command in commands], tmp_path), strict=True
    ):
        assert status in (0, 1, 3, 4, 5, 126) or ": is missing: " in printed or ": none is given" in printed, printed
        assert "Traceback" not in printed, f"{command}: {printed}"


# --- pod specs --------------------------------------------------------------------------------------------


def pod_specs() -> Iterator[object]:
    """What the pages and examples give as `args` or `command` of a container of ours."""
    for page in PAGES:
        for text in re.findall(r"\b(?:args|command)\"?: (\[[^\]]*\])", page.read_text(encoding="utf-8")):
            if "…" not in text:
                yield pytest.param(yaml.safe_load(text), id=f"{page.name}: {' '.join(text.split())[:60]}")


@pytest.mark.netns
@pytest.mark.parametrize("arguments", list(pod_specs()))
def test_the_arguments_of_a_pod_spec_are_understood(tmp_path: Path, arguments: list[str]) -> None:
    """By a dry run."""
    [(status, printed)] = done(f"{POD}{ADDRESS}", [shlex.join(["capture", *arguments, "-n"])], tmp_path)
    assert status == 0, printed
