"""From any of our states to any other: without a gap, to the same end, and with many runs at once."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from ipaddress import ip_network
from itertools import combinations, cycle, islice, permutations
from typing import TYPE_CHECKING

import pytest

from tests.conftest import every_backend
from tests.rig import ADDRESSES, APP, OUTSIDE, PROXY, Pod, faults
from tests.rig.chance import ALL
from tests.rig.storm import Client, storm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

BASE = ["-u", "1337"]
SETTINGS: list[list[str]] = [
    [*BASE],
    [*BASE, "-x", "198.51.100.0/24,2001:db8:77::/48", "-o", "2222"],
    [*BASE, "-m", "TPROXY", "--drop-invalid"],
    [*BASE, "--redirect-dns", "--capture-all-dns", "--dual-stack"],
    [*BASE, "-d", "15020,15090", "-c", "eth9", "-k", "eth8"],
    ["-u", "1337,42", "-g", "1337,43", "--exclude-uids", "77", "--udp", "443=reject"],
    [*BASE, "-m", "TPROXY", "--dual-stack", "-t", "77", "-r", "77"],
    [*BASE, "-q", "80,443", "-i", "9.9.0.0/16,1.1.1.1,172.16.0.0/12,192.0.2.0/24,10.0.0.0/8"],
    [*BASE, "-b", "8080,9000-9100", "-e", "15009"],
    [*BASE, "--drop-invalid", "--log-connections", "nflog"],
    [*BASE, "--ipv6", "reject", "--exclude-inbound-cidrs", "198.51.100.0/24"],
    [*BASE, "--dual-stack", "-m", "TPROXY", "--redirect-dns", "-b", "*", "-d", "22", "-o", "22"],
]
"""Twelve settings that differ in everything, and in all of which the connections of the storm are captured."""
NAMESERVERS = "nameserver 10.96.0.10\nnameserver fd00:96::a\n"


QUICK_TO_FORGET = ("time_wait", "close", "last_ack")


def be_quick_to_forget(pod: Pod) -> None:
    """Have conntrack of the pod forget what is over, and take up nothing in the middle: see `storm_on`."""
    pod.inside.output("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0")
    for state in QUICK_TO_FORGET:
        pod.inside.output("sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_timeout_{state}=0")
    pod.inside.output("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=1")


def storm_over(
    pod: Pod, changes: Callable[[], None], *, version: int = 4, patience: float = 20.0
) -> tuple[Counter[str], Counter[str]]:
    """What three applications inside and a client outside saw while these changes were made: see `storm_on`."""
    *out, into = storm_on(pod, changes, [OUTSIDE[version]] * 3, version=version, patience=patience)
    return sum(out, Counter()), into


def storm_on(
    pod: Pod,
    changes: Callable[[], None],
    called: Sequence[tuple[str, ...]],
    *,
    version: int = 4,
    patience: float = 20.0,
) -> list[Counter[str]]:
    """What applications inside saw, each of which calls these hosts, and last what a client outside did, meanwhile.

    Conntrack forgets closed connections at once here: in a storm a source port soon comes back for another host, and
    two connections that REDIRECT would make equal are one too many for conntrack, whether rules change or not. Then
    the first packet is lost and sent again, which is what the clients have patience for. The client outside has
    addresses enough never to use a port twice, and conntrack takes up no connection in the middle: a last ACK behind a
    forgotten one would make an entry without NAT, and a new connection from that port would be taken for its answer.
    """
    listen_everywhere(pod, version)
    outward = [Client(pod.inside, hosts, 80, APP, patience=patience) for hosts in called]
    inward = Client(pod.outside, (ADDRESSES[version],), 8080, sources=addresses_near(version), patience=patience)
    with storm(pod.traffic, [*outward, inward]) as counted:
        changes()
    return counted


def listen_everywhere(pod: Pod, version: int = 4) -> None:
    """Where a storm's connections may land, in a pod that forgets them soon."""
    be_quick_to_forget(pod)
    everywhere = ["0.0.0.0" if version == 4 else "::"]
    pod.traffic.listen(pod.inside, [15001, 15006], where="pod", hosts=everywhere, uid=PROXY, transparent=True)
    pod.traffic.listen(pod.inside, [8080], where="pod", hosts=everywhere)
    pod.traffic.listen(pod.outside, [80], where="ext", hosts=everywhere)
    pod.outside.output("sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")  # of IPv4, a route makes an address local
    pod.outside.ip(f"-{version}", "route", "add", "local", NEAR[version], "dev", "lo")


