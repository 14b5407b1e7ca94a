"""What is in a namespace beside ours, in the kernel's own words, so that it can be compared byte for byte.

The rules of iptables come from its save programs, those of nf_tables from netlink, without their counters. `python -m
tests.rig.neighbours` prints those of the namespace that it runs in.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from capture.iptables.iptables import OF_IPTABLES, PROGRAM
from capture.iptables.nft_words import expressions, led_to
from capture.kernel.process import locate, run
from capture.netlink import messages, nftables
from rules.iptables.quoting import command, lines
from rules.plan.names import NATIVE_TABLE, OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.namespace import Namespace

CASES = Path(__file__).parents[1] / "cases"
NAMES = tuple(sorted(folder.name for folder in CASES.iterdir()))
"""One for each tool (or two) that others may have run here before: `rules.v4` and `rules.v6` are for iptables-restore,
`rules.nft` is for nft; `args` are what a run of ours needs beside it."""


def prepare(namespace: Namespace, case: str, backend: str) -> list[str]:
    """Put the rules of a case there; what a run of ours needs beside them."""
    folder = CASES / case
    for file, program in (("rules.v4", f"iptables-{backend}-restore"), ("rules.v6", f"ip6tables-{backend}-restore")):
        if (folder / file).exists():
            namespace.output(program, text=text_of(folder / file))
    if (folder / "rules.nft").exists():
        namespace.output("nft", "-f", str(folder / "rules.nft"))
    return (folder / "args").read_text().split() if (folder / "args").exists() else []


def text_of(file: Path) -> str:
    """Its text to the letter: in a comment a carriage return is no line break."""
    return file.read_bytes().decode(errors="surrogateescape")


def rules(*, ours: bool = False) -> Iterator[str]:
    """Every rule and chain of others, in order, and every policy that is not the usual one; or of all."""

    def counts(table: str, *names: str) -> bool:
        return ours or (table != NATIVE_TABLE and not OURS.get(table, frozenset()).intersection(names))

    for backend in OF_IPTABLES:
        for program in PROGRAM.values():
            table = ""
            for _, line in lines(run(locate(f"{program}-{backend}-save") or "", "-c").stdout):
                table = line[1:] if line[:1] == "*" else table
                if line[:1] == ":" and " ACCEPT [" not in line and counts(table, line[1:].split(" ")[0]):
                    yield f"{program}-{backend} {table} {line.rpartition(' [')[0]}"
                elif line[:1] == "[" and counts(table, command(line)[1], line.rpartition(" -j ")[2]):
                    yield f"{program}-{backend} {table} {line.partition('] ')[2]}"
    found: dict[tuple[int, str, str], list[str]] = {}
    for message in messages.dump(messages.NETLINK_NETFILTER, nftables.NFT_MSG_GETRULE, bytes(4)):
        read = messages.attributes(message[4:])
        table, chain = (messages.text(read[key]) for key in (nftables.NFTA_RULE_TABLE, nftables.NFTA_RULE_CHAIN))
        if counts(table, chain, led_to(read)):
            steps = [(name, sorted(its.items())) for name, its in expressions(read) if name != "counter"]
            found.setdefault((message[0], table, chain), []).append(repr(steps))
    for place, there in sorted(found.items()):
        yield from (f"{place} {rule}" for rule in there)
    for (family, table), chains in nftables.nft_chains().items():
        for name, made in sorted(chains.items()):
            if counts(table, name) and (made.base is None or not name.isupper()):
                yield f"{family.value} {table} {name} {made.base}"


def rules_in(namespace: Namespace, *, ours: bool = False) -> list[str]:
    """The same of another namespace."""
    command = [sys.executable, "-m", "tests.rig.neighbours", *(["all"] if ours else [])]
    return namespace.output(*command).split("\n")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr] # a file, as this is a program
    for line in rules(ours="all" in sys.argv[1:]):
        print(line)
