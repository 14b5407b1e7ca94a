"""`make demo`: a pod made of namespaces, captured, and every connection followed to where it lands, rule by rule."""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture.host.facts import read_facts
from capture.intent.resolve import resolve
from capture.iptables.iptables import OF_IPTABLES, Iptables
from capture.kernel import netns
from capture.kernel.process import run
from capture.settings.declared import Settings
from rules.iptables import reading
from rules.netfilter.targets import Redirect
from rules.netfilter.values import NAT, Family
from rules.plan.names import OURS, PASSTHROUGH
from rules.plan.plan import ruleset
from tests.guard import guarded
from tests.rig import ADDRESSES, APP, PROXY, Landing, Pod, entered
from tests.rig.pod import GATEWAY, has, is_root
from tests.rig.traffic import decoded, encoded, open_socket, original_destination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self, TypeAlias

    from rules.netfilter.rulesets import Rule
    from tests.rig import Namespace

    Endpoint: TypeAlias = tuple[str, int]
    Report: TypeAlias = Callable[[Landing], bool]
    Serve: TypeAlias = Callable[[socket.socket, Landing, Report], None]

ARGUMENTS = (
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*"),
    *("-d", "15090,15021,15020", "--log_output_level=default:info"),
)
"""What Istio 1.20.1 puts into a pod spec."""
OUTBOUND, INBOUND, HEALTH = 15001, 15006, 15021
"""The proxy's listeners."""
POD = ADDRESSES[4]
NAMES = {"app": APP, "proxy": PROXY, "outside": 0}
"""The programs of the demo, and who runs them."""
SERVICES: dict[Endpoint, Endpoint] = {("10.96.0.10", 80): (POD, 8080)}
"""What the proxy was told by its control plane: this service has one endpoint, which is the pod itself."""

PATIENCE = 1.0
"""Seconds after which a connection that nobody answered counts as unanswered."""
MOST_LEGS = 4
"""A request with more connections than this goes round in circles."""
GO, STOP = b"go", b"stop"


# --- what is asked ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """Somebody asks for something, and where a mesh wants each connection on the way to land."""

    story: str
    who: str
    host: str
    port: int
    wanted: tuple[str, ...]


REQUESTS = (
    Request("The app calls a service outside", "app", "9.9.9.9", 80, ("proxy:15001", "outside:80")),
    Request("The app calls a service whose only endpoint is the app itself", "app", "10.96.0.10", 80,
            ("proxy:15001", "proxy:15006", "app:8080")),
    Request("The app calls itself by the pod's address", "app", POD, 8080, ("app:8080",)),
    Request("The app calls itself by localhost", "app", "127.0.0.1", 8080, ("app:8080",)),
    Request("A client outside calls the app", "outside", POD, 8080, ("proxy:15006", "app:8080")),
    Request("The kubelet asks for the proxy's health, on an excluded port", "outside", POD, HEALTH, ("proxy:15021",)),
    Request("The proxy calls its control plane", "proxy", "192.0.2.10", 443, ("outside:443",)),
)  # fmt: skip


@dataclass(frozen=True)
class Met:
    """A rule whose packet counter moved, and its place in its chain."""

    chain: str
    position: int
    rule: Rule


