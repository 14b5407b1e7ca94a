"""Removing: all that is ours, nothing else, no trace, and a report of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.test_convergence import NAMESERVERS, SETTINGS

if TYPE_CHECKING:
    from tests.rig import Pod

MOST = ["-u", "1337", "-m", "TPROXY", "--dual-stack", "--redirect-dns", "--drop-invalid", "--udp", "443=reject"]


def cleaned(pod: Pod) -> dict[str, list[str]]:
    """What `capture clean` says it did, as text by heading."""
    done = pod.inside.run(*pod.command("clean", "--output", "json"), env=pod.environ())
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return {
        name: [f"{it['where']}: {it['what']} {it['why']}" for it in things]
        for name, things in told.items()
        if isinstance(things, list)
    }


@pytest.mark.parametrize("number", range(0, len(SETTINGS), 3))
def test_nothing_is_left_of_tables_that_were_made_for_us(pod: Pod, number: int) -> None:
    """On nft, from an empty namespace through two settings and back: tables and built-in chains are gone as well.

    And again beside rules and chains of others: these stay, with the built-in chains that stood there, and no others.
    """
    pod.inside.set_resolv_conf(NAMESERVERS)
    for planted in (
        [],
        ["iptables-nft", "-t", "mangle", "-N", "OTHERS"],
        ["iptables-nft", "-t", "raw", "-A", "OUTPUT", "-p", "tcp", "-j", "LOG"],
        ["nft", "add table ip6 raw; add set ip6 raw others { type ipv6_addr; }"],
    ):
        if planted:
            pod.inside.output(*planted)
        before = pod.state()
        pod.applied(*SETTINGS[number])
        pod.applied(*SETTINGS[number])
        pod.applied(*SETTINGS[(number + 5) % len(SETTINGS)])
        cleaned(pod)
        assert pod.state() == before, planted
        assert cleaned(pod)["removed"] == []


OUTPUT_OF_NAT = "chain ip nat OUTPUT { type nat hook output priority -100; policy accept; }"
MEANS_NOTHING = {
    "a table": ["add table ip nat"],
    "a built-in chain": ["add table ip nat", f"add {OUTPUT_OF_NAT}"],
}
MEANS_SOMETHING = {
    "a policy": ["add table ip nat", f"add {OUTPUT_OF_NAT.replace('accept', 'drop')}"],
    "a chain of their own": ["add table ip nat", f"add {OUTPUT_OF_NAT}", "add chain ip nat theirs"],
    "another base chain": [
        "add table ip nat",
        f"add {OUTPUT_OF_NAT.replace('OUTPUT', 'early').replace('-100', '-110')}",
    ],
    "a set": ["add table ip nat", "add set ip nat theirs { type ipv4_addr; }"],
    "a counter": ["add table ip nat", "add counter ip nat theirs"],
    "a dormant table": ["add table ip nat { flags dormant; }"],
}


def test_whatever_was_applied_natively_a_removal_leaves_the_namespace_as_it_was(pod: Pod) -> None:
    """27 times on and off, beside rules of others: each setting alone, and with another in between, to the byte."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    pod.inside.output("nft", "add table inet theirs; add chain inet theirs in { type filter hook input priority 0; }")
    pod.inside.output("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT")
    before = pod.state()
    for number in range(27):
        pod.applied(*SETTINGS[number % len(SETTINGS)], "--native-nftables")
        if number >= len(SETTINGS):
            pod.applied(*SETTINGS[(number + 5) % len(SETTINGS)])
        assert pod.state() != before
        cleaned(pod)
        assert pod.state() == before, SETTINGS[number % len(SETTINGS)]
        assert cleaned(pod)["removed"] == []


