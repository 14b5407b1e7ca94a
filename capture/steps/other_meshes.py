"""The tables in which other meshes capture without iptables: found, taken away, and put back if a run fails."""

from __future__ import annotations

from capture.errors import KernelRefused
from capture.iptables.diagnosis import complaint, owned_hint, permission_hint
from capture.iptables.iptables import NATIVE, Iptables
from capture.iptables.leaving import TakeAway
from capture.kernel.process import run
from capture.netlink.messages import NETLINK_NETFILTER, dump
from capture.netlink.nftables import NFT_MSG_GETTABLE
from capture.steps.passing import LetPacketsPass
from rules.netfilter.values import Family
from rules.nftables.messages import attributes, family_of, text
from rules.ours.meshes import native_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.host.live import Live
    from capture.log import Log
    from capture.steps.acts import Act
    from rules.netfilter.hooks import NativeTable


def those_to_go(live: Live) -> tuple[Live, tuple[str, ...]]:
    """What is live without the tables of other meshes, and those tables: family and name.

    Raises OSError where nf_tables does not answer.
    """
    found = []
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, bytes(4)):
        name = text(dict(attributes(message[4:])).get(1))
        if native_tables([name]):
            found.append(f"{family_of(message)} {name}")
    gone = frozenset(found)
    kept: dict[Family, tuple[NativeTable, ...]] = {}
    leaving: dict[Family, tuple[NativeTable, ...]] = {}
    for family, natives in live.natives.items():
        kept[family] = tuple(native for native in natives if f"{native.family} {native.name}" not in gone)
        leaving[family] = tuple(native for native in natives if native not in kept[family])
    return live.but(natives=kept, leaving=leaving), tuple(sorted(gone))


class DeleteTables:
    """Takes tables of others away, all of them or none."""

    families = tuple(Family)

    def __init__(self, tables: Sequence[str]) -> None:
        self.tables = tables
        self.before = ""

    @property
    def text(self) -> str:
        return "".join(f"delete table {table}\n" for table in self.tables)

    def __str__(self) -> str:
        return f"nft -f - with the following input:\n{self.text}"

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        self.before = listed(nft(), self.tables)
        done = run(nft(), "-f", "-", text=self.text)
        if done.status:
            self.before = ""
            raise KernelRefused(
                "the kernel did not let the tables of another mesh go",
                details=[("nft said", complaint(done))],
                hint=permission_hint(done.stderr, tables=self.tables),
            )

    def undo(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        if self.before:
            done = run(nft(), "-f", "-", text=self.before)
            if done.status:
                what = "the kernel refused the tables of another mesh that were there before"
                raise KernelRefused(what, details=[("nft said", complaint(done))])


def with_tables_gone(doing: list[Act], tables: Sequence[str]) -> list[Act]:
    """The same acts, and these tables of another mesh gone, when what is ours has been there for a grace period.

    In one commit a packet could be past our chain before it and at theirs after it: of two chains at one place the
    newer is asked first (nf_hook_entries_grow of net/netfilter/core.c). So long both capture, and one of the two
    proxies gets what is sent.
    """
    at = next((at for at, act in enumerate(doing) if isinstance(act, TakeAway)), len(doing))
    return [*doing[:at], *([LetPacketsPass(Family.V4)] if at else []), DeleteTables(tables), *doing[at:]]


def nft() -> str:
    return Iptables(NATIVE, Family.V4).command("")


def listed(program: str, tables: Sequence[str]) -> str:
    """These tables as nft prints them. Raises KernelRefused where it would not read that again."""
    text = "".join(run(program, "-nn", "list", "table", *table.split()).stdout for table in tables)
    deleting = "".join(f"delete table {table}\n" for table in tables)
    done = run(program, "-c", "-f", "-", text=deleting + text)
    if done.status or text.count("table ") < len(tables):
        raise KernelRefused(
            "what another mesh has in tables of its own could not be put back after a failure, so it is not taken over",
            details=[("its tables", ", ".join(tables)), ("nft said", complaint(done))],
            hint=owned_hint(tables) or "remove them with `nft delete table`, and run it again",
        )
    return text
