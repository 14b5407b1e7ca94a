"""Our own tables as a kernel told of them: read back as what was planned, and whole commands on them without root."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from capture.errors import DIFFERS, DONE, NOTHING_HERE
from capture.host.facts import read_facts
from capture.intent.resolve import resolve
from capture.iptables.iptables import NATIVE
from capture.iptables.own import own_saved
from capture.kernel.seam import standing_in
from capture.settings.declared import Settings
from rules.native.compiled import as_held
from rules.ours.recognition import ours_in
from rules.plan.plan import plan
from tests.rig.chance import QUICK
from tests.rig.in_process import capture
from tests.rig.recorded import ARGUMENTS, QUESTIONS, Recorded

if TYPE_CHECKING:
    from rules.netfilter.rulesets import Ruleset

POD = ("10.244.0.5/32", "fd00:244::5/128")


@pytest.fixture(params=ARGUMENTS)
def pod(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param, *POD)


def planned(argv: tuple[str, ...]) -> tuple[Ruleset, ...]:
    settings = Settings.load(argv, {})
    return plan(resolve(settings, read_facts({})).intent).rulesets


def test_what_the_kernel_tells_is_what_was_planned(pod: Recorded) -> None:
    """Rule for rule, in both families, with its reason, which it carries as a comment."""
    pod.are_there = True
    with standing_in(pod):
        for wanted in planned(pod.argv):
            held = own_saved(wanted.family).ruleset
            assert ours_in(held) == as_held(NATIVE, wanted)
            assert [rule.why for table in held.tables for block in table.blocks for rule in block.rules] == [
                rule.why for table in as_held(NATIVE, wanted).tables for block in table.blocks for rule in block.rules
            ]


def test_a_run_makes_them_in_one_transaction_and_clean_takes_them_away(pod: Recorded) -> None:
    """A rerun gives nft nothing; status and verify know them; behind it all nothing is there."""
    assert capture(pod, "verify", *pod.argv).status == NOTHING_HERE
    first = capture(pod, *pod.argv)
    assert first.status == DONE, first.stderr
    assert len(pod.given) == 1
    given = [line.strip() for line in pod.given[0].split("\n")]
    assert [line for line in given if line.startswith(("table", "delete"))] == [
        "table ip istio-capture {",
        "table ip6 istio-capture {",
    ]
    assert capture(pod, *pod.argv).status == DONE
    assert len(pod.given) == 1
    verified = capture(pod, "verify", *pod.argv)
    assert (verified.status, verified.stdout.startswith("as planned: ")) == (DONE, True), verified.stdout
    assert capture(pod, "verify", *pod.argv, "-o", "23").status == DIFFERS
    status = capture(pod, "status")
    assert (status.status, "native" in status.stdout) == (DONE, True)
    cleaned = capture(pod, "clean")
    assert cleaned.status == DONE
    names = set(re.findall(r"(?:nat|mangle|raw|filter)-[A-Z_]+", cleaned.stdout))
    assert {f"chain {name} {{" for name in names} == {line for line in given if line.startswith("chain ")}
    assert "nft ip istio-capture: the chains " in cleaned.stdout
    assert (len(pod.given), pod.are_there, pod.rules, pod.routes) == (2, False, [], [])
    assert capture(pod, "status").status == NOTHING_HERE


@pytest.mark.parametrize("kind", ["tables", "chains", "rules", "elements"])
def test_a_table_that_somebody_changed_is_not_as_planned(pod: Recorded, kind: str) -> None:
    """Each message in turn is not told: verify never says that all is as planned."""
    assert capture(pod, *pod.argv).status == DONE
    for messages in (those for (question, _), those in pod.told.items() if question == QUESTIONS[kind]):
        telling = len(messages) - (kind == "elements")  # of which the kernel ends each set's by an empty one
        for at in range(0, telling, max(1, telling // (3 if QUICK else 9))):
            message = messages.pop(at)
            assert capture(pod, "verify", *pod.argv).status != DONE
            messages.insert(at, message)


def test_a_transaction_that_is_refused_leaves_nothing(pod: Recorded) -> None:
    """The namespace is as it was, ip rules and routes included."""
    pod.refuse = lambda act: 5 if act == "nft -f -" else None
    refused = capture(pod, *pod.argv)
    assert (refused.status, "the namespace is as it was" in refused.stderr) == (1, True)
    assert (pod.are_there, pod.rules, pod.routes) == (False, [], [])
