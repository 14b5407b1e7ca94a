"""Who listens where rules send something, and what keeps that from arriving: each sentence, and its absence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.addresses import ip_address, ip_network
from rules.explain.listeners import DNS, INBOUND, OUTBOUND, Listener, Place, looping_resolvers, places
from rules.netfilter.values import Family
from rules.plan.intent import TPROXY, Intent
from rules.plan.plan import plan
from tests.rig import predicted
from tests.rig.pod import ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAIN = Intent()
DUAL = Intent(families=(Family.V4, Family.V6))
HANDED = Intent(interception_mode=TPROXY)
RESOLVED = Intent(redirect_dns=True, capture_all_dns=True)
PROXY, SOMEBODY = 1337, 1000
OWN = ip_network(f"{ADDRESSES[4]}/32")


def listener(
    port: int, address: str = "0.0.0.0", *, protocol: str = "tcp", uid: int = PROXY, process: str = "", **more: bool
) -> Listener:
    assert protocol in ("tcp", "udp")
    is_udp = protocol == "udp"
    return Listener("udp" if is_udp else "tcp", ip_address(address), port, uid, process=process, **more)


BOTH = (listener(15001), listener(15006))


def found(
    intent: Intent, listening: Sequence[Listener], came_back: Sequence[str] = (), *, passes_on: bool = True
) -> list[Place]:
    planned = plan(intent)
    host = predicted.host(planned.routing, ipv6=intent is DUAL)
    return list(
        places(planned.rulesets, host, listening, [ip_address(each) for each in came_back], passes_on=passes_on)
    )


def problems(intent: Intent, listening: Sequence[Listener], what: str) -> list[str]:
    return [problem for each in found(intent, listening) if each.what == what for problem in each.problems]


@pytest.mark.parametrize(
    ("intent", "listening"),
    [
        (PLAIN, BOTH),
        (PLAIN, ()),
        (DUAL, [listener(port, "::") for port in (15001, 15006)]),
        (DUAL, [*BOTH, *(listener(port, "::", only_ipv6=True) for port in (15001, 15006))]),
        (HANDED, (BOTH[0], listener(15006, is_transparent=True))),
        (HANDED, (BOTH[0], listener(15006), listener(15006, is_transparent=True))),
        (RESOLVED, (*BOTH, listener(15053, "127.0.0.1", protocol="udp"))),
    ],
    ids=["plain", "not yet", "one for both", "one for each", "transparent", "one of two", "DNS"],
)
def test_a_proxy_that_listens_as_it_should_has_no_problem(intent: Intent, listening: Sequence[Listener]) -> None:
    """That nobody listens yet, before the proxy starts, is none either."""
    assert [each.problems for each in found(intent, listening) if each.problems] == []


@pytest.mark.parametrize(
    ("intent", "listening", "what", "expected"),
    [
        (PLAIN, BOTH[:1], INBOUND, "nobody listens, so every connection is refused, although the outbound port has a "),
        (PLAIN, BOTH[1:], OUTBOUND, "nobody listens, so every connection is refused, although the inbound port has a "),
        (DUAL, BOTH, INBOUND, "nobody hears IPv6 there, which is captured: only 0.0.0.0"),
        (PLAIN, (listener(15001, "::", only_ipv6=True), BOTH[1]), OUTBOUND, "nobody hears IPv4 there, which is "),
        (PLAIN, (listener(15001, "192.0.2.7"), BOTH[1]), OUTBOUND, "not on 127.0.0.1, to which it is sent: only 192."),
        (PLAIN, (BOTH[0], listener(15006, "192.0.2.7")), INBOUND, "not on 127.0.0.1, to which the pod's calls to its"),
        (PLAIN, (BOTH[0], listener(15006, "127.0.0.1")), INBOUND, "only on 127.0.0.1: what comes from outside is sent"),
        (HANDED, BOTH, INBOUND, "no listener is transparent (IP_TRANSPARENT), so what TPROXY hands over is not taken"),
        (PLAIN, (listener(15001, uid=SOMEBODY), BOTH[1]), OUTBOUND, f"uid {SOMEBODY}, on 0.0.0.0 is not the proxy (ui"),
        (PLAIN, (BOTH[0], listener(15006, uid=SOMEBODY)), INBOUND, f"uid {SOMEBODY}, on 0.0.0.0 is not the proxy (uid"),
        (
            RESOLVED,
            (*BOTH, listener(15053, "127.0.0.1", protocol="udp", uid=SOMEBODY)),
            DNS,
            f"uid {SOMEBODY}, on 127.0.0.1 is not the proxy (uid 1337, gid 1337), and only the proxy's answers are ke",
        ),
        (
            RESOLVED,
            (*BOTH, listener(15053, "192.0.2.7", protocol="udp")),
            DNS,
            "not on 127.0.0.1, to which it is sent: only 192.0.2.7",
        ),
    ],
)
def test_what_is_wrong_is_told_of_its_port_and_once(
    intent: Intent, listening: Sequence[Listener], what: str, expected: str
) -> None:
    """The first words of each sentence."""
    assert [problem[: len(expected)] for problem in problems(intent, listening, what)] == [expected]


def test_whose_own_traffic_is_not_captured_is_no_loop() -> None:
    """A listener of another user whom the settings let go takes what it is sent, and its own leaves."""
    let_go = PLAIN.but(proxy_uid=(PROXY, SOMEBODY))
    assert problems(let_go, (listener(15001, uid=SOMEBODY), BOTH[1]), OUTBOUND) == []
    (told,) = problems(PLAIN, (listener(15001, uid=SOMEBODY, process="pid 7 (envoy)"), BOTH[1]), OUTBOUND)
    assert told.startswith("pid 7 (envoy), uid 1000, on 0.0.0.0 is not the proxy (uid 1337, gid 1337): ")
    assert told.endswith("or give -u 1000")


def test_a_resolver_of_tcp_alone_is_nobody_to_queries() -> None:
    """DNS is sent by UDP, whatever listens by TCP at the same port; and to none but the pod's own resolver."""
    (dns,) = [each for each in found(RESOLVED, (*BOTH, listener(15053, "127.0.0.1"))) if each.what == DNS]
    assert (dns.port, dns.listeners, str(dns)) == (15053, (), "DNS → 15053: nobody listens")


