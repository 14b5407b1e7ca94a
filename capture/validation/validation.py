"""Proving a capture with real connections: `--run-validation`.

Every path of `rules.analysis.probes` is tried at once, by `capture.validation.probing`, and what arrives where
decides. A probe that nothing captures does not get far: it carries a hop limit of 1. Where the rules may be read they
are compared with the plan as well, for some decide traffic that a pod cannot send to itself. Who listens already
where the rules send things is said: a capture that works does not help a proxy that does not.
"""

from __future__ import annotations

from capture.errors import CaptureError, ValidationFailed
from capture.host.listening import heard
from capture.host.live import read_live
from capture.iptables.iptables import BACKENDS, Iptables
from capture.kernel.userns import mapped
from capture.validation.probing import FAILED, NOT_PROVED, PROVED, Trial, application, as_planned, tried
from rules.analysis.probes import Ids, paths
from rules.iptables.writing import rule_text
from rules.live.changes import changes
from rules.live.routing_changes import routing_to_add
from rules.native.compiled import as_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.host.facts import Facts
    from capture.log import Log
    from capture.validation.probing import Outcome
    from rules.live.changes import Change
    from rules.netfilter.rulesets import Ruleset
    from rules.plan.intent import Intent
    from rules.plan.plan import Plan


def validate(intent: Intent, planned: Plan, facts: Facts, probe_port: int, timeout: float, log: Log) -> None:
    """Prove what can be proved here. Raises ValidationFailed if something is not as planned, or nothing was proved.

    `timeout`, in seconds, bounds the whole; when all is well a fraction of a second is enough.
    """
    who = heard(planned.rulesets, facts)
    for place in who.proxy:
        log.info(str(place))
    for warning in who.warnings:
        log.warn(warning)
    ids = Ids(tuple(mapped("/proc/self/uid_map")), tuple(mapped("/proc/self/gid_map")))
    with application(intent, probe_port) as (port, listeners):
        if port != probe_port:
            log.info(f"port {probe_port} is not free, or not captured: port {port} stands for it")
        trial = Trial(intent, planned, facts, port, listeners)
        wanted = list(as_planned(list(paths(intent, port, ids)), trial))
        outcomes = tried(wanted, trial, timeout)
    differences = compared(planned)
    for outcome in outcomes:
        say = log.error if outcome.result == FAILED else log.info
        say(str(outcome))
    for line in unproved(intent, differences):
        log.info(f"{NOT_PROVED}: {line}")
    judge(outcomes, differences)
    log.info(conclusion(outcomes, list(without_proof(intent, outcomes)), bool(who.warnings)))


def judge(outcomes: Sequence[Outcome], differences: list[tuple[str, str]] | None) -> None:
    """Raises ValidationFailed if a path failed, if the live rules differ from the planned, or if nothing was proved."""
    failed = [outcome for outcome in outcomes if outcome.result == FAILED]
    if failed or differences:
        details = [detail for outcome in failed for detail in failure(outcome)] + (differences or [])
        what = f"the capture does not work: {len(failed)} of {len(outcomes)} paths failed"
        if not failed:
            what = "the rules are not as planned, although every path that could be tried works"
        elif differences:
            what += ", and the rules are not as planned"
        hint = "run capture with the same settings to put the rules right"
        if not differences:
            # Another run would change nothing.
            hint = "`capture trace --live` shows which rule, ours or of others, decides such a connection"
        raise ValidationFailed(what, details=details, hint=hint)
    if all(outcome.result != PROVED for outcome in outcomes):
        reasons = sorted({outcome.seen for outcome in outcomes}) or ["there is nothing to capture"]
        raise ValidationFailed("nothing could be proved", details=[("because", reason) for reason in reasons])


