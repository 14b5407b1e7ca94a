"""`make bench`: what a run costs in each mode, side by side with bare Python and a bare iptables-restore.

Also with long lists; and, where `REFERENCE` names a program that takes the same flags, side by side with that.
The commands of a round run one after the other, and each is compared with the Python and with the plain first apply
of its own round: so what else the machine does weighs on all. Times are those of the whole process tree, from exec to
exit.
"""

from __future__ import annotations

import json
import marshal
import os
import platform
import shlex
import statistics
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from capture.iptables.iptables import LEGACY, NATIVE, OF_IPTABLES, Iptables
from capture.kernel.process import write_all
from rules.netfilter.values import Family
from tests.guard import guarded
from tests.rig import ADDRESSES, Namespace
from tests.rig.pod import ROOT, has, is_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

POD_SPEC = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*"),
    *("-d", "15090,15021,15020", "--log_output_level=default:info"),
)
"""What Istio 1.20.1 puts into a pod spec, less its empty -x, which the lists take the place of."""
MODES = {
    "the 1.20.1 pod spec": (),
    "the same with DNS": ("--redirect-dns", "--capture-all-dns"),
    "the same with dual stack": ("--dual-stack",),
    "the same by TPROXY": ("-m", "TPROXY"),
    "the same in tables of our own": ("--native-nftables",),
    "the same in legacy tables": ("--force-iptables-binary=legacy",),
    "the same in legacy tables with dual stack": ("--force-iptables-binary=legacy", "--dual-stack"),
}
ROUNDS = {0: 15, 10: 7, 100: 7, 1_000: 7, 10_000: 3, 50_000: 3}
"""How often each size of list is measured."""
LISTS = {
    "excluded CIDRs": ("-x", "{}"),
    "excluded CIDRs, tables of our own": ("-x", "{}", "--native-nftables"),
    "excluded CIDRs, legacy tables": ("-x", "{}", "--force-iptables-binary=legacy"),
    "excluded ports": ("-x", "", "-o", "{}"),
}
"""What there is a list of, and the flags for it."""
LONGEST_ARGUMENT = 131_071
"""MAX_ARG_STRLEN of linux/binfmts.h, less the terminating zero: the most that one flag or variable can hold."""
MOST_PORTS = 1_000
"""More of them, apart from each other, nobody lists."""

NODE = 250
"""Network namespaces that one process captures, as on a whole node."""

PYTHON, RESTORE, DRY_RUN, APPLY, RERUN = "python -I -c pass", "iptables-restore", "dry run", "apply", "rerun"
PLAIN, VERIFY = "plain apply", "verify"
COMMANDS = (PYTHON, PLAIN, RESTORE, DRY_RUN, APPLY, RERUN, VERIFY)
REFERENCE = {APPLY: "apply of the reference", RERUN: "rerun of the reference"}
"""What is measured of the reference too, if there is one, and how that is called."""
LABELS = {
    PLAIN: "apply of the 1.20.1 pod spec",
    RESTORE: "{program} of the same text",
    APPLY: "apply on a clean namespace",
    RERUN: "rerun, nothing to do",
    VERIFY: "verify, all as planned",
}


# --- what is measured -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A command line, and how often it is measured."""

    name: str
    arguments: tuple[str, ...]
    rounds: int
    families: int = 1
    size: int = 0
    """How long its list is."""
    listed: str = ""
    """Its list, for those that read it from standard input."""

    @property
    def is_native(self) -> bool:
        return "--native-nftables" in self.arguments

    @property
    def is_legacy(self) -> bool:
        return "--force-iptables-binary=legacy" in self.arguments


def cidrs(count: int) -> str:
    """So many networks that no two can be merged, in as few characters as 10,000 of them need."""
    return ",".join(f"{1 + at // 20_000}.{at // 100 % 200}.{at % 100}.0/25" for at in range(count))


def ports(count: int) -> str:
    """Every third port: no two are neighbours."""
    return ",".join(str(3 * number + 1) for number in range(count))


