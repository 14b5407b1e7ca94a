"""What a watch shows of very many connections."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

import pytest

from capture.screen.lines import seen
from capture.watch import views
from capture.watch.flows import added
from capture.watch.views import Lines, Screen
from capture.watch.watch import Row, Seen, Tick
from rules.addresses import IPv4Address
from rules.connections.attribution import Connection, Decision
from rules.netfilter.rulesets import Rule
from rules.netfilter.targets import Jump
from rules.netfilter.values import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

DECISION = Decision(
    "nat", "ISTIO_OUTPUT", 9, Rule((), Jump("ISTIO_REDIRECT")), True, "everything else goes to the proxy"
)


def connections(number: int, flows: int) -> tuple[Seen, ...]:
    proxy, client = IPv4Address("127.0.0.1"), IPv4Address("10.244.0.5")
    return tuple(
        Seen(
            Connection(Family.V4, "tcp", client, 20000 + at, IPv4Address(0x09090900 + at % flows), 80, proxy, 15001),
            True,
            (DECISION,),
        )
        for at in range(number)
    )


def tick(seen: Sequence[Seen], *, more: int = 0, seconds: float = 1.0, packets: int = 0) -> Tick:
    rows = (Row(Family.V4, DECISION, 5000, 4000, packets),) if packets else ()
    return Tick(seconds, rows, tuple(seen), more, (), False, ())


def test_connections_between_the_same_ends_are_one_flow() -> None:
    """Whatever port they were made from; the last to have some stands last."""
    flows = added({}, connections(1000, 3))
    assert [flow.number for flow in flows.values()] == [333, 333, 334]
    flows = added(flows, connections(1, 3))
    assert [flow.number for flow in flows.values()] == [333, 333, 335]
    last = str(list(flows.values())[-1])
    assert last.startswith("out captured 10.244.0.5 (335 connections) → 9.9.9.0:80 tcp, answered by 127.0.0.1:15001")


@pytest.mark.parametrize(("flows", "limit", "lines"), [(3, None, 3), (500, None, 41), (500, 5, 6), (500, 0, 1)])
def test_an_interval_has_so_many_lines(
    flows: int, limit: int | None, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thousand connections in it; what is not listed is counted."""
    Lines([], "the start", "net:[1]", limit).show(tick(connections(1000, flows), more=7), is_first=False)
    said = capsys.readouterr().out.splitlines()
    besides = said.pop() if lines >= flows else ""
    assert len(said) == lines
    if lines < flows:
        others = 1000 + 7 - 2 * (lines - 1)
        assert said[-1].endswith(
            f"and {flows - lines + 1} flows more with at least {others} connections; --limit says how many are listed"
        )
    else:
        assert besides.endswith("and at least 7 connections more")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_is_filled_and_no_more(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The namespace above, the key below, no line wider than the terminal, rates over the time that passed."""
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    monkeypatch.setattr("shutil.get_terminal_size", lambda **_: os.terminal_size((columns, 24)))
    screen = Screen(["something is not seen"], "the start", 'net:[4026532], "shop" of `ip netns`')
    screen.show(tick(connections(1000, 300), seconds=4.0, packets=1000), is_first=True)
    screen.show(tick((), seconds=0.0), is_first=False)
    screen.show(tick((), seconds=0.0).but(rows=(Row(Family.V4, DECISION, 5000, 4000, 0),)), is_first=False)
    drawn = out.getvalue().split(views.HOME)[-1].removesuffix(views.TO_END)
    lines = [line.removesuffix(views.TO_END_OF_LINE) for line in drawn.split("\n")]
    assert len(lines) <= 24
    assert all(seen(line) <= columns for line in lines)
    assert "network namespace" in lines[0]
    assert "4026532" in lines[0]
    assert "q ends" in lines[-1]
    assert any("250.0" in line for line in lines), "1,000 packets in 4 seconds"
