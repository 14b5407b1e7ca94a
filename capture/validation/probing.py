"""The connections that prove a capture: opened as the user that each is about, all at once, and where they arrive.

Listeners of ours stand where the proxy will. Where somebody listens already, be it the proxy or another validation, his
are used: what the kernel tells of the sockets of this namespace, and of the connections that conntrack has seen, shows
where a probe landed. A probe is known by its own address and port, which nobody else has.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from contextlib import contextmanager

from capture.host.neighbours import host_of
from capture.netlink import sockets
from rules.addresses import ip_address
from rules.netfilter.values import Family
from rules.simulator.expected import expected
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from capture.host.facts import Facts
    from capture.netlink.events import Subscription
    from rules.addresses import IPv4Address, IPv6Address
    from rules.analysis.probes import Path, Sender
    from rules.plan.intent import Intent
    from rules.plan.plan import Plan

    Sent: TypeAlias = tuple[str, IPv4Address | IPv6Address, int]

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
NOBODY_THERE = {errno.ECONNREFUSED, errno.ECONNRESET}
FIRST_FREE_PORT = 1024
"""Below it, listening takes a capability (ip_unprivileged_port_start)."""
PORTS_TRIED = 100
"""Ports that are drawn until one is free; most of them are."""
QUERY = b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07capture\x07invalid\x00\x00\x01\x00\x01"
"""A question for the address of `capture.invalid`, which nobody has (RFC 6761), behind its number (RFC 1035)."""
PROVED, FAILED, NOT_PROVED = "proved", "FAILED", "not proved"


class Outcome(Value):
    """What was found out about one path."""

    path: Path
    result: str
    """`proved`, `FAILED` or `not proved`."""
    seen: str
    """What happened, or why it could not be tried."""
    seconds: float = 0.0
    is_final: bool = True
    """Whether trying again soon would not help: false where somebody else's listener went away meanwhile."""

    def __str__(self) -> str:
        path = self.path
        where = f"[{path.destination}]" if path.family is Family.V6 else str(path.destination)
        what = f"{path.family.value} {path.protocol}, {path.name} ({path.sender.name}) to {where}:{path.port}"
        took = f", {self.seconds * 1000:.1f} ms" if self.seconds else ""
        return f"{self.result}: {what}: {self.seen}{took}"


# --- the application --------------------------------------------------------------------------------------


@contextmanager
def application(intent: Intent, wanted: int) -> Iterator[tuple[int, list[socket.socket]]]:
    """Listeners that stand in for an application, and their port: the wanted one, if it is free and captured.

    Any other that is free serves as well. Without one, the wanted port and no listeners.
    """
    opened: list[socket.socket] = []
    try:
        for port in ports_to_try(intent, wanted):
            try:
                # Appended one by one: if the second is refused, the first is known, and closed.
                for family in intent.families:
                    opened.append(listening(family, port, "tcp", ANYWHERE[family]))  # noqa: PERF401 # see above
            except OSError:
                while opened:
                    opened.pop().close()
                continue
            yield port, opened
            return
        yield wanted, opened
    finally:
        for each in opened:
            each.close()


def ports_to_try(intent: Intent, wanted: int) -> Iterator[int]:
    """Ports that the proxy does not have and that are not excluded, the wanted one first if it is such a one."""
    own = (intent.proxy_port, intent.inbound_capture_port, intent.inbound_tunnel_port, intent.dns_capture_port, 53)
    useless = sorted([*((each, each) for each in own), *((e.first, e.last) for e in intent.outbound_ports_exclude)])
    if not any(first <= wanted <= last for first, last in useless):
        yield wanted
    at, free = FIRST_FREE_PORT, []
    for first, last in [*useless, (65536, 65536)]:
        if at < first:
            free.append(range(at, first))
        at = max(at, last + 1)
    # Where every port is excluded, one that is shows at least that.
    free = free or [range(FIRST_FREE_PORT, 65536)]
    for _ in range(PORTS_TRIED):
        drawn = int.from_bytes(os.urandom(4), "big") % sum(map(len, free))
        for each in free:
            if drawn < len(each):
                yield each[drawn]
                break
            drawn -= len(each)


