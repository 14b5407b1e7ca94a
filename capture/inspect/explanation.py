"""What some settings mean on this host, ready to be said: what is captured, findings, and the rules in order.

The thinking is in `rules.explain`. Here it meets what only this side knows: who gave which setting and how, and what
this host answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.errors import BadSettings
from capture.host.choice import NATIVE
from capture.host.facts import read_text
from capture.host.live import choice_of
from capture.intent.resolve import NO_EFFECT, resolve
from capture.settings.declared import DECLARED_BY_NAME, Settings
from capture.settings.model import written
from rules.analysis.reachability import unmet
from rules.explain import lint
from rules.explain.cost import long_lists
from rules.explain.finding import NOTE, SEVERITIES, SURPRISE, Finding
from rules.explain.planned import planned
from rules.explain.summary import summary
from rules.iptables.words import rule_words
from rules.netfilter.targets import Jump
from rules.netfilter.values import OUTPUT, PREROUTING, Family
from rules.plan.names import PASSTHROUGH
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from capture.host.choice import Choice
    from capture.host.facts import Facts
    from capture.intent.resolve import Resolved
    from capture.settings.declared import Declaration, SettingsWarning
    from rules.analysis.reachability import Unmet
    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.plan.intent import Intent
    from rules.plan.plan import Plan

    Place = tuple[str, str]
    """A table and a chain of it."""

ARRIVES, SENDS, NOWHERE = "what arrives", "what a local process sends", "what nothing leads to"


class Option(Value):
    """A setting with its value, and who gave it."""

    name: str
    """Its name in the settings' own schema."""
    shown: str
    """Its flag as it was typed, the variable that was set, or else its long flag."""
    value: str
    """Its value as one would write it on a command line."""
    kind: str
    """`flag`, `environment`, `default`, or `derived`."""
    derived_from: str = ""
    """What it was derived from."""

    @property
    def is_given(self) -> bool:
        return self.kind in ("flag", "environment")

    def words(self, longest: int = 40) -> str:
        """The option in words: `flag -x "10.0.0.0/8"`, `--envoy-port 15001, by default`."""
        value = self.value if len(self.value) <= longest else f"{self.value[: longest - 1]}…"
        if self.is_given:
            return f'{self.kind} {self.shown} "{value}"'
        value = value or '""'
        return f"{self.shown} {value}, {f'derived {self.derived_from}' if self.derived_from else 'by default'}"


class Point(Value):
    """One line of what is captured and what is not."""

    subject: str
    """The traffic, in a word or two."""
    outcome: str
    """`captured`, `not captured`, `refused` or `dropped`."""
    text: str
    """What exactly, and where it goes."""
    options: tuple[Option, ...]
    """The settings that decide it."""


class WordedRule(Value):
    """A rule, in words and as iptables has it."""

    position: int
    """Its place in the chain, counted from 1; in a built-in chain, among our own rules."""
    rule: Rule
    """As iptables-save prints it, without chain."""
    words: str
    """What it asks for, and what becomes of that."""
    why: str
    """What it is for."""
    option: Option | None
    """The setting that asked for it; null if every capture has this rule."""
    never_matches: bool
    """Whether no packet can meet it."""
    taken_by: tuple[int, ...]
    """If so: the rules of this chain that take before it what it asks for."""


class WordedChain(Value):
    """The rules of a chain."""

    table: str
    """raw, mangle, nat or filter."""
    chain: str
    """Its name."""
    sent_from: tuple[str, ...]
    """The chains of this table that lead here."""
    rules: tuple[WordedRule, ...]
    """In order."""


class Way(Value):
    """The chains that a packet may meet, in that order."""

    what: str
    """`what arrives`, `what a local process sends`, or `what nothing leads to`."""
    chains: tuple[WordedChain, ...]
    """Each chain once, where it can first be met."""


class OfFamily(Value):
    """The rules of one address family."""

    family: Family
    """Whose rules they are."""
    ways: tuple[Way, ...]
    """Empty if this family has no rules."""
    besides: tuple[str, ...]
    """What is put in place besides rules: ip rules, routes, addresses."""


