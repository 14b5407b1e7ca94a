"""What stands in the way of ours, as status says it, on a kernel in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from capture.errors import DONE
from rules.live.drift import Kind
from rules.netfilter.values import Family
from tests.unit.apply.test_in_memory import command, kernel, run

if TYPE_CHECKING:
    from tests.rig.memory import Memory

__all__ = ["kernel"]
STATIC = 4
"""RTPROT_STATIC of linux/rtnetlink.h, as `ip rule add` writes it: not ours."""
TPROXY = ("-u", "1337", "-m", "TPROXY")
OURS = 1337


def in_the_way() -> list[tuple[str, str]]:
    told = json.loads(command("status", "--output=json").stdout)
    return [(each["kind"], each["rule"]) for each in told["in_the_way"]]


@pytest.mark.parametrize("settings", [("-u", "1337"), TPROXY], ids=str)
def test_ip_rules_of_others_among_each_other_are_not_in_our_way(kernel: Memory, settings: tuple[str, ...]) -> None:
    """However plain they are, however like ours in mark and table: two of others for one mark are their affair."""
    assert run(*settings) == DONE
    kernel.rules += [(Family.V4, priority, 77, table, STATIC) for priority, table in ((90, 7), (91, 8), (40000, 7))]
    assert in_the_way() == []


@pytest.mark.parametrize(("mark", "is_asked"), [(OURS, True), (OURS + 1, False)], ids=str)
@pytest.mark.parametrize("priority", [90, 40000], ids=["before ours", "behind ours"])
def test_an_ip_rule_of_others_for_our_mark_is_in_our_way(
    kernel: Memory, priority: int, mark: int, *, is_asked: bool
) -> None:
    """Behind ours it only shares the mark, and would be surprised; one for another mark has nothing to do with us."""
    assert run(*TPROXY) == DONE
    kernel.rules.append((Family.V4, priority, mark, 7, STATIC))
    goes_first = [Kind.IP_RULE_BEFORE_OURS.value] if is_asked and priority == 90 else []
    shares = [Kind.MARK_SHARED.value] if is_asked else []
    assert [kind for kind, _ in in_the_way()] == goes_first + shares
