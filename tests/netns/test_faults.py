"""The fault matrix: whatever befalls a run, at whichever of its acts, nothing half done is seen or stays.

It is generated from the steps that a run would take in the real namespace. Afterwards the namespace is as before, or
as planned, or the next plain run makes it so.

Every connection in every such state meets the namespace as before or as planned. Directions are told apart: outbound,
inbound, calls of the proxy to its own pod, DNS over UDP and over TCP, of each family. Each has a witness, the
connection that is captured, and companions, without which its capture would be worse than none: the proxy's own
connection must go out, the application reach itself over lo, the proxy pass inbound traffic on to the application
(from 127.0.0.6 or `::6`; with TPROXY also from the client's address), and the proxy ask a nameserver from the very
port that an application asks it from. A direction is whole if, in one of the two worlds (before, planned), the
witness lands as there, and, where that world captures it, so do its companions. Two directions may be of different
worlds: no packet meets both.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import every_backend
from tests.rig import ADDRESSES, APP, PROXY, Call, Pod
from tests.rig.faults import (
    KILLING,
    OF_THE_WHOLE_RUN,
    Batch,
    Commit,
    Fault,
    Loading,
    armed,
    atoms_of,
    faults_of,
    run,
    steps_in,
)
from tests.rig.pod import without_empty_legacy_tables

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tests.rig import Result
    from tests.rig.faults import Atom

    Meaning: TypeAlias = dict[tuple[str, str], list[str]]
    Seen: TypeAlias = dict[tuple[int, str], str]

NAMESERVERS = "nameserver 10.96.0.10\nnameserver fd00:96::a\n"
REDIRECT = ["-u", "1337", "--dual-stack"]
LISTS = ["-x", "192.0.2.0/24,198.51.100.7", "-b", "8080,9000-9100"]
TPROXY = ["-u", "1337", "--dual-stack", "-m", "TPROXY", "--redirect-dns", "--drop-invalid", *LISTS]
DNS = ["-u", "1337", "--redirect-dns", "--udp", "443=reject"]
CLEAN = ["--cleanup-only"]


@dataclass(frozen=True)
class Scenario:
    """From one state to another: command lines, `CLEAN` for an empty namespace."""

    name: str
    start: list[str]
    end: list[str]
    start_is_in_the_other_backend: bool = False


SCENARIOS = [
    Scenario("apply REDIRECT, dual stack", CLEAN, REDIRECT),
    Scenario("apply TPROXY, DNS, dual stack", CLEAN, TPROXY),
    Scenario("apply DNS", CLEAN, DNS),
    Scenario("REDIRECT to TPROXY, DNS", REDIRECT, TPROXY),
    Scenario("TPROXY, DNS, dual stack to DNS", TPROXY, DNS),
    Scenario("from the other backend", REDIRECT, REDIRECT, start_is_in_the_other_backend=True),
    Scenario("clean REDIRECT, dual stack", REDIRECT, CLEAN),
    Scenario("clean TPROXY, DNS, dual stack", TPROXY, CLEAN),
    Scenario("clean DNS", DNS, CLEAN),
]

# --- what connections see ---------------------------------------------------------------------------------

OUT, IN, OWN, QUERY, TCP_QUERY = "out", "in", "own", "dns", "tcp dns"
COMPANIONS = {
    OUT: ("proxy out", "app over lo"),
    IN: ("passed on",),
    OWN: ("passed on",),
    QUERY: ("proxy dns",),
    TCP_QUERY: ("proxy tcp dns",),
}
"""The witness of each direction, and what its capture needs."""
FAR = {4: "9.9.9.9", 6: "2001:db8::1"}
NAMESERVER = {4: "10.96.0.10", 6: "fd00:96::a"}
LOCALHOST = {4: "127.0.0.1", 6: "::1"}
PASSED_ON_FROM = {4: "127.0.0.6", 6: "::6"}
CLIENT = {4: "192.0.2.77", 6: "2001:db8:9::77"}
_ports = itertools.cycle(range(20000, 30000))


@dataclass(frozen=True)
class World:
    """Where connections land in a state that is whole."""

    seen: Seen
    is_transparent: bool
    """Whether inbound connections are captured by TPROXY."""


def look(pod: Pod) -> Seen:
    """Where the connections land, by family and what they are."""
    calls: dict[tuple[int, str], Call] = {}
    later: dict[tuple[int, str], Call] = {}
    for version in pod.versions:
        own, port = ADDRESSES[version], next(_ports)
        for what, call in (
            (OUT, Call(pod.inside, FAR[version], 80, APP, APP)),
            ("proxy out", Call(pod.inside, FAR[version], 80, PROXY, PROXY)),
            ("app over lo", Call(pod.inside, LOCALHOST[version], 8080, APP, APP)),
            (IN, Call(pod.outside, own, 8080)),
            ("passed on", Call(pod.inside, own, 8080, PROXY, PROXY, source=PASSED_ON_FROM[version])),
            (OWN, Call(pod.inside, own, 8080, PROXY, PROXY)),
            (QUERY, Call(pod.inside, NAMESERVER[version], 53, APP, APP, "udp", source_port=port)),
            (TCP_QUERY, Call(pod.inside, NAMESERVER[version], 53, APP, APP)),
            ("proxy tcp dns", Call(pod.inside, NAMESERVER[version], 53, PROXY, PROXY)),
        ):
            calls[version, what] = call
        later[version, "proxy dns"] = Call(pod.inside, NAMESERVER[version], 53, PROXY, PROXY, "udp", source_port=port)
    seen: Seen = {}
    for batch in (calls, later):
        seen |= dict(zip(batch, map(str, pod.land(batch.values())), strict=True))
    return seen


def partial(pod: Pod, worlds: list[World]) -> list[str]:
    """What connections see that is neither as before nor as planned.

    Looked at twice before it is told: a machine may lose a packet, but half a state stays half.
    """
    return differing(pod, worlds) and differing(pod, worlds)


def differing(pod: Pod, worlds: list[World]) -> list[str]:
    """The same, by one look."""
    seen = look(pod)
    found = []
    for version in pod.versions:
        for direction in COMPANIONS:
            whole = [world for world in worlds if is_whole(version, direction, seen, world)]
            if direction == IN and whole and all(world.is_transparent for world in whole):
                call = Call(pod.inside, ADDRESSES[version], 8080, source=CLIENT[version], mark=1337)
                landed = str(pod.land([call])[0])
                if landed != "pod:8080":
                    found.append(f"IPv{version} {direction}: handed on to {landed}")
            elif not whole:
                what = (direction, *COMPANIONS[direction])
                found.append(f"IPv{version} {', '.join(f'{one} → {seen[version, one]}' for one in what)}")
    return found


def is_whole(version: int, direction: str, seen: Seen, world: World) -> bool:
    if seen[version, direction] != world.seen[version, direction]:
        return False
    captured = world.seen[version, direction] in ("pod:15001", "pod:15006", "pod:15053")
    return not captured or all(
        seen[version, companion] == world.seen[version, companion] for companion in COMPANIONS[direction]
    )


# --- the matrix -------------------------------------------------------------------------------------------

AS_BEFORE, PLANNED, NEXT_RUN, EMPTY = "as before", "planned", "next run", "empty"
MAY_END: dict[Fault, set[str]] = {
    Fault.REFUSED: {AS_BEFORE},
    Fault.NO_RESTORE: {AS_BEFORE},
    Fault.NO_SAVE: {AS_BEFORE},
    Fault.RESTORE_GONE: {AS_BEFORE},
    Fault.RUNS_LOCK: {AS_BEFORE},
    Fault.FULL: {PLANNED},
    Fault.READ_ONLY: {PLANNED},
    Fault.MUTE: {PLANNED},
    Fault.KILLED_CLEANED: {EMPTY},
}
"""What may become of it; where nothing is said, anything but to stay half done."""


def may_end(fault: Fault, atom: Atom | None) -> set[str]:
    """The outcomes that are right for this cell."""
    if fault is Fault.REFUSED and isinstance(atom, Batch):
        # All else is as planned and proved. An empty table is told of, and is no reason to take the rest back.
        return {NEXT_RUN}
    if fault is Fault.RESTORE_GONE and isinstance(atom, Loading) and atom.number > 1:
        return {NEXT_RUN}
    if fault is Fault.RESTORE_GONE and isinstance(atom, Commit) and atom.of_its_program > 1:
        # What the same program committed before can no longer be taken back.
        return {NEXT_RUN}
    return MAY_END.get(fault, {AS_BEFORE, PLANNED, NEXT_RUN})


@dataclass
class Bench:
    """A pod in which one scenario is run again and again."""

    pod: Pod
    scenario: Scenario
    backend: str
    start: list[str] = field(init=False)
    end: list[str] = field(init=False)
    before: Meaning = field(init=False)
    planned: Meaning = field(init=False)
    empty: Meaning = field(init=False)
    worlds: list[World] = field(init=False)
    atoms: list[Atom] = field(init=False)

    def __post_init__(self) -> None:
        other = {"nft": "legacy", "legacy": "nft", "native": "nft"}[self.backend]
        at_start = other if self.scenario.start_is_in_the_other_backend else self.backend
        self.start = [*self.scenario.start, f"--force-iptables-binary={at_start}"]
        self.end = [*self.scenario.end, f"--force-iptables-binary={self.backend}"]
        self.pod.inside.set_resolv_conf(NAMESERVERS)
        self.pod.open_listeners(transparent=True)
        self.empty = meaning(self.pod)
        self.must(*self.start)
        self.before = meaning(self.pod)
        self.worlds = [World(look(self.pod), "TPROXY" in self.start)]
        self.atoms = atoms_of(steps_in(self.pod, self.end, self.backend))
        self.must(*self.end)
        self.planned = meaning(self.pod)
        self.worlds.append(World(look(self.pod), "TPROXY" in self.end))
        self.must(*CLEAN)
        assert meaning(self.pod) == self.empty

    def must(self, *arguments: str) -> None:
        done = run(self.pod, *arguments)
        assert done.status == 0, done.stderr

    def reset(self) -> None:
        """To the start. A plain run leads there from what is planned, and from wherever a right cell ended."""
        if meaning(self.pod) != self.before:
            self.must(*self.start)
        if meaning(self.pod) != self.before:
            self.must(*CLEAN)
            self.pod.inside.output("nft", "flush", "ruleset")
            self.must(*self.start)
            assert meaning(self.pod) == self.before

    def cell(self, fault: Fault, atom: Atom | None) -> tuple[str, list[str]]:
        """What became of a run that this befell, and what is wrong with that."""
        self.reset()
        with tempfile.TemporaryDirectory() as folder:
            done = run(self.pod, *self.end, fault=armed(fault, atom, Path(folder)))
        now = meaning(self.pod)
        wrong = list(wrongly_said(fault, done, is_planned=now == self.planned))
        if now != self.before and now != self.planned:
            wrong += partial(self.pod, self.worlds)
        if fault is Fault.KILLED_CLEANED:
            self.must(*CLEAN)
            return self.compared(self.empty, EMPTY, wrong)
        if now == self.before:
            outcome = AS_BEFORE
        elif now == self.planned:
            outcome = PLANNED
        else:
            self.must(*self.end)
            outcome, wrong = self.compared(self.planned, NEXT_RUN, wrong)
        if outcome not in may_end(fault, atom):
            wrong.append(f"it ended {outcome}: {done.stderr}")
        return outcome, wrong

    def compared(self, wanted: Meaning, outcome: str, wrong: list[str]) -> tuple[str, list[str]]:
        now = meaning(self.pod)
        if outcome == NEXT_RUN:
            # What was stopped could not tidy up, and a run cannot know whose an empty table is. `clean` takes it away.
            now, wanted = without_empty_tables(now), without_empty_tables(wanted)
        if now == wanted:
            return outcome, wrong
        differs = sorted(key for key in now.keys() | wanted.keys() if now.get(key) != wanted.get(key))
        return "differs", [*wrong, *(f"{key}: {now.get(key)}, not {wanted.get(key)}" for key in differs)]


def wrongly_said(fault: Fault, done: Result, *, is_planned: bool) -> list[str]:
    """What is wrong with the exit status and the words."""
    if "Traceback" in done.stderr:
        return [done.stderr]
    if fault in KILLING:
        return [] if done.status == -9 else [f"it was to be killed, and ended with {done.status}: {done.stderr}"]
    if done.status not in (0, 1):
        return [f"status {done.status}: {done.stderr}"]
    is_told = done.status == 1 or "an empty table was left behind" in done.stderr
    if is_planned == is_told and fault is not Fault.SAVE_GONE:  # then nobody can know
        return [f"status {done.status}, and as planned: {is_planned}: {done.stderr}"]
    if done.status == 1 and "error\t" not in done.stderr:
        return [f"no words: {done.stderr}"]
    return []


def meaning(pod: Pod) -> Meaning:
    """The state, by chain."""
    return without_empty_legacy_tables(pod.meaning())


def without_empty_tables(meaning: Meaning) -> Meaning:
    """The same without tables of nf_tables that hold nothing but built-in chains that let everything pass."""
    used = {table_of(section) for (section, _), lines in meaning.items() if not all(map(is_nothing, lines))}
    return {key: lines for key, lines in meaning.items() if not table_of(key[0]) or table_of(key[0]) in used}


def table_of(section: str) -> str:
    """The family and name of the nf_tables table that this is about, whoever lists it; empty if it is of none."""
    listing, _, what = section.partition("] ")
    if "nft-save" in listing:
        return f"{'ip6' if 'ip6' in listing else 'ip'} {what.removeprefix('*')}"
    return what.removeprefix("table ").rstrip(" {") if what.startswith("table ") else ""


def is_nothing(line: str) -> bool:
    """Whether it says of a table only that it is there, or a built-in chain that lets everything pass."""
    words = line.split()
    if words[0][0] in "*:":
        return words[-1] != "-" and "DROP" not in words
    return words[0] in ("table", "chain", "}") or (words[0] == "type" and "drop" not in line)


@every_backend
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_fault_leaves_anything_half_done(
    pod: Pod, backend: str, scenario: Scenario, tell: Callable[[str], None]
) -> None:
    """Every fault at every act of this scenario: see the module."""
    bench = Bench(pod, scenario, backend)
    rows: list[tuple[str, dict[Fault, str]]] = []
    wrong = []
    places: list[tuple[str, Atom | None, tuple[Fault, ...]]] = [
        (str(atom), atom, tuple(faults_of(bench.atoms, at))) for at, atom in enumerate(bench.atoms)
    ]
    for name, atom, faults in (*places, ("the whole run", None, OF_THE_WHOLE_RUN)):
        cells = {}
        for fault in faults:
            cells[fault], found = bench.cell(fault, atom)
            wrong += [f"{name}, {fault.value}: {one}" for one in found]
        rows.append((name, cells))
    tell(table(f"{scenario.name} [{backend}]", rows))
    assert not wrong, "\n".join(wrong)


def table(title: str, rows: list[tuple[str, dict[Fault, str]]]) -> str:
    """The cells of a scenario, and how many there are."""
    faults = [fault for fault in Fault if any(fault in cells for _, cells in rows)]
    text = [["", *(fault.value for fault in faults)]]
    text += [[name, *(cells.get(fault, "") for fault in faults)] for name, cells in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in text]
    outcomes = Counter(outcome for _, cells in rows for outcome in cells.values())
    size = f"{len(rows) - 1} acts, {outcomes.total()} cells: " + ", ".join(
        f"{count} {outcome}" for outcome, count in outcomes.most_common()
    )
    return "\n".join([f"{title}: {size}", *lines])
