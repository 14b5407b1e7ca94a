"""DNS capture: who answers whom, in both protocols and families, and conntrack's separate books."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.conftest import every_backend
from tests.rig import APP, PROXY, Call, Landing, Pod
from tests.rig.pod import ADDRESSES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESERVERS = {4: "10.96.0.10", 6: "fd00:96::a"}
OTHER = {4: "9.9.9.9", 6: "2001:db8::1"}
ARGS = ["-u", "1337", "--dual-stack", "--redirect-dns"]
EXCLUDED = 4242


@pytest.fixture
def resolving(pod: Pod) -> Pod:
    """A pod with nameservers of both families, written as people write them."""
    pod.inside.set_resolv_conf(
        f"# by hand\nsearch svc.local\nnameserver {NAMESERVERS[6]}\nnameserver {NAMESERVERS[4]}\n"
        f"nameserver {NAMESERVERS[4]}\nnameserver fe80::1%eth0\noptions ndots:5\n"
    )
    pod.open_listeners()
    return pod


def query(pod: Pod, version: int, proto: str, uid: int, server: dict[int, str] = NAMESERVERS) -> Landing:
    return pod.dial(server[version], 53, uid=uid, proto=proto)


@pytest.mark.parametrize(("version", "proto"), list(product((4, 6), ("udp", "tcp"))))
def test_applications_ask_the_proxy_and_the_proxy_asks_the_nameserver(
    resolving: Pod, backend: str, version: int, proto: str
) -> None:
    """Also an excluded user asks the nameserver itself."""
    resolving.applied(*ARGS, "--exclude-uids", str(EXCLUDED), f"--force-iptables-binary={backend}")
    assert str(query(resolving, version, proto, APP)) == "pod:15053"
    assert str(query(resolving, version, proto, PROXY)) == "ext:53"
    assert str(query(resolving, version, proto, EXCLUDED)) == "ext:53"


@every_backend
def test_other_nameservers_are_captured_only_if_all_are(resolving: Pod, backend: str) -> None:
    """--capture-all-dns makes the difference, and needs no resolv.conf."""
    forced = f"--force-iptables-binary={backend}"
    resolving.applied(*ARGS, forced)
    assert str(query(resolving, 4, "udp", APP, OTHER)) == "ext:53"
    assert str(query(resolving, 4, "tcp", APP, OTHER)) == "pod:15001"
    resolving.applied(*ARGS, forced, "--capture-all-dns", "--resolv-conf", "/nonexistent")
    for proto in ("udp", "tcp"):
        assert str(query(resolving, 4, proto, APP, OTHER)) == "pod:15053"


@every_backend
def test_two_clients_with_one_source_port_are_both_answered(resolving: Pod, backend: str) -> None:
    """An application and the proxy ask one nameserver from one port; conntrack keeps them in zones 2 and 1."""
    resolving.applied(*ARGS, f"--force-iptables-binary={backend}")
    calls = [Call(resolving.inside, NAMESERVERS[4], 53, uid, uid, "udp", source_port=40053) for uid in (APP, PROXY)]
    # One after the other while both entries live: two sockets of different users cannot share a port at once.
    landings = [resolving.traffic.call(call) for call in calls]
    assert [str(landing) for landing in landings] == ["pod:15053", "ext:53"]
    entries = resolving.inside.output("conntrack", "-L", "-p", "udp").splitlines()
    app = [line for line in entries if "zone=2" in line and "sport=40053" in line and "sport=15053" in line]
    proxy = [line for line in entries if "zone=1" in line and "sport=40053" in line]
    assert len(app) == 1, entries
    assert len(proxy) == 1, entries


def test_the_resolver_may_listen_elsewhere(resolving: Pod, backend: str) -> None:
    """Another port; and an address of its own, which is reached by DNAT."""
    forced = f"--force-iptables-binary={backend}"
    traffic, inside = resolving.traffic, resolving.inside
    traffic.listen(inside, [5353], where="pod", proto="udp", hosts=["127.0.0.1", "10.244.0.5"], uid=PROXY)
    resolving.applied(*ARGS, forced, "--dns-capture-port", "5353")
    assert str(query(resolving, 4, "udp", APP)) == "pod:5353"
    resolving.applied(*ARGS, forced, "--dns-capture-port", "5353", "--dns-capture-address", "10.244.0.5")
    assert str(query(resolving, 4, "udp", APP)) == "pod:5353"
    assert any("--to-destination 10.244.0.5:5353" in line for line in resolving.saved(backend))


AGENT = 100
"""The uid of a resolver in the pod that is not the proxy."""
RESOLVERS = {
    "outside": ("10.244.0.9", "8600"),
    "outside, on port 53": ("10.244.0.9", "53"),
    "an agent in the pod": ("", "5353"),
    "an agent on the port of the proxy's": ("127.0.0.1", "15053"),
    "an agent at the pod's address": ("10.244.0.5", "8600"),
    "the proxy on another port": ("", "5454"),
    "outside, IPv6": ("fd00:244::9", "8600"),
}
"""Where a resolver is that is not the proxy's on loopback: its address, if it is given, and its port."""


