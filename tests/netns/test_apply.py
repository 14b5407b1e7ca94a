"""Applying: what a first run, a rerun, and a run over something else leave in the kernel."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from rules.iptables import reading
from rules.iptables.listing import as_saved, asking
from rules.netfilter.values import BUILT_IN
from tests.bench import descendants
from tests.conftest import every_backend
from tests.rig import APP, PROXY, Call, Namespace, Pod, Result

if TYPE_CHECKING:
    from pathlib import Path

POD_SPEC = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15090"]


def forced(backend: str, *more: str) -> list[str]:
    return [*POD_SPEC, f"--force-iptables-binary={backend}", *more]


def iptables(pod: Pod, backend: str, *arguments: str, version: int = 4) -> None:
    pod.inside.output(f"{'iptables' if version == 4 else 'ip6tables'}-{backend}", *arguments)


def test_a_second_run_changes_nothing_and_says_so(pod: Pod, backend: str) -> None:
    """The rules are the same to the letter, and so are their counters: they were not even replaced."""
    pod.applied(*forced(backend))
    pod.open_listeners()
    pod.dial("9.9.9.9", 80)
    counted = pod.inside.output(f"iptables-{backend}-save", "-c")
    again = pod.applied(*forced(backend))
    assert "already in place" in again.stderr
    assert without_comments(pod.inside.output(f"iptables-{backend}-save", "-c")) == without_comments(counted)


def without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_a_rerun_finds_the_backend_by_itself(pod: Pod, backend: str) -> None:
    """Where our chains are decides, not what the machine prefers."""
    pod.applied(*forced(backend))
    again = pod.applied(*POD_SPEC)
    assert f"Using the {backend} backend of iptables: the namespace holds our chains there" in again.stderr
    assert "already in place" in again.stderr


def plant_foreign_rules(pod: Pod, backend: str) -> None:
    iptables(pod, backend, "-t", "nat", "-N", "OTHERS")
    iptables(
        pod, backend, "-t", "nat", "-A", "OTHERS", "-p", "tcp", "-m", "comment", "--comment", "a b", "-j", "RETURN"
    )
    iptables(pod, backend, "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.200", "-j", "OTHERS")
    iptables(pod, backend, "-t", "nat", "-A", "PREROUTING", "-p", "udp", "-m", "udp", "--dport", "9", "-j", "ACCEPT")
    iptables(pod, backend, "-t", "filter", "-A", "INPUT", "-s", "198.51.100.0/24", "-j", "DROP")


def foreign(lines: list[str]) -> list[str]:
    return [line for line in lines if "ISTIO" not in line]


def test_the_rules_of_others_survive_in_place(pod: Pod, backend: str) -> None:
    """Before and behind our jumps, and in chains of their own, through a first run, a rerun and a change."""
    plant_foreign_rules(pod, backend)
    before = foreign(pod.saved(backend))
    pod.applied(*forced(backend))
    iptables(pod, backend, "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.201", "-j", "ACCEPT")
    iptables(pod, backend, "-t", "nat", "-I", "PREROUTING", "1", "-s", "192.0.2.202", "-j", "OTHERS")
    with_more = pod.saved(backend)
    assert set(before) < set(with_more)
    again = pod.applied(*forced(backend))
    assert "already in place" in again.stderr
    assert pod.saved(backend) == with_more
    pod.applied(*forced(backend, "-x", "9.9.9.9/32", "--drop-invalid"))
    changed = pod.saved(backend)
    assert [line for line in foreign(changed) if "*mangle" not in line] != []
    assert nat(foreign(changed)) == nat(foreign(with_more))
    assert hooks(changed) == hooks(with_more), "our jumps stay where they stood among the others"


def nat(lines: list[str]) -> list[str]:
    at = lines.index("*nat")
    return lines[at : lines.index("COMMIT", at)]


def hooks(lines: list[str]) -> list[str]:
    return [line for line in nat(lines) if line.startswith(("-A OUTPUT", "-A PREROUTING"))]


def test_another_setting_converges(pod: Pod, backend: str) -> None:
    """A run with other settings leaves exactly what it would have put into an empty namespace."""
    pod.open_listeners()
    pod.applied(*forced(backend))
    pod.applied(*forced(backend, "-x", "9.9.9.9/32", "-o", "22", "--drop-invalid"))
    assert str(pod.dial("9.9.9.9", 80)) == "ext:80"
    assert str(pod.dial("1.1.1.1", 80)) == "pod:15001"
    pod.applied(*forced(backend))
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    with Pod() as fresh:
        fresh.applied(*forced(backend))
        assert nat(pod.saved(backend)) == nat(fresh.saved(backend))
    assert not any("ISTIO_DROP" in line for line in pod.saved(backend))


def test_rules_as_an_older_version_wrote_them_are_replaced_in_one_commit(pod: Pod, backend: str) -> None:
    """One for each network that was given: fewer take their place in the commit that empties the chain, once."""
    flags = forced(backend, "-x", "10.0.0.0/9,9.9.9.9,10.128.0.0/9,9.9.9.9/32")
    pod.applied(*flags)
    few = pod.saved(backend)
    first = next(line for line in few if "-d 10.0.0.0/8" in line)
    halves = [first.replace("10.0.0.0/8", half) for half in ("10.0.0.0/9", "9.9.9.9/32", "10.128.0.0/9")]
    at = [line for line in few if line.startswith("-A ISTIO_OUTPUT ")].index(first) + 1
    older = [f"-R ISTIO_OUTPUT {at}{halves[0].removeprefix('-A ISTIO_OUTPUT')}"]
    older += [f"-I ISTIO_OUTPUT {at + more}{halves[more].removeprefix('-A ISTIO_OUTPUT')}" for more in (1, 2)]
    pod.inside.output(f"iptables-{backend}-restore", "--noflush", text="\n".join(["*nat", *older, "COMMIT", ""]))
    assert pod.capture("verify", *flags).status == 4
    moved = pod.capture("-n", *flags).stdout
    assert moved.count("COMMIT") == 1
    assert ":ISTIO_OUTPUT - [0:0]" in moved
    pod.applied(*flags)
    assert nat(pod.saved(backend)) == nat(few)
    assert pod.capture("verify", *flags).status == 0
    assert pod.capture("-n", *flags).stdout == ""
    assert "No rule of ours would change" in pod.capture("-n", *flags).stderr


DRIFT = {
    "a stray rule in our chain": ["-I", "ISTIO_OUTPUT", "1", "-d", "9.9.9.9", "-j", "RETURN"],
    "a rule gone": ["-D", "ISTIO_OUTPUT", "1"],
    "a rule twice": ["-A", "ISTIO_INBOUND", "-p", "tcp", "-j", "ISTIO_IN_REDIRECT"],
    "a jump gone": ["-D", "OUTPUT", "1"],
    "a jump twice": ["-A", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT"],
    "a wider jump": ["-R", "PREROUTING", "1", "-j", "ISTIO_INBOUND"],
    "a chain of ours that is not wanted": ["-N", "ISTIO_OUTPUT_DNS"],
}


@pytest.mark.parametrize("planted", DRIFT.values(), ids=list(DRIFT))
def test_a_rerun_repairs_what_somebody_changed(pod: Pod, backend: str, planted: list[str]) -> None:
    """Order, repetition and strays count: afterwards the rules are those of the first run, to the letter."""
    pod.applied(*forced(backend))
    good = pod.saved(backend)
    iptables(pod, backend, "-t", "nat", *planted)
    assert pod.saved(backend) != good
    assert "already in place" not in pod.applied(*forced(backend)).stderr
    assert pod.saved(backend) == good


IN_THE_WAY = {
    "an ACCEPT": ["OUTPUT", "1", "-j", "ACCEPT"],
    "a REDIRECT of others above": ["OUTPUT", "1", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "9"],
    "an ACCEPT of what arrives": ["PREROUTING", "1", "-p", "tcp", "-j", "ACCEPT"],
    "a chain that decides": ["OUTPUT", "1", "!", "-d", "10.0.0.0/8", "-j", "DECIDES"],
}


@pytest.mark.parametrize("planted", IN_THE_WAY.values(), ids=list(IN_THE_WAY))
def test_a_rerun_goes_above_rules_that_take_everything(pod: Pod, backend: str, planted: list[str]) -> None:
    """They stay, in their order; ours is asked first, whether it was there before them or not."""
    iptables(pod, backend, "-t", "nat", "-N", "DECIDES")
    iptables(pod, backend, "-t", "nat", "-A", "DECIDES", "-p", "tcp", "-j", "ACCEPT")
    iptables(pod, backend, "-t", "nat", "-I", *planted)
    theirs = foreign(pod.saved(backend))
    pod.open_listeners()
    pod.applied(*forced(backend))
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    good = pod.saved(backend)
    assert foreign(good) == theirs

    iptables(pod, backend, "-t", "nat", "-I", *planted)
    assert "already in place" not in pod.applied(*forced(backend)).stderr
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert hooks(pod.saved(backend))[0] == hooks(good)[0]
    assert "already in place" in pod.applied(*forced(backend)).stderr


def test_removal_leaves_the_rules_of_others(pod: Pod, backend: str) -> None:
    """--cleanup-only takes our chains and jumps and nothing else, whatever settings put them there."""
    plant_foreign_rules(pod, backend)
    before = pod.saved(backend)
    pod.applied(*forced(backend, "-c", "eth9", "-k", "eth8", "-o", "22"))
    pod.applied("--cleanup-only")
    assert pod.saved(backend) == before
    assert "nothing to remove" in pod.applied("--cleanup-only").stderr


def test_ours_in_the_other_backend_are_moved(pod: Pod, backend: str) -> None:
    """Forcing the other backend puts the rules there and takes them away here; connections stay captured."""
    other = {"nft": "legacy", "legacy": "nft"}[backend]
    pod.open_listeners()
    pod.applied(*forced(backend))
    pod.applied(*forced(other))
    assert not any("ISTIO" in line for line in pod.saved(backend))
    assert any("ISTIO_REDIRECT" in line for line in pod.saved(other))
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


@pytest.mark.parametrize("families", [1, 2])
@pytest.mark.parametrize(("of", "first", "again"), [("nft", 1, 0), ("legacy", 1, 1), ("native", 0, 0)])
def test_few_processes_do_it(pod: Pod, of: str, first: int, again: int, families: int) -> None:
    """A clean namespace: one restore a family, or one nft. What it wrote is known by the bytes of nf_tables, and the
    legacy one tells it. In place: none, but for legacy tables, which are saved."""
    arguments = [*POD_SPEC, *["--dual-stack"] * (families - 1), f"--force-iptables-binary={of}"]
    for children in (first * families or 1, again * families):
        assert descendants(pod.inside, pod.command(*arguments), os.devnull) == children


def test_what_legacy_iptables_lists_is_what_it_saves(pod: Pod) -> None:
    """All tables with rules of others in them: the listings of one program say what another prints."""
    plant_foreign_rules(pod, "legacy")
    quoted = ["-m", "comment", "--comment", 'it "says": -P OUTPUT DROP\n-P INPUT DROP']
    for table in BUILT_IN:
        pod.inside.output("iptables-legacy", "-t", table, "-N", "LISTED")
        pod.inside.output("iptables-legacy", "-t", table, "-A", "OUTPUT", "-d", "192.0.2.1", *quoted, "-j", "LISTED")
    pod.inside.output("iptables-legacy", "-P", "FORWARD", "DROP")
    told = pod.inside.output("iptables-legacy-restore", "--noflush", text="\n".join([*asking(BUILT_IN), ""]))
    listed = reading.tables(as_saved(told, tuple(BUILT_IN)))
    saved = reading.tables(pod.inside.output("iptables-legacy-save"))
    assert {table.table: table for table in listed} == {table.table: table for table in saved}


# --- refusals of the kernel -------------------------------------------------------------------------------


def block(pod: Pod, family: str) -> None:
    """Make the kernel refuse iptables-nft's OUTPUT chain of the nat table: one of another type has the name."""
    pod.inside.output("nft", "add", "table", family, "nat")
    pod.inside.output(
        "nft", "add", "chain", family, "nat", "OUTPUT", "{ type filter hook output priority 0; policy accept; }"
    )


