"""How netfilter walks its tables, one claim each. `tests/netns/test_simulator.py` asks the kernel whether it is so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rules.addresses import ip_address, ip_network
from rules.iptables.reading import tables
from rules.iptables.writing import match_text
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
from rules.netfilter.values import BUILT_IN, Family, Ports
from rules.packets.packet import ESTABLISHED, INVALID, RELATED, UNTRACKED, Direction, Host, Local, Packet
from rules.packets.trace import Became
from rules.plan.intent import TPROXY, Intent
from rules.plan.plan import Routing, plan
from rules.routing.policy import TABLE_LOCAL, Policy, PolicyRule, Route
from rules.simulator.conclusions import conclusion
from rules.simulator.simulate import MOST_WORLDS, in_any_order, simulate
from tests.rig import predicted

if TYPE_CHECKING:
    from rules.packets.trace import Step, Trace

SERVICE, POD, CLIENT = ip_address("9.9.9.9"), ip_address("10.244.0.5"), ip_address("192.0.2.1")
HERE = predicted.host()
OUT = Packet(Direction.OUT, Family.V4, "tcp", POD, SERVICE, 80, "eth0", 40000, 1000, 1000)
IN = Packet(Direction.IN, Family.V4, "tcp", CLIENT, POD, 80, "eth0", 40000)
OVER_LO = OUT.but(destination=POD, interface="lo")
NEEDS_CONNTRACK = "*nat\n:UNUSED - [0:0]\n-A UNUSED -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n"
"""Without a rule that needs conntrack the kernel does not ask nat at all."""


def ruleset(text: str) -> Ruleset:
    return Ruleset(Family.V4, tables(text))


def followed(text: str, packet: Packet = OUT, host: Host = HERE) -> Trace:
    return simulate((ruleset(text),), packet, host)


def nat(*lines: str, packet: Packet = OUT) -> Trace:
    """What becomes of the packet with these rules in nat."""
    return followed("\n".join(["*nat", ":C - [0:0]", ":D - [0:0]", *lines, "COMMIT", ""]), packet)


def places(steps: tuple[Step, ...]) -> list[tuple[str, int]]:
    return [(step.chain, step.position) for step in steps]


# --- hooks and tables -------------------------------------------------------------------------------------


def everywhere() -> str:
    """A rule that only counts in every built-in chain of every table."""
    blocks = []
    for table, chains in BUILT_IN.items():
        blocks.append("\n".join([f"*{table}", *(f"-A {chain}" for chain in sorted(chains)), "COMMIT\n"]))
    return "".join(blocks) + NEEDS_CONNTRACK.replace("*nat", "*other")


def way(packet: Packet) -> list[str]:
    return [f"{step.table} {step.hook}" for step in followed(everywhere(), packet).steps]


SENT = "raw OUTPUT, mangle OUTPUT, nat OUTPUT, filter OUTPUT, security OUTPUT, mangle POSTROUTING, nat POSTROUTING"
LEFT_OVER_LO = "raw PREROUTING, mangle PREROUTING, mangle INPUT, filter INPUT, security INPUT"
DELIVERED = "raw PREROUTING, mangle PREROUTING, nat PREROUTING, mangle INPUT, filter INPUT, security INPUT, nat INPUT"
FORWARDED = (
    "raw PREROUTING, mangle PREROUTING, nat PREROUTING, mangle FORWARD, filter FORWARD, security FORWARD, "
    "mangle POSTROUTING, nat POSTROUTING"
)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (OUT, SENT),
        (OVER_LO, f"{SENT}, {LEFT_OVER_LO}"),
        (IN, DELIVERED),
        (IN.but(destination=SERVICE), FORWARDED),
    ],
    ids=["sent", "sent over lo", "delivered", "forwarded"],
)
def test_a_packet_passes_hooks_and_tables_in_the_order_of_the_kernel(packet: Packet, expected: str) -> None:
    """Over lo it passes all four hooks, but nat only on the way out: what is decided there is decided."""
    assert way(packet) == expected.split(", ")


@pytest.mark.parametrize("state", [ESTABLISHED, INVALID, UNTRACKED])
def test_nat_is_asked_about_the_first_packet_only(state: str) -> None:
    """And never about what conntrack cannot place or was told to leave alone."""
    assert not [step for step in nat("-A OUTPUT", packet=OUT.but(state=state)).steps if step.table == "nat"]
    assert places(nat("-A OUTPUT -p tcp -j REDIRECT --to-ports 9", packet=OUT.but(state=RELATED)).steps)


def test_nat_is_not_asked_where_nothing_needs_conntrack() -> None:
    """A nat table without a rule that needs it registers nothing, so its rules see no packet."""
    assert nat("-A OUTPUT -p tcp -j DROP").became is Became.BYPASSED
    assert followed("*nat\n-A OUTPUT -p tcp -j DROP\nCOMMIT\n" + "*raw\n-A OUTPUT -j CT --zone 1\nCOMMIT\n").became is (
        Became.DROPPED
    )


# --- chains -----------------------------------------------------------------------------------------------


def test_return_goes_on_behind_the_jump() -> None:
    """In the chain that jumped; what stands behind RETURN is not asked."""
    trace = nat("-A OUTPUT -j C", "-A OUTPUT -p tcp -j REDIRECT --to-ports 7", "-A C -j RETURN", "-A C -j DROP")
    assert places(trace.steps) == [("OUTPUT", 1), ("C", 1), ("OUTPUT", 2)]
    assert (trace.became, trace.port) == (Became.REDIRECTED, 7)


def test_return_in_a_built_in_chain_is_its_policy() -> None:
    """ACCEPT, or DROP if that is what it says."""
    rules = "-A OUTPUT -p tcp -j RETURN\n-A OUTPUT -j DROP\nCOMMIT\n"
    assert followed(f"*filter\n:OUTPUT ACCEPT [0:0]\n{rules}").became is Became.BYPASSED
    dropped = followed(f"*filter\n:OUTPUT DROP [0:0]\n{rules}")
    assert (dropped.became, dropped.decided) == (Became.DROPPED, None)
    assert dropped.reason == "the policy of OUTPUT of the filter table is DROP"


def test_accept_ends_its_table_and_no_other() -> None:
    """From any depth."""
    text = "*mangle\n:C - [0:0]\n-A OUTPUT -j C\n-A OUTPUT -j DROP\n-A C -j ACCEPT\nCOMMIT\n"
    assert followed(text).became is Became.BYPASSED
    assert followed(f"{text}*filter\n-A OUTPUT -j DROP\nCOMMIT\n").became is Became.DROPPED


def test_goto_does_not_come_back() -> None:
    """The end of the chain it leads to is the end of the one it stands in."""
    trace = nat("-A OUTPUT -j C", "-A OUTPUT -p tcp -j REDIRECT --to-ports 7", "-A C -g D", "-A C -j DROP", "-A D")
    assert places(trace.steps) == [("OUTPUT", 1), ("C", 1), ("D", 1), ("OUTPUT", 2)]


def test_a_packet_that_matches_nothing_is_accepted_untouched() -> None:
    """It goes where it was sent, and each rule that was asked is told."""
    trace = nat("-A OUTPUT -p udp -j DROP", "-A OUTPUT -d 10.0.0.0/8 -p tcp -j REDIRECT --to-ports 7")
    assert (trace.became, trace.address, trace.port) == (Became.BYPASSED, SERVICE, 80)
    assert places(trace.steps) == [("OUTPUT", 1), ("OUTPUT", 2)]
    assert trace.matched == ()


def test_chains_that_lead_in_a_circle_end() -> None:
    """The kernel does not take them, but a text may have them."""
    assert nat("-A OUTPUT -j C", "-A C -j D", "-A D -j C", "-A C -p tcp -j REDIRECT --to-ports 7").reason


# --- matches ----------------------------------------------------------------------------------------------

PORT_80 = Ports.one(80)
ASKED: list[tuple[m.Match, dict[str, Any], bool]] = [
    (m.Proto("tcp"), {}, True),
    (m.Proto("6"), {}, True),
    (m.Proto("udp"), {}, False),
    (m.Src(ip_network("10.244.0.0/24")), {}, True),
    (m.Src(ip_network("10.245.0.0/24")), {}, False),
    (m.Dst(ip_network("9.9.9.9/32")), {}, True),
    (m.Dst(ip_network("0.0.0.0/1")), {"destination": ip_address("128.0.0.1")}, False),
    (m.OutIface("eth0"), {}, True),
    (m.OutIface("eth+"), {}, True),
    (m.OutIface("+"), {}, True),
    (m.OutIface("eth"), {}, False),
    (m.OutIface("eth00"), {}, False),
    (m.InIface("eth0"), {}, False),
    (m.Not(m.InIface("eth0")), {}, True),
    (m.DPort(PORT_80), {}, True),
    (m.DPort(Ports(79, 80)), {}, True),
    (m.DPort(Ports(81, 90)), {}, False),
    (m.DPort(PORT_80), {"protocol": "icmp"}, False),
    (m.SPort(Ports.one(40000)), {}, True),
    (m.SPort(Ports.one(53)), {}, False),
    (m.SPort(Ports.one(53)), {"source_port": None}, False),
    (m.SPort(Ports(1024, 65535)), {"source_port": None}, True),
    (m.DPorts((Ports.one(22), PORT_80)), {}, True),
    (m.DPorts((Ports.one(22), Ports(81, 90))), {}, False),
    (m.OwnerUid(1000), {}, True),
    (m.OwnerUid(1001), {}, False),
    (m.Not(m.OwnerUid(1001)), {}, True),
    (m.OwnerUid(1000), {"uid": None}, False),
    (m.Not(m.OwnerUid(1000)), {"uid": None}, True),
    (m.OwnerUids(999, 1000), {}, True),
    (m.OwnerUids(1001, 2000), {}, False),
    (m.OwnerGid(1000), {"gid": 5}, False),
    (m.OwnerGid(5), {"gid": 5}, True),
    (m.CtState(frozenset({"NEW", "RELATED"})), {}, True),
    (m.CtState(frozenset({"ESTABLISHED"})), {}, False),
    (m.CtState(frozenset({"INVALID"})), {"state": INVALID}, True),
    (m.CtState(frozenset({"UNTRACKED"})), {"state": UNTRACKED}, True),
    (m.Mark(0), {}, True),
    (m.Mark(7), {"mark": 7}, True),
    (m.Mark(7), {}, False),
    (m.ConnMark(7), {"connmark": 7}, True),
    (m.ConnMark(7), {}, False),
    (m.Not(m.ConnMark(7)), {}, True),
    (m.Not(m.ConnMark(7)), {"state": INVALID}, False),
]


@pytest.mark.parametrize(("asked", "changed", "expected"), ASKED, ids=[f"{match_text(a)} {c}" for a, c, _ in ASKED])
def test_a_match_holds(asked: m.Match, changed: dict[str, Any], expected: bool) -> None:
    """As the kernel's module of that name answers, for the sender's packet in mangle."""
    rule = Rule((asked,), t.Drop())
    table = TableRules("mangle", (), (Block("OUTPUT", (rule,)),))
    tracked = tables(NEEDS_CONNTRACK)
    trace = simulate((Ruleset(Family.V4, (table, *tracked)),), OUT.but(**changed), HERE)
    assert trace.steps[0].matched is expected
    assert (trace.became is Became.DROPPED) is expected


def test_what_arrives_has_no_owner_even_if_it_was_sent_here() -> None:
    """Over lo the socket is left behind: what asks for an owner does not match, what asks for none does."""
    text = "*mangle\n-A PREROUTING -m owner --uid-owner 1000 -j DROP\n-A PREROUTING -m owner ! --uid-owner 5\nCOMMIT\n"
    assert [step.matched for step in followed(text, OVER_LO).steps] == [False, True]


def test_before_conntrack_has_looked_everything_is_invalid_to_it() -> None:
    """In raw; over lo conntrack knows the packet already."""
    text = "*raw\n-A OUTPUT -m conntrack --ctstate INVALID\n-A PREROUTING -m conntrack --ctstate NEW\nCOMMIT\n"
    assert [step.matched for step in followed(text, OVER_LO).steps] == [True, True]


# --- targets ----------------------------------------------------------------------------------------------


def test_redirect_leads_a_local_packet_to_loopback() -> None:
    """And those that follow it see it arrive over lo, where its way out was told to the rest of OUTPUT."""
    text = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 7\nCOMMIT\n*filter\n-A OUTPUT -o eth0 -d 127.0.0.1/32\n"
    trace = followed(f"{text}-A INPUT -i lo -d 127.0.0.1/32 -p tcp -m tcp --dport 7\nCOMMIT\n")
    assert (str(trace.address), trace.port) == ("127.0.0.1", 7)
    assert [step.matched for step in trace.steps] == [True, True, True]


def test_redirect_leads_what_arrives_to_the_interface_it_arrived_on() -> None:
    """To its first address; there is nowhere to go if it has none."""
    host = Host((Local("eth1", ip_address("10.1.0.1"), 24), *HERE.addresses))
    rule = "-A PREROUTING -p tcp -j REDIRECT --to-ports 7"
    arriving = IN.but(destination=ip_address("10.1.0.1"))
    assert followed(f"*nat\n{rule}\nCOMMIT\n", arriving, host).address == POD
    trace = followed(f"*nat\n{rule}\nCOMMIT\n", arriving.but(interface="eth9"), host)
    assert (trace.became, trace.reason) == (Became.DROPPED, "eth9 has no address to redirect it to")


def test_dnat_names_address_and_port() -> None:
    """Elsewhere, a packet from loopback goes nowhere."""
    rule = "-A OUTPUT -p tcp -j DNAT --to-destination 1.1.1.1:22"
    trace = nat(rule)
    assert (trace.became, str(trace.address), trace.port) == (Became.REDIRECTED, "1.1.1.1", 22)
    assert isinstance(trace.decided and trace.decided.rule.target, t.Dnat)
    here = ip_address("127.0.0.1")
    assert nat(rule, packet=OUT.but(source=here, destination=here, interface="lo")).became is Became.DROPPED


def test_a_mark_that_is_kept_turns_a_packet_to_lo() -> None:
    """Only where the ip rule and its route are really there."""
    text = "*mangle\n-A OUTPUT -p tcp -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n"
    kept = HERE.but(routing=(Routing(Family.V4, 7, 133),))
    assert followed(text).became is Became.BYPASSED
    trace = followed(text, host=kept)
    assert (trace.became, trace.marked) == (Became.DELIVERED, 7)
    assert followed(text, host=HERE.but(routing=(Routing(Family.V6, 7, 133),))).became is Became.BYPASSED
    elsewhere = f"{text}*nat\n-A OUTPUT -p tcp -j DNAT --to-destination 1.1.1.1:22\nCOMMIT\n"
    trace = followed(elsewhere, host=kept)
    assert trace.became is Became.DROPPED
    assert trace.reason == "mark 0x7 keeps it in the pod, where no ordinary socket answers for 1.1.1.1"


def test_a_connection_remembers_a_mark() -> None:
    """Saved by one packet, restored to a later one."""
    save = "*mangle\n-A OUTPUT -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff\nCOMMIT\n"
    restore = save.replace("save", "restore")
    assert followed(save, OUT.but(mark=7)).remembered == 7
    assert followed(restore, OUT.but(connmark=7)).marked == 7
    assert followed(restore, OUT.but(connmark=7, state=INVALID)).marked == 0


def test_the_first_zone_counts() -> None:
    """A packet has one conntrack zone."""
    text = "*raw\n-A OUTPUT -j CT --zone 1\n-A OUTPUT -j CT --zone 2\nCOMMIT\n"
    assert followed(text).zone == 1


TPROXY_RULES = "*mangle\n-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x7/0xffffffff\n"


def test_tproxy_needs_its_routing_for_what_is_not_ours() -> None:
    """A packet to an address of ours is delivered anyway."""
    text, elsewhere = f"{TPROXY_RULES}COMMIT\n", IN.but(destination=SERVICE)
    kept = HERE.but(routing=(Routing(Family.V4, 7, 133),))
    assert followed(text, elsewhere).became is Became.DROPPED
    assert followed(text, elsewhere).reason == "no ip rule keeps mark 0x7 in the pod"
    for packet, host in ((IN, HERE), (elsewhere, kept)):
        trace = followed(text, packet, host)
        assert (trace.became, trace.port) == (Became.REDIRECTED, 15006)


def test_tproxy_accepts_in_its_table_only() -> None:
    """Rules behind it in mangle are not asked; filter is, and may drop it."""
    text = f"{TPROXY_RULES}-A PREROUTING -j DROP\nCOMMIT\n"
    assert followed(text, IN).became is Became.REDIRECTED
    assert followed(f"{text}*filter\n-A INPUT -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n", IN).became is Became.DROPPED


# --- connections ------------------------------------------------------------------------------------------


def test_later_packets_go_where_the_first_one_went() -> None:
    """Without a rule of nat being asked; the rule that decided is the one that the first packet met."""
    rules = plan(Intent()).rulesets
    first, later = (simulate(rules, OUT.but(state=state), HERE) for state in ("NEW", ESTABLISHED))
    assert (later.became, later.address, later.port) == (first.became, first.address, first.port)
    assert later.decided == first.decided
    assert not [step for step in later.steps if step.table == "nat"]


def test_later_packets_are_asked_where_it_depends_on_a_rule_where_the_first_one_went() -> None:
    """Whatever that rule says, what is asked about connections that there are already has its own answer."""
    maybe = f"*nat\n-A OUTPUT -p tcp {RANDOM} -j REDIRECT --to-ports 7\nCOMMIT\n"
    dropped = "*filter\n-A OUTPUT -m conntrack --ctstate ESTABLISHED -j DROP\nCOMMIT\n"
    later = OUT.but(state=ESTABLISHED)
    assert followed(f"{maybe}{dropped}").became is Became.DEPENDS
    assert followed(f"{maybe}{dropped}", later).became is Became.DROPPED
    found = followed(maybe, later)
    assert {(way.became, way.port) for way in found.ways} == {(Became.REDIRECTED, 7), (Became.BYPASSED, 80)}
    assert places(found.depends_on) == [("OUTPUT", 1)]
    # What the first one was dropped by never saw the connections that there were before: nat is not asked again.
    gone = followed(f"*nat\n-A OUTPUT -p tcp {RANDOM} -j DROP\nCOMMIT\n", later)
    assert (gone.became, gone.port) == (Became.BYPASSED, 80)


def test_later_packets_have_what_their_connection_may_remember() -> None:
    """Also where that makes no difference to the first one."""
    marks = f"*mangle\n-A OUTPUT -m conntrack --ctstate NEW {RANDOM} -j CONNMARK --set-mark 5\nCOMMIT\n"
    dropped = "*filter\n-A OUTPUT -m conntrack --ctstate ESTABLISHED -m connmark --mark 5 -j DROP\nCOMMIT\n"
    assert followed(f"{marks}{dropped}").became is Became.BYPASSED
    later = followed(f"{marks}{dropped}", OUT.but(state=ESTABLISHED))
    assert (later.became, {way.became for way in later.ways}) == (Became.DEPENDS, {Became.DROPPED, Became.BYPASSED})


def test_an_answer_is_never_captured() -> None:
    """What an application answers to a client outside."""
    answer = OUT.but(destination=CLIENT, port=40000, source_port=80, state=ESTABLISHED, answers=(POD, 80))
    assert simulate(plan(Intent()).rulesets, answer, HERE).became is Became.BYPASSED


def test_the_proxys_transparent_listener_keeps_its_connections() -> None:
    """The first packet by TPROXY, later ones by the mark alone."""
    rules = plan(Intent(interception_mode=TPROXY)).rulesets
    first, later = (simulate(rules, IN.but(state=state), HERE) for state in ("NEW", ESTABLISHED))
    assert (first.became, first.port) == (Became.CAPTURED_INBOUND, 15006)
    assert (later.became, later.port) == (Became.CAPTURED_INBOUND, None)


# --- what we do not speak ---------------------------------------------------------------------------------

RANDOM = "-m statistic --mode random --probability 0.5"


def test_a_rule_that_cannot_be_asked_and_makes_no_difference_is_shown() -> None:
    """The answer is the answer, whichever way that rule goes."""
    trace = nat(f"-A OUTPUT {RANDOM} -j ACCEPT", f"-A OUTPUT {RANDOM} -j D", NEEDS)
    assert (trace.became, [step.matched for step in trace.steps]) == (Became.BYPASSED, [None, None])
    trace = nat(f"-A OUTPUT {RANDOM} -j C", "-A OUTPUT -p tcp -j REDIRECT --to-ports 7")
    assert (trace.became, [step.matched for step in trace.steps]) == (Became.REDIRECTED, [None, True])


def test_a_rule_that_cannot_be_asked_and_makes_a_difference_is_what_it_depends_on() -> None:
    """With what could become of the packet, each once."""
    trace = nat(f"-A OUTPUT {RANDOM} -j ACCEPT", "-A OUTPUT -p tcp -j REDIRECT --to-ports 7")
    assert (trace.became, trace.port, trace.decided) == (Became.DEPENDS, None, None)
    assert places(trace.depends_on) == [("OUTPUT", 1)]
    assert {way.became for way in trace.ways} == {Became.REDIRECTED, Became.BYPASSED}


def test_a_rule_whose_other_matches_fail_need_not_be_asked() -> None:
    """All must hold."""
    assert nat(f"-A OUTPUT -p udp {RANDOM} -j ACCEPT", "-A OUTPUT -p tcp -j REDIRECT --to-ports 7").port == 7


def test_too_many_rules_that_cannot_be_asked_are_not_guessed() -> None:
    """Even where they would make no difference; nor is it said that the ways that were walked are all."""
    count = MOST_WORLDS.bit_length()
    text = "".join(f"-A OUTPUT -m length --length {at} -j C\n" for at in range(1, count + 3))
    trace = nat(*text.splitlines(), "-A OUTPUT -p tcp -j REDIRECT --to-ports 7")
    assert trace.became is Became.DEPENDS
    assert {way.became for way in trace.ways} == {Became.REDIRECTED, Became.DEPENDS}


def test_a_limit_matters_only_to_a_rule_that_decides() -> None:
    """A line in the log is no difference."""
    log = "-A OUTPUT -p tcp -m limit --limit 10/sec -j LOG --log-prefix captured: --log-uid"
    trace = nat(log, "-A OUTPUT -p tcp -j REDIRECT --to-ports 7")
    assert (trace.became, trace.steps[0].matched) == (Became.REDIRECTED, None)
    assert isinstance(trace.steps[0].rule.matches[-1], m.Limit)
    decides = log.replace("LOG --log-prefix captured: --log-uid", "ACCEPT")
    assert nat(decides, "-A OUTPUT -p tcp -j REDIRECT --to-ports 7").became is Became.DEPENDS


@pytest.mark.parametrize(
    ("match", "held"),
    [
        ('-m comment --comment "a b -j DROP"', True),
        ("-m comment --comment x", True),
        ("-m mark --mark 0x1/0xf", True),
        ("-m mark ! --mark 0x1/0xf", False),
        ("-m mark --mark 0x2/0xf", False),
        ("-m state --state NEW,RELATED", True),
        ("-m addrtype --dst-type LOCAL", False),
        ("-m addrtype ! --dst-type LOCAL", True),
        ("-m addrtype --src-type LOCAL", True),
        ("-m addrtype --dst-type UNICAST", True),
        ("-m addrtype --dst-type ANYCAST", None),
        ("-m addrtype --dst-type UNICAST --limit-iface-out", None),
        ("-m addrtype ! --dst-type UNICAST --limit-iface-out", None),
        ("-m owner --gid-owner 1001 --suppl-groups", None),
        ("-p tcp -m tcp --dport 81 --tcp-option 2", False),
        ("-m set --match-set allowed dst", None),
        ("-m owner --socket-exists", True),
        ("-m owner ! --socket-exists", False),
        ("-m owner --gid-owner 900-1000", True),
        ("-f", False),
        ("-m connmark ! --mark 0x1/0x1", True),
        ("-m connmark --mark 0x0/0x2", True),
        ("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", True),
        ("-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", False),
        ("-m tcp --tcp-flags ALL NONE", False),
        ("-m tcp --tcp-flags CWR CWR", None),
        ("-m multiport --sports 40000,5", True),
        ("-m multiport ! --ports 80,81", False),
        ("-m multiport ! --ports 81:90", True),
        ("-m iprange --dst-range 9.9.9.0-9.9.9.9", True),
        ("-m iprange ! --src-range 10.244.0.5-10.244.0.5", False),
        ("-m conntrack --ctstate NEW,DNAT", True),
        ("-m conntrack --ctstate DNAT", False),
        ("-m conntrack ! --ctstate SNAT,DNAT", True),
        ("-d 9.0.0.9/255.0.0.255", True),
        ("! -d 9.0.0.9/255.0.0.255", False),
        ("-m statistic --mode random --probability 0.5", None),
        ("-m recent --rcheck --name x --mask 255.255.255.255 --rsource", None),
        ("-m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 5 --hashlimit-name x", None),
        ("-m a-module-that-nobody-knows --x 1", None),
    ],
)
def test_some_matches_of_others_can_be_told_all_the_same(match: str, held: bool | None) -> None:
    """By their words alone; where they ask for more than a packet's fields they cannot."""
    trace = nat(f"-A OUTPUT {match}", NEEDS, packet=OUT.but(mark=0x11))
    assert trace.steps[0].matched is held