def cases(rounds: dict[int, int]) -> Iterator[Case]:
    for size, times in rounds.items():
        if not size:
            for name, more in MODES.items():
                yield Case(name, (*POD_SPEC, "-x", "", *more), times, 2 if "--dual-stack" in more else 1)
            continue
        for name, flags in LISTS.items():
            if size <= MOST_PORTS or "ports" not in name:
                listed = ports(size) if "ports" in name else cidrs(size)
                its = (flag.format(argument(listed)) for flag in flags)
                yield Case(f"{size:,} {name}", (*POD_SPEC, *its), times, size=size, listed=listed)


def argument(text: str) -> str:
    """The list as a flag takes it: as it is, or from standard input, where it is too long."""
    return text if len(text) <= LONGEST_ARGUMENT else "@-"


class Measured(NamedTuple):
    """What a process and all its children cost, as `tests.launch` tells it."""

    status: int
    user: float
    """Seconds of CPU in programs."""
    kernel: float
    """Seconds of CPU in the kernel."""
    wall: float
    """Seconds from exec to exit."""
    peak: int
    """Memory of the largest process, in KiB."""

    @property
    def cpu(self) -> float:
        return self.user + self.kernel


@dataclass
class Samples:
    """What one command of a case cost, round by round; times in seconds, memory in KiB."""

    cpu: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    """How much of the CPU was the kernel's."""
    wall: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    children: int = 0
    """Processes and threads that it started, at any depth."""

    def add(self, measured: Measured) -> None:
        self.cpu.append(measured.cpu)
        self.kernel.append(measured.kernel)
        self.wall.append(measured.wall)
        self.peak.append(measured.peak)


# --- measuring --------------------------------------------------------------------------------------------


