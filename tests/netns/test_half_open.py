"""Inbound connections that nobody has answered yet when REDIRECT takes the place of TPROXY."""

from __future__ import annotations

import contextlib
import selectors
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from capture.netlink import ctnetlink
from rules.connections.captured import UNANSWERED
from tests.conftest import every_backend
from tests.rig import ADDRESSES, PROXY
from tests.rig.namespace import entered
from tests.rig.traffic import TRANSPARENT, open_socket
from tests.rig.waiting import until

if TYPE_CHECKING:
    from tests.rig import Pod
    from tests.rig.namespace import Namespace

CALLERS = 4
APPLICATION = 8080


def listening(stack: ExitStack, pod: Pod, version: int, port: int, *, room: int) -> socket.socket:
    """The proxy's or the application's listener, with room for so few."""
    uid = PROXY if port != APPLICATION else 0
    with entered(pod.inside):
        opened = stack.enter_context(open_socket(ADDRESSES[version], "tcp", uid, uid))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(*TRANSPARENT[opened.family], 1)
    opened.bind(("0.0.0.0" if version == 4 else "::", port))
    opened.listen(room)
    return opened


def calling(stack: ExitStack, outside: Namespace, version: int) -> None:
    with entered(outside):
        caller = stack.enter_context(open_socket(ADDRESSES[version], "tcp", 0, 0))
    caller.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        caller.connect((ADDRESSES[version], APPLICATION))


def unanswered(pod: Pod) -> int:
    with entered(pod.inside):
        return sum(entry.state == UNANSWERED for entry in ctnetlink.entries())


def landed(listeners: list[socket.socket]) -> list[int]:
    """At which port each caller landed, once its SYN was sent again."""
    found: list[int] = []
    with selectors.DefaultSelector() as waiting:
        for listener in listeners:
            waiting.register(listener, selectors.EVENT_READ)
        while len(found) < CALLERS:
            ready = waiting.select(timeout=20)
            assert ready, f"only {found} have landed"
            for key, _ in ready:
                listener = next(each for each in listeners if each is key.fileobj)
                accepted, _ = listener.accept()
                found.append(listener.getsockname()[1])
                accepted.close()
    return found


@every_backend
@pytest.mark.parametrize("version", [4, 6])
def test_who_tproxy_had_no_room_for_is_redirected_all_the_same(pod: Pod, backend: str, version: int) -> None:
    """The proxy's listener is full, REDIRECT comes, and the SYN that the caller sends again does not escape."""
    others = {"nft": "legacy", "legacy": "native", "native": "nft"}
    for was in (backend, others[backend]):
        pod.applied("-u", "1337", "--dual-stack", "-m", "TPROXY", f"--force-iptables-binary={was}")
        with ExitStack() as stack:
            application = listening(stack, pod, version, APPLICATION, room=CALLERS)
            proxy = listening(stack, pod, version, 15006, room=0)
            for _ in range(CALLERS):
                calling(stack, pod.outside, version)
            until(lambda: unanswered(pod) >= CALLERS // 2)
            pod.applied("-u", "1337", "--dual-stack", f"--force-iptables-binary={backend}")
            proxy.listen(CALLERS)
            assert landed([application, proxy]) == [15006] * CALLERS


@every_backend
def test_nothing_is_forgotten_where_tproxy_stays_or_comes(pod: Pod, backend: str) -> None:
    """Only what REDIRECT takes from TPROXY is: an entry that nobody answered outlives every other change."""
    forced = f"--force-iptables-binary={backend}"
    with ExitStack() as stack:
        listening(stack, pod, 4, 15006, room=0)
        pod.applied("-u", "1337", forced)
        for _ in range(CALLERS):
            calling(stack, pod.outside, 4)
        until(lambda: unanswered(pod) >= CALLERS // 2)
        for mode in (("-m", "TPROXY"), ("-m", "TPROXY", "-d", "22"), ("-m", "TPROXY")):
            before = unanswered(pod)
            done = pod.applied("-u", "1337", *mode, forced)
            assert "conntrack -D" not in done.stderr
            assert unanswered(pod) >= before
        assert "conntrack -D" in pod.applied("-u", "1337", forced).stderr
