"""What check says of the two backends, on a kernel in memory whose node has what the test gives it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from capture.errors import DONE
from capture.iptables.iptables import LEGACY, NFT
from capture.kernel.process import LEGACY_TABLES
from capture.netlink import messages
from capture.preflight.backends import backends, lock
from capture.preflight.facts import Fact, Here
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from capture.settings.declared import Settings
from rules.netfilter.values import MANGLE, NAT, RAW, Family
from tests.unit.apply.test_in_memory import ENVIRON, OTHERS, kernel, run
from tests.unit.preflight.test_evidence import Node, node

if TYPE_CHECKING:
    from capture.preflight.modules import Verdict
    from tests.rig.memory import Memory

__all__ = ["kernel", "node"]
PLAIN = ("-u", "1337")
LEGACY_PLAIN = (*PLAIN, "--force-iptables-binary=legacy")
TPROXY_DNS = ("-u", "1337", "-m", "TPROXY", "--capture-all-dns", "--redirect-dns", "--dual-stack")


def facts(*argv: str) -> dict[str, Fact]:
    """Those of the area backend, by name."""
    return {fact.name: fact for fact in backends(Here(Settings.load(argv, ENVIRON), ENVIRON, rehearse=False))}


@pytest.mark.parametrize("table", [NAT, MANGLE, RAW])
@pytest.mark.parametrize("family", Family)
def test_a_legacy_table_that_the_kernel_was_built_without_is_missing_with_the_module_to_load(
    kernel: Memory, node: Node, family: Family, table: str
) -> None:
    """Of the first that is missing; one that is in use is there, whatever the lists of modules say."""
    number = "6" if family is Family.V6 else ""
    others = [name for name in (NAT, MANGLE, RAW) if name != table]
    node.configured(*(f"CONFIG_IP{number}_NF_{name.upper()}=m" for name in others))
    missing = facts(*TPROXY_DNS, "--force-iptables-binary=legacy")[f"legacy {family.value} tables"]
    assert (missing.verdict, missing.needed) == (MISSING, True)
    assert f"`modprobe ip{number}table_{table}`" in missing.remedy
    assert f"{table}: " in missing.value
    kernel.load(LEGACY, family, f"*{table}\nCOMMIT\n")
    used = facts(*TPROXY_DNS, "--force-iptables-binary=legacy")[f"legacy {family.value} tables"]
    assert used.verdict != MISSING
    assert f"{table} is in use" in used.value


@pytest.mark.usefixtures("node")
def test_legacy_tables_that_this_user_may_not_list_are_said_to_be_hidden(kernel: Memory) -> None:
    """Rather than to be unused."""
    shown = facts(*LEGACY_PLAIN)["legacy IPv4 tables"]
    assert "only uid 0 may see" not in shown.value
    kernel.unreadable = set(LEGACY_TABLES.values())
    assert "only uid 0 may see" in facts(*LEGACY_PLAIN)["legacy IPv4 tables"].value


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("number", "verdict", "remedy"),
    [(0, OK, ""), (errno.EPERM, UNKNOWN, ""), (errno.EPROTONOSUPPORT, MISSING, "`modprobe nf_tables`")],
)
def test_whether_nf_tables_is_in_the_kernel_is_asked_of_the_kernel(
    kernel: Memory, number: int, verdict: str, remedy: str
) -> None:
    """And one that does not let us ask is no kernel without it."""
    if number:
        kernel.silent[messages.NETLINK_NETFILTER] = number
    fact = facts(*PLAIN)["nf_tables"]
    assert fact.verdict == verdict
    assert remedy in fact.remedy


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("backend", [NFT, LEGACY])
def test_what_a_backend_holds_is_told_apart(kernel: Memory, backend: str) -> None:
    """Nothing, the rules of others, ours as planned, and ours otherwise; and in the other backend nothing of it."""
    forced = f"--force-iptables-binary={backend}"
    other = LEGACY if backend == NFT else NFT

    def held() -> tuple[str, str]:
        told = facts(*PLAIN, forced)
        return told[f"held in {backend}"].value, told[f"held in {other}"].value

    assert held() == ("no rules", "no rules")
    kernel.load(backend, Family.V4, OTHERS)
    assert held() == ("rules of others", "no rules")
    assert run(*PLAIN, forced) == DONE
    assert held() == ("ours, as planned: a run changes nothing", "no rules")
    kernel.tables[(backend, Family.V4, NAT)].chains["ISTIO_REDIRECT"].clear()
    assert held() == ("ours, and a run would change it", "no rules")


@pytest.mark.parametrize(
    ("chosen", "is_lockable", "holders", "verdict", "said"),
    [
        ("", True, [], OK, "nobody holds it"),
        ("", False, [], OK, "a run uses one of its own"),
        ("/no/lock", False, [], MISSING, "(XTABLES_LOCKFILE) cannot be opened"),
        ("", True, [None], WARN, "is held by"),
    ],
)
def test_the_lock_of_iptables_is_told_of(
    kernel: Memory,  # noqa: ARG001 # it stands in
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    is_lockable: bool,
    holders: list[None],
    verdict: Verdict,
    said: str,
) -> None:
    """One that cannot be opened matters where somebody named it; a run on nft does not need it at all."""
    monkeypatch.setattr("capture.preflight.backends.is_lockable", lambda _: is_lockable)
    monkeypatch.setattr("capture.preflight.backends.locks.holders_of", lambda _: holders)
    environ = {**ENVIRON, "XTABLES_LOCKFILE": chosen}
    for argv, needed in ((PLAIN, False), (LEGACY_PLAIN, True), ((*LEGACY_PLAIN, "-n"), False)):
        (fact,) = lock(Here(Settings.load(argv, environ), environ, rehearse=False))
        assert (fact.verdict, fact.needed) == (verdict, needed)
        assert said in fact.value


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("backend", [NFT, LEGACY])
def test_it_is_told_what_each_backend_holds(kernel: Memory, backend: str) -> None:
    """Nothing, rules of others, ours as planned or otherwise; only that they are ours where nothing is planned."""

    def told(*argv: str) -> str:
        return facts(*argv, f"--force-iptables-binary={backend}")[f"held in {backend}"].value

    assert told(*PLAIN) == "no rules"
    kernel.load(backend, Family.V4, OTHERS)
    assert told(*PLAIN) == "rules of others"
    assert run(*PLAIN, f"--force-iptables-binary={backend}") == DONE
    assert told(*PLAIN) == "ours, as planned: a run changes nothing"
    assert told(*PLAIN, "-o", "22") == "ours, and a run would change it"
    assert told("--cleanup-only") == "ours"
