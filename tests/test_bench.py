"""The bench measures what it says, and its lists are what they claim to be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import IPv4Network, collapse_addresses
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from tests import bench, bench_dataplane, write_performance
from tests.rig import Namespace
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SMALL = "import sys, tests.bench as b; sys.exit(b.main(sys.argv[1:], {0: 2, 10: 1}))"


@pytest.mark.netns
def test_the_report_holds_every_figure_of_every_command(tmp_path: Path) -> None:
    """A small bench prints a table, and its report has for each case and command all that the table shows.

    Here we are our own reference.
    """
    report = tmp_path / "bench.json"
    command = [sys.executable, "-c", SMALL, str(report)]
    beside = {**os.environ, "REFERENCE": bench.script_path()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120, env=beside)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(report.read_text())
    assert set(found["machine"]) == {"kernel", "architecture", "cpus", "python", "iptables"}
    assert [case["case"] for case in found["cases"]] == [*bench.MODES, *(f"10 {kind}" for kind in bench.LISTS)]
    assert found["node"]["namespaces"] == 10
    assert 0 < found["node"][bench.RERUN]["median"] < found["node"][bench.APPLY]["median"]
    for case in found["cases"]:
        assert case["case"] in done.stdout
        assert tuple(case["commands"]) == (*bench.COMMANDS, *bench.REFERENCE.values())
        assert all(case["commands"][name]["cpu_to_reference"]["median"] > 0 for name in bench.REFERENCE)
        assert case["commands"][bench.PYTHON]["cpu_ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
        assert case["commands"][bench.PLAIN]["cpu_to_plain"] == {"median": 1.0, "min": 1.0, "max": 1.0}
        assert case["commands"][bench.PYTHON]["children"] == 0
        for figures in case["commands"].values():
            for name in ("cpu_ms", "cpu_ratio", "cpu_to_plain", "wall_ms", "wall_ratio", "peak_mib"):
                assert 0 < figures[name]["min"] <= figures[name]["median"] <= figures[name]["max"]


@pytest.mark.netns
@pytest.mark.parametrize(
    ("command", "children"),
    [(["/bin/true"], 0), (["sh", "-c", "true"], 0), (["sh", "-c", "sh -c 'sleep 0 & wait; :' & wait"], 2)],
)
def test_processes_are_counted_at_any_depth(command: list[str], children: int) -> None:
    """The command itself does not count; its children and theirs do."""
    with Namespace("count") as namespace:
        assert bench.descendants(namespace, command, "/dev/null") == children


@pytest.mark.parametrize("count", [10, 100, 1_000, 10_000])
def test_the_lists_fit_and_nothing_in_them_merges(count: int) -> None:
    """So many networks and ports, no two of them neighbours, in a flag that Linux can pass on."""
    networks = [IPv4Network(text) for text in bench.cidrs(count).split(",")]
    assert len(list(collapse_addresses(networks))) == count
    ports = [int(text) for text in bench.ports(count).split(",")]
    assert len(ports) == count
    assert all(after - before > 1 for before, after in pairwise(ports))
    assert max(ports) <= 65535
    assert max(len(bench.cidrs(count)), len(bench.ports(count))) <= bench.LONGEST_ARGUMENT


def test_more_than_a_file_name_is_not_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Two arguments, or a call for help, get the usage."""
    assert bench.main(["a.json", "b.json"]) == 2
    assert "usage: python -m tests.bench [FILE.json]" in capsys.readouterr().err


def test_an_interpreter_behind_a_script_is_refused(tmp_path: Path) -> None:
    """A shim in front of Python is not the program whose time is to be known."""
    shim = tmp_path / "python"
    shim.write_text("#!/bin/sh\nexec python3\n")
    assert not bench.is_binary(str(shim))
    assert bench.is_binary(sys.executable)


def test_a_list_that_no_flag_can_hold_is_read_from_stdin() -> None:
    """Of 50,000 networks, none of which merges with another."""
    text = bench.cidrs(50_000)
    assert len(list(collapse_addresses(map(IPv4Network, text.split(","))))) == 50_000
    case = next(case for case in bench.cases({50_000: 1}) if "-x" in case.arguments)
    assert case.arguments[case.arguments.index("-x") + 1] == "@-"
    with bench.in_memory(case.listed) as name, open(name, encoding="utf-8") as file:
        assert file.read() == text
    assert bench.argument("1.0.0.0/25") == "1.0.0.0/25"


def some_figures() -> dict[str, Any]:
    """A report as the bench writes it, with made-up figures."""

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "min": value, "max": value}

    def command(cost: float) -> dict[str, Any]:
        names = ("cpu_ms", "cpu_ratio", "cpu_to_plain", "kernel_to_plain", "wall_ms", "wall_ratio", "peak_mib")
        return {"children": 2} | {name: spread(cost) for name in names}

    def case(name: str, size: int, cost: float) -> dict[str, Any]:
        return {"case": name, "size": size, "rounds": 1, "commands": {each: command(cost) for each in bench.COMMANDS}}

    cases = [case(name, 0, 3.0) for name in bench.MODES]
    cases += [case(f"{size:,} {kind}", size, size / 10) for kind in bench.LISTS for size in (10, 1_000)]
    machine = {"kernel": "6", "architecture": "x", "cpus": 2, "python": "3", "iptables": "v1"}
    quota = {"the 1.20.1 pod spec": {"wall_ms": spread(300.0), "wall_ratio": spread(9.0)}}
    node = {"namespaces": 250, bench.APPLY: spread(0.3), bench.RERUN: spread(0.1)}
    return {"machine": machine, "peak_floor_mib": 6.0, "cases": cases, "node": node, "quota": quota}


def test_the_page_has_every_case_and_a_picture_of_growth(tmp_path: Path) -> None:
    """Each mode with first apply, rerun and verify, each list, a run with a pod's limits, and a drawing that is SVG."""
    write_performance.write(some_figures(), tmp_path)
    page = (tmp_path / "performance.md").read_text()
    for name in (*bench.MODES, *(f"1,000 {kind}" for kind in bench.LISTS)):
        assert f"| {name}" in page
    assert "| the 1.20.1 pod spec | 300 ms | 9.0 |" in page
    assert "for 250 namespaces in one process, each takes 0.30 times" in page
    drawn = ElementTree.parse(tmp_path / "pictures/growth.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == 6


@pytest.mark.netns
def test_the_dataplane_is_measured_and_drawn() -> None:
    """A table with a row for each size and a plot with a curve for each backend, of a few connections."""
    sizes = (0, 20)
    found = bench_dataplane.measure(sizes, pairs=3)
    written = bench_dataplane.page(found, sizes)
    assert len([line for line in written.splitlines() if line.startswith(("| 0 |", "| 20 |"))]) == 2
    drawn = ElementTree.fromstring(bench_dataplane.plot(found.costs, sizes))
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == len(bench_dataplane.BACKENDS)
    assert all(0.2 < ratio < 50 for cost in found.costs.values() for ratio in (cost.of_bare, cost.of_idle))
