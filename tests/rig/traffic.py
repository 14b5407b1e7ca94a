"""Listeners and senders: real sockets, opened in a namespace as a user, driven by one loop in this process.

A socket stays in the namespace and with the owner it was opened in and by, so nothing needs a process of its own:
we enter, become the user, open, and return. `xt_owner` asks for the credentials with which the socket was opened
(`sk->sk_socket->file->f_cred`, net/netfilter/xt_owner.c), and so does nothing else in a connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.rig.namespace import Namespace, entered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self

SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h."""
TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}
"""IP_TRANSPARENT of linux/in.h and IPV6_TRANSPARENT of linux/in6.h."""
PATIENCE = 1.5
"""Seconds after which a call that nobody answered counts as unanswered."""
MOMENT = 0.05
"""Seconds in which an answer that is there is heard."""


@dataclass(frozen=True)
class Call:
    """A connection, or a datagram, that somebody sends from a namespace."""

    sender: Namespace
    host: str
    port: int
    uid: int = 0
    gid: int = 0
    proto: str = "tcp"
    source: str | None = None
    """The address to bind before, if not the kernel's choice."""
    source_port: int = 0
    mark: int = 0
    """The socket's fwmark. With one, the source may be an address that is not ours, as a transparent proxy's is."""


@dataclass(frozen=True)
class Landing:
    """Where a call arrived, as the listener saw it."""

    where: str
    """The listener's label; or `refused`, `timeout` or `error: …` if none answered."""
    port: int = 0
    original: tuple[str, int] | None = None
    """Where it was going before it was redirected (SO_ORIGINAL_DST); TCP only."""
    peer: str | None = None
    """The client's address."""

    def __str__(self) -> str:
        return f"{self.where}:{self.port}" if self.port else self.where


@dataclass(frozen=True)
class Listener:
    """A listening socket, and what to call it."""

    where: str
    port: int
    proto: str
    socket: socket.socket


