"""The settings of istio-iptables' own golden files, which its iptables and its native backend have in common.

The names are those of the files (tools/istio-nftables/pkg/capture/testdata). Groups that they give by name have numbers
here, as no machine needs to have them. Where theirs leave a setting out, it is empty: nothing is captured by default.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """A command line, and the pod that it is run in."""

    args: tuple[str, ...]
    env: dict[str, str] = {}  # noqa: RUF012 # nothing changes it
    ipv6: bool = False
    resolv_conf: str = "nameserver 10.96.0.10\n"
    uid: int = 1337

    @property
    def arguments(self) -> tuple[str, ...]:
        said = dict.fromkeys(("-i", "-b"), "")
        said |= {"-u": "1337", "-p": "15001", "-z": "15006"} | dict(zip(self.args[::2], self.args[1::2], strict=True))
        words = [word for flag, value in said.items() if flag.startswith("-") for word in flag_words(flag, value)]
        return (*words, "--ipv6", "on" if self.ipv6 else "off")

    @property
    def is_transparent(self) -> bool:
        return "TPROXY" in self.args


def flag_words(flag: str, value: str) -> tuple[str, ...]:
    return (f"{flag}={value}",) if flag.startswith("--") else (flag, value)


DNS = ("--redirect-dns", "true")
OWNERS = ("-u", "3,4", "-g", "1,2")
LOCAL_DNS = "nameserver 127.0.0.53\n"
NO_DNS = ""
GROUPS, NOT_GROUPS = "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"
SOME, OTHERS = {GROUPS: "201,202"}, {NOT_GROUPS: "888,21"}
MACHINES = ("-b", "4000,5000", "-k", "eth0,eth1")
ONE_NETWORK = ("-x", "2001:db8::/32", "-i", "2001:db8::/32")
TRANSPARENT = ("-m", "TPROXY")

CASES: dict[str, Case] = {
    "basic-exclude-nic": Case(("-c", "not-istio-nic")),
    "dns-uid-gid": Case((*DNS, *OWNERS), {}, True, LOCAL_DNS + "nameserver ::127.0.0.53\n", 3),
    "drop-invalid": Case(("--drop-invalid", "true")),
    "empty": Case(()),
    "host-ipv4-loopback-cidr": Case((), {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.1/8"}),
    "inbound-ports-empty-tproxy": Case(TRANSPARENT),
    "inbound-ports-include": Case(("-b", "32000,31000")),
    "inbound-ports-tproxy": Case(("-b", "32000,31000", *TRANSPARENT)),
    "inbound-ports-wildcard": Case(("-b", "*")),
    "inbound-ports-wildcard-tproxy": Case(("-b", "*", *TRANSPARENT)),
    "ip-range": Case(("-x", "1.1.0.0/16", "-i", "9.9.0.0/16", *DNS, *OWNERS), {}, False, LOCAL_DNS, 3),
    "ipnets": Case(("-i", "10.0.0.0/8")),
    "ipnets-with-kube-virt-interfaces": Case(("-i", "10.0.0.0/8", "-k", "eth1,eth2")),
    "ipv6-dns-outbound-owner-groups": Case(DNS, SOME, True, NO_DNS),
    "ipv6-dns-outbound-owner-groups-exclude": Case(DNS, OTHERS, True, NO_DNS),
    "ipv6-dns-uid-gid": Case((*DNS, *OWNERS), {}, True, NO_DNS, 3),
    "ipv6-empty-inbound-ports": Case((), {}, True),
    "ipv6-inbound-ports": Case(("-b", "4000,5000"), {}, True),
    "ipv6-ipnets": Case((*MACHINES, "-d", "6000,7000,", *ONE_NETWORK), {}, True),
    "ipv6-outbound-ports": Case(("-q", "32000,31000"), {}, True),
    "ipv6-uid-gid": Case((*MACHINES, "-d", "6000,7000", *ONE_NETWORK, *OWNERS), {}, True, NO_DNS, 3),
    "ipv6-virt-interfaces": Case(MACHINES, {}, True),
    "kube-virt-interfaces": Case(("-i", "*", "-k", "eth1,eth2")),
    "loopback-outbound-iprange": Case(("-i", "127.1.2.3/32", *DNS, *OWNERS), {}, False, LOCAL_DNS, 3),
    "outbound-owner-groups": Case((), SOME),
    "outbound-owner-groups-exclude": Case((), OTHERS),
    "outbound-ports-include": Case(("-q", "32000,31000")),
    "tproxy": Case(
        (*TRANSPARENT, "-b", "*", "-x", "1.1.0.0/16", "-i", "9.9.0.0/16", *DNS, "-c", "not-istio-nic"),
        {},
        True,
        LOCAL_DNS,
    ),
}
