"""Run a program to which the kernel refuses a netlink protocol: `python deny.py ERRNO PROTOCOL COMMAND…`; or system
calls: `python deny.py flock:ENOSYS,setns:EPERM COMMAND…`.

By a seccomp filter on socket(AF_NETLINK, …, PROTOCOL), which is how sandboxes do it, and hosts that are short of
something look from inside. With `legacy` for a protocol, the legacy tables of iptables, which are asked for by
getsockopt(…, IPT_SO_GET_INFO).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

AF_NETLINK = 16
MACHINE = os.uname().machine
SOCKET = {"x86_64": 41, "aarch64": 198}
GETSOCKOPT = {"x86_64": 55, "aarch64": 209}
"""The numbers of the system calls by machine (asm/unistd.h)."""
CALLS = {
    "x86_64": {"flock": 73, "membarrier": 324, "memfd_create": 319, "prctl": 157, "setns": 308, "unshare": 272},
    "aarch64": {"flock": 32, "membarrier": 283, "memfd_create": 279, "prctl": 167, "setns": 268, "unshare": 97},
}.get(MACHINE, {})
IPT_SO_GET_INFO = 64
"""linux/netfilter_ipv4/ip_tables.h, and the same for IPv6."""
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
"""Of classic BPF (linux/bpf_common.h)."""
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2


def deny(number: int, protocol: int | None) -> None:
    """From now on, for this process and its children; None denies the legacy tables."""
    asked = [(0, GETSOCKOPT[MACHINE]), (32, IPT_SO_GET_INFO)]
    if protocol is not None:
        asked = [(0, SOCKET[MACHINE]), (16, AF_NETLINK), (32, protocol)]
    program = []
    for left, (offset, value) in enumerate(asked):
        program.append((LOAD, 0, 0, offset))
        program.append((JUMP_IF_EQUAL, 0, 2 * (len(asked) - left) - 1, value))
    enforce([*program, (RETURN, 0, 0, ERRNO | number), (RETURN, 0, 0, ALLOW)])


def deny_calls(spec: str) -> None:
    """The same for these system calls, each with its error."""
    program = [(LOAD, 0, 0, 0)]
    for part in spec.split(","):
        name, _, error = part.partition(":")
        program += [(JUMP_IF_EQUAL, 0, 1, CALLS[name]), (RETURN, 0, 0, ERRNO | getattr(errno, error))]
    enforce([*program, (RETURN, 0, 0, ALLOW)])


def enforce(program: list[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, described, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    if ":" in sys.argv[1]:
        deny_calls(sys.argv[1])
        command = sys.argv[2:]
    else:
        deny(int(sys.argv[1]), None if sys.argv[2] == "legacy" else int(sys.argv[2]))
        command = sys.argv[3:]
    os.execvp(command[0], command)  # noqa: S606 # a shell would add nothing
