"""A watch on a kernel in memory: what counted, what drifted, and which rule is named for a connection."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from capture import init
from capture.errors import DONE
from capture.host.facts import read_facts
from capture.host.live import read_live
from capture.iptables.iptables import LEGACY, NFT
from capture.kernel.seam import standing_in
from capture.log import Log
from capture.watch.watch import (
    MOST_CONNECTIONS,
    Counted,
    Drifted,
    Made,
    More,
    Note,
    Row,
    Seen,
    Tick,
    Watch,
    against_start,
    events_of,
    routing_since,
)
from rules.addresses import IPv4Address
from rules.connections.attribution import Connection, Decision
from rules.iptables.counters import Count
from rules.live.drift import Kind
from rules.netfilter.rulesets import Rule
from rules.netfilter.targets import Jump
from rules.netfilter.values import Family
from tests.rig.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRON = {"LOG_OUTPUT_LEVEL": "warn", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
TPROXY = ("-u", "1337", "--dual-stack", "-m", "TPROXY")
POD = IPv4Address("10.244.0.5")
TO_PROXY = Rule((), Jump("ISTIO_REDIRECT"))
OURS = Decision("nat", "ISTIO_OUTPUT", 9, TO_PROXY, True, NFT)
PLACE: tuple[tuple[str, Family], tuple[str, str, int]] = ((NFT, Family.V4), ("nat", "ISTIO_OUTPUT", 9))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """One that tells of nothing by itself."""

    def refused() -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    for name in ("connections", "rule_changes", "routing_changes"):
        monkeypatch.setattr(f"capture.watch.watch.events.{name}", refused)
    with standing_in(Memory("127.0.0.1/8", "::1/128", "10.244.0.5/24", "fd00:244::5/64")) as memory:
        assert isinstance(memory, Memory)
        yield memory


@contextmanager
def watch() -> Iterator[Watch]:
    made = Watch(read_facts({}), Log("warn"))
    yield made
    made.close()


def connection(port: int = 40000, *, is_redirected: bool = True) -> Connection:
    asked = IPv4Address("9.9.9.9"), 80
    answered = (IPv4Address("127.0.0.1"), 15001) if is_redirected else asked
    return Connection(Family.V4, "tcp", POD, port, *asked, *answered)


def test_a_kernel_that_tells_nothing_is_looked_at_in_every_interval(kernel: Memory) -> None:
    """And that is said, once for each thing that is not told."""
    assert init.run(("-u", "1337"), ENVIRON) == DONE
    with watch() as made:
        assert [note.partition(":")[0] for note in made.notes] == [
            "new connections are not seen",
            "changes of the rules are looked for in every interval",
            "changes of the routing are seen late",
        ]
        waking, _ = os.pipe()
        ticks = made.ticks(0.01, against_start(made.start), until=time.monotonic() + 60, wake=waking)
        assert not next(ticks).drift
        kernel.tables[NFT, Family.V4, "nat"].chains["ISTIO_REDIRECT"].clear()
        changed = next(ticks)
        assert [found.kind for found in changed.drift] == [Kind.RULE_MISSING]
        assert changed.drift_is_new
        assert changed.seconds > 0
        again = next(ticks)
        assert again.drift == changed.drift
        assert not again.drift_is_new


def test_it_ends_when_it_is_told_to(kernel: Memory) -> None:  # noqa: ARG001 # it stands in
    """By a byte, or when its time is over; the last interval is told as well."""
    with watch() as made:
        waking, wake = os.pipe()
        os.write(wake, b"x")
        assert len(list(made.ticks(60, against_start(made.start), until=None, wake=waking))) == 2
        quiet, _ = os.pipe()
        assert len(list(made.ticks(60, against_start(made.start), until=time.monotonic() + 0.03, wake=quiet))) == 2


def test_legacy_tables_are_read_in_every_interval(kernel: Memory) -> None:
    assert init.run(("-u", "1337", "--force-iptables-binary", "legacy"), ENVIRON) == DONE
    assert kernel.tables.keys() == {(LEGACY, Family.V4, "nat")}
    with watch() as made:
        assert made.notes[-1].startswith("legacy tables tell of no changes")


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        (lambda kernel: kernel.rules.pop(), {Kind.IP_RULE_MISSING}),
        (lambda kernel: kernel.routes.pop(), {Kind.ROUTE_MISSING}),
        (lambda kernel: kernel.addresses.pop(), {Kind.ADDRESS_MISSING}),
        (lambda kernel: kernel.rules.insert(0, (Family.V4, 7, 1, 999, 4)), set()),
    ],
)
def test_routing_of_ours_that_goes_or_comes_is_drift(kernel: Memory, changed: Any, kinds: set[Kind]) -> None:
    """What goes is missing, what comes is left; that of others is neither."""
    assert init.run(TPROXY, ENVIRON) == DONE
    before = read_live()
    changed(kernel)
    after = read_live()
    left = {
        Kind.IP_RULE_MISSING: Kind.IP_RULE_LEFT,
        Kind.ROUTE_MISSING: Kind.ROUTE_LEFT,
        Kind.ADDRESS_MISSING: Kind.ADDRESS_LEFT,
    }
    assert {found.kind for found in routing_since(before, after)} == kinds
    assert {found.kind for found in routing_since(after, before)} == {left[kind] for kind in kinds}


# --- counters -----------------------------------------------------------------------------------------------


def test_a_rule_that_was_made_anew_counts_from_nothing() -> None:
    """One that has counted less than before is another one."""
    then = {PLACE: Count(100, 6000)}
    assert Watch.before(PLACE, Count(130, 7800), then) == 100
    assert Watch.before(PLACE, Count(100, 6000), then) == 100
    assert Watch.before(PLACE, Count(30, 1800), then) == 0
    assert Watch.before(PLACE, Count(30, 1800), {}) == 0


@pytest.mark.parametrize(("now", "earlier", "certain"), [(3, 0, True), (2, 1, True), (2, 0, False), (0, 0, False)])
def test_no_rule_is_named_for_more_connections_than_it_counted(
    kernel: Memory,  # noqa: ARG001 # it stands in
    now: int,
    earlier: int,
    certain: bool,
) -> None:
    """In this interval and the one before: a rule of others may redirect to the same port."""
    seen = [Seen(connection(40000 + at), True, (OURS.but(backend=NFT),)) for at in range(3)]
    unknown = Seen(connection(is_redirected=False), True, (OURS.but(backend=NFT),))
    with watch() as made:
        made.recent_before = {PLACE: earlier}
        *found, other = made.without_those_of_others([*seen, unknown], {PLACE: now})
    assert {each.is_certain for each in found} == {certain}
    assert {each.captured for each in found} == {True if certain else None}
    assert other.is_certain


def test_what_comes_too_fast_is_counted(kernel: Memory) -> None:  # noqa: ARG001 # it stands in
    """So many are kept of an interval, and what the socket had no room for is counted as well."""

    class Subscription:
        lost = 5

        def waiting(self) -> list[tuple[int, Connection]]:
            self.lost += 7
            return [(0, connection())] * (MOST_CONNECTIONS + 3)

    with watch() as made, pytest.MonkeyPatch.context() as patched:
        patched.setattr("capture.watch.watch.events.connection", lambda _, body: body)
        made.connections = Subscription()  # type: ignore[assignment] # all that is asked of it
        made.take_connections()
        assert (len(made.seen), made.more) == (MOST_CONNECTIONS, 10)
        made.connections = None


def test_whether_it_was_captured_is_told_where_the_rules_agree() -> None:
    """No rule of ours: it was not. Rules that say different things: that cannot be told."""
    let_go = OURS.but(captures=False)
    assert Seen(connection(), True, ()).captured is False
    assert Seen(connection(), True, (OURS,)).captured is True
    assert Seen(connection(), True, (let_go,)).captured is False
    assert Seen(connection(), True, (OURS, let_go)).captured is None
    assert Seen(connection(), True, (OURS,), is_certain=False).captured is None
    assert Seen(connection(), True, ()).redirected_by_others
    assert not Seen(connection(is_redirected=False), True, ()).redirected_by_others
    assert not Seen(connection(), True, (OURS,)).redirected_by_others


def test_an_interval_is_told_in_lines() -> None:
    """Notes first; a rule that did not count has none, and drift is told where it is new, or at the start."""
    rows = (Row(Family.V4, OURS, 10, 5, 2), Row(Family.V4, OURS, 10, 5, 0))
    tick = Tick(1.23456, rows, (Seen(connection(), True, (OURS,)),), 4, (), False, ())
    told = list(events_of(tick, "now", ["a note"], "the start", is_first=False))
    assert [type(each) for each in told] == [Note, Made, More, Counted]
    assert [each.seconds for each in told if isinstance(each, Counted)] == [1.235]
    assert [type(each) for each in events_of(tick, "now", [], "the start", is_first=True)][-1] is Drifted
    quiet = Tick(0.0, (), (), 0, (), True, ())
    (drifted,) = events_of(quiet, "now", [], "the start", is_first=False)
    assert drifted.event == "no drift"
