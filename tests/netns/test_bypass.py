"""Who is not captured on purpose, and what may leave the pod past the proxy."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.conftest import every_backend
from tests.rig import ADDRESSES, APP, PROXY, Call, Landing, Pod
from tests.rig.namespace import entered

USER = 1500


def forced(backend: str, *more: str) -> list[str]:
    return ["-u", "1337", *more, f"--force-iptables-binary={backend}"]


def landings(pod: Pod, *calls: tuple[str, int, int]) -> list[str]:
    """Where TCP to these hosts and ports by these users lands."""
    return [str(landing) for landing in pod.land(Call(pod.inside, h, p, uid, uid) for h, p, uid in calls)]


@every_backend
def test_excluded_users_bypass_and_are_otherwise_like_anybody(pod: Pod, backend: str) -> None:
    """Ranges too. Unlike the proxy's, their call to their own service address is not inbound."""
    pod.applied(*forced(backend, "--exclude-uids", "1500-1600,77"))
    pod.open_listeners()
    assert landings(pod, ("9.9.9.9", 80, 1500), ("9.9.9.9", 80, 1600), ("9.9.9.9", 80, 77)) == ["ext:80"] * 3
    assert landings(pod, ("9.9.9.9", 80, 1499), ("9.9.9.9", 80, 1601)) == ["pod:15001"] * 2
    assert landings(pod, ("10.244.0.5", 8080, 1500)) == ["pod:8080"]
    assert landings(pod, ("10.244.0.5", 8080, PROXY)) == ["pod:15006"]


@every_backend
@pytest.mark.parametrize(
    ("said", "bypassed"),
    [
        ("tcp:80,443:1000-2000", {80: True, 443: True, 22: False}),
        ("80-443:1500", {80: True, 443: True, 22: False}),
        ("udp:80:1500", {80: False, 443: False, 22: False}),
        ("1500", {80: True, 443: True, 22: True}),
        ("tcp:*:1500", {80: True, 443: True, 22: True}),
        ("tcp:22:1500; 80:9,1400-1500", {80: True, 443: False, 22: True}),
    ],
)
def test_ports_can_be_excluded_for_some_users(pod: Pod, backend: str, said: str, bypassed: dict[int, bool]) -> None:
    """[PROTOCOL:]PORTS:UIDS, several of them; others stay captured."""
    pod.applied(*forced(backend, "--exclude-outbound-ports-for-uids", said))
    pod.open_listeners()
    found = landings(pod, *(("9.9.9.9", port, USER) for port in bypassed))
    assert found == [f"ext:{port}" if free else "pod:15001" for port, free in bypassed.items()]
    assert landings(pod, *(("9.9.9.9", port, 3000) for port in bypassed)) == ["pod:15001"] * len(bypassed)


@every_backend
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_what_arrives_on_an_interface_can_be_excluded(pod: Pod, backend: str, mode: str) -> None:
    """It goes to the application itself, in both families; what leaves on that interface is captured all the same."""
    pod.applied(*forced(backend, "-m", mode, "--exclude-inbound-interfaces", "eth+", "--dual-stack"))
    pod.open_listeners(transparent=mode == "TPROXY")
    assert [str(pod.dial_in(8080, version=version)) for version in (4, 6)] == ["pod:8080"] * 2
    assert landings(pod, ("9.9.9.9", 80, APP), ("2001:db8:9::9", 80, APP)) == ["pod:15001"] * 2
    pod.applied(*forced(backend, "-m", mode, "--exclude-inbound-interfaces", "net1", "--dual-stack"))
    assert [str(pod.dial_in(8080, version=version)) for version in (4, 6)] == ["pod:15006"] * 2


@every_backend
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_inbound_connections_can_be_excluded_by_source(pod: Pod, backend: str, mode: str) -> None:
    """A source network goes to the application itself; others go to the proxy."""
    pod.applied(*forced(backend, "-m", mode, "--exclude-inbound-cidrs", "192.0.2.0/24,2001:db8::/48", "--dual-stack"))
    pod.open_listeners(transparent=mode == "TPROXY")
    calls = [
        Call(pod.outside, "10.244.0.5", 8080, source="192.0.2.10"),
        Call(pod.outside, "10.244.0.5", 8080, source="10.244.0.9"),
        Call(pod.outside, "fd00:244::5", 8080, source="2001:db8::1"),
        Call(pod.outside, "fd00:244::5", 8080, source="fd00:244::9"),
    ]
    assert [str(landing) for landing in pod.land(calls)] == ["pod:8080", "pod:15006"] * 2


