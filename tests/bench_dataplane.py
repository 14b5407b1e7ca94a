"""`make bench-dataplane`: what a new connection costs by how much is excluded, in each backend, beside no rules.

Connections go to a closed port of a host beyond a veth pair, past exclusions of which none matches, and are not
captured. They are compared with those of a namespace without any ruleset, and with those of one in which conntrack and
NAT are at work and no rule is asked: nothing is redirected without these two, so the rest is what the rules cost. All
are measured in turns, in short batches, and each batch is compared with those beside it, so what else the machine does
weighs on all. The table and the plot in `docs/` are written by it.
"""

from __future__ import annotations

import math
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.rig import PROXY, Pod
from tests.rig.pod import ROOT, has, is_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

SIZES = (0, 10, 100, 1_000, 10_000, 50_000)
BACKENDS = {"native": "native", "nft": "iptables-nft", "legacy": "iptables-legacy"}
COLOURS = {"native": "#1a7f37", "nft": "#bc4c00", "legacy": "#6639ba"}
PAIRS, BATCH = 2_000, 20
"""Batches beside each other, and connections in each: short ones, which are seldom interrupted."""
PAGE, PLOT = ROOT / "docs" / "dataplane.md", ROOT / "docs" / "pictures" / "dataplane.svg"
DIALLER = """
import socket, sys, time
for line in sys.stdin:
    begun = time.perf_counter()
    for number in range(int(line)):
        with socket.socket() as dialled:
            dialled.connect_ex(("9.9.9.9", 9))
    print(time.perf_counter() - begun, flush=True)
"""
"""Calls as often as it is told, and says how many seconds that took."""


EMPTY = """
table ip empty {
  chain output { type nat hook output priority -100; }
  chain prerouting { type nat hook prerouting priority -100; }
  chain never { meta l4proto tcp redirect to :9; }
}
"""
"""A ruleset of which no rule is asked; for the one that nothing leads to, the kernel has conntrack and NAT at work."""


class Cost(NamedTuple):
    """Medians of a size in a backend: microseconds for a connection, and how many times one beside it."""

    connection: float
    of_bare: float
    """One without a ruleset."""
    of_idle: float
    """One for which conntrack and NAT are at work, and no rule is asked."""


class Found(NamedTuple):
    """What was measured."""

    costs: dict[tuple[str, int], Cost]
    """By backend and size."""
    bare: float
    """Microseconds where there is no ruleset at all, and so no conntrack."""
    idle: Cost
    """Where conntrack and NAT are at work, and no rule is asked."""