NEEDS = "-A C -p tcp -j REDIRECT --to-ports 1"


def test_an_emptied_chain_is_named_where_it_should_have_captured() -> None:
    """The rule that leads to it holds, and nothing there takes the packet."""
    ours = plan(Intent()).rulesets[0]
    (nat_table,) = ours.tables
    emptied = nat_table.but(blocks=tuple(block for block in nat_table.blocks if block.chain != "ISTIO_REDIRECT"))
    said = conclusion(simulate((ours.but(tables=(emptied,)),), OUT, HERE), str)
    assert "rule 9 of ISTIO_OUTPUT sends it to ISTIO_REDIRECT, and no rule there takes it" in said


@pytest.mark.parametrize("asked", ["--mark 0x0", "! --mark 0x1", "--mark 0x0/0x6", "! --mark 0x1/0x6"])
def test_without_a_connection_no_mark_of_it_is_met(asked: str) -> None:
    """Neither a mark nor the absence of one: in raw conntrack has not looked yet."""
    trace = followed(f"*raw\n-A OUTPUT -m connmark {asked} -j DROP\nCOMMIT\n{NEEDS_CONNTRACK}")
    assert trace.steps[0].matched is False


MARKED = "-A OUTPUT -m mark --mark {} -j REDIRECT --to-ports 7"


