"""Connections that stay open: both ends in our hands, so that each can be asked whether it still reaches the other."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.rig.namespace import Namespace, entered
from tests.rig.traffic import TRANSPARENT, open_socket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

PATIENCE = 3.0
"""Seconds in which a packet that was lost on the way has been sent again; more, and the connection counts as broken."""
WORDS = b"still there?"


@dataclass(frozen=True)
class Lasting:
    """A connection: who called, and who took the call."""

    caller: socket.socket
    taker: socket.socket
    called: tuple[str, int]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.caller.close()
        self.taker.close()

    def __str__(self) -> str:
        return f"{self.called[0]} port {self.called[1]}"


def broken(connections: Sequence[Lasting]) -> list[str]:
    """Those that do not carry words both ways any more. In every second one the server speaks first."""
    ends = [(it.caller, it.taker) if at % 2 else (it.taker, it.caller) for at, it in enumerate(connections)]
    silent = unheard(ends)
    silent |= unheard([(second, first) for first, second in ends])
    return [str(it) for at, it in enumerate(connections) if at in silent]


def unheard(ends: Sequence[tuple[socket.socket, socket.socket]]) -> set[int]:
    """All first ends speak at once. The numbers of those pairs whose second end does not hear it."""
    waiting = set(range(len(ends)))
    for speaker, _ in ends:
        with contextlib.suppress(OSError):
            speaker.send(WORDS)
    until = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        for number, (_, listener) in enumerate(ends):
            selector.register(listener, selectors.EVENT_READ, number)
        while waiting and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                with contextlib.suppress(OSError):
                    if ends[key.data][1].recv(64) == WORDS:
                        waiting.discard(key.data)
            if not selector.get_map():
                break
    return waiting


@contextlib.contextmanager
def server(
    namespace: Namespace,
    port: int,
    *,
    version: int = 4,
    uid: int = 0,
    transparent: bool = False,
    only_ipv6: bool = True,
) -> Iterator[socket.socket]:
    """A listener on every address of a family, from which `dialled` takes calls."""
    host = "0.0.0.0" if version == 4 else "::"
    with entered(namespace):
        listener = open_socket(host, "tcp", uid, uid)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        if transparent:
            listener.setsockopt(*TRANSPARENT[listener.family], 1)
        listener.bind((host, port))
        listener.listen(256)
        listener.settimeout(PATIENCE)
        yield listener


def dialled(
    sender: Namespace,
    to: tuple[str, int],
    taken_by: socket.socket,
    *,
    uid: int = 0,
    source: tuple[str, int] | None = None,
    mark: int = 0,
) -> Lasting:
    """A connection from a user in this namespace, which must land at this listener. Raises OSError if it does not."""
    with entered(sender):
        caller = open_socket(to[0], "tcp", uid, uid)
    caller.settimeout(PATIENCE)
    if mark:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        caller.setsockopt(*TRANSPARENT[caller.family], 1)
    if source:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.bind(source)
    caller.connect(to)
    taker, _ = taken_by.accept()
    taker.settimeout(PATIENCE)
    return Lasting(caller, taker, to)
