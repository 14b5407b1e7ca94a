"""What is advised helps: each hint names the cause, and no remedy that cannot be one."""

from __future__ import annotations

import errno
import sys
from contextlib import contextmanager
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen
from typing import TYPE_CHECKING

import pytest

from tests.rig import Pod, deny
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_NETFILTER = "12"
HIDDEN = 'mount --make-rprivate /; mount -t tmpfs none /usr/sbin; exec "$@"'
BOUND = """
import socket
caller = socket.socket()
caller.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
caller.settimeout(0.5)
caller.connect(("9.9.9.9", 80))
"""
EVERYTHING = ["-p", "15001", "-z", "15006", "-u", "1337"]


def denied(pod: Pod, *what: tuple[int, str], command: tuple[str, ...] = ()) -> CompletedProcess[str]:
    """A run, or another command, to which the kernel refuses these things."""
    filters = [word for number, thing in what for word in (sys.executable, deny.__file__, str(number), thing)]
    return pod.inside.run(*filters, *pod.command(*command, *EVERYTHING), env=pod.environ())


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_denied_although_the_capability_is_there(pod: Pod, number: int) -> None:
    """As root with all capabilities: a run and check name those who can forbid, and not the capability."""
    before = pod.state()
    for command in ((), ("check",)):
        done = denied(pod, (number, NETLINK_NETFILTER), command=command)
        told = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1
        assert "so it is SELinux, AppArmor or a seccomp filter that forbids it; at work here: a seccomp filter" in told
        assert "capabilities.add" not in told
        assert "run as root" not in told
    assert pod.state() == before


@contextmanager
def owned(pod: Pod, table: str) -> Iterator[None]:
    """A table that one program alone may change, as firewalld's: it goes with that program."""
    there = ("nft", "list", "table", *table.split())
    with Popen(
        ["ip", "netns", "exec", pod.inside.name, "nft", "-i"], stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, text=True
    ) as owner:
        assert owner.stdin
        try:
            owner.stdin.write(f"add table {table} {{ flags owner; }}\nadd chain {table} theirs\n")
            owner.stdin.flush()
            until(lambda: "chain theirs" in pod.inside.run(*there).stdout)
            yield
        finally:
            owner.kill()
    until(lambda: pod.inside.run(*there).returncode)


FORCED = "--force-iptables-binary=nft"


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        ("ip nat", (FORCED,)),
        ("ip6 raw", (FORCED, "--dual-stack", "--redirect-dns", "--capture-all-dns")),
        ("ip6 mangle", (FORCED, "--dual-stack", "-m", "TPROXY")),
        ("ip istio-capture", ("--native-nftables",)),
        ("ip6 istio-capture", ("--native-nftables", "--dual-stack")),
        ("ip istio-capture", ()),
        ("ip6 istio-capture", ("--take-over",)),
        ("inet istio-proxy-nat", ("--take-over",)),
        ("ip consul_tproxy", ("--take-over", "--native-nftables")),
    ],
)
def test_what_one_program_alone_may_change_is_named_as_that(pod: Pod, table: str, settings: tuple[str, ...]) -> None:
    """Neither a capability nor SELinux: by its table and the program's port, by a run and by check; then it works."""
    with owned(pod, table):
        before = pod.state()
        for command in (("apply",), ("check",)):
            done = pod.capture(*command, *EVERYTHING, *settings)
            told = " ".join((done.stdout + done.stderr).split())
            assert done.status == 1
            assert f"the table {table} belongs to the program that made it (`flags owner`, netlink port " in told
            assert "SELinux" not in told
            assert ("capture in tables of our own by --native-nftables" in told) == (FORCED in settings)
        assert pod.state() == before
    pod.applied(*EVERYTHING, *settings)


