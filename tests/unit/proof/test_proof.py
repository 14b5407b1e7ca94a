"""Whether every packet fares as planned: proved, or disproved by a connection, in namespaces written by hand."""

from __future__ import annotations

import pytest

from rules.iptables.reading import tables
from rules.iptables.writing import rule_text
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import Family
from rules.packets.trace import Became
from rules.plan.intent import TPROXY, Intent
from rules.plan.plan import Plan, plan
from rules.proof.escapes import escapes
from rules.proof.proof import Proof, proved
from rules.simulator.simulate import simulate
from tests.rig import kube, predicted
from tests.rig.sets import is_listed
from tests.rig.work import growth

REDIRECTED, HANDED, RESOLVED = (
    plan(Intent()),
    plan(Intent(interception_mode=TPROXY)),
    plan(Intent(redirect_dns=True, capture_all_dns=True)),
)


def text_of(planned: Plan) -> list[str]:
    """What iptables-save prints of our rules of IPv4."""
    lines = []
    for table in planned.rulesets[0].tables:
        lines += [f"*{table.table}", *(f":{chain} - [0:0]" for chain in table.declared)]
        lines += [f"-A {chain} {rule_text(rule)}" for chain, rules in table.chains().items() for rule in rules]
        lines.append("COMMIT")
    return lines


def proof(planned: Plan, lines: list[str]) -> Proof:
    host = predicted.host(planned.routing)
    live = Ruleset(Family.V4, tables("\n".join([*lines, ""])))
    return proved(planned.rulesets[0], (("nft", live),), (), host, host)


def among(planned: Plan, table: str, *rules: str) -> list[str]:
    """Our text with rules of others at the head of a table."""
    lines = text_of(planned)
    if f"*{table}" not in lines:
        return [*lines, f"*{table}", *rules, "COMMIT"]
    at = next(n for n, line in enumerate(lines) if line == f"*{table}") + 1
    while lines[at].startswith(":"):
        at += 1
    return [*lines[:at], *rules, *lines[at:]]


@pytest.mark.parametrize("planned", [REDIRECTED, HANDED, RESOLVED], ids=["REDIRECT", "TPROXY", "DNS"])
def test_what_is_as_planned_is_proved(planned: Plan) -> None:
    """Rule for rule, and in other words too."""
    assert proof(planned, text_of(planned)).answer == "proved"
    doubled = [line for line in text_of(planned) for _ in range(2 if line.startswith("-A ISTIO_OUTPUT ") else 1)]
    assert proof(planned, doubled).answer == "proved"


@pytest.mark.parametrize(
    ("table", "rules", "answer", "host"),
    [
        ("nat", ["-A OUTPUT -d 0.0.0.9/0.0.0.255 -j ACCEPT"], "disproved", 9),
        ("nat", ["-A OUTPUT ! -d 0.0.0.9/0.0.0.255 -j ACCEPT"], "disproved", None),
        ("nat", ["-A OUTPUT -p tcp -m multiport ! --dports 80 -d 0.0.0.9/0.0.0.255 -j ACCEPT"], "disproved", 9),
        ("nat", ["-A OUTPUT -d 0.0.0.8/0.0.0.8 -j RETURN", "-A OUTPUT -d 0.0.0.1/0.0.0.255 -j ACCEPT"], "disproved", 1),
        # No address has both.
        (
            "nat",
            [":X - [0:0]", "-A OUTPUT -d 0.0.0.8/0.0.0.8 -j X", "-A X -d 0.0.0.1/0.0.0.255 -j ACCEPT"],
            "proved",
            0,
        ),
        # The proxy calls its own pod.
        ("nat", ["-A OUTPUT -d 10.244.0.5/255.0.0.255 -o lo -j ACCEPT"], "disproved", 5),
        ("nat", ["-A OUTPUT -d 9.0.0.9/255.0.0.255 -j REDIRECT --to-ports 22"], "disproved", 9),
        ("raw", ["-A OUTPUT -d 0.0.0.9/0.0.0.255 -p tcp -j NOTRACK"], "disproved", 9),
        # Dropped as it was before, and dropped because it was redirected.
        ("filter", ["-A OUTPUT -d 0.0.0.9/0.0.0.255 -j DROP"], "proved", 0),
        ("filter", ["-A OUTPUT -d 127.0.0.1/255.0.0.255 ! -s 127.0.0.1/255.0.0.255 -j DROP"], "disproved", None),
    ],
)
def test_what_single_bits_ask_for_is_found(table: str, rules: list[str], answer: str, host: int | None) -> None:
    """No box of packets holds just those, so one of each kind is tried; the one that disproves it has these bits."""
    if rules[0].startswith(":"):
        lines = [f"*{table}", rules[0], *among(REDIRECTED, table, *rules[1:])[1:]]
    else:
        lines = among(REDIRECTED, table, *rules)
    found = proof(REDIRECTED, lines)
    assert found.answer == answer, found.sentence
    if answer == "disproved" and host is not None:
        assert int(found.differences[0].packet.destination) & 255 == host


