"""Which backend is chosen on a kernel in memory, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.host.live import choose_backend, read_live
from capture.iptables.iptables import LEGACY, NATIVE, NFT
from capture.preflight.company import namespace
from capture.preflight.facts import Here
from capture.preflight.modules import MISSING
from capture.settings.declared import Settings
from rules.netfilter.values import FILTER, MANGLE, NAT, Family
from rules.plan.plan import NOTHING
from tests.unit.apply.test_in_memory import ENVIRON, kernel
from tests.unit.preflight.test_evidence import node

if TYPE_CHECKING:
    from tests.rig.memory import Memory

__all__ = ["kernel", "node"]
OF_LEGACY = {f"{program}-legacy-{verb}" for program in ("iptables", "ip6tables") for verb in ("save", "restore")}


def given(kernel: Memory, family: Family, table: str, without: set[str]) -> None:
    """A table of iptables-nft that belongs to one program, on a node without these programs."""
    kernel.load(NFT, family, f"*{table}\nCOMMIT\n")
    kernel.owned[family, table] = 4711
    kernel.installed |= {"nft"}
    kernel.installed -= without


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(
    ("without", "backend"),
    [(set(), LEGACY), (OF_LEGACY, NATIVE), (OF_LEGACY | {"nft"}, NFT)],
    ids=["all", "without legacy", "only iptables-nft"],
)
def test_what_one_program_has_for_itself_is_left_for_another_backend(
    kernel: Memory, family: Family, without: set[str], backend: str
) -> None:
    """Legacy where it can be had, else our own tables; where neither can, the kernel's refusal says why."""
    given(kernel, family, NAT, without)
    choice = choose_backend(read_live(), Settings.load([], ENVIRON))
    assert choice.backend == backend
    name = "ip6" if family is Family.V6 else "ip"
    said = f"the table {name} nat belongs to the program that made it (`flags owner`, netlink port 4711)"
    assert (choice.reason == said) is (backend != NFT)


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("table", [NAT, MANGLE, FILTER])
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_only_the_tables_that_are_written_are_in_the_way(kernel: Memory, table: str, mode: str) -> None:
    """Of the planned ones; check says so where the backend was asked for."""
    given(kernel, Family.V4, table, set())
    is_written = table == (MANGLE if mode == "TPROXY" else NAT) or (table, mode) == (NAT, "TPROXY")
    here = Here(Settings.load(["-m", mode], ENVIRON), ENVIRON, rehearse=False)
    assert here.choice
    assert here.choice.backend == (LEGACY if is_written else NFT)
    forced = Here(Settings.load(["-m", mode, "--force-iptables-binary=nft"], ENVIRON), ENVIRON, rehearse=False)
    found = [fact for fact in namespace(forced) if fact.name == "table of one program"]
    assert [fact.verdict for fact in found] == [MISSING] * is_written
    assert all("--native-nftables" in fact.remedy for fact in found)
    for settings in (["--native-nftables"], ["--force-iptables-binary=legacy"], ["--cleanup-only"]):
        other = Here(Settings.load(["-m", mode, *settings], ENVIRON), ENVIRON, rehearse=False)
        assert not any(fact.name == "table of one program" for fact in namespace(other))
    assert other.planned is NOTHING