NEAR = {4: "198.18.0.0/24", 6: "fd00:198:18::/64"}
"""Addresses outside the pod that are as good as any, of which a storm may use many."""


def addresses_near(version: int) -> tuple[str, ...]:
    network = ip_network(NEAR[version])
    return tuple(str(network[host]) for host in range(1, 251))


@every_backend
@pytest.mark.storm
@pytest.mark.parametrize("rounds", [200])
def test_no_connection_escapes_or_fails_while_the_rules_change(
    pod: Pod, backend: str, rounds: int, tell: Callable[[str], None]
) -> None:
    """200 changes, in `make test` 66, between twelve settings under a storm of connections, in both directions."""
    rounds = rounds if ALL else rounds // 3
    pod.inside.set_resolv_conf(NAMESERVERS)
    seen = seen_while(pod, SETTINGS, backend, rounds, 4)
    tell(f"{rounds} changes, out {dict(seen[0])}, in {dict(seen[1])}")
    assert [set(each) for each in seen] == [{"pod:15001"}, {"pod:15006"}]
    assert sum(seen, Counter()).total() > 100 * rounds


@every_backend
@pytest.mark.storm
def test_no_connection_of_ipv6_escapes_or_fails_while_the_rules_change(
    pod: Pod, backend: str, tell: Callable[[str], None]
) -> None:
    """The same of IPv6, where every setting captures it: eleven of the twelve do so with one more flag."""
    both = [[*setting, "--ipv6", "on"] for setting in SETTINGS if "reject" not in setting]
    rounds = 110 if ALL else 22
    pod.inside.set_resolv_conf(NAMESERVERS)
    seen = seen_while(pod, both, backend, rounds, 6)
    tell(f"{rounds} changes, out {dict(seen[0])}, in {dict(seen[1])}")
    assert [set(each) for each in seen] == [{"pod:15001"}, {"pod:15006"}]


def seen_while(
    pod: Pod, settings: Sequence[list[str]], backend: str, rounds: int, version: int
) -> tuple[Counter[str], Counter[str]]:
    """What came out of and into the pod while so many times the next of these settings was applied."""
    forced = f"--force-iptables-binary={backend}"
    pod.applied(*settings[-1], forced)

    def changes() -> None:
        for arguments in islice(cycle(settings), rounds):
            pod.applied(*arguments, forced)

    return storm_over(pod, changes, version=version)


@every_backend
@pytest.mark.storm
def test_no_connection_escapes_or_is_captured_while_a_long_list_changes(
    pod: Pod, backend: str, tell: Callable[[str], None]
) -> None:
    """Networks and ports that are in the list before and after are never out of it, however long it takes to build.

    A set of intervals has nothing in it for as long as its commit takes (`rules.native.writing.transactions`).
    """
    forced = f"--force-iptables-binary={backend}"
    many = ",".join(f"100.{64 + at // 256}.{at % 256}.0/{24 + at % 3}" for at in range(1500))
    ports = ",".join(f"{port}-{port + 1}" for port in range(9000, 9900, 3))

    def changes() -> None:
        for number in range(20):
            lists = ["-x", f"{NEAR[4]},{many},10.9.{number}.0/24", "-b", f"8080,{ports},{7000 + number}"]
            pod.applied(*BASE, *lists, forced)

    pod.applied(*BASE, "-x", NEAR[4], "-b", "8080", forced)
    out, excluded, into = storm_on(pod, changes, [OUTSIDE[4], addresses_near(4)])
    tell(f"out {dict(out)}, out and excluded {dict(excluded)}, in {dict(into)}")
    assert [set(each) for each in (out, excluded, into)] == [{"pod:15001"}, {"ext:80"}, {"pod:15006"}]


