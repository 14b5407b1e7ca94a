"""`capture check` against reality: what it says is what a run then does, and asking changes nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from capture.kernel.conntrack import MOST_ENTRIES
from capture.kernel.process import locate
from capture.netlink.ctnetlink import write_down
from rules.addresses import ip_address, ip_network
from rules.connections.flow import ESTABLISHED, TCP, Flow
from tests.netns.test_apply import READ_ONLY, block, unprivileged
from tests.rig import Namespace, Pod, Result, entered
from tests.rig.pod import has

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POD_SPEC = ["-p", "15001", "-z", "15006", "-u", "1337"]
EVERYTHING = [*POD_SPEC, "-m", "TPROXY", "--dual-stack", "--redirect-dns", "--capture-all-dns", "--drop-invalid"]


def forced(backend: str, *more: str) -> list[str]:
    return [*more, f"--force-iptables-binary={backend}"]


def checked(result: Result) -> dict[str, Any]:
    """The answer of `check --output json`, and each fact by its name."""
    assert result.stdout, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["works"] is (result.status == 0)
    answer["by_name"] = {fact["name"]: fact for fact in answer["facts"]}
    return answer


def check(pod: Pod, *arguments: str, **more: Any) -> dict[str, Any]:
    return checked(pod.capture("check", "--output", "json", *arguments, **more))


def wrong(answer: dict[str, Any], *verdicts: str) -> list[str]:
    """What is needed and has one of these verdicts, by default any that is not ok."""
    return [
        f"{fact['name']}: {fact['value']}"
        for fact in answer["facts"]
        if fact["needed"] and (fact["verdict"] in verdicts if verdicts else fact["verdict"] != "ok")
    ]


def state(pod: Pod) -> str:
    """Everything that a run could change, and which legacy tables there are, made or not."""
    names = [pod.inside.output("cat", f"/proc/net/{family}_tables_names") for family in ("ip", "ip6")]
    return "\n".join([pod.state(), *names])


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod without link-local addresses, whose detection of duplicates would change the state by itself."""
    with Pod() as made:
        made.inside.ip("-6", "addr", "flush", "dev", "eth0", "scope", "link")
        yield made


# --- where all is well --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[*POD_SPEC, "--ipv6=auto"], EVERYTHING], ids=["plain", "everything"])
def test_as_root_all_is_well_and_nothing_is_touched(
    pod: Pod, backend: str, arguments: list[str], tmp_path: Path
) -> None:
    """Nothing but ok, what the rules need is proved, and the namespace is as it was; then the run works.

    The lock is the test's own: that of the host may be held by another test.
    """
    environ = {"XTABLES_LOCKFILE": str(tmp_path / "xtables.lock")}
    before = state(pod)
    answer = check(pod, *forced(backend, *arguments), env=environ)
    assert wrong(answer) == []
    assert f"the IPv4 and IPv6 rules work in a namespace of their own, with {backend}" in str(answer)
    owner = answer["by_name"]["owner match"]
    assert (owner["value"], owner["needed"]) == ("proved by the rehearsal (IPv4, IPv6)", True)
    assert state(pod) == before
    pod.applied(*forced(backend, *arguments), env=environ)
    before = state(pod)
    again = check(pod, *forced(backend, *arguments), env=environ)
    assert again["by_name"][f"held in {backend}"]["value"] == "ours, as planned: a run changes nothing"
    assert state(pod) == before


def test_only_what_the_settings_need_is_needed(pod: Pod) -> None:
    """TPROXY with -m TPROXY, IPv6 where it is captured, nameservers with DNS, legacy with legacy; the owner always."""

    def needed(*arguments: str) -> set[str]:
        return {fact["name"] for fact in check(pod, *arguments)["facts"] if fact["needed"]}

    plain, everything = needed(*POD_SPEC), needed(*EVERYTHING)
    only_then = {"TPROXY target", "CONNMARK target", "conntrack match", "mark match", "CT target", "udp match"}
    only_then |= {"IPv6", "table 133", "mark 0x539", "ip6tables-nft", "nameservers"}
    assert only_then <= everything
    assert not only_then & plain
    assert {"owner match", "REDIRECT target", "CAP_NET_ADMIN", "iptables-nft"} <= plain & everything
    legacy = {"CAP_NET_RAW", "uid", "lock of iptables", "iptables-legacy", "legacy IPv4 tables"}
    assert not legacy & everything
    assert legacy <= needed(*forced("legacy", *POD_SPEC))
    assert "limit match" in needed(*POD_SPEC, "--log-connections", "log")
    assert "REJECT target" in needed(*POD_SPEC, "--udp", "443=reject")
    assert "multiport match" in needed(*POD_SPEC, "-o", ",".join(map(str, range(1, 17))))
    assert "owner match" not in needed(*POD_SPEC, "--skip-rule-apply")
    assert "CAP_SYS_ADMIN" not in plain