# --- UDP ----------------------------------------------------------------------------------------------------


AT_ONCE = "error: EPERM"
"""What the sender of a datagram that is refused or dropped in OUTPUT gets from its own call."""


def udp(pod: Pod, uid: int, port: int = 443, host: str = "9.9.9.9") -> Landing:
    return pod.traffic.call(Call(pod.inside, host, port, uid, uid, "udp"))


@every_backend
@pytest.mark.parametrize(("policy", "seen"), [("leave", "ext:443"), ("reject", AT_ONCE), ("drop", AT_ONCE)])
def test_udp_past_the_proxy_has_a_policy(pod: Pod, backend: str, policy: str, seen: str) -> None:
    """In both families; a sender that is refused is told at once.

    The proxy, excluded users and excluded destinations may send, and other ports are left.
    """
    exclusions = ["--exclude-uids", str(USER), "-x", "1.1.1.1"]
    pod.applied(*forced(backend, "--udp", f"443={policy}", "--dual-stack", *exclusions))
    pod.open_listeners()
    assert str(udp(pod, APP)) == seen
    assert str(udp(pod, APP, host="2001:db8::1")) == seen
    assert str(udp(pod, PROXY)) == "ext:443"
    assert str(udp(pod, USER)) == "ext:443"
    assert str(udp(pod, APP, host="1.1.1.1")) == "ext:443"
    assert str(udp(pod, APP, port=53)) == "ext:53"


@every_backend
def test_a_udp_server_in_the_pod_answers_whoever_asks(pod: Pod, backend: str) -> None:
    """Its answers go to the port that its client has, and a client may have any; only what begins here is refused."""
    pod.open_listeners()
    pod.applied(*forced(backend, "--udp", "1-65535=reject"))
    asked = Call(pod.outside, ADDRESSES[4], 53, proto="udp", source_port=443)
    assert str(pod.traffic.call(asked)) == "pod:53"
    assert str(udp(pod, APP)) == AT_ONCE


def test_a_policy_for_udp_can_be_taken_back(pod: Pod, backend: str) -> None:
    """Without it nothing of ours is left in the filter table."""
    pod.applied(*forced(backend, "--udp", "443=reject"))
    pod.applied(*forced(backend))
    pod.open_listeners()
    assert str(udp(pod, APP)) == "ext:443"
    assert not any(line.startswith("-A OUTPUT -j") for line in pod.saved(backend))


# --- IPv6 ---------------------------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize(
    ("choice", "app", "proxy"),
    [
        ("auto", "pod:15001", "ext:80"),
        ("on", "pod:15001", "ext:80"),
        ("off", "ext:80", "ext:80"),
        ("reject", "refused", "ext:80"),
    ],
)
def test_ipv6_is_captured_left_or_refused(pod: Pod, backend: str, choice: str, app: str, proxy: str) -> None:
    """`reject` answers at once, so that a client falls back to IPv4; the proxy may go out."""
    pod.applied(*forced(backend, "--ipv6", choice))
    pod.open_listeners()
    assert landings(pod, ("2001:db8::1", 80, APP), ("2001:db8::1", 80, PROXY)) == [app, proxy]
    assert landings(pod, ("9.9.9.9", 80, APP)) == ["pod:15001"]


@every_backend
def test_refusing_ipv6_spares_answers_and_loopback(pod: Pod, backend: str) -> None:
    """What comes in over IPv6 is served, and applications reach each other over ::1; UDP is refused as TCP is."""
    pod.applied(*forced(backend, "--ipv6", "reject"))
    pod.open_listeners()
    assert str(pod.dial_in(8080, version=6)) == "pod:8080"
    assert str(pod.dial_in(443, version=6, proto="udp")) == "pod:443"
    assert str(pod.dial("::1", 8080)) == "pod:8080"
    assert str(udp(pod, APP, host="2001:db8::1")) == AT_ONCE


