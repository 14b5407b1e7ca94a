"""What is known at sight: that all is in place is told by the bytes of nf_tables alone, and is told of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.host.facts import read_facts
from capture.intent.resolve import resolve
from capture.netlink.routing import add_passthrough_address
from capture.settings.declared import Settings
from capture.sight import in_place, own
from rules.plan.plan import plan
from tests.rig import Pod, entered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.plan.plan import Plan

pytestmark = pytest.mark.netns

PLAIN = ("-u", "1337", "--ipv6", "off")
LENGTHS = (16, 17, 24, 25, 31, 32)
NETWORKS = ",".join(f"10.{at}.0.0/{LENGTHS[at % 6]}" for at in range(90))
NETWORKS_OF_IPV6 = ",".join(f"2001:db8:{at:x}::/{48 + at}" for at in range(70))
MODES = {
    "plain": PLAIN,
    "both families": ("-u", "1337", "--ipv6", "on"),
    "DNS": ("-u", "1337", "--redirect-dns", "--capture-all-dns", "--ipv6", "on"),
    "TPROXY": ("-u", "1337", "-m", "TPROXY", "--ipv6", "on", "--drop-invalid", "--redirect-dns", "--capture-all-dns"),
    "ports": ("-o", "22,8000-8080,9,11", "-q", "5,7,100-200", "-b", "80,443", "--exclude-uids", "5-9", "--ipv6", "on"),
    "a list": (*PLAIN, "-x", NETWORKS),
    "a list of both": ("-x", f"{NETWORKS},{NETWORKS_OF_IPV6}", "--ipv6", "on"),
}


def planned(pod: Pod, arguments: Sequence[str]) -> Plan:
    """What these arguments mean in this pod."""
    settings = Settings.load(list(arguments), {})
    return plan(resolve(settings, read_facts({}, f"/etc/netns/{pod.inside.name}/resolv.conf")).intent)


def is_known(pod: Pod, arguments: Sequence[str]) -> bool:
    with entered(pod.inside):
        return in_place.is_in_place(planned(pod, arguments))


def is_known_as_own(pod: Pod, arguments: Sequence[str]) -> bool:
    with entered(pod.inside):
        return own.is_in_place(planned(pod, arguments))


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
def test_what_a_run_left_in_our_own_tables_is_known_at_sight(pod: Pod, mode: tuple[str, ...]) -> None:
    """The same with sets, whose elements are compared as well."""
    assert not is_known_as_own(pod, mode)
    done = pod.applied(*mode, "--native-nftables")
    assert "nf_tables holds the IPv4 rules as planned" in done.stderr
    assert "says:" not in done.stderr
    pod.open_listeners()
    pod.dial("9.9.9.9", 80)
    assert is_known_as_own(pod, mode)
    for other in (["-p", "15009"], ["-x", "203.0.113.0/24"], ["-o", "1,3"]):
        assert not is_known_as_own(pod, (*mode, *other))
    again = pod.applied(*mode, "--native-nftables")
    assert "The capture is already in place: nothing was changed" in again.stderr
    assert "says:" not in again.stderr
    assert not is_known(pod, mode)


WITH_SETS = (*PLAIN, "-x", "10.0.0.0/16,192.0.2.7", "-b", "80,443")
OF_OUR_OWN = "ip istio-capture"
DRIFTS_OF_OUR_OWN = {
    "a rule less": f"nft flush chain {OF_OUR_OWN} nat-ISTIO_REDIRECT",
    "a rule more": f"nft add rule {OF_OUR_OWN} nat-ISTIO_REDIRECT return",
    "a rule before": f"nft insert rule {OF_OUR_OWN} nat-ISTIO_INBOUND return",
    "another port": f"nft replace rule {OF_OUR_OWN} nat-ISTIO_REDIRECT handle {{nat-ISTIO_REDIRECT}} "
    "meta l4proto tcp counter redirect to :15009 comment {comment}",
    "without a counter": f"nft replace rule {OF_OUR_OWN} nat-ISTIO_REDIRECT handle {{nat-ISTIO_REDIRECT}} "
    "meta l4proto tcp redirect to :15001 comment {comment}",
    "another comment": f"nft replace rule {OF_OUR_OWN} nat-ISTIO_REDIRECT handle {{nat-ISTIO_REDIRECT}} "
    'meta l4proto tcp counter redirect to :15001 comment "x"',
    "other ports": f"nft replace rule {OF_OUR_OWN} nat-ISTIO_INBOUND handle {{nat-ISTIO_INBOUND}} "
    "meta l4proto tcp th dport {{ 80, 444 }} counter jump nat-ISTIO_IN_REDIRECT comment {comment}",
    "the contrary": f"nft replace rule {OF_OUR_OWN} nat-ISTIO_INBOUND handle {{nat-ISTIO_INBOUND}} "
    "meta l4proto tcp th dport != {{ 80, 443 }} counter jump nat-ISTIO_IN_REDIRECT comment {comment}",
    "a jump less": f"nft flush chain {OF_OUR_OWN} nat-OUTPUT",
    "a chain more": f"nft add chain {OF_OUR_OWN} others",
    "one of our names": f"nft add chain {OF_OUR_OWN} nat-ISTIO_OUTPUT_DNS",
    "a base chain that drops": f"nft chain {OF_OUR_OWN} nat-OUTPUT {{{{ policy drop ; }}}}",
    "a table that sleeps": f"nft add table {OF_OUR_OWN} {{{{ flags dormant ; }}}}",
    "a table of others": "nft add table inet others",
    "the other family": "nft add table ip6 istio-capture",
    "a table of iptables": "iptables-nft -t nat -A OUTPUT -j ACCEPT",
    "a legacy rule": "iptables-legacy -t nat -A OUTPUT -j ACCEPT",
    "an ip rule": "ip rule add fwmark 5 lookup 100",
}


@pytest.mark.parametrize("drift", DRIFTS_OF_OUR_OWN.values(), ids=list(DRIFTS_OF_OUR_OWN))
def test_whatever_is_another_thing_in_our_own_tables_is_not_taken_for_it(pod: Pod, drift: str) -> None:
    """One change of the kind is enough; the very rule written anew is no change."""
    pod.applied(*WITH_SETS, "--native-nftables")
    assert is_known_as_own(pod, WITH_SETS)
    handles, comments = {}, {}
    for chain in ("nat-ISTIO_REDIRECT", "nat-ISTIO_INBOUND"):
        last = pod.inside.output("nft", "-a", "list", "chain", *OF_OUR_OWN.split(), chain).rsplit("\n\t}", 1)[0]
        rule, handles[chain] = last.rsplit("\n", 1)[1].strip().split(" # handle ")
        comments[chain] = f'"{rule.rsplit(chr(34), 2)[1]}"'
    chain = "nat-ISTIO_INBOUND" if "{nat-ISTIO_INBOUND}" in drift else "nat-ISTIO_REDIRECT"
    program, rest = drift.format(comment=comments[chain], **handles).split(" ", 1)
    pod.inside.output(program, *([rest] if program == "nft" else rest.split()))
    assert not is_known_as_own(pod, WITH_SETS)


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
def test_what_a_run_left_is_known_at_sight(pod: Pod, mode: tuple[str, ...]) -> None:
    """Before it nothing is, behind it what was asked for, also once its rules have counted; no other port is."""
    assert not is_known(pod, mode)
    done = pod.applied(*mode, "--force-iptables-binary=nft")
    assert "nf_tables holds the IPv4 rules as planned" in done.stderr
    assert "-save says:" not in done.stderr
    pod.open_listeners()
    pod.dial("9.9.9.9", 80)
    assert is_known(pod, mode)
    assert not is_known(pod, (*mode, "-p", "15009"))
    again = pod.applied(*mode)
    assert "The capture is already in place: nothing was changed" in again.stderr
    assert "-save says:" not in again.stderr


DRIFTS = {
    "a rule less": "iptables-nft -t nat -D ISTIO_OUTPUT 1",
    "the last one less": "iptables-nft -t nat -D ISTIO_OUTPUT 9",
    "a rule more": "iptables-nft -t nat -A ISTIO_REDIRECT -j RETURN",
    "a rule before": "iptables-nft -t nat -I ISTIO_INBOUND 1 -j RETURN",
    "one in its place": "iptables-nft -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15002",
    "of another user": "iptables-nft -t nat -R ISTIO_OUTPUT 4 -m owner --uid-owner 1338 -j RETURN",
    "of a group": "iptables-nft -t nat -R ISTIO_OUTPUT 4 -m owner --gid-owner 1337 -j RETURN",
    "the contrary": "iptables-nft -t nat -R ISTIO_OUTPUT 4 -m owner ! --uid-owner 1337 -j RETURN",
    "another interface": "iptables-nft -t nat -R ISTIO_OUTPUT 3 -o l+ -m owner ! --uid-owner 1337 -j RETURN",
    "an accept": "iptables-nft -t nat -R ISTIO_OUTPUT 4 -m owner --uid-owner 1337 -j ACCEPT",
    "one with a comment": "iptables-nft -t nat -R ISTIO_REDIRECT 1 -p tcp -m comment --comment x -j REDIRECT "
    "--to-ports 15001",
    "one of nft": "nft replace rule ip nat ISTIO_REDIRECT handle {handle} meta l4proto tcp counter redirect to :15001",
    "without a counter": "nft replace rule ip nat ISTIO_REDIRECT handle {handle} meta l4proto tcp redirect to :15001",
    "a jump less": "iptables-nft -t nat -F OUTPUT",
    "a rule of others": "iptables-nft -t nat -A POSTROUTING -j ACCEPT",
    "a chain of others": "iptables-nft -t nat -N OTHERS",
    "a table of others": "iptables-nft -t filter -A INPUT -j ACCEPT",
    "a native table": "nft add table inet others",
    "a base chain": "nft add chain ip nat OTHERS {{ type nat hook output priority -50 ; }}",
    "a table that sleeps": "nft add table ip nat {{ flags dormant ; }}",
    "the other family": "ip6tables-nft -t nat -A OUTPUT -j ACCEPT",
    "a legacy rule": "iptables-legacy -t nat -A OUTPUT -j ACCEPT",
    "an ip rule": "ip rule add fwmark 5 lookup 100",
    "a route of ours": "ip route add local default dev lo table 133 proto 133",
}


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=list(DRIFTS))
def test_whatever_is_another_thing_is_not_taken_for_it(pod: Pod, drift: str) -> None:
    """One change of the kind is enough, by whatever program."""
    pod.applied(*PLAIN, "--force-iptables-binary=nft")
    assert is_known(pod, PLAIN)
    listing = pod.inside.output("nft", "-a", "list", "chain", "ip", "nat", "ISTIO_REDIRECT")
    pod.inside.output(*drift.format(handle=listing.rsplit("handle ", 1)[1].split()[0]).split())
    assert not is_known(pod, PLAIN)


def test_an_address_that_is_to_go_is_seen(pod: Pod) -> None:
    """`::6` is of a capture of IPv6: whoever captures it no longer takes it away."""
    pod.applied(*PLAIN)
    with entered(pod.inside):
        add_passthrough_address()
    assert not is_known(pod, PLAIN)
    assert "::6" in pod.applied(*PLAIN).stderr


def test_what_is_in_place_on_a_node_is_refused_there(pod: Pod) -> None:
    """By an interface as only nodes have it; what its rules are is not the question."""
    pod.applied(*PLAIN)
    pod.inside.ip("link", "add", "cali0123456789a", "type", "veth", "peer", "name", "other")
    assert "Kubernetes node" in pod.capture(*PLAIN).stderr
    assert "already in place" in pod.applied(*PLAIN, "--allow-host").stderr


def test_legacy_is_read_as_ever(pod: Pod) -> None:
    """Nothing is known at sight of it."""
    pod.applied(*PLAIN, "--force-iptables-binary=legacy")
    assert not is_known(pod, PLAIN)
    assert "iptables-legacy-save says:" in pod.applied(*PLAIN).stderr


@pytest.mark.parametrize(
    "asked", ["--force-iptables-binary=legacy", "--force-iptables-binary=native", "--native-nftables"]
)
def test_another_backend_is_moved_to(pod: Pod, asked: str) -> None:
    """What is in place with nft is not where legacy, or a table of our own, was asked for."""
    pod.applied(*PLAIN, "--force-iptables-binary=nft")
    assert "already in place" not in pod.applied(*PLAIN, asked).stderr
    assert not any("ISTIO" in line for line in pod.saved())
