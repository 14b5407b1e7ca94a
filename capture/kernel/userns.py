"""User namespaces, as the owner match sees them: which ids are known here, and whose the network namespace is.

The kernel takes a rule with an owner match only from the user namespace that owns the network namespace, and only for
an id that it maps (`owner_check` in net/netfilter/xt_owner.c). It says no more than "Invalid argument".
"""

from __future__ import annotations

import os
from fcntl import ioctl

from capture.kernel import netns
from capture.kernel.process import read_words

NS_GET_USERNS = 0xB701
"""linux/nsfs.h: the user namespace that owns this one."""


def mapped(path: str) -> list[tuple[int, int]]:
    """The ranges of ids that this user namespace maps (user_namespaces(7))."""
    words = list(map(int, read_words(path) or ()))
    return [(first, first + count - 1) for first, count in zip(words[::3], words[2::3], strict=True)]


def covers(ranges: list[tuple[int, int]], first: int, last: int) -> bool:
    return any(start <= first and last <= end for start, end in ranges)


def unmapped(uids: list[int], gids: list[int]) -> list[str]:
    """Those of these ids that our user namespace does not map, in words."""
    known = mapped("/proc/self/uid_map"), mapped("/proc/self/gid_map")
    return [
        f"{kind} {number}"
        for kind, numbers, ranges in zip(("uid", "gid"), (uids, gids), known, strict=True)
        for number in numbers
        if not covers(ranges, number, number)
    ]


def owner_of_the_namespace() -> bool | None:
    """Whether the user namespace that owns the network namespace is ours; None if the kernel would not say."""
    handles = []
    try:
        handles.append(os.open(netns.OURS, os.O_RDONLY | os.O_CLOEXEC))
        handles.append(ioctl(handles[0], NS_GET_USERNS))
        return os.path.samestat(os.fstat(handles[1]), os.stat("/proc/thread-self/ns/user"))
    except PermissionError:
        return False
    except OSError:
        return None
    finally:
        for handle in handles:
            os.close(handle)