@every_backend
@pytest.mark.parametrize(("address", "port"), RESOLVERS.values(), ids=list(RESOLVERS))
def test_any_resolver_is_heard(pod: Pod, backend: str, address: str, port: str) -> None:
    """Wherever it is and whoever it is, by UDP and TCP, on connected sockets; and the proxy asks as before, also from
    the port that an application has just asked from.
    """
    version = 6 if ":" in address else 4
    nameserver = NAMESERVERS[version]
    pod.inside.set_resolv_conf(f"nameserver {nameserver}\n")
    outside = address.endswith("9")
    host = address or "127.0.0.1"
    uid = PROXY if port == "5454" else AGENT
    for proto in ("udp", "tcp"):
        pod.traffic.listen(pod.outside, [53], where="ext", proto=proto, hosts=[nameserver])
        namespace = pod.outside if outside else pod.inside
        pod.traffic.listen(namespace, [int(port)], where="resolver", proto=proto, hosts=[host], uid=uid)
    given = ["--dns-capture-port", port, *(["--dns-capture-address", address] if address else [])]
    for everything in ([], ["--capture-all-dns"]):
        pod.applied(*ARGS, *everything, *given, f"--force-iptables-binary={backend}")
        for proto in ("udp", "tcp"):
            assert str(query(pod, version, proto, APP)) == f"resolver:{port}", proto
            assert str(query(pod, version, proto, PROXY)) == "ext:53", proto
        source_port = 40053 + len(everything)
        calls = [Call(pod.inside, nameserver, 53, u, u, "udp", source_port=source_port) for u in (APP, PROXY, APP)]
        landed = [str(pod.traffic.call(call)) for call in calls]
        assert landed == [f"resolver:{port}", "ext:53", f"resolver:{port}"]


@every_backend
@pytest.mark.parametrize("version", [4, 6])
def test_a_dns_server_in_the_pod_answers_whoever_asks(pod: Pod, backend: str, version: int) -> None:
    """Also one that asks from port 53, as servers do among themselves: an answer is no query."""
    pod.inside.set_resolv_conf("")
    pod.traffic.listen(pod.inside, [53], where="server", proto="udp", hosts=[ADDRESSES[version]], uid=AGENT)
    pod.traffic.listen(pod.inside, [15053], where="proxy", proto="udp", hosts=["127.0.0.1", "::1"], uid=PROXY)
    pod.applied(*ARGS, "--capture-all-dns", f"--force-iptables-binary={backend}")
    for source_port in (40053, 53):
        call = Call(pod.outside, ADDRESSES[version], 53, proto="udp", source_port=source_port)
        assert str(pod.traffic.call(call)) == "server:53", source_port
    # Whoever asks from port 53 in the pod is captured as anybody.
    elsewhere = Call(pod.inside, OTHER[version], 53, APP, APP, "udp")
    assert str(pod.traffic.call(elsewhere)) == "proxy:15053"


