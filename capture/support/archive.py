"""A report as one archive, with a list of what is in it and what is not."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
from typing import TYPE_CHECKING

from capture.support.gathered import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.support.gathered import Thing

LIST = "README"


def contents(things: Sequence[Thing]) -> list[str]:
    """What is in it, what is missing and why, and what was left out."""
    here = [thing for thing in things if not thing.missing]
    width = max(len(thing.name) for thing in things)
    lines = ["In it:", *(f"  {thing.name:<{width}}  {size(thing.text):>9}  {thing.about}" for thing in here)]
    missing = [thing for thing in things if thing.missing]
    if missing:
        lines += ["Not to be had here:", *(f"  {thing.name:<{width}}  {thing.missing}" for thing in missing)]
    return [*lines, *LEFT_OUT]


def size(text: str) -> str:
    length = len(text.encode(errors="surrogateescape"))
    return f"{length} B" if length < 10_000 else f"{length / 1000:.0f} kB"


def packed(things: Sequence[Thing], name: str) -> bytes:
    """A .tar.gz of one folder of that name."""
    data = io.BytesIO()
    texts = {thing.name: thing.text for thing in things if not thing.missing}
    texts[LIST] = "".join(f"{line}\n" for line in contents(things))
    with gzip.GzipFile(fileobj=data, mode="wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for member, text in sorted(texts.items()):
            body = text.encode(errors="surrogateescape")
            entry = tarfile.TarInfo(f"{name}/{member}")
            entry.size, entry.mode, entry.mtime = len(body), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(body))
    return data.getvalue()


def write(path: str, data: bytes) -> None:
    """For its owner's eyes only; a file that is there already is left alone. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