def test_where_one_program_has_the_table_of_iptables_another_backend_captures(pod: Pod) -> None:
    """Without being asked for, and says why: a run, and status."""
    pod.open_listeners()
    with owned(pod, "ip nat"):
        done = pod.applied(*EVERYTHING)
        assert (
            "Using the legacy backend of iptables: the table ip nat belongs to the program that made it" in done.stderr
        )
        assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
        assert pod.capture("verify", *EVERYTHING).status == 0
        pod.applied("--cleanup-only")


def test_a_kernel_without_any_backend_is_told_as_one(pod: Pod) -> None:
    """Neither nf_tables nor the legacy tables, as in gVisor: both causes, and neither backend for a remedy."""
    sandbox = ((errno.EPROTONOSUPPORT, NETLINK_NETFILTER), (errno.ENOPROTOOPT, "legacy"))
    for command in ((), ("check",)):
        done = denied(pod, *sandbox, command=command)
        told = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1
        assert "this kernel has neither nf_tables (Protocol not supported) nor the legacy tables" in told
        assert "the nft backend does without" not in told
        assert "others changed rules meanwhile" not in told


def test_a_missing_module_of_one_backend_has_the_other_for_a_remedy(pod: Pod) -> None:
    """Legacy tables alone are refused: the nft backend does without them."""
    done = denied(pod, (errno.ENOPROTOOPT, "legacy"), command=("--force-iptables-binary=legacy",))
    assert done.returncode == 1
    assert (
        "the kernel has no such table: `modprobe iptable_nat ip6table_nat` on the node; the nft backend" in done.stderr
    )


def test_without_iptables_that_is_what_is_missing(pod: Pod) -> None:
    """No program of either backend: said so, and the kernel is not blamed."""
    result = pod.inside.run(
        *("unshare", "--mount", "sh", "-ec", HIDDEN, "sh"),
        *pod.command(*EVERYTHING),
        env={**pod.environ(), "PATH": "/usr/sbin:/usr/bin:/bin"},
    )
    assert result.returncode == 1
    assert "no iptables is installed: neither iptables-nft-restore nor iptables-legacy-restore" in result.stderr
    assert "--force-iptables-binary" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["-u", "1337", "-g", "0"], "--proxy-uid"),
        (["-u", "0", "-g", "1337"], "--proxy-gid"),
        (["-u", "0", "-g", "0", "--exclude-uids", "1234"], "--exclude-uids"),
    ],
)
def test_an_id_that_is_not_mapped_is_told_by_its_flag(pod: Pod, backend: str, arguments: list[str], flag: str) -> None:
    """In a user namespace of one user, a run and check name the flag that asked for another, and the root it takes."""
    command = [*arguments, f"--force-iptables-binary={backend}"]
    for words in (command, ["check", "--no-rehearsal", *command]):
        result = pod.inside.run("unshare", "-rn", *pod.command(*words), env=pod.environ())
        told = " ".join((result.stdout + result.stderr).split())
        assert result.returncode == 1
        assert "which takes root outside of it (newuidmap(1); in a pod, hostUsers: true)" in told
        assert f"or give another by {flag}" in told


def test_a_bound_socket_is_said_to_hang(pod: Pod) -> None:
    """What is bound to eth0 may not send by lo: it does hang, and trace says so of what is captured only."""
    pod.applied(*EVERYTHING)
    pod.open_listeners()
    bound = (
        "import socket; s = socket.socket(); s.setsockopt(1, 25, b'eth0'); s.settimeout(.5); s.connect(('9.9.9.9', 80))"
    )
    assert "timed out" in pod.inside.run(sys.executable, "-c", bound).stderr
    assert "SO_BINDTODEVICE" in pod.capture("trace", "9.9.9.9:80", *EVERYTHING).stdout
    assert "SO_BINDTODEVICE" in pod.capture("explain", *EVERYTHING).stdout
    assert "SO_BINDTODEVICE" not in pod.capture("trace", "9.9.9.9:80", "--uid", "1337", *EVERYTHING).stdout
