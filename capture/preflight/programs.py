"""The machine, and the programs that a run needs."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

from capture import __version__
from capture.iptables.iptables import NATIVE, NFT, OF_IPTABLES, Iptables
from capture.kernel.process import run
from capture.preflight.facts import Fact, Here
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from rules.netfilter.values import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.preflight.modules import Verdict


OLDEST_IPTABLES = (1, 8, 7)
OLDEST_NFT = (1, 0, 6)


def machine(_: Here) -> Iterator[Fact]:
    """The kernel and the Python that this runs on."""
    area = "machine"
    yield Fact(area, "kernel", f"{platform.system()} {platform.release()} {platform.machine()}", OK)
    yield Fact(area, "Python", f"{platform.python_version()}, {sys.executable}", OK)
    yield Fact(area, "capture", __version__, OK)
    for path in ("/", "/run"):
        yield Fact(area, path, "read-only" if is_read_only(path) else "writable", OK, needed=False)


def is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def programs(here: Here) -> Iterator[Fact]:
    """nft, and iptables-restore and iptables-save of both backends and families, with their versions."""
    yield nft(here)
    for backend in OF_IPTABLES:
        for family in Family:
            tool = Iptables(backend, family)
            written = backend == here.backend and (here.plans(family) or family is Family.V4)
            read = bool(here.live and family in (here.live.nft if backend == NFT else here.live.legacy))
            needed = here.acts and (written or read)
            found = {verb: tool.path(verb) for verb in ("restore", "save")}
            missing = [f"{tool}-{verb}" for verb, path in found.items() if not path]
            if missing:
                remedy = f"install iptables 1.8.7 or later with {' and '.join(missing)}"
                yield Fact("programs", str(tool), f"{', '.join(missing)} not found", MISSING, remedy, needed)
                continue
            verdict, version, remedy = version_of(str(found["restore"]), backend)
            where = ", ".join(str(path) for path in found.values())
            yield Fact("programs", str(tool), f"{version}: {where}", verdict, remedy, needed)


def nft(here: Here) -> Fact:
    """The program that writes our own tables."""
    needed = here.acts and here.backend == NATIVE
    path = Iptables(NATIVE, Family.V4).path("")
    if path is None:
        return Fact("programs", "nft", "nft not found", MISSING, "install nftables 1.0.6 or later", needed)
    try:
        numbers, text, _ = version_in(path)
    except OSError as error:
        numbers, text = (), f"cannot be run ({error.strerror})"
    if not numbers:
        remedy = f"see what `{path} --version` says"
        return Fact("programs", "nft", text or "version not known", UNKNOWN, remedy, needed)
    if numbers < OLDEST_NFT:
        remedy = f"nftables {'.'.join(map(str, OLDEST_NFT))} is the oldest that was tried"
        return Fact("programs", "nft", f"{text}: {path}", WARN, remedy, needed)
    return Fact("programs", "nft", f"{text}: {path}", OK, needed=needed)


def version_in(program: str) -> tuple[tuple[int, ...], str, list[str]]:
    """What a program says of its version: as numbers, as text, and in all its words. Raises OSError."""
    words = run(program, "--version").stdout.split()
    text = next((word[1:] for word in words if word[:1] == "v" and word[1:2].isdigit()), "")
    return tuple(int(part) for part in text.split(".") if part.isdigit()), text, words


def version_of(program: str, backend: str) -> tuple[Verdict, str, str]:
    """The verdict on an iptables program, its version, and a remedy. `--version` looks at nothing."""
    try:
        numbers, text, words = version_in(program)
    except OSError as error:
        return MISSING, f"cannot be run ({error.strerror})", f"reinstall iptables: {program} is no program"
    if not numbers:
        return UNKNOWN, "version not known", f"see what `{program} --version` says"
    if numbers < OLDEST_IPTABLES:
        return WARN, text, f"iptables {'.'.join(map(str, OLDEST_IPTABLES))} is the oldest that was tried"
    named = "nf_tables" if backend == NFT else "legacy"
    if f"({named})" not in words:
        return MISSING, f"{text}, not {named}", f"{program} is of the other backend: reinstall iptables"
    return OK, text, ""
