"""What is concluded from where a probe arrived, or that it did not; and which ports are tried."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from capture.host.facts import Facts
from capture.validation.probing import (
    FAILED,
    NOT_PROVED,
    PROVED,
    Outcome,
    Trial,
    _Attempt,
    _Probe,
    cannot_be,
    excluded_interface,
    key,
    ports_to_try,
    tried,
)
from rules.addresses import IPv4Address, IPv6Address
from rules.analysis.probes import Path, Sender
from rules.netfilter.rulesets import Rule
from rules.netfilter.targets import Jump
from rules.netfilter.values import Family, Ports
from rules.plan.intent import Intent
from rules.plan.plan import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

V4 = Family.V4
APP = Sender("an application", 65534, 65534)
TO_PROXY = Path(
    "what it sends",
    V4,
    "tcp",
    APP,
    IPv4Address("192.0.2.1"),
    80,
    15001,
    "ISTIO_OUTPUT",
    Rule((), Jump("ISTIO_REDIRECT")),
)
BESIDE_IT = TO_PROXY.but(name="what is excluded", lands=0)
TO_ITSELF = BESIDE_IT.but(name="over loopback", destination=IPv4Address("127.0.0.1"), leaves=False)
QUERY = TO_PROXY.but(name="a query", protocol="udp", port=53, lands=15053)
TAKEN = "cannot listen on port 15001: Address already in use"


@pytest.fixture
def attempt() -> _Attempt:
    return _Attempt((), 5)


def probe(path: Path) -> _Probe:
    with socket.socket() as unused:
        return _Probe(path, unused)


@pytest.mark.parametrize(
    ("path", "landed", "result"),
    [
        (TO_PROXY, 15001, PROVED),
        (TO_PROXY, 15006, FAILED),
        (TO_PROXY, 0, FAILED),
        (TO_PROXY, None, FAILED),
        (TO_PROXY, -1, FAILED),
        (BESIDE_IT, 0, PROVED),
        (BESIDE_IT, None, PROVED),
        (BESIDE_IT, 15001, FAILED),
        (BESIDE_IT, -1, FAILED),
        (TO_ITSELF, 80, PROVED),
        (TO_ITSELF, 0, FAILED),
        (TO_ITSELF, None, FAILED),
        (TO_ITSELF, 15001, FAILED),
    ],
)
def test_where_it_must_arrive(attempt: _Attempt, path: Path, landed: int | None, result: str) -> None:
    """At the proxy's port; at none if it leaves the pod, where an error from beyond is as good; else at its own."""
    attempt.settle(probe(path), "seen", landed=landed)
    assert attempt.outcomes[key(path)].result == result


def with_listener_of_somebody(attempt: _Attempt, path: Path) -> _Attempt:
    attempt.foreign[path.family, path.protocol, path.lands] = TAKEN
    return attempt


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.ECONNRESET])
def test_a_refusal_where_somebody_listened_is_tried_again(attempt: _Attempt, error: int) -> None:
    """He may have gone away under the probe. Of what goes to nobody a refusal is an answer."""
    with_listener_of_somebody(attempt, TO_PROXY).failed(probe(TO_PROXY), error)
    outcome = attempt.outcomes[key(TO_PROXY)]
    assert (outcome.result, outcome.is_final) == (FAILED, False)
    assert TAKEN in outcome.seen
    attempt.failed(probe(BESIDE_IT), error)
    assert attempt.outcomes[key(BESIDE_IT)].result == PROVED


@pytest.mark.parametrize("error", [errno.ETIMEDOUT, errno.EPERM])
def test_another_error_is_final(attempt: _Attempt, error: int) -> None:
    with_listener_of_somebody(attempt, TO_PROXY).failed(probe(TO_PROXY), error)
    assert attempt.outcomes[key(TO_PROXY)].is_final


def test_what_arrives_nowhere_is_not_captured(attempt: _Attempt) -> None:
    """Where we listen ourselves."""
    attempt.stayed_away(probe(TO_PROXY))
    attempt.stayed_away(probe(BESIDE_IT))
    assert [attempt.outcomes[key(path)].result for path in (TO_PROXY, BESIDE_IT)] == [FAILED, PROVED]