@pytest.mark.parametrize(
    ("intent", "passes_on", "is_told"),
    [(PLAIN, False, True), (PLAIN, True, False), (HANDED, False, False)],
    ids=["REDIRECT", "it does", "TPROXY"],
)
def test_what_comes_back_from_the_pods_own_address_is_told_where_nothing_is_passed_on(
    intent: Intent, passes_on: bool, is_told: bool
) -> None:
    """By REDIRECT alone: what TPROXY hands over is passed on from the caller's address."""
    listening = (BOTH[0], listener(15006, is_transparent=True))
    told = [
        problem
        for each in found(intent, listening, ["10.77.0.2", "10.77.0.2"], passes_on=passes_on)
        for problem in each.problems
    ]
    expected = "2 connections came back to it from the pod's own address (10.77.0.2), and none leaves from 127.0.0.6: "
    assert [problem[: len(expected)] for problem in told] == ([expected] if is_told else [])


@pytest.mark.parametrize(
    ("intent", "uid", "port", "loops"),
    [
        (RESOLVED, SOMEBODY, 53, True),
        (RESOLVED, SOMEBODY, 15053, True),
        (RESOLVED, PROXY, 53, False),
        (RESOLVED, SOMEBODY, 5353, False),
        (PLAIN, SOMEBODY, 53, False),
        (Intent(redirect_dns=True, nameservers=(OWN,)), SOMEBODY, 53, False),
    ],
    ids=["port 53", "the resolver's port", "the proxy", "another port", "DNS is let go", "its nameserver is the pod's"],
)
def test_a_dns_server_in_the_pod_whose_own_queries_are_captured_is_told(
    intent: Intent, uid: int, port: int, loops: bool
) -> None:
    """With all that it listens on, and the setting that lets it go."""
    planned = plan(intent)
    server = listener(port, protocol="udp", uid=uid, process="pid 9 (unbound)")
    told = list(looping_resolvers(planned.rulesets, predicted.host(planned.routing, ipv6=False), [server]))
    assert [each.split(", and")[0] for each in told] == (
        [f"pid 9 (unbound), uid {uid}, answers DNS on 0.0.0.0 port {port}"] if loops else []
    )
    assert all(each.endswith(f"--exclude-uids {uid} lets its own queries go") for each in told)


@pytest.mark.parametrize(
    ("address", "only_ipv6", "hears"),
    [
        ("0.0.0.0", False, {"127.0.0.1", "10.77.0.2"}),
        ("::", False, {"127.0.0.1", "10.77.0.2", "::1"}),
        ("::", True, {"::1"}),
        ("127.0.0.1", False, {"127.0.0.1"}),
        ("::1", False, {"::1"}),
    ],
)
def test_what_a_socket_hears(address: str, only_ipv6: bool, hears: set[str]) -> None:
    """One of all IPv6 addresses hears IPv4 too, unless it is told not to (ipv6(7), IPV6_V6ONLY)."""
    each = listener(15006, address, only_ipv6=only_ipv6)
    assert {to for to in ("127.0.0.1", "10.77.0.2", "::1") if each.hears_at(ip_address(to))} == hears
    assert each.hears(Family.V6) == ("::1" in hears)
