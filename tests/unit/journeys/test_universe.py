"""Which packets there are: nobody sends to the outside from an address that is good on lo only."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address
from rules.journeys.journeys import universe
from rules.netfilter.fields import DESTINATION, SOURCE
from rules.netfilter.spans import meet, one
from rules.netfilter.values import Family
from rules.packets.packet import Direction, Host, Local

HOST = Host(
    tuple(
        Local(interface, ip_address(address), prefix)
        for interface, address, prefix in (
            ("lo", "127.0.0.1", 8),
            ("lo", "192.0.2.7", 32),
            ("eth0", "10.244.0.5", 24),
            ("lo", "::1", 128),
            ("lo", "::6", 128),
            ("eth0", "fd00:244::5", 64),
            ("eth0", "fe80::5", 64),
        )
    ),
    "eth0",
)


def can_send(source: str, destination: str, *, goes: str) -> bool:
    """Whether a process may send from the one to the other, by this interface."""
    family = Family.V6 if ":" in source else Family.V4
    return any(
        meet(box[SOURCE], one(int(ip_address(source)))) and meet(box[DESTINATION], one(int(ip_address(destination))))
        for now, box in universe(family, HOST)
        if now.direction is Direction.OUT and now.goes == goes
    )


@pytest.mark.parametrize(
    ("source", "destination", "goes", "is_there"),
    [
        ("10.244.0.5", "192.0.2.1", "eth0", True),
        ("192.0.2.7", "192.0.2.1", "eth0", True),
        ("127.0.0.1", "192.0.2.1", "eth0", False),
        ("127.0.0.1", "10.244.0.5", "lo", True),
        ("127.0.0.1", "192.0.2.7", "lo", True),
        ("192.0.2.8", "192.0.2.1", "eth0", False),
        ("10.244.0.5", "127.0.0.1", "eth0", False),
        ("10.244.0.5", "0.0.0.1", "eth0", False),
        ("::6", "2001:db8::1", "eth0", True),
        ("::1", "2001:db8::1", "eth0", False),
        ("fe80::5", "2001:db8::1", "eth0", False),
        ("::1", "fd00:244::5", "lo", True),
        ("::1", "fe80::5", "lo", False),
        ("::6", "fe80::5", "lo", False),
        ("fd00:244::5", "fe80::5", "lo", True),
        ("fe80::5", "fe80::5", "lo", True),
    ],
)
def test_who_sends_what(source: str, destination: str, goes: str, is_there: bool) -> None:
    """From any address of ours that is good outside; between our own, over lo, from each of them."""
    assert can_send(source, destination, goes=goes) is is_there


@pytest.mark.parametrize(("to", "is_ours"), [("10.244.0.5", True), ("192.0.2.1", False)])
@pytest.mark.parametrize("passing", [False, True])
def test_what_comes_from_others_is_for_us_or_on_its_way_through(to: str, *, is_ours: bool, passing: bool) -> None:
    """What is for others is asked about only where that is wanted."""
    comes = [
        now.is_local
        for now, box in universe(Family.V4, HOST, passing=passing)
        if now.direction is Direction.IN and meet(box[DESTINATION], one(int(ip_address(to))))
    ]
    assert bool(comes) is (is_ours or passing)
    assert set(comes) <= {is_ours}