class Launcher:
    """The small process that starts the measured ones; see `tests.launch`."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-S", "-c", "from tests.launch import main; main()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()

    def run(self, namespace: Namespace, command: Sequence[str], stdin: str = os.devnull) -> Measured:
        assert self.process.stdin
        assert self.process.stdout
        marshal.dump((namespace.path, stdin, list(command), environ()), self.process.stdin)
        self.process.stdin.flush()
        measured = Measured(*marshal.load(self.process.stdout))  # noqa: S302 # our own process
        if measured.status:
            raise RuntimeError(f"status {measured.status} from {shlex.join(command)[:200]}")
        return measured


def environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def clean_namespace(stack: ExitStack, families: int = 1) -> Namespace:
    """A new one with an interface and an IPv4 address, so that IPv4 alone is captured, as in most pods; or both."""
    namespace = stack.enter_context(Namespace("bench"))
    address = ADDRESSES[4]
    links = f"link add eth0 type veth peer name eth1\naddr add {address}/24 dev eth0\nlink set eth0 up\n"
    if families == 2:
        links += f"addr add {ADDRESSES[6]}/64 dev eth0 nodad\n"
    namespace.output("ip", "-batch", "-", text=links)
    return namespace


@contextmanager
def in_memory(text: str) -> Iterator[str]:
    """The name of a file with this text that nobody has to remove."""
    file = os.memfd_create("text")
    try:
        write_all(file, text.encode())
        yield f"/proc/{os.getpid()}/fd/{file}"
    finally:
        os.close(file)


class Bench:
    """Measures cases, with the tools of the backend that capture would choose here."""

    def __init__(self, launcher: Launcher, script: str, reference: str) -> None:
        self.launcher = launcher
        self.script = script
        self.reference = reference
        with ExitStack() as stack:
            namespace = clean_namespace(stack)
            namespace.output(script, *POD_SPEC)
            backend = next(each for each in OF_IPTABLES if "ISTIO_" in namespace.output(f"iptables-{each}-save"))
            self.restore = Iptables(backend, Family.V4).command("restore")
            self.legacy = Iptables(LEGACY, Family.V4).command("restore")
            self.nft = Iptables(NATIVE, Family.V4).command("")
            self.floor = launcher.run(namespace, ["/bin/true"]).peak
            """The memory that even a program with none of its own is charged with, in KiB."""

    def case(self, case: Case) -> dict[str, Samples]:
        """The samples of every command, after a round that does not count but finds out what else is to be known."""
        samples = {command: Samples() for command in (*COMMANDS, *(REFERENCE.values() if self.reference else ()))}
        with ExitStack() as stack:
            namespace = clean_namespace(stack, case.families)
            text = namespace.output(self.script, *case.arguments, "--dry-run", text=case.listed)
        text = text[text.index("# nft" if case.is_native else "# IPv4") :]
        with in_memory(text) as rules, in_memory(case.listed) as listed:
            for command, argv, namespace in self.round(case):
                samples[command].children = descendants(namespace, argv, rules if command == RESTORE else listed)
            for _ in range(case.rounds):
                for command, argv, namespace in self.round(case):
                    stdin = rules if command == RESTORE else listed
                    samples[command].add(self.launcher.run(namespace, argv, stdin))
        return samples

    def round(self, case: Case) -> Iterator[tuple[str, list[str], Namespace]]:
        """Every command in turn, with the namespace that it is to be run in."""
        with ExitStack() as stack:
            bare, ours, others = (clean_namespace(stack, case.families) for _ in range(3))
            yield PYTHON, [sys.executable, "-I", "-c", "pass"], ours
            yield PLAIN, [self.script, *POD_SPEC, "-x", ""], clean_namespace(stack)
            yield RESTORE, self.writing(case), bare
            yield DRY_RUN, [self.script, *case.arguments, "--dry-run"], ours
            yield APPLY, [self.script, *case.arguments], ours
            if self.reference:
                yield REFERENCE[APPLY], [self.reference, *case.arguments], others
            yield RERUN, [self.script, *case.arguments], ours
            if self.reference:
                yield REFERENCE[RERUN], [self.reference, *case.arguments], others
            yield VERIFY, [self.script, "verify", *case.arguments], ours

    def writing(self, case: Case) -> list[str]:
        """The program that writes the rules, as it is run alone."""
        if case.is_native:
            return [self.nft, "-f", "-"]
        return [self.legacy if case.is_legacy else self.restore, "--noflush"]


COUNT = 'set -e; "$@" >/dev/null 2>&1; sh -c "echo \\$\\$"; :'
"""The shell is process 1 of its pid namespace, the command process 2, and the last one says how many there were."""


def descendants(namespace: Namespace, command: Sequence[str], stdin: str) -> int:
    """How many processes and threads a command starts: the kernel hands out pids in order, so they are counted."""
    # A lock that a child of iptables-legacy is given is found by its number in /proc.
    count = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", COUNT, "sh", *command]
    last = namespace.output(*count, text=Path(stdin).read_text())
    return int(last) - 3


# --- what was found ---------------------------------------------------------------------------------------


def ratios(samples: Sequence[float], beside: Sequence[float]) -> list[float]:
    """Each sample as a multiple of the one that was taken beside it."""
    return [one / other for one, other in zip(samples, beside, strict=True)]


def spread(values: Sequence[float], unit: float = 1.0) -> dict[str, float]:
    return {
        name: round(of(values) * unit, 3) for name, of in (("median", statistics.median), ("min", min), ("max", max))
    }


def figures(samples: dict[str, Samples]) -> dict[str, Any]:
    """All that is known of a case's commands, for a machine to read."""
    python, plain = samples[PYTHON], samples[PLAIN]
    return {
        command: {
            "cpu_ms": spread(each.cpu, 1000),
            "cpu_ratio": spread(ratios(each.cpu, python.cpu)),
            "cpu_to_plain": spread(ratios(each.cpu, plain.cpu)),
            "kernel_to_plain": spread(ratios(each.kernel, plain.cpu)),
            "wall_ms": spread(each.wall, 1000),
            "wall_ratio": spread(ratios(each.wall, python.wall)),
            "peak_mib": spread(each.peak, 1 / 1024),
            "children": each.children,
        }
        | beside_reference(samples, command)
        for command, each in samples.items()
    }


def beside_reference(samples: dict[str, Samples], command: str) -> dict[str, Any]:
    """How the command compares with the same of the reference, if that was measured."""
    other = samples.get(REFERENCE.get(command, ""))
    return {"cpu_to_reference": spread(ratios(samples[command].cpu, other.cpu))} if other else {}