def listening(family: Family, port: int, protocol: str, host: str) -> socket.socket:
    """A listener of ours, which others know as such. Raises OSError."""
    opened = socket.socket(FAMILY[family], socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(protocol == "tcp"))
        if family is Family.V6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((host, port))
        sockets.mark_as_stand_in(opened)
        if protocol == "tcp":
            opened.listen(socket.SOMAXCONN)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


# --- trying -----------------------------------------------------------------------------------------------


class Trial(Value):
    """What all attempts have in common."""

    intent: Intent
    planned: Plan
    facts: Facts
    port: int
    """The application's."""
    application: list[socket.socket]
    """The application's listeners."""


def tried(wanted: Sequence[Path], trial: Trial, timeout: float) -> list[Outcome]:
    """Try these paths, all at once; and those that failed once more.

    Conntrack may still know the addresses and ports of a probe from an earlier run, which nobody answered and other
    rules decided: then it decides as it did. The second probe has another port. Where a listener that is not ours went
    away under a probe, it is tried until time is up.
    """
    until = time.monotonic() + timeout
    outcomes: dict[str, Outcome] = {}
    again, attempts = list(wanted), 0
    while again and (left := until - time.monotonic()) > 0:
        attempts += 1
        is_last = attempts > 1 and all(outcome.is_final for outcome in outcomes.values())
        limit = left if is_last else min(FIRST_TRY, left / 2 if attempts == 1 else left)
        found = attempted(again, trial, limit)
        outcomes.update(zip(map(key, again), found, strict=True))
        again = [
            path
            for path, outcome in zip(again, found, strict=True)
            if outcome.result == FAILED and (attempts == 1 or not outcome.is_final)
        ]
    return [outcomes[key(path)] for path in wanted]


def is_for_an_application(path: Path) -> bool:
    """Whether it would come to the stand-in for an application if it were not captured, as it should be."""
    return path.protocol == "tcp" and bool(path.lands) and not path.leaves


def key(path: Path) -> str:
    """What tells a path from the others. Hashing its rule would take longer than trying it."""
    return repr((path.name, path.family, path.protocol, path.sender, path.destination, path.port, path.source))


def attempted(wanted: Sequence[Path], trial: Trial, timeout: float) -> list[Outcome]:
    attempt = _Attempt(trial.application, timeout)
    try:
        attempt.listen(trial.intent, trial.port)
        for path in wanted:
            attempt.try_or_say_why_not(path, trial)
        attempt.watch()
        return [attempt.outcomes[key(path)] for path in wanted]
    finally:
        attempt.close()


class _Probe:
    """A path under way."""

    def __init__(self, path: Path, opened: socket.socket) -> None:
        self.path = path
        self.socket = opened
        self.began = time.monotonic()
        self.is_watched = False
        self.is_connected = False