DNS_UNTRACKED = "-p udp --dport 53 -j CT --notrack"


@pytest.mark.parametrize("resolver", [[], ["--dns-capture-address", "127.0.0.1"]], ids=["the proxy's", "another"])
def test_conntrack_turned_off_by_others_is_told_where_it_takes_anything(
    resolving: Pod, backend: str, resolver: list[str]
) -> None:
    """Above our jump DNS is lost, and a run and verify say so. Behind it a query has its zone already, and is out of
    reach, if it has one; what has none is lost there too, and that is said.
    """
    settings = [*ARGS, *resolver, f"--force-iptables-binary={backend}"]
    resolving.applied(*settings)
    for where, rule, dns_is_lost, tcp_is_lost in (
        ("-I", DNS_UNTRACKED, True, False),
        ("-A", DNS_UNTRACKED, bool(resolver), False),
        ("-A", "-p udp -j NOTRACK", bool(resolver), False),
        ("-A", "-p tcp --dport 80 -j NOTRACK", False, True),
        ("-I", "-d 9.9.9.9 -p udp --dport 53 -j NOTRACK", False, False),
    ):
        resolving.inside.output(f"iptables-{backend}", "-t", "raw", where, "OUTPUT", *rule.split())
        assert (str(query(resolving, 4, "udp", APP)) != "pod:15053") is dns_is_lost, rule
        assert (str(resolving.dial("9.9.9.9", 80)) != "pod:15001") is tcp_is_lost, rule
        is_lost = dns_is_lost or tcp_is_lost
        assert ("keeps packets from conntrack" in resolving.applied(*settings).stderr) is is_lost, rule
        assert resolving.capture("verify", *settings).status == (4 if is_lost else 0), rule
        resolving.inside.output(f"iptables-{backend}", "-t", "raw", "-D", "OUTPUT", *rule.split())


def test_excluded_ports_hold_for_dns_too(resolving: Pod) -> None:
    """-o 53 beats DNS capture in both protocols; for one user, so does an exception of theirs."""
    resolving.applied(*ARGS, "-o", "53")
    assert [str(query(resolving, 4, proto, APP)) for proto in ("udp", "tcp")] == ["ext:53", "ext:53"]
    resolving.applied(*ARGS, "--exclude-outbound-ports-for-uids", f"udp:53:{EXCLUDED}")
    assert str(query(resolving, 4, "udp", EXCLUDED)) == "ext:53"
    assert str(query(resolving, 4, "udp", APP)) == "pod:15053"


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("10.96.10", "10.96.0.10"),
        ("012.0140.0.10", "10.96.0.10"),
        ("::ffff:10.96.0.10", "10.96.0.10"),
        ("0.0.0.0", "0.0.0.0"),  # a nameserver, which this means the host itself by
        ("fd00:96::a%eth0", "fd00:96::a"),
    ],
)
def test_a_nameserver_is_the_address_that_glibc_asks(pod: Pod, text: str, asked: str) -> None:
    """However resolv.conf writes it: a query to that address goes to the proxy, one to another does not."""
    pod.inside.set_resolv_conf(f"nameserver {text}\nnameserver 9.9.9.0/24\n")
    pod.open_listeners()
    applied = pod.applied(*ARGS)
    assert '"nameserver 9.9.9.0/24" names no address and is passed over' in applied.stderr
    assert str(pod.dial(asked, 53, proto="udp")) == "pod:15053"
    assert str(pod.dial("9.9.9.9", 53, proto="udp")) == "ext:53"


