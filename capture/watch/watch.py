"""Following a capture: its counters, the connections that are made, and the moment at which it drifts.

Sleeps until the kernel tells of something or an interval is over. The rules are read again only if something can have
moved: where the kernel does not tell (the legacy backend has no events), once in every interval.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from capture.host.live import choose_backend
from capture.inspect.verify import findings_of, others_in_the_way, others_routing, read
from capture.iptables.iptables import BACKENDS, Iptables
from capture.kernel.files import read_text
from capture.netlink import events
from capture.watch.keys import ends
from rules.connections.attribution import Decision, decided_by, decisions, is_outbound
from rules.iptables.counters import Count
from rules.live.drift import Finding, Kind, compare, not_tracked
from rules.native.compiled import as_held
from rules.netfilter.values import Family
from rules.ours.reasons import explained
from rules.ours.recognition import ours_in
from rules.plan.names import LOOPBACK_INTERFACE, PASSTHROUGH, PROTOCOL
from rules.routing.policy import LOCAL, ip_command
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import ClassVar, Literal

    from capture.host.facts import Facts
    from capture.host.live import Live
    from capture.log import Log
    from capture.settings.declared import Settings
    from rules.connections.attribution import Connection
    from rules.iptables.counters import Place
    from rules.netfilter.rulesets import Ruleset
    from rules.plan.plan import Plan

    Tool: TypeAlias = tuple[str, Family]
    Drift: TypeAlias = Callable[[Live], tuple[Finding, ...]]
    Reference: TypeAlias = Literal["the settings", "the start"]

QUIET, LONGEST_QUIET = 0.05, 0.5
"""Seconds without a further change after which a change counts as made, and how long is waited for that at most."""
UNTOLD = 10
"""Intervals after which the counters are read even if the kernel told of nothing."""
MOST_CONNECTIONS = 1000
"""New connections that are kept of one interval; more are counted."""
EVENTS_OFF = "/proc/sys/net/netfilter/nf_conntrack_events"


class Seen(Value):
    """A new connection, and what is known of who decided about it."""

    connection: Connection
    is_outbound: bool
    decided_by: tuple[Decision, ...]
    """The rule that decided. Several if conntrack does not know enough to tell, none if no rule of ours counted."""
    is_certain: bool = True
    """Whether these rules counted as often as connections are laid to them."""

    @property
    def direction(self) -> Literal["out", "in"]:
        """out: a process of the namespace made it."""
        return "out" if self.is_outbound else "in"

    @property
    def captured(self) -> bool | None:
        """Whether a rule of ours gave it to the proxy; None if that cannot be told."""
        captures = {decision.captures for decision in self.decided_by}
        if not captures:
            return False
        return captures.pop() if len(captures) == 1 and self.is_certain else None

    @property
    def redirected_by_others(self) -> bool:
        """Whether somebody else's rule changed where it goes."""
        return self.connection.is_redirected and not self.decided_by


class Row(Value):
    """A rule that decides, and how often it has."""

    family: Family
    """Whose rule it is."""
    decision: Decision
    """The rule."""
    total: int
    """Packets since the rule was made."""
    since_start: int
    """Packets since the watch began."""
    packets: int
    """In this interval; in the nat table each stands for a connection."""


class Tick(Value):
    """What happened in one interval."""

    seconds: float
    """How long the counters had not been read; 0 if they were not read now."""
    rows: tuple[Row, ...]
    """Every rule that decides and has counted."""
    seen: tuple[Seen, ...]
    """The new connections, in order."""
    more: int
    """How many more there were that are not listed."""
    drift: tuple[Finding, ...]
    """What differs now."""
    drift_is_new: bool
    """Whether that is other than in the interval before."""
    changed_by: tuple[str, ...]
    """The programs that changed nf_tables in this interval, where the kernel tells."""


# --- the lines for programs ---------------------------------------------------------------------------------


class Note(Value):
    """What this watch cannot see; said once."""

    time: str
    """RFC 3339 in UTC."""
    text: str
    """In words."""
    event: Literal["note"] = "note"
    """Tells the kinds of lines apart."""

    TOLD: ClassVar = ("event", "time", "text")


class Made(Value):
    """A new connection."""

    time: str
    """RFC 3339 in UTC: the end of the interval in which it was made."""
    seen: Seen
    event: Literal["connection"] = "connection"
    """Tells the kinds of lines apart."""

    TOLD: ClassVar = (
        "event",
        "time",
        "seen.connection.family",
        "seen.connection.protocol",
        "seen.direction",
        "seen.connection.source",
        "seen.connection.source_port",
        "seen.connection.destination",
        "seen.connection.destination_port",
        "seen.connection.answered_by",
        "seen.connection.answered_by_port",
        "seen.captured",
        "seen.redirected_by_others",
        "seen.decided_by",
    )