@pytest.mark.parametrize(
    ("rules", "mark"),
    [
        (["-j MARK --set-xmark 0x1/0xff"], 0x1201),
        (["-j MARK --set-xmark 0x1/0x1"], 0x1235),
        (["-j MARK --set-xmark 0x0/0xffffff0f"], 0x30),
        (["-j MARK --set-xmark 0x1/0x0"], 0x1235),
        (["-j MARK --set-xmark 0x7/0xffffffff"], 0x7),
        (["-j MARK --or-mark 0x3"], 0x1237),
        (["-j MARK --and-mark 0xf0"], 0x30),
        (["-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff", "-j MARK --set-xmark 0x0/0xffffffff",
          "-j CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xf0"], 0x30),
        (["-j CONNMARK --set-xmark 0x5/0xffffffff", "-j CONNMARK --set-xmark 0x2/0x0",
          "-j CONNMARK --restore-mark"], 0x7),
        (["-j DSCP --set-dscp 0x0a", "-j TOS --set-tos 0x10/0xff", "-j TTL --ttl-set 64", "-j TEE --gateway 10.0.0.1",
          "-j CLASSIFY --set-class 0001:0001", "-j SET --add-set x src", "-j TRACE", "-j AUDIT --type accept",
          "-j SECMARK --selctx x", "-j TCPMSS --clamp-mss-to-pmtu"], 0x1234),
    ],
)  # fmt: skip
def test_the_walk_goes_on_behind_targets_of_others_with_the_marks_computed(rules: list[str], mark: int) -> None:
    """As xt_mark.c and xt_connmark.c do it, masks and all."""
    text = "\n".join(["*mangle", *(f"-A OUTPUT {rule}" for rule in rules), MARKED.format(f"{mark:#x}"), "COMMIT", ""])
    nat_rules = f"*nat\n:C - [0:0]\n{NEEDS}\n{MARKED.format(hex(mark))}\nCOMMIT\n"
    trace = followed(text.replace(MARKED.format(f"{mark:#x}") + "\n", "") + nat_rules, OUT.but(mark=0x1234))
    assert (trace.marked, trace.became, trace.port) == (mark, Became.REDIRECTED, 7)


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        ("-j REDIRECT", {"127.0.0.1:80"}),
        ("-j REDIRECT --to-ports 8000-8002", {"127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"}),
        ("-j REDIRECT --to-ports 8000-9000 --random", {"one of 127.0.0.1:8000-9000"}),
        ("-j DNAT --to-destination 1.1.1.1", {"1.1.1.1:80"}),
        ("-j DNAT --to-destination 1.1.1.1:81", {"1.1.1.1:81"}),
        ("-j DNAT --to-destination :81", {"9.9.9.9:81"}),
        ("-j DNAT --to-destination 1.1.1.1-1.1.1.3 --persistent", {"1.1.1.1:80", "1.1.1.2:80", "1.1.1.3:80"}),
        ("-j DNAT --to-destination 1.1.1.1:5-6", {"1.1.1.1:5", "1.1.1.1:6"}),
        ("-j NETMAP --to 1.1.1.0/24", {"1.1.1.9:80"}),
    ],
)
def test_a_rule_that_sends_elsewhere_names_all_that_it_can_be(target: str, ends: set[str]) -> None:
    """Without a port it stays; of several the answer names each, and says that it depends."""
    trace = nat(f"-A OUTPUT -p tcp {target}", NEEDS)
    ways = trace.ways or (trace,)
    assert {way.one_of or f"{way.address}:{way.port}" for way in ways} == ends
    assert {way.became for way in ways} == {Became.REDIRECTED}
    assert (trace.became is Became.DEPENDS) == (len(ways) > 1)
    said = conclusion(trace, str)
    assert all(end in said for end in ends)


