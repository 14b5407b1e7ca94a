"""Waiting until something changes in a folder, by inotify(7)."""

from __future__ import annotations

import os
import select

from capture.errors import CaptureError

CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
"""linux/inotify.h."""


class Folder:
    """A folder that is watched."""

    def __init__(self, path: str) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        what = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
        if self.descriptor < 0 or libc.inotify_add_watch(self.descriptor, os.fsencode(path), what) < 0:
            number = ctypes.get_errno()
            raise CaptureError(f"cannot watch {path}: {os.strerror(number)}")
        self.poll = select.poll()
        self.poll.register(self.descriptor, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Until something happens there, or so long. What happened is for the caller to find out."""
        if self.poll.poll(seconds * 1000):
            os.read(self.descriptor, 1 << 16)
