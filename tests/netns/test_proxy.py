"""The proxy as it is: who listens where the rules send things, as status, check, a run and validation tell it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import APP, PROXY, Pod, standin
from tests.rig.namespace import entered
from tests.rig.pod import ADDRESSES, readable_source
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT, IN = 15001, 15006
EVERYWHERE = [("0.0.0.0", OUT), ("0.0.0.0", IN)]
SETTINGS = ["-u", str(PROXY), "--ipv6", "off"]


@contextlib.contextmanager
def process(pod: Pod, *, uid: int = PROXY, gid: int | None = None, **said: Any) -> Iterator[subprocess.Popen[str]]:
    """A stand-in for a proxy in the pod, which listens already."""
    ids = [f"--reuid={uid}", f"--regid={uid if gid is None else gid}", "--clear-groups"]
    script = f"{readable_source()}/tests/rig/{standin.__name__.rpartition('.')[2]}.py"
    command = ["ip", "netns", "exec", pod.inside.name, "setpriv", *ids, sys.executable, script, json.dumps(said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def problems(pod: Pod, *settings: str) -> dict[str, list[str]]:
    """What status says is wrong, by what is sent there; check says the same."""
    status = json.loads(pod.capture("status", "--output", "json").stdout)
    told = {place["what"]: place["problems"] for place in status["proxy"]}
    facts = json.loads(pod.capture("check", *settings, "--no-rehearsal", "--output", "json").stdout)["facts"]
    checked = {
        fact["name"].partition(" →")[0]: fact["remedy"].split("; ") if fact["verdict"] == "warn" else []
        for fact in facts
        if fact["area"] == "proxy" and "→" in fact["name"]
    }
    assert {what: "; ".join(found) for what, found in told.items()} == {
        what: "; ".join(found) for what, found in checked.items()
    }
    return told


RIGHT: dict[str, dict[str, Any]] = {
    "on every address": {"listen": EVERYWHERE},
    "outbound on loopback": {"listen": [("127.0.0.1", OUT), ("0.0.0.0", IN)]},
    "IPv6 sockets that hear both": {"listen": [("::+", OUT), ("::+", IN)]},
    "inbound on both of its addresses": {
        "listen": [("127.0.0.1", OUT), ("127.0.0.1", IN), (ADDRESSES[4], IN)],
    },
}


@pytest.mark.parametrize("said", RIGHT.values(), ids=list(RIGHT))
def test_a_proxy_that_is_right_gives_no_warning(pod: Pod, said: dict[str, Any]) -> None:
    """It is named, nothing is wrong with it, and a run beside it warns of nothing."""
    with process(pod, **said) as proxy:
        assert "\twarn\t" not in pod.applied(*SETTINGS).stderr
        assert problems(pod, *SETTINGS) == {"outbound TCP": [], "inbound TCP": []}
        shown = pod.capture("status").stdout
    assert f"outbound TCP → {OUT}: pid {proxy.pid} (" in shown
    assert "warning:" not in shown


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "another uid": ({"listen": EVERYWHERE, "uid": 2000}, "outbound TCP", "what it sends is captured, and comes back"),
    "only on 127.0.0.1": (
        {"listen": [("127.0.0.1", OUT), ("127.0.0.1", IN)]},
        "inbound TCP",
        "only on 127.0.0.1: what comes from outside is sent to the pod's own address",
    ),
    "no inbound listener": ({"listen": EVERYWHERE[:1]}, "inbound TCP", "nobody listens"),
    "no outbound listener": ({"listen": EVERYWHERE[1:]}, "outbound TCP", "nobody listens"),
    "outbound on the pod's address": (
        {"listen": [(ADDRESSES[4], OUT), ("0.0.0.0", IN)]},
        "outbound TCP",
        "not on 127.0.0.1, to which it is sent: only 10.244.0.5",
    ),
    "IPv6 alone": ({"listen": [("::", OUT), ("0.0.0.0", IN)]}, "outbound TCP", "nobody hears IPv4"),
}


@pytest.mark.parametrize(("said", "what", "sentence"), WRONG.values(), ids=list(WRONG))
def test_a_proxy_that_is_set_up_wrongly_is_named(pod: Pod, said: dict[str, Any], what: str, sentence: str) -> None:
    """By status, by check and by a run, with what is wrong; what is right beside it is not."""
    pod.applied(*SETTINGS)
    with process(pod, **said):
        found = problems(pod, *SETTINGS)
        assert any(sentence in problem for problem in found[what]), found
        assert sentence in pod.applied(*SETTINGS).stderr
    assert sum(map(bool, found.values())) == 1 or "uid" in said


def test_connections_show_a_proxy_that_does_not_bind_127_0_0_6(pod: Pod) -> None:
    """What it hands on from another address is inbound again: a loop, and status and check say why."""
    pod.applied(*SETTINGS)
    pod.traffic.listen(pod.inside, [8080], where="app")
    for source, is_right in (("", False), ("127.0.0.6", True)):
        with process(pod, listen=EVERYWHERE, inbound=IN, pass_on=source) as proxy:
            with entered(pod.outside):
                client = socket.create_connection((ADDRESSES[4], 8080), 2)
            with client:
                assert proxy.stdout is not None
                assert proxy.stdout.readline() == f"connection at {IN}\n"
                if is_right:
                    until(lambda: "127.0.0.6" in pod.inside.output("ss", "-tn"))
                else:
                    assert proxy.stdout.readline() == f"connection at {IN}\n", "it did not come back"
                found = problems(pod, *SETTINGS)
        assert [("must bind 127.0.0.6" in problem) for problem in found["inbound TCP"]] == ([] if is_right else [True])


def test_a_captured_family_that_nobody_hears_is_named(pod: Pod) -> None:
    """IPv6 is captured, and the proxy listens in IPv4 alone."""
    settings = ["-u", str(PROXY), "--ipv6", "on"]
    pod.applied(*settings)
    with process(pod, listen=EVERYWHERE):
        assert all("nobody hears IPv6" in problem for found in problems(pod, *settings).values() for problem in found)
        assert all(problems(pod, *settings).values())
    with process(pod, listen=[*EVERYWHERE, ("::", OUT), ("::", IN)]):
        assert not any(problems(pod, *settings).values())


def test_tproxy_takes_a_transparent_listener(pod: Pod) -> None:
    """Any other is not handed anything."""
    pod.applied(*SETTINGS, "-m", "TPROXY")
    with process(pod, listen=EVERYWHERE):
        assert any("IP_TRANSPARENT" in problem for problem in problems(pod, *SETTINGS, "-m", "TPROXY")["inbound TCP"])
    pod.open_listeners(transparent=True)
    assert problems(pod, *SETTINGS, "-m", "TPROXY")["inbound TCP"] == []


def test_whoever_is_excluded_may_be_the_proxy(pod: Pod) -> None:
    """A loop is one only where what it sends is captured: by its gid, or by --exclude-uids, it is not."""
    for settings, gid in ((SETTINGS, PROXY), ([*SETTINGS, "--exclude-uids", "2000"], 2000)):
        pod.applied(*settings)
        with process(pod, listen=EVERYWHERE, uid=2000, gid=gid):
            assert not any(problems(pod, *settings).values())


@pytest.mark.parametrize(
    ("uid", "gid", "sentence"), [(PROXY, 7, "runs as uid 1337"), (2000, PROXY, "runs as gid 1337")]
)
def test_an_application_that_is_taken_for_the_proxy_is_named(pod: Pod, uid: int, gid: int, sentence: str) -> None:
    """By its user or its group, also beside the proxy; whom the proxy began is of the proxy."""
    with process(pod, listen=EVERYWHERE), process(pod, uid=uid, gid=gid) as app:
        warned = [line for line in pod.applied(*SETTINGS).stderr.splitlines() if "taken for the proxy" in line]
        facts = json.loads(pod.capture("check", *SETTINGS, "--output", "json").stdout)["facts"]
    assert len(warned) == 1
    assert f"pid {app.pid} (" in warned[0]
    assert sentence in warned[0]
    (fact,) = [fact for fact in facts if fact["name"] == "processes as the proxy"]
    assert fact["verdict"] == "warn"
    assert f"pid {app.pid} (" in fact["value"]


# --- resolvers --------------------------------------------------------------------------------------------


def test_a_resolver_that_captures_itself_is_named_with_its_cure(pod: Pod) -> None:
    """A query goes round between the proxy and a local resolver of another user, until it is excluded."""
    pod.inside.set_resolv_conf("nameserver 127.0.0.53\n")
    pod.inside.output("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=53")
    settings = [*SETTINGS, "--redirect-dns", "--capture-all-dns"]
    resolver: dict[str, Any] = {"uid": 101, "dns": [("127.0.0.53", 53)], "upstream": "9.9.9.9:53"}
    proxy: dict[str, Any] = {"listen": EVERYWHERE, "dns": [("127.0.0.1", 15053)], "upstream": "127.0.0.53:53"}
    pod.traffic.listen(pod.outside, [53], where="ext", proto="udp", hosts=["9.9.9.9"])
    for excluded, goes_round in (([], True), (["--exclude-uids", "101"], False)):
        with process(pod, **proxy), process(pod, **resolver) as local:
            said = pod.applied(*settings, *excluded).stderr
            checked = pod.capture("check", *settings, *excluded, "--no-rehearsal").stdout
            shown = pod.capture("status").stdout
            for told in (said, checked, shown):
                assert ("--exclude-uids 101" in told and f"pid {local.pid} (" in told) is goes_round, told
            pod.dial("8.8.8.8", 53, uid=APP, proto="udp")
            assert bool(pod.traffic.arrived) is not goes_round
            local.kill()
            assert local.stdout is not None
            assert (local.stdout.read().count("query") > 1) is goes_round
    # Without --capture-all-dns what it asks elsewhere is not captured, so nothing goes round.
    with process(pod, **resolver):
        assert "goes round" not in pod.applied(*SETTINGS, "--redirect-dns").stderr


def test_an_agent_on_the_port_of_the_proxys_resolver_is_named(pod: Pod) -> None:
    """Its answers would be in another zone than the queries; the address in the settings puts it right."""
    pod.inside.set_resolv_conf("nameserver 10.96.0.10\n")
    with process(pod, uid=101, dns=[("127.0.0.1", 15053)], upstream="10.96.0.10:53"):
        said = pod.applied(*SETTINGS, "--redirect-dns").stderr
        assert "UDP is never answered; give --dns-capture-address 127.0.0.1" in said
        assert problems(pod, *SETTINGS, "--redirect-dns")["DNS"]
        told = pod.applied(*SETTINGS, "--redirect-dns", "--dns-capture-address", "127.0.0.1").stderr
        assert "never answered" not in told
        assert "--exclude-uids 101" in told