def conclusion(outcomes: Sequence[Outcome], unseen: Sequence[str], has_warnings: bool) -> str:
    """What a validation without a failure says in the end. `unseen`: what is to be captured and no path proved."""
    proved = [outcome for outcome in outcomes if outcome.result == PROVED]
    counted = f"{len(proved)} of {len(outcomes)} paths proved"
    if unseen:
        return (
            f"Nothing failed, and it is not proved that the capture works: {counted}; not proved: {', '.join(unseen)}"
        )
    untried = f", the other {len(outcomes) - len(proved)} could not be tried here" if proved != outcomes else ""
    but = "; see the warnings about who listens" if has_warnings else ""
    return f"The capture works: {counted}{untried}{but}"


def without_proof(intent: Intent, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What is to be captured, family by family, as far as no path proved that it is."""
    proved = {(o.path.family, o.path.protocol, o.path.lands) for o in outcomes if o.result == PROVED}
    wanted = dict.fromkeys((o.path.family, o.path.protocol, o.path.lands) for o in outcomes if o.path.lands)
    if intent.outbound_cidrs or intent.outbound_ports:
        wanted.update(dict.fromkeys((family, "tcp", intent.proxy_port) for family in intent.families))
    names = {
        intent.inbound_capture_port: "the proxy's calls to its own pod",
        intent.dns_capture_port: "DNS queries of applications",
        intent.proxy_port: "what applications send",
    }
    for family, protocol, port in wanted:
        if (family, protocol, port) not in proved:
            yield f"{names.get(port, f'what goes to port {port}')} ({family.value} {protocol})"


def failure(outcome: Outcome) -> list[tuple[str, str]]:
    """What is to be known about a path that failed."""
    path = outcome.path
    expected = f"port {path.lands}" if path.lands else "none of the proxy's ports"
    return [
        ("path", f"{path.family.value} {path.protocol}, {path.name} ({path.sender.name})"),
        ("expected", f"to arrive at {expected}"),
        ("seen", outcome.seen),
        ("the rule", f"-A {path.chain} {rule_text(path.rule)}"),
        ("its why", path.rule.why),
    ]


# --- the rules --------------------------------------------------------------------------------------------


def unproved(intent: Intent, differences: list[tuple[str, str]] | None) -> Iterator[str]:
    """What no socket in the pod can prove."""
    if differences is None:
        rules = "and the rules for it could not be read"
        yield "the rules as such, which only CAP_NET_ADMIN may read"
    else:
        rules = "and the rules are not as planned" if differences else "but the rules for it are as planned"
    if intent.inbound_ports:
        for family in intent.families:
            yield f"{family.value} tcp, from outside: a pod cannot send itself what arrives from outside, {rules}"


def compared(planned: Plan) -> list[tuple[str, str]] | None:
    """What of the live rules and of the routing differs from the plan; None if we may not read them."""
    try:
        live = read_live()
    except (CaptureError, OSError):
        return None
    if isinstance(live.nft_error, PermissionError):
        return None
    planned = live.beside(planned)
    backend = next((backend for backend in BACKENDS if live.holds_ours(backend)), BACKENDS[0])
    details: list[tuple[str, str]] = []
    for ruleset in planned.rulesets:
        now, wanted = live.saved(Iptables(backend, ruleset.family)).ruleset, as_held(backend, ruleset)
        for change in changes(now, wanted):
            details += differing(now, wanted, change)
    lacking = routing_to_add(live.policy_rules, live.local_routes, planned.routing)
    return details + [("missing", str(change)) for change in lacking]


def differing(now: Ruleset, planned: Ruleset, change: Change) -> Iterator[tuple[str, str]]:
    """The planned rules of one table that are not there; or that those that are there are not the planned ones."""
    live, wanted = now.table(change.table).chains(), planned.table(change.table).chains()
    there = {chain: frozenset(rules) for chain, rules in live.items()}
    missing = [(chain, rule) for chain, rules in wanted.items() for rule in rules if rule not in there.get(chain, ())]
    for chain, rule in missing:
        yield "missing", f"{now.family.value} {change.table}: -A {chain} {rule_text(rule)}"
        yield "its why", rule.why
    if not missing:
        yield "differs", f"{now.family.value} {change.table}: rules out of order, repeated, or not planned"