class _Attempt:
    """Listeners, probes, and what arrived."""

    def __init__(self, application: Sequence[socket.socket], timeout: float) -> None:
        self.deadline = time.monotonic() + timeout
        self.application = application
        self.listeners: dict[int, tuple[socket.socket, int]] = {}
        """By file descriptor: the socket, and the port it stands for."""
        self.foreign: dict[tuple[Family, str, int], str] = {}
        """Ports that somebody else has, by family and protocol, and why we cannot listen there."""
        self.probes: dict[Sent, _Probe] = {}
        """By protocol, own address and port. Two may share a port alone."""
        self.by_file: dict[int, _Probe] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.poll = select.poll()
        self.conntrack: Subscription | None = None

    def close(self) -> None:
        for listener, _ in self.listeners.values():
            if listener not in self.application:
                listener.close()
        for probe in self.probes.values():
            probe.socket.close()
        if self.conntrack:
            self.conntrack.close()

    # --- listening ----------------------------------------------------------------------------------------

    def listen(self, intent: Intent, port: int) -> None:
        """Stand in for the proxy on loopback, where it does not listen itself."""
        for each in self.application:
            self.register(each, port)
        for family in intent.families:
            self.open(family, intent.proxy_port, "tcp", LOOPBACK[family])
            self.open(family, intent.inbound_capture_port, "tcp", LOOPBACK[family])
            if intent.captures_dns(family):
                own = [str(a) for a in intent.dns_capture_address if (a.version == 6) == (family is Family.V6)]
                for protocol in ("tcp", "udp"):
                    self.open(family, intent.dns_capture_port, protocol, *(own or [LOOPBACK[family]]))
        if self.foreign:
            from capture.netlink import events

            try:
                self.conntrack = events.connections()
                self.poll.register(self.conntrack, select.POLLIN)
            except OSError:
                self.conntrack = None

    def open(self, family: Family, port: int, protocol: str, host: str) -> None:
        try:
            self.register(listening(family, port, protocol, host), port)
        except OSError as error:
            self.foreign[family, protocol, port] = f"cannot listen on port {port}: {error.strerror}"

    def register(self, listener: socket.socket, port: int) -> None:
        self.listeners[listener.fileno()] = (listener, port)
        self.poll.register(listener, select.POLLIN)

    # --- sending ------------------------------------------------------------------------------------------

    def try_or_say_why_not(self, path: Path, trial: Trial) -> None:
        if nothing_is_captured_on := excluded_interface(path, trial.intent, trial.facts):
            why = f"nothing is captured on {nothing_is_captured_on}, by which it would leave"
            self.outcomes[key(path)] = Outcome(path, NOT_PROVED, why)
            return
        if not (path.leaves or path.lands or self.application):
            self.outcomes[key(path)] = Outcome(path, NOT_PROVED, "no port is free for an application to listen on")
            return
        try:
            opened = open_as(path.sender, path)
        except OSError as error:
            self.outcomes[key(path)] = Outcome(path, NOT_PROVED, cannot_be(path.sender, error))
            return
        self.begin(path, opened)

    def begin(self, path: Path, opened: socket.socket) -> None:
        """Send it off, or say why that cannot be tried."""
        probe = _Probe(path, opened)
        error: OSError | None = None
        try:
            opened.setblocking(False)
            limit = socket.IP_TTL if path.family is Family.V4 else socket.IPV6_UNICAST_HOPS
            opened.setsockopt(LEVEL[path.family], limit, 1)
            # Bound before it connects, it has an address and port that no other probe has; connecting alone may share.
            opened.bind((str(path.source or ANYWHERE[path.family]), 0))
            opened.connect((str(path.destination), path.port))
            if path.protocol == "udp":
                opened.send(os.urandom(2) + QUERY)
        except BlockingIOError:
            pass
        except OSError as refused:
            error = refused
        own = opened.getsockname()
        self.probes[path.protocol, ip_address(own[0].partition("%")[0]), own[1]] = probe
        self.by_file[opened.fileno()] = probe
        if error and error.errno in NO_ROUTE:
            self.outcomes[key(path)] = Outcome(path, NOT_PROVED, f"there is no way to {path.destination} from here")
        elif error:
            self.failed(probe, error.errno or 0)
        else:
            probe.is_watched = True
            self.poll.register(opened, select.POLLOUT if path.protocol == "tcp" else select.POLLERR)

    # --- watching -----------------------------------------------------------------------------------------

    def undecided(self) -> list[_Probe]:
        return [probe for probe in self.probes.values() if key(probe.path) not in self.outcomes]

    def watch(self) -> None:
        """Until every path is decided, or time is up."""
        began = time.monotonic()
        while undecided := self.undecided():
            now = time.monotonic()
            waits_for_arrival = any(probe.path.lands for probe in undecided)
            until = self.deadline if waits_for_arrival else min(began + UNTOUCHED_AFTER, self.deadline)
            if now >= until:
                break
            ready = dict(self.poll.poll(min(until - now, UNTOUCHED_AFTER) * 1000))
            for file in ready:
                if file in self.listeners:
                    self.arrived(*self.listeners[file])
            self.look_at_conntrack()
            connected = [self.connected(self.by_file[file]) for file in ready if file in self.by_file]
            if self.foreign and any(connected):
                self.look_at_sockets()
        self.look_at_conntrack()
        if self.foreign and self.undecided():
            self.look_at_sockets()
        for probe in self.undecided():
            self.stayed_away(probe)

    def connected(self, probe: _Probe) -> bool:
        """Whether a probe has an answer, be it a connection or an error."""
        error = probe.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if probe.is_watched:
            # From here on only a listener, conntrack or the list of sockets can tell more.
            self.poll.unregister(probe.socket)
            probe.is_watched = False
        if error and key(probe.path) not in self.outcomes:
            self.failed(probe, error)
        probe.is_connected = not error
        return not error

    def arrived(self, listener: socket.socket, port: int) -> None:
        """Somebody arrived: one of our probes, or a stranger, who is let go."""
        family = Family.V6 if listener.family == socket.AF_INET6 else Family.V4
        try:
            if listener.type == socket.SOCK_DGRAM:
                _, peer = listener.recvfrom(16)
                probe = self.probes.get(("udp", ip_address(peer[0].partition("%")[0]), peer[1]))
                original = None
            else:
                accepted, peer = listener.accept()
                with accepted:
                    probe = self.probes.get(("tcp", ip_address(peer[0].partition("%")[0]), peer[1]))
                    original = original_destination(accepted, family)
        except OSError:
            return
        if probe is None or key(probe.path) in self.outcomes:
            return
        path = probe.path
        if original and original != (str(path.destination), path.port):
            self.settle(
                probe, f"it arrived at port {port}, but as a connection to {original[0]}:{original[1]}", landed=-1
            )
        else:
            self.settle(probe, f"it arrived at port {port}", landed=port)

    def look_at_sockets(self) -> None:
        """Whom the probes are connected with, if that is somebody in this namespace."""
        try:
            found = sockets.connections(ended=True)
        except OSError:
            return
        for each in found:
            probe = self.probes.get(("tcp", each.peer, each.peer_port))
            if probe and key(probe.path) not in self.outcomes:
                self.settle(probe, f"it arrived at port {each.port}, where somebody listens already", landed=each.port)

    def look_at_conntrack(self) -> None:
        """Where new connections were sent, as far as the kernel has told by now."""
        if not self.conntrack:
            return
        from capture.netlink import events

        for kind, body in self.conntrack.waiting():
            seen = events.connection(kind, body)
            probe = seen and self.probes.get((seen.protocol, seen.source, seen.source_port))
            if not seen or not probe or key(probe.path) in self.outcomes:
                continue
            port = seen.answered_by_port
            if seen.is_redirected and (seen.family, seen.protocol, port) in self.foreign:
                self.settle(probe, f"it was sent to port {port}", landed=port)
            elif not seen.is_redirected and probe.path.protocol == "udp" and probe.path.leaves:
                self.settle(probe, "it went its own way", landed=0)

    # --- deciding -----------------------------------------------------------------------------------------

    def failed(self, probe: _Probe, error: int) -> None:
        """It was answered with an error: by somebody on its way, or because nobody listens any more."""
        foreign = self.foreign_to(probe.path)
        seen = f"it was answered with an error ({os.strerror(error)})"
        if error in NOBODY_THERE and foreign and probe.path.lands:
            self.look_at_conntrack()
            if key(probe.path) not in self.outcomes:
                self.outcomes[key(probe.path)] = Outcome(probe.path, FAILED, f"{foreign}; {seen}", is_final=False)
        else:
            self.settle(probe, seen, landed=None)

    def stayed_away(self, probe: _Probe) -> None:
        """It arrived nowhere that we see. Where a datagram arrives at somebody else's socket, only conntrack tells."""
        foreign = self.foreign_to(probe.path)
        if probe.is_connected and probe.path.protocol == "tcp" and probe.path.lands:
            seen = "somebody took it who was gone before he could be seen"
            self.outcomes[key(probe.path)] = Outcome(probe.path, FAILED, seen, is_final=False)
        elif foreign and self.application and is_for_an_application(probe.path):
            # Not captured, it would have come to the listener that stands in for the application.
            why = f"{foreign}, and whoever does took no connection in time"
            self.outcomes[key(probe.path)] = Outcome(probe.path, NOT_PROVED, why)
        elif foreign and probe.path.protocol == "udp" and not self.conntrack:
            why = f"{foreign}, and where a datagram arrives, conntrack tells only those who have CAP_NET_ADMIN"
            self.outcomes[key(probe.path)] = Outcome(probe.path, NOT_PROVED, why)
        else:
            self.settle(probe, "it went its own way", landed=0)

    def foreign_to(self, path: Path) -> str:
        """Why we do not see ourselves whether it arrives at the proxy, if we do not."""
        ours = (
            why
            for (family, protocol, port), why in self.foreign.items()
            if (family, protocol) == (path.family, path.protocol) and path.lands in (0, port)
        )
        return next(ours, "")

    def settle(self, probe: _Probe, seen: str, *, landed: int | None) -> None:
        """Decide a path by the port at which it arrived: 0 for none in time, None for an error, -1 for a wrong way."""
        path = probe.path
        elapsed = time.monotonic() - probe.began
        if path.lands:
            expected_at: tuple[int | None, ...] = (path.lands,)
        else:
            # At none of the proxy's ports: beyond the pod, where we cannot see it, or at its own destination.
            expected_at = (0, None) if path.leaves else (path.port,)
        result = PROVED if landed in expected_at else FAILED
        self.outcomes[key(path)] = Outcome(path, result, seen, elapsed)