class More(Value):
    """More connections than were listed in an interval."""

    time: str
    """RFC 3339 in UTC."""
    connections: int
    """At least so many."""
    event: Literal["more"] = "more"
    """Tells the kinds of lines apart."""

    TOLD: ClassVar = ("event", "time", "connections")


class Counted(Value):
    """A rule that counted in an interval."""

    time: str
    """RFC 3339 in UTC."""
    row: Row
    seconds: float
    """In how long: since the counters had been read before."""
    event: Literal["counters"] = "counters"
    """Tells the kinds of lines apart."""

    TOLD: ClassVar = ("event", "time", "row.family", "rule", "row.packets", "seconds", "row.since_start", "row.total")

    @property
    def rule(self) -> Decision:
        """The rule."""
        return self.row.decision


class Drifted(Value):
    """What differs has changed. The first line of a watch says what differs at the start."""

    time: str
    """RFC 3339 in UTC."""
    against: Reference
    """What it is measured against."""
    changed_by: tuple[str, ...]
    """Programs that changed nf_tables in this interval, where the kernel tells."""
    findings: tuple[Finding, ...]
    """All that differs now, as verify tells it."""

    TOLD: ClassVar = ("event", "time", "against", "changed_by", "findings")

    @property
    def event(self) -> Literal["drift", "no drift"]:
        """`no drift` if nothing differs (any more)."""
        return "drift" if self.findings else "no drift"


Event: TypeAlias = Note | Made | More | Counted | Drifted
"""A line of `capture watch --output json`."""


def events_of(tick: Tick, now: str, notes: Sequence[str], against: Reference, *, is_first: bool) -> Iterator[Event]:
    """The lines of one interval."""
    yield from (Note(now, note) for note in notes)
    yield from (Made(now, seen) for seen in tick.seen)
    if tick.more:
        yield More(now, tick.more)
    yield from (Counted(now, row, round(tick.seconds, 3)) for row in tick.rows if row.packets)
    if tick.drift_is_new or is_first:
        yield Drifted(now, against, tick.changed_by, tick.drift)


# --- drift --------------------------------------------------------------------------------------------------


def against_plan(settings: Settings, planned: Plan) -> Drift:
    """Drift from what settings ask for, as verify tells it."""

    def drift(live: Live) -> tuple[Finding, ...]:
        chosen = choose_backend(live, settings, planned)
        ours_first = settings.precedence == "ours"
        found = findings_of(live, live.beside(planned), chosen, ours_first=ours_first)
        return tuple(each for each in found if not each.is_note)

    return drift


def against_start(start: Live) -> Drift:
    """Drift from what was there at the start."""
    wanted = {tool: ours_in(start.saved(Iptables(*tool)).ruleset) for tool in tools()}

    def all_of(live: Live) -> Iterator[Finding]:
        for (backend, family), ruleset in wanted.items():
            now = live.saved(Iptables(backend, family)).ruleset
            for found in (*compare(now, ruleset, live.company()), *not_tracked(now, ruleset)):
                yield found.but(backend=backend)
        yield from others_in_the_way(live)
        yield from routing_since(start, live)
        yield from others_routing(live)

    known = frozenset(all_of(start))
    return lambda live: tuple(found for found in all_of(live) if found not in known)


def routing_since(start: Live, live: Live) -> Iterator[Finding]:
    """Our ip rules, routes and address: what came and what went."""
    for kind, one, other in ((Kind.IP_RULE_MISSING, start, live), (Kind.IP_RULE_LEFT, live, start)):
        for rule in dict.fromkeys(one.policy_rules):
            if rule.protocol == PROTOCOL and rule not in other.policy_rules:
                yield Finding(kind, rule.family, rule=f"{ip_command(rule.family)} rule: {rule}")
    for kind, one, other in ((Kind.ROUTE_MISSING, start, live), (Kind.ROUTE_LEFT, live, start)):
        for route in dict.fromkeys(one.local_routes):
            if route.protocol == PROTOCOL and route not in other.local_routes:
                yield Finding(kind, route.family, rule=f"{ip_command(route.family)} route: {route}")
    text = f"ip -6 addr: {PASSTHROUGH[Family.V6]} dev {LOOPBACK_INTERFACE}"
    if start.passthrough and not live.passthrough:
        yield Finding(Kind.ADDRESS_MISSING, Family.V6, rule=text)
    if live.passthrough and not start.passthrough and live.passthrough.protocol == PROTOCOL:
        yield Finding(Kind.ADDRESS_LEFT, Family.V6, rule=text)


def tools() -> Iterator[Tool]:
    return ((backend, family) for backend in BACKENDS for family in Family)