def test_a_refusal_in_ipv6_leaves_ipv4_as_it_was(pod: Pod) -> None:
    """The kernel refuses an IPv6 chain: nothing is captured in either family, and the message says what failed."""
    block(pod, "ip6")
    before = pod.state()
    result = pod.capture(*POD_SPEC, "--dual-stack", "--force-iptables-binary=nft")
    assert result.status == 1
    assert "the kernel refused the IPv6 rules" in result.stderr
    assert "CHAIN_ADD failed" in result.stderr
    assert "Traceback" not in result.stderr
    assert pod.state() == before


def test_a_refusal_in_ipv4_takes_ipv6_back(pod: Pod) -> None:
    """IPv6 was in place already: its rules, its table and ::6 are gone again."""
    block(pod, "ip")
    before = pod.state()
    result = pod.capture(*POD_SPEC, "--dual-stack", "--force-iptables-binary=nft")
    assert result.status == 1
    assert "the kernel refused the IPv4 rules" in result.stderr
    assert "the namespace is as it was" in result.stderr
    assert pod.state() == before


def test_a_refusal_keeps_the_capture_that_was_there(pod: Pod, backend: str, tmp_path: Path) -> None:
    """A change that the kernel refuses in IPv4 leaves both families with the rules of the run before."""
    pod.applied(*forced(backend, "--dual-stack"))
    before = pod.state()
    path = sabotaged(tmp_path, f"iptables-{backend}-restore", f"s/^COMMIT$/{REFUSED}\\nCOMMIT/")
    result = pod.capture(*forced(backend, "--dual-stack", "-x", "9.9.9.9,2001:db8::1"), path=path)
    assert result.status == 1, result.stderr
    assert "the kernel refused the IPv4 rules" in result.stderr
    assert pod.state() == before


