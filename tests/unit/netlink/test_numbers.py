"""The numbers by which we speak with the kernel are those of its headers."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capture.iptables import native

if TYPE_CHECKING:
    from collections.abc import Iterator

INCLUDE = Path("/usr/include/linux")
HEADERS = (
    *("netlink.h", "rtnetlink.h", "if_link.h", "if_addr.h", "fib_rules.h", "sock_diag.h"),
    *("netfilter.h", "netfilter/nfnetlink.h", "netfilter/nfnetlink_conntrack.h", "netfilter/nf_tables.h"),
    *("netfilter/nf_conntrack_common.h", "netfilter/nf_conntrack_tcp.h", "netfilter/nf_nat.h"),
    "netfilter/nf_tables_compat.h",
)
MODULES = (
    *("capture.netlink.messages", "capture.netlink.rtnetlink", "capture.netlink.routing", "capture.netlink.sockets"),
    *("capture.netlink.nftables", "capture.netlink.nf_tables", "capture.netlink.ctnetlink", "capture.netlink.early"),
    *("capture.netlink.tidying", "capture.netlink.events", "capture.kernel.locks", "capture.iptables.native"),
    *("capture.iptables.nft_words", "rules.nftables.messages", "rules.nftables.program", "rules.nftables.sets"),
)
OTHERWISE = {
    "capture.iptables.native": {
        **{name: f"NFTA_RULE_{name}" for name in ("TABLE", "CHAIN", "COMPAT", "USERDATA", "COMPAT_FLAGS")},
        **{f"SET_{name}": f"NFTA_SET_{name}" for name in ("TABLE", "NAME", "FLAGS", "ID")},
        **{f"LIST_{name}": f"NFTA_SET_ELEM_LIST_{name}" for name in ("TABLE", "SET", "ELEMENTS", "SET_ID")},
        **{f"LOOKUP_{name}": f"NFTA_LOOKUP_{name}" for name in ("SET", "SET_ID")},
        **{name: f"NFT_SET_{name}" for name in ("ANONYMOUS", "MAP")},
        "COMPAT_PROTOCOL": "NFTA_RULE_COMPAT_PROTO",
    },
    "capture.iptables.nft_words": {
        **{name: f"NFTA_RULE_{name}" for name in ("HANDLE", "EXPRESSIONS")},
        **{name: f"NFT_META_{name}" for name in ("MARK", "IIFNAME", "OIFNAME", "L4PROTO")},
        **{name: f"NFT_PAYLOAD_{name}_HEADER" for name in ("NETWORK", "TRANSPORT")},
        **{
            f"{kind}_{name}": f"NFTA_{kind}_{name}"
            for kind, names in {
                "EXPR": ("NAME", "DATA"),
                "META": ("DREG", "KEY", "SREG"),
                "PAYLOAD": ("DREG", "BASE", "OFFSET", "LEN"),
                "BITWISE": ("MASK", "XOR"),
                "CMP": ("OP", "DATA"),
                "IMMEDIATE": ("DATA",),
                "DATA": ("VALUE", "VERDICT"),
                "VERDICT": ("CODE", "CHAIN"),
                "COUNTER": ("BYTES", "PACKETS"),
            }.items()
            for name in names
        },
        "RANGE_OP": "NFTA_RANGE_OP",
        "RANGE_FROM": "NFTA_RANGE_FROM_DATA",
        "RANGE_TO": "NFTA_RANGE_TO_DATA",
        "EQUAL": "NFT_CMP_EQ",
        "NOT_EQUAL": "NFT_CMP_NEQ",
        "AT_MOST": "NFT_CMP_LTE",
        "AT_LEAST": "NFT_CMP_GTE",
        "XT_NAME": "NFTA_MATCH_NAME",
        "XT_REVISION": "NFTA_MATCH_REV",
        "XT_INFO": "NFTA_MATCH_INFO",
        "NAT_TYPE": "NFTA_NAT_TYPE",
        "DNAT": "NFT_NAT_DNAT",
        "PORTS_GIVEN": "NF_NAT_RANGE_PROTO_SPECIFIED",
        "JUMP": "NFT_JUMP",
        "GOTO": "NFT_GOTO",
    },
    "rules.nftables.program": {
        **{f"META_{name}": f"NFT_META_{name}" for name in ("PROTOCOL", "MARK", "IIF", "OIF", "IIFNAME", "OIFNAME")},
        **{f"META_{name}": f"NFT_META_{name}" for name in ("SKUID", "SKGID", "NFPROTO", "L4PROTO")},
        **{f"CT_{name}": f"NFT_CT_{name}" for name in ("STATE", "STATUS", "MARK", "ZONE")},
        **{name: f"NFT_CMP_{name}" for name in ("EQ", "NEQ", "LT", "LTE", "GT", "GTE")},
        "FIB_SADDR": "NFTA_FIB_F_SADDR",
        "FIB_DADDR": "NFTA_FIB_F_DADDR",
        "FIB_ADDRTYPE": "NFT_FIB_RESULT_ADDRTYPE",
        "STATUS_SNAT": "IPS_SRC_NAT",
        "STATUS_DNAT": "IPS_DST_NAT",
        "NETMAP": "NF_NAT_RANGE_NETMAP",
        "NET_HEADER": "NFT_PAYLOAD_NETWORK_HEADER",
        "TRANSPORT_HEADER": "NFT_PAYLOAD_TRANSPORT_HEADER",
    },
    "rules.nftables.sets": {
        "INTERVAL": "NFT_SET_INTERVAL",
        "IS_MAP": "NFT_SET_MAP",
        "INTERVAL_END": "NFT_SET_ELEM_INTERVAL_END",
        "CATCH_ALL": "NFT_SET_ELEM_CATCHALL",
    },
}
"""What has a name of our own for a number of the kernel's, and the kernel's name."""


def numbers() -> dict[str, int]:
    """The names that these headers give to numbers, as far as plain arithmetic tells them."""
    known: dict[str, int] = {}
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/", "", (INCLUDE / header).read_text(), flags=re.DOTALL)
        for name, value in re.findall(r"^#define[ \t]+(\w+)[ \t]+(\S[^\n]*)$", text, flags=re.MULTILINE):
            valued(known, name, value)
        for body in re.findall(r"\benum\b[^{;]*\{(.*?)\}", text, flags=re.DOTALL):
            following = "0"
            for entry in re.sub(r"^#.*$", "", body, flags=re.MULTILINE).split(","):
                name, _, value = (part.strip() for part in entry.partition("="))
                if name:
                    valued(known, name, value or following)
                    following = f"{name} + 1"
    return known


def valued(known: dict[str, int], name: str, text: str) -> None:
    plain = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)[UL]+\b", r"\1", text)
    words = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"0x[0-9a-fA-F]+", "", plain)))
    if words <= known.keys() and re.fullmatch(r"[\w\s()|<>+~&-]+", plain):
        try:
            known[name] = eval(plain, {}, dict(known))  # noqa: S307 # arithmetic of headers that the system has
        except SyntaxError:
            return


def ours() -> Iterator[tuple[str, str, str, int]]:
    """Each of our numbers that has a name of the kernel's: module, name, the kernel's name, and what it is."""
    for module in MODULES:
        names = OTHERWISE.get(module, {})
        for name, value in vars(import_module(module)).items():
            if isinstance(value, int) and name.isupper():
                yield module, name, names.get(name, name), value


@pytest.mark.skipif(not (INCLUDE / "netfilter/nf_tables.h").exists(), reason="not installed: linux-libc-dev")
def test_our_numbers_are_the_kernels() -> None:
    """Of messages, attributes, flags, verdicts and keys; a message of a subsystem has its number before it."""
    known = numbers()
    subsystems = {"NFT_MSG_": known["NFNL_SUBSYS_NFTABLES"], "IPCTNL_MSG_": known["NFNL_SUBSYS_CTNETLINK"]}
    compared = set()
    for module, name, theirs, value in ours():
        subsystem = next((number for start, number in subsystems.items() if theirs.startswith(start)), 0)
        if theirs in known:
            compared.add((module, name))
            assert value in (known[theirs], subsystem << 8 | known[theirs]), (module, name)
    assert len(compared) > 150
    for module, names in OTHERWISE.items():
        assert {(module, name) for name in names} <= compared


@pytest.mark.skipif(not (INCLUDE / "netfilter/nf_tables.h").exists(), reason="not installed: linux-libc-dev")
def test_of_a_set_all_is_put_back_that_the_kernel_takes() -> None:
    """All of its attributes but its own number, its handle and padding, which it only tells (nf_tables_newset)."""
    known = numbers()
    only_told = {known[f"NFTA_SET_{name}"] for name in ("UNSPEC", "ID", "PAD", "HANDLE")}
    assert set(range(known["NFTA_SET_EXPRESSIONS"] + 1)) - only_told == native.SET_TAKEN
