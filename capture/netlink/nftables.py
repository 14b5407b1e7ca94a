"""What nf_tables holds: names of tables, chains and what they are, and rules as their attributes. All only look."""

from __future__ import annotations

from capture.netlink.messages import FAMILIES, NETLINK_NETFILTER, NUMBERS, attribute, attributes, big, dump, text
from rules.netfilter.values import Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# linux/netfilter/nf_tables.h
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE = 10 << 8 | 1, 10 << 8 | 4, 10 << 8 | 7
NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFTA_TABLE_OWNER = 1, 2, 7
NFT_TABLE_F_OWNER = 2
NFTA_CHAIN_TABLE, NFTA_CHAIN_HANDLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK = 1, 2, 3, 4
NFTA_CHAIN_POLICY, NFTA_CHAIN_USE, NFTA_CHAIN_TYPE = 5, 6, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS = 1, 2, 4


HOOKS = {"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}
"""linux/netfilter.h, enum nf_inet_hooks."""
PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
SOURCE_NAT = 100
"""linux/netfilter_ipv4.h, NF_IP_PRI_NAT_SRC: of INPUT and POSTROUTING in nat."""
ACCEPT = 1
"""NF_ACCEPT, as a policy."""


def built_in(table: str, chain: str) -> tuple[str, int, int]:
    """The type, hook and priority that iptables-nft gives a built-in chain."""
    kind = "nat" if table == "nat" else "route" if (table, chain) == ("mangle", "OUTPUT") else "filter"
    priority = SOURCE_NAT if table == "nat" and chain in ("INPUT", "POSTROUTING") else PRIORITIES[table]
    return kind, HOOKS[chain], priority


def nft_tables() -> tuple[dict[Family, frozenset[str]], frozenset[str]]:
    """The names of the nf_tables tables of this namespace: of the families that iptables has, and of all others.

    Raises PermissionError without CAP_NET_ADMIN, and another OSError if the kernel has no nf_tables.
    """
    found: dict[Family, set[str]] = {family: set() for family in Family}
    others = set()
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, bytes(4)):
        name = text(attributes(message[4:])[NFTA_TABLE_NAME])
        if message[0] in FAMILIES:
            found[FAMILIES[message[0]]].add(name)
        else:
            others.add(name)
    return {family: frozenset(names) for family, names in found.items()}, frozenset(others)


class NftChain(Value):
    """A chain of nf_tables."""

    use: int
    """How many rules and references it has."""
    handle: int
    """Its number in its table, in the order of their making."""
    base: tuple[str, int, int, int] | None = None
    """Of a base chain: its type, hook, priority and policy, 1 for accept."""


def nft_chains() -> dict[tuple[Family, str], dict[str, NftChain]]:
    """The chains of each nf_tables table that has any. Raises OSError as `nft_tables`."""
    found: dict[tuple[Family, str], dict[str, NftChain]] = {}
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETCHAIN, bytes(4)):
        if message[0] in FAMILIES:
            read = attributes(message[4:])
            table = found.setdefault((FAMILIES[message[0]], text(read[NFTA_CHAIN_TABLE])), {})
            use, handle, policy = map(read.get, (NFTA_CHAIN_USE, NFTA_CHAIN_HANDLE, NFTA_CHAIN_POLICY))
            base = None
            if NFTA_CHAIN_HOOK in read:
                hook = attributes(read[NFTA_CHAIN_HOOK])
                at, priority = big(hook.get(NFTA_HOOK_HOOKNUM)), big(hook.get(NFTA_HOOK_PRIORITY), signed=True)
                base = text(read.get(NFTA_CHAIN_TYPE, b"")), at, priority, big(policy)
            table[text(read[NFTA_CHAIN_NAME])] = NftChain(big(use), big(handle), base)
    return found


def nft_table_flags(family: Family, table: str) -> int | None:
    """The flags of an nf_tables table, 1 for a dormant one; None if it is not there. Raises OSError as `nft_tables`."""
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, bytes(4)):
        read = attributes(message[4:])
        if FAMILIES.get(message[0]) is family and text(read[NFTA_TABLE_NAME]) == table:
            return big(read.get(NFTA_TABLE_FLAGS))
    return None


def owned() -> dict[str, int]:
    """The tables that one socket alone may change, as nft names them, and its netlink port (`flags owner` of nft(8)).

    The kernel refuses everybody else with EPERM (nft_table_lookup of net/netfilter/nf_tables_api.c), whatever
    capabilities they have. Raises OSError as `nft_tables`.
    """
    from rules.nftables.messages import family_of  # where a pod starts there are no tables

    found = {}
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, bytes(4)):
        read = attributes(message[4:])
        if big(read.get(NFTA_TABLE_FLAGS)) & NFT_TABLE_F_OWNER:
            found[f"{family_of(message)} {text(read[NFTA_TABLE_NAME])}"] = big(read.get(NFTA_TABLE_OWNER))
    return found


def belongs(table: str, port: int) -> str:
    """Whose such a table is."""
    return f"the table {table} belongs to the program that made it (`flags owner`, netlink port {port})"


def nft_rules(family: Family) -> dict[tuple[str, str], list[dict[int, bytes]]]:
    """The rules of each nf_tables chain of this family that has any, by table and chain, as their attributes.

    Raises OSError as `nft_tables`.
    """
    return taken_apart(raw_rules(family))


def taken_apart(raw: Mapping[tuple[str, str], list[bytes]]) -> dict[tuple[str, str], list[dict[int, bytes]]]:
    return {place: [attributes(rule[4:]) for rule in rules] for place, rules in raw.items()}


def raw_rules(family: Family) -> dict[tuple[str, str], list[bytes]]:
    """The same with each rule's message as it came: of long lists, most are counted and never taken apart."""
    found: dict[tuple[str, str], list[bytes]] = {}
    place, rules = b"", list[bytes]()
    for message in dump(NETLINK_NETFILTER, NFT_MSG_GETRULE, bytes([NUMBERS[family], 0, 0, 0])):
        # The kernel names table and chain first (nf_tables_fill_rule_info), and tells chain by chain.
        if not (place and message.startswith(place, 4)):
            read = attributes(message[4:])
            table, chain = read[NFTA_RULE_TABLE], read[NFTA_RULE_CHAIN]
            place = attribute(NFTA_RULE_TABLE, table) + attribute(NFTA_RULE_CHAIN, chain)
            rules = found.setdefault((text(table), text(chain)), [])
        rules.append(message)
    return found
