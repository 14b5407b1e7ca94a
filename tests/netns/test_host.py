"""Hosts: a Kubernetes node is refused, and whoever came in by SSH can come in again."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.namespace import entered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig import Pod

EVERYTHING = ["-p", "15001", "-z", "15006", "-u", "1337"]

NODES = {
    "a chain of kube-proxy": ["iptables-{backend}", "-t", "nat", "-N", "KUBE-SERVICES"],
    "a chain of a network plugin": ["iptables-{backend}", "-t", "filter", "-N", "cali-FORWARD"],
    "kube-proxy's own table": ["nft", "add", "table", "ip", "kube-proxy"],
    "an interface of a network plugin": ["ip", "link", "add", "cni0", "type", "veth", "peer", "name", "cni1"],
}


@pytest.mark.parametrize("sign", NODES.values(), ids=list(NODES))
def test_the_namespace_of_a_node_is_refused(pod: Pod, backend: str, sign: list[str]) -> None:
    """Nothing is touched, and the message says how it was recognised; --allow-host captures, and removal is free."""
    pod.inside.output(*(word.format(backend=backend) for word in sign))
    before = pod.state()
    result = pod.capture(*EVERYTHING)
    assert result.status == 1
    assert "namespace of a Kubernetes node" in result.stderr
    assert sign[-1] in result.stderr or "cni0" in result.stderr
    assert "--allow-host" in result.stderr
    assert pod.state() == before
    dry = pod.applied("-n", *EVERYTHING)
    assert "a run would be refused: this is the network namespace of a Kubernetes node" in dry.stderr
    assert "-A ISTIO_OUTPUT -j ISTIO_REDIRECT" in dry.stdout
    pod.applied(*EVERYTHING, "--allow-host")
    pod.applied("--cleanup-only")
    assert not any("ISTIO" in line for line in pod.saved(backend))


AGENTS = {
    "a table of a network plugin": "add table inet ovn-kubernetes",
    "a table of an operating system for nodes": "add table inet talos",
    "a chain in a table that iptables does not show": "add table inet host; add chain inet host KUBE-KUBELET-CANARY",
    "a chain of a cloud's plugin": "add table ip nat; add chain ip nat AWS-SNAT-CHAIN-0",
}


@pytest.mark.parametrize("sign", AGENTS.values(), ids=list(AGENTS))
def test_a_node_is_known_by_what_only_nf_tables_shows(pod: Pod, sign: str) -> None:
    """A run is refused and names it, and check says the same."""
    pod.inside.output("nft", sign)
    result = pod.capture(*EVERYTHING)
    assert result.status == 1
    kind, name = "chain" if " chain " in sign else "table", sign.split()[-1]
    assert f"recognised by: the {kind} {name}" in result.stderr
    assert name in pod.capture("check", "--no-rehearsal", *EVERYTHING).stdout


def test_a_pod_of_that_node_is_not_refused(pod: Pod) -> None:
    """Rules and interfaces of other kinds are no sign of a node."""
    pod.inside.output("iptables-nft", "-t", "nat", "-N", "OTHERS")
    pod.inside.ip("link", "add", "br-lan", "type", "veth", "peer", "name", "net1")
    pod.applied(*EVERYTHING)


# --- SSH ----------------------------------------------------------------------------------------------------

SERVER = """
import socket, sys
server = socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    client, peer = server.accept()
    client.sendall(b"ssh|%d|||" % int(sys.argv[1]) + peer[0].encode())
    client.close()