def test_more_bits_than_can_be_looked_at_prove_nothing() -> None:
    """It is said that it cannot be told, and not that all is well."""
    masks = [f"-A OUTPUT -d 0.0.0.{1 << at}/0.0.0.{1 << at} -p udp -j ACCEPT" for at in range(8)]
    lines = among(REDIRECTED, "nat", *masks, "-A OUTPUT -d 0.0.0.9/0.0.0.255 -j ACCEPT")
    assert proof(REDIRECTED, lines).answer == "cannot be told"


@pytest.mark.parametrize("planned", [REDIRECTED, HANDED, RESOLVED], ids=["REDIRECT", "TPROXY", "DNS"])
@pytest.mark.parametrize(
    "deed",
    ["-j REDIRECT", "-j TPROXY", "-m owner --uid-owner 1337 -j RETURN", "--dport 15008 -j RETURN", "-p tcp -j IS"],
)
def test_each_rule_that_decides_is_missed(planned: Plan, deed: str) -> None:
    """Without it, a connection that it decides about disproves it. (nat's ISTIO_INBOUND is not asked with TPROXY.)"""
    lines = text_of(planned)
    deciding = [at for at, line in enumerate(lines) if deed in line]
    told = [proof(planned, lines[:at] + lines[at + 1 :]) for at in deciding]
    kept = {lines[at] for at, each in zip(deciding, told, strict=True) if each.answer != "disproved"}
    assert kept <= ({"-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN"} if planned is HANDED else set())
    assert all(each.differences[0].sentence for each in told if each.answer == "disproved")
    assert deciding or (deed == "-j TPROXY" and planned is not HANDED)


@pytest.mark.parametrize(
    ("table", "rule", "outcome", "port"),
    [
        ("nat", "-A OUTPUT -d 192.0.2.0/24 -p tcp -j REDIRECT --to-ports 9", Became.REDIRECTED, 9),
        ("nat", "-A OUTPUT -p tcp -m tcp --dport 3306 -j ACCEPT", Became.BYPASSED, 3306),
        ("nat", "-A PREROUTING -s 192.0.2.0/24 -p tcp -j RETURN", Became.DELIVERED, 80),
        ("raw", "-A OUTPUT -p tcp -m owner --uid-owner 42 -j CT --notrack", Became.BYPASSED, 80),
        ("filter", "-A INPUT -p tcp -m tcp --dport 15006 -j DROP", Became.DROPPED, None),
    ],
)
def test_a_rule_of_others_is_disproved_by_a_connection(table: str, rule: str, outcome: Became, port: int) -> None:
    """That meets it: what becomes of it, and by which rule."""
    told = proof(REDIRECTED, among(REDIRECTED, table, rule))
    assert told.answer == "disproved"
    found = told.differences[0]
    assert (found.outcome, found.to_port, found.table) == (outcome, port, table)
    assert found.rule == rule.split(" ", 2)[2].replace("-m tcp ", "")
    assert "captured" in found.should


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ("nat", "-A OUTPUT -p udp -j REDIRECT --to-ports 9"),
        ("nat", "-A OUTPUT -p tcp -m owner --uid-owner 1337 ! -o lo -j DNAT --to-destination 192.0.2.9:80"),
        ("filter", "-A INPUT -s 198.51.100.0/24 -p tcp -m tcp -j DROP"),
        ("mangle", "-A OUTPUT -j MARK --set-xmark 0x8/0xffffffff"),
    ],
)
def test_what_others_do_to_what_we_let_go_or_drop_anyway_is_theirs(table: str, rule: str) -> None:
    """It is proved beside it."""
    assert proof(REDIRECTED, among(REDIRECTED, table, rule)).answer == "proved"


def test_what_cannot_be_told_is_named() -> None:
    """With the rule on which it depends."""
    told = proof(REDIRECTED, among(REDIRECTED, "nat", "-A OUTPUT -p tcp -m length --length 1:99 -j ACCEPT"))
    assert told.answer == "cannot be told"
    assert told.untold[0].rule == "-p tcp -m length --length 1:99 -j ACCEPT"
    assert "it depends on rule 1 of OUTPUT" in told.untold[0].sentence