def test_a_program_may_accept_or_drop() -> None:
    """NFQUEUE: what becomes of it depends on who listens, and both are named."""
    text = f"*nat\n{NEEDS.replace('-A C', '-A OUTPUT')}\nCOMMIT\n*filter\n-A OUTPUT -j NFQUEUE --queue-num 0\nCOMMIT\n"
    trace = followed(text)
    assert trace.became is Became.DEPENDS
    assert {way.became for way in trace.ways} == {Became.DROPPED, Became.REDIRECTED}


def test_what_is_kept_from_conntrack_is_asked_no_rule_of_nat() -> None:
    """And the answer names the rule."""
    rules = f"*nat\n{NEEDS.replace('-A C', '-A OUTPUT')}\nCOMMIT\n"
    for target in ("-j NOTRACK", "-j CT --notrack"):
        trace = followed(f"*raw\n-A OUTPUT -p tcp {target}\nCOMMIT\n{rules}")
        assert trace.became is Became.BYPASSED
        assert trace.reason == "rule 1 of OUTPUT of the raw table keeps it from conntrack, so no rule of nat is asked"
        assert conclusion(trace, str).endswith("it leaves the pod, to 9.9.9.9:80")
    assert followed(f"*raw\n-A OUTPUT -p tcp -j CT --helper ftp\nCOMMIT\n{rules}").became is Became.REDIRECTED


