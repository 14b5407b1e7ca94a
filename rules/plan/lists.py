"""Lists as few rules: what of a list needs no rule of its own, because another entry holds it (`rules.lists`)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from rules.netfilter.values import Ports
    from rules.plan.intent import Uids

    Range = TypeVar("Range", Ports, Uids)


def widest(ranges: Iterable[Range], but: Iterable[Range] = ()) -> list[Range]:
    """Each of the ranges that no other one holds whole, nor one of those that were decided before."""
    given = list(dict.fromkeys(ranges))
    if len(given) < 2 and not but:
        return given
    end, held = -1, set()
    entries = [(each.first, -each.last, 1, each) for each in given] + [(it.first, -it.last, 0, it) for it in but]
    for _, _, is_asked, each in sorted(entries, key=lambda entry: entry[:3]):
        if is_asked and each.last <= end:
            held.add(each)
        end = max(end, each.last)
    return [each for each in given if each not in held]


def widest_names(interfaces: Iterable[str]) -> list[str]:
    """Each of the interface names that no other one holds, as eth+ holds eth0."""
    given = list(dict.fromkeys(interfaces))
    prefixes = [name[:-1] for name in given if name[-1] == "+"]

    def is_held(name: str) -> bool:
        return any(name.startswith(prefix) and name != f"{prefix}+" for prefix in prefixes)

    return [name for name in given if not is_held(name)]
