"""Clients that open connections without pause, in processes of their own, and count where they landed."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, NoReturn

from capture.kernel import netns
from tests.rig.traffic import acting_as, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.rig.namespace import Namespace
    from tests.rig.traffic import Traffic

IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h: the port is chosen when it connects, so that one port serves several destinations."""


@dataclass(frozen=True)
class Client:
    """Somebody who calls these hosts at this port, one after the other, for as long as the storm lasts."""

    sender: Namespace
    hosts: tuple[str, ...]
    port: int
    uid: int = 0
    sources: tuple[str, ...] = ("",)
    """Addresses to call from in turn. Several, so that no pair of addresses and ports comes back within its time."""
    patience: float = 3.0
    """Seconds after which a connection counts as failed."""
    proto: str = "tcp"


@contextlib.contextmanager
def storm(traffic: Traffic, clients: Iterable[Client]) -> Iterator[list[Counter[str]]]:
    """While this block runs, the clients call. Afterwards the list holds what each of them saw, by landing."""
    counted: list[Counter[str]] = []
    server = forked(lambda: serve(traffic))
    running = []
    try:
        for client in clients:
            reading, writing = os.pipe()
            running.append((forked(partial(call, client, writing)), reading))
            os.close(writing)
        yield counted
    finally:
        for pid, _ in running:
            os.kill(pid, signal.SIGTERM)
        for pid, reading in running:
            with open(reading, encoding="ascii") as report:
                counted.append(Counter(json.loads(report.read() or "{}")))
            os.waitpid(pid, 0)
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def forked(work: Callable[[], None]) -> int:
    """Run this in a child process; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def serve(traffic: Traffic) -> NoReturn:
    """Answer whoever arrives at the listeners."""
    with selectors.DefaultSelector() as selector:
        for listener in traffic.listeners:
            listener.socket.setblocking(False)
            selector.register(listener.socket, selectors.EVENT_READ, listener)
        while True:
            for key, _ in selector.select():
                with contextlib.suppress(OSError):
                    answer(key.data)


def call(client: Client, report: int) -> None:
    """Connect, read where that was, and again; write the counts when told to end."""
    going = True

    def end(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, end)
    netns.enter(client.sender.path)
    counted: Counter[str] = Counter()
    for host, source in zip(cycle(client.hosts), cycle(client.sources), strict=False):
        if not going:
            break
        counted[landing(client, host, source)] += 1
    os.write(report, json.dumps(counted).encode())


def landing(client: Client, host: str, source: str) -> str:
    """Where one connection landed, or what kept it from landing."""
    try:
        with acting_as(client.uid, client.uid):
            kind = socket.SOCK_DGRAM if client.proto == "udp" else socket.SOCK_STREAM
            opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        with opened:
            opened.settimeout(client.patience)
            if source:
                opened.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                opened.bind((source, 0))
            opened.connect((host, client.port))
            if client.proto == "udp":
                opened.send(b"?")
            where, port, *_ = opened.recv(400).decode().split("|")
            return f"{where}:{port}"
    except (OSError, ValueError) as error:
        return f"failed: {type(error).__name__}"