REFUSED = "-A POSTROUTING -p tcp -j REDIRECT --to-ports 1"
"""A rule that both tools accept and the kernel does not: REDIRECT has no meaning in POSTROUTING."""


def sabotaged(folder: Path, program: str, script: str, *, table: str = "") -> str:
    """A PATH on which the text given to this program is first edited by a sed script, in its first run only.

    Or in the first that begins with a table.
    """
    places = (*os.environ["PATH"].split(":"), "/usr/sbin")
    real = next(path for place in places if os.access(path := f"{place}/{program}", os.X_OK))
    wrapper = folder / program
    wrapper.write_text(
        f'#!/bin/sh\n[ -e {folder}/done ] && exec {real} "$@"\ncat > {folder}/text\nhead -n 1 {folder}/text | '
        f"grep -q '^.{table}' || exec {real} \"$@\" < {folder}/text\n: > {folder}/done\n"
        f"sed '{script}' {folder}/text | {real} \"$@\"\n"
    )
    wrapper.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_refused_rule_is_named_with_its_reason(pod: Pod, tmp_path: Path) -> None:
    """The error shows the rule that the kernel refused, what it is for, and the flag it came from."""
    lines = pod.capture("-n", *forced("nft")).stdout.splitlines()
    rule = "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN"
    # The first line that is printed is a comment, which iptables-restore is not given.
    path = sabotaged(tmp_path, "iptables-nft-restore", f"{lines.index(rule)}s/.*/{REFUSED}/")
    result = pod.capture(*forced("nft"), path=path)
    assert result.status == 1
    error = result.stderr[result.stderr.index("error") :]
    assert "RULE_APPEND failed (Invalid argument)" in error
    assert rule in error
    assert "the proxy's own traffic, or it would loop" in error
    assert "--proxy-gid, derived from --proxy-uid" in error
    assert "modprobe ipt_owner" in error


