"""The modules of a run in one file: finding, opening and importing each of them takes as long as what they do.

Those that are always loaded together lie there as one, and are run one after the other when the one that needs them all
is imported. It is a cache like Python's own, made where a program is installed to start often: `python -m
capture.bundling` does it, in the image's build and for a checkout. Where there is none, or a source is no longer the
one that it was made from, Python finds modules as ever.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec, module_from_spec  # what `importlib` wraps, which takes its time to import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any, TypeAlias

    Kept: TypeAlias = tuple[str, bool, tuple[int, int] | None, str]
    """A module's source below the folder of our packages, whether it is a package, the source's time in nanoseconds and
    its size (None: not looked at), and its leader: the module that needs it."""
    Place: TypeAlias = tuple[int, int]
    """Where in the file the code of a leader and of all that it needs begins, and how long it is: by name, in the order
    in which they can be run, marshalled."""

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

    def __init__(self, file: int, kept: dict[str, Kept], places: dict[str, Place]) -> None:
        self.file = file
        self.kept = kept
        self.places = places
        self.groups: dict[str, dict[str, CodeType]] = {}
        """What was read of it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002 # importlib's signature
        found = self.kept.get(name)
        if found is None:
            return None
        below, is_package, stamp, _ = found
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
        """Run the module's code; before it, that of all modules which are loaded with it."""
        *_, leader = self.kept[module.__name__]
        if leader not in self.groups:
            self.groups[leader] = unmarshalled(self.file, *self.places[leader])
        group = self.groups[leader]
        if module.__name__ == leader:
            for each in group:
                self.load(each)
        exec(group[module.__name__], module.__dict__)  # noqa: S102 # what importing is

    def load(self, name: str) -> None:
        """Load a module as Python does it, less finding out that its imports are loaded, which they mostly are.

        One whose source has changed, or whose package is not loaded yet, is left to who imports it.
        """
        parent, _, its_name = name.rpartition(".")
        if name in sys.modules or (parent and parent not in sys.modules):
            return
        spec = self.find_spec(name)
        if spec is None:
            return
        module = sys.modules[name] = module_from_spec(spec)
        try:
            self.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        if parent:
            setattr(sys.modules[parent], its_name, module)


def unmarshalled(file: int, at: int, length: int) -> Any:
    """What was put into the file there. Raises OSError, EOFError, ValueError or TypeError where that is nothing."""
    return marshal.loads(os.pread(file, length, at))  # noqa: S302 # made of our own code, and lies where that does


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
        version, whole, kept, places = unmarshalled(file, LENGTH, length)
    except (OSError, EOFError, ValueError, TypeError):
        version = whole = None
    if version == VERSION and whole == os.fstat(file).st_size and not sys.flags.optimize:
        sys.meta_path.insert(0, Bundle(file, kept, places))
    else:
        os.close(file)
