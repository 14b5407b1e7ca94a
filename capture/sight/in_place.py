"""Whether a namespace holds just what is planned, by the bytes of nf_tables: a rerun that finds it so is over."""

from __future__ import annotations

from capture.kernel.process import LEGACY_TABLES, read_words
from capture.netlink import nftables, rtnetlink
from capture.netlink.messages import FAMILIES, NETLINK_NETFILTER, attributes, big, dump, text
from capture.sight.expressions import COUNTED, NotTold
from capture.sight.iptables import ORDERS, compiled
from rules.lists.networks import V6, Networks, network_of
from rules.live.routing_changes import routing_to_add, routing_to_remove
from rules.netfilter.values import BUILT_IN, Family
from rules.plan.names import PASSTHROUGH, PROTOCOL
from rules.routing.policy import LOCAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from rules.netfilter.rulesets import Rule, Ruleset
    from rules.netfilter.values import Network
    from rules.plan.plan import Plan

RTPROT_KERNEL = 2
"""linux/rtnetlink.h"""
HANDLE = 12
"""Bytes of the attributes that tell a rule's handle, and, behind it, that of the rule before."""


def is_in_place(planned: Plan) -> bool:
    """Whether there is in all of nf_tables what is planned and nothing else, no legacy table, and the routing besides.

    That is told in a moment of most namespaces in which a capture is, and no other rules. Of any other the answer is
    no, also where it cannot be had: who reads what is there finds out more.
    """
    rulesets = [ruleset for ruleset in planned.rulesets if ruleset.tables]
    try:
        return is_alone(planned, tables_of(rulesets)) and chains_are(rulesets) and all(map(rules_are, rulesets))
    except OSError:
        return False


def is_alone(planned: Plan, wanted: AbstractSet[tuple[Family | None, str]]) -> bool:
    """Whether there are these tables of nf_tables and no others, and routing as planned. Raises OSError."""
    return (
        bool(wanted)
        and tables() == wanted
        and all(read_words(path) == [] for path in LEGACY_TABLES.values())
        and routing_is(planned)
    )


def holds(ruleset: Ruleset) -> bool:
    """Whether there is of its family in nf_tables just this. Raises OSError."""
    there = tables()
    return (
        there is not None
        and {table for table in there if table[0] is ruleset.family} == tables_of([ruleset])
        and chains_are([ruleset])
        and rules_are(ruleset)
    )


def routing_is(planned: Plan) -> bool:
    """Whether ip rules, routes and the address `::6` are as planned, and no ip rule is of others. Raises OSError."""
    rules, routes = rtnetlink.policy_rules(), rtnetlink.routes()
    if any(rule.protocol not in (RTPROT_KERNEL, PROTOCOL) for rule in rules):
        return False
    in_ours = [route for route in routes if route.table in {wanted.table for wanted in planned.routing}]
    if any(route.protocol != PROTOCOL for route in in_ours):
        return False
    ours = next((its for its in rtnetlink.addresses() if its.ip in PASSTHROUGH[Family.V6]), None)
    if ours is None if planned.passthrough_address else ours and ours.protocol == PROTOCOL:
        return False
    local = [route for route in routes if route.is_default and route.kind == LOCAL]
    return not [*routing_to_add(rules, local, planned.routing), *routing_to_remove(rules, local, planned.routing)]


def tables() -> set[tuple[Family | None, str]] | None:
    """The tables of nf_tables, of another family without one; None if any of them has a flag, as one that sleeps.

    Raises OSError as `nft_tables`.
    """
    found = set()
    for message in dump(NETLINK_NETFILTER, nftables.NFT_MSG_GETTABLE, bytes(4)):
        read = attributes(message[4:])
        if big(read.get(nftables.NFTA_TABLE_FLAGS)):
            return None
        found.add((FAMILIES.get(message[0]), text(read[nftables.NFTA_TABLE_NAME])))
    return found


def tables_of(rulesets: Sequence[Ruleset]) -> set[tuple[Family | None, str]]:
    return {(ruleset.family, table.table) for ruleset in rulesets for table in ruleset.tables}


def chains_are(rulesets: Sequence[Ruleset]) -> bool:
    """Whether these tables have the chains of these rulesets, and else only built-in ones, as iptables makes them.

    Raises OSError as `nft_tables`.
    """
    found = nftables.nft_chains()
    for ruleset in rulesets:
        for table in ruleset.tables:
            declared = set(table.declared)
            for name, chain in found.get((ruleset.family, table.table), {}).items():
                if name in BUILT_IN[table.table]:
                    if chain.base != (*nftables.built_in(table.table, name), nftables.ACCEPT):
                        return False
                elif chain.base or name not in declared:
                    return False
                declared.discard(name)
            if declared:
                return False
    return True


def rules_are(ruleset: Ruleset) -> bool:
    """Whether these tables hold the rules of this ruleset, in order, and no others. Raises OSError as `nft_tables`."""
    told = nftables.raw_rules(ruleset.family)
    wanted = {
        (table.table, chain): rules for table in ruleset.tables for chain, rules in table.chains().items() if rules
    }
    if told.keys() != wanted.keys():
        return False
    try:
        return any(
            all(
                len(told[place]) == len(rules) and hold(told[place], all_compiled(rules, ruleset.family, order), *place)
                for place, rules in wanted.items()
            )
            for order in ORDERS
        )
    except NotTold:
        return False


def hold(told: Sequence[bytes], rules: Iterable[tuple[bytes, bytes]], table: str, chain: str) -> bool:
    """Whether these messages, as many, tell just these rules, which are compiled. Raises NotTold."""
    # Behind struct nfgenmsg come the names of table and chain, each with its zero, as long as netlink(7) wants it.
    at = 4 + sum(4 + (len(name.encode()) + 4 & ~3) for name in (table, chain)) + HANDLE
    for message, (before, behind) in zip(told, rules, strict=True):
        if not (
            message.startswith(before, at)
            and message.endswith(behind)
            and len(message) == at + len(before) + COUNTED + len(behind)
        ):
            return False
        if message is told[0]:
            at += HANDLE
    return True


def all_compiled(rules: Sequence[Rule], family: Family, order: Sequence[int]) -> Iterator[tuple[bytes, bytes]]:
    """Each of these rules compiled. Raises NotTold."""
    if isinstance(rules, tuple):
        for rule in rules:
            yield compiled(rule, family, order)
        return
    from rules.lists.long import Made, parts_of

    for part in parts_of(rules):
        if isinstance(part, Made) and isinstance(part.items, Networks):
            yield from of_networks(part.made, part.items, family, order)
        else:
            for rule in part:
                yield compiled(rule, family, order)


def of_networks(
    made: Callable[[Network], Rule], networks: Networks, family: Family, order: Sequence[int]
) -> Iterator[tuple[bytes, bytes]]:
    """The same for rules that differ in their network alone: those of one length differ in the bytes of its address."""
    size, flag = (16, V6) if family is Family.V6 else (4, 0)
    of_length: dict[int, tuple[bytes, bytes, bytes, int]] = {}
    for code in networks.codes:
        length = code & 255
        if length not in of_length:
            bits = (1 << length) - 1 << size * 8 - length
            (one, behind), (other, _) = (
                compiled(made(network_of(number << 8 | length | flag)), family, order) for number in (0, bits)
            )
            at = next((at for at, (byte, its) in enumerate(zip(one, other, strict=True)) if byte != its), len(one))
            count = (length + 7) // 8
            of_length[length] = one[:at], one[at + count :], behind, count
        before, after, behind, count = of_length[length]
        yield before + ((code ^ flag) >> 8).to_bytes(size, "big")[:count] + after, behind