HEADINGS = (
    ("", 46),
    ("CPU ms", 9),
    ("× python", 9),
    ("× plain", 9),
    ("wall ms", 10),
    ("× python", 9),
    ("peak MiB", 10),
    ("children", 9),
)


def row(cells: Sequence[str]) -> str:
    label, *figures = cells
    (_, width), *columns = HEADINGS
    return f"{label:<{width}}" + "".join(f"{cell:>{width}}" for cell, (_, width) in zip(figures, columns, strict=True))


def lines(case: Case, found: dict[str, Any], bench: Bench) -> Iterator[str]:
    """A case as the table shows it."""
    yield f"{case.name}, {case.rounds} rounds"
    for command, each in found.items():
        program = os.path.basename(bench.writing(case)[0])
        label = LABELS.get(command, command).format(program=program)
        cpu, wall, peak = each["cpu_ms"]["median"], each["wall_ms"]["median"], each["peak_mib"]["median"]
        hidden = peak * 1024 < bench.floor * 1.05
        yield row((
            f"  {label}",
            f"{cpu:.1f}",
            f"{each['cpu_ratio']['median']:.2f}",
            f"{each['cpu_to_plain']['median']:.2f}",
            f"{wall:.1f}",
            f"{each['wall_ratio']['median']:.2f}",
            f"{'<' if hidden else ''}{peak:.1f}",
            str(each["children"]),
        ))  # fmt: skip
        if "cpu_to_reference" in each:
            yield f"    {each['cpu_to_reference']['median']:.2f} times the CPU of the reference"


