"""What conntrack's entry says by itself: to whom a route delivers it, and who made it."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address, ip_network
from rules.connections.attribution import Connection, is_outbound
from rules.netfilter.values import Family
from rules.routing.policy import Route

V4, V6 = Family.V4, Family.V6
LOCAL = {ip_address("10.1.0.5"), ip_address("fd00::5")}


def made(source: str, destination: str) -> Connection:
    family = V6 if ":" in destination else V4
    to = ip_address(destination)
    return Connection(family, "tcp", ip_address(source), 40000, to, 80, to, 80)


@pytest.mark.parametrize(
    ("destination", "route", "expected"),
    [
        ("192.0.2.1", Route(V4, 100), True),
        ("192.0.2.1", Route(V6, 100), False),
        ("2001:db8::1", Route(V6, 100), True),
        ("2001:db8::1", Route(V4, 100), False),
        ("192.0.2.1", Route(V4, 100, destination=ip_network("192.0.2.0/24")), True),
        ("192.0.3.1", Route(V4, 100, destination=ip_network("192.0.2.0/24")), False),
        ("2001:db8::1", Route(V6, 100, destination=ip_network("2001:db8::/64")), True),
        ("2001:db8:1::1", Route(V6, 100, destination=ip_network("2001:db8::/64")), False),
    ],
)
def test_a_route_keeps_what_goes_to_its_network_in_its_family(destination: str, route: Route, expected: bool) -> None:
    """A default route keeps all of its own family; beside others it counts the same."""
    connection = made("10.1.0.5", destination)
    far = ip_network("198.51.100.0/24" if connection.family is V4 else "fd99::/64")
    elsewhere = Route(connection.family, 100, destination=far)
    assert connection.is_kept([route]) is expected
    assert connection.is_kept([elsewhere, route]) is expected
    assert not connection.is_kept([])


@pytest.mark.parametrize(
    ("source", "destination", "is_kept", "expected"),
    [
        ("10.1.0.5", "192.0.2.1", False, True),
        ("127.0.0.1", "127.0.0.1", False, True),
        ("fd00::5", "2001:db8::1", False, True),
        ("192.0.2.1", "10.1.0.5", False, False),
        ("192.0.2.1", "10.1.0.5", True, False),
        ("192.0.2.1", "192.0.2.1", True, True),
        ("192.0.2.1", "192.0.2.1", False, False),
        ("2001:db8::1", "2001:db8::1", True, False),
    ],
)
def test_a_process_here_sends_from_an_address_of_ours_or_by_ipv4_from_one_that_a_route_lends(
    source: str, destination: str, *, is_kept: bool, expected: bool
) -> None:
    assert is_outbound(made(source, destination), LOCAL, is_kept=is_kept) is expected