class Traffic:
    """Listeners that stay open for the `with` block, and calls whose landings they report."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.arrived: dict[int, Landing] = {}
        """What the listeners saw since the calls began, by the source port that it came from."""
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listener in self.listeners:
            listener.socket.close()
        self._selector.close()

    def listen(
        self,
        namespace: Namespace,
        ports: Iterable[int],
        *,
        where: str,
        proto: str = "tcp",
        hosts: Iterable[str] = ("0.0.0.0", "::"),
        uid: int = 0,
        transparent: bool = False,
    ) -> None:
        """Open listeners on each of these ports and addresses, as this user."""
        with entered(namespace):
            for port in ports:
                for host in hosts:
                    opened = open_socket(host, proto, uid, uid)
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if ":" in host:
                        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    if transparent:
                        level, option = TRANSPARENT[opened.family]
                        opened.setsockopt(level, option, 1)
                    opened.bind((host, port))
                    if proto == "tcp":
                        opened.listen(256)
                    listener = Listener(where, port, proto, opened)
                    self.listeners.append(listener)
                    self._selector.register(opened, selectors.EVENT_READ, listener)

    def land(self, calls: Iterable[Call], *, patience: float = PATIENCE) -> list[Landing]:
        """Make all these calls at once, and tell for each where it arrived, or that so many seconds were silent.

        Those are counted by the moments that this process was given: on a busy machine it waits longer.
        """
        self.arrived.clear()
        made = list(calls)
        protos = {call.source_port: call.proto for call in made}
        waiting = _Waiting(self._selector, made)
        silence = 0.0
        while waiting.unanswered and silence < patience:
            heard = self._selector.select(MOMENT)
            silence += 0 if heard else MOMENT
            for key, events in heard:
                if isinstance(key.data, Listener):
                    source_port, landing = answer(key.data)
                    # NAT may have given the port of one call to another, of another protocol.
                    if protos.get(source_port, key.data.proto) == key.data.proto:
                        self.arrived[source_port] = landing
                else:
                    waiting.heard(key.data, events)
        return waiting.results()

    def call(self, call: Call) -> Landing:
        """Make one call."""
        return self.land([call])[0]


class _Waiting:
    """Calls that were made and wait for their answers."""

    def __init__(self, selector: selectors.BaseSelector, calls: list[Call]) -> None:
        self.selector = selector
        self.landings: list[Landing | None] = [None] * len(calls)
        self.sockets: dict[int, socket.socket] = {}
        self.calls = calls
        for number, call in enumerate(calls):
            try:
                self.make(number, call)
            except OSError as error:
                self.failed(number, error.errno or 0)

    @property
    def unanswered(self) -> bool:
        return bool(self.sockets)

    def make(self, number: int, call: Call) -> None:
        with entered(call.sender):
            opened = open_socket(call.host, call.proto, call.uid, call.gid)
            # An address with a scope is one of an interface of this namespace.
            to = socket.getaddrinfo(call.host, call.port)[0][4] if "%" in call.host else (call.host, call.port)
        self.sockets[number] = opened
        opened.setblocking(False)
        if call.mark:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, call.mark)
            level, option = TRANSPARENT[opened.family]
            opened.setsockopt(level, option, 1)
        if call.source or call.source_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((call.source or ("::" if ":" in call.host else "0.0.0.0"), call.source_port))
        with contextlib.suppress(BlockingIOError):
            opened.connect(to)
        if call.proto == "udp":
            opened.send(b"where am I?")
        events = selectors.EVENT_READ if call.proto == "udp" else selectors.EVENT_READ | selectors.EVENT_WRITE
        self.selector.register(opened, events, number)

    def heard(self, number: int, events: int) -> None:
        opened = self.sockets[number]
        error = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.failed(number, error)
        elif events & selectors.EVENT_READ:
            try:
                self.done(number, decoded(opened.recv(400)))
            except OSError as failure:
                self.failed(number, failure.errno or 0)
        else:
            # Connected: from here on only the listener's answer is of interest.
            self.selector.modify(opened, selectors.EVENT_READ, number)

    def failed(self, number: int, error: int) -> None:
        refused = error == errno.ECONNREFUSED
        self.done(number, Landing("refused" if refused else f"error: {errno.errorcode.get(error, error)}"))

    def done(self, number: int, landing: Landing) -> None:
        self.landings[number] = landing
        opened = self.sockets.pop(number, None)
        if opened:
            with contextlib.suppress(KeyError):
                self.selector.unregister(opened)
            opened.close()

    def results(self) -> list[Landing]:
        for number in list(self.sockets):
            self.done(number, Landing("timeout"))
        return [landing or Landing("timeout") for landing in self.landings]


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """What is opened in this block is opened by this user and group, with no others (setfsuid follows seteuid)."""
    groups = os.getgroups()
    try:
        os.setgroups([])
        os.setegid(gid)
        os.seteuid(uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def open_socket(host: str, proto: str, uid: int, gid: int) -> socket.socket:
    """A socket that belongs to this user, for an address of this host's family."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with acting_as(uid, gid):
        return socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)


def answer(listener: Listener) -> tuple[int, Landing]:
    """Tell a caller where it landed; the same for us, with the caller's source port."""
    if listener.proto == "udp":
        _, peer = listener.socket.recvfrom(400)
        landing = Landing(listener.where, listener.port, peer=peer[0])
        with contextlib.suppress(OSError):
            listener.socket.sendto(encoded(landing), peer)
        return peer[1], landing
    accepted, peer = listener.socket.accept()
    with accepted:
        landing = Landing(listener.where, listener.port, original_destination(accepted), peer[0])
        with contextlib.suppress(OSError):
            accepted.sendall(encoded(landing))
    return peer[1], landing


def original_destination(accepted: socket.socket) -> tuple[str, int]:
    """Where the client was going. Without a redirection that is the socket's own name."""
    try:
        if accepted.family == socket.AF_INET:
            raw = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack(">H", raw[2:4])[0]
        raw = accepted.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack(">H", raw[2:4])[0]
    except OSError:
        name = accepted.getsockname()
        return name[0], name[1]


def encoded(landing: Landing) -> bytes:
    host, port = landing.original or ("", 0)
    return "|".join([landing.where, str(landing.port), host, str(port), landing.peer or ""]).encode()


def decoded(raw: bytes) -> Landing:
    if not raw:
        return Landing("error: closed")
    where, port, host, original_port, peer = raw.decode().split("|")
    return Landing(where, int(port), (host, int(original_port)) if host else None, peer or None)