NETWORKS = ",".join(f"100.{64 + at // 256}.{at % 256}.0/{24 + at % 3}" for at in range(600))
NETWORKS_OF_IPV6 = ",".join(f"2001:db8:{at:x}::/{48 + at % 3}" for at in range(0x1000, 0x1200))
RANGES = ",".join(f"{port}-{port + 1}" for port in range(9000, 9900, 3))
LISTS: dict[str, tuple[int, list[str]]] = {
    "TPROXY and networks": (4, ["-m", "TPROXY", "-x", f"{NEAR[4]},{NETWORKS}"]),
    "TPROXY and inbound ports": (4, ["-m", "TPROXY", "-b", f"8080,{RANGES}", "-x", NEAR[4]]),
    "included networks": (4, ["-i", f"1.1.1.1,9.9.9.9,10.0.0.0/8,172.16.1.1,192.0.2.10,{NETWORKS}"]),
    "excluded ports": (4, ["-o", RANGES, "-x", NEAR[4]]),
    "networks of IPv6": (6, ["--ipv6", "on", "-x", f"{NEAR[6]},{NETWORKS_OF_IPV6}"]),
    "included networks of IPv6": (6, ["--ipv6", "on", "-i", f"2001:db8::/45,fd00:96::/64,{NETWORKS_OF_IPV6}"]),
    "users": (4, ["--exclude-uids", "5,77,2000-3000", "-x", NEAR[4]]),
    "included ports": (4, ["-q", f"80,{RANGES}", "-i", "", "-x", NEAR[4]]),
    "inbound networks": (4, ["--exclude-inbound-cidrs", f"203.0.113.0/24,{NETWORKS}", "-x", NEAR[4]]),
    "DNS and networks": (4, ["--redirect-dns", "--capture-all-dns", "-x", f"{NEAR[4]},{NETWORKS}"]),
}
"""Sets of intervals of each kind, by family: all of them leave what goes to NEAR alone."""


@pytest.mark.storm
@pytest.mark.parametrize(("version", "lists"), LISTS.values(), ids=list(LISTS))
def test_a_list_of_any_kind_is_whole_while_its_chain_is_made_anew(
    pod: Pod, version: int, lists: list[str], tell: Callable[[str], None]
) -> None:
    """In our own tables, eight times each, and undone as often: the tunnel port changes every chain that has it."""

    def changes() -> None:
        for number in range(8):
            more = [] if "-b" in lists else ["-d", f"{700 + number},7100-7200"]
            settings = [*BASE, *lists, *more, "-e", str(15009 - number % 2), "--native-nftables"]
            undone = faults.run(pod, *settings, fault=faults.refused_in_the_end())
            assert "the namespace is as it was" in undone.stderr, undone.stderr
            pod.applied(*settings)

    pod.applied(*BASE, *lists, "--native-nftables")
    out, near, into = storm_on(pod, changes, [OUTSIDE[version], addresses_near(version)], version=version)
    tell(f"out {dict(out)}, near {dict(near)}, in {dict(into)}")
    assert [set(each) for each in (out, near, into)] == [{"pod:15001"}, {"ext:80"}, {"pod:15006"}]


DNS: list[list[str]] = [
    [*BASE, "--redirect-dns", "--capture-all-dns"],
    [*BASE, "--redirect-dns", "-x", "192.0.2.0/24,198.51.100.7"],
    [*BASE, "--redirect-dns", "-m", "TPROXY", "--drop-invalid"],
    [*BASE, "--redirect-dns", "--capture-all-dns", "--dual-stack", "-o", "22,8000-8100"],
    ["-u", "1337,42", "-g", "1337,43", "--redirect-dns", "--udp", "443=reject"],
    [*BASE, "--redirect-dns", "--capture-all-dns", "-m", "TPROXY", "-b", "8080,9000-9100"],
]
"""Settings in all of which the queries of the storm are captured."""