# --- who sends, and which way -----------------------------------------------------------------------------


def open_as(sender: Sender, path: Path) -> socket.socket:
    """A socket of this user: xt_owner asks for the credentials with which it was opened. Raises OSError."""
    kind = socket.SOCK_STREAM if path.protocol == "tcp" else socket.SOCK_DGRAM
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        is_sender = uid == sender.uid and (gid == sender.gid or sender.gid_does_not_matter)
        if not is_sender:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return socket.socket(FAMILY[path.family], kind)
    try:
        os.setegid(sender.gid)
        os.seteuid(sender.uid)
        return socket.socket(FAMILY[path.family], kind)
    finally:
        os.seteuid(uid)
        os.setegid(gid)


def cannot_be(sender: Sender, error: OSError) -> str:
    """Why a socket could not be opened as this user and group."""
    if error.errno == errno.EPERM:
        return f"becoming uid {sender.uid}, gid {sender.gid} takes root with CAP_SETUID and CAP_SETGID"
    if error.errno == errno.EINVAL:
        return f"this user namespace does not map uid {sender.uid} or gid {sender.gid}"
    return f"no socket can be opened as uid {sender.uid}, gid {sender.gid}: {error.strerror}"


def as_planned(wanted: Sequence[Path], trial: Trial) -> Iterator[Path]:
    """These paths with where all rules together send them; without those of which the rules do not tell."""
    around = host_of(trial.facts.addresses or (), passthrough=trial.planned.passthrough_address)
    for path in wanted:
        interface = "lo" if around.is_local(path.destination) else interface_to(path, trial.facts)
        predicted = expected(path, trial.planned.rulesets, around, interface or around.default_interface)
        if predicted is not None:
            # What is not captured on an interface is told as not proved, and is no other path.
            excluded = excluded_interface(path, trial.intent, trial.facts)
            # At an address of ours it reaches the application, not the outside.
            leaves = path.leaves and not (around.is_local(path.destination) and path.port == trial.port)
            yield (path if excluded else predicted).but(leaves=leaves)


def excluded_interface(path: Path, intent: Intent, facts: Facts) -> str:
    """The interface by which this path would leave, if nothing is captured there: it says nothing of the capture."""
    if not (path.lands and intent.exclude_interfaces):
        return ""
    name = interface_to(path, facts) if path.leaves else "lo"
    excluded = any(
        name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
        for pattern in intent.exclude_interfaces
    )
    return name if excluded else ""


def interface_to(path: Path, facts: Facts) -> str:
    """The interface by which the kernel would send to this destination; empty if there is no way."""
    with socket.socket(FAMILY[path.family], socket.SOCK_DGRAM) as unsent:
        try:
            unsent.connect((str(path.destination), path.port))
        except OSError:
            return ""
        own = unsent.getsockname()[0]
    return next((socket.if_indextoname(a.interface) for a in facts.addresses or () if str(a.ip) == own), "")


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
