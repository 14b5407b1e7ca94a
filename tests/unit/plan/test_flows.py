"""Single promises of the flows, told from the plan alone."""

from __future__ import annotations

import pytest

from rules.addresses import ip_address
from rules.netfilter.matches import Not, OwnerGid, OwnerUid, Proto
from rules.netfilter.targets import Dnat, Jump, Redirect, Reject
from rules.netfilter.values import FILTER, NAT, Family
from rules.plan.intent import Intent
from rules.plan.names import ISTIO_IN_REDIRECT, ISTIO_OUTPUT, ISTIO_OUTPUT_DNS
from rules.plan.plan import ruleset

ADDRESSES = {Family.V4: ip_address("192.0.2.53"), Family.V6: ip_address("2001:db8::53")}


@pytest.mark.parametrize("family", Family, ids=str)
def test_each_family_is_sent_to_the_resolver_of_its_own(family: Family) -> None:
    """--dns-capture-address takes one of each: an IPv4 query cannot be sent to an IPv6 address."""
    intent = Intent(
        families=(Family.V4, Family.V6),
        redirect_dns=True,
        capture_all_dns=True,
        dns_capture_address=tuple(ADDRESSES.values()),
    )
    targets = {rule.target for rule in ruleset(intent, family).table(NAT).chains()[ISTIO_OUTPUT_DNS]}
    assert targets == {Dnat(ADDRESSES[family], 15053)}


@pytest.mark.parametrize("family", Family, ids=str)
def test_a_family_without_a_resolver_of_its_own_is_sent_to_loopback(family: Family) -> None:
    """The address of the other family is of no use to it."""
    other = next(each for each in Family if each is not family)
    intent = Intent(
        families=(Family.V4, Family.V6),
        redirect_dns=True,
        capture_all_dns=True,
        dns_capture_address=(ADDRESSES[other],),
    )
    targets = {rule.target for rule in ruleset(intent, family).table(NAT).chains()[ISTIO_OUTPUT_DNS]}
    assert targets == {Redirect(15053)}


@pytest.mark.parametrize(
    ("uids", "gids"), [((1337, 1338), (1337,)), ((1337,), (1337, 1338))], ids=["two uids", "two gids"]
)
def test_of_several_owners_none_hides_the_calls_of_another_to_itself(
    uids: tuple[int, ...], gids: tuple[int, ...]
) -> None:
    """The calls of all of them are captured before the one rule that lets everybody else go over lo."""
    rules = ruleset(Intent(proxy_uid=uids, proxy_gid=gids), Family.V4).table(NAT).chains()[ISTIO_OUTPUT]
    others = {*(Not(OwnerUid(uid)) for uid in uids), *(Not(OwnerGid(gid)) for gid in gids)}
    captures = [at for at, rule in enumerate(rules) if rule.target == Jump(ISTIO_IN_REDIRECT)]
    lets_others_go = [at for at, rule in enumerate(rules) if others & {*rule.matches}]
    assert len(captures) == len(others)
    assert len(lets_others_go) == 1
    assert lets_others_go[0] > max(captures)


def test_ipv6_that_is_refused_is_answered_in_both_protocols() -> None:
    """TCP by a reset and UDP by an error, so that nobody waits; no other family is refused."""
    intent = Intent(families=(Family.V4,), ipv6="reject")
    chain = ruleset(intent, Family.V6).table(FILTER).chains()[ISTIO_OUTPUT]
    refused = {rule.matches[0]: rule.target for rule in chain if isinstance(rule.target, Reject)}
    assert refused == {Proto("tcp"): Reject("tcp-reset"), Proto("udp"): Reject("icmp6-port-unreachable")}
    assert not ruleset(intent, Family.V4).table(FILTER).chains()
