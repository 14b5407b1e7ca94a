"""What the kernel says of an ip rule, attribute by attribute: a number that is off by one reads another one."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from capture.netlink import rtnetlink
from capture.netlink.messages import attribute, attributes
from capture.netlink.rtnetlink import policy_rule, routes
from rules.addresses import ip_network
from rules.netfilter.values import Family
from rules.routing.policy import PolicyRule


@pytest.mark.parametrize(
    ("kind", "raw", "said"),
    [
        (1, bytes((192, 0, 2, 0)), {"destination": ip_network("192.0.2.0/24")}),
        (2, bytes((198, 51, 100, 0)), {"source": ip_network("198.51.100.0/25")}),
        (3, b"eth0\0", {"arrives": "eth0"}),
        (6, struct.pack("=I", 100), {"priority": 100}),
        (10, struct.pack("=I", 0x539), {"mark": 0x539, "mask": 0xFFFFFFFF}),
        (14, struct.pack("=I", 8), {"suppressed": 8}),
        (15, struct.pack("=I", 1000), {"table": 1000}),
        (16, struct.pack("=I", 0xFF), {"mask": 0xFF}),
        (17, b"eth1\0", {"leaves": "eth1"}),
        (20, struct.pack("=II", 1000, 2000), {"uids": (1000, 2000)}),
        (21, bytes((3,)), {"protocol": 3}),
        (22, bytes((6,)), {"transport": 6}),
        (23, struct.pack("=HH", 80, 90), {"source_ports": (80, 90)}),
        (24, struct.pack("=HH", 443, 443), {"destination_ports": (443, 443)}),
        (4, struct.pack("=I", 300), {"table": 300}),
        (18, bytes(8), {}),
        (11, struct.pack("=I", 1), {"more": ("realms",)}),
        (12, bytes(7) + b"\1", {"more": ("tun_id",)}),
        (13, struct.pack("=I", 1), {"more": ("suppress_ifgroup",)}),
        (13, b"\xff" * 4, {}),
        (19, bytes((1,)), {"more": ("l3mdev",)}),
        (25, bytes((1,)), {"more": ("dscp",)}),
        (26, struct.pack(">I", 1), {"more": ("flowlabel",)}),
        (99, bytes((1,)), {"more": ("attribute 99",)}),
    ],
)
def test_each_attribute_of_an_ip_rule_is_read(kind: int, raw: bytes, said: dict[str, Any]) -> None:
    """By its number in linux/fib_rules.h, alone and beside its neighbours."""
    lengths = {1: 24, 2: 0}.get(kind, 0), {2: 25}.get(kind, 0)
    header = bytes((2, *lengths, 0, 200, 0, 0, 1)) + struct.pack("=I", 0)
    plain = PolicyRule(Family.V4, 0, 0, 200, mask=0)
    assert policy_rule(header, attributes(attribute(kind, raw))) == plain.but(**said)
    beside = attribute(6, struct.pack("=I", 7)) if kind != 6 else attribute(21, bytes((9,)))
    expected = plain.but(**{"priority": 7, **said} if kind != 6 else {"protocol": 9, **said})
    assert policy_rule(header, attributes(beside + attribute(kind, raw))) == expected


def test_an_ip_rule_may_be_inverted_and_may_refuse() -> None:
    """By its header and flags (struct fib_rule_hdr)."""
    header = bytes((10, 0, 0, 0x10, 254, 0, 0, 7)) + struct.pack("=I", 2)
    assert policy_rule(header, {}) == PolicyRule(
        Family.V6, 0, 0, 254, mask=0, action="unreachable", inverted=True, tos=0x10
    )


@pytest.mark.parametrize(
    ("number", "action"),
    {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "9"}.items(),
)
def test_what_an_ip_rule_does_is_its_action(number: int, action: str) -> None:
    """FR_ACT_* of linux/fib_rules.h; one that nobody knows is named by its number."""
    header = bytes((2, 0, 0, 0, 254, 0, 0, number)) + struct.pack("=I", 0)
    assert policy_rule(header, {}).action == action


@pytest.mark.parametrize(("header", "told", "table"), [(100, None, 100), (252, 1000, 1000), (100, 0, 100)])
def test_a_table_that_a_byte_can_name_may_stand_in_the_header_alone(
    monkeypatch: pytest.MonkeyPatch, header: int, told: int | None, table: int
) -> None:
    """RTA_TABLE is for the others (rtm_get_table of net/netlink.h)."""
    message = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, header, 4, 0, 1, 0)
    message += b"" if told is None else attribute(15, struct.pack("=I", told))
    monkeypatch.setattr(rtnetlink, "dump", lambda *_: [message])
    (route,) = routes()
    assert (route.table, route.protocol, route.destination) == (table, 4, None)
