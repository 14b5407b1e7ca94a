"""Native tables of nf_tables beside those of iptables: what only nf_tables itself tells the truth about.

Read only where something is there that iptables-save cannot show: a table of another family or name, a dormant one, a
base chain of others, or a rule of others in a table that we share.
"""

from __future__ import annotations

from capture.netlink.messages import NETLINK_NETFILTER, attributes, big, dump
from capture.netlink.nftables import NFT_MSG_GETTABLE, NFTA_TABLE_FLAGS
from rules.netfilter.hooks import HOOKS, NAME, BaseChain, is_of_iptables, merged
from rules.netfilter.values import BUILT_IN, Family
from rules.ours.recognition import holds_others
from rules.plan.names import NATIVE_TABLE
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from capture.iptables.saved import Saved
    from capture.netlink.nftables import NftChain
    from rules.netfilter.hooks import NativeTable

DORMANT = 1
"""NFT_TABLE_F_DORMANT of linux/netfilter/nf_tables.h."""


class Natives(Value):
    """What nf_tables holds that iptables does not show."""

    of_iptables: dict[Family, Saved]
    """What iptables-nft-save showed, put right where it cannot show what is there."""
    others: dict[Family, tuple[NativeTable, ...]] = {}  # noqa: RUF012 # a default that nobody changes
    """The tables of others."""
    own: dict[Family, Saved] = {}  # noqa: RUF012 # a default that nobody changes
    """Our own tables."""
    unsound: frozenset[Family] = frozenset()
    """The families whose table of ours is not one that we make: it is dormant, or somebody put more into it."""


def read_natives(
    nft: dict[Family, Saved],
    tables: Mapping[Family, frozenset[str]],
    others: frozenset[str],
    chains: Mapping[tuple[Family, str], Mapping[str, NftChain]],
) -> Natives:
    """Raises OSError if the kernel does not answer."""
    if not (others or any(tables.values())):
        return Natives(nft)
    is_needed = (
        bool(others)
        or any(names - BUILT_IN.keys() for names in tables.values())
        or any(is_native(family, table, of_table) for (family, table), of_table in chains.items())
        or any(holds_others(saved.ruleset) for saved in nft.values())
        or any_is_dormant()
    )
    if not is_needed:
        return Natives(nft)
    from capture.iptables.own import own_in
    from capture.netlink import nf_tables
    from rules.nftables.tables import native_tables

    told = nf_tables.read()
    own = {family: saved for family in Family if NATIVE_TABLE in tables[family] and (saved := own_in(told, family))}
    apart = {(NAME[family], NATIVE_TABLE) for family in own}
    natives = {}
    for family in Family:
        saved = nft.get(family)
        found = native_tables(told, family, apart)
        if saved:
            ruleset, found = merged(saved.ruleset, found)
            nft = {**nft, family: saved.but(ruleset=ruleset)}
        natives[family] = found
    unsound = frozenset(family for family in Family if NATIVE_TABLE in tables[family] and family not in own)
    return Natives(nft, natives, own, unsound)


def is_native(family: Family, table: str, chains: Mapping[str, NftChain]) -> bool:
    """Whether a table has a base chain that is not iptables' own."""
    for name, chain in chains.items():
        if chain.base:
            kind, hook, priority, _ = chain.base
            at = HOOKS[hook] if hook < len(HOOKS) else ""
            if not is_of_iptables(BaseChain(NAME[family], table, name, kind, at, priority)):
                return True
    return False


def any_is_dormant() -> bool:
    """Whether a table has the flag by which none of its chains is asked."""
    tables = dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, bytes(4))
    return any(big(attributes(message[4:]).get(NFTA_TABLE_FLAGS)) & DORMANT for message in tables)
