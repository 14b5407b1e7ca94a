"""Programs, permissions, routes and company of a run, on a kernel in memory: what is found, and what it means."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from capture.errors import NamespaceUnusable
from capture.host.place import Process
from capture.iptables.iptables import LEGACY, NFT
from capture.kernel import locks
from capture.kernel.conntrack import ENTRIES, MOST_ENTRIES
from capture.kernel.process import LEGACY_TABLES, Completed
from capture.kernel.seam import standing_in
from capture.preflight import around, company, permissions, programs, routes
from capture.preflight.facts import Fact, Here
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from capture.settings.declared import Settings
from rules.netfilter.values import Family
from tests.rig.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.preflight.modules import Verdict


@pytest.fixture
def kernel() -> Iterator[Memory]:
    with standing_in(Memory("127.0.0.1/8", "10.244.0.5/24")) as memory:
        assert isinstance(memory, Memory)
        yield memory


def here(*flags: str) -> Here:
    return Here(Settings.load(flags, {}), {}, rehearse=False)


def named(facts: Iterable[Fact], name: str) -> Fact:
    (fact,) = (each for each in facts if each.name == name)
    return fact


def judged(facts: Iterable[Fact]) -> dict[str, Verdict]:
    return {fact.name: fact.verdict for fact in facts}


# --- programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "verdict", "text"),
    [
        ("iptables-restore v1.8.9 (nf_tables)", OK, "1.8.9"),
        ("iptables-restore v1.8.7 (nf_tables)", OK, "1.8.7"),
        ("iptables-restore v1.8.10 (nf_tables)", OK, "1.8.10"),
        ("iptables-restore v1.8.6 (nf_tables)", WARN, "1.8.6"),
        ("iptables-restore v1.8.9 (legacy)", MISSING, "1.8.9, not nf_tables"),
        ("version 1", UNKNOWN, "version not known"),
        ("", UNKNOWN, "version not known"),
        (OSError(errno.ENOEXEC, "Exec format error"), MISSING, "cannot be run (Exec format error)"),
    ],
)
def test_a_program_of_iptables_is_judged_by_what_it_says_of_itself(
    kernel: Memory, said: str | OSError, verdict: Verdict, text: str
) -> None:
    """Its version, and that it is of the backend whose name it has."""

    def answer(_: str) -> Completed:
        if isinstance(said, OSError):
            raise said
        return Completed(0, said, "")

    kernel.answers = answer
    found = programs.version_of("/sbin/iptables-nft-restore", NFT)
    assert found[:2] == (verdict, text)
    assert bool(found[2]) == (verdict != OK)


@pytest.mark.parametrize(
    ("said", "verdict", "text"),
    [
        ("nftables v1.0.6 (Lester Gooch #5)", OK, "1.0.6: /sbin/nft"),
        ("nftables v1.0.5 (x)", WARN, "1.0.5: /sbin/nft"),
        ("nothing", UNKNOWN, "version not known"),
        (None, MISSING, "nft not found"),
    ],
)
def test_nft_is_needed_where_it_writes_our_tables(
    kernel: Memory, said: str | None, verdict: Verdict, text: str
) -> None:
    """And looked for in any case."""
    kernel.answers = lambda _: Completed(0, said or "", "")
    kernel.installed |= {"nft"} if said is not None else set()
    for flags in ((), ("--native-nftables",)) if said is not None else ((),):
        fact = programs.nft(here("-u", "1337", *flags))
        assert (fact.verdict, fact.value, fact.needed) == (verdict, text, bool(flags))


def test_programs_are_needed_where_a_run_reads_or_writes_with_them(kernel: Memory) -> None:
    """Of IPv4 the backend's own; of the other backend, what holds tables; of IPv6, where it is captured."""

    def needed(*flags: str) -> set[str]:
        return {fact.name for fact in programs.programs(here("-u", "1337", *flags)) if fact.needed and fact.name != NFT}

    assert needed() == {"iptables-nft"}
    assert needed("--force-iptables-binary=legacy") == {"iptables-legacy"}
    assert needed("--ipv6=on") == {"iptables-nft", "ip6tables-nft"}
    assert needed("--dry-run") == set()
    kernel.load(LEGACY, Family.V4, "*nat\n-A OUTPUT -p icmp -j ACCEPT\nCOMMIT\n")
    assert needed("--force-iptables-binary=nft") == {"iptables-nft", "iptables-legacy"}
    kernel.installed.discard("ip6tables-nft-save")
    fact = named(programs.programs(here("-u", "1337", "--ipv6=on")), "ip6tables-nft")
    assert (fact.verdict, fact.value) == (MISSING, "ip6tables-nft-save not found")


