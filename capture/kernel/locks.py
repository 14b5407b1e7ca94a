"""Who holds a lock, so that whoever waits can say for whom."""

from __future__ import annotations

import os


def holders_of(path: str) -> list[str] | None:
    """Who holds a lock of this file, by /proc/locks; None if that cannot be read. Takes no lock itself."""
    try:
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    try:
        asked = os.stat(path)
    except OSError:
        return []
    place = f"{os.major(asked.st_dev):02x}:{os.minor(asked.st_dev):02x}:{asked.st_ino}"
    held = [line.split() for line in lines if "->" not in line]
    return [process_named(words[4]) for words in held if len(words) > 5 and words[5] == place]


def process_named(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"pid {pid} ({file.read().strip()})"
    except OSError:
        return "a process that cannot be seen from here"
