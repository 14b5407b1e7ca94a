"""Proving a capture with real connections: `--run-validation`.

Listeners stand where the proxy will, on loopback; every path of `rules.plan.probes` is tried at once, by sockets opened
as the user it is about; and what arrives where decides. A probe that nothing captures does not get far: it carries
a hop limit of 1. Where the rules may be read they are compared with the plan as well, for some decide traffic that
a pod cannot send to itself.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

from capture.apply.transaction import routing_to_add
from capture.errors import CaptureError, ValidationFailed
from capture.host.live import read_live
from capture.kernel.files import read_text
from capture.kernel.iptables import BACKENDS, Iptables
from rules.live.changes import changes
from rules.netfilter.iptables_text import rule_text
from rules.netfilter.values import Family
from rules.plan.probes import paths
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.host.facts import Facts
    from capture.log import Log
    from rules.live.changes import Change
    from rules.netfilter.rulesets import Ruleset
    from rules.plan.intent import Intent
    from rules.plan.plan import Plan
    from rules.plan.probes import Path, Sender

SO_ORIGINAL_DST = 80
LEVEL = {Family.V4: socket.IPPROTO_IP, Family.V6: socket.IPPROTO_IPV6}
LOOPBACK = {Family.V4: "127.0.0.1", Family.V6: "::1"}
ANYWHERE = {Family.V4: "0.0.0.0", Family.V6: "::"}  # noqa: S104 # for the length of a probe, and to bind senders
FAMILY = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
UNTOUCHED_AFTER = 0.15
"""Seconds in which a connection that is captured has arrived: the handshake on loopback takes a thousandth of it."""
FIRST_TRY = 1.0
"""Seconds after which a path is tried once more, if the timeout leaves that much."""
NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL}
PROVED, FAILED, NOT_PROVED = "proved", "FAILED", "not proved"


class Outcome(Value):
    """What was found out about one path."""

    path: Path
    result: str
    """`proved`, `FAILED` or `not proved`."""
    seen: str
    """What happened, or why it could not be tried."""
    seconds: float = 0.0

    def __str__(self) -> str:
        path = self.path
        where = f"[{path.destination}]" if path.family is Family.V6 else str(path.destination)
        what = f"{path.family.value} {path.protocol}, {path.name} ({path.sender.name}) to {where}:{path.port}"
        took = f", {self.seconds * 1000:.1f} ms" if self.seconds else ""
        return f"{self.result}: {what}: {self.seen}{took}"


def validate(intent: Intent, planned: Plan, facts: Facts, probe_port: int, timeout: float, log: Log) -> None:
    """Prove what can be proved here. Raises ValidationFailed if something is not as planned, or nothing was proved.

    `timeout`, in seconds, bounds the whole; when all is well a fraction of a second is enough.
    """
    outcomes = tried(list(paths(intent, probe_port)), intent, facts, probe_port, timeout)
    differences = compared(planned, facts)
    for outcome in outcomes:
        say = log.error if outcome.result == FAILED else log.info
        say(str(outcome))
    for line in unproved(intent, differences):
        log.info(f"{NOT_PROVED}: {line}")
    failed = [outcome for outcome in outcomes if outcome.result == FAILED]
    proved = [outcome for outcome in outcomes if outcome.result == PROVED]
    if failed or differences:
        details = [detail for outcome in failed for detail in failure(outcome)] + (differences or [])
        what = f"the capture does not work: {len(failed)} of {len(outcomes)} paths failed"
        if not failed:
            what = "the rules are not as planned, although every path that could be tried works"
        elif differences:
            what += ", and the rules are not as planned"
        raise ValidationFailed(what, details=details, hint="run capture with the same settings to put the rules right")
    if not proved:
        reasons = sorted({outcome.seen for outcome in outcomes}) or ["there is nothing to capture"]
        raise ValidationFailed("nothing could be proved", details=[("because", reason) for reason in reasons])
    untried = f", the other {len(outcomes) - len(proved)} could not be tried here" if proved != outcomes else ""
    log.info(f"The capture works: {len(proved)} of {len(outcomes)} paths proved{untried}")


def failure(outcome: Outcome) -> list[tuple[str, str]]:
    """What is to be known about a path that failed."""
    path = outcome.path
    expected = f"port {path.lands}" if path.lands else "none of the proxy's ports"
    return [
        ("path", f"{path.family.value} {path.protocol}, {path.name} ({path.sender.name})"),
        ("expected", f"to arrive at {expected}"),
        ("seen", outcome.seen),
        ("the rule", f"-A {path.chain} {rule_text(path.rule)}"),
        ("its why", path.rule.why),
    ]


# --- the rules --------------------------------------------------------------------------------------------


def unproved(intent: Intent, differences: list[tuple[str, str]] | None) -> Iterator[str]:
    """What no socket in the pod can prove."""
    if differences is None:
        rules = "and the rules for it could not be read"
        yield "the rules as such, which only CAP_NET_ADMIN may read"
    else:
        rules = "and the rules are not as planned" if differences else "but the rules for it are as planned"
    if intent.inbound_ports:
        for family in intent.families:
            yield f"{family.value} tcp, from outside: a pod cannot send itself what arrives from outside, {rules}"


def compared(planned: Plan, facts: Facts) -> list[tuple[str, str]] | None:
    """What of the live rules and of the routing differs from the plan; None if we may not read them."""
    try:
        live = read_live(facts)
    except (CaptureError, OSError):
        return None
    if isinstance(live.nft_error, PermissionError):
        return None
    backend = next((backend for backend in BACKENDS if live.holds_ours(backend)), BACKENDS[0])
    details: list[tuple[str, str]] = []
    for ruleset in planned.rulesets:
        now = live.saved(Iptables(backend, ruleset.family)).ruleset
        for change in changes(now, ruleset):
            details += differing(now, ruleset, change)
    return details + [("missing", str(step)) for step in routing_to_add(live, planned)]


def differing(now: Ruleset, planned: Ruleset, change: Change) -> Iterator[tuple[str, str]]:
    """The planned rules of one table that are not there; or that those that are there are not the planned ones."""
    live, wanted = now.table(change.table).chains(), planned.table(change.table).chains()
    missing = [(chain, rule) for chain, rules in wanted.items() for rule in rules if rule not in live.get(chain, ())]
    for chain, rule in missing:
        yield "missing", f"{now.family.value} {change.table}: -A {chain} {rule_text(rule)}"
        yield "its why", rule.why
    if not missing:
        yield "differs", f"{now.family.value} {change.table}: rules out of order, repeated, or not planned"


# --- the connections --------------------------------------------------------------------------------------


def tried(asked: Sequence[Path], intent: Intent, facts: Facts, probe_port: int, timeout: float) -> list[Outcome]:
    """Try these paths, all at once; and those that failed once more.

    Conntrack may still know the addresses and ports of a probe from an earlier run, which nobody answered and other
    rules decided: then it decides as it did. The second probe has another port.
    """
    began = time.monotonic()
    first = attempted(asked, intent, facts, probe_port, min(timeout / 2, FIRST_TRY))
    again = [outcome.path for outcome in first if outcome.result == FAILED]
    if not again:
        return first
    left = timeout - (time.monotonic() - began)
    second = {outcome.path: outcome for outcome in attempted(again, intent, facts, probe_port, left)}
    return [second.get(outcome.path, outcome) for outcome in first]


def attempted(asked: Sequence[Path], intent: Intent, facts: Facts, probe_port: int, timeout: float) -> list[Outcome]:
    attempt = _Attempt(timeout)
    try:
        attempt.listen(intent, probe_port)
        for path in asked:
            reason = cannot_be(path.sender) or is_excluded(path, intent, facts)
            if reason:
                attempt.outcomes[path] = Outcome(path, NOT_PROVED, reason)
            else:
                attempt.begin(path)
        attempt.watch()
        return [attempt.outcomes[path] for path in asked]
    finally:
        attempt.close()


class _Probe:
    """A path under way."""

    def __init__(self, path: Path, opened: socket.socket) -> None:
        self.path = path
        self.socket = opened
        self.error = 0
        self.began = time.monotonic()


class _Attempt:
    """Listeners, probes, and what arrived."""

    def __init__(self, timeout: float) -> None:
        self.deadline = time.monotonic() + timeout
        self.listeners: dict[int, tuple[socket.socket, int]] = {}
        """By file descriptor: the socket, and the port it stands for."""
        self.unavailable: dict[tuple[Family, int], str] = {}
        """Ports that somebody else listens on, and why ours could not."""
        self.probes: dict[tuple[str, str, int], _Probe] = {}
        """By protocol, local address and port, by which a listener knows them again. Two may share a port alone."""
        self.outcomes: dict[Path, Outcome] = {}
        self.poll = select.poll()

    def close(self) -> None:
        for listener, _ in self.listeners.values():
            listener.close()
        for probe in self.probes.values():
            probe.socket.close()

    # --- listening ----------------------------------------------------------------------------------------

    def listen(self, intent: Intent, probe_port: int) -> None:
        """Stand in for the proxy on loopback, and for an application at the probe port."""
        for family in intent.families:
            self.open(family, intent.proxy_port, "tcp", LOOPBACK[family])
            self.open(family, intent.inbound_capture_port, "tcp", LOOPBACK[family])
            self.open(family, probe_port, "tcp", ANYWHERE[family])
            if intent.captures_dns(family):
                own = [str(a) for a in intent.dns_capture_address if (a.version == 6) == (family is Family.V6)]
                for protocol in ("tcp", "udp"):
                    self.open(family, intent.dns_capture_port, protocol, *(own or [LOOPBACK[family]]))

    def open(self, family: Family, port: int, protocol: str, host: str) -> None:
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        listener = socket.socket(FAMILY[family], kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is Family.V6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, port))
            if protocol == "tcp":
                listener.listen(socket.SOMAXCONN)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            self.unavailable[family, port] = f"cannot listen on port {port}: {error.strerror}"
            return
        self.listeners[listener.fileno()] = (listener, port)
        self.poll.register(listener, select.POLLIN)

    # --- sending ------------------------------------------------------------------------------------------

    def begin(self, path: Path) -> None:
        """Send it off, or say why that cannot be tried."""
        reason = self.unavailable.get((path.family, path.lands))
        if reason:
            self.outcomes[path] = Outcome(path, NOT_PROVED, reason)
            return
        opened = open_as(path.sender, path)
        probe = _Probe(path, opened)
        try:
            opened.setblocking(False)
            limit = socket.IP_TTL if path.family is Family.V4 else socket.IPV6_UNICAST_HOPS
            opened.setsockopt(LEVEL[path.family], limit, 1)
            # Bound before it connects, it has an address and port that no other probe has; connecting alone may share.
            opened.bind((str(path.source or ANYWHERE[path.family]), 0))
            opened.connect((str(path.destination), path.port))
        except BlockingIOError:
            pass
        except OSError as error:
            opened.close()
            if error.errno in NO_ROUTE:
                self.outcomes[path] = Outcome(path, NOT_PROVED, f"there is no way to {path.destination} from here")
                return
            self.settle(probe, f"connecting failed: {error.strerror}", landed=None)
            return
        if path.protocol == "udp":
            try:
                opened.send(b"\0")
            except OSError as error:
                probe.error = error.errno or 0
        own = opened.getsockname()
        self.probes[path.protocol, own[0], own[1]] = probe

    # --- watching -----------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Until every path is decided, or time is up."""
        began = time.monotonic()
        while undecided := [probe for probe in self.probes.values() if probe.path not in self.outcomes]:
            now = time.monotonic()
            waits_for_arrival = any(probe.path.lands for probe in undecided)
            until = self.deadline if waits_for_arrival else min(began + UNTOUCHED_AFTER, self.deadline)
            if now >= until:
                break
            for file, _ in self.poll.poll(min(until - now, UNTOUCHED_AFTER) * 1000):
                self.arrived(*self.listeners[file])
            for probe in undecided:
                error = probe.error or probe.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error and probe.path not in self.outcomes:
                    self.settle(probe, f"it was answered with an error ({os.strerror(error)})", landed=None)
        for probe in self.probes.values():
            if probe.path not in self.outcomes:
                self.settle(probe, "it went its own way", landed=0)

    def arrived(self, listener: socket.socket, port: int) -> None:
        """Somebody arrived: one of our probes, or a stranger, who is let go."""
        family = Family.V6 if listener.family == socket.AF_INET6 else Family.V4
        try:
            if listener.type == socket.SOCK_DGRAM:
                _, peer = listener.recvfrom(16)
                probe = self.probes.get(("udp", peer[0], peer[1]))
                original = None
            else:
                accepted, peer = listener.accept()
                with accepted:
                    probe = self.probes.get(("tcp", peer[0], peer[1]))
                    original = original_destination(accepted, family)
        except OSError:
            return
        if probe is None or probe.path in self.outcomes:
            return
        path = probe.path
        if original and original != (str(path.destination), path.port):
            self.settle(
                probe, f"it arrived at port {port}, but as a connection to {original[0]}:{original[1]}", landed=-1
            )
        else:
            self.settle(probe, f"it arrived at port {port}", landed=port)

    def settle(self, probe: _Probe, seen: str, *, landed: int | None) -> None:
        """Decide a path by the port at which it arrived: 0 for none in time, None for an error, -1 for a wrong way."""
        path = probe.path
        elapsed = time.monotonic() - probe.began
        if path.lands:
            expected: tuple[int | None, ...] = (path.lands,)
        else:
            # At none of the proxy's ports: beyond the pod, where we cannot see it, or at its own destination.
            expected = (0, None) if path.leaves else (path.port,)
        good = landed in expected
        self.outcomes[path] = Outcome(path, PROVED if good else FAILED, seen, elapsed)