@pytest.mark.parametrize(
    ("table", "hook", "answer"),
    [
        ("raw", "OUTPUT", "cannot be told"),
        ("mangle", "OUTPUT", "cannot be told"),
        ("nat", "OUTPUT", "cannot be told"),
        ("filter", "OUTPUT", "proved"),
        ("nat", "PREROUTING", "cannot be told"),
        ("nat", "INPUT", "proved"),
        ("filter", "INPUT", "proved"),
    ],
)
def test_what_nobody_knows_does_not_take_what_we_let_go_once_its_destination_is_decided(
    table: str, hook: str, answer: str
) -> None:
    """Before that it may send it to the proxy."""
    let_go = "! -o lo -p tcp -m owner --uid-owner 1337" if hook == "OUTPUT" else "-p tcp -m tcp --dport 15008"
    assert proof(REDIRECTED, among(REDIRECTED, table, f"-A {hook} {let_go} -j UNKNOWN --to 1")).answer == answer


def node(services: int, *, jumps_first: bool) -> list[str]:
    """A nat table with kube-proxy's rules and ours, and which jumps stand first."""
    theirs = kube.nat_table(services).splitlines()[1:-1]
    jumps = [line for line in theirs if line.startswith(("-A OUTPUT", "-A PREROUTING"))]
    rest = [line for line in theirs if line not in jumps and not line.startswith((":OUTPUT", ":PREROUTING"))]
    ours = text_of(REDIRECTED)[1:-1]
    chains = [line for line in (*ours, *rest) if line.startswith(":")]
    rules = [line for line in (*(jumps if jumps_first else ()), *ours, *jumps, *rest) if line.startswith("-A")]
    return ["*nat", *chains, *rules, "COMMIT"]


@pytest.mark.parametrize(("jumps_first", "answer"), [(True, "disproved"), (False, "proved")])
def test_beside_the_services_of_a_node_it_matters_whose_jump_is_first(jumps_first: bool, answer: str) -> None:
    """Behind our jump kube-proxy's rules take nothing; before it one of their connections disproves it."""
    assert proof(REDIRECTED, node(800, jumps_first=jumps_first)).answer == answer


def test_the_work_of_a_proof_grows_with_the_number_of_services() -> None:
    """And not with its square: of a long chain only those rules are asked that can be met."""
    small, large = (node(services, jumps_first=False) for services in (100, 200))
    assert growth(lambda lines: proof(REDIRECTED, lines), small, large) < 2.2


def test_what_ours_let_go_escapes_by_ours_whoever_takes_it_then() -> None:
    """Behind our jump the rules of 800 services make the list no longer, and the work grows with their number."""
    host = predicted.host(REDIRECTED.routing)

    def listed(ruleset: Ruleset) -> list[object]:
        told = escapes([("nft", ruleset)], Family.V4, host)
        return [(each.chain, each.position, each.packets) for each in told]

    small, large, whole = (
        Ruleset(Family.V4, tables("\n".join([*node(services, jumps_first=False), ""]))) for services in (100, 200, 800)
    )
    assert listed(whole) == listed(REDIRECTED.rulesets[0])
    assert growth(listed, small, large) < 2


def test_what_a_transparent_listener_has_does_not_escape_by_a_redirect_of_others() -> None:
    """TPROXY hands it over before nat is asked, and there it stays."""
    lines = among(HANDED, "nat", "-A PREROUTING -p tcp -j REDIRECT --to-ports 9")
    text = "\n".join(lines) + "\n"
    told = escapes([("nft", Ruleset(Family.V4, tables(text)))], Family.V4, predicted.host(HANDED.routing))
    assert not is_listed(predicted.arriving("10.244.0.5", 80, source="192.0.2.1"), told)
    assert is_listed(predicted.arriving("10.244.0.5", 53, source="192.0.2.1", proto="udp"), told)


def test_what_a_transparent_listener_takes_over_lo_does_not_escape_by_a_redirect_of_others() -> None:
    """The proxy's call to its own pod: nat of OUTPUT is asked before it comes back, and TPROXY has it in the end."""
    lines = among(HANDED, "nat", "-A OUTPUT -p tcp --dport 80 -j DNAT --to-destination 10.244.0.5:9")
    live, host = Ruleset(Family.V4, tables("\n".join(lines) + "\n")), predicted.host(HANDED.routing)
    told = escapes([("nft", live)], Family.V4, host)
    own = predicted.sent(host, "10.244.0.5", 80, uid=1000, gid=1337)
    assert simulate([live], own, host).became is Became.CAPTURED_INBOUND
    assert not is_listed(own.but(source_port=20000), told)
    assert is_listed(predicted.sent(host, "10.244.0.5", 80, uid=1000, gid=1000).but(source_port=20000), told)
