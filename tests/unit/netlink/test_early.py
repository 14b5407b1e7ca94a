"""What is asked on interfaces beside netfilter, from the messages in which the kernel tells of it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from capture.netlink import early
from capture.netlink.early import INFO, MESSAGE, RTM_GETLINK, RTM_GETQDISC, RTM_GETTFILTER

if TYPE_CHECKING:
    import pytest


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def link(name: bytes, attached: int) -> bytes:
    xdp = attribute(0x8000 | 43, attribute(2, bytes([attached])))
    return INFO.pack(0, 1, 2, 0, 0) + attribute(3, name + b"\0") + xdp


def queue(kind: bytes, parent: int) -> bytes:
    return MESSAGE.pack(0, 1, 0, parent, 0) + attribute(1, kind + b"\0")


def test_programs_and_filters_are_told_by_interface_and_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDP where one is attached, filters where a discipline holds some, both on their side; nothing else."""
    told = {
        (RTM_GETLINK, 0): [link(b"eth0", 2), link(b"eth1", 0)],
        (RTM_GETQDISC, 0): [queue(b"noqueue", 0xFFFFFFFF), queue(b"clsact", 0xFFFFFFF1)],
        (RTM_GETTFILTER, 0xFFFFFFF2): [queue(b"bpf", 0xFFFFFFF2)],
        (RTM_GETTFILTER, 0xFFFFFFF3): [queue(b"flower", 0xFFFFFFF3)],
    }

    def dump(_: int, question: int, payload: bytes) -> list[bytes]:
        parent = MESSAGE.unpack(payload)[3] if question == RTM_GETTFILTER else 0
        return told.get((question, parent), [])

    monkeypatch.setattr(early, "dump", dump)
    assert [str(each).partition(", and")[0] for each in early.early()] == [
        "eth0: an XDP program is asked before netfilter when a packet arrives",
        "lo: a tc filter (bpf) is asked before netfilter when a packet arrives",
        "lo: a tc filter (flower) is asked behind netfilter when a packet leaves",
    ]
