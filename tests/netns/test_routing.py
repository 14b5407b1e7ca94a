"""TPROXY: the client's address arrives, and the routing that makes it possible comes and goes with the rules."""

from __future__ import annotations

import pytest

from tests.conftest import every_backend
from tests.rig import Call, Pod
from tests.rig.pod import GATEWAY

TPROXY = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "TPROXY", "-b", "*", "--dual-stack"]
REDIRECT = [*TPROXY[:7], "REDIRECT", *TPROXY[8:]]


def routing(pod: Pod) -> dict[str, list[str]]:
    """The ip rules with a mark and the routes outside of the kernel's own tables, by family."""
    found = {}
    for version in ("-4", "-6"):
        rules = pod.inside.output("ip", version, "rule").splitlines()
        routes = pod.inside.output("ip", version, "route", "show", "table", "all").splitlines()
        found[version] = [line for line in rules if "fwmark" in line] + [line for line in routes if "table 133" in line]
    return found


@every_backend
def test_the_clients_address_arrives_unchanged(pod: Pod, backend: str) -> None:
    """A transparent listener sees the client itself, and as its own name where the client was going."""
    pod.applied(*TPROXY, f"--force-iptables-binary={backend}")
    pod.open_listeners(transparent=True)
    for version in (4, 6):
        landing = pod.dial_in(8080, version=version)
        assert str(landing) == "pod:15006"
        assert landing.peer == GATEWAY[version]
        assert landing.original == ({4: "10.244.0.5", 6: "fd00:244::5"}[version], 8080)


def test_ten_runs_leave_one_rule_and_one_route(pod: Pod) -> None:
    """For each family, however often it is run."""
    for _ in range(10):
        result = pod.applied(*TPROXY)
    assert "already in place" in result.stderr
    for lines in routing(pod).values():
        assert len(lines) == 2, lines


@every_backend
def test_changing_the_mode_leaves_nothing_of_the_other(pod: Pod, backend: str) -> None:
    """TPROXY → REDIRECT → TPROXY: each time what a first run would have left, routing included."""
    forced = f"--force-iptables-binary={backend}"
    pod.open_listeners(transparent=True)
    seen = []
    for mode in (TPROXY, REDIRECT, TPROXY):
        pod.applied(*mode, forced)
        assert str(pod.dial_in(8080)) == "pod:15006"
        seen.append((ours(pod.saved(backend)), ours(pod.saved(backend, version=6)), routing(pod)))
    assert seen[0] == seen[2]
    assert seen[1][2] == {"-4": [], "-6": []}
    with Pod() as fresh:
        fresh.applied(*REDIRECT, forced)
        assert seen[1][:2] == (ours(fresh.saved(backend)), ours(fresh.saved(backend, version=6)))


def ours(lines: list[str]) -> set[str]:
    return {line for line in lines if "ISTIO" in line}


def test_another_mark_and_table_replace_the_old_ones(pod: Pod) -> None:
    """Marks and tables are taken in any base, and what was there for the former ones goes."""
    pod.applied(*TPROXY)
    pod.applied(*TPROXY, "-t", "0x20", "-r", "0o200")
    for version in ("-4", "-6"):
        assert "fwmark 0x20 lookup 128" in pod.inside.output("ip", version, "rule")
        assert "fwmark 0x539" not in pod.inside.output("ip", version, "rule")
        routes = pod.inside.output("ip", version, "route", "show", "table", "all")
        assert "local default dev lo table 128" in routes
        assert "table 133" not in routes


def test_removal_takes_our_routing_and_no_other(pod: Pod) -> None:
    """Rules and routes of others stay, even those that read like ours."""
    pod.inside.ip("rule", "add", "fwmark", "0x539", "lookup", "200")
    pod.inside.ip("route", "add", "local", "default", "dev", "lo", "table", "200")
    before = pod.state()
    pod.applied(*TPROXY)
    pod.applied("--cleanup-only")
    assert without_tables(pod.state()) == without_tables(before)


def without_tables(state: str) -> list[str]:
    """What is there besides tables of iptables that are empty."""
    return [
        line
        for line in state.splitlines()
        if line.strip() and not line.startswith(("table", "\t", "}", "*", ":", "COMMIT"))
    ]