@every_backend
@pytest.mark.storm
def test_no_query_escapes_or_is_lost_while_the_rules_change(
    pod: Pod, backend: str, tell: Callable[[str], None]
) -> None:
    """An application's goes to the proxy's resolver, and the proxy's own to the nameserver, by UDP as by TCP."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    be_quick_to_forget(pod)
    pod.traffic.listen(pod.inside, [15001, 15006], where="pod", hosts=["0.0.0.0"], uid=PROXY, transparent=True)
    for proto in ("udp", "tcp"):
        pod.traffic.listen(pod.inside, [15053], where="pod", hosts=["127.0.0.1"], uid=PROXY, proto=proto)
        pod.traffic.listen(pod.outside, [53], where="ext", hosts=["10.96.0.10"], proto=proto)
    forced = f"--force-iptables-binary={backend}"
    pod.applied(*DNS[-1], forced)
    who = [(uid, proto) for uid in (APP, PROXY) for proto in ("udp", "tcp")]
    clients = [Client(pod.inside, ("10.96.0.10",), 53, uid, proto=proto, patience=20) for uid, proto in who]
    with storm(pod.traffic, clients) as counted:
        for arguments in islice(cycle(DNS), 120 if ALL else 18):
            pod.applied(*arguments, forced)
    seen = {one: dict(its) for one, its in zip(who, counted, strict=True)}
    tell(f"{seen}")
    assert {one: set(its) for one, its in seen.items()} == {
        (uid, proto): {"pod:15053" if uid == APP else "ext:53"} for uid, proto in who
    }


UNDONE = {
    "settings": SETTINGS,
    "lists": [
        [*BASE, "-x", f"{NEAR[4]},{NETWORKS},10.9.{more}.0/24", "-b", f"8080,{RANGES},{7000 + more}"]
        for more in range(12 if ALL else 7)
    ],
}
"""Runs that begin at the first of these, and of which none becomes anything."""


@every_backend
@pytest.mark.storm
@pytest.mark.parametrize("what", list(UNDONE))
def test_no_connection_escapes_or_is_captured_while_a_run_is_undone(
    pod: Pod, backend: str, what: str, tell: Callable[[str], None]
) -> None:
    """Every change is done, found to be another one, and taken back: what holds before and after holds throughout."""
    forced = f"--force-iptables-binary={backend}"
    first, *others = UNDONE[what]
    pod.inside.set_resolv_conf(NAMESERVERS)
    pod.applied(*first, forced)
    before = ours(pod, backend)

    def changes() -> None:
        for arguments in others:
            done = faults.run(pod, *arguments, forced, fault=faults.refused_in_the_end())
            assert (done.status, "the namespace is as it was" in done.stderr) == (1, True), done.stderr
            assert ours(pod, backend) == before, arguments

    called = {OUTSIDE[4]: {"pod:15001"}} | ({addresses_near(4): {"ext:80"}} if what == "lists" else {})
    seen = storm_on(pod, changes, list(called))
    tell(f"{[dict(each) for each in seen]}")
    assert [set(each) for each in seen] == [*called.values(), {"pod:15006"}]


@every_backend
@pytest.mark.storm
def test_the_storm_sees_what_escapes(pod: Pod, backend: str) -> None:
    """Removing and applying again, as others change rules, lets connections escape: the storm tells.

    The clients are impatient: with its last NAT rule a namespace loses conntrack, and a connection that was being
    captured just then may hang.
    """
    forced = f"--force-iptables-binary={backend}"
    pod.applied(*SETTINGS[0], forced)

    def changes() -> None:
        for _ in range(20):
            pod.applied("--cleanup-only")
            pod.applied(*SETTINGS[0], forced)

    out, into = storm_over(pod, changes, patience=0.1)
    assert out["ext:80"] > 0, out
    assert into["pod:8080"] > 0, into


@every_backend
def test_every_state_leads_to_every_other(pod: Pod, backend: str) -> None:
    """132 ordered pairs: after A then B, all that we own is as after B alone, routing and ::6 included.

    Somebody has sockets here, so what must not be missed meanwhile is made beforehand.
    """
    pod.inside.set_resolv_conf(NAMESERVERS)
    pod.open_listeners()
    forced = f"--force-iptables-binary={backend}"
    fresh = []
    for arguments in SETTINGS:
        pod.applied(*arguments, forced)
        fresh.append(ours(pod, backend))
        pod.applied("--cleanup-only")
    assert len({str(state) for state in fresh}) == len(SETTINGS)
    at = None
    for first, second in walk(len(SETTINGS)):
        if at != first:
            pod.applied(*SETTINGS[first], forced)
        pod.applied(*SETTINGS[second], forced)
        assert ours(pod, backend) == fresh[second], (SETTINGS[first], SETTINGS[second])
        at = second


@pytest.mark.parametrize("backends", list(combinations(("nft", "legacy", "native"), 2)), ids=" and ".join)
def test_a_change_of_settings_moves_from_one_backend_to_another(pod: Pod, backends: tuple[str, str]) -> None:
    """12 pairs for each two backends, there and back: other settings in the other one leave what they leave alone."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    fresh = {}
    for backend in backends:
        for number, arguments in enumerate(SETTINGS):
            pod.applied(*arguments, f"--force-iptables-binary={backend}")
            fresh[backend, number] = ours(pod, backend)
            pod.applied("--cleanup-only")
    one, other = backends
    for number in range(len(SETTINGS)):
        for backend, left, its in ((one, other, number), (other, one, (number + 5) % len(SETTINGS))):
            pod.applied(*SETTINGS[its], f"--force-iptables-binary={backend}")
            assert ours(pod, backend) == fresh[backend, its], (backends, SETTINGS[its])
            assert not any("ISTIO" in line for it in (4, 6) for line in pod.saved(left, version=it))