def test_a_zone_that_answers_are_not_in_loses_the_connection() -> None:
    """It is redirected, but no answer is known to be one. A zone for both, or without redirection, loses nothing."""
    redirect = f"*nat\n{NEEDS.replace('-A C', '-A OUTPUT')}\nCOMMIT\n"
    there = "*raw\n-A OUTPUT -p tcp -m tcp --dport 80 -j CT --zone 7\n{}COMMIT\n"
    trace = followed(there.format("") + redirect)
    assert (trace.became, trace.reason) == (
        Became.DROPPED,
        "its answers are in zone 0 of conntrack, where nobody knows its connection",
    )
    assert "(-p tcp --dport 80 -j CT --zone 7), for its answers" in conclusion(trace, str)
    both = "-A OUTPUT -p tcp -m tcp --sport 1 -j CT --zone 7\n"
    assert followed(there.format(both) + redirect).became is Became.REDIRECTED
    assert followed(there.format("")).became is Became.BYPASSED


def test_what_is_kept_from_conntrack_fails_where_its_answers_are_captured() -> None:
    """They are the middle of a connection that nobody knows, and so of a new one."""
    inward = "-A PREROUTING -p tcp -j REDIRECT --to-ports 15006"
    text = f"*raw\n-A OUTPUT -p tcp -m tcp --dport 80 -j NOTRACK\nCOMMIT\n*nat\n{inward}\nCOMMIT\n"
    assert conclusion(followed(text), str).endswith(
        "it leaves the pod, to 9.9.9.9:80, but its answers are redirected, so it fails"
    )
    assert followed(text.replace("-p tcp -j REDIRECT", "-p tcp --syn -j REDIRECT")).hindered == ""


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("-p tcp -m tcp --syn -j NOTRACK", ", but what follows is redirected, so it fails"),
        ("-p tcp -m tcp --tcp-flags SYN,ACK SYN -j CT --notrack", ", but what follows is redirected, so it fails"),
        ("-p tcp -j NOTRACK", ""),
        (
            "-p tcp -m tcp ! --syn -m limit --limit 1/s -j NOTRACK\n-A OUTPUT -p tcp -m tcp --syn -j NOTRACK",
            ", and whether what follows is redirected depends on rule 1 of OUTPUT of the raw table "
            "(-p tcp -m tcp ! --syn -m limit --limit 1/s -j NOTRACK)",
        ),
    ],
)
def test_what_is_kept_from_conntrack_fails_where_what_follows_is_captured(rule: str, said: str) -> None:
    """Conntrack takes the second packet for the middle of a new connection, which the rules redirect."""
    text = f"*raw\n-A OUTPUT {rule}\nCOMMIT\n*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"
    assert conclusion(followed(text), str).endswith(f"it leaves the pod, to 9.9.9.9:80{said}")