def test_an_equal_rule_of_others_is_used_and_left(pod: Pod) -> None:
    """What istio-iptables or an operator put there is as good as ours, is not doubled, and is not ours to remove."""
    pod.inside.ip("rule", "add", "fwmark", "0x539", "lookup", "133")
    pod.inside.ip("route", "add", "local", "default", "dev", "lo", "table", "133")
    pod.applied(*TPROXY)
    assert len(routing(pod)["-4"]) == 2
    pod.applied("--cleanup-only")
    assert len(routing(pod)["-4"]) == 2
    assert routing(pod)["-6"] == []


@pytest.mark.parametrize("more", [["from", "10.9.0.0/16"], ["iif", "lo"], ["fwmark", "0x539/0xfff"], ["not"]])
def test_a_rule_that_asks_for_more_is_not_taken_for_ours(pod: Pod, more: list[str]) -> None:
    """It would not do for every packet with the mark: ours is added beside it, and it stays."""
    mark = [] if "fwmark" in more else ["fwmark", "0x539"]
    pod.inside.ip("rule", "add", *more, *mark, "lookup", "133")
    pod.applied(*TPROXY)
    assert "from all fwmark 0x539 lookup 133 proto 133" in pod.inside.output("ip", "rule")
    assert pod.inside.output("ip", "rule").count("lookup 133") == 2
    pod.applied("--cleanup-only")
    assert pod.inside.output("ip", "rule").count("lookup 133") == 1


def test_a_refused_rule_takes_the_routing_back(pod: Pod) -> None:
    """When the rules are refused, the ip rules, routes and ::6 that preceded them are gone again."""
    pod.inside.output("nft", "add", "table", "ip", "mangle")
    pod.inside.output("nft", "add", "chain", "ip", "mangle", "OUTPUT", "{ type nat hook output priority 0; }")
    before = pod.state()
    result = pod.capture(*TPROXY)
    assert result.status == 1
    assert "the kernel refused the IPv4 rules" in result.stderr
    assert pod.state() == before


def test_answers_to_a_marked_connection_come_back(pod: Pod) -> None:
    """Whoever calls the application with the mark and the client's address as its own gets the answers.

    They are addressed to the client, which is outside; the connection's mark turns them around.
    """
    call = Call(pod.inside, "10.244.0.5", 8080, source="192.0.2.77", mark=1337)
    pod.open_listeners(transparent=True)
    assert str(pod.land([call])[0]) == "timeout"
    pod.applied(*TPROXY)
    landing = pod.land([call])[0]
    assert (str(landing), landing.peer) == ("pod:8080", "192.0.2.77")


@pytest.mark.parametrize("mark", ["1338", "0x53a"])
def test_the_mark_of_calls_to_ourselves_is_taken(pod: Pod, mark: str) -> None:
    """-t cannot be the second mark that the mode needs: refused, and nothing is touched."""
    before = pod.state()
    result = pod.capture(*TPROXY, "-t", mark)
    assert result.status == 2
    assert f'flag -t "{mark}"' in result.stderr
    assert pod.state() == before


TAKEN = {
    "a route of another type": (["route", "add", "blackhole", "default", "table", "133"], "-r a table that nobody"),
    "a route elsewhere": (["route", "add", "default", "via", "10.244.0.9", "table", "133"], "-r a table that nobody"),
}


@pytest.mark.parametrize(("planted", "hint"), TAKEN.values(), ids=list(TAKEN))
def test_a_route_of_others_in_our_place_is_not_taken_for_ours(pod: Pod, planted: list[str], hint: str) -> None:
    """The kernel knows a route by its destination, table and priority; what it says beyond that is somebody else's.

    Packets with our mark would follow it, so inbound would be dead: refused with words, and all is put back.
    """
    pod.inside.ip(*planted)
    before = pod.meaning()
    result = pod.capture(*TPROXY)
    assert result.status == 1
    assert "table 133 has a default route of somebody else's" in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert pod.meaning() == before


def test_a_rule_of_others_in_our_place_does_not_stand_in_for_ours(pod: Pod) -> None:
    """A rule that says something else with our priority and mark: either ours is there beside it, or it is refused."""
    pod.inside.ip("rule", "add", "priority", "32765", "fwmark", "0x539", "lookup", "200")
    before = pod.meaning()
    pod.applied(*TPROXY)
    assert "fwmark 0x539 lookup 133 proto 133" in pod.inside.output("ip", "rule")
    pod.applied("--cleanup-only")
    assert pod.meaning() == before