@every_backend
def test_refusing_ipv6_spares_what_does_not_leave_the_link(pod: Pod, backend: str) -> None:
    """DHCPv6, mDNS and calls to a neighbour's link-local address arrive as before."""
    pod.applied(*forced(backend, "--ipv6", "reject"))
    with entered(pod.inside):
        eth0 = socket.if_nametoindex("eth0")
    with entered(pod.outside), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listener:
        link = socket.if_nametoindex("eth0")
        listener.settimeout(2)
        listener.bind(("::", 5353))
        for group in ("ff02::fb", "ff02::1:2"):
            joined = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", link)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
        shown = pod.outside.output("ip", "-6", "-brief", "addr", "show", "dev", "eth0", "scope", "link").split()
        neighbour = next(word.split("/")[0] for word in shown if word.startswith("fe80"))
        with entered(pod.inside), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            for to in ("ff02::fb", "ff02::1:2", neighbour):
                sender.sendto(to.encode(), (to, 5353, 0, eth0))
                assert listener.recv(99) == to.encode()
    pod.traffic.listen(pod.outside, [80], where="ext")
    with entered(pod.inside), socket.socket(socket.AF_INET6) as caller:
        caller.settimeout(2)
        caller.connect((neighbour, 80, 0, eth0))


CHOICES = (["--ipv6=auto"], ["--dual-stack"], ["--ipv6=auto", "-m", "TPROXY"])


