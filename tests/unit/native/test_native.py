"""Our own tables of nf_tables, without a kernel: which rules they hold for a plan, and which transactions make them."""

from __future__ import annotations

import functools
from ipaddress import ip_address, ip_network
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.addresses import IPv4Network
from rules.live.changes import changes
from rules.meaning.spoken import conditions
from rules.native.applied import applied
from rules.native.compiled import NOBODY_LISTENS, compiled
from rules.native.names import place_of
from rules.native.words import MANY, rule_words, span_words
from rules.native.writing import asks_for_intervals, chains_of, met_in, transaction, transactions
from rules.netfilter.fields import DESTINATION, DPORT, NOBODY, SOURCE, UID, Among, all_hold, domain
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.spans import common, joined
from rules.netfilter.targets import Drop, Jump, Return, Tproxy
from rules.netfilter.values import Family, Ports
from rules.ours.reasons import examples
from rules.ours.recognition import is_ours
from rules.packets.packet import Host
from rules.plan.intent import TPROXY, Intent
from rules.plan.plan import plan, ruleset
from rules.simulator.simulate import simulate
from tests.property import strategies
from tests.property.test_simulate import LOCAL, packets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.netfilter.rulesets import Rule
    from rules.netfilter.spans import Span

LONGEST_COMMENT = 127
"""Bytes that a rule may carry as a comment (libnftnl, NFTNL_UDATA_COMMENT_MAXLEN, with a zero behind it)."""


@functools.cache
def held(intent: Intent, family: Family = Family.V4) -> Ruleset:
    return compiled(ruleset(intent, family))


def rules_of(intent: Intent, table: str, chain: str) -> Sequence[Rule]:
    return held(intent).table(table).chains()[chain]


def words(intent: Intent, table: str, chain: str) -> list[str]:
    return [rule_words(rule, table, Family.V4) for rule in rules_of(intent, table, chain)]


def networks(count: int) -> tuple[IPv4Network, ...]:
    """Networks that do not adjoin."""
    return tuple(IPv4Network((f"10.{at >> 7}.{at % 128 * 2}.0", 24)) for at in range(count))


@settings(deadline=None)
@given(data=st.data(), intent=strategies.intents, family=strategies.families)
def test_our_own_tables_do_the_same_as_the_plan(data: st.DataObject, intent: Intent, family: Family) -> None:
    """Whatever the settings and the packet: if it has an owner where it is sent, it fares as by rules of iptables."""
    planned = plan(intent)
    host = Host(LOCAL, "eth0", planned.routing)
    packet = data.draw(packets(family, intent=intent))
    own = [compiled(each) for each in planned.rulesets]
    as_planned, as_held = simulate(planned.rulesets, packet, host), simulate(own, packet, host)
    assert (as_held.became, as_held.port, as_held.address) == (as_planned.became, as_planned.port, as_planned.address)


@settings(deadline=None)
@given(first=strategies.intents, second=strategies.intents, family=strategies.families)
def test_a_transaction_leads_to_what_is_planned_and_a_second_one_is_empty(
    first: Intent, second: Intent, family: Family
) -> None:
    """From any plan to any other and to nothing; where nothing differs nothing is said, so no counter is lost."""
    before, after = held(first, family), held(second, family)
    for becomes in (after, Ruleset(family)):
        asked = changes(before, becomes)
        assert changes(applied(before, asked), becomes) == ()
        assert bool(list(transaction(before, becomes))) is bool(asked)
        assert list(transaction(becomes, becomes)) == []


def test_every_why_fits_into_a_comment() -> None:
    """nft takes 127 bytes, and no quote among them."""
    for intent in examples():
        for family in Family:
            for _, _, rule in held(intent, family).rules():
                assert len(rule.why.encode()) <= LONGEST_COMMENT
                assert '"' not in rule.why
                assert "\n" not in rule.why


def test_a_list_is_one_rule() -> None:
    """Networks, ports and users: however many there are, and for both protocols where both are asked for."""
    excluding = Intent(
        outbound_cidrs_exclude=networks(1000),
        outbound_ports_exclude=tuple(Ports.one(port) for port in range(1, 2001, 2)),
        redirect_dns=True,
    )
    told = [line for line in words(excluding, "nat", "ISTIO_OUTPUT") if "{" in line]
    assert [line[:60] for line in told] == [
        "meta l4proto { tcp, udp } th dport { 1, 3, 5, 7, 9, 11, 13, ",
        'meta l4proto tcp oifname "lo" ip daddr != 127.0.0.1 th dport',
        "ip daddr & 255.255.255.0 { 10.0.0.0, 10.0.2.0, 10.0.4.0, 10.",
    ]
    assert [line.count(",") for line in told if "daddr &" in line] == [999]


