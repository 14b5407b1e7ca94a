"""A trace in words."""

from __future__ import annotations

from rules.iptables.writing import rule_text
from rules.netfilter.values import BUILT_IN, NAT, Family
from rules.packets.packet import ESTABLISHED, Direction, written
from rules.packets.trace import Became, Step, Trace
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


CAPTURING = ("outbound_cidrs", "outbound_ports", "inbound_ports")
"""The settings that say what is captured."""
FORWARDING = {Family.V4: "net.ipv4.ip_forward", Family.V6: "net.ipv6.conf.all.forwarding"}
"""What the kernel asks before it passes on what is for nobody here (ip-sysctl.rst of the kernel)."""


def conclusion(trace: Trace, said: Callable[[str], str]) -> str:
    """What became of the packet and why, in one sentence; `said` tells how the operator said a setting."""
    if trace.became is Became.DEPENDS:
        which = list(map(rule_named, trace.depends_on))
        why = " and ".join([*which, *([trace.reason] if trace.reason else [])])
        ways = [way for way in trace.ways if way.became is not Became.DEPENDS]
        ends = " or ".join(
            dict.fromkeys(
                ", ".join(filter(None, (verdict(way), end_of(way), way.hindered, way.doubted))) for way in ways
            )
        )
        return f"it depends on {why}{f': {ends}' if ends else ''}"
    reason = reason_of(trace, said)
    decided = f"{verdict(trace)} {reason}" if trace.became.is_a_deed else f"{verdict(trace)}, {reason}"
    end = ", ".join(filter(None, (end_of(trace), trace.hindered, trace.doubted)))
    return ": ".join(filter(None, (decided, end)))


def reason_of(trace: Trace, said: Callable[[str], str]) -> str:
    """Why: the rule that decided, what it is for, and the setting that asked for it."""
    step = trace.decided
    if step is None:
        # What would have captured it, had the packet been another.
        missed = [at.rule.setting for at in trace.steps if at.rule.setting in CAPTURING]
        hint = (
            ", ".join(map(said, dict.fromkeys(missed))) if trace.became in (Became.BYPASSED, Became.DELIVERED) else ""
        )
        return f"because {trace.reason}{f' ({hint})' if hint else ''}"
    later = ", which its first packet met" if trace.packet.state == ESTABLISHED and step.table == NAT else ""
    what = step.rule.why or rule_text(step.rule)
    setting = f", because of {said(step.rule.setting)}" if step.rule.setting else ""
    why = f", for {trace.reason}" if trace.reason else ""
    return f"by {rule_place(step)} ({what}){later}{setting}{why}"


def rule_named(step: Step) -> str:
    """A rule by its place and its text."""
    return f"{rule_place(step)} ({rule_text(step.rule)})"


def rule_place(step: Step) -> str:
    """A rule by its place; with its table where the chain's name does not tell it."""
    of_table = ""
    if step.table not in BUILT_IN:
        of_table = f" of the table {step.table}"
    elif step.chain in BUILT_IN[step.table]:
        of_table = f" of the {step.table} table"
    return f"rule {step.position} of {step.chain}{of_table}"


def verdict(trace: Trace) -> str:
    """What became of it, in a word or two."""
    return "not captured" if trace.became in (Became.BYPASSED, Became.DELIVERED) else trace.became.value


def end_of(trace: Trace) -> str:
    """Where it goes; empty if nowhere."""
    place = trace.one_of or (f"{written(trace.address)}:{trace.port}" if trace.address and trace.port else "")
    match trace.became:
        case Became.CAPTURED_OUTBOUND | Became.CAPTURED_INBOUND | Became.CAPTURED_DNS:
            if not place:
                return "it goes to the proxy's connection"
            return f"it goes to port {trace.port} of the proxy{f', at {place}' if trace.names_address else ''}"
        case Became.REDIRECTED:
            return f"it goes to {place}"
        case Became.BYPASSED:
            if trace.packet.direction is Direction.OUT:
                return f"it leaves the pod, to {place}"
            return f"it passes through the pod, if {FORWARDING[trace.packet.family]} is 1, to {place}"
        case Became.DELIVERED:
            return f"it reaches {place} in the pod"
        case Became.DROPPED | Became.REFUSED | Became.DEPENDS:
            return ""
        case _:
            assert_never(trace.became)