def test_a_listener_of_somebody_else_that_took_nothing_proves_nothing(attempt: _Attempt) -> None:
    """What would have come to the application's stand-in, had it not been captured; and datagrams that nobody sees."""
    own = TO_PROXY.but(leaves=False)
    with_listener_of_somebody(attempt, own).application = [cast("Any", "a stand-in")]
    attempt.stayed_away(probe(own))
    assert attempt.outcomes[key(own)].result == NOT_PROVED
    with_listener_of_somebody(attempt, QUERY).stayed_away(probe(QUERY))
    assert attempt.outcomes[key(QUERY)].result == NOT_PROVED
    assert "CAP_NET_ADMIN" in attempt.outcomes[key(QUERY)].seen
    attempt.outcomes.clear()
    attempt.conntrack = cast("Any", "a subscription")
    attempt.stayed_away(probe(QUERY))
    assert attempt.outcomes[key(QUERY)].result == FAILED


def test_a_connection_that_nobody_was_seen_to_take_is_tried_again(attempt: _Attempt) -> None:
    gone = probe(TO_PROXY)
    gone.is_connected = True
    attempt.stayed_away(gone)
    assert not attempt.outcomes[key(TO_PROXY)].is_final


def test_whose_listener_it_is_depends_on_family_protocol_and_port(attempt: _Attempt) -> None:
    with_listener_of_somebody(attempt, TO_PROXY)
    assert attempt.foreign_to(TO_PROXY) == TAKEN
    assert attempt.foreign_to(BESIDE_IT) == TAKEN  # it must not arrive there either
    for other in (QUERY, TO_PROXY.but(lands=15006), TO_PROXY.but(family=Family.V6)):
        assert attempt.foreign_to(other) == ""


# --- trying again -------------------------------------------------------------------------------------------


@dataclass
class Tries:
    """Attempts of which each says what happened to a path, by how often it was tried."""

    story: Callable[[Path, int], Outcome]
    made: dict[str, int] = field(default_factory=dict)
    limits: list[float] = field(default_factory=list)

    def __call__(self, wanted: Sequence[Path], _: Trial, limit: float) -> list[Outcome]:
        self.limits.append(limit)
        for path in wanted:
            self.made[path.name] = self.made.get(path.name, 0) + 1
        return [self.story(path, self.made[path.name]) for path in wanted]


def trial(intent: Intent | None = None) -> Trial:
    meant = intent or Intent()
    return Trial(meant, plan(meant), Facts(addresses=()), 15002, [])