class Dialler:
    """A process in a pod that calls a closed port outside."""

    def __init__(self, pod: Pod) -> None:
        command = ["ip", "netns", "exec", pod.inside.name, sys.executable, "-c", DIALLER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def microseconds(self, calls: int) -> float:
        """For each of so many calls."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline()) / calls * 1e6


def networks(count: int) -> str:
    """So many networks that no two of them become one, and none of which has the host that is called."""
    return "".join(f"{16 + at // 32768}.{at // 128 % 256}.{at % 128 * 2}.0/24\n" for at in range(count))


def measure(sizes: Sequence[int], pairs: int) -> Found:
    costs: dict[tuple[str, int], Cost] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = stack.enter_context(Dialler(stack.enter_context(Pod())))
        without = stack.enter_context(Pod())
        without.inside.output("nft", "-f", "-", text=EMPTY)
        idle = stack.enter_context(Dialler(without))
        nothing = statistics.median(bare.microseconds(BATCH) for _ in range(pairs))
        at_work = compared(idle, bare, idle, pairs)
        for backend, name in BACKENDS.items():
            pod = stack.enter_context(Pod())
            ruled = stack.enter_context(Dialler(pod))
            for size in sizes:
                file = folder / "networks"
                file.write_text(networks(size))
                # What is captured is not what is called, so every rule is asked, and the call goes out.
                flags = ("-x", f"@{file}", "-i", "192.0.2.0/24", "-b", "", "--ipv6", "off")
                pod.applied("-u", str(PROXY), *flags, f"--force-iptables-binary={backend}")
                costs[backend, size] = cost = compared(ruled, bare, idle, pairs)
                times = f"{cost.of_bare:.2f} times no ruleset, {cost.of_idle:.2f} times conntrack and NAT alone"
                print(f"{name}, {size:,}: {cost.connection:.1f} µs, {times}", file=sys.stderr)
    return Found(costs, nothing, at_work)


def compared(ruled: Dialler, bare: Dialler, idle: Dialler, pairs: int) -> Cost:
    is_slow = ruled.microseconds(BATCH) > 200
    batches = [
        (bare.microseconds(BATCH), ruled.microseconds(BATCH), idle.microseconds(BATCH))
        for _ in range(max(1, pairs // 10) if is_slow else pairs)
    ]
    mine, of_bare, of_idle = zip(*((mine, mine / none, mine / least) for none, mine, least in batches), strict=True)
    return Cost(statistics.median(mine), statistics.median(of_bare), statistics.median(of_idle))


def page(found: Found, sizes: Sequence[int]) -> str:
    lines = [
        "# What exclusions cost a new connection",
        "",
        "<!-- Written by `make bench-dataplane`. Changes made here are lost. -->",
        "",
        "Microseconds of a connection to a closed port of a host beyond a veth pair, past so many excluded networks of",
        "which none has that host. In brackets: how many times what it takes without any ruleset",
        f"({found.bare:.1f} µs), and how many times what it takes where conntrack and NAT are at work and no rule is",
        f"asked ({found.idle.connection:.1f} µs), measured in turns (medians of {PAIRS} pairs of batches).",
        "",
        f"Conntrack and NAT alone are {found.idle.of_bare:.2f} times no ruleset. Nothing is redirected without them,",
        "so no capture costs a new connection less, however few rules it has; the second figure is what the rules add.",
        "",
        "The kernel asks rules of iptables one after the other; a native list is one look-up in a set. Packets behind",
        "the first one of a connection are not asked.",
        "",
        "| excluded networks | native | iptables-nft | iptables-legacy |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for size in sizes:
        costs = (found.costs[backend, size] for backend in BACKENDS)
        cells = (f"{cost.connection:.1f} ({cost.of_bare:.2f}; {cost.of_idle:.2f})" for cost in costs)
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    lines += [
        "",
        "![Microseconds of a new connection by the number of excluded networks](pictures/dataplane.svg)",
        "",
        f"Measured on Linux {platform.release()}, {platform.machine()}.",
        "",
    ]
    return "\n".join(lines)


def plot(found: dict[tuple[str, int], Cost], sizes: Sequence[int]) -> str:
    """Both axes by powers of ten; none stands where one would."""
    highest = max(cost.connection for cost in found.values())
    top: float = 10 ** math.ceil(math.log10(highest))

    def across(size: float) -> float:
        return 70 + 480 * math.log10(max(size, 1)) / math.log10(max(*sizes, 10))

    def up(cost: float) -> float:
        return 290 - 250 * math.log10(max(cost, 1)) / math.log10(top)

    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 340" font-family="sans-serif" font-size="12">',
            "<title>Microseconds of a new connection by the number of excluded networks</title>",
            '<rect width="700" height="340" fill="#ffffff"/>',
            *axes(sizes, top, across, up),
            *(line for backend in BACKENDS for line in curve(found, sizes, backend, across, up)),
            "</svg>",
            "",
        ]
    )


def axes(sizes: Sequence[int], top: float, across: Position, up: Position) -> Iterator[str]:
    cost = 1
    while cost <= top:
        yield f'<line x1="70" x2="550" y1="{up(cost):.0f}" y2="{up(cost):.0f}" stroke="#d0d7de"/>'
        yield f'<text x="62" y="{up(cost) + 4:.0f}" text-anchor="end" fill="#57606a">{cost:,} µs</text>'
        cost *= 10
    for size in sizes:
        yield f'<text x="{across(size):.0f}" y="310" text-anchor="middle" fill="#57606a">{size:,}</text>'
    yield '<text x="310" y="332" text-anchor="middle" fill="#57606a">excluded networks</text>'


def curve(
    found: dict[tuple[str, int], Cost], sizes: Sequence[int], backend: str, across: Position, up: Position
) -> Iterator[str]:
    points = [(across(size), up(found[backend, size].connection)) for size in sizes]
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[backend]}" stroke-width="2"/>'
    yield from (f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{COLOURS[backend]}"/>' for x, y in points)
    x, y = points[-1]
    below = 14 if backend == "nft" else 0
    yield f'<text x="{x + 10:.0f}" y="{y + 4 + below:.0f}" fill="{COLOURS[backend]}">{BACKENDS[backend]}</text>'


def main() -> int:
    missing = has("nft", "iptables-nft", "iptables-legacy", "ip")
    if missing or not is_root():
        print(f"needs root, and {', '.join(missing) or 'nothing else'}", file=sys.stderr)
        return 1
    found = measure(SIZES, PAIRS)
    PAGE.write_text(page(found, SIZES))
    PLOT.write_text(plot(found.costs, SIZES))
    print(page(found, SIZES))
    return 0


if TYPE_CHECKING:
    from collections.abc import Callable

    Position = Callable[[float], float]

if __name__ == "__main__":
    sys.exit(main())
