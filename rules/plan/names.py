"""What our objects in the kernel are called, and the constants that a proxy agrees on with its rules.

The names are those of istio-iptables, because other software (CNI repair controllers, dashboards, people) looks
for them. They are also how we know our own work again: every rule we put in a built-in chain is a jump to one
of these chains, so nothing of ours depends on remembering the settings that made it.
"""

from __future__ import annotations

from rules.addresses import IPv4Network, IPv6Network
from rules.netfilter.values import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rules.netfilter.values import Network

ISTIO_INBOUND = "ISTIO_INBOUND"
ISTIO_IN_REDIRECT = "ISTIO_IN_REDIRECT"
ISTIO_OUTPUT = "ISTIO_OUTPUT"
ISTIO_REDIRECT = "ISTIO_REDIRECT"
ISTIO_DROP = "ISTIO_DROP"
ISTIO_OUTPUT_DNS = "ISTIO_OUTPUT_DNS"
ISTIO_OUTPUT_GROUPS = "ISTIO_OUTPUT_GROUPS"
ISTIO_DIVERT = "ISTIO_DIVERT"
ISTIO_TPROXY = "ISTIO_TPROXY"

OURS: dict[str, frozenset[str]] = {
    "raw": frozenset({ISTIO_INBOUND, ISTIO_OUTPUT, ISTIO_OUTPUT_DNS}),
    "mangle": frozenset({ISTIO_INBOUND, ISTIO_OUTPUT, ISTIO_DIVERT, ISTIO_TPROXY, ISTIO_DROP}),
    "nat": frozenset(
        {
            ISTIO_INBOUND,
            ISTIO_IN_REDIRECT,
            ISTIO_OUTPUT,
            ISTIO_REDIRECT,
            ISTIO_OUTPUT_DNS,
            ISTIO_OUTPUT_GROUPS,
        }
    ),
    "filter": frozenset({ISTIO_OUTPUT}),
}
"""The chains that are ours, by table, including those that only other settings or istio-iptables itself would make. A
name that only begins so is somebody else's."""
NATIVE_TABLE = "istio-capture"
"""Our own table of nf_tables, of `ip` and of `ip6`, where iptables is not used: see `rules.native`."""
NOT_YET = "-not-yet-in-its-place"
"""What is behind the name of a chain of that table that takes another's place (`rules.native.writing`). With it a name
is longer than the 28 letters that iptables takes, so it has no chain of that name."""
NOTE = "ISTIO_FOUND"


def is_note(chain: str) -> bool:
    """Whether an early version of ours made this chain, to note in its name which built-in chains it had found empty.

    Each has a letter, S for POSTROUTING. ISTIO_FOUND alone stands for an empty table, NONE for nothing.
    """
    letters = chain.removeprefix(f"{NOTE}_")
    is_list = letters not in ("", chain) and len(set(letters) & set("PIFOS")) == len(letters)
    return is_list or chain in (NOTE, f"{NOTE}_NONE")


LOOPBACK_INTERFACE = "lo"

PASSTHROUGH: dict[Family, Network] = {
    Family.V4: IPv4Network("127.0.0.6/32"),
    Family.V6: IPv6Network("::6/128"),
}
"""The source address that Envoy's InboundPassthroughCluster binds for traffic it hands to the application."""

LOOPBACK: dict[Family, Network] = {
    Family.V4: IPv4Network("127.0.0.1/32"),
    Family.V6: IPv6Network("::1/128"),
}
"""What counts as loopback by default. 127.0.0.0/8 is wider: see `ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR`."""

PROXY_LOOP_MARK = 1338
"""The fwmark of what the proxy sends to its own pod in TPROXY mode, by which PREROUTING knows it on lo again."""

DNS_PORT = 53
DNS_CAPTURE_PORT = 15053
"""Where the proxy's own resolver listens, on loopback."""
ZONE_OF_PROXY = 1
"""The conntrack zone of DNS between the proxy and the real nameservers."""
ZONE_OF_APP = 2
"""The conntrack zone of DNS between applications and the proxy. Two books, because both may use one source port."""

RULE_PRIORITY = 32765
"""Of our ip rules: just before the table `main`, where the kernel puts the first rule that states no priority."""
PROTOCOL = 133
"""Our signature on ip rules, routes and addresses (FRA_PROTOCOL, rtm_protocol, IFA_PROTO): a number that
/etc/iproute2/rt_protos gives to nobody. What carries it is ours to remove."""

MOST_OWNER_GROUPS = 64
"""Owner groups that can be included, as in istio-iptables."""
MOST_OWNERS_IN_A_RULE = 40
"""Owner matches in one rule. iptables takes 255 words (xshared.h, MAX_ARGC), and `-m owner ! --gid-owner N` is five."""