def test_the_table_ends_with_the_answer(pod: Pod) -> None:
    """At most 100 columns, without colour in a pipe; what is not ok stands at the end again with its remedy."""
    result = pod.capture("check", *POD_SPEC)
    lines = result.stdout.splitlines()
    assert result.status == 0
    assert lines[-1] == "a run with these settings will work here"
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in result.stdout
    assert {"machine", "permissions", "backend", "rules", "addresses", "findings"} <= set(lines)
    minded = lines[lines.index("findings") :]
    assert any("captured families: IPv4" in line for line in minded)
    assert any("--ipv6=auto captures it" in line for line in minded)
    failing = unprivileged(pod, "check", *POD_SPEC).stdout.splitlines()[-1]
    assert failing.startswith("a run with these settings will fail: CAP_NET_ADMIN: not effective")


def test_the_schema_is_that_of_the_answer(pod: Pod) -> None:
    """Every field is described, and the answer has these fields and no others."""
    schema = json.loads(pod.capture("check", "--output", "schema").stdout)
    fact = schema["$defs"]["FactModel"]["properties"]
    assert all(each["description"] for each in (*fact.values(), *schema["properties"].values()))
    answer = check(pod)
    assert set(answer) - {"by_name"} == set(schema["properties"])
    assert all(set(each) == set(fact) for each in answer["facts"])


def test_bad_settings_are_refused_as_a_run_refuses_them(pod: Pod) -> None:
    """With exit status 2 and the same words."""
    result = pod.capture("check", "-p", "0")
    assert (result.status, result.stdout) == (2, "")
    assert "is not a port" in result.stderr


# --- impaired environments: check's status is the run's -----------------------------------------------------


def nothing(_: Pod) -> None:
    """As the rig made it."""


@dataclass(frozen=True)
class Impaired:
    """A place where something is missing or odd: how it is made so, how it is asked, and what check must say."""

    says: str
    """Part of a fact that is not ok."""
    works: bool
    arguments: list[str] = field(default_factory=lambda: POD_SPEC)
    prepare: Callable[[Pod], object] = nothing
    prefix: str = ""
    """What the tool is run by, as shell words."""
    env: dict[str, str] = field(default_factory=dict)


def setpriv(*capabilities: str, uid: int = 65534) -> str:
    added = "".join(f",+{name}" for name in capabilities)
    ambient = f"--inh-caps=-all{added} --ambient-caps=-all{added}" if uid and capabilities else ""
    return f"setpriv --reuid={uid} --regid={uid} --clear-groups {ambient} --bounding-set=-all{added}"


def inside(*command: str) -> Callable[[Pod], object]:
    return lambda pod: pod.inside.output(*command)


CONTAINER = shlex.join(READ_ONLY)
NO_IPTABLES = "unshare --mount sh -ec 'mount --make-rprivate /; mount -t tmpfs none /usr/sbin; exec \"$@\"' sh"

A_NODE = inside("iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES")
LO_DOWN = inside("ip", "link", "set", "lo", "down")


def blocked(family: str) -> Callable[[Pod], None]:
    return lambda pod: block(pod, family)