class Explanation(Value):
    """What these settings mean on this host."""

    points: tuple[Point, ...]
    """What is captured and what is not."""
    findings: tuple[Finding, ...]
    """What will surprise, the worst first."""
    families: tuple[OfFamily, ...]
    """The rules, one for each entry of a list, as iptables has them; natively a list is one rule with a set."""
    backend: str
    """The backend that a run here uses by these settings and what is installed: nft of iptables, or native, unless
    legacy is asked for."""
    backend_reason: str
    """Why that backend."""


def explanation(settings: Settings, facts: Facts, families: tuple[Family, ...]) -> Explanation:
    """Everything there is to say. Raises BadSettings as `resolve` does."""
    resolved = resolve(settings, facts)
    options = Options(settings, resolved)
    its = planned(resolved.intent)
    choice = choice_of(settings)
    return Explanation(
        points=tuple(
            Point(point.subject, point.outcome, point.text, tuple(map(options.of, point.settings)))
            for point in summary(resolved.intent)
        ),
        findings=tuple(findings(settings, facts, resolved, options, choice)),
        families=tuple(of_family(it, its, options) for it in its.rulesets if it.family in families),
        backend=choice.backend,
        backend_reason=choice.reason,
    )


class Options:
    """The settings of this run, to be asked for by name."""

    def __init__(self, settings: Settings, resolved: Resolved) -> None:
        self.settings = settings
        self.resolved = resolved

    def of(self, name: str) -> Option:
        declared = DECLARED_BY_NAME[name]
        origin = self.resolved.derived.get(name, self.settings.origins[name])
        value = getattr(self.settings, name)
        if name in self.resolved.derived or value is None:
            value = getattr(self.resolved.intent, name)
        return Option(
            name=name,
            shown=origin.name if origin.kind in ("flag", "environment") else declared.shown,
            value=origin.text if origin.text is not None else written(declared, value),
            kind=origin.kind,
            derived_from=origin.name if origin.kind == "derived" else "",
        )

    def call(self, name: str) -> str:
        """How a sentence calls a setting."""
        option = self.of(name)
        return f"{option.kind} {option.shown}" if option.is_given else option.shown


# --- findings ---------------------------------------------------------------------------------------------


SHAPE_RULES = frozenset({"dual_stack", "envoy_user", "resolv_conf"})
"""Settings that shape rules without being a field of `Intent`."""
COMPATIBLE = "Accepted for compatibility;"
"""How the help of a setting begins that has no effect."""
NOTED = frozenset({"host-bits", NO_EFFECT, "passed-over"})
"""The warnings of `resolve`, by their code, that are notes here."""
KNOWS_MORE = (NO_EFFECT, "dns-not-captured")
"""Those that say of a setting without effect why that is so on this host."""


def findings(settings: Settings, facts: Facts, resolved: Resolved, options: Options, choice: Choice) -> list[Finding]:
    """What `rules.explain.lint` finds, what `resolve` warns of, and what settings beyond the rules do not do."""
    told, left = list[Finding](), list(resolved.warnings)
    for finding in lint.findings(resolved.intent, alternatives(settings, facts, resolved)):
        text = finding.text.format_map(Called(options))
        same: list[SettingsWarning] = []
        if finding.code != NO_EFFECT:
            same = [it for it in left if it.code == finding.code and it.setting in finding.settings]
        elif not finding.entries:
            same = [it for it in left if it.code in KNOWS_MORE and it.setting == finding.settings[0]]
            text = str(same[0]) if same else text
        left = [it for it in left if it not in same]
        told.append(finding.but(text=text))
    for warning in left:
        told.append(Finding(NOTE if warning.code in NOTED else SURPRISE, "warning", (), str(warning)))
    if choice.backend != NATIVE:
        told += (it.but(text=it.text.format_map(Called(options))) for it in long_lists(planned(resolved.intent)))
    told += (Finding(NOTE, NO_EFFECT, (setting.name,), text) for setting, text in beyond_the_rules(settings))
    return sorted(told, key=lambda it: SEVERITIES.index(it.severity))


