"""What a validation says in the end: what failed and how to mend it, or what was proved."""

from __future__ import annotations

import pytest

from capture.errors import ValidationFailed
from capture.validation.probing import FAILED, NOT_PROVED, PROVED, Outcome
from capture.validation.validation import conclusion, judge, without_proof
from rules.analysis.probes import Ids, paths
from rules.plan.intent import Intent

EVERYBODY = Ids(((0, 1 << 32),), ((0, 1 << 32),))
PATHS = list(paths(Intent(), 8080, EVERYBODY))
LACKING = [("missing", "IPv4 nat: -A OUTPUT -p tcp -j ISTIO_OUTPUT")]


def outcomes(*results: str) -> list[Outcome]:
    """The first paths with these results, the others proved."""
    return [Outcome(path, results[at] if at < len(results) else PROVED, f"seen {at}") for at, path in enumerate(PATHS)]


@pytest.mark.parametrize(
    ("results", "differences", "what", "hint"),
    [
        ((FAILED,), [], "the capture does not work: 1 of {all} paths failed", "capture trace --live"),
        ((FAILED, FAILED), LACKING, "2 of {all} paths failed, and the rules are not as planned", "put the rules right"),
        ((), LACKING, "the rules are not as planned, although every path that could be tried works", "put the rules r"),
        ([NOT_PROVED] * 99, [], "nothing could be proved", ""),
    ],
)
def test_what_is_refused_says_what_failed_and_what_to_do(
    results: list[str], differences: list[tuple[str, str]], what: str, hint: str
) -> None:
    """Another run is told of only where it would change something."""
    with pytest.raises(ValidationFailed) as refused:
        judge(outcomes(*results), differences)
    assert refused.value.what.endswith(what.format(all=len(PATHS)))
    assert hint in refused.value.hint
    assert ("put the rules right" in refused.value.hint) == bool(differences)
    details = refused.value.details
    assert [text for name, text in details if name in ("seen", "because")] == (
        sorted(f"seen {at}" for at in range(len(PATHS)))
        if NOT_PROVED in results
        else [f"seen {at}" for at, result in enumerate(results) if result == FAILED]
    )
    assert [detail for detail in details if detail in LACKING] == differences


@pytest.mark.parametrize("differences", [None, []], ids=["rules that nobody may read", "rules as planned"])
@pytest.mark.parametrize("results", [(), (NOT_PROVED,), [NOT_PROVED] * (len(PATHS) - 1)], ids=["all", "but one", "one"])
def test_one_proved_path_without_a_fault_is_enough(
    results: list[str], differences: list[tuple[str, str]] | None
) -> None:
    judge(outcomes(*results), differences)
    judge(outcomes(*results)[::-1], differences)


def test_where_there_is_nothing_to_try_nothing_is_proved() -> None:
    """And that is why."""
    with pytest.raises(ValidationFailed, match="nothing could be proved") as refused:
        judge([], [])
    assert list(refused.value.details) == [("because", "there is nothing to capture")]


@pytest.mark.parametrize("warned", [False, True])
def test_what_is_proved_is_counted(warned: bool) -> None:
    """With what could not be tried, and with what is wrong with the listeners."""
    but = "; see the warnings about who listens" if warned else ""
    number = len(PATHS)
    judge(outcomes(), [])
    assert said(outcomes(), warned) == f"The capture works: {number} of {number} paths proved{but}"
    let_go = next(path for path in PATHS if not path.lands)
    one = [each.but(result=NOT_PROVED) if each.path is let_go else each for each in outcomes()]
    assert said(one, warned) == (
        f"The capture works: {number - 1} of {number} paths proved, the other 1 could not be tried here{but}"
    )
    none = [each.but(result=NOT_PROVED) if each.path.lands == 15001 else each for each in outcomes()]
    assert none != outcomes()
    judge(none, [])
    assert said(none, warned).endswith("not proved: what applications send (IPv4 tcp)")


def said(found: list[Outcome], warned: bool) -> str:
    return conclusion(found, list(without_proof(Intent(), found)), warned)
