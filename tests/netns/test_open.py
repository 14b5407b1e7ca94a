"""Connections that are open when rules come, change or go: those that were not captured go on, those that were are
counted before they are cut, and waited for on demand."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from capture.log import Log
from capture.netlink import ctnetlink
from capture.steps import pickup
from capture.steps.pickup import all_sockets
from rules.netfilter.values import Family
from tests.conftest import every_backend
from tests.netns.test_convergence import NAMESERVERS, SETTINGS
from tests.rig import ADDRESSES, APP, OUTSIDE, PROXY, Pod, entered
from tests.rig.lasting import Lasting, broken, dialled, server
from tests.rig.pod import GATEWAY
from tests.rig.storm import Client, storm
from tests.rig.traffic import open_socket
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rules.connections.flow import Socket

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


@every_backend
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


@every_backend
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_rules_beside_open_connections_are_those_of_a_new_pod(pod: Pod, backend: str, mode: str) -> None:
    """Nothing exempts what is open: the rules are the same, verify is content, and new connections are captured."""
    asked = ["-u", "1337", "-m", mode, "--dual-stack", f"--force-iptables-binary={backend}"]
    pod.applied(*asked)
    state = pod.meaning if backend == "native" else pod.state  # in which order nft lists chains means nothing
    new = state()
    pod.applied("--cleanup-only")
    with established(pod, each_way=2) as connections:
        pod.applied(*asked)
        assert state() == new
        assert pod.capture("verify", *asked).status == 0
        pod.traffic.listen(pod.inside, [15001, 15006], where="pod", uid=PROXY, transparent=mode == "TPROXY")
        for version in pod.versions:
            assert pod.dial(OUTSIDE[version][0], 80).port == 15001
            assert pod.dial_in(8080, version=version).port == 15006
        assert broken(connections) == []


@every_backend
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


def test_what_conntrack_has_forgotten_of_a_connection_that_is_over_stays_forgotten(pod: Pod, backend: str) -> None:
    """Where it runs for rules of others: an entry would let the next connection from that port go past the proxy."""
    pod.inside.output(f"iptables-{backend}", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    for setting in ("loose", "timeout_fin_wait", "timeout_close_wait"):
        pod.inside.output("sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_{setting}=0")
    with server(pod.outside, 80) as out:
        over, lasting = (
            dialled(pod.inside, ("1.1.1.1", 80), out, uid=APP, source=(ADDRESSES[4], port)) for port in (41000, 41001)
        )
        with over, lasting:
            over.taker.close()
            assert over.caller.recv(1) == b""
            pod.applied("-u", "1337", f"--force-iptables-binary={backend}")
            with entered(pod.inside):
                known = {entry.began.source_port for entry in ctnetlink.entries()}
            assert known & {41000, 41001} == {41001}


def with_an_end_between(monkeypatch: pytest.MonkeyPatch, pod: Pod, end: Callable[[], None]) -> set[int]:
    """The ports from which conntrack knows connections, where this ended one behind the look at the sockets."""
    ended: list[bool] = []

    def looked() -> list[Socket]:
        found = all_sockets()
        if not ended:
            end()
            ended.append(True)
        return found

    monkeypatch.setattr(pickup, "all_sockets", looked)
    with entered(pod.inside):
        pickup.PickUp(tuple(Family)).do(Log())
        return {entry.began.source_port for entry in ctnetlink.entries()}


@pytest.mark.parametrize("who", ["caller", "taker"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["out", "in", "within", "in, to a listener for both families"])
def test_what_is_reset_between_the_look_and_the_entry_leaves_none(
    pod: Pod, way: str, version: int, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would end that entry, and for days the next connection from that port would go past the proxy."""
    sender = pod.outside if way.startswith("in,") or way == "in" else pod.inside
    place = pod.outside if way == "out" else pod.inside
    source = GATEWAY[version] if sender is pod.outside else ADDRESSES[version]
    to = (OUTSIDE[version][0] if way == "out" else ADDRESSES[version], 80)
    for_both = "both" in way
    with server(place, 80, version=6 if for_both else version, only_ipv6=not for_both) as listener:
        over, lasting = (dialled(sender, to, listener, uid=APP, source=(source, port)) for port in (41000, 41001))
        with over, lasting:

            def end() -> None:
                gone, other = (over.caller, over.taker) if who == "caller" else (over.taker, over.caller)
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                gone.close()  # at once, and with a reset
                with pytest.raises(ConnectionResetError):
                    other.recv(1)

            assert with_an_end_between(monkeypatch, pod, end) & {41000, 41001} == {41001}
            pod.applied("-u", "1337", "--dual-stack")
            assert broken([lasting]) == []


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", ["udp", "tcp"], ids=["udp", "a SYN without an answer"])
def test_what_is_closed_without_a_word_between_the_look_and_the_entry_leaves_none(
    pod: Pod, proto: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent at its end of which conntrack could learn."""
    family = "ip6" if version == 6 else "ip"
    lost = f"nft add table {family} lossy; nft add chain {family} lossy in '{{ type filter hook input priority 0; }}'; "
    pod.outside.output("sh", "-ec", f"{lost} nft add rule {family} lossy in th dport 81 drop")
    with entered(pod.inside):
        over, lasting = (open_socket(OUTSIDE[version][0], proto, APP, APP) for _ in range(2))
    with over, lasting:
        for end, port in ((over, 41000), (lasting, 41001)):
            end.bind((ADDRESSES[version], port))
            end.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                end.connect((OUTSIDE[version][0], 81))
        assert with_an_end_between(monkeypatch, pod, over.close) & {41000, 41001} == {41001}


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


@contextlib.contextmanager
def with_the_same_ports(pod: Pod, *, captured: bool) -> Iterator[list[Lasting]]:
    """One connection each way and family, always from the same port; what takes it is the proxy, or whom it called."""
    with contextlib.ExitStack() as stack:
        made = []
        for version in pod.versions:
            place, port = (pod.inside, 15001) if captured else (pod.outside, 80)
            out = stack.enter_context(server(place, port, version=version))
            into = stack.enter_context(server(pod.inside, 15006 if captured else 8080, version=version))
            here, there = (ADDRESSES[version], 41000), (GATEWAY[version], 42000)
            for it in (
                dialled(pod.inside, (OUTSIDE[version][0], 80), out, uid=APP, source=here),
                dialled(pod.outside, (ADDRESSES[version], 8080), into, source=there),
            ):
                stack.callback(it.close)
                made.append(it)
        yield made


@every_backend
def test_what_conntrack_remembers_of_a_capture_that_is_over_breaks_nothing(pod: Pod, backend: str) -> None:
    """Captured connections were cut; the same ports are in use again, past no rules, when rules come anew."""
    asked = ["-u", "1337", "--dual-stack", f"--force-iptables-binary={backend}"]
    pod.applied(*asked)
    with with_the_same_ports(pod, captured=True) as connections:
        pod.applied("--cleanup-only")
        assert len(broken(connections)) == 4
    with with_the_same_ports(pod, captured=False) as connections:
        pod.applied(*asked)
        assert broken(connections) == []


PROGRAMS = {"nft": "iptables-nft-restore", "legacy": "iptables-legacy-restore", "native": "nft"}
"""What commits the first rules."""
HELD_UP = """#!/bin/sh
[ -e {folder}/go ] || { : >{folder}/asked; while [ -e {folder}/asked ] && [ ! -e {folder}/go ]; do sleep 0.01; done; }
exec {program} "$@"
"""


@every_backend
@pytest.mark.parametrize("somebody", ["listens", "has called"])
def test_what_is_opened_between_the_look_and_the_rules_goes_on(
    pod: Pod, backend: str, somebody: str, tmp_path: Path
) -> None:
    """Nothing is open when the run looks, but who has a socket, or had a connection, may open one a moment later."""
    wrapper, real = tmp_path / PROGRAMS[backend], shutil.which(PROGRAMS[backend])
    wrapper.write_text(HELD_UP.replace("{folder}", str(tmp_path)).replace("{program}", str(real)))
    wrapper.chmod(0o755)
    asked = pod.command("-u", "1337", "--dual-stack", f"--force-iptables-binary={backend}")
    with contextlib.ExitStack() as stack:
        where = pod.inside if somebody == "listens" else pod.outside
        one = stack.enter_context(server(where, 9080, version=4))
        if somebody == "has called":
            dialled(pod.inside, (OUTSIDE[4][0], 9080), one, uid=APP).close()
        running = stack.enter_context(
            subprocess.Popen(
                ["ip", "netns", "exec", pod.inside.name, *asked],
                env={**pod.environ(), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(running.kill)
        stack.callback((tmp_path / "asked").unlink, missing_ok=True)  # who holds it up has our lock, and goes on
        until((tmp_path / "asked").exists)
        connections = stack.enter_context(with_the_same_ports(pod, captured=False))
        (tmp_path / "go").touch()
        assert running.wait(30) == 0
        assert broken(connections) == []


@every_backend
@pytest.mark.storm
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_no_connection_fails_that_is_opened_while_the_first_rules_come(pod: Pod, backend: str, mode: str) -> None:
    """Clients call without pause while rules come: each call lands, at the service before and at the proxy after."""
    pod.traffic.listen(pod.inside, [15001, 15006], where="pod", hosts=["0.0.0.0"], uid=PROXY, transparent=True)
    pod.traffic.listen(pod.inside, [8080], where="pod", hosts=["0.0.0.0"])
    pod.traffic.listen(pod.outside, [80], where="ext", hosts=["0.0.0.0"])
    for _ in range(5):
        clients = [
            Client(pod.inside, OUTSIDE[4], 80, APP, patience=20),  # of a machine that has much to do
            Client(pod.outside, ("10.244.0.5",), 8080, patience=20),
        ]
        with storm(pod.traffic, clients) as counted:
            pod.applied("-u", "1337", "-m", mode, f"--force-iptables-binary={backend}")
        pod.applied("--cleanup-only")
        assert set(counted[0]) <= {"ext:80", "pod:15001"}
        assert set(counted[1]) <= {"pod:8080", "pod:15006"}


# --- captured connections -----------------------------------------------------------------------------------


@contextlib.contextmanager
def captured(
    pod: Pod,
    *,
    each_way: int = 5,
    mode: str = "REDIRECT",
    versions: tuple[int, ...] = (4, 6),
    inbound: list[socket.socket] | None = None,
) -> Iterator[list[Lasting]]:
    """Captured connections in both directions. By TPROXY, inbound ones with the proxy's own call to the application.

    `inbound` gets the proxy's inbound listeners.
    """
    with contextlib.ExitStack() as stack:
        made = []
        for version in versions:
            out = stack.enter_context(server(pod.inside, 15001, version=version, uid=PROXY))
            transparent = mode == "TPROXY"
            into = stack.enter_context(server(pod.inside, 15006, version=version, uid=PROXY, transparent=transparent))
            app = stack.enter_context(server(pod.inside, 8080, version=version, uid=APP))
            if inbound is not None:
                inbound.append(into)
            for number in range(each_way):
                made.append(dialled(pod.inside, (OUTSIDE[version][0], 80), out, uid=APP))
                made.append(dialled(pod.outside, (ADDRESSES[version], 8080), into))
                if transparent:
                    source = (GATEWAY[version], 20000 + number)
                    made.append(
                        dialled(pod.inside, (ADDRESSES[version], 8080), app, uid=PROXY, source=source, mark=1337)
                    )
        for it in made:
            stack.callback(it.close)
        assert broken(made) == []
        yield made


def clean(pod: Pod, *arguments: str) -> tuple[dict[str, Any], str]:
    """The answer of `capture clean` and what it warned of."""
    done = pod.capture("clean", "--output=json", *arguments)
    assert done.status == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer, done.stderr


@contextlib.contextmanager
def started(pod: Pod, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run of ours that is on its way."""
    command = ["ip", "netns", "exec", pod.inside.name, *pod.command(*arguments)]
    with subprocess.Popen(command, env=pod.environ(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        try:
            yield run
        finally:
            run.kill()


def hands_on(line: str) -> bool:
    """Whether this rule hands inbound connections to the proxy by TPROXY."""
    return "-j TPROXY" in line or "tproxy to" in line


def is_let_go(pod: Pod, backend: str) -> Callable[[], bool]:
    """Whether nothing new is captured any more, while chains of ours are still there."""

    def is_so() -> bool:
        lines = pod.saved(backend)
        nat = lines[lines.index("*nat") :]
        nat = nat[: nat.index("COMMIT")]
        assert ":ISTIO_REDIRECT -" in nat
        hooked = any(line.startswith("-A OUTPUT ") and "ISTIO_OUTPUT" in line for line in nat)
        return not hooked and not any(map(hands_on, lines))

    return is_so


@every_backend
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_clean_says_before_how_many_captured_connections_it_resets(pod: Pod, backend: str, mode: str) -> None:
    """Of both families and both directions, TPROXY's by their marks; a dry run says so too, and cuts none."""
    pod.applied("-u", "1337", "-m", mode, "--dual-stack", f"--force-iptables-binary={backend}")
    with captured(pod, mode=mode) as connections:
        told = pod.capture("clean", "-n").stderr
        assert "20 captured connections will be reset" in told
        assert broken(connections) == []
        answer, told = clean(pod)
        assert len(answer["reset"]) == 20
        assert "20 captured connections will be reset by this; --drain 30s waits" in told
        assert len(broken(connections)) == 20
    again, told = clean(pod)
    nothing: dict[str, object] = {"removed": [], "remaining": [], "reset": [], "kept": [], "dry_run": False}
    assert nothing.items() <= again.items()
    assert again["left"] == answer["left"]
    assert "captured connection" not in told


@every_backend
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_clean_waits_for_captured_connections(pod: Pod, backend: str, mode: str) -> None:
    """Until the last one has ended, and no longer. Meanwhile they go on, and new connections are not captured."""
    before = pod.state()
    pod.applied("-u", "1337", "-m", mode, "--dual-stack", f"--force-iptables-binary={backend}")
    with (
        captured(pod, each_way=2, mode=mode) as connections,
        server(pod.outside, 80) as out,
        started(pod, "clean", "--output=json", "--drain", "30s") as draining,
    ):
        until(is_let_go(pod, backend))
        assert broken(connections) == []
        with server(pod.inside, 9090, uid=APP) as app:
            inbound = dialled(pod.outside, (ADDRESSES[4], 9090), app)
            outbound = dialled(pod.inside, (OUTSIDE[4][0], 80), out, uid=APP)
            with inbound, outbound:
                assert broken([inbound, outbound]) == []
        assert draining.poll() is None
        for it in connections:
            it.close()
        answer, told = draining.communicate(timeout=10)
        assert draining.returncode == 0, told
        assert json.loads(answer)["reset"] == []
        assert "waiting up to 30 s for 8 captured connections to end" in told
    if backend == "nft":
        assert pod.state() == before


@every_backend
def test_clean_says_how_many_it_cut_that_did_not_end(pod: Pod, backend: str) -> None:
    """After the time that was given, those that are left are reset, and counted."""
    pod.applied("-u", "1337", f"--force-iptables-binary={backend}")
    with captured(pod, each_way=3, versions=(4,)) as connections:
        connections[0].close()
        answer, told = clean(pod, "--drain", "600ms")
        assert len(answer["reset"]) == 5
        assert "5 captured connections did not end in 0.6 s and will be reset" in told
        assert len(broken(connections[1:])) == 5


@every_backend
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_ends_the_wait_keeps_the_capture(pod: Pod, backend: str, number: int) -> None:
    """Told to end, it puts back what it had taken away, and then ends."""
    pod.applied("-u", "1337", "-m", "TPROXY", "--dual-stack", f"--force-iptables-binary={backend}")
    before = pod.meaning()
    with (
        captured(pod, each_way=1, mode="TPROXY") as connections,
        started(pod, "clean", "--drain", "30s") as draining,
    ):
        until(is_let_go(pod, backend))
        draining.send_signal(number)
        _, told = draining.communicate(timeout=10)
        assert draining.returncode != 0
        assert "the namespace is as it was" in told
        assert pod.meaning() == before
        assert broken(connections) == []


KEEPING_CONNTRACK = (
    "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    "nft add table inet theirs; nft add chain inet theirs in; nft add rule inet theirs in ct state invalid drop",
)
KEEPING_NAT_TOO = (
    "iptables-legacy -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
    "iptables-nft -t nat -A OUTPUT -d 192.0.2.7 -p tcp -j DNAT --to-destination 192.0.2.8",
    "nft add table inet theirs; nft add chain inet theirs n '{ type nat hook output priority 0; }'; "
    "nft add rule inet theirs n ip daddr 192.0.2.7 dnat to 192.0.2.8",
)


@every_backend
@pytest.mark.parametrize("others", [*KEEPING_CONNTRACK, *KEEPING_NAT_TOO])
def test_where_others_keep_conntrack_and_nat_captured_connections_go_on(pod: Pod, backend: str, others: str) -> None:
    """Then it says that they go on, and they do; where only one of both is kept it says that they are reset, and they
    are. A legacy nat table is never gone."""
    pod.applied("-u", "1337", f"--force-iptables-binary={backend}")
    pod.inside.output("sh", "-ec", others)
    with captured(pod, versions=(4,)) as connections:
        answer, told = clean(pod)
        if others in KEEPING_NAT_TOO or backend == "legacy":
            assert answer["reset"] == []
            assert "10 captured connections will go on through the proxy" in told
            assert broken(connections) == []
        else:
            assert len(answer["reset"]) == 10
            assert len(broken(connections)) == 10


@every_backend
def test_a_change_that_ends_the_capture_of_a_family_says_what_it_cuts(pod: Pod, backend: str) -> None:
    """From both families to IPv4: the captured ones of IPv6 are counted, and those of IPv4 go on."""
    asked = ["-u", "1337", f"--force-iptables-binary={backend}"]
    pod.applied(*asked, "--dual-stack")
    with captured(pod, each_way=2) as connections:
        assert "will be reset" not in pod.applied(*asked, "--dual-stack", "-o", "22").stderr
        assert "4 captured connections will be reset by this" in pod.applied(*asked).stderr
        assert len(broken(connections)) == 4


@every_backend
def test_a_change_from_tproxy_to_redirect_waits_for_those_that_need_the_mark(pod: Pod, backend: str) -> None:
    """Meanwhile they go on, and new connections are captured the new way."""
    asked = ["-u", "1337", "--dual-stack", f"--force-iptables-binary={backend}"]
    pod.applied(*asked, "-m", "TPROXY")
    inbound: list[socket.socket] = []
    with (
        captured(pod, each_way=2, mode="TPROXY", inbound=inbound) as connections,
        started(pod, *asked, "--drain", "20s") as changing,
    ):
        until(lambda: not any(map(hands_on, pod.saved(backend))))
        assert broken(connections) == []
        with dialled(pod.outside, (ADDRESSES[4], 8080), inbound[0]) as new:
            for it in connections:
                it.close()
            _, told = changing.communicate(timeout=10)
            assert changing.returncode == 0, told
            assert broken([new]) == []
