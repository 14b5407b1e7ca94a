"""Whether our own tables of nf_tables hold just what is planned, by their bytes."""

from __future__ import annotations

import sys

from capture.netlink import nftables
from capture.netlink.messages import NETLINK_NETFILTER, NUMBERS, attributes, big, dump, pairs
from capture.sight.expressions import NotTold
from capture.sight.in_place import hold, is_alone, tables
from capture.sight.native import RANGES_AT_ONCE, Sets, compiled
from rules.native.names import TABLE, chain_name, hooked, place_of
from rules.native.writing import chains_of, is_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from capture.netlink.nftables import NftChain
    from capture.sight.native import Elements
    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.values import Family
    from rules.plan.plan import Plan

# linux/netfilter/nf_tables.h
NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3, 3
ANONYMOUS_AND_CONSTANT, INTERVAL = 3, 4


def is_in_place(planned: Plan) -> bool:
    """Whether there is in all of nf_tables what is planned, in tables of our own, and nothing else.

    As `capture.sight.in_place.is_in_place`.
    """
    rulesets = [ruleset for ruleset in planned.rulesets if ruleset.tables]
    try:
        if not is_alone(planned, {(ruleset.family, TABLE) for ruleset in rulesets}):
            return False
        from rules.native.compiled import compiled as of_our_own

        return all(map(holds, map(of_our_own, rulesets)))
    except OSError:
        return False


def holds(ruleset: Ruleset) -> bool:
    """Whether our table of its family holds just this, which is compiled for it. Raises OSError."""
    there = tables()
    if there is None or (ruleset.family, TABLE) not in there:
        return False
    chains = nftables.nft_chains().get((ruleset.family, TABLE), {})
    return chains_are(ruleset, chains) and rules_are(ruleset)


def chains_are(ruleset: Ruleset, there: Mapping[str, NftChain]) -> bool:
    """Whether it has the chains of this ruleset, and else only base chains of ours beside them."""
    wanted = {chain_name(*place) for place in chains_of(ruleset)}
    planned = {table.table for table in ruleset.tables}
    for name, chain in there.items():
        place = place_of(name)
        if place is None or place[0] not in planned:
            return False
        kind, hook, priority = hooked(*place) if is_base(*place) else ("", "", 0)
        if chain.base != ((kind, nftables.HOOKS[hook], priority, nftables.ACCEPT) if kind else None):
            return False
        if not kind and name not in wanted:
            return False
    return wanted <= there.keys()


def rules_are(ruleset: Ruleset) -> bool:
    """Whether it holds the rules of this ruleset, in order, and no others. Raises OSError."""
    told = {chain: rules for (table, chain), rules in nftables.raw_rules(ruleset.family).items() if table == TABLE}
    wanted = {place: rules for place, rules in chains_of(ruleset).items() if rules}
    if told.keys() != {chain_name(*place) for place in wanted}:
        return False
    return any(rules_hold(told, wanted, ruleset.family, ranges_at_once=at_once) for at_once in RANGES_AT_ONCE)


def rules_hold(
    told: Mapping[str, Sequence[bytes]],
    wanted: Mapping[tuple[str, str], Sequence[Rule]],
    family: Family,
    *,
    ranges_at_once: bool,
) -> bool:
    """Whether these messages tell just these rules, chain by chain, as one of two ways to write them has it."""
    sets: list[Sets] = []
    try:
        for (table, chain), rules in wanted.items():
            name = chain_name(table, chain)
            of_rules = [Sets(message, ranges_at_once=ranges_at_once) for message in told[name]]
            sets += of_rules
            made = (compiled(rule, table, family, its) for rule, its in zip(rules, of_rules, strict=True))
            if len(of_rules) != len(rules) or not hold(told[name], made, TABLE, name):
                return False
    except NotTold:
        return False
    asked = {name: wants for its in sets for name, wants in zip(its.names, its.wanted, strict=True)}
    return not asked or sets_are(asked, family)


def sets_are(wanted: Mapping[bytes, Elements], family: Family) -> bool:
    """Whether each of these sets of our table has just its elements. Raises OSError."""
    from capture.netlink.nf_tables import NFT_MSG_GETSET, NFT_MSG_GETSETELEM, those_of  # most rules look into none

    left = dict(wanted)
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETSET, bytes([NUMBERS[family], 0, 0, 0])):
        read = attributes(message[4:])
        name = read[NFTA_SET_NAME].rstrip(b"\0")
        if read[NFTA_SET_TABLE].rstrip(b"\0") != TABLE.encode() or name not in left:
            continue
        is_of_intervals, elements = left.pop(name)
        if big(read.get(NFTA_SET_FLAGS)) != ANONYMOUS_AND_CONSTANT | (INTERVAL if is_of_intervals else 0):
            return False
        told = [
            element
            for part in dump(NETLINK_NETFILTER, NFT_MSG_GETSETELEM, those_of(message))
            for element in listed(attributes(part[4:]).get(NFTA_SET_ELEM_LIST_ELEMENTS, b""))
        ]
        if len(told) != len(elements) or set(told) != elements:
            return False
    return not left


def listed(raw: bytes) -> list[bytes]:
    """The elements of a list. Where all are as long as the first they are cut out, which takes ten thousands less."""
    size = int.from_bytes(raw[:2], sys.byteorder)
    stride = size + 3 & ~3
    head = raw[:4]
    if size > 4 and len(raw) % stride == 0 and all(raw.startswith(head, at) for at in range(0, len(raw), stride)):
        return [raw[at + 4 : at + size] for at in range(0, len(raw), stride)]
    return [element for _, element in pairs(raw)]