"""


@contextlib.contextmanager
def sshd(pod: Pod, port: int, tmp_path: Path) -> Iterator[None]:
    """A server whose process is called sshd and that answers like our listeners."""
    program = tmp_path / "sshd"
    program.symlink_to(sys.executable)
    command = ["ip", "netns", "exec", pod.inside.name, str(program), "-c", SERVER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]}) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            assert Path(f"/proc/{process.pid}/comm").read_text().strip() == "sshd"
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_a_new_ssh_connection_still_gets_in(pod: Pod, backend: str, tmp_path: Path, mode: str) -> None:
    """sshd listens on 2222: that port is left alone, in both families, and it is said; other ports are captured."""
    arguments = [*EVERYTHING, "-m", mode, "--dual-stack", f"--force-iptables-binary={backend}"]
    pod.traffic.listen(pod.inside, [15006], where="pod", transparent=mode == "TPROXY")
    with sshd(pod, 2222, tmp_path):
        result = pod.applied(*arguments)
        assert "port 2222 is not captured: sshd (pid" in result.stderr
        for version in (4, 6):
            assert str(pod.dial_in(2222, version=version)) == "ssh:2222"
            assert str(pod.dial_in(8080, version=version)) == "pod:15006"
        assert "already in place" in pod.applied(*arguments).stderr
        pod.applied(*arguments, "--capture-ssh")
        assert str(pod.dial_in(2222)) == "pod:15006"


def test_the_port_of_the_running_session_is_left_alone(pod: Pod) -> None:
    """SSH_CONNECTION names it, if its server address is one of this namespace; also where only ports are listed."""
    pod.open_listeners()
    session = {"SSH_CONNECTION": "10.244.0.9 50022 10.244.0.5 22"}
    pod.applied(*EVERYTHING, env=session)
    assert str(pod.dial_in(22)) == "pod:22"
    pod.applied(*EVERYTHING, "-b", "22,80", env=session)
    assert str(pod.dial_in(22)) == "pod:22"
    assert str(pod.dial_in(80)) == "pod:15006"
    pod.applied("--cleanup-only")
    pod.applied(*EVERYTHING, env={"SSH_CONNECTION": "10.244.0.9 50022 198.51.100.1 22"})
    assert str(pod.dial_in(22)) == "pod:15006"


def test_what_was_left_to_ssh_stays_so(pod: Pod, backend: str) -> None:
    """A rerun without the variable, as by cron or at boot, changes nothing; verify, diff and check see no difference.

    Other settings keep it as well, and in the other mode; --capture-ssh ends it.
    """
    arguments = [*EVERYTHING, f"--force-iptables-binary={backend}"]
    pod.open_listeners()
    pod.applied(*arguments, env={"SSH_CONNECTION": "10.244.0.9 50022 10.244.0.5 22"})
    assert pod.capture("verify", *arguments).status == 0
    assert pod.capture("diff", *arguments).status == 0
    assert "22 (a former run left it alone)" in pod.capture("check", "--no-rehearsal", *arguments).stdout
    again = pod.applied(*arguments)
    assert "already in place" in again.stderr
    assert "port 22 is not captured: a former run left it alone for SSH" in again.stderr
    for mode in ("TPROXY", "REDIRECT"):
        pod.applied(*arguments, "-d", "80,8080", "-m", mode)
        assert str(pod.dial_in(22)) == "pod:22"
    pod.applied(*arguments, "-d", ",".join(map(str, range(30000, 30016, 1))))
    assert str(pod.dial_in(22)) == "pod:22"
    pod.applied(*arguments, "--capture-ssh")
    assert str(pod.dial_in(22)) == "pod:15006"
    pod.applied(*arguments)
    assert str(pod.dial_in(22)) == "pod:15006"


def test_sixteen_excluded_ports_leave_nothing_to_ssh(pod: Pod, backend: str) -> None:
    """A list that is packed into multiport matches has no match of one port, by which SSH's is known."""
    arguments = [*EVERYTHING, f"--force-iptables-binary={backend}"]
    pod.open_listeners()
    pod.applied(*arguments, "-d", ",".join(map(str, [22, *range(1024, 1054, 2)])))
    assert str(pod.dial_in(22)) == "pod:22"
    pod.applied(*arguments)
    assert str(pod.dial_in(22)) == "pod:15006"


def test_a_session_is_found_above_sudo(pod: Pod) -> None:
    """sudo takes SSH_CONNECTION away; the shell in which it was typed still has it."""
    pod.open_listeners()
    script = 'env -u SSH_CONNECTION "$@"; status=$?; exit $status'
    result = pod.inside.run(
        *("sh", "-c", script, "sh", *pod.command(*EVERYTHING)),
        env={**pod.environ(), "SSH_CONNECTION": "10.244.0.9 50022 10.244.0.5 22"},
    )
    assert result.returncode == 0, result.stderr
    assert "port 22 is not captured: the SSH session of sh (pid" in result.stderr
    assert str(pod.dial_in(22)) == "pod:22"


SESSION = """
import socket, sys
server = socket.create_server(("10.244.0.5", 22))
print("ready", flush=True)
session, _ = server.accept()
server.close()
print("ready", flush=True)
sys.stdin.read()
"""
"""A server that has one session and no longer listens."""


@pytest.mark.parametrize("name", ["sshd", "sshd-session"])
def test_a_session_is_found_by_its_connection(pod: Pod, tmp_path: Path, name: str) -> None:
    """Nobody listens, no variable is there: the established connection of root's sshd names the port."""
    program = tmp_path / name
    program.symlink_to(sys.executable)
    command = ["ip", "netns", "exec", pod.inside.name, str(program), "-c", SESSION]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with entered(pod.outside), socket.create_connection(("10.244.0.5", 22)):
            assert process.stdout.readline() == b"ready\n"
            result = pod.applied(*EVERYTHING)
        process.kill()
    assert f"port 22 is not captured: {name} (pid {process.pid}) has a session there" in result.stderr


ACTIVATED = """
import socket, subprocess, sys
server = socket.create_server(("10.244.0.5", 22))
other = socket.create_server(("10.244.0.5", 80))
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def test_socket_activation_is_an_ssh_server(pod: Pod) -> None:
    """pid 1 listens on port 22 and no sshd runs: the port is left alone; another of pid 1's is not."""
    result = pod.inside.run(
        *("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", ACTIVATED, *pod.command(*EVERYTHING)),
        env=pod.environ(),
    )
    assert result.returncode == 0, result.stderr
    assert "port 22 is not captured: python" in result.stderr
    assert "(pid 1) listens there and starts sshd" in result.stderr
    assert "port 80 is not captured" not in result.stderr


def test_in_a_pod_an_sshd_is_an_application_like_any_other(pod: Pod, tmp_path: Path) -> None:
    """The kubelet's variables are there, so this is no host that somebody administers by SSH."""
    with sshd(pod, 2222, tmp_path):
        result = pod.applied(*EVERYTHING, env={"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert "ssh" not in result.stderr.lower()