class Watch:
    """One watch over the namespace we are in. Use as a context manager, then iterate over `ticks`."""

    def __init__(self, facts: Facts, log: Log, planned: Plan | None = None) -> None:
        """`planned` knows what its rules are for. Raises CaptureError if the rules cannot be read."""
        self.log = log
        self.planned = {ruleset.family: ruleset for ruleset in planned.rulesets} if planned else {}
        self.start = self.live = read(log, counters=True)
        self.notes: list[str] = []
        self.connections = self.subscribed(events.connections, "new connections are not seen")
        self.rules = self.subscribed(events.rule_changes, "changes of the rules are looked for in every interval")
        self.routing = self.subscribed(events.routing_changes, "changes of the routing are seen late")
        if self.connections and read_word(EVENTS_OFF) == "0":
            self.notes.append("new connections are not seen: net.netfilter.nf_conntrack_events is 0")
        if self.start.legacy:
            self.notes.append("legacy tables tell of no changes: they are read in every interval")
        self.local = frozenset(address.ip for address in facts.addresses or ())
        self.base = self.counts()
        self.last = self.base
        self.moved_before: frozenset[tuple[Tool, Place]] = frozenset()
        self.recent_before: dict[tuple[Tool, Place], int] = {}
        self.explained: dict[Tool, Ruleset] = {}
        self.seen: list[Connection] = []
        self.more = 0
        self.changed_by: dict[str, None] = {}
        self.read_at = time.monotonic()

    def subscribed(self, subscribe: Callable[[], events.Subscription], without: str) -> events.Subscription | None:
        try:
            return subscribe()
        except OSError as error:
            self.notes.append(f"{without}: {error.strerror}")
            return None

    def close(self) -> None:
        for subscription in (self.connections, self.rules, self.routing):
            if subscription:
                subscription.close()

    def counts(self) -> dict[tuple[Tool, Place], Count]:
        return {
            (tool, place): count
            for tool in tools()
            for place, count in self.live.saved(Iptables(*tool)).counted().items()
        }

    def ticks(
        self, interval: float, drifted: Drift, *, until: float | None, wake: int, typed: int | None = None
    ) -> Iterator[Tick]:
        """An endless row of intervals; ends at a point of the monotonic clock, by a byte on `wake`, or by a key.

        A change of the rules ends an interval at once.
        """
        drift = drifted(self.live)
        yield Tick(0.0, self.rows({}), (), 0, drift, bool(drift), ())
        begun, untold, ended = time.monotonic(), 0, False
        while not ended:
            due = begun + interval if until is None else min(begun + interval, until)
            ended, changed = self.wait(due, wake, typed)
            now = time.monotonic()
            ended = ended or (until is not None and now >= until)
            polls = bool(self.live.legacy) or not (self.rules and self.routing and self.connections)
            untold += 1
            self.take_connections()
            if changed or polls or self.seen or untold >= UNTOLD or ended:
                untold = 0
                self.live = read(QUIETLY, counters=True)
                found = drifted(self.live)
                passed, self.read_at = time.monotonic() - self.read_at, time.monotonic()
            else:
                found, passed = drift, 0.0
            yield self.tick(passed, found, is_new=found != drift)
            drift, begun = found, now

    def wait(self, due: float, wake: int, typed: int | None = None) -> tuple[bool, bool]:
        """Until then, or until rules or routing change. Whether we are to end, and whether there was a change."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if typed is not None:
            poll.register(typed, select.POLLIN)
        # Connections may wait in their socket: to be woken by each would cost more than to look at them together.
        for subscription in (self.rules, self.routing):
            if subscription:
                poll.register(subscription.fileno(), select.POLLIN)
        changed_at: float | None = None
        while True:
            now = time.monotonic()
            until = due if changed_at is None else min(now + QUIET, changed_at + LONGEST_QUIET)
            ready = {file for file, _ in poll.poll(max(0.0, until - now) * 1000)}
            if wake in ready or (typed is not None and typed in ready and ends(typed)):
                return True, changed_at is not None
            if self.has_changes():
                changed_at = changed_at or time.monotonic()
            elif changed_at is not None and (not ready or time.monotonic() >= changed_at + LONGEST_QUIET):
                return False, True
            if changed_at is None and time.monotonic() >= due:
                return False, False

    def take_connections(self) -> None:
        if self.connections:
            lost = self.connections.lost
            for kind, body in self.connections.waiting():
                made = events.connection(kind, body)
                if made and len(self.seen) < MOST_CONNECTIONS:
                    self.seen.append(made)
                elif made:
                    self.more += 1
            self.more += self.connections.lost - lost

    def has_changes(self) -> bool:
        """Whether rules or routing have changed since it was asked last."""
        changed = False
        for subscription in (self.rules, self.routing):
            if subscription:
                lost = subscription.lost
                for kind, body in subscription.waiting():
                    changed = True
                    who = events.who_changed(kind, body) if subscription is self.rules else None
                    if who:
                        self.changed_by[who] = None
                changed = changed or subscription.lost != lost
        return changed

    def tick(self, seconds: float, drift: tuple[Finding, ...], *, is_new: bool) -> Tick:
        counts = self.counts()
        recently = {key: count.packets - self.before(key, count, self.last) for key, count in counts.items()}
        moved = frozenset(key for key, packets in recently.items() if packets)
        seen = tuple(self.attributed(made, moved) for made in self.seen)
        seen = tuple(self.without_those_of_others(seen, recently))
        rows = self.rows(recently)
        tick = Tick(seconds, rows, seen, self.more, drift, is_new, tuple(self.changed_by))
        self.last, self.moved_before, self.recent_before = counts, moved, recently
        self.seen, self.more, self.changed_by = [], 0, {}
        return tick

    @staticmethod
    def before(key: tuple[Tool, Place], count: Count, then: dict[tuple[Tool, Place], Count]) -> int:
        """What a rule had counted; nothing if it was made since, for then it counts less."""
        had = then.get(key, Count(0, 0)).packets
        return had if had <= count.packets else 0

    def rulesets(self) -> Iterator[tuple[Tool, Ruleset]]:
        """What is live, with the why of each rule; explained again only if it is not what it was."""
        for tool in tools():
            ruleset = self.live.saved(Iptables(*tool)).ruleset
            if self.explained.get(tool) != ruleset:
                wanted = self.planned.get(tool[1])
                self.explained[tool] = explained(ruleset, as_held(tool[0], wanted) if wanted else None)
            yield tool, self.explained[tool]

    def rows(self, recently: dict[tuple[Tool, Place], int]) -> tuple[Row, ...]:
        counts = self.counts()
        found = []
        for tool, ruleset in self.rulesets():
            for decision in dict.fromkeys(decisions(ruleset)):
                key = (tool, (decision.table, decision.chain, decision.position))
                count = counts.get(key, Count(0, 0))
                if count.packets:
                    since = count.packets - self.before(key, count, self.base)
                    found.append(
                        Row(tool[1], decision.but(backend=tool[0]), count.packets, since, recently.get(key, 0))
                    )
        return tuple(found)

    def attributed(self, made: Connection, moved: frozenset[tuple[Tool, Place]]) -> Seen:
        found: list[Decision] = []
        of_others = [route for route in self.live.routes if route.kind == LOCAL and route.protocol != PROTOCOL]
        for counted in (moved, self.moved_before):
            for (backend, family), ruleset in self.rulesets():
                places = {place for tool, place in counted if tool == (backend, family)}
                if family is made.family and places:
                    found += (
                        each.but(backend=backend) for each in decided_by(ruleset, made, self.local, places, of_others)
                    )
            if found:
                break
        return Seen(made, is_outbound(made, self.local, is_kept=made.is_kept(of_others)), tuple(found))

    def without_those_of_others(
        self, seen: Sequence[Seen], recently: Mapping[tuple[Tool, Place], int]
    ) -> Iterator[Seen]:
        """The same; where more connections are laid to a rule of nat than it counted, it is not known which are its.

        Somebody else's rule, asked before ours, may send them to the same port.
        """
        laid = Counter(place for each in seen if (place := place_of(each)) is not None)
        for each in seen:
            place = place_of(each)
            most = 0 if place is None else recently.get(place, 0) + self.recent_before.get(place, 0)
            yield each.but(is_certain=False) if place is not None and laid[place] > most else each


def place_of(seen: Seen) -> tuple[Tool, Place] | None:
    """The one rule of nat that redirected a connection, if it can be told."""
    if not seen.connection.is_redirected or len(seen.decided_by) != 1:
        return None
    (decision,) = seen.decided_by
    return (decision.backend, seen.connection.family), (decision.table, decision.chain, decision.position)


class _Quiet:
    """A log that has said all it has to say."""

    def warn(self, message: str) -> None:
        pass


QUIETLY: Log = _Quiet()  # type: ignore[assignment] # all that is asked of it


def read_word(path: str) -> str:
    try:
        return read_text(path).strip()
    except OSError:
        return ""


@contextmanager
def woken_by_signals() -> Iterator[int]:
    """A file that becomes readable at SIGINT, SIGTERM or SIGHUP, which then do nothing else."""
    ending, signals = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, ignored) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    had = signal.set_wakeup_fd(signals)
    try:
        yield ending
    finally:
        signal.set_wakeup_fd(had)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(ending)
        os.close(signals)


def ignored(number: int, frame: object) -> None:
    """The byte in the pipe says it."""
