"""Beside the rules of real tools: no run of ours touches one of theirs, whether it works, fails or removes."""

from __future__ import annotations

import os
import random
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from capture.iptables.iptables import Iptables, may_leave_out
from capture.iptables.nft_words import left_out, text_of
from capture.netlink import nftables
from rules.iptables import reading
from rules.iptables.quoting import tokens
from rules.netfilter.matches import Foreign
from rules.netfilter.values import Family
from tests.conftest import every_backend
from tests.rig import Namespace, entered, neighbours
from tests.rig.chance import ALL, SEED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig import Pod

OTHER_MESHES = ("ambient", "consul", "linkerd")
"""Beside these a run is refused."""
SETTINGS = ["--ipv6=on", "-u", "1337"]
OTHER = ["--ipv6=on", "-u", "1338", "-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "--drop-invalid"]
NATIVE_ONLY = {name for name in neighbours.NAMES if not (neighbours.CASES / name / "rules.v4").exists()}
NATIVELY = neighbours.NAMES if ALL else random.Random(SEED).sample(neighbours.NAMES, len(neighbours.NAMES) // 3)


def others(pod: Pod) -> list[str]:
    return neighbours.rules_in(pod.inside)


@every_backend
@pytest.mark.parametrize("case", neighbours.NAMES)
def test_the_rules_of_others_are_the_same_bytes(pod: Pod, backend: str, case: str, tmp_path: Path) -> None:
    """Whatever a run does in the tables that it shares with them or beside them, also where iptables-save cannot print
    these."""
    if backend == "legacy" and case in NATIVE_ONLY:
        pytest.skip("rules for nft only")
    if backend == "native" and case not in NATIVELY:
        pytest.skip("a third of the cases is drawn for our own tables: CAPTURE_TESTS=all has them all")
    beside = neighbours.prepare(pod.inside, case, "nft" if backend == "native" else backend)
    before = others(pod)
    assert before
    forced = f"--force-iptables-binary={backend}"
    refusing = tmp_path / ("nft" if backend == "native" else f"iptables-{backend}-restore")
    refusing.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    refusing.chmod(0o755)
    expected = 1 if case in OTHER_MESHES else 0
    for settings in (SETTINGS, SETTINGS, OTHER, OTHER):
        done = pod.capture(*settings, *beside, forced)
        assert done.status == expected, done.stderr
        assert others(pod) == before, settings
    assert expected or "already in place" in done.stderr
    ours = neighbours.rules_in(pod.inside, ours=True)
    failed = pod.capture(*SETTINGS, *beside, forced, path=f"{tmp_path}:{os.environ['PATH']}")
    assert failed.status == 1
    assert expected or "the namespace is as it was" in failed.stderr
    assert neighbours.rules_in(pod.inside, ours=True) == ours
    removed = pod.capture("clean")
    assert removed.status == 0, removed.stderr
    assert others(pod) == before
    assert pod.capture("status").status == 3


LEADING = [
    "insert rule ip nat OUTPUT tcp dport { 22, 80 } jump ISTIO_OUTPUT",
    "add rule ip nat OUTPUT ct state new jump ISTIO_OUTPUT",
    "insert rule ip nat PREROUTING meta skuid 5 jump ISTIO_INBOUND",
    "insert rule ip nat ISTIO_OUTPUT tcp dport { 22, 80 } return",
    "insert rule ip nat ISTIO_OUTPUT ip daddr 192.0.2.1-192.0.2.9 return",
    "insert rule ip nat ISTIO_REDIRECT tcp dport 9 dnat to 192.0.2.1",
    "add rule ip nat ISTIO_INBOUND meta skuid 5 return",
]


@pytest.mark.parametrize("native", LEADING)
def test_native_rules_among_ours_are_seen_and_removed(pod: Pod, native: str) -> None:
    """None is taken for what iptables-save makes of it, and none stops a run or a removal."""
    pod.applied()
    pod.inside.output("nft", native)
    assert pod.capture("verify").status == 4
    pod.applied()
    assert pod.capture("verify").status == 0
    pod.inside.output("nft", native)
    assert pod.applied("clean").stdout.endswith("nothing of ours is left\n")
    assert pod.inside.output("nft", "list", "ruleset") == ""


def test_a_failed_run_puts_native_rules_back(pod: Pod, tmp_path: Path) -> None:
    """With their sets, maps and comments, and between the rules where they stood."""
    pod.applied("--ipv6=on")
    for rule in (
        "add rule ip6 nat OUTPUT meta skuid 5 jump ISTIO_OUTPUT",
        'insert rule ip6 nat OUTPUT tcp dport { 22, 80-90 } jump ISTIO_OUTPUT comment "some ports"',
        "insert rule ip6 nat ISTIO_OUTPUT ct state { new, related } meta skuid != 7 tcp dport 9 dnat to [2001:db8::]:9",
        "insert rule ip6 nat ISTIO_OUTPUT tcp dport vmap { 7 : return, 9 : jump ISTIO_REDIRECT }",
        'add rule ip6 nat ISTIO_OUTPUT ip6 daddr 2001:db8::1-2001:db8::9 counter log prefix "x y" return',
        "add set ip6 nat named { type inet_service; elements = { 5 } ; }",
        "insert rule ip6 nat ISTIO_INBOUND tcp dport @named limit rate 5/second accept",
    ):
        pod.inside.output("nft", rule)
    counters = re.compile(r"counter packets \d+ bytes \d+")
    before = counters.sub("counter", pod.inside.output("nft", "list", "table", "ip6", "nat"))
    refusing = tmp_path / "iptables-nft-restore"
    refusing.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    refusing.chmod(0o755)
    failed = pod.capture("--ipv6=on", "-u", "1338", path=f"{tmp_path}:{os.environ['PATH']}")
    assert (failed.status, "the namespace is as it was" in failed.stderr) == (1, True), failed.stderr
    assert counters.sub("counter", pod.inside.output("nft", "list", "table", "ip6", "nat")) == before


LEADS_TO_OURS = {
    "a base chain": "add rule ip nat early ip daddr 192.0.2.1 jump {chain}",
    "goto": "add rule ip nat theirs ct state new goto {chain}",
    "a jump that iptables shows": "add rule ip nat theirs counter jump {chain}",
    "a verdict map": "add rule ip nat OUTPUT tcp dport vmap {{ 80 : jump {chain}, 81 : accept }}",
    "a map with a name": "add rule ip nat theirs tcp dport vmap @named; "
    "add element ip nat named {{ 80 : goto {chain} }}",
    "a map that no rule asks": "add element ip nat named {{ 80 : goto {chain} }}",
}


@pytest.mark.parametrize("chain", ["ISTIO_OUTPUT", "ISTIO_REDIRECT", "ISTIO_OUTPUT_DNS"])
@pytest.mark.parametrize("native", LEADS_TO_OURS.values(), ids=list(LEADS_TO_OURS))
def test_a_chain_that_others_lead_to_stays_empty(pod: Pod, native: str, chain: str) -> None:
    """The rest goes, nothing is captured, and what is named with its command lets it go. A run fills it again."""
    dns = ["--redirect-dns", "--capture-all-dns"]
    pod.applied(*dns)
    make = "add chain ip nat early { type nat hook output priority -110; }; add chain ip nat theirs; "
    make += "add map ip nat named { type inet_service : verdict; }; "
    pod.inside.output("nft", make + native.format(chain=chain))
    before = [line for line in others(pod) if "ISTIO" not in line]
    for settings in (dns, []):
        pod.applied(*settings)
        assert "a rerun removes it" not in pod.capture("verify", *settings).stdout
    pod.open_listeners()
    for _ in range(2):
        told = pod.applied("clean").stdout
        assert f"iptables-nft nat: the chain {chain}, empty" in told
        assert pod.capture("status").status == 3
        assert str(pod.dial("9.9.9.9", 80)) == "ext:80"
        assert [line for line in others(pod) if "ISTIO" not in line] == before
        there = pod.inside.output("nft", "list", "table", "ip", "nat")
        assert [line.split()[1] for line in there.split("\n") if line.startswith("\tchain ISTIO")] == [chain]
    pod.applied(*dns)
    assert str(pod.dial("9.9.9.9", 79)) == "pod:15001"
    told = pod.applied("clean").stdout
    if "a map of others leads there" in told:
        pod.inside.output("nft", "delete element ip nat named { 80 }")
    for command in re.findall("to remove it: `(.*?)`", told):
        pod.inside.output(*command.split())
    if "named" in native:
        pod.inside.output("nft", "flush map ip nat named")
    pod.applied("clean")
    assert "ISTIO" not in pod.inside.output("nft", "list", "ruleset")


INTO_OURS = {
    "a map in OUTPUT": "add rule ip nat OUTPUT tcp dport vmap { 80 : jump ISTIO_REDIRECT }",
    "a map that goes there": "add rule ip nat OUTPUT tcp dport vmap { 80 : goto ISTIO_OUTPUT }",
    "a chain of theirs": "add rule ip nat theirs tcp dport 80 jump ISTIO_REDIRECT; add rule ip nat OUTPUT jump theirs",
    "a base chain": "add rule ip nat early tcp dport 80 jump ISTIO_OUTPUT",
    "a base chain, to the end": "add rule ip nat early tcp dport 80 jump ISTIO_REDIRECT",
    "a base chain, through theirs": "add rule ip nat theirs goto ISTIO_OUTPUT; add rule ip nat early jump theirs",
}


@pytest.mark.parametrize("native", INTO_OURS.values(), ids=list(INTO_OURS))
def test_beside_what_leads_into_a_chain_that_was_empty_one_run_is_enough(pod: Pod, native: str) -> None:
    """The chain is taken for what it will be: a rerun changes nothing, verify promises nothing of it, and calls no rule
    of a chain of ours one of others."""
    for chain in ("ISTIO_OUTPUT", "ISTIO_REDIRECT"):
        pod.inside.output("iptables-nft", "-t", "nat", "-N", chain)
    pod.inside.output("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-p", "udp", "-j", "ACCEPT")
    made = "add chain ip nat early { type nat hook output priority -110; }; add chain ip nat theirs; "
    pod.inside.output("nft", made + native)
    pod.applied()
    before = pod.state()
    first = pod.capture("verify").stdout
    assert "a rerun puts" not in first
    pod.applied()
    assert pod.state() == before
    assert pod.capture("verify").stdout == first
    of_others = [line for line in first.splitlines() if "the rule of others" in line]
    assert not [line for line in of_others if re.search(r"nat ISTIO_\w+ \d+:", line)]
    pod.open_listeners()
    assert [str(pod.dial("9.9.9.9", port)) for port in (80, 443, 8080)] == ["pod:15001"] * 3


def test_a_chain_that_a_chain_of_others_leads_to_stays_empty(pod: Pod, backend: str) -> None:
    """The same where iptables made it, in both backends; a run without that chain says nothing of it."""
    forced = f"--force-iptables-binary={backend}"
    pod.applied("--redirect-dns", "--capture-all-dns", forced)
    leading = ["-t", "nat", "-A", "THEIRS", "-m", "comment", "--comment", "a b", "-j", "ISTIO_OUTPUT_DNS"]
    for words in (["-t", "nat", "-N", "THEIRS"], leading):
        pod.inside.output(f"iptables-{backend}", *words)
    pod.applied(forced)
    assert pod.capture("verify", forced).status == 0
    told = pod.applied("clean").stdout
    assert told.endswith("nothing of ours is left but those empty chains\n")
    (command,) = re.findall("to remove it: `(.*?)`", told)
    pod.inside.output("sh", "-c", command)
    pod.applied("clean")
    assert not [line for line in pod.saved(backend) if "ISTIO" in line]


def test_rules_that_only_another_iptables_knows(pod: Pod, backend: str, tmp_path: Path) -> None:
    """Those of others stay, wherever they stand; jumps to ours go, and what leads to a chain is named by its place."""
    forced = f"--force-iptables-binary={backend}"
    pod.applied(forced)
    string = ["-m", "string", "--string", "abc", "--algo", "bm"]
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-N", "OTHERS")
    for words in (
        ["-I", "OUTPUT", "-p", "tcp", *string, "-j", "ACCEPT"],
        ["-I", "OUTPUT", "-p", "udp", *string, "-j", "ISTIO_OUTPUT"],
        ["-A", "PREROUTING", *string, "-j", "RETURN"],
        ["-A", "ISTIO_OUTPUT", *string, "-j", "RETURN"],
        ["-A", "OTHERS", "-j", "RETURN"],
        ["-A", "OTHERS", *string, "-j", "ISTIO_REDIRECT"],
    ):
        pod.inside.output(f"iptables-{backend}", "-t", "nat", *words)
    before = [line for line in others(pod) if "ISTIO" not in line]
    older = tmp_path / f"iptables-{backend}-save"
    real = shutil.which(older.name)
    older.write_text(f"#!/bin/sh\n{real} \"$@\" | sed 's/-m string .* bm/-m string  [unsupported revision]/'\n")
    older.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert pod.capture("verify", forced, path=path).status == 4
    for command in ([forced], [forced, "-u", "1338"], ["clean"]):
        done = pod.capture(*command, path=path)
        assert done.status == 0, done.stderr
        assert [line for line in others(pod) if "ISTIO" not in line] == before
    (command,) = re.findall("to remove it: `(.*?)`", done.stdout)
    pod.inside.output(*command.split())
    pod.capture("clean", path=path)
    assert not [line for line in pod.saved(backend) if "ISTIO" in line]


def test_a_chain_of_others_may_have_the_name_of_a_built_in_one(pod: Pod) -> None:
    """It is theirs, and what it leads to stays, empty. iptables-nft cannot make its own there, so legacy takes over."""
    theirs = "add table ip nat; add chain ip nat OUTPUT { type nat hook output priority -110; }; "
    theirs += "add rule ip nat OUTPUT tcp dport 9 redirect to :10"
    ours = "; add chain ip nat ISTIO_OUTPUT; add rule ip nat ISTIO_OUTPUT tcp dport 80 redirect to :15001; "
    ours += "add rule ip nat OUTPUT ip daddr 9.9.9.9 jump ISTIO_OUTPUT"
    pod.inside.output("nft", theirs + ours)
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    (command,) = re.findall("to remove it: `(.*?)`", pod.applied("clean").stdout)
    assert str(pod.dial("9.9.9.9", 80)) == "ext:80"
    pod.inside.output(*command.split())
    pod.applied("clean")
    assert [line for line in others(pod) if "ISTIO" in line] == []
    before = others(pod)
    pod.applied()
    assert str(pod.dial("9.9.9.9", 81)) == "pod:15001"
    assert others(pod) == before
    forced = pod.capture("--force-iptables-binary=nft", "-u", "1338")
    assert (forced.status, "a chain of others is called OUTPUT" in forced.stderr) == (1, True), forced.stderr
    pod.applied("clean")
    assert others(pod) == before


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace("words") as made:
        yield made


WORDS = [
    "-s 10.0.0.0/8 -d 192.0.2.1/32 -i eth0 -o lo -p tcp -m tcp --sport 5 --dport 6 -j ISTIO_OUTPUT",
    "! -s 10.0.0.0/9 ! -d 192.0.2.0/30 -o veth+ -p udp -m udp ! --dport 53 -g ISTIO_OUTPUT",
    "! -p tcp -m conntrack ! --ctstate INVALID,NEW -j RETURN",
    "-p tcp -m tcp --dport 80:90 -m tcp ! --sport 5:7 -j DROP",
    '-m comment --comment "caf\udce9 \\"x\\" \\\'y\\\' \x1c" -m mark --mark 0x5/0xf -j ACCEPT',
    "-m mark ! --mark 0x5 -p icmp",
]


@pytest.mark.parametrize("text", WORDS)
def test_what_nf_tables_holds_reads_as_iptables_wrote_it(namespace: Namespace, text: str) -> None:
    """Where iptables-save cannot print a table, its own rules are known all the same."""
    program = "*mangle\n:ISTIO_OUTPUT - [0:0]\n-F FORWARD\n-A FORWARD " + text + "\nCOMMIT\n"
    namespace.output("iptables-nft-restore", "--noflush", text=program)
    with entered(namespace):
        (rule,) = nftables.nft_rules(Family.V4)["mangle", "FORWARD"]
        (saved,) = Iptables("nft", Family.V4).save().ruleset.table("mangle").chains()["FORWARD"]
    told = reading.rule(tokens(reading.unmarked(text_of(rule, Family.V4))), {"ISTIO_OUTPUT"})
    assert told == saved
    assert left_out(rule, Family.V4) == ""


@pytest.mark.parametrize("case", sorted(set(neighbours.NAMES) - NATIVE_ONLY))
def test_of_iptables_own_rules_nothing_is_missed(namespace: Namespace, case: str) -> None:
    """They are printed whole, so none of them may be taken for a native one."""
    for name in ("rules.v4", "rules.v6"):
        file = neighbours.CASES / case / name
        if file.exists():
            program = "iptables-nft-restore" if name == "rules.v4" else "ip6tables-nft-restore"
            namespace.output(program, text=neighbours.text_of(file))
    with entered(namespace):
        for family in Family:
            for rules in nftables.nft_rules(family).values():
                assert [left_out(rule, family) for rule in rules] == [""] * len(rules)


@pytest.mark.parametrize(
    "native", ["tcp dport { 1, 2 }", "ip daddr 10.0.0.1-10.0.0.9", "ip daddr < 10.0.0.9", "ip ttl > 4"]
)
def test_what_iptables_leaves_out_is_seen(namespace: Namespace, native: str) -> None:
    """Sets, and all that is compared by size."""
    make = "add table ip raw; add chain ip raw theirs; flush chain ip raw theirs"
    namespace.output("nft", f"{make}; add rule ip raw theirs {native} accept")
    with entered(namespace):
        (rule,) = nftables.nft_rules(Family.V4)["raw", "theirs"]
        assert may_leave_out(rule[nftables.NFTA_RULE_EXPRESSIONS])
        assert left_out(rule, Family.V4)
        (saved,) = Iptables("nft", Family.V4).save().ruleset.table("raw").chains()["theirs"]
    assert any(isinstance(match, Foreign) and match.text.startswith("[") for match in saved.matches)
