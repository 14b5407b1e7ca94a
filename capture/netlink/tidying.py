"""Taking away what iptables-nft made for us and left behind: empty built-in chains, and tables with nothing in them.

No iptables command removes a table, and nft(8) may not be installed; deleting is three messages. They go in one batch,
which the kernel carries out as a whole or not at all (Documentation of nfnetlink batches: linux/netfilter/nfnetlink.h).
`NLM_F_NONREC` has it refuse what is in use: nobody's rule can be lost, also if it came a moment ago.
"""

from __future__ import annotations

import errno
import os
import struct

from capture.kernel.seam import primitive
from capture.netlink.messages import ATTRIBUTE, HEADER, NETLINK_NETFILTER, NLMSG_ERROR, NUMBERS, messages, talking
from capture.netlink.nftables import ACCEPT, built_in
from rules.netfilter.values import BUILT_IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.netlink.nftables import NftChain
    from rules.netfilter.values import Family

BATCH_BEGIN, BATCH_END = 0x10, 0x11
NFT_SUBSYSTEM = 10
NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN = 2, 5
NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME = 1, 1, 3
REQUEST, REQUEST_ACK, NONREC = 0x001, 0x005, 0x100


def is_as_made(table: str, name: str, chain: NftChain) -> bool:
    """Whether this is a built-in chain as iptables-nft makes it, with nothing in it and no other policy than accept."""
    return name in BUILT_IN[table] and not chain.use and chain.base == (*built_in(table, name), ACCEPT)


def take_away(family: Family, table: str, chains: Sequence[str], *, whole: bool) -> bool:
    """Delete these chains, and the table if `whole`; all of it or nothing. Whether it is gone.

    What others use meanwhile stays, and what is not there any more is no failure. Raises OSError for anything else.
    """
    requests = [
        message(family, NFT_MSG_DELCHAIN, (NFTA_CHAIN_TABLE, table), (NFTA_CHAIN_NAME, name)) for name in chains
    ]
    if whole:
        requests.append(message(family, NFT_MSG_DELTABLE, (NFTA_TABLE_NAME, table)))
    if not requests:
        return True
    refused = sent(requests)
    if refused in (errno.EBUSY, errno.ENOENT):
        return False
    if refused:
        raise OSError(refused, os.strerror(refused))
    return True


def message(family: Family, kind: int, *attributes: tuple[int, str]) -> bytes:
    """A request of nf_tables without its netlink header, with its kind before it."""
    body = struct.pack("=BBH", NUMBERS[family], 0, 0)
    for number, text in attributes:
        value = text.encode(errors="surrogateescape") + b"\0"
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=H", NFT_SUBSYSTEM << 8 | kind) + body


@primitive
def sent(requests: Sequence[bytes], flags: int = NONREC) -> int:
    """Send these in one batch, with these flags. The error number of the first that was refused, or 0."""
    mark = struct.pack("=BB", 0, 0) + struct.pack(">H", NFT_SUBSYSTEM)
    batch = framed(BATCH_BEGIN, REQUEST, 0, mark)
    for number, request in enumerate(requests, 1):
        batch += framed(struct.unpack("=H", request[:2])[0], REQUEST_ACK | flags, number, request[2:])
    batch += framed(BATCH_END, REQUEST, 0, mark)
    refused = 0
    with talking(NETLINK_NETFILTER) as kernel:
        kernel.send(batch)
        answered = 0
        while answered < len(requests):
            for kind, _, number, body in messages(kernel.recv(1 << 16)):
                if kind == NLMSG_ERROR:
                    error: int = -struct.unpack_from("=i", body)[0]
                    refused = refused or error
                    answered += 1
                    if error and number == 0:
                        # The batch as a whole was refused: nothing more is answered.
                        return refused
    return refused


def framed(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, number, 0) + body + bytes(-len(body) % 4)