def cannot_be(sender: Sender) -> str:
    """Why we cannot open a socket as this user and group, if we cannot."""
    if (os.geteuid(), os.getegid()) == (sender.uid, sender.gid) or (os.geteuid() == 0 and can_change_ids()):
        return ""
    return f"becoming uid {sender.uid}, gid {sender.gid} takes root with CAP_SETUID and CAP_SETGID"


def is_excluded(path: Path, intent: Intent, facts: Facts) -> str:
    """Why this path says nothing of the capture: it would leave on an interface where nothing is captured."""
    if not (path.leaves and path.lands and intent.exclude_interfaces):
        return ""
    name = interface_to(path, facts)
    excluded = any(
        name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
        for pattern in intent.exclude_interfaces
    )
    return f"nothing is captured on {name}, by which it would leave" if excluded else ""


def interface_to(path: Path, facts: Facts) -> str:
    """The interface by which the kernel would send to this destination; empty if there is no way."""
    with socket.socket(FAMILY[path.family], socket.SOCK_DGRAM) as unsent:
        try:
            unsent.connect((str(path.destination), path.port))
        except OSError:
            return ""
        own = unsent.getsockname()[0]
    return next((socket.if_indextoname(a.interface) for a in facts.addresses or () if str(a.ip) == own), "")


def can_change_ids() -> bool:
    """Whether we have the capabilities that make root root in this respect (capabilities(7))."""
    try:
        status = read_text("/proc/self/status").split("\n")
    except OSError:
        return False
    effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    setgid, setuid = 1 << 6, 1 << 7
    return effective & setgid != 0 and effective & setuid != 0


def open_as(sender: Sender, path: Path) -> socket.socket:
    """A socket that belongs to this user: xt_owner asks for the credentials with which it was opened."""
    kind = socket.SOCK_STREAM if path.protocol == "tcp" else socket.SOCK_DGRAM
    if os.geteuid() != 0:
        return socket.socket(FAMILY[path.family], kind)
    gid = os.getegid()
    os.setegid(sender.gid)
    os.seteuid(sender.uid)
    try:
        return socket.socket(FAMILY[path.family], kind)
    finally:
        os.seteuid(0)
        os.setegid(gid)


def original_destination(accepted: socket.socket, family: Family) -> tuple[str, int] | None:
    """Where the client was going before it was redirected; None if the kernel does not say."""
    try:
        if family is Family.V4:
            raw = accepted.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack(">H", raw[2:4])[0]
        raw = accepted.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack(">H", raw[2:4])[0]
    except OSError:
        return None