@dataclass(frozen=True)
class Leg:
    """One connection on the way of a request: who opened it, where it landed, and which rules it met."""

    who: str
    landing: Landing
    met: tuple[Met, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    request: Request
    legs: tuple[Leg, ...]
    answer: str

    def complaints(self) -> Iterator[str]:
        """What a mesh would not want, in sentences."""
        landed = tuple(str(leg.landing) for leg in self.legs)
        if landed != self.request.wanted:
            yield f"it should have landed on {', then '.join(self.request.wanted)}"
            return
        asked = (self.request.host, self.request.port)
        first, last = self.legs[0].landing, self.legs[-1].landing
        if first.original != asked:
            yield f"it asked for {named(asked)}, and {first} was told {named(first.original)}"
        if len(self.legs) > 1 and self.legs[-2].landing.port == INBOUND and last.peer != PASSED_FROM:
            yield f"the app should have seen {PASSED_FROM}, not {last.peer}"
        if self.answer != greeting(last.where):
            yield f"it was answered {self.answer or 'nothing'!r}"


PASSED_FROM = str(PASSTHROUGH[Family.V4].network_address)


def named(endpoint: Endpoint | None) -> str:
    return f"{endpoint[0]}:{endpoint[1]}" if endpoint else "nowhere"


def greeting(name: str) -> str:
    """What a program answers at the end of the way."""
    return f"{name}, uid {NAMES.get(name)}"


# --- the programs -----------------------------------------------------------------------------------------


class Program:
    """A process of its own with a uid in a namespace, which serves its ports for the `with` block.

    It reports each connection when it has landed, and goes on when it is told to: so each can be looked at alone.
    """

    def __init__(self, name: str, namespace: Namespace, ports: Sequence[int], serve: Serve) -> None:
        self.name = name
        self.namespace = namespace
        self.ports = ports
        self.serve = serve

    def __enter__(self) -> Self:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            try:
                self._run(theirs)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()
        if self.control.recv(400) != GO:
            self.__exit__(None, None, None)
            raise RuntimeError(f"the program {self.name} did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.control.close()

    def _run(self, control: socket.socket) -> None:
        """The life of the process."""
        netns.enter(self.namespace.path)
        uid = NAMES[self.name]
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        listeners = {port: socket.create_server(("", port)) for port in self.ports}
        for port, listener in listeners.items():
            threading.Thread(target=self._serve_port, args=(port, listener, control), daemon=True).start()
        control.send(GO)
        signal.pause()

    def _serve_port(self, port: int, listener: socket.socket, control: socket.socket) -> None:
        while True:
            accepted, peer = listener.accept()
            landing = Landing(self.name, port, original_destination(accepted), peer[0])
            threading.Thread(target=self._serve_one, args=(accepted, landing, control), daemon=True).start()

    def _serve_one(self, accepted: socket.socket, landing: Landing, control: socket.socket) -> None:
        def report(landing: Landing) -> bool:
            control.send(encoded(landing))
            return control.recv(400) == GO

        with accepted, suppress(ConnectionError):
            if report(landing):
                self.serve(accepted, landing, report)


def application(accepted: socket.socket, landing: Landing, _: Report) -> None:
    """The end of the way: hears the question and says who it is, as it knows it from the kernel."""
    accepted.recv(400)
    accepted.sendall(f"{landing.where}, uid {os.getuid()}".encode())


def proxy(accepted: socket.socket, landing: Landing, report: Report) -> None:
    """Opens a connection of its own to where the captured one was going, and passes question and answer on."""
    if landing.port == HEALTH or landing.original is None:
        application(accepted, landing, report)
        return
    destination = SERVICES.get(landing.original, landing.original)
    with socket.socket() as onward:
        onward.settimeout(PATIENCE)
        try:
            if landing.port == INBOUND:
                onward.bind((PASSED_FROM, 0))
            onward.connect(destination)
        except OSError as error:
            report(failed(error, destination))
            return
        onward.settimeout(None)
        onward.sendall(accepted.recv(400))
        while part := onward.recv(400):
            accepted.sendall(part)


def failed(error: OSError, destination: Endpoint) -> Landing:
    """What there is to tell of a connection that landed nowhere."""
    how = {ConnectionRefusedError: "refused", TimeoutError: "timeout"}.get(type(error), str(error))
    return Landing(how, original=destination)


# --- the kernel's account ---------------------------------------------------------------------------------


class Witness:
    """The kernel's packet counters, read through iptables-save, and the plan, which knows why each rule is there.

    Of a connection only the first packet walks the nat table, so what moved between two looks is what it met.
    """

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        with entered(pod.inside):
            intent = resolve(Settings.load(ARGUMENTS, {}), read_facts({})).intent
            saves = (Iptables(backend, Family.V4).command("save") for backend in OF_IPTABLES)
            self.command = next(save for save in saves if "ISTIO_" in run(save).stdout)
        self.planned = ruleset(intent, Family.V4).table(NAT).chains()
        self.counted = self._counters()

    def moved(self) -> tuple[Met, ...]:
        """The rules that were met since the last look."""
        before, self.counted = self.counted, self._counters()
        return tuple(met for met, packets in self.counted.items() if packets > before.get(met, 0))

    def _counters(self) -> dict[Met, int]:
        with entered(self.pod.inside):
            text = run(self.command, "-c").stdout
        packets = [int(line[1 : line.index(":")]) for line in text.splitlines() if line.startswith("[")]
        live = [
            self._known(block.chain, position, rule)
            for table in reading.tables(text)
            for block in table.blocks
            for position, rule in enumerate(block.rules, 1)
        ]
        return dict(zip(live, packets, strict=True))

    def _known(self, chain: str, position: int, live: Rule) -> Met:
        """The rule as it was planned, with its why. Only what the kernel and the plan agree on is explained."""
        rules = self.planned.get(chain, ())
        planned = rules[position - 1] if position <= len(rules) else None
        return Met(chain, position, planned if planned == live else live)


def deciding(met: Sequence[Met]) -> Met | None:
    """The rule that a person would call the reason: the last one that asked, before the chain that only redirects."""
    asked = [each for each in met if each.chain in OURS[NAT] and not isinstance(each.rule.target, Redirect)]
    return asked[-1] if asked else None


# --- the connections --------------------------------------------------------------------------------------


class Demo:
    """The pod with its programs, and the requests that are made of them."""

    def __init__(self, pod: Pod, programs: Sequence[Program]) -> None:
        self.pod = pod
        self.witness = Witness(pod)
        self.reports = selectors.DefaultSelector()
        for program in programs:
            self.reports.register(program.control, selectors.EVENT_READ, program.control)

    def outcome(self, request: Request) -> Outcome:
        """Make this request and follow it, connection by connection."""
        sender = self.pod.outside if request.who == "outside" else self.pod.inside
        uid = NAMES[request.who]
        with entered(sender):
            opened = open_socket(request.host, "tcp", uid, uid)
        with opened:
            opened.settimeout(PATIENCE)
            try:
                opened.connect((request.host, request.port))
                opened.sendall(b"who are you?")
            except OSError as error:
                landing = failed(error, (request.host, request.port))
                return Outcome(request, (Leg(request.who, landing, self.witness.moved()),), "")
            legs = tuple(self._legs(request.who))
            answer = b""
            with suppress(OSError):
                answer = opened.recv(400)
            return Outcome(request, legs, answer.decode())

    def _legs(self, who: str) -> Iterator[Leg]:
        for number in range(1, MOST_LEGS + 1):
            # The proxy reports its own failure after PATIENCE, so this ends only for a program that hangs.
            heard_of = self.reports.select(2 * PATIENCE)
            if not heard_of:
                yield Leg(who, Landing("timeout"), self.witness.moved())
                return
            control: socket.socket = heard_of[0][0].data
            landing = decoded(control.recv(400))
            yield Leg(who, landing, self.witness.moved())
            control.send(STOP if number == MOST_LEGS else GO)
            if landing.port not in (OUTBOUND, INBOUND):
                return
            who = landing.where


# --- the table --------------------------------------------------------------------------------------------

WIDTH = 120
COLUMNS = (
    ("WHO (UID)", 12),
    ("FROM", 10),
    ("ASKED FOR", 16),
    ("LANDED ON", 11),
    ("DECIDED BY RULE", 15),
    ("BECAUSE", 0),
)
GAP, INDENT = "  ", "    "
WHY_WIDTH = WIDTH - len(INDENT) - sum(width + len(GAP) for _, width in COLUMNS[:-1])
BOLD, DIM, RED, GREEN = "1", "2", "31", "32"


def painted(text: str, colour: str) -> str:
    """In colour if a person reads it and has nothing against colours (no-color.org)."""
    return f"\033[{colour}m{text}\033[m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def row(cells: Sequence[str]) -> str:
    padded = (f"{cell:<{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    return (INDENT + GAP.join(padded)).rstrip()


def lines(outcome: Outcome) -> Iterator[str]:
    """A request as the table shows it."""
    complaints = list(outcome.complaints())
    mark = painted("✗", RED) if complaints else painted("✓", GREEN)
    yield f"{mark} {painted(outcome.request.story, BOLD)}"
    for leg in outcome.legs:
        yield from leg_lines(leg)
    for complaint in complaints:
        yield INDENT + painted(f"✗ {complaint}", RED)


def leg_lines(leg: Leg) -> Iterator[str]:
    met = deciding(leg.met)
    place = f"{met.chain} {met.position}" if met else "no rule"
    why = (met.rule.why or "a rule that is not planned") if met else "no counter moved: no rule was asked"
    landing = leg.landing
    first, *more = textwrap.wrap(why, WHY_WIDTH)
    who = f"{leg.who} ({NAMES[leg.who]})" if leg.who in NAMES else leg.who
    yield row((who, landing.peer or "", named(landing.original), str(landing), place, first))
    for rest in more:
        yield row(("", "", "", "", "", rest))


def command_line(arguments: Sequence[str]) -> str:
    """The command as one would type it, on as many lines as it takes."""
    words = " ".join(map(shlex.quote, ("capture", *arguments)))
    wrapped = textwrap.wrap(words, WIDTH - 8, break_on_hyphens=False, break_long_words=False)
    return " \\\n      ".join(wrapped)


INTRODUCTION = f"""\
A pod ({POD}) is joined by a veth pair to a host outside ({GATEWAY[4]}). In it, a proxy runs as uid {PROXY} and an
application as uid {APP}; then the init container of Istio 1.20.1's pod spec ran, with capture in its place:
"""


# --- the whole of it --------------------------------------------------------------------------------------


def demonstrate() -> int:
    """Do all of it. The exit status is 0 if every connection landed where a mesh wants it."""
    try:
        good = in_a_pod()
    except subprocess.CalledProcessError as error:
        print(f"The demo could not make its pod: {shlex.join(error.cmd)}: {error.stderr.strip()}", file=sys.stderr)
        return 1
    print("The namespaces and everything in them are removed again.")
    return 0 if good else 1


def in_a_pod() -> bool:
    """Make the pod, capture it, and show every request. Whether all landed where a mesh wants them."""
    with ExitStack() as stack:
        pod = stack.enter_context(Pod(ipv6=False))
        programs = [
            stack.enter_context(Program("proxy", pod.inside, (OUTBOUND, INBOUND, HEALTH), proxy)),
            stack.enter_context(Program("app", pod.inside, (8080,), application)),
            stack.enter_context(Program("outside", pod.outside, (80, 443), application)),
        ]
        began = time.perf_counter()
        result = pod.capture(*ARGUMENTS)
        took = time.perf_counter() - began
        if result.status:
            print(result.stderr, end="", file=sys.stderr)
            return False
        return show(Demo(pod, programs), took)


def show(demo: Demo, took: float) -> bool:
    print(INTRODUCTION)
    print(f"  $ {command_line(ARGUMENTS)}")
    print(painted(f"  done in {took * 1000:.0f} ms\n", DIM))
    print(painted(row([title for title, _ in COLUMNS]), DIM))
    bad, connections = 0, 0
    for request in REQUESTS:
        outcome = demo.outcome(request)
        print("\n".join(lines(outcome)), flush=True)
        bad += any(outcome.complaints())
        connections += len(outcome.legs)
    if bad:
        print(painted(f"\n{bad} of {len(REQUESTS)} requests did not go where a mesh wants them, see ✗.", RED))
    else:
        print(f"\nAll {connections} connections of {len(REQUESTS)} requests landed where a mesh wants them.")
    return not bad


def main() -> int:
    if not is_root():
        print("The demo makes network namespaces, which takes root: sudo make demo", file=sys.stderr)
        return 1
    missing = has("ip", "sysctl")
    if missing:
        print(f"The demo needs programs that are not installed: {', '.join(missing)}", file=sys.stderr)
        return 1
    return guarded(demonstrate)


if __name__ == "__main__":
    sys.exit(main())
