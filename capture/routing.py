"""What is written through netlink: addresses and the emptied tables of a capture that was taken back.

pyroute2 does the talking. Importing it takes longer than everything else on the init path together, so this module
imports it when something is to be written, which an IPv4 capture never needs.
"""

from __future__ import annotations

import errno

from capture import netlink
from rules.names import LOOPBACK_INTERFACE, PASSTHROUGH
from rules.values import BUILT_IN, Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyroute2.nftables.main import NFTables

PASSTHROUGH_ADDRESS = PASSTHROUGH[Family.V6]


def add_passthrough_address() -> None:
    """`ip -6 addr add ::6/128 dev lo`. Raises OSError; it is no error if it is there already."""
    _passthrough("add", harmless=errno.EEXIST)


def remove_passthrough_address() -> None:
    """`ip -6 addr del ::6/128 dev lo`. Raises OSError; it is no error if it is not there."""
    _passthrough("del", harmless=errno.EADDRNOTAVAIL)


def _passthrough(command: str, *, harmless: int) -> None:
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as kernel:
        index = kernel.link_lookup(ifname=LOOPBACK_INTERFACE)[0]
        address, prefix = str(PASSTHROUGH_ADDRESS.network_address), PASSTHROUGH_ADDRESS.prefixlen
        try:
            kernel.addr(command, index=index, address=address, prefixlen=prefix)
        except NetlinkError as error:
            if error.code != harmless:
                raise OSError(error.code, str(error)) from error


def remove_empty_tables(before: Mapping[Family, frozenset[str]]) -> None:
    """Remove the nf_tables tables that a run made for iptables and that hold nothing any more.

    `before` names those that were there when the run began: they stay. Raises OSError.
    """
    made = {family: names - before[family] for family, names in netlink.nft_tables().items()}
    if not any(made.values()):
        return
    from pyroute2.nftables.main import NFTables

    for family, names in made.items():
        if not names:
            continue
        with NFTables(nfgen_family=netlink.NUMBERS[family]) as kernel:
            for name in sorted(names):
                if is_empty(kernel, name):
                    kernel.begin()
                    kernel.table("del", name=name)
                    kernel.commit()


def is_empty(kernel: NFTables, table: str) -> bool:
    """Whether a table is as iptables-nft makes it: built-in chains, and no rule in any."""
    chains = {chain.get_attr("NFTA_CHAIN_NAME") for chain in kernel.get_chains() if in_table(chain, "CHAIN", table)}
    rules = any(in_table(rule, "RULE", table) for rule in kernel.get_rules())
    return table in BUILT_IN and chains <= BUILT_IN[table] and not rules


def in_table(message: object, kind: str, table: str) -> bool:
    return message.get_attr(f"NFTA_{kind}_TABLE") == table  # type: ignore[attr-defined, no-any-return] # untyped library