IMPAIRED: dict[str, Impaired] = {
    "no capability": Impaired("CAP_NET_ADMIN: not effective", False, prefix=setpriv()),
    "no capability, but root": Impaired("CAP_NET_ADMIN: not effective", False, prefix=setpriv(uid=0)),
    "NET_ADMIN alone, nft": Impaired(
        "takes CAP_SYS_ADMIN", True, forced("nft", *POD_SPEC), prefix=setpriv("net_admin")
    ),
    "NET_ADMIN alone, read-only": Impaired(
        "takes CAP_SYS_ADMIN", True, forced("nft", *POD_SPEC), prefix=f"{CONTAINER} {setpriv('net_admin')}"
    ),
    "NET_ADMIN alone, root, legacy": Impaired(
        "CAP_NET_RAW: not effective", False, forced("legacy", *POD_SPEC), prefix=setpriv("net_admin", uid=0)
    ),
    "NET_ADMIN and NET_RAW, root, legacy": Impaired(
        "takes CAP_SYS_ADMIN", True, forced("legacy", *POD_SPEC), prefix=setpriv("net_admin", "net_raw", uid=0)
    ),
    "NET_ADMIN and NET_RAW, root, legacy, read-only": Impaired(
        "takes CAP_SYS_ADMIN",
        True,
        forced("legacy", *POD_SPEC),
        prefix=f"{CONTAINER} {setpriv('net_admin', 'net_raw', uid=0)}",
    ),
    "NET_ADMIN and NET_RAW, no root, legacy": Impaired(
        "only uid 0 may read", False, forced("legacy", *POD_SPEC), prefix=setpriv("net_admin", "net_raw")
    ),
    "legacy rules of others, NET_ADMIN alone": Impaired(
        "CAP_NET_RAW: not effective",
        False,
        prepare=inside("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.9", "-j", "ACCEPT"),
        prefix=setpriv("net_admin", uid=0),
    ),
    "no iptables": Impaired("iptables-nft-restore, iptables-nft-save not found", False, prefix=NO_IPTABLES),
    "no iptables, legacy asked for": Impaired(
        "iptables-legacy-restore, iptables-legacy-save not found",
        False,
        forced("legacy", *POD_SPEC),
        prefix=NO_IPTABLES,
    ),
    "a lock file that cannot be opened": Impaired(
        "/nonexistent/lock (XTABLES_LOCKFILE) cannot be opened",
        False,
        forced("legacy", *POD_SPEC),
        env={"XTABLES_LOCKFILE": "/nonexistent/lock"},
    ),
    "a lock file that can only be read": Impaired(
        "takes CAP_SYS_ADMIN",
        True,
        forced("legacy", *POD_SPEC),
        prefix=f"{CONTAINER} {setpriv('net_admin', 'net_raw', uid=0)}",
        env={"XTABLES_LOCKFILE": "/etc/os-release"},
    ),
    "a lock file that cannot be opened, nft": Impaired(
        "captured families: IPv4", True, forced("nft", *POD_SPEC), env={"XTABLES_LOCKFILE": "/nonexistent/lock"}
    ),
    "a user namespace of one user": Impaired(
        "maps uids 0-0, but not uid 1337, gid 1337", False, prefix="unshare --user --map-root-user --net"
    ),
    "a user namespace, and a proxy that it knows": Impaired(
        "lo: down", True, ["-u", "0", "-g", "0"], prefix="unshare --user --map-root-user --net"
    ),
    "a user namespace, but not of this network": Impaired(
        "rules of the namespace: not ours to read or write", False, prefix="unshare --user --map-root-user"
    ),
    "a Kubernetes node": Impaired(
        "Kubernetes node: the chain KUBE-SERVICES", False, prepare=A_NODE
    ),
    "a Kubernetes node, allowed": Impaired(
        "Kubernetes node: the chain KUBE-SERVICES",
        True,
        [*POD_SPEC, "--allow-host"],
        prepare=A_NODE,
    ),
    "another mesh": Impaired(
        "chains of Linkerd: PROXY_INIT_REDIRECT",
        False,
        prepare=inside("iptables-nft", "-t", "nat", "-N", "PROXY_INIT_REDIRECT"),
    ),
    "another mesh that is taken over": Impaired(
        "chains of Linkerd: PROXY_INIT_REDIRECT",
        True,
        [*POD_SPEC, "--take-over"],
        prepare=inside("iptables-nft", "-t", "nat", "-N", "PROXY_INIT_REDIRECT"),
    ),
    "tables of another mesh": Impaired(
        "tables of Istio with nftables: istio-proxy-nat",
        False,
        prepare=inside("nft", "add", "table", "inet", "istio-proxy-nat"),
    ),
    "tables of another mesh that are taken over": Impaired(
        "tables of Istio with nftables: istio-proxy-nat",
        True,
        [*POD_SPEC, "--take-over"],
        prepare=inside("nft", "add", "table", "inet", "istio-proxy-nat"),
    ),
    "a chain in the way": Impaired(
        "of another type, hook or priority than that of iptables: ip nat OUTPUT",
        False,
        forced("nft", *POD_SPEC),
        prepare=blocked("ip"),
    ),
    "a chain in the way, and the other backend is free": Impaired(
        "captured families: IPv4", True, prepare=blocked("ip")
    ),
    "a chain in the way, of a family that is not captured": Impaired(
        "captured families: IPv4", True, prepare=blocked("ip6")
    ),
    "a chain in the way in IPv6": Impaired(
        "than that of iptables: ip6 nat OUTPUT", False, forced("nft", *POD_SPEC, "--dual-stack"), prepare=blocked("ip6")
    ),
    "lo down, TPROXY": Impaired("lo: down", True, [*POD_SPEC, "-m", "TPROXY"], prepare=LO_DOWN),
    "lo down, TPROXY in IPv6": Impaired("lo: down", False, [*POD_SPEC, "-m", "TPROXY", "--ipv6=on"], prepare=LO_DOWN),
    "lo down, REDIRECT": Impaired("lo: down", True, prepare=LO_DOWN),
    "a namespace that is not there": Impaired(
        "cannot enter the network namespace", False, [*POD_SPEC, "--network-namespace", "nonexistent-one"]
    ),
    "no right to enter": Impaired(
        "CAP_SYS_ADMIN: not effective",
        False,
        [*POD_SPEC, "--network-namespace", "/proc/self/ns/net"],
        prefix=setpriv("net_admin", uid=0),
    ),
    "no nameserver": Impaired(
        "nameservers: none in",
        True,
        [*POD_SPEC, "--redirect-dns"],
        prepare=lambda pod: pod.inside.set_resolv_conf("# none\n"),
    ),
    "no right to do anything, and nothing to do": Impaired(
        "captured families: IPv4", True, [*POD_SPEC, "--skip-rule-apply"], prefix=setpriv()
    ),
    "cleaning up a node": Impaired(
        "captured families: IPv4",
        True,
        ["--cleanup-only"],
        prepare=A_NODE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", IMPAIRED.values(), ids=list(IMPAIRED))
def test_what_it_says_is_what_a_run_does(pod: Pod, place: Impaired) -> None:
    """Exit status 0 exactly where the run succeeds; the cause is named; and the namespace is as before the question."""
    place.prepare(pod)
    before = state(pod)

    def run(*arguments: str) -> Result:
        command = [*shlex.split(place.prefix), *pod.command(*arguments)]
        done = pod.inside.run(*command, env={**pod.environ(), **place.env})
        return Result(done.returncode, done.stdout, done.stderr)

    result = run("check", "--output", "json", *place.arguments)
    assert "Traceback" not in result.stderr
    answer = checked(result)
    assert state(pod) == before
    done = run(*place.arguments)
    assert "Traceback" not in done.stderr
    assert (answer["works"], done.status == 0) == (place.works, place.works), (wrong(answer), done.stderr)
    named = [line for line in wrong(answer) if place.says in line]
    assert named, wrong(answer)
    if not place.works:
        assert any(place.says in line for line in wrong(answer, "missing")), wrong(answer)
        assert all(fact["remedy"] for fact in answer["facts"] if fact["needed"] and fact["verdict"] != "ok")


# --- what is named --------------------------------------------------------------------------------------------


def test_the_holder_of_the_lock_is_named(pod: Pod, tmp_path: Path) -> None:
    """With pid and name; asking neither takes the lock nor waits for it, and the file is not made where it is not."""
    lock = tmp_path / "xtables.lock"
    environ = {"XTABLES_LOCKFILE": str(lock)}
    lock.touch()
    free = check(pod, *forced("legacy", *POD_SPEC), env=environ)["by_name"]["lock of iptables"]
    assert (free["verdict"], free["value"]) == ("ok", f"{lock} can be opened, and nobody holds it")
    with subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE) as holder:
        until_locked(str(lock))
        answer = check(pod, *forced("legacy", *POD_SPEC), env=environ)
        held = answer["by_name"]["lock of iptables"]
        assert answer["works"]
        assert held["verdict"] == "warn"
        assert f"{lock} is held by pid {holder.pid} (uid 0, `flock {lock}"[:100] in held["value"]
        assert "waits for it, up to 30 s" in held["remedy"]
        assert wrong(check(pod, *forced("nft", *POD_SPEC), env=environ), "missing") == []
    lock.unlink()
    check(pod, *forced("legacy", *POD_SPEC), env=environ)
    assert not lock.exists()


def until_locked(path: str) -> None:
    """Wait until somebody holds a lock of this file."""
    inode = f":{os.stat(path).st_ino} "
    while True:
        with open("/proc/locks", encoding="ascii") as file:
            if inode in file.read():
                return
        os.sched_yield()


def test_a_run_at_work_is_named(pod: Pod) -> None:
    """One of an older version, which holds the namespace's own lock; `test_hostile.py` has one of ours."""
    with subprocess.Popen(["flock", pod.inside.path, "cat"], stdin=subprocess.PIPE) as holder:
        until_locked(pod.inside.path)
        found = check(pod, *POD_SPEC)["by_name"]["other runs"]
    held_by = f"pid {holder.pid} (uid 0, `flock {pod.inside.path} cat`)"
    assert (found["verdict"], found["value"]) == ("warn", f"one is at work: {held_by}")


def test_a_routing_table_in_use_is_named(pod: Pod) -> None:
    """A default route of others in the place of ours is refused by a run; one beside it, and an ip rule for the mark
    before ours, are worth a mention."""
    arguments = [*POD_SPEC, "-m", "TPROXY"]
    in_our_place = ("default", "via", "10.244.0.9", "dev", "eth0", "table", "133")
    pod.inside.ip("route", "add", *in_our_place)
    pod.inside.ip("rule", "add", "priority", "100", "fwmark", "1337", "lookup", "77")
    answer = check(pod, *arguments)
    table, mark = answer["by_name"]["table 133"], answer["by_name"]["mark 0x539"]
    assert (answer["works"], table["verdict"]) == (False, "missing")
    assert "table 133 has a default route of somebody else's" in table["value"]
    assert "`ip route: default via 10.244.0.9 dev eth0 table 133`" in table["value"]
    assert mark["verdict"] == "warn"
    assert "`ip rule: 100: fwmark 0x539 lookup 77` of others asks for our mark" in mark["value"]
    assert answer["by_name"]["ip rules of others"]["verdict"] == "ok"
    assert check(pod, *arguments, "-r", "134")["by_name"]["table 134"]["verdict"] == "ok"
    refused = pod.capture(*arguments)
    assert refused.status == 1
    assert "table 133 has a default route of somebody else's" in refused.stderr

    pod.inside.ip("route", "del", *in_our_place)
    pod.inside.ip("route", "add", *in_our_place, "metric", "7")
    answer = check(pod, *arguments)
    assert (answer["works"], answer["by_name"]["table 133"]["verdict"]) == (True, "warn")
    pod.open_listeners(transparent=True)
    pod.applied(*arguments)
    assert str(pod.dial_in(8080)) == "pod:15006"


def test_ours_and_others_are_told_apart(pod: Pod) -> None:
    """What each backend holds, and that rules in both act."""
    pod.inside.output("iptables-legacy", "-t", "filter", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    pod.applied(*forced("nft", *POD_SPEC, "-o", "22"))
    found = check(pod, *POD_SPEC)["by_name"]
    assert found["held in nft"]["value"] == "ours, and a run would change it"
    assert found["held in legacy"]["value"] == "rules of others"
    assert found["backend"]["value"] == "nft: the namespace holds our chains there"
    assert found["backends that hold rules"]["verdict"] == "warn"


def test_a_proxy_and_a_session_are_named(pod: Pod) -> None:
    """A process that runs as the proxy's uid, and the port of an SSH session."""
    sleeper = ["ip", "netns", "exec", pod.inside.name, "setpriv", "--reuid=1337", "--clear-groups", "sleep", "60"]
    with subprocess.Popen(sleeper) as process:
        try:
            while (name := command_of(process.pid)) != "sleep":
                assert name
                os.sched_yield()
            found = check(pod, *POD_SPEC, env={"SSH_CONNECTION": "10.244.0.9 5022 10.244.0.5 22"})["by_name"]
        finally:
            process.kill()
    as_proxy, ssh = found["processes as the proxy"], found["SSH ports"]
    assert (as_proxy["verdict"], as_proxy["value"]) == ("warn", f"pid {process.pid} (sleep, uid 1337)")
    assert (ssh["verdict"], ssh["value"]) == ("warn", "22 (this SSH session came in there)")


def command_of(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().strip()


def test_what_this_user_cannot_see_is_unknown(pod: Pod) -> None:
    """Not ok and not missing, with the reason; and what needs no right is told all the same."""
    found = checked(unprivileged(pod, "check", "--output", "json", *POD_SPEC))["by_name"]
    unknown = {name for name, fact in found.items() if fact["verdict"] == "unknown"}
    assert {"nf_tables", "held in nft", "held in legacy", "backend", "rehearsal"} <= unknown
    assert all(found[name]["remedy"] for name in unknown)
    assert found["addresses"]["value"].startswith("10.244.0.5/24")
    assert found["lo"]["value"] == "up"


def test_what_is_known_without_trying_does_not_contradict_the_proof(pod: Pod) -> None:
    """No match or target that the rehearsal proves is called missing where it may not be tried."""
    arguments = ["check", "--output", "json", *EVERYTHING, "--log-connections", "log", "--udp", "443=reject"]
    proved = checked(pod.capture(*arguments))["by_name"]
    judged = checked(unprivileged(pod, *arguments))["by_name"]
    names = [name for name, fact in proved.items() if fact["value"].startswith("proved by the rehearsal")]
    assert {"owner match", "TPROXY target", "CT target", "REJECT target", "LOG target", "limit match"} <= set(names)
    assert [name for name in names if judged[name]["verdict"] == "missing"] == []
    legacy = [name for name in judged if name.startswith("legacy IPv")]
    assert [name for name in legacy if judged[name]["verdict"] == "missing"] == []


def test_ipv6_that_nobody_asked_for_prevents_nothing() -> None:
    """Without an address both families are planned; where IPv6 cannot be, a run leaves it out, and check only warns."""
    with Namespace("bare") as bare:
        bare.output("nft", "add", "table", "ip6", "nat")
        bare.output("nft", "add", "chain", "ip6", "nat", "OUTPUT", "{ type filter hook output priority 0; }")

        def run(*arguments: str) -> Result:
            done = bare.run(*Pod.command(*arguments), env=Pod.environ())
            return Result(done.returncode, done.stdout, done.stderr)

        for wish, works in (([], True), (["--ipv6=on"], False)):
            answer = checked(run("check", "--output", "json", "--force-iptables-binary=nft", *wish))
            assert answer["by_name"]["built-in chains"]["verdict"] == ("warn" if works else "missing")
            assert answer["works"] is works
            assert (run("--force-iptables-binary=nft", *wish).status == 0) is works


def edited(folder: Path, program: str, script: str) -> str:
    """A PATH on which the text given to this program is edited by a sed script first."""
    wrapper = folder / program
    wrapper.write_text(f"#!/bin/sh\nsed '{script}' | {locate(program)} \"$@\"\n")
    wrapper.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_rehearsal_leaves_ipv6_out_as_a_run_does(tmp_path: Path) -> None:
    """Where the kernel refuses IPv6 rules IPv4 is proved, IPv6 is told, and only a run that asks for IPv6 fails."""
    refused = r"s/^COMMIT$/-A POSTROUTING -p tcp -j REDIRECT\n&/"
    environ = {**Pod.environ(), "PATH": edited(tmp_path, "ip6tables-nft-restore", refused)}
    with Namespace("bare") as bare:

        def run(*arguments: str) -> Result:
            done = bare.run(*Pod.command(*arguments), env=environ)
            return Result(done.returncode, done.stdout, done.stderr)

        for wish, works in (([], True), (["--ipv6=on"], False)):
            answer = checked(run("check", "--output", "json", "--force-iptables-binary=nft", *wish))
            found = answer["by_name"]["rehearsal"]
            assert found["verdict"] == ("warn" if works else "missing")
            assert "the kernel refused the IPv6 rules" in found["value"]
            assert ("the IPv4 rules work" in found["value"]) is works
            assert answer["works"] is works
            done = run("--force-iptables-binary=nft", *wish)
            assert (done.status == 0) is works, done.stderr


def test_another_owner_of_the_namespace_is_told() -> None:
    """From outside the user namespace that owns the network the kernel refuses owner matches, and check says so."""

    def run(*arguments: str) -> Result:
        command = Pod.command(*arguments, "--network-namespace", str(pid), *POD_SPEC)
        done = subprocess.run(command, env=Pod.environ(), capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    with user_namespace() as pid:
        answer = checked(run("check", "--output", "json"))
        assert "owner of the namespace: another user namespace" in wrong(answer, "missing")
        for backend in ("nft", "legacy"):
            done = run(f"--force-iptables-binary={backend}")
            assert done.status == 1
            assert "-m owner" in done.stderr
            assert "from outside the user namespace that owns the network namespace" in done.stderr
            assert "modprobe" not in done.stderr


def test_an_owner_that_is_not_mapped_is_named_when_it_is_refused(backend: str) -> None:
    """In a user namespace of one user the proxy's uid is unknown: that is said, and no module is asked for."""
    forced = f"--force-iptables-binary={backend}"
    command = ["unshare", "--user", "--map-root-user", "--net", *Pod.command(forced, *POD_SPEC)]
    done = subprocess.run(command, env=Pod.environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "an id that the user namespace does not map: map " in done.stderr
    assert "id-owner 1337" in done.stderr
    assert "modprobe" not in done.stderr


@contextlib.contextmanager
def user_namespace() -> Iterator[int]:
    """A process in a user and a network namespace of its own, which vanish with it."""
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo ready; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


# --- the rehearsal ------------------------------------------------------------------------------------------


def test_the_rehearsal_catches_what_the_kernel_refuses(pod: Pod, backend: str, tmp_path: Path) -> None:
    """A restore that the kernel refuses: missing, with what iptables said; with --no-rehearsal that is not known."""
    refused = "s/owner --uid-owner/owner --uid-owner 5 -m nonsense --x/"
    path = edited(tmp_path, f"iptables-{backend}-restore", refused)
    before = state(pod)
    answer = check(pod, *forced(backend, *POD_SPEC), path=path)
    found = answer["by_name"]["rehearsal"]
    assert not answer["works"]
    assert found["verdict"] == "missing"
    assert "the kernel refused the IPv4 rules" in found["value"]
    assert "nonsense" in found["value"]
    trusting = check(pod, "--no-rehearsal", *forced(backend, *POD_SPEC), path=path)
    assert trusting["works"]
    assert trusting["by_name"]["rehearsal"]["verdict"] == "unknown"
    assert state(pod) == before


def test_no_namespace_is_left(pod: Pod) -> None:
    """The rehearsal's namespace has no name, and is gone with the processes in it: none is left."""
    assert "rehearsal" not in wrong(check(pod, *POD_SPEC))
    script = f"{shlex.join(pod.command('check', *POD_SPEC))} >/dev/null && ls -d /proc/[0-9]*"
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script]
    left = pod.inside.run(*alone, env=pod.environ())
    assert left.stdout.split() == ["/proc/1"], "the shell alone"


def test_the_lock_of_the_host_is_not_taken_by_a_rehearsal(pod: Pod, tmp_path: Path) -> None:
    """While somebody holds it the legacy rules are tried all the same."""
    lock = tmp_path / "lock"
    lock.touch()
    with subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE):
        until_locked(str(lock))
        answer = check(pod, *forced("legacy", *POD_SPEC), env={"XTABLES_LOCKFILE": str(lock)})
    assert answer["by_name"]["rehearsal"]["verdict"] == "ok"


def test_a_place_without_an_address_is_judged_as_a_run_sees_it() -> None:
    """Both families are captured, which is worth a mention, and works."""
    with Namespace("bare") as bare:
        done = bare.run(sys.executable, "-m", "capture", "check", "--output", "json", env=Pod.environ())
        answer = checked(Result(done.returncode, done.stdout, done.stderr))
        assert answer["works"]
        assert answer["by_name"]["addresses"]["verdict"] == "warn"
        assert answer["by_name"]["captured families"]["value"] == "IPv4 and IPv6"


def test_programs_that_these_tests_need() -> None:
    """Those that impair an environment are there."""
    assert has("setpriv", "unshare", "flock", "chroot") == []


MANY = 300_000


def test_a_conntrack_that_is_full_is_told(pod: Pod) -> None:
    """By check and by trace: a new connection is captured by the rules, and dropped by conntrack."""
    most = int(Path(MOST_ENTRIES).read_text(encoding="ascii"))
    if not 0 < most <= MANY:
        pytest.skip(f"this kernel's conntrack takes {most} connections, which would take too long to fill")
    pod.open_listeners()
    pod.applied(*POD_SPEC)
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert "conntrack knows" not in pod.capture("trace", "--live", "9.9.9.9:80").stdout + pod.capture("status").stdout
    there, sources = ip_address("192.0.2.200"), ip_network("198.51.100.0/24")
    flows = (
        (Flow(TCP, sources[1 + at // 65_000], 1 + at % 65_000, there, 7), ESTABLISHED) for at in range(most + 1000)
    )
    with entered(pod.inside):
        refused = write_down(flows)
    assert set(refused) == {errno.ENOMEM}
    assert str(pod.dial("9.9.9.9", 80)) == "timeout"
    told = f"conntrack knows {most:,} connections here and may know {most:,}"
    assert told in pod.capture("trace", "--live", "9.9.9.9:80").stdout
    assert f"warning: {told}" in pod.capture("status").stdout
    fact = checked(pod.capture("check", "--output", "json", *POD_SPEC))["by_name"]["entries"]
    assert fact["verdict"] == "warn"
    assert told in fact["value"]


def test_a_lo_that_is_down_is_told(pod: Pod) -> None:
    """What is captured goes over lo: trace says that it hangs, and of what leaves the pod it says nothing."""
    pod.open_listeners()
    pod.applied(*POD_SPEC, "-o", "53")
    pod.inside.ip("link", "set", "lo", "down")
    for port, lands in ((80, "timeout"), (53, "ext:53")):
        assert str(pod.dial("9.9.9.9", port)) == lands
        told = pod.capture("trace", "--live", f"9.9.9.9:{port}").stdout
        assert ("lo is down, so it hangs" in told) is (lands == "timeout")
    assert "outbound IPv4 that is captured: lo is down, so it hangs" in pod.capture("status").stdout
    assert checked(pod.capture("check", "--output", "json", *POD_SPEC))["by_name"]["lo"]["verdict"] == "warn"
    pod.inside.ip("link", "set", "lo", "up")
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert "it hangs" not in pod.capture("trace", "--live", "9.9.9.9:80").stdout + pod.capture("status").stdout


@pytest.mark.parametrize(
    ("host", "loopback", "gone"),
    [
        ("9.9.9.9", "127.0.0.1", ("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")),
        ("2001:db8::1", "::1", ("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")),
    ],
)
def test_a_loopback_address_that_went_away_is_told(pod: Pod, host: str, loopback: str, gone: tuple[str, ...]) -> None:
    """What is redirected goes there: where no interface has it any more, trace says so."""
    pod.open_listeners()
    pod.applied(*POD_SPEC, "--dual-stack")
    question = ("trace", "--live", f"[{host}]:80" if ":" in host else f"{host}:80")
    assert str(pod.dial(host, 80)) == "pod:15001"
    assert "it hangs" not in pod.capture(*question).stdout
    pod.inside.output(*gone)
    assert str(pod.dial(host, 80)) == "timeout"
    assert f"no interface has {loopback}, so it hangs" in pod.capture(*question).stdout
    family = "IPv6" if ":" in host else "IPv4"
    (failing,) = json.loads(pod.capture("status", "--output", "json").stdout)["failing"]
    assert failing.startswith(f"outbound {family} that is captured: no interface has {loopback}, so it hangs")


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_nobody_who_listens_is_told_by_trace(pod: Pod, mode: str) -> None:
    """Where it ends, whether captured or not; once somebody does, nothing is said, and the call lands there."""
    pod.applied(*POD_SPEC, "--dual-stack", "-m", mode, "-d", "8443", "--redirect-dns", "--capture-all-dns")
    questions = {
        "9.9.9.9:80": "TCP port 15001 of 127.0.0.1",
        "[2001:db8::1]:80": "TCP port 15001 of ::1",
        "--in 10.244.0.5:8080": "TCP port 15006 of 10.244.0.5",
        "--in [fd00:244::5]:8080": "TCP port 15006 of fd00:244::5",
        "--in 10.244.0.5:8443": "TCP port 8443 of 10.244.0.5",
        "--udp 9.9.9.9:53": "UDP port 15053 of 127.0.0.1",
    }
    for question, where in questions.items():
        told = pod.capture("trace", "--live", *question.split()).stdout
        assert f"nobody listens at {where} now, so it fails" in told, told
    assert "nobody listens" not in pod.capture("trace", "--live", "--udp", "9.9.9.9:443").stdout
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial_in(8443))) == ("refused", "refused")
    pod.open_listeners(transparent=mode == "TPROXY")
    for question in questions:
        if "8443" not in question:
            assert "nobody listens" not in pod.capture("trace", "--live", *question.split()).stdout, question
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_a_listener_that_is_not_transparent_is_told_by_trace(pod: Pod, mode: str, version: int) -> None:
    """It takes what is redirected to it, and nothing that TPROXY hands over."""
    pod.applied(*POD_SPEC, "--dual-stack", "-m", mode)
    pod.open_listeners()
    host = {4: "10.244.0.5", 6: "[fd00:244::5]"}[version]
    told = pod.capture("trace", "--live", "--in", f"{host}:8080").stdout
    assert ("port 15006: no listener is transparent" in told) is (mode == "TPROXY")
    assert "nobody listens" not in told
    assert str(pod.dial_in(8080, version=version)) == ("timeout" if mode == "TPROXY" else "pod:15006")