def test_no_nameserver_is_a_warning_and_no_file_an_error(resolving: Pod) -> None:
    """Nothing to capture: DNS goes out and a warning says so. A file that cannot be read: refused by name."""
    resolving.inside.set_resolv_conf("search svc.local\n")
    result = resolving.applied(*ARGS)
    assert "DNS is not captured: /etc/resolv.conf names no nameserver" in result.stderr
    assert str(query(resolving, 4, "udp", APP)) == "ext:53"
    before = resolving.state()
    refused = resolving.capture(*ARGS, "--resolv-conf", "/nonexistent/resolv.conf")
    assert refused.status == 2
    assert "/nonexistent/resolv.conf: No such file" in refused.stderr
    assert resolving.state() == before


def test_a_named_namespace_has_its_own_nameservers(resolving: Pod) -> None:
    """With --network-namespace NAME the file is the one that `ip netns` keeps for it."""
    command = [sys.executable, "-m", "capture", *ARGS, "--network-namespace", resolving.inside.name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert str(query(resolving, 4, "udp", APP)) == "pod:15053"


@pytest.fixture
def inhabited(pod: Pod) -> Iterator[tuple[Pod, int]]:
    """A pod in which a process lives with files of its own; its resolv.conf is a link, as systemd makes it."""
    pod.open_listeners()
    script = f"""
        mount -t tmpfs none /mnt && mkdir -p /mnt/proc /mnt/etc /mnt/run/resolver
        for each in bin lib lib64 usr; do [ -e /$each ] && mkdir /mnt/$each && mount --rbind /$each /mnt/$each; done
        echo 'nameserver {NAMESERVERS[4]}' > /mnt/run/resolver/stub.conf
        ln -s /run/resolver/stub.conf /mnt/etc/resolv.conf
        exec chroot /mnt sh -c 'echo ready; exec sleep 1000'
    """
    command = ["ip", "netns", "exec", pod.inside.name, "unshare", "-m", "sh", "-ec", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield pod, process.pid
        finally:
            process.kill()


def from_the_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run as a CNI plugin or an operator makes it: outside the pod."""
    command = [sys.executable, "-m", "capture", "-u", "1337", "--redirect-dns", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("named", ["name", "path", "path through a link", "pid", "path of the process"])
def test_whoever_lives_in_a_namespace_shows_its_nameservers(inhabited: tuple[Pod, int], named: str) -> None:
    """By whatever name the namespace is called, and behind the links of its own root; and verify finds the same."""
    pod, pid = inhabited
    name = {
        "name": pod.inside.name,
        "path": pod.inside.path,
        "path through a link": pod.inside.path.replace("/run/", "/var/run/"),
        "pid": str(pid),
        "path of the process": f"/proc/{pid}/ns/net",
    }[named]
    done = from_the_node("--network-namespace", name)
    assert done.returncode == 0, done.stderr
    assert str(query(pod, 4, "udp", APP)) == "pod:15053"
    assert str(query(pod, 4, "udp", APP, OTHER)) == "ext:53"
    command = [sys.executable, "-m", "capture", "verify", "-u", "1337", "--redirect-dns", "--network-namespace", name]
    assert subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode == 0


def test_a_path_never_means_the_nameservers_of_the_host(pod: Pod) -> None:
    """A CNI plugin is called before anything runs in the pod: an error that says what to give, and nothing changes.
    By a name it is what `ip netns exec` would show, with a warning.
    """
    before = pod.state()
    refused = from_the_node("--network-namespace", pod.inside.path)
    assert refused.returncode == 2
    assert f"cannot read /etc/netns/{pod.inside.name}/resolv.conf" in refused.stderr
    assert "--resolv-conf FILE, or --capture-all-dns" in refused.stderr
    assert pod.state() == before
    assert from_the_node("--network-namespace", pod.inside.path, "--capture-all-dns").returncode == 0
    named = from_the_node("--network-namespace", pod.inside.name)
    assert "the nameservers are those of /etc/resolv.conf here" in named.stderr
