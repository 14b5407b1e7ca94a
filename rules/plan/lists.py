"""Lists as few rules: what of a list needs a rule of its own.

The kernel pays for every rule with every new connection. An entry that another one holds, or that was decided before,
has none; networks that adjoin become one. What is left keeps the order in which it was given.
"""

from __future__ import annotations

from bisect import bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from rules.netfilter.values import Network, Ports
    from rules.plan.intent import Uids

    Range = TypeVar("Range", Ports, Uids)


def fewest(networks: Iterable[Network]) -> list[Network]:
    """The same addresses as few networks of one family, each where the first that it holds was given."""
    given = list(networks)
    if len(given) < 2:
        return given
    bits = given[0].max_prefixlen
    # In ascending order a network comes behind the one that holds it, and behind the other half of one twice its size.
    in_order = sorted((int(each.network_address), each.prefixlen, at) for at, each in enumerate(given))
    kept: list[tuple[int, int, int]] = []
    for first, length, at in in_order:
        if kept and first >> bits - kept[-1][1] == kept[-1][0] >> bits - kept[-1][1]:
            if at < kept[-1][2]:
                kept[-1] = (*kept[-1][:2], at)
            continue
        low, size = first, 1 << bits - length
        while kept and kept[-1][1] == length and kept[-1][0] == low - size and not kept[-1][0] & size:
            low, _, before = kept.pop()
            length, size, at = length - 1, size << 1, min(at, before)  # it grows until it has no other half
        kept.append((low, length, at))
    if len(kept) == len(given):
        return given
    kind = type(given[0])
    return [
        given[at] if given[at].prefixlen == length else kind((low, length))
        for low, length, at in sorted(kept, key=lambda each: each[2])
    ]


def outside(networks: Iterable[Network], others: Iterable[Network]) -> list[Network]:
    """Those of the networks that the others, of the same family, do not hold whole."""
    ranges = sorted((int(each.network_address), int(each.broadcast_address)) for each in fewest(others))
    firsts = [first for first, _ in ranges]

    def is_held(network: Network) -> bool:
        at = bisect_right(firsts, int(network.network_address)) - 1
        return at >= 0 and int(network.broadcast_address) <= ranges[at][1]

    return [network for network in networks if not is_held(network)]


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
