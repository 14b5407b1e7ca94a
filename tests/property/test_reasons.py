"""What our rules are for can be told from the rules alone, whatever settings made them."""

from __future__ import annotations

from hypothesis import example, given

from rules.addresses import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from rules.netfilter.matches import Foreign
from rules.netfilter.rulesets import Block, Rule, Ruleset, TableRules
from rules.netfilter.targets import Return
from rules.netfilter.values import Family, Ports
from rules.ours.reasons import explained
from rules.plan.intent import Intent, PortsOfUsers, Uids
from rules.plan.plan import ruleset
from tests.property.strategies import families, intents


def without_reasons(planned: Ruleset) -> Ruleset:
    """The same rules as the kernel would give them back."""
    return planned.but(
        tables=tuple(
            table.but(
                blocks=tuple(
                    block.but(rules=tuple(Rule(rule.matches, rule.target) for rule in block.rules))
                    for block in table.blocks
                )
            )
            for table in planned.tables
        )
    )


@given(intent=intents, family=families)
def test_with_the_plan_every_rule_has_the_why_and_setting_of_the_plan(intent: Intent, family: Family) -> None:
    """Of equal rules in a chain, all have those of the first: only that one is ever reached."""
    planned = ruleset(intent, family)
    first: dict[tuple[str, str, Rule], tuple[str, str]] = {}
    for table, chain, rule in planned.rules():
        first.setdefault((table, chain, rule), (rule.why, rule.setting))
    for table, chain, rule in explained(without_reasons(planned), planned).rules():
        assert (rule.why, rule.setting) == first[table, chain, rule]


AT_53 = (Ports.one(53),)
ASKED_AT_53 = Intent(
    (Family.V4, Family.V6),
    redirect_dns=True,
    capture_all_dns=True,
    dns_capture_port=53,
    dns_capture_address=(IPv4Address("127.0.0.1"), IPv6Address("2001:db8::1")),
)


@given(intent=intents, family=families)
@example(intent=ASKED_AT_53, family=Family.V4)
@example(intent=Intent(outbound_cidrs=(IPv4Network("127.0.0.0/8"),)), family=Family.V4)
@example(intent=ASKED_AT_53.but(capture_all_dns=False, nameservers=(IPv6Network("fd00::a"),)), family=Family.V6)
@example(intent=Intent(inbound_ports_exclude=AT_53), family=Family.V4)
@example(intent=Intent(redirect_dns=True, inbound_ports_exclude=AT_53), family=Family.V4)
@example(intent=Intent(capture_ssh=False, ssh_ports=AT_53), family=Family.V4)
@example(intent=Intent(exclude_inbound_interfaces=("lo",)), family=Family.V4)
@example(intent=Intent(outbound_ports_exclude=AT_53), family=Family.V4)
@example(intent=Intent(outbound_cidrs=(), outbound_ports=AT_53), family=Family.V4)
@example(
    intent=Intent(exclude_outbound_ports_for_uids=(PortsOfUsers(("tcp", "udp"), AT_53, (Uids(7, 9),)),)),
    family=Family.V4,
)
@example(
    intent=Intent(inbound_tunnel_port=53, inbound_ports_exclude=(*AT_53, Ports.one(80), Ports.one(900))),
    family=Family.V4,
)
def test_without_the_plan_the_true_why_is_among_those_that_are_named(intent: Intent, family: Family) -> None:
    """And a setting is named only if it is the right one."""
    planned = ruleset(intent, family)
    found = explained(without_reasons(planned))
    for (table, chain, planned_rule), (_, _, rule) in zip(planned.rules(), found.rules(), strict=True):
        assert planned_rule.why in rule.why, (table, chain, rule)
        assert rule.setting in ("", planned_rule.setting), (table, chain, rule)


def test_the_rules_of_others_have_no_why() -> None:
    """Neither in a built-in chain, nor in a chain of theirs, nor a stray one of no known shape in ours."""
    theirs = Rule((Foreign("-m set --match-set a src"),), Return())
    table = TableRules(
        "nat",
        ("ISTIO_OUTPUT", "OTHERS"),
        tuple(Block(chain, (theirs,)) for chain in ("OUTPUT", "ISTIO_OUTPUT", "OTHERS")),
    )
    found = explained(Ruleset(Family.V4, (table,)))
    assert [rule.why for _, _, rule in found.rules()] == ["", "", ""]
