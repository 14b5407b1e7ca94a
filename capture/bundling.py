"""Makes the file of modules that `capture.bundle` uses: what runs load, in the order in which it can be run."""

from __future__ import annotations

import marshal
import os
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from typing import TYPE_CHECKING

from capture.bundle import FILE, FOLDER, LENGTH, VERSION, stamp_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import ClassVar

    from capture.bundle import Kept, Place

LEADERS = (
    "capture.init",
    "capture.apply.converge",
    "capture.dry_run",
    "capture.host.native",
    "capture.host.neighbours",
    "capture.intent.nameservers",
    "capture.kernel.rights",
    "capture.lists.files",
    "capture.lists.networks",
    "capture.netlink.routing",
    "capture.netlink.tidying",
    "capture.steps.routing",
    "rules.iptables.printed",
    "rules.iptables.listing",
    "rules.iptables.reading",
    "rules.lists.long",
    "rules.live.routing",
    "rules.ours.exemptions",
    "rules.ours.held",
    "rules.plan.flows.invalid",
    "rules.plan.flows.tproxy",
    "capture.sight.own",
    "capture.steps.load",
    "capture.iptables.own",
    "rules.native.applied",
    "capture.steps.half_open",
    "rules.ours.older",
    "capture.host.listening",
    "rules.proof.neighbours",
    "capture.validation.validation",
    "capture.apply.clean",
    "capture.cni.protocol",
    "capture.many",
)
"""What each run loads; and what some do: in some modes, with long lists, listeners or rules of others, to validate or
to take away, for a runtime or for many namespaces. What two of them need is loaded with the first, so what most runs
do stands first."""


class Recorded(SourceFileLoader):
    """Loads a module of ours, and keeps its name once it was run."""

    run: ClassVar[list[Recorded]] = []

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        self.run.append(self)


class Recorder(MetaPathFinder):
    """Finds modules as Python does, and ours so that they are recorded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec and name.partition(".")[0] in ("capture", "rules") and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Recorded(name, spec.loader.path)
        return spec


def make(*, is_checked: bool = True) -> int:
    """Write the file with what runs load; the result is how many modules that is.

    Unchecked is for sources that nobody changes.
    """
    recorder = Recorder()
    sys.meta_path.insert(0, recorder)
    from rules import __name__ as thinking  # which is capture.rules where we are installed

    kept: dict[str, Kept] = {}
    places: dict[str, Place] = {}
    codes = bytearray()
    for each in LEADERS:
        leader = each.replace("rules", thinking, 1) if each.startswith("rules.") else each
        import_module(leader)
        group: dict[str, CodeType | None] = {}
        for loader in Recorded.run:
            group[loader.name] = loader.get_code(loader.name)
            stamp = stamp_of(loader.path) if is_checked else None
            below = os.path.relpath(loader.path, FOLDER)
            kept[loader.name] = below, loader.is_package(loader.name), stamp, leader
        Recorded.run.clear()
        marshalled = marshal.dumps(group)
        places[leader] = len(codes), len(marshalled)
        codes += marshalled
    sys.meta_path.remove(recorder)
    os.makedirs(os.path.dirname(FILE), exist_ok=True)
    beside = f"{FILE}.{os.getpid()}"
    with open(beside, "wb") as file:
        file.write(listed(kept, places, len(codes)) + codes)
    os.replace(beside, FILE)
    return len(kept)


def listed(kept: dict[str, Kept], places: dict[str, Place], size: int) -> bytes:
    """The beginning of the file, with places counted from there. `size` is that of all code."""
    length = 0
    while True:
        begins = LENGTH + length
        moved = {leader: (at + begins, long) for leader, (at, long) in places.items()}
        written = marshal.dumps((VERSION, begins + size, kept, moved))
        if len(written) == length:
            return length.to_bytes(LENGTH, "big") + written
        length = len(written)


if __name__ == "__main__":
    print(f"{FILE}: {make(is_checked='--unchecked' not in sys.argv[1:])} modules")
