"""Reading files that somebody else may have put there: none hangs us, and none fills the memory."""

from __future__ import annotations

import errno
import os
import stat

USUAL, MOST = 1 << 20, 1 << 26
"""Bytes. A resolv.conf has some hundred; /proc/net/tcp has 150 for each connection."""
NULL = os.makedev(1, 3)
"""The device /dev/null (Documentation/admin-guide/devices.txt), in which many say that there is nothing."""
KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
}


def read_text(path: str, most: int = USUAL, *, null_counts: bool = True) -> str:
    """The text of a regular file; bytes that are no UTF-8 are kept (PEP 383). Raises OSError.

    `most` is how many bytes it may have. `null_counts`: /dev/null is one, and empty.
    """
    handle = open_regular(path, null_counts=null_counts)
    try:
        parts, left = [], most
        while part := os.read(handle, min(left + 1, 1 << 16)):
            left -= len(part)
            if left < 0:
                raise OSError(errno.EFBIG, f"it is larger than {most} bytes", path)
            parts.append(part)
        return b"".join(parts).decode(errors="surrogateescape")
    finally:
        os.close(handle)


def open_regular(path: str, *, null_counts: bool = True) -> int:
    """A descriptor of a regular file, as those of /proc and those that stand for namespaces are; or of /dev/null.

    Raises OSError.
    """
    # A FIFO would keep us until somebody writes to it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    found = os.fstat(handle)
    is_null = stat.S_ISCHR(found.st_mode) and found.st_rdev == NULL
    if stat.S_ISREG(found.st_mode) or (is_null and null_counts):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, f"it is {KINDS[stat.S_IFMT(found.st_mode)]}, not a regular file", path)


def write_text(path: str, text: str) -> None:
    """Write a file anew. Raises OSError, also for a FIFO that nobody reads."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    try:
        os.set_blocking(handle, True)
        data = text.encode(errors="surrogateescape")
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)
