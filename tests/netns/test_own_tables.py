"""Our own tables of nf_tables: what is true of them alone. What all backends have in common is in other files."""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.netns.test_convergence import NAMESERVERS, SETTINGS
from tests.rig import APP, OUTSIDE, PROXY, Pod, faults

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

NATIVE = "--native-nftables"
DUAL = ["-u", str(PROXY), "--dual-stack"]
TABLE = "ip istio-capture"


def is_captured(pod: Pod) -> bool:
    """Whether what an application sends, in each family, arrives at the proxy, with listeners there."""
    return all(str(pod.dial(OUTSIDE[version][0], 80, uid=APP, gid=APP)) == "pod:15001" for version in pod.versions)


def nft(pod: Pod, *statements: str) -> None:
    """What somebody types into nft."""
    pod.inside.output("nft", "-f", "-", text="".join(f"{line}\n" for line in statements))


def test_all_is_one_transaction_and_nothing_of_iptables(pod: Pod) -> None:
    """Both families, all hooks and both modes of DNS in one run of nft; no table of iptables is made."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    done = pod.applied(*DUAL, "-m", "TPROXY", "--redirect-dns", "--drop-invalid", "--udp", "443=reject", NATIVE)
    assert done.stderr.count("Running nft -f -") == 1
    assert set(pod.inside.output("nft", "list", "tables").splitlines()) == {
        "table ip istio-capture",
        "table ip6 istio-capture",
    }
    assert "Using the native backend: --native-nftables asks for it" in done.stderr


def test_a_rerun_changes_not_even_a_counter(pod: Pod) -> None:
    """What is planned is there: nft is not run, and says the same of its counters."""
    pod.applied(*DUAL, NATIVE)
    pod.open_listeners()
    assert is_captured(pod)
    before = pod.inside.output("nft", "list", "ruleset")
    assert "counter packets 1 " in before
    done = pod.applied(*DUAL, NATIVE)
    assert "The capture is already in place: nothing was changed" in done.stderr
    assert "Running" not in done.stderr
    assert pod.inside.output("nft", "list", "ruleset") == before


def test_a_change_keeps_the_counters_of_every_other_chain(pod: Pod) -> None:
    """Only the chain that differs is written anew."""
    pod.applied(*DUAL, NATIVE)
    pod.open_listeners()
    assert is_captured(pod)
    pod.applied(*DUAL, NATIVE, "-o", "22")
    chain = pod.inside.output("nft", "list", "chain", *TABLE.split(), "nat-ISTIO_REDIRECT")
    assert "counter packets 1 " in chain


DRIFTS = {
    "a rule gone": ["flush chain ip istio-capture nat-ISTIO_REDIRECT"],
    "a rule more": ["insert rule ip istio-capture nat-ISTIO_OUTPUT ip daddr 192.0.2.7 return"],
    "a rule that we do not write": ["add rule ip istio-capture nat-ISTIO_OUTPUT meta cpu 0 numgen random mod 2 0 drop"],
    "a rule twice": ["add rule ip istio-capture nat-ISTIO_IN_REDIRECT meta l4proto tcp counter redirect to :15006"],
    "a jump gone": ["flush chain ip istio-capture nat-OUTPUT"],
    "a chain that is not wanted": ["add chain ip istio-capture mangle-ISTIO_DIVERT"],
    "a chain of others": ["add chain ip istio-capture theirs"],
    "a hook elsewhere": [
        "delete chain ip istio-capture nat-OUTPUT",
        "add chain ip istio-capture nat-OUTPUT { type nat hook postrouting priority 100; }",
    ],
    "a policy": ["add chain ip istio-capture nat-PREROUTING { type nat hook prerouting priority -100; policy drop; }"],
    "asleep": ["add table ip istio-capture { flags dormant; }"],
    "a table gone": ["delete table ip istio-capture"],
    "all gone": ["flush ruleset"],
}


@pytest.mark.parametrize("statements", DRIFTS.values(), ids=list(DRIFTS))
def test_drift_is_told_and_repaired(pod: Pod, statements: Sequence[str]) -> None:
    """verify is 4, diff says what a rerun would do, and the rerun does it."""
    pod.applied(*DUAL, NATIVE)
    before = pod.meaning()
    nft(pod, *statements)
    told = pod.capture("verify", *DUAL, NATIVE)
    assert told.status == 4, told.stdout
    assert "native IPv4" in pod.capture("diff", *DUAL, NATIVE).stdout
    pod.applied(*DUAL, NATIVE)
    assert pod.meaning() == before
    assert pod.capture("verify", *DUAL, NATIVE).status == 0


LEFT_BEHIND = ["add chain ip istio-capture nat-ISTIO_OUTPUT-not-yet-in-its-place"]
"""By a run that was killed: no packet comes to it, and none misses it."""
SET_OF_OTHERS = [
    "add set ip istio-capture theirs { type ipv4_addr; elements = { 192.0.2.7, 192.0.2.9 }; }",
    "insert rule ip istio-capture nat-ISTIO_OUTPUT ip daddr @theirs counter return",
]
"""It stays there under its name, and the rule with it."""


@pytest.mark.parametrize(
    "statements",
    [[], LEFT_BEHIND, SET_OF_OTHERS, *DRIFTS.values()],
    ids=["as planned", "left behind", "a rule with a set", *DRIFTS],
)
def test_what_is_undone_is_as_it_was_with_its_counters(pod: Pod, statements: Sequence[str]) -> None:
    """Whatever was in our tables, in our words or in those of others, with what its rules have counted."""
    lists = ["-x", "192.0.2.0/24,198.51.100.7", "-b", "8080,9000-9100"]
    pod.applied(*DUAL, *lists, NATIVE)
    pod.open_listeners()
    assert is_captured(pod)
    nft(pod, *statements)
    before = chains(pod)
    assert any("counter packets 1 " in line for chain in before.values() for line in chain) or not before
    before.pop("ip istio-capture nat-ISTIO_OUTPUT-not-yet-in-its-place", None)
    for others in ([*DUAL, "-b", "8081,9000-9200", "-m", "TPROXY"], [*DUAL, *lists, "-p", "15009"]):
        done = faults.run(pod, *others, NATIVE, fault=faults.refused_in_the_end())
        assert (done.status, "the namespace is as it was" in done.stderr) == (1, True), done.stderr
        assert chains(pod) == before


def chains(pod: Pod) -> dict[str, list[str]]:
    """Each chain and what is in it, with counters, in whatever order the tables list them."""
    found: dict[str, list[str]] = {}
    table = chain = ""
    for line in pod.inside.output("nft", "list", "ruleset").splitlines():
        words = line.split()
        if line.startswith("table "):
            table, chain = " ".join(words[1:3]), ""
        elif line.startswith("\tchain "):
            chain = words[1]
        if line.strip() and line != "}":
            found.setdefault(f"{table} {chain}".strip(), []).append(line)
    return found


@pytest.mark.parametrize("statements", [[], *DRIFTS.values()], ids=["as planned", *DRIFTS])
def test_clean_takes_all_of_it_away(pod: Pod, statements: Sequence[str]) -> None:
    """Whatever became of it, and leaves the namespace as it was to the byte."""
    before = pod.state()
    pod.applied(*DUAL, "-m", "TPROXY", NATIVE)
    nft(pod, *statements)
    assert pod.capture("clean").status == 0
    assert pod.state() == before


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_every_backend_leads_to_every_other(pod: Pod, settings: list[str]) -> None:
    """Ours come over, and nothing of them stays: the same as in a new pod."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    forced = {each: [*settings, f"--force-iptables-binary={each}"] for each in ("nft", "legacy", "native")}
    fresh = {}
    for backend, asked in forced.items():
        pod.applied(*asked)
        fresh[backend] = (pod.saved(backend), pod.saved(backend, version=6))
        pod.applied("--cleanup-only")
    for first, second in itertools.permutations(forced, 2):
        pod.applied(*forced[first])
        pod.applied(*forced[second])
        assert (pod.saved(second), pod.saved(second, version=6)) == fresh[second]
        assert not any("ISTIO" in line for line in pod.saved(first))
        pod.applied("--cleanup-only")


