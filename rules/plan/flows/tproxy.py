"""Inbound capture that keeps the client's address: the mangle table, marks, and connmarks.

TPROXY hands a packet to a listener without changing it. The mark makes routing deliver it here although its
destination may be elsewhere (see `rules.plan.plan.Routing`), and conntrack remembers the mark, so that the
answers of the application, which are addressed to the client, come back to the proxy.
"""

from __future__ import annotations

from rules.lists.networks import fewest
from rules.netfilter.matches import ConnMark, CtState, Dst, InIface, Mark, Not, Src
from rules.netfilter.rulesets import Block, when
from rules.netfilter.targets import Accept, Jump, RestoreMark, SaveMark, SetMark, Tproxy
from rules.netfilter.values import OUTPUT, PREROUTING, All
from rules.plan.flows import inbound, outbound
from rules.plan.flows.words import BYPASS, ON_LO, TCP, for_each, logged, port_matches, proxy_owners
from rules.plan.intent import of_family
from rules.plan.names import (
    ISTIO_DIVERT,
    ISTIO_INBOUND,
    ISTIO_OUTPUT,
    ISTIO_TPROXY,
    LOOPBACK_INTERFACE,
    PASSTHROUGH,
    PROXY_LOOP_MARK,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.values import Family
    from rules.plan.intent import Intent

FROM_LO = InIface(LOOPBACK_INTERFACE)
ESTABLISHED = CtState(frozenset({"RELATED", "ESTABLISHED"}))
MODE = "interception_mode"


def hooks() -> tuple[Block, Block]:
    why = "TCP is looked at while it can still be handed on unchanged"
    return (
        Block(PREROUTING, (when(TCP).then(Jump(ISTIO_INBOUND), why=why, setting=MODE),)),
        Block(OUTPUT, (when(TCP).then(Jump(ISTIO_OUTPUT), why="TCP is marked by whose it is", setting=MODE),)),
    )


def arriving(intent: Intent, family: Family) -> Block:
    """ISTIO_INBOUND of mangle: what arrives at the pod, or at the proxy over lo, asked in this order."""
    return Block.of(
        ISTIO_INBOUND,
        inbound.excluded_interfaces(intent),
        of_the_proxy(intent),
        over_lo(family),
        excluded_sources(intent, family),
        excluded(intent),
        captured(intent),
    )


def of_the_proxy(intent: Intent) -> Iterator[Rule]:
    """What the proxy marked itself, when it calls the application with the client's address as its own."""
    marked = Mark(intent.tproxy_mark)
    yield when(TCP, marked).then(SaveMark(), why="so that the answers are marked as well", setting="tproxy_mark")
    yield when(TCP, marked).then(BYPASS, why="the proxy's call to the application", setting="tproxy_mark")


def over_lo(family: Family) -> Iterator[Rule]:
    yield when(TCP, FROM_LO, Src(PASSTHROUGH[family])).then(
        BYPASS, why="the proxy passes inbound traffic on to the application from this address", setting=MODE
    )
    yield when(TCP, FROM_LO, Not(Mark(PROXY_LOOP_MARK))).then(
        BYPASS, why="over lo only the proxy's calls to its own pod are inbound", setting=MODE
    )


def excluded_sources(intent: Intent, family: Family) -> Iterable[Rule]:
    networks = fewest(of_family(intent.exclude_inbound_cidrs, family))
    return for_each(networks, Src, BYPASS, TCP, why="an excluded source", setting="exclude_inbound_cidrs")


def excluded(intent: Intent) -> Iterator[Rule]:
    yield from inbound.ssh(intent)
    yield from inbound.excluded_ports(intent)


def captured(intent: Intent) -> Iterator[Rule]:
    if isinstance(intent.inbound_ports, All):
        yield from handed_on(TCP)
    else:
        for ports in port_matches(intent.inbound_ports, inbound.let_go_for_ssh(intent)):
            yield from handed_on(TCP, ports)


def handed_on(*matches: Match) -> Iterator[Rule]:
    """The first packet picks the listener; later ones find their connection's socket by the mark alone."""
    yield when(*matches, ESTABLISHED).then(
        Jump(ISTIO_DIVERT), why="a connection that the proxy has already", setting="inbound_ports"
    )
    yield when(*matches).then(Jump(ISTIO_TPROXY), why="a new connection for the proxy", setting="inbound_ports")


def divert(intent: Intent) -> Block:
    """ISTIO_DIVERT: deliver it here."""
    return Block(
        ISTIO_DIVERT,
        (
            when().then(SetMark(intent.tproxy_mark), why="routing delivers it here", setting="tproxy_mark"),
            when().then(Accept(), why="nothing more to decide", setting=MODE),
        ),
    )


def to_listener(intent: Intent, family: Family) -> Block:
    """ISTIO_TPROXY: to the proxy's transparent listener, but for what is meant for loopback."""
    not_loopback = (TCP, Not(Dst(intent.loopback(family))))
    target = Tproxy(intent.inbound_capture_port, intent.tproxy_mark)
    why = "inbound TCP goes to the proxy's transparent listener"
    return Block.of(
        ISTIO_TPROXY,
        logged(intent, *not_loopback, prefix="captured-inbound:"),
        [when(*not_loopback).then(target, why=why, setting="inbound_capture_port")],
    )


def leaving(intent: Intent, family: Family) -> Block:
    """ISTIO_OUTPUT of mangle: marks, by whose packet it is, asked in this order."""
    return Block.of(
        ISTIO_OUTPUT,
        outbound.excluded_interfaces(intent),
        marked_already(intent),
        calls_to_itself(intent, family),
        answers(intent),
    )


def marked_already(intent: Intent) -> Iterator[Rule]:
    yield when(ON_LO, TCP, Mark(intent.tproxy_mark)).then(
        BYPASS, why="the proxy's call to the application keeps its mark", setting="tproxy_mark"
    )


def calls_to_itself(intent: Intent, family: Family) -> Iterator[Rule]:
    for owner, setting in proxy_owners(intent):
        yield when(ON_LO, TCP, Not(Dst(intent.loopback(family))), owner).then(
            SetMark(PROXY_LOOP_MARK), why="the app called itself through its service address", setting=setting
        )


def answers(intent: Intent) -> Iterator[Rule]:
    yield when(TCP, ConnMark(intent.tproxy_mark)).then(
        RestoreMark(), why="the application's answers go back through the proxy", setting="tproxy_mark"
    )