def machine(bench: Bench) -> dict[str, Any]:
    """What the figures depend on."""
    said = subprocess.run([bench.restore, "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "iptables": said.strip().split(" ", 1)[1],
    }


def measure(rounds: dict[int, int], report: str = "") -> int:
    """Measure all sizes, print the table, and write the report if one is asked for."""
    with Launcher() as launcher:
        bench = Bench(launcher, script_path(), os.environ.get("REFERENCE", ""))
        facts = machine(bench)
        print("Linux {kernel} on {cpus} CPUs, Python {python}, iptables {iptables}.".format_map(facts))
        print("Medians; × python is the median of the ratios to `python -I -c pass` in the same round, and × plain to")
        print("a first apply of the 1.20.1 pod spec in it.\n")
        print(row([title for title, _ in HEADINGS]))
        found = []
        for case in cases(rounds):
            result = figures(bench.case(case))
            print("\n".join(lines(case, result, bench)), flush=True)
            found.append({"case": case.name, "size": case.size, "rounds": case.rounds, "commands": result})
        node = of_a_node(bench, NODE if max(rounds) > NODE else max(rounds))
        slowed = under_quota(bench, rounds[0])
    floor = bench.floor / 1024
    print(f"< : no more than the {floor:.1f} MiB that any command is charged with by its launcher.")
    count, shares = node["namespaces"], (node[each]["median"] for each in (APPLY, RERUN))
    print("Each of {} namespaces that one process captures: {:.2f} × plain; a rerun: {:.2f}".format(count, *shares))
    for name, each in slowed.items():
        ratio, wall = each["wall_ratio"]["median"], each["wall_ms"]["median"]
        print(f"With {QUOTA} and {MEMORY}: {name}: {wall:.0f} ms of wall time, {ratio:.1f} times python")
    if report:
        whole = {"machine": facts, "peak_floor_mib": round(floor, 3), "cases": found, "node": node, "quota": slowed}
        with open(report, "w", encoding="utf-8") as file:
            json.dump(whole, file, indent=2)
            file.write("\n")
    return 0


# --- a whole node -----------------------------------------------------------------------------------------


def of_a_node(bench: Bench, count: int, rounds: int = 3) -> dict[str, Any]:
    """The CPU of each of so many namespaces that one process captures, and of a rerun, in plain applies."""
    shares: dict[str, list[float]] = {APPLY: [], RERUN: []}
    for _ in range(rounds):
        with ExitStack() as stack:
            home, alone, *pods = (clean_namespace(stack) for _ in range(count + 2))
            names = stack.enter_context(in_memory("".join(f"{pod.name}\n" for pod in pods)))
            apply = [bench.script, *POD_SPEC, "-x", ""]
            plain = bench.launcher.run(alone, apply)
            for each in shares.values():
                many = bench.launcher.run(home, [*apply, "--network-namespace=-"], names)
                each.append(many.cpu / plain.cpu / count)
    return {"namespaces": count} | {name: spread(each) for name, each in shares.items()}


# --- as in a pod ------------------------------------------------------------------------------------------

QUOTA, MEMORY = "a tenth of a CPU (100m)", "50 MiB (50Mi)"
"""What pod specs give an init container."""
LIMITS = {
    "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "10000"},
    "memory": {"memory.limit_in_bytes": "50M"},
}
"""The same for cgroups, version 1, by controller; version 2 has one tree and other names."""
LIMITS_2 = {"cpu.max": "10000 100000", "memory.max": "50M"}
CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def limited() -> Iterator[list[Path]]:
    """Groups with these limits: whoever writes his pid into each of the files has them. None where none can be made."""
    wanted = [(CGROUPS / controller, limits) for controller, limits in LIMITS.items()]
    if (CGROUPS / "cgroup.controllers").exists():
        wanted = [(CGROUPS, LIMITS_2)]
    made: list[Path] = []
    try:
        try:
            for parent, limits in wanted:
                group = parent / f"capture-bench-{os.getpid()}"
                group.mkdir()
                made.append(group)
                for name, value in limits.items():
                    (group / name).write_text(value)
            usable = [group / "cgroup.procs" for group in made]
        except OSError:
            usable = []
        yield usable
    finally:
        for group in made:
            group.rmdir()


INTO = 'for file in $1; do echo $$ >"$file"; done; shift; exec "$@"'


def under_quota(bench: Bench, rounds: int) -> dict[str, Any]:
    """What a first apply takes from exec to exit with a pod's limits, beside bare Python; nothing without cgroups."""
    found: dict[str, Any] = {}
    with limited() as groups:
        within = ["/bin/sh", "-c", INTO, "sh", " ".join(map(str, groups))]
        for name, more in MODES.items() if groups else ():
            took, beside = [], []
            for _ in range(rounds):
                with ExitStack() as stack:
                    namespace = clean_namespace(stack, 2 if "--dual-stack" in more else 1)
                    python = [*within, sys.executable, "-I", "-c", "pass"]
                    beside.append(bench.launcher.run(namespace, python).wall)
                    apply = [*within, bench.script, *POD_SPEC, "-x", "", *more]
                    took.append(bench.launcher.run(namespace, apply).wall)
            found[name] = {"wall_ms": spread(took, 1000), "wall_ratio": spread(ratios(took, beside))}
    return found


# --- the whole of it --------------------------------------------------------------------------------------


def script_path() -> str:
    """The console script, as users run it."""
    return os.path.join(os.path.dirname(sys.executable), "capture")


def obstacles() -> Iterator[str]:
    """Why nothing can be measured here."""
    if not is_root():
        yield "it makes network namespaces, which takes root: sudo make bench"
    for missing in has("ip", "unshare"):
        yield f"{missing} is not installed"
    try:
        with open(script_path(), "rb") as file:
            interpreter = file.readline().decode().removeprefix("#!").strip()
    except FileNotFoundError:
        yield f"there is no {script_path()}; install the project there"
        return
    for program in {interpreter, sys.executable}:
        if not is_binary(program):
            yield f"{program} is not an interpreter but a script in front of one, whose time would be measured too"


def is_binary(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def main(arguments: Sequence[str], rounds: dict[int, int] = ROUNDS) -> int:
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print("usage: python -m tests.bench [FILE.json]", file=sys.stderr)
        return 2
    found = list(obstacles())
    for obstacle in found:
        print(f"The bench cannot run: {obstacle}", file=sys.stderr)
    return 1 if found else guarded(lambda: measure(rounds, *arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
