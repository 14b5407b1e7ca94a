"""Answers of netlink that come late, in part, or not at all."""

from __future__ import annotations

import _socket
import contextlib
import errno
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.kernel import process
from capture.netlink.messages import DUMP_INTERRUPTED, HEADER, NLMSG_DONE, NLMSG_ERROR, attributes, dump, messages

if TYPE_CHECKING:
    from typing import Self

RULE = 10 << 8 | 6


def message(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body + bytes(-len(body) % 4)


DONE = message(NLMSG_DONE, bytes(4))


class Kernel:
    """What answers, one script for each question: an error, or what is received."""

    def __init__(self, *scripts: int | list[bytes]) -> None:
        self.scripts = list(scripts)
        self.asked = 0

    def __call__(self, *_arguments: int) -> Self:
        self.asked += 1
        self.script = self.scripts.pop(0)
        if isinstance(self.script, int):
            raise OSError(self.script, "")
        return self

    def close(self) -> None:
        pass

    def send(self, _asked: bytes) -> None:
        pass

    def recv(self, _size: int) -> bytes:
        assert isinstance(self.script, list)
        return self.script.pop(0)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SHORTEST_PAUSE", 1e-9)
    monkeypatch.setattr(process, "LONGEST_PAUSE", 5e-9)


def told(monkeypatch: pytest.MonkeyPatch, *scripts: int | list[bytes]) -> tuple[list[bytes], int]:
    """What a dump tells, and how often it asked for that."""
    kernel = Kernel(*scripts)
    monkeypatch.setattr(_socket, "socket", kernel)
    return list(dump(12, RULE, bytes(4))), kernel.asked


@pytest.mark.parametrize(
    "moment",
    [
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EINTR,
        [message(RULE, b"half", DUMP_INTERRUPTED), DONE],
        [message(RULE, b"half"), message(NLMSG_DONE, bytes(4), DUMP_INTERRUPTED)],
        [message(RULE, b"half"), message(NLMSG_ERROR, struct.pack("=i", -errno.ENOBUFS))],
        [message(RULE, b"half")[:-2]],
    ],
)
def test_what_cannot_be_told_for_a_moment_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, moment: int | list[bytes]
) -> None:
    """An interrupted dump as well: what others change meanwhile is told in part, or twice."""
    whole = [message(RULE, b"one!") + message(RULE, b"two!"), DONE]
    assert told(monkeypatch, moment, whole) == ([b"one!", b"two!"], 2)


def test_what_cannot_be_told_for_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last reason; and what will not change by itself is one at once."""
    with pytest.raises(OSError, match="changes faster") as raised:
        told(monkeypatch, *([message(RULE, b"half", DUMP_INTERRUPTED)] for _ in range(9)))
    assert raised.value.errno == errno.EINTR
    with pytest.raises(PermissionError):
        told(monkeypatch, errno.EPERM)


@given(received=st.binary(max_size=80))
def test_whatever_is_received_is_messages_or_an_error(received: bytes) -> None:
    """It never goes on for ever; attributes end where they cannot be read."""
    with contextlib.suppress(OSError):
        for _, _, _, body in messages(received):
            attributes(body)
