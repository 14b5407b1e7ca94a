"""Which room may import from which: one way, so that a reader finds what a room stands on and never comes back."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.rig.pod import ROOT
from tests.unit.test_purity import only_for_the_type_checker, parsed

ROOMS = (
    "rules.value",
    "rules.addresses",
    "rules.lists",
    "rules.netfilter",
    "rules.routing",
    "rules.iptables",
    "rules.meaning",
    "rules.nftables",
    "rules.plan",
    "rules.analysis",
    "rules.ours",
    "rules.live",
    "rules.native",
    "rules.connections",
    "rules.packets",
    "rules.simulator",
    "rules.journeys",
    "rules.proof",
    "rules.explain",
    "rules.picture",
    "rules.cni",
    "capture.text",
    "capture.errors",
    "capture.output",
    "capture.style",
    "capture.log",
    "capture.schemas",
    "capture.kernel",
    "capture.netlink",
    "capture.iptables",
    "capture.config",
    "capture.lists",
    "capture.settings",
    "capture.sight",
    "capture.host",
    "capture.intent",
    "capture.steps",
    "capture.apply",
    "capture.validation",
    "capture.preflight",
    "capture.inspect",
    "capture.screen",
    "capture.watch",
    "capture.trace",
    "capture.support",
    "capture.help",
    "capture.completion",
    "capture.dry_run",
    "capture.init",
    "capture.many",
    "capture.bundle",
    "capture.bundling",
    "capture.cni",
    "capture.inject",
    "capture.commands",
    "capture.__main__",
)
"""From the ground up: a room imports from those above it in this list, and from itself."""
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for top in ("rules", "capture")
    for file in sorted((ROOT / top).rglob("*.py"))
}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@cache
def imports(module: str, *, run: bool = False) -> set[str]:
    """The modules of ours that this one imports; with `run`, without those that only the type checker reads."""
    found = set()
    tree = parsed(MODULES[module])
    guarded = only_for_the_type_checker(tree) if run else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in guarded:
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                found.add(within if within in MODULES else str(node.module))
    return found & MODULES.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_imports_run_one_way_between_rooms(module: str) -> None:
    """Every module is in a room of the list, and imports from its own room and those above it there."""
    for other in imports(module):
        if "." in other:  # the package's own name holds the version and nothing else
            assert ROOMS.index(room_of(other)) <= ROOMS.index(room_of(module)), f"{module} imports {other}"


ACTING = ("capture.steps", "capture.apply")


def test_those_who_look_do_not_import_those_who_act() -> None:
    """What a run would change is pure, and asked of `rules.live`. A trial of a run acts, in a namespace of its own."""
    looking = [module for module in MODULES if room_of(module) in ("capture.inspect", "capture.watch", "capture.trace")]
    acting = {module: {other for other in imports(module) if room_of(other) in ACTING} for module in looking}
    assert {module: others for module, others in acting.items() if others} == {}


def test_no_module_comes_back_to_itself() -> None:
    """Neither inside a room nor through several, by imports that run."""
    run = {module: imports(module, run=True) for module in MODULES}

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            for other in run[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    assert [module for module in MODULES if module in reached(module)] == []


def test_no_command_is_imported_by_another_module() -> None:
    """What two commands need belongs to neither."""
    from capture.commands import COMMANDS

    commands = {f"capture.commands.{name}" for name in COMMANDS}
    assert {(module, other) for module in MODULES for other in imports(module) & commands} == set()


MOST_LINES = {"rules.picture": 2200}
"""Of a room, where it may be more than 1,500: the writers of three formats of picture, and their layout."""


@pytest.mark.parametrize("room", [room for room in ROOMS if "." in room])
def test_a_room_can_be_known_in_an_afternoon(room: str) -> None:
    """A room that grows beyond this holds two things by now: find the second one, and give it a room."""
    lines = sum(file.read_text().count("\n") for module, file in MODULES.items() if room_of(module) == room)
    assert lines <= MOST_LINES.get(room, 1500)
