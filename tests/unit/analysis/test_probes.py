"""The connections that prove a capture: the simulator judges what each of them promises."""

from __future__ import annotations

import pytest

from capture.intent.resolve import resolve
from capture.settings.declared import Settings
from rules.analysis.probes import Ids, paths
from rules.packets.packet import Host
from rules.plan.plan import plan, ruleset
from rules.simulator.expected import packet_of
from rules.simulator.simulate import simulate
from tests.property.test_simulate import LOCAL
from tests.unit.explain.test_lint import POD

DUAL = ("-u", "1337", "--dual-stack")
SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "plain": (DUAL, {}),
    "exclusions": (
        (*DUAL, "-o", "22,80-90", "-x", "10.0.0.0/8,fd00::/8", "--exclude-uids", "5-9"),
        {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "7"},
    ),
    "users' ports": ((*DUAL, "--exclude-outbound-ports-for-uids", "tcp:80:33"), {}),
    "some groups": (DUAL, {"ISTIO_OUTBOUND_OWNER_GROUPS": "7,8"}),
    "some destinations": ((*DUAL, "-i", "10.0.0.0/8,2001:db8::/32", "-q", "443"), {}),
    "DNS": ((*DUAL, "--redirect-dns", "--capture-all-dns"), {}),
    "two proxies": (("-u", "1337,1338", "-g", "7", "--ipv6", "on"), {}),
    "loopback": ((*DUAL, "-i", "127.0.0.1/32,10.0.0.0/8"), {}),
}
PORT = 40123
"""Of nobody."""


@pytest.mark.parametrize("said", SETTINGS.values(), ids=list(SETTINGS))
def test_a_path_fares_as_it_promises(said: tuple[tuple[str, ...], dict[str, str]]) -> None:
    """It lands where it says, for the reason that it names; and the sender is called what he is."""
    argv, environ = said
    intent = resolve(Settings.load(argv, environ), POD).intent
    host = Host(LOCAL, routing=plan(intent).routing)
    tried = list(paths(intent, PORT, Ids()))
    assert {path.family for path in tried} == set(intent.families)
    for path in tried:
        local = host.is_local(path.destination)
        packet = packet_of(path, host, "lo" if local else host.leaves_on(path.family, path.destination))
        trace = simulate((ruleset(intent, path.family),), packet, host)
        assert (trace.port if trace.became.is_captured else 0) == path.lands, path
        assert trace.decided is None or trace.decided.rule.why == path.rule.why, path
        numbers = [int(word.rstrip(",")) for word in path.sender.name.split() if word.rstrip(",").isdigit()]
        assert set(numbers) <= {path.sender.uid, path.sender.gid}, path.sender


def test_there_is_a_path_for_each_exclusion() -> None:
    """By an address, a port, a user and a group of it."""
    argv, environ = SETTINGS["exclusions"]
    intent = resolve(Settings.load(argv, environ), POD).intent
    excluded = {path.name: path for path in paths(intent, PORT, Ids()) if path.lands == 0}
    assert (excluded["an excluded user"].sender.uid, excluded["a group that is not captured"].sender.gid) == (5, 7)
    assert excluded["an excluded port"].port in (22, *range(80, 91))
    assert "an excluded destination" in excluded
