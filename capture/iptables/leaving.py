"""The tables that iptables-nft made for us, once we leave them."""

from __future__ import annotations

from capture.netlink import nftables
from rules.netfilter.values import Family
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.log import Log

ATTEMPTS = 3
"""How often a table is looked at again that others are changing while we take it away."""


class TakeAway(Value):
    """What iptables-nft made for us in a table that we leave; done when all else is proved.

    Empty built-in chains that let everything pass mean nothing: a table that holds nothing else is deleted, whoever
    made it. In one that holds more, those go that were made with our chains or behind them.
    """

    family: Family
    table: str
    since: int
    """The handle of our first chain; what has a lower one stood there before us."""

    def __str__(self) -> str:
        family = "ip" if self.family is Family.V4 else "ip6"
        return f"nft delete, where nothing is left in it: table {family} {self.table} and its built-in chains"

    def do(self, log: Log) -> None:
        """Nothing of anybody else's can be lost. If others are at work in that table meanwhile, it stays with them."""
        from capture.netlink.tidying import is_as_made, take_away

        try:
            for _ in range(ATTEMPTS):
                flags = nftables.nft_table_flags(self.family, self.table)
                chains = nftables.nft_chains().get((self.family, self.table), {})
                empty = [name for name, chain in chains.items() if is_as_made(self.table, name, chain)]
                ours = [name for name in empty if chains[name].handle > self.since]
                is_all = flags == 0 and len(empty) == len(chains)
                if flags is None or (is_all and take_away(self.family, self.table, empty, whole=True)):
                    return
                if take_away(self.family, self.table, ours, whole=False):
                    return
        except OSError as error:
            log.warn(f"an empty table was left behind: `{self}`: {error.strerror}")