# --- permissions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        ((), {"CAP_NET_ADMIN"}),
        (("--force-iptables-binary=legacy",), {"CAP_NET_ADMIN", "CAP_NET_RAW"}),
        (("--dry-run",), set()),
        (("--skip-rule-apply",), set()),
        (("--cleanup-only", "--skip-rule-apply"), {"CAP_NET_ADMIN"}),
    ],
)
@pytest.mark.parametrize("is_effective", [True, False, None])
def test_capabilities_are_needed_for_what_a_run_does(
    kernel: Memory, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], needed: set[str], is_effective: bool | None
) -> None:
    """Each is effective, not effective, or not to be seen."""
    monkeypatch.setattr(permissions, "effective", lambda _: is_effective)
    found = [fact for fact in permissions.permissions(here(*flags)) if fact.name.startswith("CAP_")]
    assert {fact.name for fact in found if fact.needed} == needed
    assert {fact.verdict for fact in found} == {{True: OK, False: MISSING, None: UNKNOWN}[is_effective]}
    assert all(bool(fact.remedy) == (not is_effective) for fact in found)
    assert kernel.acts == []


def test_legacy_tables_of_ours_need_raw_sockets_whichever_backend_is_written(kernel: Memory) -> None:
    """They are read; those of others (security, say) are not."""

    def needs_raw() -> bool:
        found = permissions.permissions(here("--force-iptables-binary=nft"))
        return named(found, "CAP_NET_RAW").needed

    assert not needs_raw()
    kernel.load(LEGACY, Family.V4, "*nat\nCOMMIT\n")
    assert needs_raw()


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("backend", [NFT, LEGACY])
def test_who_may_not_list_legacy_tables_cannot_write_them(kernel: Memory, hidden: bool, backend: str) -> None:
    """It is told in any case, and needed by that backend."""
    where = here("--force-iptables-binary=nft")
    where.choice = None
    where.settings = Settings.load([f"--force-iptables-binary={backend}"], {})
    kernel.unreadable = {LEGACY_TABLES[Family.V4]} if hidden else set()
    fact = permissions.uid(where)
    assert (fact.verdict, fact.needed) == (MISSING if hidden else OK, backend == LEGACY)
    assert (f"only uid 0 may read {LEGACY_TABLES[Family.V4]}" in fact.value) == hidden


@pytest.mark.parametrize(
    ("owned", "verdict", "needed"), [(None, UNKNOWN, True), (True, OK, True), (False, MISSING, True)]
)
@pytest.mark.usefixtures("kernel")
def test_owners_are_known_to_the_user_namespace_that_owns_the_network(
    monkeypatch: pytest.MonkeyPatch, owned: bool | None, verdict: Verdict, needed: bool
) -> None:
    """And users that are not mapped are named, with the flag that names them."""
    monkeypatch.setattr(permissions, "owner_of_the_namespace", lambda: owned)
    monkeypatch.setattr(permissions, "unmapped", lambda uids, _: ["uid 7"] if 7 in uids else [])
    fact = named(permissions.user_namespace(here("-u", "1337")), "owner of the namespace")
    assert (fact.verdict, fact.needed) == (verdict, needed)
    assert named(permissions.user_namespace(here("-u", "1337")), "user namespace").verdict == OK
    fact = named(permissions.user_namespace(here("-u", "7")), "user namespace")
    assert fact.verdict == MISSING
    assert "but not uid 7" in fact.value
    assert "-u" in fact.remedy or "--proxy-uid" in fact.remedy


def test_a_kernel_that_refuses_its_tables_is_not_ours(kernel: Memory) -> None:
    """Anything else that it says is no question of permission."""
    assert permissions.writable_namespace(here()).verdict == OK
    where = here()
    where.nft_error = PermissionError(errno.EPERM, "")
    assert permissions.writable_namespace(where).verdict == MISSING
    where.nft_error = OSError(errno.EINVAL, "")
    assert permissions.writable_namespace(where).verdict == OK
    assert kernel.acts == []


# --- routes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "flags", "shown", "verdict"),
    [
        (("10.244.0.5/24",), (), "IPv4", OK),
        (("10.244.0.5/24", "2001:db8::5/64"), ("--ipv6=off",), "IPv4", OK),
        (("10.244.0.5/24", "2001:db8::5/64"), (), "IPv4", WARN),
        (("10.244.0.5/24", "2001:db8::5/64", "::1/128"), ("--ipv6=auto",), "IPv4 and IPv6", OK),
        (("10.244.0.5/24", "2001:db8::5/64"), ("--ipv6=reject",), "IPv4; IPv6 is refused", OK),
    ],
)
def test_ipv6_that_bypasses_the_proxy_is_told(
    addresses: tuple[str, ...], flags: tuple[str, ...], shown: str, verdict: Verdict
) -> None:
    """Unless it was asked for, or nobody could use it."""
    with standing_in(Memory("127.0.0.1/8", *addresses)):
        fact = named(routes.addresses(here("-u", "1337", *flags)), "captured families")
    assert (fact.value, fact.verdict) == (shown, verdict)