def walk(count: int) -> Iterator[tuple[int, int]]:
    """Every ordered pair, so that most begin where the one before ended."""
    left = set(permutations(range(count), 2))
    at = 0
    while left:
        pair = next(((a, b) for a, b in sorted(left) if a == at), min(left))
        left.remove(pair)
        at = pair[1]
        yield pair


def ours(pod: Pod, backend: str) -> tuple[object, ...]:
    """What is ours of the live state, with the order that counts: that of the rules within each chain."""
    chains: dict[tuple[int, str, str], list[str]] = {}
    for version in (4, 6):
        table = ""
        for line in pod.saved(backend, version=version):
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A") and (backend == "native" or "ISTIO" in line):
                chains.setdefault((version, table, line.split()[1]), []).append(line)
            elif line.startswith(":ISTIO"):
                chains.setdefault((version, table, line[1:].split()[0]), [])
    listed = [
        line
        for command in (["ip", "rule"], ["ip", "-6", "rule"], ["ip", "route", "show", "table", "all"])
        for line in pod.inside.output(*command).splitlines()
        if "fwmark" in line or "local default" in line
    ]
    return chains, listed, "::6/128" in pod.inside.output("ip", "-6", "addr", "show", "dev", "lo")


def test_the_namespaces_own_file_may_be_the_lock_of_iptables(pod: Pod) -> None:
    """Some give it to iptables for a lock that other namespaces do not share; we hold it ourselves meanwhile."""
    lock = {"XTABLES_LOCKFILE": "/proc/self/ns/net"}
    result = pod.applied(*SETTINGS[0], "--force-iptables-binary=legacy", env=lock)
    assert "The capture is in place" in result.stderr


ROUNDS = 20
RUNS_AT_ONCE = 32