@pytest.mark.parametrize("planted", MEANS_NOTHING.values(), ids=list(MEANS_NOTHING))
def test_a_table_in_which_nothing_is_goes(pod: Pod, planted: list[str]) -> None:
    """Whoever made it, and whether anything of ours was in it: no rule, no policy, nothing that others could miss."""
    before = pod.state()
    for applied in (True, False):
        pod.inside.output("nft", "-f", "-", text="\n".join([*planted, ""]))
        if applied:
            pod.applied("-u", "1337")
        assert "nf_tables IPv4: the table nat" in "".join(cleaned(pod)["removed"])
        assert pod.state() == before


@pytest.mark.parametrize("planted", MEANS_SOMETHING.values(), ids=list(MEANS_SOMETHING))
def test_a_table_in_which_something_of_others_is_stays(pod: Pod, planted: list[str]) -> None:
    """With all of it, and nothing that was made for us."""
    pod.inside.output("nft", "-f", "-", text="\n".join([*planted, ""]))
    before = pod.state()
    pod.capture("-u", "1337")
    assert pod.state() != before
    cleaned(pod)
    assert pod.state() == before
    cleaned(pod)
    assert pod.state() == before


def test_the_notes_of_earlier_versions_go(pod: Pod) -> None:
    """Empty chains of exactly those names, by a run and by a removal; one that is called nearly so stays."""
    for command in ([], ["clean"]):
        for name in ("ISTIO_FOUND", "ISTIO_FOUND_NONE", "ISTIO_FOUND_OP"):
            pod.inside.output("iptables-nft", "-t", "raw", "-N", name)
        if command:
            pod.inside.output("iptables-nft", "-t", "raw", "-N", "ISTIO_FOUND_OK")
        assert pod.capture("verify", "-u", "1337").status == 4
        pod.applied(*command, "-u", "1337")
        assert [line for line in pod.saved() if "FOUND" in line] == ([":ISTIO_FOUND_OK -"] if command else [])


def test_the_report_names_all_that_went_and_all_that_stays(pod: Pod, backend: str) -> None:
    """Chains with their rules, jumps, tables, ip rules, routes, `::6`; and why the rest is left alone."""
    pod.inside.set_resolv_conf(NAMESERVERS)
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT")
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-N", "KUMA_LEFT")
    if backend == "nft":
        # iptables -N would make the built-in chains as well.
        pod.inside.output("nft", "add table ip mangle; add chain ip mangle others")
    pod.inside.ip("rule", "add", "fwmark", "1337", "lookup", "133", "priority", "99")
    pod.applied(*MOST, "--take-over", f"--force-iptables-binary={backend}")
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-N", "KUMA_NEW")
    told = cleaned(pod)
    removed, left = "\n".join(told["removed"]), "\n".join(told["left"])
    assert f"iptables-{backend} nat: the chains ISTIO_IN" in removed
    assert f"ip6tables-{backend} mangle: 3 jumps to them" in removed
    assert "routing: ip route local default dev lo table 133" in removed
    assert "routing: ip -6 rule 32765: fwmark 0x539 lookup 133" in removed
    assert "lo: ::6/128" in removed
    if backend == "nft":
        assert "nf_tables IPv6: the table nat, in which nothing else was" in removed
        assert "nf_tables IPv4 mangle: the built-in chains PREROUTING, OUTPUT, made for our rules" in removed
    else:
        assert "iptables-legacy raw: the empty table the kernel cannot take a legacy table back" in left
    assert f"iptables-{backend} nat: 1 rule of others" in left
    assert "KUMA_NEW of Kuma" in left
    assert "ip rule 99: fwmark 0x539 lookup 133 it does not carry our signature" in left
    assert told["remaining"] == []


