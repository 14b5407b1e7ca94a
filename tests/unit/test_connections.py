"""From sockets to connections."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from rules.live.connections import CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_SENT, TCP, TIME_WAIT, Flow, Socket, connections


def flow(source: int, destination: int) -> Flow:
    return Flow(TCP, ip_address("10.0.0.1"), source, ip_address("10.0.0.2"), destination)


@pytest.mark.parametrize("state", [ESTABLISHED, SYN_SENT, CLOSE_WAIT])
def test_a_connection_went_to_the_port_that_somebody_listens_on(state: int) -> None:
    """What was accepted began at the peer; all else began here."""
    sockets = [Socket(flow(80, 0), LISTEN), Socket(flow(80, 5000), state), Socket(flow(5001, 80), state)]
    assert list(connections(sockets)) == [(flow(80, 5000).answered(), state), (flow(5001, 80), state)]


def test_what_has_ended_and_what_listens_is_not_open() -> None:
    """A listener, a socket that waits for late packets, and one of UDP that is not connected (7)."""
    assert list(connections([Socket(flow(80, 0), LISTEN), Socket(flow(1, 2), TIME_WAIT), Socket(flow(3, 0), 7)])) == []