def test_a_place_without_addresses_is_told_and_one_that_does_not_tell(kernel: Memory) -> None:
    """Neither prevents a run."""
    kernel.addresses = kernel.addresses[:1]
    fact = named(routes.addresses(here()), "addresses")
    assert (fact.value, fact.verdict) == ("none that others could reach", WARN)
    where = here()
    where.facts = where.facts.but(addresses=None)
    assert named(routes.addresses(where), "addresses").verdict == UNKNOWN


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [((), OK), (((100, 0x539, 100),), WARN), (((100, 0x1, 100),), OK)],
    ids=["nobody", "somebody", "another mark"],
)
def test_whether_others_ask_for_the_mark_of_tproxy_is_told(
    kernel: Memory, rules: tuple[tuple[int, int, int], ...], verdict: Verdict
) -> None:
    """It matters to TPROXY alone."""
    kernel.rules += [(Family.V4, priority, mark, table, 0) for priority, mark, table in rules]
    facts = list(routes.routing(here("-u", "1337", "-m", "TPROXY")))
    assert judged(facts) == {"table 133": OK, "mark 0x539": verdict, "ip rules of others": OK}
    assert all(fact.needed for fact in facts)
    assert not any(fact.needed for fact in routes.routing(here("-u", "1337")))


@pytest.mark.parametrize(
    ("priorities", "told"),
    [
        ((100,), "ours is asked before 100: fwmark 0x539 lookup 100 (IPv4)"),
        ((100, 40000), "ours is asked before 100: fwmark 0x539 lookup 100 (IPv4)"),
        ((40000,), "none is asked before ours"),
    ],
)
def test_the_ip_rules_that_ours_comes_before_are_those_that_would_be_asked_first(
    kernel: Memory, priorities: tuple[int, ...], told: str
) -> None:
    """Those of the same mark; what is asked behind the usual place of ours stays where it was."""
    kernel.rules += [(Family.V4, priority, 0x539, 100, 0) for priority in priorities]
    facts = routes.routing(here("-u", "1337", "-m", "TPROXY"))
    assert named(facts, "ip rules of others").value == told


# --- company ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("up", "flags", "verdict"),
    [
        (True, (), OK),
        (None, (), UNKNOWN),
        (False, (), WARN),
        (False, ("-m", "TPROXY"), WARN),
        (False, ("-m", "TPROXY", "--ipv6=on"), MISSING),
    ],
)
def test_a_loopback_that_is_down_prevents_what_the_kernel_refuses_then(
    kernel: Memory, up: bool | None, flags: tuple[str, ...], verdict: Verdict
) -> None:
    """Of the two families only IPv6 refuses a local route."""
    kernel.has_lo_up = up
    (fact,) = company.lo(here("-u", "1337", *flags))
    assert fact.verdict == verdict


@pytest.mark.parametrize(
    ("text", "flags", "name", "verdict"),
    [
        ("*nat\n:PROXY_INIT_REDIRECT - [0:0]\nCOMMIT\n", (), "chains of Linkerd", MISSING),
        ("*nat\n:PROXY_INIT_REDIRECT - [0:0]\nCOMMIT\n", ("--take-over",), "chains of Linkerd", WARN),
        ("*nat\n:PROXY_INIT_REDIRECT - [0:0]\nCOMMIT\n", ("--cleanup-only",), "chains of Linkerd", WARN),
        ("*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n", (), "Kubernetes node", MISSING),
        ("*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n", ("--allow-host",), "Kubernetes node", WARN),
        ("*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n", ("--cleanup-only",), "Kubernetes node", WARN),
        ("*nat\n:MINE - [0:0]\nCOMMIT\n", (), "Kubernetes node", OK),
    ],
)
def test_whose_chains_are_here_decides_whether_a_run_may(
    kernel: Memory, text: str, flags: tuple[str, ...], name: str, verdict: Verdict
) -> None:
    """Another mesh's and a node's keep it out, unless it is told otherwise, or only removes."""
    kernel.load(NFT, Family.V4, text)
    assert named(company.namespace(here("-u", "1337", *flags)), name).verdict == verdict