def test_what_reads_like_ours_is_left_alone(pod: Pod, backend: str) -> None:
    """The same ip rule, route and address, put there by somebody else before us; the same rule in another chain."""
    pod.inside.ip("rule", "add", "fwmark", "1337", "lookup", "133", "priority", "32765")
    pod.inside.ip("route", "add", "local", "default", "dev", "lo", "table", "133")
    pod.inside.ip("-6", "addr", "add", "::6/128", "dev", "lo")
    for table in ("nat", "mangle", "raw", "filter"):
        pod.inside.output(f"iptables-{backend}", "-t", table, "-A", "OUTPUT", "-p", "tcp", "-j", "RETURN")
        pod.inside.output(f"ip6tables-{backend}", "-t", table, "-A", "OUTPUT", "-p", "tcp", "-j", "RETURN")
    pod.inside.output(
        f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001"
    )
    pod.inside.set_resolv_conf(NAMESERVERS)
    before = pod.state()
    pod.applied(*MOST, f"--force-iptables-binary={backend}")
    told = cleaned(pod)
    assert pod.state() == before
    assert "lo: ::6/128 it does not carry our signature, protocol 133" in told["left"]


def test_both_backends_are_cleaned(pod: Pod) -> None:
    """What the reference left in one, and we put into the other."""
    text = pod.capture("render", "-u", "1337", "--family", "ipv4").stdout
    pod.inside.output("iptables-legacy-restore", "--noflush", text=text)
    pod.inside.output("iptables-nft-restore", "--noflush", text=text)
    told = "\n".join(cleaned(pod)["removed"])
    assert "iptables-nft nat: the chains" in told
    assert "iptables-legacy nat: the chains" in told
    assert not any("ISTIO" in line for backend in ("nft", "legacy") for line in pod.saved(backend))


def test_a_chain_that_others_use_is_kept_empty(pod: Pod, backend: str) -> None:
    """All else goes; their rule is named with the command that deletes it, in the answer and in the log."""
    pod.applied("-u", "1337", f"--force-iptables-binary={backend}")
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-N", "OTHERS")
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-A", "OTHERS", "-d", "192.0.2.7", "-j", "ISTIO_REDIRECT")
    for command in (["clean"], ["--cleanup-only"]):
        done = pod.inside.run(*pod.command(*command), env=pod.environ())
        assert done.returncode == 0
        told = done.stdout + done.stderr
        assert (
            "the chain ISTIO_REDIRECT, empty (the rule `-d 192.0.2.7/32 -j ISTIO_REDIRECT` of others in OTHERS" in told
        )
        assert f"`iptables-{backend} -t nat -D OTHERS -d 192.0.2.7/32 -j ISTIO_REDIRECT`" in told
        assert [line for line in pod.saved(backend) if "ISTIO" in line] == [
            ":ISTIO_REDIRECT -",
            "-A OTHERS -d 192.0.2.7/32 -j ISTIO_REDIRECT",
        ]


def test_a_dry_run_of_a_removal_touches_nothing(pod: Pod, backend: str) -> None:
    """It prints what iptables-restore would be given."""
    pod.applied("-u", "1337", f"--force-iptables-binary={backend}")
    before = pod.state()
    done = pod.inside.run(*pod.command("clean", "-n"), env=pod.environ())
    assert "-D OUTPUT -p tcp -j ISTIO_OUTPUT" in done.stdout
    assert pod.state() == before


def test_an_interrupted_removal_is_finished_by_the_next(pod: Pod) -> None:
    """Killed behind the rules and before the tables: nothing of anybody's is in them, so they go as well."""
    before = pod.state()
    pod.applied("-u", "1337")
    restored = pod.capture("-n", "--cleanup-only").stdout
    pod.inside.output("iptables-nft-restore", "--noflush", text=restored)
    assert pod.state() != before
    assert cleaned(pod)["removed"] == ["nf_tables IPv4: the table nat, in which nothing else was "]
    assert pod.state() == before
    # … and an apply instead makes it as if there had been none.
    pod.applied("-u", "1337")
    fresh = pod.meaning()
    pod.inside.output("iptables-nft-restore", "--noflush", text=restored)
    pod.applied("-u", "1337")
    assert pod.meaning() == fresh