@pytest.mark.parametrize(
    ("rules", "what", "packet"),
    [
        ("mangle OUTPUT -p tcp --dport 80 -m state --state ESTABLISHED -j DROP", "what follows is dropped", OUT),
        ("raw OUTPUT -p tcp --dport 80 ! --syn -j DROP", "what follows is dropped", OUT),
        (
            "filter OUTPUT -p tcp --dport 15001 -m conntrack --ctstate ESTABLISHED -j REJECT",
            "what follows is refused",
            OUT,
        ),
        ("mangle OUTPUT -p tcp --dport 80 -m conntrack --ctstate DNAT -j DROP", "what follows is dropped", OUT),
        ("mangle OUTPUT -p tcp --sport 15001 -m conntrack --ctstate DNAT -j DROP", "its answers are dropped", OUT),
        ("mangle PREROUTING -p tcp --dport 80 -m conntrack --ctstate DNAT -j DROP", "what follows is dropped", IN),
        ("mangle OUTPUT -p tcp --sport 15006 -m conntrack --ctstate DNAT -j DROP", "its answers are dropped", IN),
        ("mangle OUTPUT -p tcp --dport 80 -m conntrack --ctstate SNAT -j DROP", "", OUT),
        ("mangle OUTPUT -p tcp --sport 15001 -m conntrack ! --ctstate DNAT -j DROP", "", OUT),
        ("mangle OUTPUT -p udp --dport 53 -m state --state ESTABLISHED -j DROP", "", OUT.but(protocol="udp", port=53)),
        ("filter OUTPUT -m owner ! --socket-exists -j DROP", "", OUT),
        ("filter OUTPUT -m owner ! --socket-exists -j DROP", "", IN),
        ("filter OUTPUT -p tcp --sport 15006 -m owner --socket-exists -j DROP", "its answers are dropped", IN),
        ("raw OUTPUT -p tcp --sport 15006 -j NOTRACK", "its answers are kept from conntrack", IN),
        ("raw OUTPUT -p tcp --sport 15001 -j CT --notrack", "its answers are kept from conntrack", OUT),
        ("raw OUTPUT -p tcp --sport 15006 -j CT --zone 5", "its answers are in zone 5 of conntrack", IN),
        ("raw OUTPUT -p tcp --sport 15006 -m owner --uid-owner 1337 -j CT --zone 5", "", IN),
        ("raw OUTPUT -p tcp --sport 80 -j NOTRACK", "", IN),
        ("raw PREROUTING -p tcp ! --syn -j NOTRACK", "what follows is kept from conntrack", IN),
        ("raw OUTPUT -p tcp ! --syn -j CT --zone 5", "its answers are in zone 5 of conntrack", IN),
        ("raw PREROUTING -p tcp ! --syn -j CT --zone 5", "what follows is in zone 5 of conntrack", IN),
        ("raw OUTPUT -p tcp -m conntrack --ctproto 6 -j NOTRACK", "", OUT),
        ("raw OUTPUT -p tcp -m conntrack ! --ctproto 17 -j NOTRACK", "", OUT),
        ("raw OUTPUT -p tcp -m conntrack --ctstate NEW --ctproto 6 -j NOTRACK", "", OUT),
        (
            "mangle OUTPUT -p tcp --dport 80 -m conntrack --ctstate ESTABLISHED --ctproto 6 -j DROP",
            "what follows is dropped",
            OUT,
        ),
    ],
)
def test_what_follows_the_first_packet_may_be_lost(rules: str, what: str, packet: Packet) -> None:
    """It is captured, and its connection fails: one more packet of TCP that way, or its answer, says so."""
    table, chain, rule = rules.split(maxsplit=2)
    jump, to = "-A {} -p {} -j REDIRECT --to-ports {}", 15001 if packet.direction is Direction.OUT else 15006
    hook = "OUTPUT" if packet.direction is Direction.OUT else "PREROUTING"
    nat = f"*nat\n{jump.format(hook, packet.protocol, to)}\nCOMMIT\n"
    trace = in_any_order([ruleset(f"*{table}\n-A {chain} {rule}\nCOMMIT\n{nat}")], packet, HERE)
    assert trace.became is Became.REDIRECTED
    assert trace.hindered.startswith(f"but {what}" if what else "")
    assert f"by rule 1 of {chain} " in trace.hindered or not what or "zone" in what
    assert bool(trace.hindered) is bool(what)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("OUTPUT -p tcp --sport 15006 -m owner --uid-owner 1337 -j DROP", "its answers come back"),
        ("OUTPUT -p tcp --sport 15006 -m owner ! --gid-owner 1337 -j REJECT", "its answers come back"),
        ("OUTPUT -p tcp --sport 15006 -m limit --limit 1/s -j DROP", "its answers come back"),
        (
            "INPUT -p tcp --dport 15006 -m state --state ESTABLISHED -m limit --limit 1/s -j DROP",
            "what follows arrives",
        ),
        ("OUTPUT -p tcp --sport 15006 -j QUEUE", "its answers come back"),
        ("OUTPUT -p tcp --sport 15006 -j A_TARGET_THAT_NOBODY_KNOWS", "its answers come back"),
        ("OUTPUT -p tcp -m addrtype ! --dst-type UNICAST --limit-iface-out -j DROP", "its answers come back"),
        ("INPUT -p tcp -m owner --gid-owner 5 --suppl-groups -j ACCEPT", ""),
        ("OUTPUT -p tcp --sport 15006 -m owner --uid-owner 1337 -j ACCEPT", ""),
        ("OUTPUT -p tcp --sport 80 -m limit --limit 1/s -j DROP", ""),
    ],
)
def test_what_may_be_lost_later_is_told_as_that(rule: str, what: str) -> None:
    """It is captured for certain, and by which rule its connection may fail is said with it."""
    nat = "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\nCOMMIT\n"
    trace = in_any_order([ruleset(f"*filter\n-A {rule}\nCOMMIT\n{nat}")], IN, HERE)
    assert (trace.became, trace.hindered) == (Became.REDIRECTED, "")
    chain, _, text = rule.partition(" ")
    said = f", and whether {what} depends on rule 1 of {chain} of the filter table ({text})" if what else ""
    assert conclusion(trace, str).endswith(f"it goes to 10.244.0.5:15006{said}")


