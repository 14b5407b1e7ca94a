"""The modules of a run in one file: finding and opening each of them takes as long as half of what they do.

It is a cache like Python's own, made where a program is installed to start often: `python -m capture.bundle` does it,
in the image's build and for a checkout. Where there is none, or a source is no longer the one that it was made from,
Python finds modules as ever.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec  # what `importlib.machinery` wraps, which takes its time to import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import TypeAlias

    Kept: TypeAlias = tuple[str, bool, tuple[int, int] | None, int, int]
    """A module's source below the folder of our packages, whether it is a package, the source's time in nanoseconds and
    its size (None: not looked at), and where in the file its code begins, marshalled, and how long that is."""

PACKAGE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.dirname(PACKAGE)
FILE = f"{PACKAGE}/__pycache__/a-run.{sys.implementation.cache_tag}.bundle"
VERSION = sys.hexversion
"""Byte code is for one version of Python only."""


STDERR = 2
LENGTH = 4
"""Bytes at the beginning that tell how long the list of modules behind them is. Then comes the code."""


class Bundle:
    """Finds modules in the file, and loads them. Only what is loaded is read."""

    def __init__(self, file: int, kept: dict[str, Kept]) -> None:
        self.file = file
        self.kept = kept

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002 # importlib's signature
        found = self.kept.get(name)
        if found is None:
            return None
        below, is_package, stamp, _, _ = found
        source = f"{FOLDER}/{below}"
        if stamp is not None and stamp != stamp_of(source):
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type] # a loader by what it does (PEP 451)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """As Python does."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        *_, at, length = self.kept[module.__name__]
        exec(marshal.loads(os.pread(self.file, length, at)), module.__dict__)  # noqa: S102, S302 # what importing is


def stamp_of(source: str) -> tuple[int, int] | None:
    """By what a source is known to be the same; none for one that is not there."""
    try:
        found = os.stat(source)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def use() -> None:
    """From now on, find modules of ours in the file, if there is one of this version of Python."""
    try:
        file = os.open(FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    if file <= STDERR:  # one of those was closed, and what is said or read there must not be our code
        os.close(file)
        return
    try:
        os.close(os.dup(file))
    except OSError:  # it was the last file that may be open, and what is not in it has to be opened
        os.close(file)
        return
    try:
        length = int.from_bytes(os.pread(file, LENGTH, 0), "big")
        version, whole, kept = marshal.loads(os.pread(file, length, LENGTH))  # noqa: S302 # our own, where our code is
    except (OSError, EOFError, ValueError, TypeError):
        version = whole = None
    if version == VERSION and whole == os.fstat(file).st_size and not sys.flags.optimize:
        sys.meta_path.insert(0, Bundle(file, kept))
    else:
        os.close(file)


LATER = (
    "capture.apply.converge",
    "capture.dry_run",
    "capture.host.native",
    "capture.host.neighbours",
    "capture.lists.files",
    "capture.lists.networks",
    "capture.netlink.routing",
    "capture.steps.routing",
    "rules.iptables.printed",
    "rules.iptables.reading",
    "rules.lists.long",
    "rules.netfilter.hooks",
    "rules.ours.exemptions",
    "rules.ours.held",
)
"""What `capture.init` does not load, but a run that changes something does, or by TPROXY, with IPv6 or long lists."""

# --- making it ----------------------------------------------------------------------------------------------


def make(*, is_checked: bool = True) -> int:
    """Write the file with what runs load; the result is how many modules that is.

    Unchecked is for sources that nobody changes.
    """
    from importlib import import_module

    from rules import __name__ as thinking  # which is capture.rules where we are installed

    for each in ("capture.init", *LATER):
        import_module(each.replace("rules", thinking, 1) if each.startswith("rules.") else each)
    kept: dict[str, Kept] = {}
    codes = bytearray()
    for name, module in list(sys.modules.items()):
        spec, source = module.__spec__, getattr(module, "__file__", None)
        if name == "__main__" or spec is None or not source or not source.startswith(f"{FOLDER}/"):
            continue
        reader = getattr(spec.loader, "get_code", None)
        if name.partition(".")[0] in ("capture", "rules") and reader:
            code: CodeType = reader(name)
            stamp = stamp_of(source) if is_checked else None
            below = os.path.relpath(source, FOLDER)
            marshalled = marshal.dumps(code)
            kept[name] = below, spec.submodule_search_locations is not None, stamp, len(codes), len(marshalled)
            codes += marshalled
    os.makedirs(os.path.dirname(FILE), exist_ok=True)
    beside = f"{FILE}.{os.getpid()}"
    with open(beside, "wb") as file:
        file.write(listed(kept, len(codes)) + codes)
    os.replace(beside, FILE)
    return len(kept)


def listed(kept: dict[str, Kept], size: int) -> bytes:
    """The beginning of the file, with places counted from there. `size` is that of all code."""
    length = 0
    while True:
        begins = LENGTH + length
        moved = {name: (*about, at + begins, long) for name, (*about, at, long) in kept.items()}
        written = marshal.dumps((VERSION, begins + size, moved))
        if len(written) == length:
            return length.to_bytes(LENGTH, "big") + written
        length = len(written)


if __name__ == "__main__":
    print(f"{FILE}: {make(is_checked='--unchecked' not in sys.argv[1:])} modules")