def interrupted(folder: Path, program: str, *, times: int) -> dict[str, str]:
    """An environment in which somebody else adds a rule, and a chain of our name, just before our restore runs."""
    real = next(f"{place}/{program}" for place in ("/usr/sbin", "/sbin") if os.path.exists(f"{place}/{program}"))
    backend = program.split("-")[1]
    program_of_theirs = f"iptables-{backend} -w 30 -t nat"
    others = f"{program_of_theirs} -A OUTPUT -d 192.0.2.$n -j ACCEPT; {program_of_theirs} -N ISTIO_OUTPUT"
    (folder / program).write_text(
        "#!/bin/sh\n"
        f"echo >> {folder}/runs; n=$(wc -l < {folder}/runs)\n"
        f'[ "$n" -le {times} ] && {{ {others}; }} 2>/dev/null\n'
        f'exec {real} "$@"\n'
    )
    (folder / program).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}:/usr/sbin"}


def test_a_change_by_others_between_looking_and_writing_is_looked_at_again(
    pod: Pod, backend: str, tmp_path: Path
) -> None:
    """Their chain has our name, so our restore is refused: the second attempt sees it, succeeds, and that is said."""
    forced = [*BASE, f"--force-iptables-binary={backend}"]
    done = pod.applied(*forced, env=interrupted(tmp_path, f"iptables-{backend}-restore", times=1))
    assert "others changed rules meanwhile, trying again (1 of 2)" in done.stderr
    assert "-A OUTPUT -d 192.0.2.1/32 -j ACCEPT" in pod.saved(backend)
    assert "already in place" in pod.applied(*forced).stderr


def test_changes_by_others_without_end_are_an_error(pod: Pod, backend: str, tmp_path: Path) -> None:
    """After three attempts the run fails; what others did stays, and nothing of ours is there."""
    settings = [*BASE, f"--force-iptables-binary={backend}"]
    program = f"iptables-{backend}-restore"
    environ = interrupted(tmp_path, program, times=99)
    wrapper = tmp_path / program
    # Our chain vanishes again, so that the next attempt believes in an empty namespace once more.
    restore = f"iptables-{backend} -t nat -X ISTIO_OUTPUT 2>/dev/null"
    wrapper.write_text(wrapper.read_text().replace("exec ", "").rstrip() + f"; s=$?; {restore}; exit $s\n")
    done = pod.capture(*settings, env=environ)
    assert done.status == 1
    assert "trying again (2 of 2)" in done.stderr
    assert done.stderr.count("Running iptables") == 3
    assert "the kernel refused the IPv4 rules" in done.stderr
    assert not any("ISTIO" in line for line in pod.saved(backend))
    assert [line for line in pod.saved(backend) if "192.0.2." in line]


@every_backend
def test_many_runs_at_once_end_in_the_state_of_one(pod: Pod, backend: str) -> None:
    """32 runs of four settings at once, up to 20 times: the state is always whole, and `verify` holds for one."""
    forced = f"--force-iptables-binary={backend}"
    chosen = [SETTINGS[0], SETTINGS[1], SETTINGS[4], SETTINGS[9]]
    states = []
    for arguments in chosen:
        pod.applied(*arguments, forced)
        states.append(ours(pod, backend))
    for _ in range(ROUNDS if ALL else ROUNDS // 3):
        said = at_once(pod, [pod.command(*arguments, forced) for arguments in islice(cycle(chosen), RUNS_AT_ONCE)])
        assert [text for status, text in said if status != 0] == []
        assert ours(pod, backend) in states
        verdicts = at_once(pod, [pod.command("verify", *arguments, forced) for arguments in chosen])
        assert sorted(status for status, _ in verdicts) == [0, 4, 4, 4]


def at_once(pod: Pod, commands: list[list[str]]) -> list[tuple[int, str]]:
    """Run all of these in the pod at the same time: how each ended, and what it said on stderr."""
    running = [
        subprocess.Popen(
            ["ip", "netns", "exec", pod.inside.name, *command],
            env=pod.environ(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate()[1] for process in running]
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]
