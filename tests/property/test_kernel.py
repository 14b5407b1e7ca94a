"""The kernel as a witness: what it prints back for drawn intents is what was planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from capture.iptables.iptables import BACKENDS, NATIVE, NFT, Iptables
from capture.kernel.process import run
from capture.log import Log
from capture.sight import in_place, own
from rules.live.changes import changes
from rules.native.compiled import as_held
from rules.native.writing import transactions
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import Log as LogTarget
from rules.netfilter.targets import Nflog, Reject
from rules.netfilter.values import Family
from rules.plan.intent import Intent
from rules.plan.names import MOST_OWNER_GROUPS
from rules.plan.plan import ruleset
from tests.property import strategies
from tests.rig import Namespace, entered
from tests.rig.chance import share

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """One namespace for all examples. Each begins by removing what the last one left."""
    with Namespace("drawn") as made:
        yield made


def converge(tool: Iptables, planned: Ruleset) -> None:
    """Make the changes, and see that the kernel's own words need none."""
    planned, now = as_held(tool.backend, planned), tool.save().ruleset
    asked = changes(now, planned)
    if asked and tool.backend == NATIVE:
        for commit in filter(None, transactions(now, planned)):
            done = run(tool.command(""), "-f", "-", text="".join(f"{line}\n" for line, _ in commit))
            assert done.status == 0, done.stderr
    elif asked:
        tool.restore(asked, Log().warn)
    assert changes(tool.save().ruleset, planned) == ()
    if tool.backend == NFT:
        assert in_place.chains_are([planned])
        assert in_place.rules_are(planned) == is_told(planned)
    if tool.backend == NATIVE and planned.tables:
        # A rule that was there for another reason keeps its comment, and is looked at more closely.
        assert own.holds(planned) == is_told(planned) or (now.tables and not own.holds(planned))


def is_told(planned: Ruleset) -> bool:
    """Whether all of it is known at sight: neither LOG nor REJECT are."""
    return not any(isinstance(rule.target, LogTarget | Nflog | Reject) for _, _, rule in planned.rules())


@pytest.mark.parametrize("family", Family, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(
    max_examples=share(25),
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a smaller example takes minutes to find, and the message has the rule
    suppress_health_check=[HealthCheck.too_slow],
)
@given(first=strategies.intents, second=strategies.intents)
def test_the_kernel_holds_what_was_planned(
    namespace: Namespace, backend: str, family: Family, first: Intent, second: Intent
) -> None:
    """From nothing to one drawn plan, to another, and to nothing: each time the kernel prints it back as planned.

    And where iptables-nft or nft wrote it, nf_tables tells each rule as it is known at sight.
    """
    tool = Iptables(backend, family)
    with entered(namespace):
        converge(tool, Ruleset(family))
        converge(tool, ruleset(first, family))
        converge(tool, ruleset(second, family))
        converge(tool, Ruleset(family))


@pytest.mark.parametrize("backend", BACKENDS)
def test_as_many_owner_groups_as_the_setting_takes_can_be_included(namespace: Namespace, backend: str) -> None:
    """They share one rule, and iptables-restore takes at most 255 words in a line."""
    tool = Iptables(backend, Family.V4)
    with entered(namespace):
        converge(tool, Ruleset(Family.V4))
        converge(tool, ruleset(Intent(owner_groups=tuple(range(1000, 1000 + MOST_OWNER_GROUPS))), Family.V4))
        converge(tool, Ruleset(Family.V4))
