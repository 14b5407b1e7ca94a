"""The argument sets behind the reference's own goldens: each applied, repeated, disturbed and removed.

They are the scenarios that istio-iptables tests itself with, by the names it gives them: what they set is public
behaviour of its flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.conftest import every_backend

if TYPE_CHECKING:
    from tests.rig import Pod

LOOPBACK = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"
GROUPS, GROUPS_EXCLUDE = "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"


class Scenario(NamedTuple):
    """Arguments and environment, and a line that must be among the rules (IPv6 ones begin with `6 `)."""

    arguments: list[str]
    environ: dict[str, str]
    rule: str


def scenario(rule: str, *arguments: str, **environ: str) -> Scenario:
    return Scenario(list(arguments), environ, rule)


OUT = "-A ISTIO_OUTPUT"
IN = "-A ISTIO_INBOUND"
SCENARIOS = {
    "default": scenario(f"{OUT} -j ISTIO_REDIRECT", "-i", "*", "-b", "*"),
    "empty": scenario("-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001", "-i", "", "-b", ""),
    "ipv6-empty-inbound-ports": scenario("6 " + f"{OUT} -d ::1/128 -j RETURN", "-i", "*", "-b", "", "--dual-stack"),
    "ipv6-inbound-ports": scenario(
        "6 " + f"{IN} -p tcp -m tcp --dport 4000 -j ISTIO_IN_REDIRECT",
        *("-b", "4000,5000", "-i", "*", "-c", "not-istio-nic", "--dual-stack"),
    ),
    "ipv6-uid-gid": scenario(
        "6 " + f"{OUT} -m owner --gid-owner 2 -j RETURN",
        *("-u", "3,4", "-g", "1,2", "-i", "2001:db8::/32,10.0.0.0/8", "-x", "fd00::/8", "--dual-stack"),
    ),
    "ipv6-outbound-ports": scenario(
        "6 " + f"{OUT} -p tcp -m tcp --dport 32000 -j ISTIO_REDIRECT",
        *("-q", "32000,31000", "-i", "", "-b", "", "--dual-stack"),
    ),
    "ipv6-virt-interfaces": scenario(
        "6 " + f"{IN} -i eth1 -j ISTIO_REDIRECT", "-i", "*", "-b", "4000", "-k", "eth0,eth1", "--dual-stack"
    ),
    "ipv6-dns-uid-gid": scenario(
        "6 -A ISTIO_OUTPUT_DNS -d fd00:96::a/128 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        *("-u", "3,4", "-g", "1,2", "--redirect-dns", "-i", "*", "--dual-stack"),
    ),
    "ipv6-loopback-outbound": scenario(
        "6 " + f"{OUT} -d ::2/127 -j ISTIO_REDIRECT", "-i", "::2/127,2001:db8::/32", "-x", "2001:db8::1", "--dual-stack"
    ),
    "outbound-ports": scenario(
        f"{OUT} -p tcp -m tcp --dport 32000 -j ISTIO_REDIRECT", "-q", "32000,31000", "-b", "", "-i", ""
    ),
    "ip-range": scenario(f"{OUT} -d 9.9.0.0/16 -j ISTIO_REDIRECT", "-i", "1.1.0.0/16,9.9.0.0/16", "-x", "9.9.9.0/24"),
    "exclude-ports": scenario(f"{IN} -p tcp -m tcp --dport 4000 -j RETURN", "-b", "*", "-d", "4000,5000", "-i", "*"),
    "tproxy": scenario(f"{IN} -p tcp -j ISTIO_TPROXY", "-m", "TPROXY", "-b", "*", "-i", "*"),
    "tproxy-ports": scenario(
        f"{IN} -p tcp -m tcp --dport 5000 -j ISTIO_TPROXY", *("-m", "TPROXY", "-b", "4000,5000", "-i", "*", "-d", "22")
    ),
    "tproxy-ipv6": scenario(
        "6 " + f"{IN} -p tcp -j ISTIO_TPROXY", "-m", "TPROXY", "-b", "*", "-i", "*", "--dual-stack"
    ),
    "inbound-ports": scenario(f"{IN} -p tcp -m tcp --dport 5000 -j ISTIO_IN_REDIRECT", "-b", "4000,5000", "-i", ""),
    "inbound-interface": scenario(f"{IN} -i eth1 -j RETURN", "-b", "*", "-c", "eth1,eth2", "-i", "*"),
    "virt-interfaces": scenario(f"{IN} -d 9.9.0.0/16 -i eth1 -j ISTIO_REDIRECT", "-i", "9.9.0.0/16", "-k", "eth1,eth2"),
    "uid-gid": scenario(f"{OUT} -m owner --uid-owner 4 -j RETURN", "-u", "3,4", "-g", "1,2", "-b", "4000", "-i", "*"),
    "outbound-owner-groups": scenario(
        f"{OUT} -m owner ! --gid-owner 777 -m owner ! --gid-owner 202 -j RETURN", "-i", "*", **{GROUPS: "777,202"}
    ),
    "outbound-owner-groups-exclude": scenario(
        f"{OUT} -m owner --gid-owner 888 -j RETURN", "-i", "*", **{GROUPS_EXCLUDE: "888,tty"}
    ),
    "dns": scenario(
        "-A ISTIO_OUTPUT_DNS -d 10.96.0.10/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053", "--redirect-dns"
    ),
    "dns-uid-gid": scenario(
        "-A ISTIO_OUTPUT_DNS -p udp -m udp --sport 15053 -m owner --gid-owner 2 -j CT --zone 2",
        *("-u", "3,4", "-g", "1,2", "--redirect-dns", "--capture-all-dns", "-i", "*"),
    ),
    "loopback-outbound-range": scenario(
        f"{OUT} -d 127.1.2.3/32 -j ISTIO_REDIRECT", "-i", "127.1.2.3/32", "--drop-invalid"
    ),
    "basic-exclude-nic": scenario(
        f"{OUT} -o not-istio-nic -j RETURN", "-b", "4000,5000", "-c", "not-istio-nic", "-i", "*"
    ),
    "logging-and-drop-invalid": scenario(
        "-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP", "-b", "*", "-i", "*", "--drop-invalid"
    ),
    "loopback-cidr": scenario(f"{OUT} -d 127.0.0.0/8 -j RETURN", "-b", "*", "-i", "*", **{LOOPBACK: "127.0.0.0/8"}),
}


def plant_what_is_of_others(pod: Pod, backend: str) -> None:
    """Rules beside and like ours, a chain that is there and empty, ip rules, routes, and their own `::6`.

    On legacy in every table: the kernel cannot take a legacy table back, so none is to be made by our run.
    """
    for program, address in (("iptables", "192.0.2.98"), ("ip6tables", "2001:db8::98")):
        for table in ("raw", "mangle", "nat") if backend == "legacy" else ("raw", "nat"):
            pod.inside.output(f"{program}-{backend}", "-t", table, "-A", "OUTPUT", "-s", address, "-j", "RETURN")
            pod.inside.output(f"{program}-{backend}", "-t", table, "-N", "OTHERS")
        pod.inside.output(f"{program}-{backend}", "-t", "nat", "-A", "OTHERS", *SAME_TEXT)
    if backend == "nft":
        # An empty chain that iptables would make, in a table with rules; a table that iptables has nothing to do with.
        empty = "{ type nat hook prerouting priority dstnat; policy accept; }"
        pod.inside.output("nft", "add", "chain", "ip", "nat", "PREROUTING", empty)
        pod.inside.output("nft", "add", "table", "inet", "others")
    for family in ("-4", "-6"):
        pod.inside.ip(family, "rule", "add", "fwmark", "1337", "lookup", "134", "priority", "100")
        pod.inside.ip(family, "route", "add", "local", "default", "dev", "lo", "table", "134")
        pod.inside.ip(family, "rule", "add", "fwmark", "7", "lookup", "133", "priority", "32764")
    pod.inside.ip("-6", "addr", "add", "::6/128", "dev", "lo")


SAME_TEXT = ["-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001"]
"""A rule that reads like one of ours, in a chain that is not."""


def test_there_are_27_of_them() -> None:
    """As many as the reference has, so that none is lost by editing."""
    assert len(SCENARIOS) == 27


@every_backend
@pytest.mark.parametrize("wanted", SCENARIOS.values(), ids=list(SCENARIOS))
def test_a_scenario_of_the_reference(pod: Pod, backend: str, wanted: Scenario) -> None:
    """Applied; equal after a rerun; whole again after a stray rule in each chain; and removed without a trace.

    The listings of rules (of both backends and of nft), ip rules, routes and addresses are equal to the letter.
    """
    pod.inside.set_resolv_conf("nameserver 10.96.0.10\nnameserver fd00:96::a\n")
    plant_what_is_of_others(pod, "nft" if backend == "native" else backend)
    before = pod.state()
    arguments = [*wanted.arguments, f"--force-iptables-binary={backend}"]

    pod.applied(*arguments, env=wanted.environ)
    rules = [*pod.saved(backend), *(f"6 {line}" for line in pod.saved(backend, version=6))]
    assert wanted.rule in rules or backend == "native"
    applied = pod.state()

    assert "already in place" in pod.applied(*arguments, env=wanted.environ).stderr
    assert pod.state() == applied

    for chain in ("ISTIO_OUTPUT", "ISTIO_INBOUND", "ISTIO_REDIRECT"):
        if backend == "native":
            stray = ["ip", "istio-capture", f"nat-{chain}", "ip", "saddr", "192.0.2.99", "accept"]
            pod.inside.output("nft", "insert", "rule", *stray)
            continue
        pod.inside.output(f"iptables-{backend}", "-t", "nat", "-I", chain, "1", "-s", "192.0.2.99", "-j", "ACCEPT")
    pod.applied(*arguments, env=wanted.environ)
    assert pod.state() == applied

    done = pod.inside.run(*pod.command("clean"), env=pod.environ())
    assert done.returncode == 0, done.stderr
    assert pod.state() == before
