"""`make bench`: writes `docs/performance.md` and its picture from the figures of a bench."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import APPLY, LISTS, MEMORY, PYTHON, QUOTA, REFERENCE, RERUN, VERIFY
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE, PICTURE = Path("performance.md"), Path("pictures/growth.svg")
DOING = {APPLY: "first apply", RERUN: "rerun", VERIFY: "verify"}

OPENING = """\
# What a run costs

A pod waits for its init container, often with `cpu: 100m`: a millisecond of CPU is ten of waiting. This page is written
by `make bench`. Its figures are of {machine}.
Absolute times are of that machine; what compares are the ratios, each taken against `python -I -c pass` or a plain
first apply of the same round and then the median of all rounds. CPU is that of the run with all its children, memory
that of its largest process.
"""

READING = """\
`REFERENCE=PROGRAM make bench` measures a program that takes the same flags beside it, `OUT=FILE make bench` keeps all
figures, with minimum and maximum. The list of excluded networks has none that could be merged: with iptables each is a
rule of its own. nf_tables takes its time for each, so most of what a long list costs by iptables-nft is the kernel's
part, which no program can spare; legacy tables are handed over whole, and in tables of our own the networks are one
set. Who excludes thousands of networks from pods that start often is better off with `--native-nftables`.

What keeps a run short: nothing is loaded but what it takes ([developing.md](developing.md)), and nothing of the library
that costs more than it does; one `iptables-restore` for each family, and one nft for both in tables of our own; what
nf_tables holds is compared with what is planned byte by byte, without a program; networks of a long list are numbers,
and its rules are made only when somebody asks for them; where iptables-save is asked, a chain that it prints as planned
is compared as text and not read; and a run ends without taking apart what Python has loaded. One command for many
namespaces ([applying.md](applying.md)) pays for Python once.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def share(case: dict[str, Any], command: str, of: str = "cpu_to_plain") -> float:
    """The CPU of a command as a multiple of a plain first apply's."""
    return float(case["commands"][command][of]["median"])


def page(found: dict[str, Any]) -> Iterator[str]:
    """The page, line by line."""
    machine, cases = found["machine"], found["cases"]
    about = "{cpus} CPUs, Linux {kernel}, Python {python}, iptables {iptables}".format_map(machine)
    yield OPENING.format(machine=about)
    plain = cases[0]
    yield "## Each mode\n"
    rows = []
    for case in (case for case in cases if not case["size"]):
        for command, name in DOING.items():
            its = case["commands"][command]
            rows.append([
                f"{case['case']}, {name}" if command == APPLY else f"… {name}",
                f"{its['cpu_ratio']['median']:.2f}",
                f"{share(case, command):.2f}",
                f"{its['cpu_ms']['median']:.0f} ms",
                f"{its['peak_mib']['median']:.0f} MiB",
                str(its["children"]),
            ])  # fmt: skip
            beside = its.get("cpu_to_reference")
            if beside:
                rows.append([f"… {REFERENCE[command]}: ours is {beside['median']:.2f} times its CPU", *[""] * 5])
    head = ["", "CPU × python", "× first apply, plain", "CPU", "memory", "children"]
    yield from table(head, rows)
    yield f"\nBare Python took {plain['commands'][PYTHON]['cpu_ms']['median']:.1f} ms of CPU.\n"
    if found["quota"]:
        yield f"## As in a pod\n\nWith {QUOTA} and {MEMORY}, a first apply from exec to its end:\n"
        rows = [
            [name, f"{its['wall_ms']['median']:.0f} ms", f"{its['wall_ratio']['median']:.1f}"]
            for name, its in found["quota"].items()
        ]
        yield from table(["", "wall time", "× python with the same limit"], rows)
        yield ""
    node = found["node"]
    yield "## A whole node\n"
    yield (
        f"With `--network-namespace` for {node['namespaces']} namespaces in one process, each takes "
        f"{node[APPLY]['median']:.2f} times the CPU\nof a plain first apply of its own, and a rerun "
        f"{node[RERUN]['median']:.2f} times.\n"
    )
    yield "## Growth\n"
    rows = []
    for kind in LISTS:
        for case in (case for case in cases if case["case"].endswith(f" {kind}")):
            its = case["commands"]
            first, *later = (f"{share(case, command):.2f}" for command in DOING)
            in_kernel = f"{share(case, APPLY, 'kernel_to_plain'):.2f}"
            memory = max(its[command]["peak_mib"]["median"] for command in DOING)
            rows.append([case["case"], first, in_kernel, *later, f"{memory:.0f} MiB"])
    yield "CPU as a multiple of a plain first apply; the memory of the largest of the three:\n"
    first, *later = DOING.values()
    yield from table(["", first, "of that in the kernel", *later, "memory"], rows)
    yield f"\n![CPU over the length of the list]({PICTURE})\n"
    yield READING.rstrip()


# --- the picture --------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 420, 60, 30, 210, 50
COLOURS = {APPLY: "#1f5fa8", RERUN: "#2e7d32", VERIFY: "#b3541e"}
SHOWN = {"excluded CIDRs": "", "excluded CIDRs, tables of our own": "6 4"}
"""The lists that are drawn, and how their lines are dashed."""


def picture(found: dict[str, Any]) -> str:
    """CPU of each command over the length of the list, both in powers of ten."""
    cases = [case for case in found["cases"] if case["size"]]
    most = max(case["size"] for case in cases)
    highest = max(share(case, command) for case in cases for command in DOING)
    least, tallest = -1, math.ceil(math.log10(max(highest, 10)))

    def x(size: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(size) - 1) / max(math.log10(most) - 1, 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(value) - least) / (tallest - least)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        "<title>CPU of a run over the length of a list of excluded networks</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for power in range(least, tallest + 1):
        at, value = y(10.0**power), f"{10.0**power:g}"
        lines.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value}</text>')
    for size in sorted({case["size"] for case in cases}):
        lines.append(f'<path d="M{x(size):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eeeeee"/>')
        lines.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{size:,}</text>')
    lines.append(f'<text x="{LEFT}" y="{TOP - 12}">CPU as a multiple of a plain first apply</text>')
    lines.append(f'<text x="{LEFT}" y="{HEIGHT - 10}">excluded networks</text>')
    at = TOP
    for kind, dashes in SHOWN.items():
        for command, name in DOING.items():
            ends = [case for case in cases if case["case"].endswith(f" {kind}")]
            points = " ".join(f"{x(case['size']):.1f},{y(share(case, command)):.1f}" for case in ends)
            style = f'fill="none" stroke="{COLOURS[command]}" stroke-width="2" stroke-dasharray="{dashes or "none"}"'
            lines.append(f'<polyline points="{points}" {style}/>')
            lines.append(f'<path d="M{WIDTH - RIGHT + 12} {at}h24" {style}/>')
            label = f"{name}, {'own tables' if dashes else 'iptables'}"
            lines.append(f'<text x="{WIDTH - RIGHT + 42}" y="{at + 4}">{label}</text>')
            at += 20
    return "\n".join((*lines, "</svg>\n"))


def write(found: dict[str, Any], folder: Path) -> None:
    (folder / PICTURE).parent.mkdir(exist_ok=True)
    (folder / PICTURE).write_text(picture(found), encoding="utf-8")
    (folder / PAGE).write_text("\n".join(page(found)) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """The figures are in a file; the page goes to `docs`, or to another folder."""
    file, *folder = arguments
    write(json.loads(Path(file).read_text(encoding="utf-8")), Path(*folder) if folder else ROOT / "docs")


if __name__ == "__main__":
    main(sys.argv[1:])
