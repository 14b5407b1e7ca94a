"""What a validation says in the end, and what makes it fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.errors import ValidationFailed
from capture.validation.probing import FAILED, NOT_PROVED, PROVED, Outcome
from capture.validation.validation import conclusion, judge
from tests.unit.validation.test_probing import TO_PROXY

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKS = Outcome(TO_PROXY, PROVED, "it arrived at port 15001")
FAILS = Outcome(TO_PROXY, FAILED, "it arrived at port 80")
UNTRIED = Outcome(TO_PROXY, NOT_PROVED, "no address")
DIFFERENCE = ("missing", "-A ISTIO_OUTPUT -j ISTIO_REDIRECT")


@pytest.mark.parametrize("differences", [None, []], ids=["rules that nobody may read", "rules as planned"])
@pytest.mark.parametrize("others", [[], [UNTRIED], [WORKS]], ids=["alone", "beside one untried", "beside another"])
def test_one_proved_path_and_no_fault_pass(others: list[Outcome], differences: list[tuple[str, str]] | None) -> None:
    """Wherever it stands in the list."""
    judge([WORKS, *others], differences)
    judge([*others, WORKS], differences)


@pytest.mark.parametrize("outcomes", [[], [UNTRIED], [UNTRIED, UNTRIED]], ids=len)
def test_nothing_proved_is_a_failure_with_each_reason_once(outcomes: list[Outcome]) -> None:
    with pytest.raises(ValidationFailed, match="nothing could be proved") as failed:
        judge(outcomes, [])
    assert failed.value.details == (("because", "no address" if outcomes else "there is nothing to capture"),)


@pytest.mark.parametrize(
    ("outcomes", "differences", "says", "hint"),
    [
        ([FAILS, WORKS], [], "1 of 2 paths failed", "capture trace --live"),
        ([FAILS, FAILS], None, "2 of 2 paths failed", "capture trace --live"),
        ([FAILS, WORKS], [DIFFERENCE], "1 of 2 paths failed, and the rules are not as planned", "the same settings"),
        ([WORKS], [DIFFERENCE], "the rules are not as planned, although every path", "the same settings"),
        ([UNTRIED], [DIFFERENCE], "the rules are not as planned, although every path", "the same settings"),
    ],
)
def test_a_failed_path_or_a_difference_is_a_failure(
    outcomes: list[Outcome], differences: list[tuple[str, str]] | None, says: str, hint: str
) -> None:
    """It tells what was seen and what differs, and sends to another run only where that changes something."""
    with pytest.raises(ValidationFailed) as failed:
        judge(outcomes, differences)
    assert says in str(failed.value)
    assert hint in (failed.value.hint or "")
    details = list(failed.value.details)
    assert details.count(("seen", FAILS.seen)) == outcomes.count(FAILS)
    assert (DIFFERENCE in details) == bool(differences)


@pytest.mark.parametrize(
    ("outcomes", "unseen", "has_warnings", "says"),
    [
        ([WORKS], [], False, "The capture works: 1 of 1 paths proved"),
        ([WORKS], [], True, "The capture works: 1 of 1 paths proved; see the warnings about who listens"),
        (
            [WORKS, UNTRIED, UNTRIED],
            [],
            False,
            "The capture works: 1 of 3 paths proved, the other 2 could not be tried here",
        ),
        (
            [WORKS, UNTRIED],
            ["DNS", "IPv6"],
            True,
            "Nothing failed, and it is not proved that the capture works: 1 of 2 paths proved; not proved: DNS, IPv6",
        ),
    ],
)
def test_the_last_line_claims_no_more_than_was_proved(
    outcomes: Sequence[Outcome], unseen: Sequence[str], has_warnings: bool, says: str
) -> None:
    assert conclusion(outcomes, unseen, has_warnings) == says
