"""Connections that are open when rules come, change or go: those that were not captured go on, those that were are
counted before they are cut, and waited for on demand."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.netns.test_convergence import NAMESERVERS, SETTINGS
from tests.rig import ADDRESSES, APP, OUTSIDE, PROXY, Pod, entered
from tests.rig.lasting import Lasting, broken, dialled, server
from tests.rig.storm import Client, storm
from tests.rig.traffic import open_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

EACH_WAY = 50


@contextlib.contextmanager
def established(pod: Pod, *, each_way: int = EACH_WAY, ssh: bool = True) -> Iterator[list[Lasting]]:
    """Connections of both families in both directions, from the application and to it."""
    with contextlib.ExitStack() as stack:
        made = []
        for version in pod.versions:
            out = stack.enter_context(server(pod.outside, 80, version=version))
            into = stack.enter_context(server(pod.inside, 8080, version=version, uid=APP))
            here = stack.enter_context(server(pod.inside, 9090, version=version, uid=APP))
            for number in range(each_way):
                hosts = OUTSIDE[version]
                made.append(dialled(pod.inside, (hosts[number % len(hosts)], 80), out, uid=APP))
                made.append(dialled(pod.outside, (ADDRESSES[version], 8080), into))
            made.append(dialled(pod.inside, (ADDRESSES[version], 9090), here, uid=APP))
            if ssh:
                sshd = stack.enter_context(server(pod.inside, 22, version=version))
                made.append(dialled(pod.outside, (ADDRESSES[version], 22), sshd))
        # An application in Java or Go listens on one socket for both families.
        both = stack.enter_context(server(pod.inside, 7070, version=6, uid=APP, only_ipv6=False))
        made.append(dialled(pod.outside, (ADDRESSES[4], 7070), both))
        for it in made:
            stack.callback(it.close)
        assert broken(made) == []
        yield made


@pytest.mark.parametrize("first", [0, 2, 11], ids=["redirect", "tproxy", "tproxy-of-both-families"])
def test_what_is_open_goes_on_through_a_first_run_and_every_change(pod: Pod, backend: str, first: int) -> None:
    """50 connections each way and family: one half speaks after each of 13 runs, the other not before the last."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    with established(pod) as connections:
        for arguments in (*SETTINGS[first:], *SETTINGS[:first], SETTINGS[first]):
            pod.applied(*arguments, f"--force-iptables-binary={backend}")
            assert broken(connections[::2]) == [], arguments
        assert broken(connections) == []
        pod.applied("--cleanup-only")
        assert broken(connections) == []
        pod.applied(*SETTINGS[first])
        assert broken(connections) == []


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_rules_beside_open_connections_are_those_of_a_new_pod(pod: Pod, backend: str, mode: str) -> None:
    """Nothing exempts what is open: the rules are the same, verify is content, and new connections are captured."""
    asked = ["-u", "1337", "-m", mode, "--dual-stack", f"--force-iptables-binary={backend}"]
    pod.applied(*asked)
    new = pod.state()
    pod.applied("--cleanup-only")
    with established(pod, each_way=2) as connections:
        pod.applied(*asked)
        assert pod.state() == new
        assert pod.capture("verify", *asked).status == 0
        pod.traffic.listen(pod.inside, [15001, 15006], where="pod", uid=PROXY, transparent=mode == "TPROXY")
        for version in pod.versions:
            assert pod.dial(OUTSIDE[version][0], 80).port == 15001
            assert pod.dial_in(8080, version=version).port == 15006
        assert broken(connections) == []


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_a_connection_that_is_being_opened_goes_where_it_was_going(pod: Pod, backend: str, mode: str) -> None:
    """A SYN that waits for its answer, and a SYN/ACK that waits for its ACK, when the rules come."""
    lost = "nft add table ip lossy; nft add chain ip lossy in '{ type filter hook input priority 0; }'; "
    lost += "nft add rule ip lossy in tcp dport 80 drop; nft add rule ip lossy in tcp sport 8080 drop"
    pod.outside.output("sh", "-ec", lost)
    with server(pod.outside, 80) as out, server(pod.inside, 8080, uid=APP) as into:
        with entered(pod.inside):
            calling = open_socket("1.1.1.1", "tcp", APP, APP)
        with entered(pod.outside):
            called = open_socket(ADDRESSES[4], "tcp", 0, 0)
        with calling, called:
            for opened, to in ((calling, ("1.1.1.1", 80)), (called, (ADDRESSES[4], 8080))):
                opened.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    opened.connect(to)
            pod.applied("-u", "1337", "-m", mode, f"--force-iptables-binary={backend}")
            pod.outside.output("nft", "delete", "table", "ip", "lossy")
            for opened, listener in ((calling, out), (called, into)):
                taker, _ = listener.accept()
                with taker:
                    opened.settimeout(3)
                    taker.settimeout(3)
                    assert broken([Lasting(opened, taker, taker.getsockname()[:2])]) == []


def test_udp_that_is_refused_from_now_on_goes_on_where_it_was_going(pod: Pod) -> None:
    """An open QUIC connection is not ended by --udp 443=reject; a new one is refused."""
    with entered(pod.outside):
        peer = open_socket("0.0.0.0", "udp", 0, 0)
    with entered(pod.inside):
        quic, late = (open_socket("1.1.1.1", "udp", APP, APP) for _ in range(2))
    with peer, quic, late:
        peer.bind(("1.1.1.1", 443))
        peer.settimeout(2)
        quic.settimeout(2)
        quic.connect(("1.1.1.1", 443))
        quic.send(b"before")
        _, client = peer.recvfrom(64)
        pod.applied("-u", "1337", "--udp", "443=reject")
        quic.send(b"after")
        assert peer.recvfrom(64) == (b"after", client)
        peer.sendto(b"answer", client)
        assert quic.recv(64) == b"answer"
        late.connect(("1.1.1.1", 443))
        with pytest.raises(OSError):  # noqa: PT011 # EPERM or ECONNREFUSED, whichever comes first
            late.send(b"new") and late.send(b"new")


@pytest.mark.storm
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_no_connection_fails_that_is_opened_while_the_first_rules_come(pod: Pod, backend: str, mode: str) -> None:
    """Clients call without pause while rules come: each call lands, at the service before and at the proxy after."""
    pod.traffic.listen(pod.inside, [15001, 15006], where="pod", hosts=["0.0.0.0"], uid=PROXY, transparent=True)
    pod.traffic.listen(pod.inside, [8080], where="pod", hosts=["0.0.0.0"])
    pod.traffic.listen(pod.outside, [80], where="ext", hosts=["0.0.0.0"])
    for _ in range(5):
        clients = [Client(pod.inside, OUTSIDE[4], 80, APP), Client(pod.outside, ("10.244.0.5",), 8080)]
        with storm(pod.traffic, clients) as counted:
            pod.applied("-u", "1337", "-m", mode, f"--force-iptables-binary={backend}")
        pod.applied("--cleanup-only")
        assert set(counted[0]) <= {"ext:80", "pod:15001"}
        assert set(counted[1]) <= {"pod:8080", "pod:15006"}