@pytest.mark.parametrize(
    ("rule", "ends"),
    [
        (
            "OUTPUT -p tcp -m owner ! --uid-owner 1000 -j NOTRACK",
            [": it goes to 127.0.0.1:15001, and whether conntrack knows its answers depends on {}"],
        ),
        (
            "OUTPUT -p tcp -m limit --limit 1/s -j NOTRACK",
            [
                "it depends on {}: redirected, it goes to 127.0.0.1:15001, and whether conntrack knows its answers "
                "depends on {}",
                " or not captured, it leaves the pod, to 9.9.9.9:80",
            ],
        ),
        (
            "OUTPUT -p tcp ! --syn -m limit --limit 1/s -j NOTRACK",
            ["it goes to 127.0.0.1:15001, and whether conntrack knows its answers depends on {}"],
        ),
        (
            "OUTPUT -p tcp --dport 80 ! --syn -m limit --limit 1/s -j NOTRACK",
            ["it goes to 127.0.0.1:15001, and whether conntrack knows what follows depends on {}"],
        ),
        ("OUTPUT -p tcp -m conntrack --ctstate INVALID --ctproto 17 -j NOTRACK", ["it depends on {}: ", " or "]),
    ],
)
def test_what_conntrack_may_not_know_is_told_of_each_way(rule: str, ends: list[str]) -> None:
    """Where a rule that cannot be told keeps packets from it, the first of a connection or others."""
    nat = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"
    told = conclusion(in_any_order([ruleset(f"*raw\n-A {rule}\nCOMMIT\n{nat}")], OUT, HERE), str)
    chain, _, text = rule.partition(" ")
    for end in ends:
        assert end.replace("{}", f"rule 1 of {chain} of the raw table ({text})") in told, told


@pytest.mark.parametrize("target", ["-j SYNPROXY --mss 1460", "-j A_TARGET_THAT_NOBODY_KNOWS"])
def test_behind_a_target_that_we_do_not_speak_nothing_is_known(target: str) -> None:
    """It depends on that rule."""
    trace = nat(f"-A OUTPUT -p tcp {target}", NEEDS)
    assert (trace.became, places(trace.depends_on)) == (Became.DEPENDS, [("OUTPUT", 1)])


@pytest.mark.parametrize("rule", ["-A POSTROUTING -j MASQUERADE", "-A OUTPUT", "-A OUTPUT -j TRACE"])
def test_some_targets_of_others_change_nothing_that_matters(rule: str) -> None:
    """A new source is none to us, unless somebody asks for it over lo."""
    assert nat(rule, "-A OUTPUT -p tcp -j REDIRECT --to-ports 7").port == 7


# --- two backends -----------------------------------------------------------------------------------------


def test_where_both_backends_redirect_it_depends_on_which_is_younger() -> None:
    """The kernel asks the younger table first. Where both mean the same, or one says nothing, it does not matter."""
    first, second = (ruleset(f"*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports {port}\nCOMMIT\n") for port in (7, 8))
    trace = in_any_order((first, second), OUT, HERE)
    assert (trace.became, {way.port for way in trace.ways}) == (Became.DEPENDS, {7, 8})
    assert in_any_order((first, first), OUT, HERE).port == 7
    silent = ruleset("*filter\n-A OUTPUT\nCOMMIT\n")
    for order in ((first, silent), (silent, first)):
        trace = in_any_order(order, OUT, HERE)
        assert (trace.port, {step.layer for step in trace.steps}) == (7, {0, 1})


# --- in words ---------------------------------------------------------------------------------------------


def sentence(intent: Intent, packet: Packet) -> str:
    return conclusion(simulate(plan(intent).rulesets, packet, HERE), lambda name: f"<{name}>")


@pytest.mark.parametrize(
    ("intent", "packet", "expected"),
    [
        (
            Intent(),
            OUT,
            "captured outbound by rule 9 of ISTIO_OUTPUT (everything else goes to the proxy), because of "
            "<outbound_cidrs>: it goes to port 15001 of the proxy",
        ),
        (
            Intent(),
            OUT.but(uid=1337),
            "not captured, by rule 4 of ISTIO_OUTPUT (the proxy's own traffic, or it would loop), because of "
            "<proxy_uid>: it leaves the pod, to 9.9.9.9:80",
        ),
        (
            Intent(inbound_ports_exclude=(PORT_80,)),
            IN,
            "not captured, by rule 2 of ISTIO_INBOUND (an excluded inbound port), because of "
            "<inbound_ports_exclude>: it reaches 10.244.0.5:80 in the pod",
        ),
        (
            Intent(outbound_cidrs=(ip_network("10.0.0.0/8"),)),
            OUT,
            "not captured, because no rule of ISTIO_OUTPUT takes it (<outbound_cidrs>): it leaves the pod, to "
            "9.9.9.9:80",
        ),
        (
            Intent(),
            OUT.but(protocol="udp"),
            "not captured, because only TCP is looked at: it leaves the pod, to 9.9.9.9:80",
        ),
        (
            Intent(drop_invalid=True),
            IN.but(state=INVALID),
            "dropped by rule 1 of ISTIO_DROP (an invalid packet is dropped), because of <drop_invalid>",
        ),
        (
            Intent(redirect_dns=True, capture_all_dns=True, dns_capture_address=(ip_address("10.0.0.9"),)),
            OUT.but(protocol="udp", port=53),
            "captured dns by rule 2 of ISTIO_OUTPUT_DNS (a DNS query goes to the proxy's resolver), because of "
            "<redirect_dns>: it goes to port 15053 of the proxy, at 10.0.0.9:15053",
        ),
    ],
)
def test_the_answer_is_one_sentence(intent: Intent, packet: Packet, expected: str) -> None:
    """What became of it, by which rule, what that is for, who asked for it, and where it goes."""
    assert sentence(intent, packet) == expected


def test_what_it_depends_on_is_said_with_both_ends() -> None:
    """The rule in its own words."""
    trace = nat(f"-A OUTPUT {RANDOM} -j ACCEPT", "-A OUTPUT -p tcp -j REDIRECT --to-ports 7")
    assert conclusion(trace, str) == (
        f"it depends on rule 1 of OUTPUT of the nat table ({RANDOM} -j ACCEPT): redirected, it goes to 127.0.0.1:7 or "
        "not captured, it leaves the pod, to 9.9.9.9:80"
    )


def test_a_jump_to_a_chain_of_ours_is_the_rule_that_decided() -> None:
    """Not the REDIRECT that carries it out."""
    trace = simulate(plan(Intent()).rulesets, OUT, HERE)
    assert trace.decided
    assert trace.decided.rule.target == t.Jump("ISTIO_REDIRECT")


# --- ip rules of others -----------------------------------------------------------------------------------


def beside(*rules: PolicyRule, family: Family = Family.V4) -> Host:
    """The pod with these ip rules, of which 201 looks up a table that delivers everything here."""
    usual = (PolicyRule(family, 32766, table=254, mask=0), PolicyRule(family, 32767, table=253, mask=0))
    routes = (Route(family, 201, device="lo"), Route(family, 254, kind="unicast", device="eth0"))
    return HERE.but(policy=Policy((*rules, *usual), routes))