class Called(dict[str, str]):
    """The settings by what a sentence calls them."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def __missing__(self, name: str) -> str:
        return self.options.call(name)


def alternatives(settings: Settings, facts: Facts, resolved: Resolved) -> dict[str, Intent | None]:
    """For each setting that somebody gave, what would be meant without it; None where that would be refused.

    Not for those whose value would be the same anyway: that they change nothing surprises nobody.
    """
    meant: dict[str, Intent | None] = {}
    for setting, value, _ in settings.given():
        name = setting.name
        if value != setting.default and (name in SHAPE_RULES or name in resolved.intent.__match_args__):
            without = intent_without(settings, name, facts)
            derived = setting.default is None and without is not None
            if not (derived and getattr(without, name) == getattr(resolved.intent, name)):
                meant[name] = without
    return meant


def intent_without(settings: Settings, name: str, facts: Facts) -> Intent | None:
    """What would be meant if nobody had given this setting."""
    others = [(setting.name, value, origin) for setting, value, origin in settings.given() if setting.name != name]
    rest = Settings({other: value for other, value, _ in others}, {other: origin for other, _, origin in others})
    if rest.nameservers_file != settings.nameservers_file:
        text, error = read_text(rest.nameservers_file) if rest.nameservers_file else (None, "")
        facts = facts.but(resolv_conf=text, resolv_conf_error=error)
    try:
        return resolve(rest, facts).intent
    except BadSettings:
        return None


def beyond_the_rules(settings: Settings) -> Iterator[tuple[Declaration, str]]:
    """Settings without effect that are not about rules."""
    for setting, value, origin in settings.given():
        if setting.about.startswith(COMPATIBLE) and value != setting.default and setting.name != "native_nftables":
            what = setting.about.removeprefix(COMPATIBLE).strip().rstrip(".")
            yield setting, f"{origin} is accepted for compatibility: {what}"
        if setting.name == "dry_run_file" and value and not settings.dry_run:
            yield setting, f"{origin} is without effect without --dry-run"


# --- rules ------------------------------------------------------------------------------------------------


def of_family(ruleset: Ruleset, planned: Plan, options: Options) -> OfFamily:
    idle = {(it.table, it.chain, it.position): it for it in unmet(ruleset)}
    return OfFamily(
        family=ruleset.family,
        ways=tuple(
            Way(what=what, chains=tuple(worded(ruleset, *place, idle, options) for place in places))
            for what, places in ways(ruleset)
            if places
        ),
        besides=tuple(besides(ruleset.family, planned)),
    )


def ways(ruleset: Ruleset) -> Iterator[tuple[str, list[Place]]]:
    """The chains by how packets come to them, each once."""
    left = {(table.table, chain): None for table in ruleset.tables for chain in table.chains()}
    for what, hook in ((ARRIVES, PREROUTING), (SENDS, OUTPUT)):
        here = [(name, chain) for name in TABLES for chain in reached(ruleset.table(name).chains(), hook)]
        yield what, [place for place in here if place in left]
        for place in here:
            left.pop(place, None)
    yield NOWHERE, list(left)


TABLES = ("raw", "mangle", "nat", "filter")
"""In the order in which netfilter asks them."""


def reached(chains: Mapping[str, Sequence[Rule]], chain: str) -> list[str]:
    """A chain, if it is there, and those to which it leads, each once, in the order in which they can be met."""
    order: dict[str, None] = {}
    if chain in chains:
        order[chain] = None
        for rule in chains[chain]:
            if isinstance(rule.target, Jump):
                order |= dict.fromkeys(reached(chains, rule.target.chain))
    return list(order)


def worded(
    ruleset: Ruleset, table: str, chain: str, idle: Mapping[tuple[str, str, int], Unmet], options: Options
) -> WordedChain:
    chains = ruleset.table(table).chains()
    rules = []
    for position, rule in enumerate(chains[chain], 1):
        never = idle.get((table, chain, position))
        rules.append(
            WordedRule(
                position,
                rule,
                words=rule_words(rule),
                why=rule.why,
                option=options.of(rule.setting) if rule.setting else None,
                never_matches=never is not None,
                taken_by=never.by if never else (),
            )
        )
    callers = (name for name, its in chains.items() if any(rule.target == Jump(chain) for rule in its))
    return WordedChain(table=table, chain=chain, sent_from=tuple(callers), rules=tuple(rules))


def besides(family: Family, planned: Plan) -> Iterator[str]:
    for routing in planned.routing:
        if routing.family is family:
            yield (
                f"an ip rule: what carries mark {routing.mark:#x} is looked up in routing table {routing.table}, whose "
                "only route delivers it on this host"
            )
    if family is Family.V6 and planned.passthrough_address:
        here = PASSTHROUGH[family].network_address
        yield f"the address {here} on lo, from which the proxy hands on what arrived"