@every_backend
@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_where_lo_has_no_ipv6_it_is_left_as_it_works(pod: Pod, backend: str, choice: list[str]) -> None:
    """Captured, it would be sent over lo and nowhere: it is said, verify and check know it, IPv4 is captured."""
    pod.inside.output("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    result = pod.applied(*forced(backend, *choice))
    assert "IPv6 is not captured: lo has no IPv6 here" in result.stderr
    for port in (15001, 15006):
        pod.traffic.listen(pod.inside, [port], where="pod", uid=PROXY, transparent="TPROXY" in choice)
    pod.traffic.listen(pod.inside, [8080], where="pod")
    pod.traffic.listen(pod.outside, [80], where="ext")
    assert [str(pod.dial("2001:db8::1", 80)), str(pod.dial_in(8080, version=6))] == ["ext:80", "pod:8080"]
    assert [str(pod.dial("9.9.9.9", 80)), str(pod.dial_in(8080))] == ["pod:15001", "pod:15006"]
    assert pod.capture("verify", *forced(backend, *choice)).status == 0
    told = " ".join(pod.capture("check", *forced(backend, *choice)).stdout.split())
    assert "what is captured goes over lo: set /proc/sys/net/ipv6/conf/lo/disable_ipv6 to 0" in told


def test_ipv6_is_refused_where_lo_has_none(pod: Pod) -> None:
    """--ipv6=on there can only take away what works; nothing is touched."""
    pod.inside.output("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    before = pod.state()
    result = pod.capture("--ipv6=on")
    assert result.status == 2
    assert 'flag --ipv6 "on": asks for IPv6, but lo has no IPv6 here' in result.stderr
    assert pod.state() == before


def test_a_missing_passthrough_address_is_a_difference(pod: Pod) -> None:
    """Without ::6 the proxy cannot hand inbound IPv6 on: verify says so, and a rerun adds it."""
    pod.applied("--ipv6=on")
    pod.inside.ip("-6", "addr", "del", "::6/128", "dev", "lo")
    verified = pod.capture("verify", "--ipv6=on")
    assert verified.status == 4
    assert "`ip -6 addr: ::6/128 dev lo` is missing" in verified.stdout
    pod.applied("--ipv6=on")
    assert pod.capture("verify", "--ipv6=on").status == 0


def test_ipv6_choices_that_contradict_are_refused(pod: Pod) -> None:
    """--dual-stack asks for what --ipv6=off forbids."""
    result = pod.capture("--dual-stack", "--ipv6", "off")
    assert result.status == 2
    assert 'flag --ipv6 "off": contradicts flag --dual-stack' in result.stderr


def test_auto_leaves_ipv6_alone_where_there_is_none(ipv4_pod: Pod, backend: str) -> None:
    """A pod without an IPv6 address gets no IPv6 rules, and no warning."""
    result = ipv4_pod.applied(*forced(backend, "--ipv6", "auto"))
    warned = [line for line in result.stderr.splitlines() if "\twarn\t" in line]
    # The legacy backend's lock is the whole host's, and others may hold it.
    assert [line for line in warned if "waiting for the lock of iptables" not in line] == []
    assert not any("ISTIO" in line for line in ipv4_pod.saved(backend, version=6))


# --- what else ----------------------------------------------------------------------------------------------


def test_captured_connections_can_be_logged(pod: Pod, backend: str) -> None:
    """nflog: the rule is met by a captured connection, in front of the redirection."""
    pod.applied(*forced(backend, "--log-connections", "nflog", "--nflog-group", "7", "--log-connections-rate", "20"))
    pod.open_listeners()
    pod.dial("9.9.9.9", 80)
    pod.dial_in(8080)
    counted = pod.inside.output(f"iptables-{backend}-save", "-c").splitlines()
    logged = [line for line in counted if "NFLOG" in line]
    assert [line.split()[2] for line in logged] == ["ISTIO_IN_REDIRECT", "ISTIO_REDIRECT"]
    assert all("--limit 20/sec" in line and "--nflog-group 7" in line and line.startswith("[1:") for line in logged)
    assert (
        "already in place"
        in pod.applied(
            *forced(backend, "--log-connections", "nflog", "--nflog-group", "7", "--log-connections-rate", "20")
        ).stderr
    )


def test_a_log_that_nobody_sees_is_said(pod: Pod) -> None:
    """LOG is silent in a pod's namespace; a run and check say so, and what to use. NFLOG is not."""
    silent = pod.applied("--log-connections", "log").stderr
    assert "in a pod the kernel logs nothing" in silent
    assert "nflog logs everywhere" in silent
    assert "--log-connections nflog" in pod.capture("check", "--log-connections", "log", "--no-rehearsal").stdout
    assert "logs nothing" not in pod.applied("--log-connections", "nflog").stderr


@every_backend
@pytest.mark.parametrize("rate", [1, 3, 7, 33, 60, 85, 99, 100])
def test_a_rate_is_spelled_back_as_it_was_given(pod: Pod, backend: str, rate: int) -> None:
    """Or a rerun would find a difference where there is none."""
    arguments = forced(backend, "--log-connections", "log", "--log-connections-rate", str(rate))
    pod.applied(*arguments)
    assert "already in place" in pod.applied(*arguments).stderr


CLOSE_WAIT = "net.netfilter.nf_conntrack_tcp_timeout_close_wait"


def test_the_close_wait_timeout_is_set(pod: Pod) -> None:
    """In the pod's namespace, and what it was is said."""
    result = pod.applied("--close-wait-timeout", "1h30m")
    assert pod.inside.output("sysctl", "-n", CLOSE_WAIT).strip() == "5400"
    assert f"{CLOSE_WAIT} is 5400 s now, and was" in result.stderr


def test_a_removal_says_that_the_close_wait_timeout_stays(pod: Pod) -> None:
    """Where it is not the kernel's default, with that; a removal where it is says nothing of it."""
    pod.applied()
    assert CLOSE_WAIT not in pod.capture("clean").stdout
    pod.applied("--close-wait-timeout", "1h")
    said = pod.capture("clean").stdout
    assert f"conntrack: {CLOSE_WAIT} = 3600 (a run with --close-wait-timeout may have set it" in said
    assert "the kernel's default is 60" in said
    assert CLOSE_WAIT not in pod.capture("clean").stdout, "nothing of ours was there"


def test_a_close_wait_timeout_that_cannot_be_set_is_no_failure(pod: Pod) -> None:
    """Without the right to write it, the rules are in place and a warning says what was not done."""
    done = pod.inside.run(
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"',
        "sh",
        *pod.command("--close-wait-timeout", "60s"),
        env=pod.environ(),
    )
    assert done.returncode == 0, done.stderr
    assert f"cannot set {CLOSE_WAIT}" in done.stderr
    assert any("ISTIO_REDIRECT" in line for line in pod.saved())
