"""--run-validation: what it proves, what it says it cannot prove, and that it fails when something is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import every_backend
from tests.netns.test_conformance import recorded
from tests.netns.test_proxy import process
from tests.rig import PROXY, Pod, Result, entered
from tests.rig.chance import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ALONE = ["--run-validation", "--skip-rule-apply"]
WITHOUT_CAPABILITIES = [
    "setpriv", "--reuid=1337", "--regid=1337", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
]  # fmt: skip


def paths(result: Result, word: str) -> list[str]:
    """The lines about paths with this result."""
    return [line for line in result.stderr.splitlines() if f"\t{word}: " in line]


@every_backend
@pytest.mark.parametrize(("case", "record"), recorded())
def test_what_the_reference_captures_is_proved(case: dict[str, Any], record: dict[str, Any], backend: str) -> None:
    """On every recorded case, right behind applying it: nothing fails, and something is proved."""
    assert record["rc"] == 0
    with Pod(ipv6=case["v6"]) as pod:
        pod.inside.set_resolv_conf(case["resolv"])
        arguments = [*case["args"], f"--force-iptables-binary={backend}", "--run-validation"]
        result = pod.capture(*arguments, env=case["env"])
    assert result.status == 0, result.stderr
    assert paths(result, "FAILED") == []
    assert paths(result, "proved") != []


SETTINGS: dict[str, Sequence[str]] = {
    "1.20.1": ["-u", "1337", "-b", "*", "-d", "15090,15021,15020", "-i", "*", "-x", ""],
    "lists": ["-u", "3", "-g", "202", "-b", "80,443", "-i", "9.9.9.0/24,10.0.0.0/8", "-q", "3306", "-o", "22"],
    "exclusions": ["-x", "1.1.1.1", "-o", "22", "--exclude-uids", "77", "--exclude-inbound-cidrs", "192.0.2.0/24"],
    "dns, dual stack": ["-u", "1337", "--redirect-dns", "--dual-stack"],
    "tproxy": ["-u", "1337", "-m", "TPROXY", "--dual-stack", "--drop-invalid"],
    "several proxies": ["-u", "1337,3", "-g", "1337,202", "--udp", "443=reject"],
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_any_rule_that_is_missing_is_found(settings: list[str], backend: str) -> None:
    """Each rule of each table is deleted in turn: exit status 126, and the rule is named with its reason."""
    with Pod() as pod:
        pod.inside.set_resolv_conf("nameserver 10.96.0.10\nnameserver fd00:96::a\n")
        arguments = [*settings, f"--force-iptables-binary={backend}"]
        pod.applied(*arguments)
        tried = 0
        for program in ("iptables", "ip6tables"):
            for table, chain, position, text in rules_of(pod, f"{program}-{backend}"):
                pod.inside.output(f"{program}-{backend}", "-t", table, "-D", chain, str(position))
                result = pod.capture(*arguments, *ALONE, "--probe-timeout", "200ms")
                assert result.status == 126, (table, text)
                assert f"{table}: -A {chain} " in result.stderr, (table, text)
                assert "its why:" in result.stderr
                put_back = re.sub(r"^-A \S+", "", text).split()
                pod.inside.output(f"{program}-{backend}", "-t", table, "-I", chain, str(position), *put_back)
                tried += 1
        assert tried > 12
        assert pod.capture(*arguments, *ALONE).status == 0


def rules_of(pod: Pod, program: str) -> list[tuple[str, str, int, str]]:
    """Every rule of ours: its table, chain, position and text."""
    found = []
    table, counted = "", dict[str, int]()
    for line in pod.inside.output(f"{program}-save").splitlines():
        if line.startswith("*"):
            table, counted = line[1:], {}
        elif line.startswith("-A "):
            chain = line.split()[1]
            counted[chain] = counted.get(chain, 0) + 1
            found.append((table, chain, counted[chain], line))
    return found


def test_long_lists_are_proved_by_their_first_entries(pod: Pod) -> None:
    """Thousands of networks and ports do not take thousands of sockets; each path names the rule that decides it."""
    networks = ",".join(f"10.{n // 250}.{n % 250}.0/25" for n in range(3000))
    ports = ",".join(str(20000 + 3 * n) for n in range(400))
    arguments = ["-u", "1337", "-x", networks, "-o", f"22,{ports}", "--redirect-dns", "--capture-all-dns"]
    pod.applied(*arguments)
    result = pod.capture(*arguments, *ALONE)
    assert result.status == 0, result.stderr[-3000:]
    assert len(paths(result, "proved")) < 100
    pod.inside.output(
        "iptables-nft", "-t", "nat", "-I", "ISTIO_OUTPUT", "1", "-p", "tcp", "--dport", "20006", "-j", "ISTIO_REDIRECT"
    )
    failed = pod.capture(*arguments, *ALONE)
    assert failed.status == 126
    assert "an excluded port" in paths(failed, "FAILED")[0]
    assert "--dports 22,20000,20003,20006" in failed.stderr


def test_missing_routing_is_found(pod: Pod) -> None:
    """What TPROXY needs besides rules: an ip rule or a route that is gone is named."""
    arguments = SETTINGS["tproxy"]
    pod.applied(*arguments)
    for gone, named in (
        (["rule", "del", "priority", "32765"], "ip rule add priority 32765 fwmark 0x539 lookup 133"),
        (["-6", "route", "del", "local", "default", "dev", "lo", "table", "133"], "ip -6 route add local default"),
    ):
        pod.inside.ip(*gone)
        result = pod.capture(*arguments, *ALONE)
        assert result.status == 126
        assert named in result.stderr
        assert "already in place" not in pod.applied(*arguments).stderr
    assert pod.capture(*arguments, *ALONE).status == 0


def test_what_comes_from_outside_is_listed_as_not_proved(pod: Pod) -> None:
    """For each captured family, with what is known of its rules."""
    pod.applied(*SETTINGS["dns, dual stack"])
    lines = paths(pod.capture(*SETTINGS["dns, dual stack"], *ALONE), "not proved")
    outside = [line for line in lines if "tcp, from outside" in line]
    assert ["IPv4" in line for line in outside] == [True, False]
    assert all("the rules for it are as planned" in line for line in outside)


BEHAVIOUR = {
    "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN": "the proxy sends (gid 1337)",
    "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN": "the proxy passes inbound traffic on",
    "-A ISTIO_OUTPUT -j ISTIO_REDIRECT": "an application sends",
    "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001": "an application sends",
    "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006": "the proxy calls its own pod",
    "-A OUTPUT -p tcp -j ISTIO_OUTPUT": "an application sends",
}
"""Rules of the 1.20.1 pod spec whose absence traffic shows, and by which path. Of the others some are met only by
what comes from outside, and some stand behind an equal rule for the gid of the same proxy."""


@pytest.mark.parametrize(("rule", "path"), BEHAVIOUR.items())
def test_traffic_shows_what_a_missing_rule_does(pod: Pod, backend: str, rule: str, path: str) -> None:
    """The path that fails is the one that the rule decides, with where it went instead."""
    arguments = [*SETTINGS["1.20.1"], f"--force-iptables-binary={backend}"]
    pod.applied(*arguments)
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-D", *rule.split()[1:])
    result = pod.capture(*arguments, *ALONE, "--probe-timeout", "300ms")
    assert result.status == 126
    assert any(path in line for line in paths(result, "FAILED")), result.stderr


def as_proxy(pod: Pod, *arguments: str) -> Result:
    """As a CNI installation runs it: uid 1337, no capabilities, nothing to write to."""
    # With what is mounted below: our code may be in /tmp, which may be a file system of its own.
    mounts = "mount --rbind / /mnt && mount -o remount,bind,ro /mnt"
    own_tmp = "! mountpoint -q /tmp || mount -o remount,bind,ro /mnt/tmp"
    read_only = ["unshare", "-m", "sh", "-c", f'{mounts} && {{ {own_tmp}; }} && exec "$@"', "sh"]
    command = [*read_only, "chroot", "/mnt", *WITHOUT_CAPABILITIES, sys.executable, "-B", "-m", "capture", *arguments]
    done = pod.inside.run(*command, env=pod.environ())
    return Result(done.returncode, done.stdout, done.stderr)


def test_the_proxys_user_without_capabilities_proves_its_own_paths(pod: Pod) -> None:
    """And lists as not proved those of applications, and the rules themselves."""
    pod.applied(*SETTINGS["1.20.1"])
    result = as_proxy(pod, *SETTINGS["1.20.1"], *ALONE)
    assert result.status == 0, result.stderr
    assert [("calls its own pod" in line, "sends" in line) for line in paths(result, "proved")].count(
        (True, False)
    ) == 1
    unproved = paths(result, "not proved")
    assert any("an application sends" in line and "CAP_SETUID" in line for line in unproved)
    assert any("the rules as such" in line for line in unproved)


def test_the_proxys_user_sees_that_nothing_is_captured(pod: Pod) -> None:
    """No rules at all: exit status 126, as a repair controller expects."""
    result = as_proxy(pod, *SETTINGS["1.20.1"], *ALONE, "--probe-timeout", "300ms")
    assert result.status == 126
    assert "Traceback" not in result.stderr
    assert any("the proxy calls its own pod" in line for line in paths(result, "FAILED"))


def test_the_timeout_bounds_it_and_success_does_not_wait_for_it(pod: Pod) -> None:
    """Well under a second when all is well; about the timeout when an answer is missing."""
    pod.applied(*SETTINGS["1.20.1"])
    began = time.monotonic()
    assert pod.capture(*SETTINGS["1.20.1"], *ALONE, "--probe-timeout", "1m").status == 0
    assert time.monotonic() - began < 30, "it waited for a time-out, when nothing was missing"
    pod.inside.output("iptables-nft", "-t", "nat", "-A", "ISTIO_OUTPUT", "-j", "RETURN")
    pod.inside.output("iptables-nft", "-t", "nat", "-D", "ISTIO_OUTPUT", "-j", "ISTIO_REDIRECT")
    began = time.monotonic()
    assert pod.capture(*SETTINGS["1.20.1"], *ALONE, "--probe-timeout", "1500ms").status == 126
    assert time.monotonic() - began > 1.5


def test_probes_may_share_a_port(pod: Pod) -> None:
    """With one free port for each address all of them have it, and none is taken for another."""
    pod.applied(*SETTINGS["1.20.1"])
    pod.inside.output("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40007")
    result = pod.capture(*SETTINGS["1.20.1"], *ALONE)
    assert result.status == 0, result.stderr
    assert len(paths(result, "proved")) == 7


DECIDED_ELSEWHERE = [
    "-o 15000-15100",
    "-o 1-65535",
    "-c lo",
    "-c l+,eth0",
    "-e 15002",
    "-z 15002",
    "-p 15002",
    "-x 192.0.2.0/24,198.51.100.0/24,127.0.0.6",
    "-x 0.0.0.0/0",
    "-i 10.244.0.5",
    "-m TPROXY -c lo",
    "--exclude-uids 0-4294967294",
    "--exclude-outbound-ports-for-uids 15002:1-4294967294",
    "--redirect-dns -c eth0",
    "--redirect-dns --dns-capture-port 15002",
    "--redirect-dns --dns-capture-address 10.244.0.9 --dns-capture-port 8600",
    "-q 80 -o 80",
]
"""Settings that decide the very connections by which others would be proved."""


@every_backend
def test_rules_that_are_right_never_fail(pod: Pod, backend: str) -> None:
    """Whatever the settings say of the probe port, of lo, of who is excluded or of where the resolver is: what all of
    them together mean is what is expected. And nothing is claimed that was not proved.
    """
    pod.inside.set_resolv_conf("nameserver 10.96.0.10\n")
    for line in DECIDED_ELSEWHERE:
        arguments = ["-u", "1337", "--ipv6", "off", *line.split()]
        result = pod.applied(*arguments, "--run-validation", f"--force-iptables-binary={backend}")
        assert paths(result, "FAILED") == [], line
        sends = [each for each in paths(result, "proved") if "an application sends" in each and "port 15001" in each]
        said = "what applications send (IPv4 tcp)" in result.stderr.splitlines()[-1]
        assert said is not (bool(sends) or "-p 15002" in line), (line, result.stderr.splitlines()[-1])


@pytest.mark.parametrize("taken", ["0.0.0.0", "127.0.0.1"])
def test_a_probe_port_that_is_taken_is_no_failure(pod: Pod, taken: str) -> None:
    """Any other port serves as well."""
    pod.applied(*SETTINGS["1.20.1"])
    with entered(pod.inside):
        holder = socket.create_server((taken, 15002))
    with holder:
        result = pod.capture(*SETTINGS["1.20.1"], *ALONE)
    assert result.status == 0, result.stderr
    assert "port 15002 is not free" in result.stderr
    assert "The capture works: 7 of 7 paths proved" in result.stderr


THEIRS = "at port 15006, where somebody listens already|was sent to port 15006"
PROXIES = [("127.0.0.1", 15001), ("127.0.0.1", 15006), ("::1", 15001), ("::1", 15006)]


@pytest.mark.parametrize("who", ["root", "the proxy's user"])
def test_the_listeners_of_the_proxy_serve_where_it_runs(pod: Pod, backend: str, who: str) -> None:
    """What arrives there is proved, of TCP by anybody, of UDP by those who may ask conntrack; who listens is said."""
    pod.inside.set_resolv_conf("nameserver 10.96.0.10\n")
    arguments = ["-u", "1337", "--ipv6", "on", "--redirect-dns"]
    pod.applied(*arguments, f"--force-iptables-binary={backend}")
    with process(pod, listen=PROXIES, dns=[("127.0.0.1", 15053)], upstream="10.96.0.10:53"):
        result = pod.capture(*arguments, *ALONE) if who == "root" else unprivileged(pod, 1337, 1337, *arguments)
    assert result.status == 0, result.stderr
    proved = paths(result, "proved")
    assert len([line for line in proved if "calls its own pod" in line and re.search(THEIRS, line)]) == 2
    assert "see the warnings" in result.stderr.splitlines()[-1] or who != "root"
    assert "only on 127.0.0.1" in result.stderr
    if who == "root":
        assert [line for line in proved if "udp, a DNS query" in line and "it was sent to port 15053" in line]
        assert "The capture works: " in result.stderr
    else:
        assert "it is not proved that the capture works" in result.stderr
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-F", "ISTIO_IN_REDIRECT")
    with process(pod, listen=PROXIES):
        failed = pod.capture(*arguments, *ALONE) if who == "root" else unprivileged(pod, 1337, 1337, *arguments)
    assert failed.status == 126
    assert any("calls its own pod" in line for line in paths(failed, "FAILED"))


def test_the_proxys_user_with_another_group_proves_its_own_paths(pod: Pod) -> None:
    """As in OpenShift, where the group is 0: the rules ask for the user first."""
    pod.applied("-u", "1337")
    result = unprivileged(pod, 1337, 0, "-u", "1337")
    assert result.status == 0, result.stderr
    assert len(paths(result, "proved")) == 3


@pytest.mark.parametrize("known", [1, 2000])
def test_users_that_are_not_mapped_are_not_tried(known: int) -> None:
    """In a user namespace that knows few: with root alone there is no application; else it is the highest that is."""
    with subprocess.Popen(["unshare", "--user", "--net", "sleep", "60"]) as owner:
        try:
            while os.readlink(f"/proc/{owner.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
                if owner.poll() is not None:
                    pytest.skip("nobody may make a user namespace here, as in a root of chroot")
            for ids in ("uid", "gid"):
                Path(f"/proc/{owner.pid}/{ids}_map").write_text(f"0 0 {known}")
            inside = ["nsenter", f"--target={owner.pid}", "--user", "--net", "--setuid=0", "--setgid=0"]
            subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
            command = [*inside, *Pod.command("-u", "0", "-g", "0", "--ipv6", "off", "--run-validation")]
            done = subprocess.run(command, capture_output=True, text=True, env=Pod.environ(), check=False)
        finally:
            owner.kill()
    assert done.returncode == 0, done.stderr
    assert ("an application calls localhost (uid 1999)" in done.stderr) is (known == 2000)
    assert "it is not proved that the capture works" in done.stderr.splitlines()[-1]


ROUNDS = 10 if ALL else 1


@pytest.mark.storm
def test_many_validations_at_once_are_all_right(pod: Pod, tell: Callable[[str], None]) -> None:
    """Twenty at once, as root and as the proxy's user, beside a proxy on its ports, with the probe port taken, on a
    machine that is busy: none fails, and with a rule deleted all do. With CAPTURE_TESTS=all, two hundred.
    """
    pod.inside.set_resolv_conf("nameserver 10.96.0.10\n")
    arguments = ["-u", "1337,1338,1339", "--redirect-dns", "--ipv6", "on"]
    pod.applied(*arguments)
    pod.traffic.listen(pod.inside, [15001, 15002, 15006], where="pod", uid=1337)
    with accepting([each.socket for each in pod.traffic.listeners]):
        counted = validated_at_once(pod, arguments)
    tell(f"{counted[0]} proved, {counted[126]} found the missing rule")


@contextlib.contextmanager
def accepting(listeners: Sequence[socket.socket]) -> Iterator[None]:
    """They take every connection and keep it until its other end closes it, as a proxy does."""
    ended = threading.Event()

    def serve() -> None:
        with selectors.DefaultSelector() as open_now, contextlib.ExitStack() as stack:
            for listener in listeners:
                listener.setblocking(False)
                open_now.register(listener, selectors.EVENT_READ, data=True)
            while not ended.is_set():
                for ready, _ in open_now.select(0.1):
                    with contextlib.suppress(OSError):
                        if ready.data:
                            taken = stack.enter_context(ready.fileobj.accept()[0])  # type: ignore[union-attr] # a socket
                            open_now.register(taken, selectors.EVENT_READ)
                        else:
                            open_now.unregister(ready.fileobj)
                            ready.fileobj.close()  # type: ignore[union-attr] # a socket

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield
    finally:
        ended.set()
        serving.join()


def validated_at_once(pod: Pod, arguments: Sequence[str]) -> dict[int, int]:
    """Twenty at once, in as many rounds as are asked for, with all rules and with one deleted: how many ended how."""
    command = ["ip", "netns", "exec", pod.inside.name]
    commands = [[*command, *who, *pod.command(*arguments, *ALONE)] for who in ([], WITHOUT_CAPABILITIES)]
    counted = {0: 0, 126: 0}
    for deleted in ([], ["-t", "nat", "-D", "ISTIO_IN_REDIRECT", "1"]):
        if deleted:
            pod.inside.output("iptables-nft", *deleted)
            pod.inside.output("ip6tables-nft", *deleted)
        for _ in range(ROUNDS):
            running = [
                subprocess.Popen(commands[n % 2], stderr=subprocess.PIPE, text=True, env=pod.environ())
                for n in range(20)
            ]
            for each in running:
                said = each.communicate(timeout=60)[1]
                assert each.returncode == (126 if deleted else 0), said
                counted[each.returncode] += 1
    return counted


def test_a_proxy_that_takes_nothing_proves_nothing_and_fails_nothing(pod: Pod) -> None:
    """Its queue is full: who may not ask conntrack says that it is not proved, not that a rule is missing; without the
    rule, the connection comes to the application, and that is a failure."""
    pod.applied("-u", "1337")
    pod.traffic.listen(pod.inside, [15006], where="pod", uid=1337)
    proxy = next(each.socket for each in pod.traffic.listeners if each.socket.family == socket.AF_INET)
    proxy.listen(0)
    command = ["ip", "netns", "exec", pod.inside.name, *WITHOUT_CAPABILITIES, *pod.command("-u", "1337", *ALONE)]
    with entered(pod.inside), contextlib.ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", 15006))
        for deleted, status in (([], 0), (["-t", "nat", "-D", "ISTIO_IN_REDIRECT", "1"], 126)):
            if deleted:
                pod.inside.output("iptables-nft", *deleted)
            done = subprocess.run(command, env=pod.environ(), capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == status, done.stderr
            assert ("took no connection in time" in done.stderr) is (status == 0)


def test_nothing_to_prove_is_no_success(ipv4_pod: Pod) -> None:
    """A run that could try nothing does not pass."""
    ipv4_pod.applied("-u", "1337")
    result = unprivileged_stranger(ipv4_pod)
    assert result.status == 126
    assert "nothing could be proved" in result.stderr


def unprivileged_stranger(pod: Pod) -> Result:
    return unprivileged(pod, 4711, 4711, "-u", str(PROXY))


def unprivileged(pod: Pod, uid: int, gid: int, *arguments: str) -> Result:
    """Validation as this user, without capabilities."""
    done = pod.inside.run(
        "setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--bounding-set=-all",
        *pod.command(*arguments, *ALONE), env=pod.environ() | {"HOME": os.devnull},
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)
