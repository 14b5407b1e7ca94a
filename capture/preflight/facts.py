"""A fact about this place, and what was gathered for all that judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.errors import CaptureError, NamespaceUnusable
from capture.host.facts import read_facts
from capture.host.live import choose_backend, read_live
from capture.intent.resolve import resolve
from capture.iptables.iptables import NFT
from capture.kernel import netns
from capture.netlink import nftables
from capture.preflight import trial
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from rules.netfilter.values import Family
from rules.plan.plan import NOTHING, plan
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import ClassVar

    from capture.host.choice import Choice
    from capture.host.facts import Facts
    from capture.host.live import Live
    from capture.intent.resolve import Resolved
    from capture.preflight.modules import Verdict
    from capture.preflight.trial import Rehearsal
    from capture.settings.declared import Settings
    from rules.plan.plan import Plan


class Fact(Value):
    """One thing that was found out, and what it means for a run with these settings."""

    area: str
    """What it is about."""
    name: str
    """What was looked at."""
    value: str
    """What was found."""
    verdict: Verdict
    """ok; warn: a run works, but look at this; missing: it does not; unknown: not to be seen from here."""
    remedy: str = ""
    """What to do if the verdict is not ok."""
    needed: bool = True
    """Whether a run with these settings depends on it."""

    @property
    def prevents(self) -> bool:
        """Whether a run fails for it."""
        return self.needed and self.verdict == MISSING


class Checked(Value):
    """Whether a run with these settings would work here, and every fact that was looked at."""

    facts: tuple[Fact, ...]
    """Every fact, in the order of the table."""

    TOLD: ClassVar = ("works", "facts")

    @property
    def works(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not any(fact.prevents for fact in self.facts)


class Here:
    """What was gathered of this place, once, for all functions that judge it."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, rehearse: bool = True) -> None:
        """Raises BadSettings as a run would."""
        self.settings = settings
        self.environ = environ
        self.not_entered: NamespaceUnusable | None = None
        if settings.network_namespace:
            try:
                netns.enter(settings.network_namespace)
            except NamespaceUnusable as error:
                self.not_entered = error
        self.facts: Facts = read_facts(environ, settings.nameservers_file)
        self.resolved: Resolved = resolve(settings, self.facts)
        self.acts = not settings.dry_run and (settings.cleanup_only or not settings.skip_rule_apply)
        """Whether a run would touch the kernel at all."""
        self.planned: Plan = NOTHING if settings.cleanup_only or not self.acts else plan(self.resolved.intent)
        self.live, self.live_error = self.look()
        self.planned = self.live.beside(self.planned) if self.live else self.planned
        self.choice, self.choice_error = self.choose()
        self.nft_error = self.live.nft_error if self.live else nft_error()
        self.rehearsal: Rehearsal | None = self.rehearsed() if rehearse and not self.not_entered else None

    def look(self) -> tuple[Live | None, Exception | None]:
        """Read what the namespace holds, exactly as a run does; or why that cannot be."""
        try:
            return read_live(), None
        except (CaptureError, OSError) as error:
            return None, error

    def choose(self) -> tuple[Choice | None, CaptureError | None]:
        """Choose the backend, exactly as a run does; or why that cannot be."""
        if not self.live:
            return None, None
        try:
            return choose_backend(self.live, self.settings, self.planned), None
        except CaptureError as error:
            return None, error

    def rehearsed(self) -> Rehearsal | None:
        if not self.choice or not self.has_rules:
            return None
        intent, without_ipv6 = self.resolved.intent, (Family.V4,)
        fallback = None
        if not self.resolved.needs_ipv6:
            fallback = self.planned if intent.families == without_ipv6 else plan(intent.but(families=without_ipv6))
        return trial.rehearse(self.planned, self.choice.backend, without_ipv6=fallback)

    @property
    def backend(self) -> str:
        """The one that a run uses; where that cannot be told, the one that it would prefer."""
        return self.choice.backend if self.choice else self.settings.force_iptables_binary or NFT

    @property
    def has_rules(self) -> bool:
        return any(ruleset.tables for ruleset in self.planned.rulesets)

    def plans(self, family: Family) -> bool:
        """Whether there is anything to put in place in this family."""
        return any(ruleset.tables for ruleset in self.planned.rulesets if ruleset.family is family)

    def must_have(self, family: Family) -> bool:
        """Whether a run fails where the kernel refuses the rules of this family."""
        return self.plans(family) and (family is Family.V4 or self.resolved.needs_ipv6)


def nft_error() -> OSError | None:
    try:
        nftables.nft_tables()
    except OSError as error:
        return error
    return None


def listed(found: list[str]) -> str:
    """The first few, and how many more."""
    found = list(dict.fromkeys(found))
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def worst(verdicts: list[Verdict]) -> Verdict:
    return max(verdicts, key=(OK, WARN, UNKNOWN, MISSING).index, default=OK)
