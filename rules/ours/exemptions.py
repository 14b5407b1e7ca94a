"""The ports of SSH servers that our live rules leave alone, and that a plan leaves alone for that.

A run finds such a port by who is logged in at that moment. The next one, by another way or at boot, may not find it,
and would lock out whoever relies on it. So what is left alone stays so until it is asked to be captured.
"""

from __future__ import annotations

from rules.iptables.writing import NFT_WORDS
from rules.netfilter.matches import DPorts
from rules.netfilter.targets import Return
from rules.netfilter.values import MANGLE, NAT, Ports
from rules.plan.flows.inbound import FOR_SSH
from rules.plan.names import ISTIO_INBOUND
from rules.plan.plan import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.plan.plan import Plan


def left_to_ssh(live: Ruleset) -> Iterator[Ports]:
    """The ports that rules of ours leave to SSH, known by their shape: see `rules.plan.flows.inbound.ssh`."""
    for table in (NAT, MANGLE):
        for rule in live.table(table).chains().get(ISTIO_INBOUND, ()):
            ranges = [ports for match in rule.matches if isinstance(match, DPorts) for ports in match.ranges]
            if isinstance(rule.target, Return) and len(ranges) == 1 and ranges[0].first == ranges[0].last:
                yield ranges[0]
            elif rule.why == FOR_SSH and rule.text.startswith(NFT_WORDS):  # where a comment says it
                yield from ports_of(rule)


def ports_of(rule: Rule) -> Iterator[Ports]:
    """The destination ports that a rule asks for."""
    from rules.meaning.spoken import asked_of  # iptables has no comments of ours
    from rules.netfilter.fields import DPORT

    for ends in asked_of(DPORT, rule.matches):
        yield from (Ports(ends[at], ends[at + 1] - 1) for at in range(0, len(ends), 2))


def beside_live(planned: Plan, live: Iterable[Ruleset]) -> Plan:
    """The same plan, which also leaves alone what live rules leave to SSH, unless that is asked to be captured."""
    intent = planned.intent
    if intent is None or intent.capture_ssh or not intent.inbound_ports:
        return planned
    found = {ports for ruleset in live for ports in left_to_ssh(ruleset)}
    if found <= set(intent.ssh_ports):
        return planned
    ports = sorted(found.union(intent.ssh_ports), key=lambda each: each.first)
    return plan(intent.but(ssh_ports=tuple(ports)))
