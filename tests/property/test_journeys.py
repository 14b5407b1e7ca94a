"""All packets at once against packets one by one: the simulator is the judge of the boxes."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from rules.addresses import ip_address, ip_network
from rules.journeys.journeys import Journeys, packet_of, universe
from rules.netfilter.fields import DESTINATION, SOURCE, OfType
from rules.netfilter.hooks import BaseChain, NativeTable
from rules.netfilter.matches import Dst, Native, Proto
from rules.netfilter.rulesets import Rule, Ruleset
from rules.netfilter.spans import common
from rules.netfilter.targets import Dnat, Redirect
from rules.netfilter.values import Family
from rules.packets.trace import Became
from rules.plan.intent import Intent
from rules.plan.names import PROTOCOL, RULE_PRIORITY
from rules.plan.plan import plan
from rules.proof.escapes import FATES, LET_GO, TAKEN, UNTOLD, escapes
from rules.routing.policy import BLACKHOLE, Policy, PolicyRule, Route
from rules.simulator.simulate import in_any_order, simulate
from tests.property import strategies
from tests.rig import predicted
from tests.rig.chance import share
from tests.rig.sets import is_listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.analysis.boxes import Box
    from rules.journeys.journeys import End, Now
    from rules.netfilter.spans import Span
    from rules.packets.packet import Host, Packet
    from rules.packets.trace import Trace
    from rules.plan.plan import Plan
    from rules.proof.escapes import Escape

TABLES = ("raw", "mangle", "nat", "filter")
SAMPLES = 3
"""Packets of each box."""
MIXED = 12
"""Packets of each kind of sender."""
PRIORITIES = (-310, -250, -160, -120, -50, 20)
HOOKS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")


def contains(box: Box, other: Box) -> bool:
    """Whether the one packet of the other box is in this one."""
    return all(
        bool(span) == bool(value)
        and (not span or any(span[at] <= value[0] < span[at + 1] for at in range(0, len(span), 2)))
        for span, value in zip(box, other, strict=True)
    )


TYPES = tuple(
    OfType(field, (kind,), negated, by_fib, with_mark)
    for field in (SOURCE, DESTINATION)
    for kind in ("LOCAL", "UNICAST")
    for negated in (False, True)
    for by_fib, with_mark in ((False, False), (True, False), (True, True))
)


class Chooser:
    """Draws a packet of a box, at the edges of its spans or between, and remembers which."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.chosen: dict[int, Span] = {}

    def __call__(self, field: int, span: Span) -> int:
        at = self.chance.randrange(len(span) // 2) * 2
        first, last = span[at], span[at + 1] - 1
        value: int = self.chance.choice([first, last, self.chance.randint(first, last)])
        self.chosen[field] = (value, value + 1)
        return value

    def packet(self, start: Now, box: Box, family: Family) -> tuple[Packet, Box]:
        self.chosen = {}
        packet = packet_of(start, box, family, self)
        return packet, tuple(self.chosen.get(field, box[field]) for field in range(len(box)))


def mixed(start: Sequence[tuple[Now, Box]], boxes: Sequence[Box], chance: Random) -> Iterator[tuple[str, Now, Box]]:
    """Parts of all packets that there are, by the edges of what became of them: none may be lost."""
    for now, whole in start:
        for _ in range(MIXED if boxes else 0):
            asked = [chance.choice(boxes)[field] for field in range(len(whole))]
            both = tuple(common(mine, its) or mine for mine, its in zip(whole, asked, strict=True))
            yield now.goes, now, both


def is_of(trace: Trace, end: End) -> bool:
    """Whether this is what the boxes say as well."""
    return (
        trace.became is end.became
        and (
            not end.address
            or trace.address is None
            or any(end.address[at] <= int(trace.address) < end.address[at + 1] for at in range(0, len(end.address), 2))
        )
        and (not end.port or trace.port is None or end.port[0] <= trace.port < end.port[-1])
    )


def disagreements(
    rulesets: Sequence[Ruleset], family: Family, host: Host, natives: Sequence[NativeTable], chance: Random
) -> list[str]:
    """Packets of which the simulator says something else."""
    journeys = Journeys(rulesets, family, host, natives)
    start = list(journeys.started(universe(family, host)))
    ends, wrong, chooser = journeys.ends(start), [], Chooser(chance)
    drawn = [(end.now.tag.goes, end.now, box) for end in ends for box in end.boxes for _ in range(SAMPLES)]
    drawn += list(mixed(start, [box for end in ends for box in end.boxes], chance))
    for goes, now, box in drawn:
        packet, point = chooser.packet(now.but(goes=goes), box, family)
        mine = [
            other
            for other in ends
            if (other.now.direction, other.now.tag.goes, other.now.is_local) == (now.direction, goes, now.is_local)
            and any(contains(each, point) for each in other.boxes)
        ]
        trace = simulate(rulesets, packet, host, natives)
        if any(each.now.zoned or each.now.depends or each.became is Became.DEPENDS for each in mine):
            is_right = trace.became is Became.DEPENDS or any(is_of(trace, each) for each in mine)
        else:
            is_right = len(mine) == 1 and is_of(trace, mine[0])
        if not is_right:
            told = [(each.became, each.by, each.address, each.port, each.reason) for each in mine]
            wrong.append(f"{packet}: {trace.became} {trace.address} {trace.port} {trace.reason}; boxes {told}")
    return wrong


def host_of(planned: Plan, others: tuple[PolicyRule, ...], family: Family, local: int = 0) -> Host:
    """The rig's pod, with what is there of ip rules; the table `local` is asked at this priority. The other family
    refuses everything."""
    here = predicted.host(planned.routing, passthrough=planned.passthrough_address)
    if not others:
        return here
    ours = [PolicyRule(each.family, RULE_PRIORITY, each.mark, each.table, PROTOCOL) for each in planned.routing]
    routes = [Route(each.family, each.table, device="lo") for each in planned.routing]
    common = tuple(PolicyRule(family, at, table=of, mask=0) for at, of in ((local, 255), (32766, 254), (32767, 253)))
    more = [Route(family, 254, kind="unicast", device="eth0"), Route(family, 200, kind="unicast", device="eth0")]
    more.append(
        Route(
            family, 201, destination=ip_network("10.96.0.0/12" if family is Family.V4 else "fd00:96::/64"), device="lo"
        )
    )
    more.append(Route(family, 202, device="lo"))
    own = [ip_network("127.0.0.0/8")] if family is Family.V4 else [ip_network("::1")]
    own += [ip_network(at.address) for at in here.addresses if at.address.version == own[0].version]
    more += [Route(family, 255, destination=network, device="lo") for network in own]
    refused = (PolicyRule(each, 1, action=BLACKHOLE, mask=0) for each in Family if each is not family)
    rules = sorted((*ours, *others, *common, *refused), key=lambda rule: rule.priority)
    return here.but(policy=Policy(tuple(rules), (*routes, *more)))


@st.composite
def ip_rules(draw: st.DrawFn, family: Family) -> tuple[PolicyRule, ...]:
    """Ip rules of others, before ours and behind it."""
    rules = []
    for _ in range(draw(st.integers(0, 3))):
        rule = PolicyRule(
            family, draw(st.sampled_from((50, 100, 20000))), table=draw(st.sampled_from((200, 201, 202, 254))), mask=0
        )
        match draw(st.integers(0, 6)):
            case 0:
                rule = rule.but(mark=draw(st.sampled_from((0x539, 8))), mask=draw(st.sampled_from((0xFFFFFFFF, 0xF))))
            case 1:
                rule = rule.but(uids=(1000, 1337))
            case 2:
                rule = rule.but(destination_ports=(80, 90), transport=6)
            case 3:
                rule = rule.but(arrives=draw(st.sampled_from(("lo", "eth0"))))
            case 4:
                rule = rule.but(transport=draw(st.sampled_from((1, 17))))
            case 5:
                rule = rule.but(source=ip_network("10.244.0.0/24" if family is Family.V4 else "fd00:244::/64"))
            case _:
                rule = rule.but(inverted=True, uids=(1337, 1337))
        rules.append(rule)
    return tuple(rules)


@st.composite
def natives(draw: st.DrawFn, family: Family) -> tuple[NativeTable, ...]:
    """A native table of others, with base chains at drawn priorities."""
    tables = []
    for number in range(draw(st.integers(0, 2))):
        bases, chains = [], []
        for at in range(draw(st.integers(1, 2))):
            hook = draw(st.sampled_from(HOOKS))
            kind = draw(st.sampled_from(("filter", "nat", "filter")))
            rules = tuple(draw(st.lists(strategies.foreign_rules(family), min_size=1, max_size=3)))
            asked = draw(st.none() | st.sampled_from(TYPES))
            if asked:
                rules = tuple(rule.but(matches=(*rule.matches, Native((asked,), "fib"))) for rule in rules)
            name = f"base{at}"
            bases.append(BaseChain("ip", f"t{number}", name, kind, hook, draw(st.sampled_from(PRIORITIES)), handle=at))
            # What the kernel takes in the table nat of iptables it takes here.
            of = "nat" if kind == "nat" else "filter"
            rules = tuple(rule for rule in rules if type(rule.target).__name__ != "Jump")
            chains.append((name, tuple(rule for rule in rules if strategies.is_possible(of, hook, rule))))
        is_dormant = draw(st.booleans()) and draw(st.booleans())
        tables.append(NativeTable("inet", f"t{number}", is_dormant, tuple(bases), tuple(chains)))
    return tuple(tables)


@settings(max_examples=share(40))
@given(intent=strategies.intents, family=strategies.families, seed=st.integers(0, 1 << 32))
def test_boxes_tell_of_a_plan_what_the_simulator_tells(intent: Intent, family: Family, seed: int) -> None:
    """Of every packet of every box; and every packet is in exactly one."""
    planned = plan(intent)
    host = predicted.host(planned.routing, passthrough=planned.passthrough_address)
    assert disagreements(planned.rulesets, family, host, (), Random(seed)) == []


@settings(max_examples=share(40))
@given(data=st.data(), intent=strategies.intents, family=strategies.families, seed=st.integers(0, 1 << 32))
def test_boxes_tell_of_rules_of_others_what_the_simulator_tells(
    data: st.DataObject, intent: Intent, family: Family, seed: int
) -> None:
    """Beside ours, in tables of iptables and native ones, dormant ones, and ip rules."""
    live = Ruleset(family, tuple(data.draw(strategies.possible_tables(name, family)) for name in TABLES))
    planned = plan(intent)
    host = host_of(planned, data.draw(ip_rules(family)), family, data.draw(st.sampled_from((0, 0, 150))))
    held = (live, *(planned.rulesets if data.draw(st.booleans()) else ()))
    assert disagreements(held, family, host, data.draw(natives(family)), Random(seed)) == []


@st.composite
def nat_of_others(draw: st.DrawFn, family: Family) -> NativeTable:
    """A table that sends connections to addresses that they may have already."""
    near = ("127.0.0.1", "127.0.0.2", "10.244.0.5") if family is Family.V4 else ("::1", "fd00:244::5", "2001:db8::1")
    addresses = st.sampled_from([ip_address(each) for each in near])
    bases: list[BaseChain] = []
    chains = []
    for hook in ("OUTPUT", "PREROUTING"):
        rules = []
        for _ in range(draw(st.integers(0, 2))):
            to, where = draw(st.booleans()), draw(addresses)
            asked = (Dst(ip_network(where)),) if draw(st.booleans()) else ()
            rules.append(Rule((*asked, Proto("tcp")), Dnat(draw(addresses), 22) if to else Redirect(22)))
        bases.append(BaseChain("ip", "theirs", f"to_{hook}", "nat", hook, -110, handle=len(bases)))
        chains.append((f"to_{hook}", tuple(rules)))
    return NativeTable("inet", "theirs", False, tuple(bases), tuple(chains))


@settings(max_examples=share(40))
@given(data=st.data(), family=strategies.families, seed=st.integers(0, 1 << 32))
def test_boxes_tell_of_nat_to_an_address_of_this_host_what_the_simulator_tells(
    data: st.DataObject, family: Family, seed: int
) -> None:
    """Beside ip rules that are asked before the table `local`: they see only what got another address than it had."""
    planned = plan(Intent())
    early = PolicyRule(family, 50, table=200, mask=0)
    asking = st.sampled_from([early.but(uids=(0, 999)), early.but(uids=(0, 0)), early.but(transport=6)])
    others = tuple(data.draw(st.lists(asking, min_size=1, max_size=2)))
    host = host_of(planned, others, family, 150)
    assert disagreements((), family, host, [data.draw(nat_of_others(family))], Random(seed)) == []


def fates_of(packet: Packet, told: Sequence[Escape]) -> set[str]:
    """As what it is listed."""
    return {each.outcome for each in told if is_listed(packet, (each,))}


def fates_by(trace: Trace) -> set[str]:
    """The same by the simulator."""
    return set() if trace.became.is_captured else {FATES.get(trace.became, LET_GO)}


@settings(max_examples=share(30))
@given(intent=strategies.intents, family=strategies.families, seed=st.integers(0, 1 << 32))
def test_what_escapes_is_exactly_what_the_simulator_does_not_capture(intent: Intent, family: Family, seed: int) -> None:
    """A packet is in a set of `capture escapes` exactly if the proxy does not get it, and of its outcome alone."""
    planned = plan(intent)
    host = predicted.host(planned.routing, passthrough=planned.passthrough_address)
    told = escapes([("", each) for each in planned.rulesets], family, host)
    journeys = Journeys(planned.rulesets, family, host)
    chooser = Chooser(Random(seed))
    for end in journeys.ends(journeys.started(universe(family, host, passing=False))):
        for box in end.boxes:
            packet, _ = chooser.packet(end.now.but(goes=end.now.tag.goes), box, family)
            trace = simulate(planned.rulesets, packet, host)
            assert fates_of(packet, told) == fates_by(trace), (packet, trace.became)


@settings(max_examples=share(60))
@given(data=st.data(), intent=strategies.intents, family=strategies.families, seed=st.integers(0, 1 << 32))
def test_what_escapes_beside_rules_of_others_is_what_the_simulator_does_not_capture(
    data: st.DataObject, intent: Intent, family: Family, seed: int
) -> None:
    """The same in tables that others share with us, beside native ones and ip rules; but for what cannot be told."""
    chance = Random(seed)  # packets are no secrets
    planned = plan(intent)
    live = Ruleset(family, tuple(data.draw(strategies.possible_tables(name, family)) for name in TABLES))
    held, tables = (live, *planned.rulesets), data.draw(natives(family))
    host = host_of(planned, data.draw(ip_rules(family)), family, data.draw(st.sampled_from((0, 0, 150))))
    told = escapes([("", each) for each in held], family, host, tables)
    sure = [each for each in told if each.outcome != UNTOLD]
    journeys, chooser = Journeys(held, family, host, tables), Chooser(chance)
    start = list(journeys.started(universe(family, host, passing=False)))
    ends = journeys.ends(start)
    drawn = [(end.now.tag.goes, end.now, box) for end in ends for box in end.boxes]
    for goes, now, box in (*drawn, *mixed(start, [box for _, _, box in drawn], chance)):
        packet, _ = chooser.packet(now.but(goes=goes), box, family)
        trace = in_any_order(held, packet, host, tables)
        if trace.became is not Became.DEPENDS:
            fates = fates_of(packet, told)
            assert bool(fates) is not trace.became.is_captured, (packet, trace.became, trace.reason)
            # Who takes what ours let go is not asked, and what becomes then of what others took is not either.
            possible = fates_by(trace) | ({LET_GO, TAKEN} if trace.bound else set()) | {UNTOLD}
            assert fates <= possible, (packet, trace.became, trace.reason)
        if any(way.became.is_captured for way in trace.ways):
            assert not is_listed(packet, sure), (packet, trace.reason)