@every_backend
def test_a_run_without_capabilities_names_what_is_missing(pod: Pod, backend: str) -> None:
    """No capability: refused before anything is touched, and NET_ADMIN is named."""
    before = pod.state()
    result = unprivileged(pod, *forced(backend))
    assert result.status == 1
    assert "CAP_NET_ADMIN" in result.stderr
    assert "Traceback" not in result.stderr
    assert pod.state() == before


READ_ONLY = (
    *("unshare", "--mount", "sh", "-ec"),
    "mount --make-rprivate /; mount --rbind / /mnt; mount -o remount,bind,ro /mnt; "
    "! mountpoint -q /mnt/run || mount -o remount,bind,ro /mnt/run; "
    "for place in /mnt /mnt/run; do if touch $place/here 2>/dev/null; then exit 99; fi; done; "
    'exec chroot /mnt "$@"',
    "sh",
)
"""What a program is run by to find `/` and `/run` read-only, as in a container, in mounts that nobody else sees."""


def unprivileged(
    pod: Pod,
    *arguments: str,
    uid: int = 65534,
    capabilities: tuple[str, ...] = (),
    within: tuple[str, ...] = (),
) -> Result:
    """Run as this user with these capabilities and no others."""
    added = ",".join(f"+{name}" for name in capabilities)
    ambient = [f"--inh-caps=-all,{added}", f"--ambient-caps=-all,{added}"] if capabilities and uid else []
    done = pod.inside.run(
        *within,
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        *ambient,
        f"--bounding-set=-all{',' + added if added else ''}",
        sys.executable,
        "-m",
        "capture",
        *arguments,
        env=pod.environ(),
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_net_admin_is_enough_for_nft(pod: Pod) -> None:
    """Any user with NET_ADMIN and no other capability."""
    result = unprivileged(pod, *forced("nft"), capabilities=("net_admin",))
    assert result.status == 0, result.stderr
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


def test_net_admin_and_net_raw_are_enough_for_legacy(pod: Pod) -> None:
    """Root with these two, as a container has it."""
    result = unprivileged(pod, *forced("legacy"), uid=0, capabilities=("net_admin", "net_raw"))
    assert result.status == 0, result.stderr
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


@pytest.mark.parametrize(
    ("backend", "uid", "capabilities"),
    [
        ("nft", 65534, ("net_admin",)),
        ("native", 65534, ("net_admin",)),
        ("nft", 0, ("net_admin",)),
        ("legacy", 0, ("net_admin", "net_raw")),
    ],
)
def test_a_read_only_root_is_enough(pod: Pod, backend: str, uid: int, capabilities: tuple[str, ...]) -> None:
    """Neither `/` nor `/run` can be written, the lock file included: captured all the same, changed, and removed."""
    pod.open_listeners()
    for arguments, landing in (
        (POD_SPEC, "pod:15001"),
        ([*POD_SPEC, "-o", "80"], "ext:80"),
        (["--cleanup-only"], "ext:80"),
    ):
        arguments = [*arguments, f"--force-iptables-binary={backend}"]
        result = unprivileged(pod, *arguments, uid=uid, capabilities=capabilities, within=READ_ONLY)
        assert result.status == 0, result.stderr
        assert str(pod.dial("9.9.9.9", 80)) == landing
    assert not any("ISTIO" in line for line in pod.saved(backend))


def test_net_admin_alone_is_not_enough_for_legacy(pod: Pod) -> None:
    """NET_RAW is named, and nothing is touched."""
    before = pod.state()
    result = unprivileged(pod, *forced("legacy"), uid=0, capabilities=("net_admin",))
    assert result.status == 1
    assert "CAP_NET_RAW" in result.stderr
    assert "Traceback" not in result.stderr
    assert pod.state() == before


def test_legacy_tables_need_root_to_be_listed(pod: Pod) -> None:
    """Only uid 0 may read which legacy tables there are, so another user is told so before anything is touched."""
    before = pod.state()
    result = unprivileged(pod, *forced("legacy"), capabilities=("net_admin", "net_raw"))
    assert result.status == 1
    assert "ip_tables_names" in result.stderr
    assert "uid 0" in result.stderr
    assert pod.state() == before


def test_a_program_that_cannot_be_run_is_named(pod: Pod, tmp_path: Path) -> None:
    """An iptables-save that is no program: refused in words, and nothing is touched."""
    pod.applied(*forced("nft"))
    before = pod.state()
    broken = tmp_path / "iptables-nft-save"
    broken.write_bytes(b"\x7fELF, or not")
    broken.chmod(0o755)
    result = pod.capture(*POD_SPEC, "-p", "15009", path=f"{tmp_path}:{os.environ['PATH']}")
    assert result.status == 1
    assert f"{broken} cannot be run" in result.stderr
    assert "Exec format error" in result.stderr
    assert "Traceback" not in result.stderr
    assert pod.state() == before


# --- which families ---------------------------------------------------------------------------------------


def test_ipv6_is_not_captured_by_default_and_a_warning_names_it(pod: Pod) -> None:
    """The first address is IPv4, so IPv6 bypasses the proxy, as with the reference; but not silently."""
    result = pod.applied(*POD_SPEC)
    pod.open_listeners()
    assert "fd00:244::5" in result.stderr
    assert str(pod.dial("2001:db8::1", 80)) == "ext:80"
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


def test_dual_stack_captures_both_and_going_back_removes_one(pod: Pod, backend: str) -> None:
    """IPv6 on: captured, and ::6 is on lo. Off again: no rule of ours is left in IPv6."""
    pod.open_listeners()
    pod.applied(*forced(backend, "--dual-stack"))
    landing = pod.dial("2001:db8::1", 80)
    assert (str(landing), landing.original) == ("pod:15001", ("2001:db8::1", 80))
    assert "::6/128" in pod.inside.output("ip", "-6", "addr", "show", "dev", "lo")
    pod.applied(*forced(backend))
    assert not any("ISTIO" in line for line in pod.saved(backend, version=6))
    assert str(pod.dial("2001:db8::1", 80)) == "ext:80"


def test_without_an_address_both_families_are_captured(backend: str) -> None:
    """A namespace whose network comes later is captured all the same, with a warning."""
    with Namespace("bare") as bare:
        done = bare.run(sys.executable, "-m", "capture", *forced(backend), env=Pod.environ())
        assert done.returncode == 0, done.stderr
        assert "no usable address" in done.stderr
        for program in ("iptables", "ip6tables"):
            assert "ISTIO_REDIRECT" in bare.output(f"{program}-{backend}-save")


# --- owners -----------------------------------------------------------------------------------------------


@every_backend
def test_each_of_several_proxies_is_inbound_to_itself_and_never_captured(pod: Pod, backend: str) -> None:
    """The first uid's "not this uid on lo" does not hide the loopback rules of the others, nor of the gids."""
    pod.applied(*forced(backend, "-u", "1337,3", "-g", "1337,202"))
    pod.open_listeners()
    pod_address = "10.244.0.5"
    for uid, gid in ((PROXY, PROXY), (3, 3), (APP, 202)):
        own, away = pod.land(
            [
                Call(pod.inside, pod_address, 8080, uid, gid),
                Call(pod.inside, "9.9.9.9", 80, uid, gid),
            ]
        )
        assert str(own) == "pod:15006", (uid, gid)
        assert str(away) == "ext:80", (uid, gid)
    assert str(pod.dial(pod_address, 8080)) == "pod:8080", "the app talks to itself without the proxy"
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"


# --- dry run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["iptables-nft-restore", "iptables-legacy-restore"])
def test_what_a_dry_run_prints_can_be_loaded(ipv4_pod: Pod, program: str) -> None:
    """stdout as it is, comments and all; and a run of ours then finds it in place."""
    printed = ipv4_pod.capture("-n", *POD_SPEC).stdout
    ipv4_pod.inside.output(program, "--noflush", text=printed)
    assert "already in place" in ipv4_pod.applied(*POD_SPEC).stderr


def test_a_dry_run_touches_nothing_and_sees_what_is_there(pod: Pod, backend: str) -> None:
    """It prints what would change from here; where nothing would, nothing; and says on stderr what else it would do."""
    before = pod.state()
    pod.capture("-n", *POD_SPEC, "-m", "TPROXY", "--dual-stack")
    assert pod.state() == before
    pod.applied(*forced(backend))
    before = pod.state()
    assert pod.capture("-n", *POD_SPEC).stdout == ""
    changed = pod.capture("-n", *POD_SPEC, "-m", "TPROXY")
    assert f"# IPv4: iptables-{backend}-restore --noflush\n*mangle\n-N ISTIO_DIVERT" in changed.stdout
    assert "Would run ip route add local default dev lo table 133" in changed.stderr
    assert pod.state() == before


def test_a_dry_run_leaves_a_copy_and_needs_no_rights(ipv4_pod: Pod, tmp_path: Path) -> None:
    """DRY_RUN_FILE_PATH gets what stdout gets; an unprivileged user without iptables on the PATH gets it as well."""
    copy = tmp_path / "rules"
    result = ipv4_pod.capture("-n", *POD_SPEC, env={"DRY_RUN_FILE_PATH": str(copy)})
    assert copy.read_text() == result.stdout != ""
    assert unprivileged(ipv4_pod, "-n", *POD_SPEC).stdout == result.stdout
    refused = ipv4_pod.capture("-n", *POD_SPEC, env={"DRY_RUN_FILE_PATH": "/nonexistent/rules"})
    assert refused.status == 1
    assert "cannot write the rules to /nonexistent/rules: No such file" in refused.stderr


OTHER = {"nft": "legacy", "legacy": "nft"}
TAKES_ALL = "-p tcp -j REDIRECT --to-ports 9999"
TAKES_SOME = "-d 1.1.1.1/32 -p tcp --dport 80 -j REDIRECT --to-ports 9999"


@pytest.mark.parametrize("theirs", [TAKES_ALL, TAKES_SOME], ids=["all", "some"])
def test_rules_of_others_in_the_other_backend_are_found_and_passed(ipv4_pod: Pod, backend: str, theirs: str) -> None:
    """The table that was made later is asked first, and nothing tells which that is: verify says so, and a rerun brings
    ours into one table with them, where ours go before what takes everything. Then nothing is left to do.
    """
    pod = ipv4_pod
    pod.open_listeners()
    pod.traffic.listen(pod.inside, [9999], where="theirs", hosts=["0.0.0.0"])
    pod.applied(f"--force-iptables-binary={backend}")
    pod.inside.output(f"iptables-{OTHER[backend]}", "-t", "nat", "-A", "OUTPUT", *theirs.split())
    assert str(pod.dial("1.1.1.1", 80)) == "theirs:9999"
    found = pod.capture("verify")
    assert found.status == 4
    assert f"{OTHER[backend]} IPv4 nat OUTPUT 1: the rule of others `{theirs}` in the other backend" in found.stdout
    assert "a rerun brings ours over to that backend" in found.stdout
    assert f"Using the {OTHER[backend]} backend" in pod.applied().stderr
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    if theirs == TAKES_ALL:
        assert str(pod.dial("1.1.1.1", 80)) == "pod:15001"
    assert pod.capture("verify").status == 0
    assert "already in place" in pod.applied().stderr
    assert not any("ISTIO" in line for line in pod.saved(backend))
    assert any("--to-ports 9999" in line for line in pod.saved(OTHER[backend]))


@pytest.mark.parametrize(
    "theirs",
    [
        "OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 9999",
        "OUTPUT -p tcp --dport 22 -j REDIRECT --to-ports 9999",
        "OUTPUT -p tcp -m owner --uid-owner 1337 ! -o lo -j DNAT --to-destination 192.0.2.1:1",
        "OUTPUT -p tcp -j ACCEPT",
        "PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 9999",
        "POSTROUTING -j MASQUERADE",
    ],
)
def test_rules_in_the_other_backend_that_take_nothing_are_no_reason_to_move(
    ipv4_pod: Pod, backend: str, theirs: str
) -> None:
    """What is not captured, and what their table leaves to ours: nothing is found, and a rerun stays where it is."""
    pod = ipv4_pod
    pod.open_listeners()
    settings = ("-u", "1337", "-o", "22", "-d", "8080")
    pod.applied(*settings, f"--force-iptables-binary={backend}")
    pod.inside.output(f"iptables-{OTHER[backend]}", "-t", "nat", "-A", *theirs.split())
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    found = pod.capture("verify", *settings)
    assert found.status == 0, found.stdout
    assert "already in place" in pod.applied(*settings).stderr


def test_rules_of_others_in_both_backends_that_take_all_are_beyond_a_rerun(ipv4_pod: Pod, backend: str) -> None:
    """Wherever ours go, theirs in the other one may be asked first: 4, and the sentence promises nothing of a rerun."""
    pod = ipv4_pod
    pod.open_listeners()
    pod.traffic.listen(pod.inside, [9999], where="theirs", hosts=["0.0.0.0"])
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", *TAKES_ALL.split())
    pod.applied(f"--force-iptables-binary={backend}")
    pod.inside.output(f"iptables-{OTHER[backend]}", "-t", "nat", "-A", "OUTPUT", *TAKES_ALL.split())
    assert str(pod.dial("1.1.1.1", 80)) == "theirs:9999"
    for _ in range(2):
        found = pod.capture("verify")
        assert found.status == 4
        assert "a rerun cannot repair this" in found.stdout
        assert f"Using the {backend} backend" in pod.applied().stderr
