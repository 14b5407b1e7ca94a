"""The files of a node's network, changed so that a reader always finds a whole one and no writer loses anything."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from capture.errors import CaptureError
from rules.cni.chain import ENDINGS, LIST, holds_ours, with_ours, without_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TEMPORARY = ".capture-cni."
"""How our own files begin while they are written: no runtime reads a name that ends as these do."""
HALF_WRITTEN = 2.0
"""Seconds that a program may take to write a file in place."""
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""renameat2(2)."""


class NoNetwork(CaptureError):
    """There is no configuration in which our plugin could stand."""


def chosen(folder: str, name: str = "") -> str:
    """The file that a runtime reads: this one, or the first of the folder by name. Raises NoNetwork."""
    try:
        found = sorted(file for file in os.listdir(folder) if file.endswith(ENDINGS) and not file.startswith("."))
    except OSError as error:
        raise NoNetwork(f"cannot list {folder}: {error.strerror}", hint="--conf-dir names the runtime's") from error
    if name:
        found = [file for file in found if file in (name, f"{name.rpartition('.')[0]}{LIST}")]
    if not found:
        hint = "it comes with the node's main plugin; --watch waits for it"
        raise NoNetwork(f"{folder} has no configuration of a network{f' named {name}' if name else ''}", hint=hint)
    return os.path.join(folder, found[0])


def put_in(path: str, ours: Mapping[str, Any]) -> str:
    """Put our plugin behind the last one in this file. The result is what was done, or nothing. Raises CaptureError."""
    if path.endswith(LIST):
        return f"{path}: behind the last plugin" if changed(path, lambda config: with_ours(config, ours)) else ""
    # By its name a runtime takes it for one plugin. The list is there before the other goes.
    listed = f"{path.rpartition('.')[0]}{LIST}"
    text = whole(path)
    try:
        config = with_ours(json.loads(text), ours)
    except ValueError as refused:
        raise unfit(path, refused) from refused
    write(f"{listed}{os.getpid()}", text_of(config), like=path)
    os.rename(f"{listed}{os.getpid()}", listed)
    if whole(path) == text:
        os.unlink(path)
    return f"{path} is now {listed}: behind the one plugin that was in it"


def taken_out(folder: str) -> list[str]:
    """Take our plugin out of every chain in this folder; the files that it was in. Raises CaptureError."""
    out = []
    for file in sorted(os.listdir(folder)):
        path = os.path.join(folder, file)
        if file.startswith(TEMPORARY):
            with suppress(FileNotFoundError):
                os.unlink(path)
        elif file.endswith(LIST):
            with suppress(ValueError):
                if holds_ours(json.loads(whole(path))) and changed(path, without_ours):
                    out.append(path)
    return out


def changed(path: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Change a file by exchanging it for another one. Raises CaptureError.

    What comes out of the exchange tells whether somebody wrote it since it was read; then what they wrote is changed in
    its turn, and nothing of it is lost.
    """
    base = whole(path)
    expected = base
    temporary = os.path.join(os.path.dirname(path), f"{TEMPORARY}{os.getpid()}")
    # Between two exchanges what somebody wrote is in our hands alone: nobody ends us there.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        while True:
            try:
                config = json.loads(base)
                wanted = change(config)
            except ValueError as refused:
                raise unfit(path, refused) from refused
            if wanted == config and expected is base:
                return False
            text = text_of(wanted)
            write(temporary, text, like=path)
            exchange(temporary, path)
            found = whole(temporary, unless=expected)
            if found == expected:
                return True
            base, expected = found, text
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def whole(path: str, unless: str | None = None) -> str:
    """The text of a file that is JSON, or is as it was expected; one that is being written is waited for.

    Raises NoNetwork if it does not become JSON, or is gone.
    """
    until = time.monotonic() + HALF_WRITTEN
    while True:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if text != unless:
                json.loads(text)
            return text
        except OSError as error:
            raise NoNetwork(f"cannot read {path}: {error.strerror}") from error
        except ValueError as refused:
            if time.monotonic() > until:
                raise unfit(path, refused) from refused
            time.sleep(0.01)  # nothing tells when somebody who writes a file in place has finished


def unfit(path: str, refused: ValueError) -> NoNetwork:
    hint = "a chain is an object with a name and a list of plugins"
    return NoNetwork(f"{path} cannot be changed: {refused}", hint=hint)


def text_of(config: Mapping[str, Any]) -> str:
    return f"{json.dumps(config, indent=2, ensure_ascii=False)}\n"


def write(path: str, text: str, *, like: str) -> None:
    """Write a file to the disk, with owner and mode of another one. Raises NoNetwork."""
    try:
        as_it_is = os.stat(like)
        with suppress(FileNotFoundError):
            os.unlink(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchown(handle, as_it_is.st_uid, as_it_is.st_gid)
            os.fchmod(handle, as_it_is.st_mode & 0o7777)
            os.fsync(handle)
    except OSError as error:
        raise NoNetwork(f"cannot write {path}: {error.strerror}") from error


def exchange(one: str, other: str) -> None:
    """Two files take each other's name at once. Raises NoNetwork."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        what = "this file system cannot exchange two files" if number == errno.EINVAL else os.strerror(number)
        raise NoNetwork(f"cannot replace {other}: {what}")