def test_rules_in_both_backends_are_told(kernel: Memory) -> None:
    """They both act on traffic; where one holds rules, it is as it should be."""
    kernel.load(NFT, Family.V4, "*nat\n-A OUTPUT -p icmp -j ACCEPT\nCOMMIT\n")
    assert "backends that hold rules" not in judged(company.namespace(here()))
    kernel.load(LEGACY, Family.V4, "*nat\n-A OUTPUT -p icmp -j ACCEPT\nCOMMIT\n")
    assert named(company.namespace(here()), "backends that hold rules").verdict == WARN


@pytest.mark.parametrize(
    ("uid", "gid", "shown"),
    [
        (1337, 1000, "pid 7 (sidekick, uid 1337)"),
        (1000, 1337, "pid 7 (sidekick, gid 1337)"),
        (1337, 1337, "pid 7 (sidekick, uid 1337)"),
        (1000, 1000, "none"),
        (0, 0, "none"),
    ],
)
@pytest.mark.usefixtures("kernel")
def test_who_would_be_taken_for_the_proxy_is_told(uid: int, gid: int, shown: str) -> None:
    """Once, by its user or else by its group; root is everybody's user."""
    where = here("-u", "1337" if uid else "0", "-g", "1337" if gid else "0")
    where.facts = where.facts.but(processes=(Process(7, "sidekick", uid, gid),))
    fact = named(company.namespace(where), "processes as the proxy")
    assert (fact.value, fact.verdict) == (shown, OK if shown == "none" else WARN)


@pytest.mark.parametrize(
    ("flags", "verdict"), [((), WARN), (("--capture-ssh",), OK), (("-b", ""), OK)], ids=["left", "captured", "nothing"]
)
@pytest.mark.usefixtures("kernel")
def test_ports_of_a_login_that_are_left_alone_are_told(flags: tuple[str, ...], verdict: Verdict) -> None:
    """Where inbound ports are captured at all."""
    where = here("-u", "1337", *flags)
    where.facts = where.facts.but(ssh_ports=((22, "sshd listens"),))
    fact = named(company.namespace(where), "SSH ports")
    assert (fact.value, fact.verdict) == ("22 (sshd listens)", verdict)


def test_a_namespace_that_cannot_be_entered_is_all_that_is_told_of_it(kernel: Memory) -> None:
    """Nothing else is known of it."""
    where = here()
    where.settings = Settings.load(["--network-namespace=/run/netns/gone"], {})
    where.not_entered = NamespaceUnusable("it is not there", hint="make it")
    assert [(fact.name, fact.verdict, fact.remedy) for fact in company.namespace(where)] == [
        ("--network-namespace", MISSING, "make it")
    ]
    assert not list(company.proxy(where))
    assert not list(routes.addresses(where))
    assert not list(routes.routing(where))
    assert {"user namespace", "rules of the namespace"}.isdisjoint(judged(permissions.permissions(where)))
    assert kernel.acts == []


def test_another_run_is_told_with_how_long_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or that it cannot be known."""
    monkeypatch.setattr(locks, "in_words", lambda _: "pid 7")
    monkeypatch.setattr(locks, "runs_at_work", lambda: [7])
    at_work = company.another_run()
    assert (at_work.verdict, at_work.value) == (WARN, "one is at work: pid 7")
    assert str(locks.LONGEST_WAIT) in at_work.remedy
    monkeypatch.setattr(locks, "runs_at_work", list)
    assert company.another_run() == Fact("namespace", "other runs", "none at work", OK)

    def unreadable() -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks, "runs_at_work", unreadable)
    assert company.another_run().verdict == UNKNOWN


# --- conntrack ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "most", "is_told"),
    [
        ("0", "262144", False),
        ("89", "100", False),
        ("90", "100", True),
        ("100", "100", True),
        ("5", "0", False),
        ("", "100", False),
        ("5", "many", False),
    ],
)
def test_conntrack_that_is_nearly_full_is_a_warning(kernel: Memory, count: str, most: str, is_told: bool) -> None:
    """From nine tenths of what it may know; 0 is no limit, and what cannot be read is no number."""
    kernel.sysctls |= {ENTRIES: count, MOST_ENTRIES: most}
    found = [fact for fact in around.conntrack(here()) if fact.name == "entries"]
    assert [fact.verdict for fact in found] == [WARN] * is_told
    assert all(f"knows {count} connections here and may know {most}:" in fact.value for fact in found)
    kernel.sysctls.pop(ENTRIES)
    assert not any(fact.name == "entries" for fact in around.conntrack(here()))
