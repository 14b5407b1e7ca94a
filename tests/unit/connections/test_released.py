"""Which connections a change lets go of, and which of them are reset."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address
from rules.connections.captured import Entry, Released, released
from rules.connections.flow import TCP, UDP, Flow
from rules.iptables.reading import tables
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family
from rules.plan.intent import Intent
from rules.plan.plan import NOTHING, plan

V4 = Family.V4
ESTABLISHED, TIME_WAIT = 3, 7
BEGAN = Flow(TCP, ip_address("10.244.0.5"), 40000, ip_address("9.9.9.9"), 80)
TO_PROXY = Flow(TCP, ip_address("127.0.0.1"), 15001, ip_address("10.244.0.5"), 40000)
REDIRECTED = Entry(BEGAN, TO_PROXY, ESTABLISHED)
MARKED = Entry(BEGAN, BEGAN.answered(), ESTABLISHED, mark=1337)
PORTS = Released(V4, frozenset({15001}))
MARKS = Released(V4, marks=frozenset({1337}))


@pytest.mark.parametrize(
    ("part", "entry", "is_included"),
    [
        (PORTS, REDIRECTED, True),
        (PORTS, REDIRECTED.but(state=TIME_WAIT), False),
        (PORTS, REDIRECTED.but(answers=TO_PROXY.but(source_port=15006)), False),
        (PORTS, REDIRECTED.but(began=BEGAN.but(protocol=UDP)), False),
        (PORTS, Entry(BEGAN, BEGAN.answered(), ESTABLISHED), False),
        (PORTS.but(family=Family.V6), REDIRECTED, False),
        (PORTS, MARKED, False),
        (MARKS, MARKED, True),
        (MARKS, MARKED.but(mark=1338), False),
        (MARKS, REDIRECTED, False),
    ],
)
def test_a_captured_connection_under_way_is_let_go_of(part: Released, entry: Entry, is_included: bool) -> None:
    """Known by the port of the proxy that answers, or by the mark that is given back to it."""
    assert part.includes(entry) is is_included


@pytest.mark.parametrize("cuts_redirected", [True, False])
def test_what_is_reset(cuts_redirected: bool) -> None:
    """A marked one always, for nothing routes its answers any more; a redirected one where NAT ends."""
    part = Released(V4, frozenset({15001}), frozenset({1337}), cuts_redirected)
    assert part.cuts(MARKED)
    assert part.cuts(REDIRECTED) is cuts_redirected


EMPTY = Ruleset(V4)
OURS = plan(Intent()).rulesets[0]
TPROXY = next(it for it in plan(Intent(interception_mode="TPROXY")).rulesets if it.family is V4)
GONE = next(it for it in NOTHING.rulesets if it.family is V4)
THEIRS = Ruleset(V4, tables("*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"))


def test_a_removal_lets_go_of_what_ours_captured() -> None:
    """By the ports that ours redirect to; rules of others that need conntrack and NAT keep those connections alive."""
    alone = released(OURS, EMPTY, EMPTY, GONE, ())
    assert alone is not None
    assert (alone.ports, alone.cuts_redirected) == (frozenset({15001, 15006}), True)
    beside = released(OURS, THEIRS, EMPTY, GONE, ())
    assert beside is not None
    assert not beside.cuts_redirected


def test_what_stays_captured_is_not_let_go_of() -> None:
    """And where nothing was captured there is nothing to let go of."""
    assert released(OURS, EMPTY, EMPTY, OURS, ()) is None
    assert released(THEIRS, EMPTY, EMPTY, GONE, ()) is None
    by_mark = released(TPROXY, EMPTY, EMPTY, OURS, ())
    assert by_mark is not None
    assert by_mark.marks == {1337}
    assert by_mark.ports == frozenset()