def asked_in(words: str) -> Span:
    """What nft understands by `ip daddr & MASK { … } ip daddr { … }` and the like: what each of these asks for."""
    found: Span = (0, 1 << 128)
    for asked in words.removesuffix(" }").split(" }"):
        mask = asked.partition(" & ")[2].partition(" ")[0]
        size = (1 << ip_address(mask).max_prefixlen) - int(ip_address(mask)) if mask else 1
        some = []
        for value in (asked.partition("{ ")[2] or asked.split()[-1]).split(", "):
            first, _, last = value.partition("-")
            network = None if first.isdigit() else ip_network(first)
            low = int(network[0]) if network else int(first)
            high = int(network[-1]) if network else low
            some.append((low, (int(ip_address(last)) if network else int(last)) + 1 if last else high + size))
        found = common(found, joined(sorted(some)))
    return found


@settings(deadline=None)
@given(
    family=strategies.families,
    field=st.sampled_from([SOURCE, DESTINATION, DPORT]),
    seed=st.integers(0, 1 << 32),
    bits=st.integers(0, 12),
    wider=st.lists(st.tuples(st.integers(2, 300), st.integers(0, 4)), max_size=10),
)
def test_a_long_list_says_what_it_asks_for(
    family: Family, field: int, seed: int, bits: int, wider: list[tuple[int, int]]
) -> None:
    """Networks or ports of one size, some of which adjoin, and some more that are wider: these and nothing else.

    There are never more blocks than intervals have ends, and those of one size alone need no interval.
    """
    bits, wider = (0, []) if field == DPORT else (bits, wider)
    chance = Random(seed)
    numbers = chance.sample(range(1, 1000), chance.randint(MANY, 4 * MANY))
    span = joined(
        sorted(
            [(at << bits, at + 1 << bits) for at in numbers]
            + [(at << bits + more, at + 1 << bits + more) for at, more in wider]
        )
    )
    words = span_words(field, span, family)
    assert asked_in(words) == span
    if len(span) >= 2 * MANY:
        in_blocks, *rest = words.removesuffix(" }").split(" }")
        assert in_blocks.count(",") < len(span)
        assert "/" not in in_blocks
        assert not rest or wider or sum(span[1::2]) - sum(span[::2]) >> bits > len(span)


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_networks_of_any_size_are_looked_up_in_blocks_first(seed: int) -> None:
    """The widest of them may be wider than any machine can count."""
    chance = Random(seed)
    span = tuple(sorted({chance.randrange(1, 1 << chance.randint(20, 128)) for _ in range(3 * MANY)}))
    span = span[: len(span) // 2 * 2]
    words = span_words(DESTINATION, span, Family.V6)
    assert asked_in(words) == span
    assert words.count("ip6 daddr") in (1, 2)


def test_lists_are_merged_and_sorted() -> None:
    """What adjoins or overlaps is one interval, whatever order it was given in."""
    given_so = ("10.1.0.0/16", "192.0.2.1/32", "10.0.0.0/16", "10.0.3.0/24")
    intent = Intent(outbound_cidrs_exclude=tuple(map(IPv4Network, given_so)))
    assert "ip daddr { 10.0.0.0/15, 192.0.2.1 } return" in words(intent, "nat", "ISTIO_OUTPUT")


def test_not_this_owner_asks_for_an_owner() -> None:
    """A packet without a socket is nobody's: nf_tables stops there, and what we say of the rule says so."""
    other = next(
        rule
        for rule in rules_of(Intent(), "nat", "ISTIO_OUTPUT")
        if "meta skuid != 1337" in rule_words(rule, "nat", Family.V4)
    )
    asked = [each for match in other.matches for each in conditions(match)]
    known = [domain(field) for field in range(14)]
    owners = {uid: [*known[:UID], (uid, uid + 1), *known[UID + 1 :]] for uid in (1000, 1337)} | {
        None: [*known[:UID], NOBODY, *known[UID + 1 :]]
    }
    of_uid = [each for each in asked if isinstance(each, Among) and each.field == UID]
    assert {uid: all_hold(of_uid, its) for uid, its in owners.items()} == {1000: True, 1337: False, None: False}
    assert isinstance(other.target, Return)


def test_what_nobody_listens_for_is_dropped() -> None:
    """TPROXY of iptables drops it, and `tproxy` of nft goes on to the next rule, past the proxy."""
    rules = rules_of(Intent(interception_mode=TPROXY), "mangle", "ISTIO_TPROXY")
    assert [type(rule.target) for rule in rules] == [Tproxy, Drop]
    assert rules[0].matches == rules[1].matches
    assert rules[1].why == NOBODY_LISTENS


LONGEST_NAME_OF_IPTABLES = 28
"""XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h, without the zero behind it."""


def script(before: Ruleset, after: Ruleset, *, anew: bool = False) -> list[str]:
    return [line for line, _ in transaction(before, after, anew=anew)]


def test_a_new_table_is_a_block_and_an_old_one_is_deleted() -> None:
    """In a new pod there is nothing but the table; a removal is one line."""
    made = script(Ruleset(Family.V4), held(Intent()))
    assert made[0] == "table ip istio-capture {"
    assert made[-1] == "}"
    assert "    type nat hook output priority -100; policy accept;" in made
    assert script(held(Intent()), Ruleset(Family.V4)) == ["delete table ip istio-capture"]
    assert script(Ruleset(Family.V4), held(Intent()), anew=True)[:2] == [
        "add table ip istio-capture",
        "delete table ip istio-capture",
    ]


def test_a_change_names_what_differs_alone() -> None:
    """Every other chain keeps its counters."""
    before, after = held(Intent()), held(Intent(proxy_port=16001))
    named = [line for line in script(before, after) if "chain" in line]
    assert named == ["flush chain ip istio-capture nat-ISTIO_REDIRECT", "  chain nat-ISTIO_REDIRECT {"]


LISTS = Intent(
    outbound_cidrs_exclude=tuple(map(IPv4Network, ("192.0.2.0/24", "198.51.100.7/32"))),
    inbound_ports=(Ports.one(8080), Ports(9000, 9100)),
)


def test_a_set_of_intervals_is_built_before_a_packet_can_ask_it() -> None:
    """Its chain comes under a name of its own, and takes the place of the one that is there."""
    first, then = ([line for line, _ in commit] for commit in transactions(held(Intent()), held(LISTS)))
    assert [line for line in first if "chain" in line] == [
        "  chain nat-ISTIO_INBOUND-not-yet-in-its-place {",
        "  chain nat-ISTIO_OUTPUT-not-yet-in-its-place {",
    ]
    assert any("th dport { 8080, 9000-9100 }" in line for line in first)
    assert not any("{ 8080" in line or "192.0.2.0" in line for line in then)
    assert "delete chain ip istio-capture nat-ISTIO_INBOUND" in then
    assert any("jump nat-ISTIO_INBOUND-not-yet-in-its-place" in line for line in then)
    inbound = "nat-ISTIO_INBOUND"
    assert f"rename chain ip istio-capture {inbound}-not-yet-in-its-place {inbound}" in then


def test_nothing_is_made_beforehand_without_need() -> None:
    """No set of intervals, the very one that is there, or one to which no packet comes yet."""
    assert transactions(held(Intent()), held(Intent(proxy_port=16001)))[0] == []
    assert transactions(held(LISTS), held(LISTS.but(proxy_port=16001)))[0] == []
    assert transactions(Ruleset(Family.V4), without_hooks(held(LISTS)))[0] == []
    assert transactions(without_hooks(held(LISTS)), held(LISTS))[0] == []


@settings(deadline=None)
@given(first=strategies.intents, second=strategies.intents, family=strategies.families)
def test_no_commit_makes_a_set_of_intervals_and_leads_a_packet_to_it(
    first: Intent, second: Intent, family: Family
) -> None:
    """From any plan to any other: nobody is led by the first commit, and the second makes no such set.

    What the kernel makes of the two is in `property/test_kernel.py`.
    """
    before, after = held(first, family), held(second, family)
    beforehand, then = transactions(before, after)
    chains = chains_of(after)
    met = [
        rule for table in {of for of, _ in chains} for chain in met_in(chains, table) for rule in chains[table, chain]
    ]
    assert not any("hook" in line or line.startswith(("flush", "delete")) for line, _ in beforehand)
    assert not any(rule in met and asks_for_intervals(rule) for _, rule in then if rule)
    assert bool(beforehand) <= any(rule and asks_for_intervals(rule) for _, rule in beforehand)


def test_what_a_killed_run_left_beside_its_chain_is_ours_and_goes() -> None:
    """It is known by its name, which nobody else can give a chain of iptables."""
    left = "ISTIO_OUTPUT-not-yet-in-its-place"
    assert place_of(f"nat-{left}") == ("nat", left)
    assert len(left) > LONGEST_NAME_OF_IPTABLES
    plain = held(Intent())
    (nat,) = plain.tables
    stale = plain.but(tables=(nat.but(declared=(*nat.declared, left)),))
    assert is_ours(stale.tables[0], left)
    assert applied(stale, changes(stale, plain)) == plain
    assert f"delete chain ip istio-capture nat-{left}" in script(stale, plain)
    again, _ = transactions(stale, held(LISTS))
    assert (f"flush chain ip istio-capture nat-{left}", None) in again


def test_what_a_killed_run_left_is_not_wanted_back() -> None:
    """Undoing a run leads to what was there, which may have what another left beside the chain that is made anew."""
    left = "ISTIO_OUTPUT-not-yet-in-its-place"
    (nat,) = held(LISTS).tables
    block = next(block for block in nat.blocks if block.chain == "ISTIO_OUTPUT")
    stale = held(LISTS).but(
        tables=(nat.but(declared=(*nat.declared, left), blocks=(*nat.blocks, block.but(chain=left))),)
    )
    beforehand, then = transactions(held(Intent()), stale)
    assert (beforehand, then) == transactions(held(Intent()), held(LISTS))


def test_what_is_put_back_has_counted() -> None:
    """Where a chain comes under a name of its own, too."""
    counts = {
        ("nat", "ISTIO_OUTPUT", 1): (3, 180),
        ("nat", "ISTIO_REDIRECT", 1): (2, 120),
        ("nat", "OUTPUT", 1): (5, 300),
    }
    lines = [line for commit in transactions(held(Intent()), held(LISTS), counts) for line, _ in commit]
    at = lines.index("  chain nat-ISTIO_OUTPUT-not-yet-in-its-place {")
    assert "counter packets 3 bytes 180 return" in lines[at + 1]
    assert not any("packets 2 " in line for line in lines)  # of a chain that stays
    assert any("counter packets 5 bytes 300 jump nat-ISTIO_OUTPUT" in line for line in lines)


def without_hooks(of: Ruleset) -> Ruleset:
    """The same without the jumps by which packets get there."""
    tables = (
        table.but(blocks=tuple(block for block in table.blocks if not table.is_built_in(block.chain)))
        for table in of.tables
    )
    return of.but(tables=tuple(tables))


def test_a_hook_goes_with_the_last_chain_of_its_table() -> None:
    """Without a base chain of type nat the kernel forgets how it changed what is open; one of mangle may go before."""
    intent = Intent(interception_mode=TPROXY)
    unhooked = script(held(intent), without_hooks(held(intent)))
    assert "flush chain ip istio-capture nat-OUTPUT" in unhooked
    assert {line.split()[-1] for line in unhooked if line.startswith("delete")} == {
        "mangle-PREROUTING",
        "mangle-OUTPUT",
    }
    left = script(without_hooks(held(intent)), held(Intent()))
    assert "delete chain ip istio-capture mangle-OUTPUT" in left
    assert "delete chain ip istio-capture nat-OUTPUT" not in left


@functools.cache
def every_target() -> frozenset[str]:
    every = (held(intent).rules() for intent in examples())
    return frozenset(rule_words(rule.but(matches=()), table, Family.V4) for rules in every for table, _, rule in rules)


@pytest.mark.parametrize(
    "said",
    [
        "return",
        "accept",
        "drop",
        "jump nat-ISTIO_REDIRECT",
        "redirect to :15001",
        "dnat to 192.0.2.1:15053",
        "tproxy to :15006 meta mark set 0x539 accept",
        "meta mark set 0x53a",
        "ct mark set meta mark",
        "meta mark set ct mark",
        "ct zone set 1",
        "reject with icmp port-unreachable",
        'log prefix "captured-inbound:" group 5',
    ],
)
def test_every_target_has_words_of_nft(said: str) -> None:
    """As nft(8) has them."""
    assert said in every_target()


def test_jumps_lead_to_chains_that_are_there() -> None:
    """Of the same table of iptables, whose name they have in front."""
    for intent in examples():
        for family in Family:
            for table in held(intent, family).tables:
                for rules in table.chains().values():
                    led_to = {rule.target.chain for rule in rules if isinstance(rule.target, Jump)}
                    assert led_to <= set(table.declared)