KEPT = PolicyRule(Family.V4, 50, table=201, mask=0)


def test_what_comes_over_lo_keeps_the_route_that_it_was_sent_by() -> None:
    """An ip rule by uid sends it over lo, where it has no owner any more; it is delivered all the same."""
    kept = followed("", OUT, beside(KEPT.but(uids=(1000, 1000))))
    assert (kept.became, kept.address, kept.port) == (Became.DELIVERED, SERVICE, 80)
    assert followed("", OUT.but(uid=1001), beside(KEPT.but(uids=(1000, 1000)))).became is Became.BYPASSED


def test_ipv4_forgets_whose_a_packet_is_where_its_mark_is_changed() -> None:
    """Then the way is chosen anew without the uid; without a change it stays."""
    marks = "*mangle\n-A OUTPUT -p tcp --dport 80 -j MARK --set-xmark 0x8/0xffffffff\nCOMMIT\n"
    host = beside(KEPT.but(uids=(1000, 1000)))
    assert followed(marks, OUT, host).became is Became.BYPASSED
    assert followed(marks, OUT.but(port=81), host).became is Became.DELIVERED


def test_a_martian_is_looked_up_with_its_ports_turned_round() -> None:
    """IPv4 asks the ip rules where an answer would go: from the port that was asked for."""
    assert followed("", IN, beside(KEPT.but(transport=6, source_ports=(80, 80)))).became is Became.DROPPED
    assert followed("", IN, beside(KEPT.but(transport=6, destination_ports=(80, 80)))).became is Became.DELIVERED


def test_every_protocol_is_asked_for_by_its_number() -> None:
    """Not only those that have ports."""
    host = beside(KEPT.but(transport=17))
    assert followed("", OUT.but(protocol="icmp"), host).became is Became.BYPASSED
    assert followed("", OUT.but(protocol="udp"), host).became is Became.DELIVERED


def test_nothing_connects_from_an_address_that_no_interface_has() -> None:
    """A route that delivers here what is sent to others makes that the source of who asked for none, and connect() is
    refused; not where the route names a source, the sender has bound one, or the address is in the table `local`."""
    free, host = OUT.but(is_bound=False), beside(KEPT)
    refused = simulate((), free, host)
    assert (refused.became, refused.reason.split(":")[0]) == (
        Became.DROPPED,
        "it would be sent from 9.9.9.9, which no interface has",
    )
    assert simulate((), OUT, host).became is Became.DELIVERED
    assert host.policy
    with_source = tuple(route.but(source=POD) if route.table == 201 else route for route in host.policy.routes)
    assert simulate((), free, host.but(policy=host.policy.but(routes=with_source))).became is Became.DELIVERED
    there = Route(Family.V4, TABLE_LOCAL, destination=ip_network("9.9.9.0/24"), device="lo")
    in_local = host.policy.but(routes=(*host.policy.routes, there))
    assert simulate((), free, host.but(policy=in_local)).became is Became.DELIVERED


def test_a_datagram_from_nobodys_address_is_sent_unless_its_socket_is_connected() -> None:
    """Nothing of a packet says which, so both ends are told."""
    trace = simulate((), OUT.but(is_bound=False, protocol="udp"), beside(KEPT))
    assert trace.became is Became.DEPENDS
    assert {way.became for way in trace.ways} == {Became.DROPPED, Became.DELIVERED}


def test_what_has_a_source_is_asked_with_it_and_ipv6_asks_but_once() -> None:
    """An ip rule by source does not meet a packet of IPv6 whose source the kernel chooses."""
    own = ip_address("fd00:244::5")
    to = OUT.but(family=Family.V6, source=own, destination=ip_address("2001:db8::1"))
    host = beside(KEPT.but(family=Family.V6, source=ip_network("fd00:244::5")), family=Family.V6)
    assert simulate((), to, host).became is Became.DELIVERED
    assert simulate((), to.but(is_bound=False), host).became is Became.BYPASSED
    assert followed("", OUT.but(is_bound=False), beside(KEPT.but(source=ip_network("10.244.0.5")))).address == SERVICE


@pytest.mark.parametrize(
    ("named", "first", "to"), [("10.244.0.5", "127.0.0.6", "9.9.9.9"), ("fd00::5", "::6", "fd01::1")]
)
def test_the_source_that_a_route_names_is_that_of_packets_that_have_none_yet(named: str, first: str, to: str) -> None:
    """Also where the interface by which they leave has other addresses (ip_route_connect, ip6_dst_lookup_tail)."""
    family = Family.V4 if "." in to else Family.V6
    host = beside(KEPT.but(family=family), family=family)
    assert host.policy
    routes = tuple(route.but(source=ip_address(named)) for route in host.policy.routes)
    own = Local("eth0", ip_address(named), 24)
    host = host.but(addresses=(*host.addresses, own), policy=host.policy.but(routes=routes))
    rules = Ruleset(family, tables(f"*filter\n-A OUTPUT -s {named} -j DROP\nCOMMIT\n"))
    sent = OUT.but(family=family, source=ip_address(first), destination=ip_address(to), interface="lo")
    assert simulate((rules,), sent.but(is_bound=False), host).became is Became.DROPPED
    assert simulate((rules,), sent.but(is_bound=True), host).became is Became.DELIVERED


def test_where_an_ip_rule_sends_it_over_another_interface_its_source_is_of_that_one() -> None:
    """In IPv6 also where it is delivered here: `::6` of lo, from which the proxy passes on what came in."""
    to = ip_address("fd01::1")
    kept = beside(KEPT.but(family=Family.V6), family=Family.V6)
    host = kept.but(addresses=(Local("lo", ip_address("::6"), 128), Local("eth0", ip_address("fd00::5"), 64)))
    rules = Ruleset(Family.V6, tables("*filter\n-A OUTPUT -s ::6 -j DROP\nCOMMIT\n"))
    sent = OUT.but(family=Family.V6, source=ip_address("fd00::5"), destination=to, is_bound=False)
    assert simulate((rules,), sent, host).became is Became.DROPPED
    assert simulate((rules,), sent.but(is_bound=True), host).became is Became.DELIVERED
    assert host.policy
    away = tuple(route.but(kind="unicast", device="eth1") for route in host.policy.routes)
    second = (*host.addresses, Local("eth1", ip_address("fd02::5"), 64))
    rules = Ruleset(Family.V6, tables("*filter\n-A OUTPUT -s fd02::5 -o eth1 -j DROP\nCOMMIT\n"))
    host = host.but(addresses=second, policy=host.policy.but(routes=away))
    assert simulate((rules,), sent, host).became is Became.DROPPED
    assert simulate((rules,), sent.but(is_bound=True), host).became is Became.BYPASSED
