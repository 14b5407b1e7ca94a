"""Tables, base chains and rules of nf_tables, from the messages in which the kernel tells of them."""

from __future__ import annotations

from rules.netfilter.hooks import HOOKS, IP_FAMILIES, MISNAMED, BaseChain, NativeTable, is_of_iptables
from rules.nftables.messages import Dump, attributes, family_of, number, signed, text
from rules.nftables.program import (
    EQ,
    META_IIF,
    META_IIFNAME,
    META_L4PROTO,
    META_MARK,
    META_OIF,
    META_OIFNAME,
    NEQ,
    NET_HEADER,
    NF_DROP,
    TRANSPORT_HEADER,
    Reader,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from rules.netfilter.values import Family
    from rules.nftables.messages import Expression, Order


DORMANT = 1


def base_chains(messages: Iterable[bytes], order: Order = "little") -> Iterator[BaseChain]:
    """The chains among these that a hook asks."""
    for message in messages:
        family = family_of(message)
        read = dict(attributes(message[4:], order))
        hook = dict(attributes(read.get(4, b""), order))
        if 1 not in hook:
            continue
        at = number(hook[1])
        if family in ("netdev",) or (family == "inet" and at == len(HOOKS)):
            names = ("INGRESS", "EGRESS")
            name = names[at % len(HOOKS)] if at % len(HOOKS) < len(names) else f"hook {at}"
        else:
            name = HOOKS[at] if at < len(HOOKS) else f"hook {at}"
        yield BaseChain(
            family,
            text(read.get(1)),
            text(read.get(3)),
            text(read.get(7)),
            name,
            signed(hook.get(2)),
            number(read.get(5)) == NF_DROP and 5 in read,
            number(read.get(2)),
            text(hook.get(3)),
        )


def dormant_tables(messages: Iterable[bytes], order: Order = "little") -> frozenset[tuple[str, str]]:
    """The tables, by family and name, none of whose chains is asked."""
    found = []
    for message in messages:
        read = dict(attributes(message[4:], order))
        if number(read.get(2)) & DORMANT:
            found.append((family_of(message), text(read.get(1))))
    return frozenset(found)


def native_tables(dump: Dump, family: Family, apart: Container[tuple[str, str]] = ()) -> tuple[NativeTable, ...]:
    """The tables that packets of this family can meet, with the base chains and rules that are not iptables' own.

    Those of this family and name are left `apart`.
    """
    asleep = dormant_tables(dump.tables, dump.order)
    reader = Reader(dump, family)
    chains: dict[tuple[str, str], dict[str, list[tuple[Expression, ...]]]] = {}
    for name, table, *_ in names_of(dump.tables, dump.order, 1):
        if family in IP_FAMILIES.get(name, ()) and (name, table) not in apart:
            chains[name, table] = {}
    for name, table, chain in names_of(dump.chains, dump.order, 1, 3):
        if (name, table) in chains:
            chains[name, table][chain] = []
    met = {name for name, _ in chains}
    known: dict[bytes, Expression] = {}
    for message in dump.rules:
        name = family_of(message)
        if name in met:
            read = dict(attributes(message[4:], dump.order))
            place = (name, text(read.get(1)))
            if place in chains:
                of_chain = chains[place].setdefault(text(read.get(2)), [])
                of_chain.append(expressions(read.get(4, b""), dump.order, known))
    bases = [chain for chain in base_chains(dump.chains, dump.order) if not is_of_iptables(chain)]
    for misnamed in (chain for chain in bases if chain.is_misnamed):
        there = chains.get((misnamed.family, misnamed.table), {})
        there[misnamed.name + MISNAMED] = there.pop(misnamed.name, [])
    bases = [chain.but(name=chain.name + MISNAMED) if chain.is_misnamed else chain for chain in bases]
    found = []
    for place, held in chains.items():
        of_table = tuple(chain for chain in bases if (chain.family, chain.table) == place)
        native = NativeTable(*place, place in asleep, of_table, ())
        spoken = {
            (chain, at)
            for chain, steps in held.items()
            for at, each in enumerate(steps)
            if native.is_of_iptables and is_spoken_by_iptables(each)
        }
        # iptables-save shows no base chain but its own, so what it would say of the rules of any other is said nowhere.
        unseen = {chain.name for chain in of_table}
        read_chains = tuple(
            (chain, tuple(reader.rule(*place, each) for each in steps))
            for chain, steps in held.items()
            if not native.is_of_iptables
            or chain in unseen
            or any((chain, at) not in spoken for at in range(len(steps)))
        )
        native = native.but(chains=read_chains, spoken=frozenset(spoken))
        if not native.is_of_iptables or native.is_dormant or native.base_chains or native.chains:
            found.append(native)
    return tuple(found)


def names_of(messages: Iterable[bytes], order: Order, *attribute: int) -> Iterator[tuple[str, ...]]:
    """The family and these names of each message."""
    for message in messages:
        read = dict(attributes(message[4:], order))
        yield (family_of(message), *(text(read.get(each)) for each in attribute))


def expressions(raw: bytes, order: Order, known: dict[bytes, Expression]) -> tuple[Expression, ...]:
    """The steps of a rule: each with its name and its attributes. The rules of one tool have most of them in common."""
    found = []
    for _, element in attributes(raw, order):
        step = known.get(element)
        if step is None:
            read = dict(attributes(element, order))
            step = known[element] = (text(read.get(1)), dict(attributes(read.get(2, b""), order)))
        found.append(step)
    return tuple(found)


IPTABLES_META = frozenset({META_IIFNAME, META_OIFNAME, META_L4PROTO, META_IIF, META_OIF, META_MARK})


def is_spoken_by_iptables(steps: Sequence[Expression]) -> bool:
    """Whether iptables-nft writes such rules. Of others, what iptables-save prints may leave out what they ask for."""
    base = 0
    for name, read in steps:
        match name:
            case "match" | "target" | "counter" | "limit" | "log" | "bitwise":
                pass
            case "cmp" if number(read.get(2)) in (EQ, NEQ) or base != NET_HEADER:
                pass
            case "range" if base != NET_HEADER:
                pass
            case "immediate" if number(read.get(1)) == 0:
                pass
            case "meta" if 3 not in read and number(read.get(2)) in IPTABLES_META:
                base = 0
            case "payload" if 5 not in read:
                base = number(read.get(2))
                if base == TRANSPORT_HEADER and number(read.get(3)) not in IPTABLES_TRANSPORT:
                    return False
            case _:
                return False
    return True


IPTABLES_TRANSPORT = frozenset({0, 1, 2, 13})
"""Where in a transport header iptables' matches look: ports, the type and code of ICMP, flags of TCP."""
