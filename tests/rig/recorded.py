"""Our own tables of nf_tables on the kernel in memory: what the kernel of a host told of them, message by message.

`python -m tests.write_recorded`, as root, writes the recordings anew. Each is of one plan, which is there once nft was
run, whatever that was given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from capture.kernel.process import Completed
from capture.netlink import nf_tables, nftables
from capture.netlink.messages import NETLINK_NETFILTER
from tests.rig.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOLDER = Path(__file__).parents[1] / "unit/native/recorded"
QUESTIONS = {
    "tables": nftables.NFT_MSG_GETTABLE,
    "chains": nftables.NFT_MSG_GETCHAIN,
    "rules": nftables.NFT_MSG_GETRULE,
    "sets": nf_tables.NFT_MSG_GETSET,
    "elements": nf_tables.NFT_MSG_GETSETELEM,
}
COMMON = (
    "-u",
    "1337",
    "--dual-stack",
    "--native-nftables",
    "-o",
    "22,80-90",
    "-x",
    "10.0.0.0/8,192.0.2.7,2001:db8::/32",
)
ARGUMENTS = {
    "redirect": (*COMMON, "--redirect-dns", "--capture-all-dns", "--udp", "443=reject,9000-9010=drop"),
    "tproxy": (*COMMON, "-m", "TPROXY", "-c", "eth7,br-+", "--exclude-inbound-cidrs", "10.9.0.0/16", "--drop-invalid",
               "--log-connections", "nflog", "--exclude-uids", "5-9"),
}  # fmt: skip
ARGUMENTS_OF_IPTABLES = {
    "iptables": ("-u", "1337", "--dual-stack", "--redirect-dns", "--capture-all-dns", "-o", "22,8000-8080", "-d", "9"),
}
"""What was recorded: the command line of each. What iptables-nft makes is known at sight."""


def recorded(name: str) -> dict[tuple[int, bytes], list[bytes]]:
    """The messages by which each question was answered."""
    told: dict[tuple[int, bytes], list[bytes]] = {}
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        kind, payload, message = line.split()
        told.setdefault((QUESTIONS[kind], bytes.fromhex(payload)), []).append(bytes.fromhex(message))
    return told


class Recorded(Memory):
    """A pod whose own tables are these, from the moment that nft has made them to the one in which it deletes them."""

    def __init__(self, name: str, *addresses: str) -> None:
        super().__init__(*addresses)
        self.argv = (ARGUMENTS | ARGUMENTS_OF_IPTABLES)[name]
        self.told: Mapping[tuple[int, bytes], list[bytes]] = recorded(name)
        self.are_there = False
        self.installed |= {"nft"}
        self.given: list[str] = []
        """To nft, in order."""

    def dump(self, protocol: int, question: int, payload: bytes) -> list[bytes]:
        if protocol == NETLINK_NETFILTER and question in QUESTIONS.values():
            return list(self.told.get((question, payload), ())) if self.are_there else []
        return super().dump(protocol, question, payload)

    def run(
        self,
        program: str,
        *arguments: str,
        text: str = "",
        lines: Iterable[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> Completed:
        if not program.endswith("/nft"):
            return super().run(program, *arguments, text=text, lines=lines, environ=environ)
        if arguments == ("-f", "-"):
            try:
                self.act("nft -f -")
            except OSError as refused:
                return Completed(1, "", f"netlink: Error: {refused.strerror}\n")
            self.given.append(text)
            self.are_there = "delete table" not in text
        return Completed(0, "", "")