def test_a_rerun_without_the_flag_stays_there(pod: Pod) -> None:
    """The namespace says by itself where ours are."""
    pod.applied(*DUAL, NATIVE)
    done = pod.applied(*DUAL)
    assert "Using the native backend: the namespace holds our chains there" in done.stderr
    assert "nothing was changed" in done.stderr


def hidden(folder: Path, *command: str) -> list[str]:
    """The command where no program of iptables can be found in the usual places."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    places = [place for place in ("/usr/local/sbin", "/usr/sbin", "/sbin") if os.path.isdir(place)]
    hide = "; ".join(f"mount --bind {empty} {os.path.realpath(place)}" for place in places)
    return [
        "unshare",
        "-m",
        "sh",
        "-ec",
        f'mount --make-rprivate /; cp -L /usr/sbin/nft {folder}/nft; {hide}; exec "$@"',
        "sh",
        *command,
    ]


def test_without_iptables_it_is_chosen_and_said(pod: Pod, tmp_path: Path) -> None:
    """Where no program of iptables is installed, and nft is, every command works and says which backend and why."""
    environ = {**pod.environ(), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    why = "nft is installed, and no iptables that can be used"
    held = f"the namespace holds our chains there; {why}"

    def ours(*arguments: str) -> tuple[int, str, str]:
        done = pod.inside.run(*hidden(tmp_path, *pod.command(*arguments)), env=environ)
        return done.returncode, done.stdout, done.stderr

    def told(reason: str, *arguments: str) -> Any:
        """What a command says as JSON; as text it says the reason as well."""
        assert f"the native backend: {reason}" in " ".join(ours(*arguments)[1].split()), arguments
        found = json.loads(ours(*arguments, "--output=json")[1])
        assert (found["backend"], found["backend_reason"]) == ("native", reason), arguments
        return found

    settings = ("-u", str(PROXY), "-o", "22,25")
    assert told(why, "status")["captures"] == []
    question = ("trace", "9.9.9.9:25", "--uid", str(APP), *settings)
    planned = told(why, *question)
    told(why, "escapes", *settings)
    told(why, "explain", *settings)
    assert f"# IPv4, the native backend: {why}\ntable ip istio-capture" in ours("render", *settings)[1]
    assert f"A run here uses the native backend: {why}." in ours("graph", *settings, "--format=mermaid")[1]
    status, _, said = ours(*settings)
    assert status == 0, said
    assert f"Using the native backend: {why}" in said
    assert f"Using the native backend: {held}" in ours(*settings)[2]
    found = told(held, "status")
    assert (found["captures"][0]["backend"], found["only_nft"]) == ("native", True)
    live = told(held, *question, "--live")
    places = [[(step["chain"], step["position"], step["rule"]) for step in its["steps"]] for its in (planned, live)]
    assert places[0] == places[1], "a trace follows the rules that a run puts here"
    told(held, "escapes", "--live", *settings)
    assert ours("verify", *settings)[0] == 0
    found = json.loads(ours("clean", "--dry-run", "--output=json")[1])
    assert (found["backend_reason"], found["dry_run"]) == (held, True)
    status, said, _ = ours("clean")
    assert (status, f"using\n  the native backend: {held}\n" in said) == (0, True), said
    assert pod.inside.output("nft", "list", "ruleset") == ""


def test_nft_that_is_not_there_is_named(pod: Pod, tmp_path: Path) -> None:
    """The flag asks for it, and it is not installed: nothing was touched."""
    before = pod.state()
    command = hidden(tmp_path, "sh", "-c", f'rm {tmp_path}/nft; exec "$@"', "sh", *pod.command(*DUAL, NATIVE))
    done = pod.inside.run(*command, env={**pod.environ(), "PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done.returncode == 1
    assert "nft is not installed, and --native-nftables asks for it" in done.stderr
    assert pod.state() == before


def test_a_dry_run_prints_what_nft_reads(pod: Pod) -> None:
    """It touches nothing, and what it prints, given to nft, is what a run makes."""
    before = pod.state()
    printed = pod.applied(*DUAL, "--redirect-dns", NATIVE, "-n").stdout
    assert pod.state() == before
    nft(pod, *printed.splitlines())
    loaded = pod.meaning()
    assert "nothing was changed" not in pod.applied(*DUAL, "--redirect-dns", NATIVE).stderr  # ::6 is missing
    assert {key: its for key, its in pod.meaning().items() if "istio-capture" in str(key)} == {
        key: its for key, its in loaded.items() if "istio-capture" in str(key)
    }


def test_what_the_kernel_refuses_is_named_by_its_rule(pod: Pod, tmp_path: Path) -> None:
    """The rule, its why and the flag behind it; and the namespace is as it was."""
    before = pod.state()
    real = next(f"{place}/nft" for place in ("/usr/sbin", "/sbin") if os.path.exists(f"{place}/nft"))
    (tmp_path / "nft").write_text(f'#!/bin/sh\nsed "s/ip daddr 192.0.2.0.24/ip daddr 192.0.2.0.99/" | {real} "$@"\n')
    (tmp_path / "nft").chmod(0o755)
    done = pod.capture(*DUAL, NATIVE, "-x", "192.0.2.0/24", path=f"{tmp_path}:{os.environ['PATH']}")
    assert done.status == 1
    assert "the kernel refused the IPv4 rules" in done.stderr
    assert "its why:  an excluded destination" in done.stderr
    assert "asked by: --istio-service-exclude-cidr, flag -x" in done.stderr
    assert pod.state() == before


def test_a_native_table_of_others_is_left_alone(pod: Pod) -> None:
    """Its rules stay to the letter, through a run, a rerun and a removal."""
    theirs = [
        "table inet theirs {",
        "chain out {",
        "type filter hook output priority 0; policy accept;",
        "ip daddr 192.0.2.7 drop",
        "}",
        "}",
    ]
    nft(pod, *theirs)
    before = pod.state()
    pod.applied(*DUAL, NATIVE)
    pod.applied(*DUAL, NATIVE, "-o", "22")
    assert pod.inside.output("nft", "list", "table", "inet", "theirs") in before
    pod.applied("--cleanup-only")
    assert pod.state() == before


def test_many_networks_are_one_rule_that_the_kernel_reads_back(pod: Pod) -> None:
    """5,000 networks and 5,000 ports, applied, found in place, explained, and removed."""
    networks = ",".join(f"10.{at >> 7}.{at % 128 * 2}.0/24" for at in range(5000))
    ports = ",".join(str(port) for port in range(20001, 30001, 2))
    asked = ["-u", str(PROXY), NATIVE, "-x", networks, "-o", ports]
    pod.applied(*asked)
    assert "nothing was changed" in pod.applied(*asked).stderr
    assert len([line for line in pod.saved("native") if line.startswith("-A ISTIO_OUTPUT ")]) == 11
    assert "IPv4 4 chains with 17 rules" in pod.capture("verify", *asked).stdout
    pod.open_listeners()
    assert str(pod.dial(OUTSIDE[4][0], 80, uid=APP, gid=APP)) == "pod:15001"
    assert str(pod.dial("10.0.7.7", 80, uid=APP, gid=APP)) == "pod:15001"
    pod.applied("--cleanup-only")


LISTS = {
    "networks of one length": [f"192.{at >> 7}.{at % 128 * 2}.0/24" for at in range(400)],
    "addresses, some of which adjoin": [*(f"192.0.{at >> 6}.{at % 64 * 2}" for at in range(400)), "192.0.0.1"],
    "networks of every length": [f"192.{at}.{at * 7 % 256}.128/{25 + at % 8}" for at in range(200)],
    "IPv6 networks of one length": [f"2001:db9:{at * 2:x}::/48" for at in range(400)],
    "IPv6 addresses": [f"2001:db9::{at * 2:x}" for at in range(400)],
    "IPv6 networks of every length": [f"2001:{at * 2 + 0x1000:x}::/{33 + at % 90}" for at in range(400)],
}


@pytest.mark.parametrize("more", [(), ("1.1.1.1", "2001:db8::/48")], ids=["alone", "and one more"])
@pytest.mark.parametrize("networks", LISTS.values(), ids=list(LISTS))
def test_a_long_list_is_one_rule_whatever_is_in_it(
    pod: Pod, tmp_path: Path, networks: list[str], more: tuple[str, ...]
) -> None:
    """Looked up by what its networks have in common, or as intervals too: applied, read as planned, and obeyed."""
    (tmp_path / "networks").write_text("\n".join([*networks, *more]))
    settings = [*DUAL, NATIVE, "-x", f"@{tmp_path}/networks"]
    pod.applied(*settings)
    family = "ip6" if ":" in networks[0] else "ip"
    listed = pod.inside.output("nft", "list", "table", family, "istio-capture")
    assert len([line for line in listed.splitlines() if f"{family} daddr" in line and "{" in line]) == 1
    assert "nothing was changed" in pod.applied(*settings).stderr
    assert pod.capture("verify", *settings).status == 0
    nft(pod, "flush ruleset", *listed.splitlines())
    assert pod.inside.output("nft", "list", "table", family, "istio-capture") == listed
    pod.applied(*settings)
    pod.open_listeners()
    inside = networks[7].partition("/")[0]
    for address in ("1.1.1.1", "2001:db8::1", "9.9.9.9", "2001:db8:5::7"):
        arrived = str(pod.dial(address, 80, uid=APP, gid=APP))
        assert arrived == ("ext:80" if more and address in ("1.1.1.1", "2001:db8::1") else "pod:15001")
    told = pod.capture("trace", *settings, f"[{inside}]:80" if ":" in inside else f"{inside}:80").stdout
    assert "it leaves the pod" in told