def test_only_what_failed_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conntrack may have decided it as it did for an earlier run; a second failure stands."""
    always = {TO_PROXY.name: FAILED, BESIDE_IT.name: PROVED, QUERY.name: NOT_PROVED}
    tries = Tries(lambda path, _: Outcome(path, always[path.name], ""))
    monkeypatch.setattr("capture.validation.probing.attempted", tries)
    found = tried([TO_PROXY, BESIDE_IT, QUERY], trial(), 10)
    assert [outcome.result for outcome in found] == [FAILED, PROVED, NOT_PROVED]
    assert tries.made == {TO_PROXY.name: 2, BESIDE_IT.name: 1, QUERY.name: 1}
    assert tries.limits[0] == pytest.approx(1, abs=0.1)
    assert tries.limits[1] == pytest.approx(10, abs=0.5)


def test_what_is_not_final_is_tried_until_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(lambda path, times: Outcome(path, FAILED if times < 5 else PROVED, "", is_final=False))
    monkeypatch.setattr("capture.validation.probing.attempted", tries)
    (outcome,) = tried([TO_PROXY], trial(), 10)
    assert (outcome.result, tries.made) == (PROVED, {TO_PROXY.name: 5})


def test_a_short_timeout_leaves_half_of_it_for_the_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(lambda path, _: Outcome(path, FAILED, ""))
    monkeypatch.setattr("capture.validation.probing.attempted", tries)
    tried([TO_PROXY], trial(), 1)
    assert tries.limits[0] == pytest.approx(0.5, abs=0.1)


# --- before it begins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "first"),
    [(15002, True), (15001, False), (15006, False), (15008, False), (53, False), (80, False), (81, False), (82, True)],
)
def test_a_port_of_the_proxy_or_an_excluded_one_proves_nothing(wanted: int, first: bool) -> None:
    """Another one stands for it, that is neither."""
    intent = Intent(outbound_ports_exclude=(Ports(80, 81), Ports(2000, 15000), Ports(15010, 65535)))
    ports = list(ports_to_try(intent, wanted))
    assert (ports[0] == wanted) is first
    own = {15001, 15006, 15008}
    assert all(1024 <= port < 2000 or 15001 < port < 15010 for port in ports[first:])
    assert not own & set(ports)
    assert len(set(ports)) > 20


def test_where_every_port_is_excluded_one_of_them_is_tried() -> None:
    ports = list(ports_to_try(Intent(outbound_ports_exclude=(Ports(1, 65535),)), 80))
    assert ports
    assert all(1024 <= port <= 65535 for port in ports)


@pytest.mark.parametrize(
    ("excluded", "name"), [(("lo",), "lo"), (("l+",), "lo"), (("eth0",), ""), (("lo1",), ""), ((), "")]
)
def test_what_would_leave_by_an_excluded_interface_is_not_tried(excluded: tuple[str, ...], name: str) -> None:
    """What stays in the pod leaves over lo. Whatever must not be captured may leave by any."""
    intent = Intent(exclude_interfaces=excluded)
    assert excluded_interface(TO_PROXY.but(leaves=False), intent, Facts(addresses=())) == name
    assert excluded_interface(TO_ITSELF, intent, Facts(addresses=())) == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [(errno.EPERM, "takes root"), (errno.EINVAL, "does not map uid 65534"), (errno.EMFILE, "no socket")],
)
def test_why_a_user_cannot_be_tried_is_said(error: int, said: str) -> None:
    assert said in cannot_be(APP, OSError(error, "refused"))


def test_an_outcome_is_one_line() -> None:
    six = TO_PROXY.but(family=Family.V6, destination=IPv6Address("2001:db8::1"))
    assert str(Outcome(six, PROVED, "it arrived", 0.0015)) == (
        "proved: IPv6 tcp, what it sends (an application) to [2001:db8::1]:80: it arrived, 1.5 ms"
    )
    assert str(Outcome(TO_PROXY, NOT_PROVED, "no way")).endswith("to 192.0.2.1:80: no way")


# --- arriving -----------------------------------------------------------------------------------------------


class Stub:
    """A listener to whom somebody has come, or the one who came."""

    family, type = socket.AF_INET, socket.SOCK_STREAM

    def __init__(self, peer: tuple[str, int], original: tuple[str, int] | None = None) -> None:
        self.peer = peer
        self.original = original

    def accept(self) -> tuple[Stub, tuple[str, int]]:
        return self, self.peer

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def getsockopt(self, *_: int) -> bytes:
        if self.original is None:
            raise OSError(errno.ENOENT, "no NAT")
        return bytes(2) + self.original[1].to_bytes(2, "big") + IPv4Address(self.original[0]).packed + bytes(8)


@pytest.mark.parametrize(
    ("peer", "original", "result"),
    [
        (("10.244.0.5", 40000), ("192.0.2.1", 80), PROVED),
        (("10.244.0.5", 40000), None, PROVED),
        (("10.244.0.5", 40000), ("192.0.2.1", 81), FAILED),
        (("10.244.0.5", 40000), ("192.0.2.2", 80), FAILED),
        (("10.244.0.5", 40001), ("192.0.2.1", 80), None),
        (("10.244.0.6", 40000), ("192.0.2.1", 80), None),
    ],
)
def test_who_arrives_is_known_by_address_and_port(
    attempt: _Attempt, peer: tuple[str, int], original: tuple[str, int] | None, result: str | None
) -> None:
    """And where it wanted to go has to be what the proxy is told. A stranger decides nothing."""
    attempt.probes["tcp", IPv4Address("10.244.0.5"), 40000] = probe(TO_PROXY)
    attempt.arrived(cast("Any", Stub(peer, original)), 15001)
    outcome = attempt.outcomes.get(key(TO_PROXY))
    assert (outcome and outcome.result) == result


def test_a_path_is_decided_once(attempt: _Attempt) -> None:
    attempt.probes["tcp", IPv4Address("10.244.0.5"), 40000] = probe(TO_PROXY)
    for port in (15001, 15006):
        attempt.arrived(cast("Any", Stub(("10.244.0.5", 40000), ("192.0.2.1", 80))), port)
    assert attempt.outcomes[key(TO_PROXY)].result == PROVED
