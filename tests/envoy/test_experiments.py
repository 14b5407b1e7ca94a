"""The experiments of docs/envoy: each holds behind our rules, and no more when they are removed."""

from __future__ import annotations

import contextlib
import inspect
import re
import shlex
import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.netns.test_watch import watching
from tests.rig.discovery import discovering
from tests.rig.envoy import CONFIGURATIONS, SECOND, V1, V2, Envoy, SecondPod, get, serving
from tests.rig.namespace import entered
from tests.rig.pod import ADDRESSES, APP, GATEWAY, PROXY, Pod
from tests.rig.traffic import open_socket
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Started = Callable[..., Envoy]

HOST = {"Host": "app.shadow.com"}
WAITED = 1.5
"""Seconds that an answer of a nameserver is waited for."""


def captured(pod: Pod, *arguments: str) -> None:
    pod.applied("-p", "15001", "-z", "15006", "-u", str(PROXY), *arguments)


def released(pod: Pod) -> None:
    pod.applied("--cleanup-only")


def test_inbound(pod: Pod, envoy: Started) -> None:
    """What comes for port 80 reaches the application through Envoy; without rules it listens on loopback alone."""
    captured(pod, "-i", "", "-b", "80")
    envoy("inbound")
    with serving(pod.inside, "127.0.0.1", 80, "app"):
        answer = get(pod.outside, ADDRESSES[4])
        assert (answer.status, answer.by, answer.headers["server"]) == (200, "app", "envoy")
        released(pod)
        assert get(pod.outside, ADDRESSES[4]).status == 0


def test_block_all(pod: Pod, envoy: Started) -> None:
    """A cluster without endpoints: the connection is cut without a byte. The proxy's own calls go out."""
    captured(pod, "-b", "")
    envoy("block-all")
    assert get(pod.inside, "9.9.9.9").status == 0
    assert get(pod.inside, "9.9.9.9", uid=PROXY).by == "world"
    released(pod)
    assert get(pod.inside, "9.9.9.9").by == "world"


def test_allow_all(pod: Pod, envoy: Started) -> None:
    """ORIGINAL_DST: it is answered as ever, and Envoy knows where it was going. Without rules Envoy saw nothing."""
    captured(pod, "-b", "")
    started = envoy("allow-all")
    assert get(pod.inside, "9.9.9.9").by == "world"
    assert "anywhere::9.9.9.9:80::" in started.admin("/clusters")
    assert started.counted("tcp.outbound.downstream_cx_total") == 1
    released(pod)
    assert get(pod.inside, "9.9.9.9").by == "world"
    assert started.counted("tcp.outbound.downstream_cx_total") == 1


def test_mesh_service(pod: Pod, envoy: Started) -> None:
    """A listener that binds no port takes the calls of one address, and adds a header; others go out as they are."""
    captured(pod, "-b", "")
    envoy("mesh-service")
    answer = get(pod.inside, V1)
    assert (answer.by, answer.headers["server"], answer.headers["myage"]) == ("v1", "envoy", "18")
    assert "myage" not in get(pod.inside, V2).headers
    released(pod)
    assert "myage" not in get(pod.inside, V1).headers


def test_header_match(pod: Pod, envoy: Started) -> None:
    """v2 by a header, else v1, 404 for another host; without rules nobody answers on port 8080."""
    captured(pod, "-b", "")
    envoy("header-match")
    assert get(pod.inside, "9.9.9.9", 8080, headers=HOST).by == "v1"
    assert get(pod.inside, "9.9.9.9", 8080, headers=HOST | {"version": "v2"}).by == "v2"
    assert get(pod.inside, "9.9.9.9", 8080).status == 404
    released(pod)
    assert get(pod.inside, "9.9.9.9", 8080, headers=HOST).status == 0


def test_tcp_rate_limit(pod: Pod, envoy: Started) -> None:
    """Two connections pass, three are closed; without rules all five reach the service, which is at the same port."""
    captured(pod, "-b", "")
    envoy("tcp-rate-limit")
    with serving(pod.outside, V1, 8080, "v1"):
        assert [get(pod.inside, V1, 8080).status for _ in range(5)] == [200, 200, 0, 0, 0]
        released(pod)
        assert [get(pod.inside, V1, 8080).status for _ in range(5)] == [200] * 5


def test_http_rate_limit(pod: Pod, envoy: Started) -> None:
    """Two requests below /aa pass, then 429 with a header; /bb has no limit. Without rules there is none anywhere."""
    captured(pod, "-b", "")
    envoy("http-rate-limit")
    with serving(pod.outside, V1, 8080, "v1"):
        answers = [get(pod.inside, V1, 8080, "/aa") for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 429, 429, 429]
        assert answers[-1].headers["x-local-rate-limit"] == "true"
        assert [get(pod.inside, V1, 8080, "/bb").status for _ in range(5)] == [200] * 5
        released(pod)
        assert [get(pod.inside, V1, 8080, "/aa").status for _ in range(5)] == [200] * 5


def test_weights(pod: Pod, envoy: Started) -> None:
    """Half of the requests go to each version: of 100, between 25 and 75. Without rules, all to the one called."""
    captured(pod, "-b", "")
    envoy("weights")
    with serving(pod.outside, V1, 8080, "v1"):
        assert 25 < [get(pod.inside, V1, 8080).by for _ in range(100)].count("v2") < 75
        released(pod)
        assert {get(pod.inside, V1, 8080).by for _ in range(10)} == {"v1"}


def test_auth(pod: Pod, envoy: Started) -> None:
    """A service is asked about each request. Without rules nobody is asked."""
    captured(pod, "-b", "")
    envoy("auth")
    with serving(pod.outside, V2, 8099, "auth"), serving(pod.outside, V1, 8080, "v1"):
        assert get(pod.inside, V1, 8080, headers={"x-token": "good"}).by == "v1"
        denied = get(pod.inside, V1, 8080, headers={"x-token": "bad"})
        assert (denied.status, denied.body) == (403, "denied")
        released(pod)
        assert get(pod.inside, V1, 8080, headers={"x-token": "bad"}).by == "v1"


def test_passthrough(pod: Pod, envoy: Started) -> None:
    """Inbound the application sees 127.0.0.6 while the log names the client and where it was going. Without rules the
    application sees the client itself."""
    captured(pod)
    started = envoy("passthrough")
    with serving(pod.inside, ADDRESSES[4], 9080, "app"):
        answer = get(pod.outside, ADDRESSES[4], 9080)
        assert (answer.by, answer.peer) == ("app", "127.0.0.6")
        assert get(pod.inside, "9.9.9.9").by == "world"
        assert get(pod.inside, ADDRESSES[4], 9080).by == "app"
        assert started.logged(f"inbound from {GATEWAY[4]}:", f"to {ADDRESSES[4]}:9080 as 127.0.0.6:")
        assert started.logged(f"outbound from {ADDRESSES[4]}:", "to 9.9.9.9:80")
        released(pod)
        assert get(pod.outside, ADDRESSES[4], 9080).peer == GATEWAY[4]


def test_dual_stack(pod: Pod, envoy: Started) -> None:
    """Both families, both directions; IPv6 comes from ::6."""
    captured(pod, "--dual-stack")
    started = envoy("dual-stack")
    with serving(pod.inside, "::", 9080, "app"), serving(pod.outside, "2001:db8::1", 80, "world6"):
        assert get(pod.outside, ADDRESSES[6], 9080).peer == "::6"
        assert get(pod.outside, ADDRESSES[4], 9080).peer == "::ffff:127.0.0.6"
        assert get(pod.inside, "2001:db8::1").by == "world6"
        assert started.logged("outbound6 from", "to [2001:db8::1]:80")
        released(pod)
        assert get(pod.outside, ADDRESSES[6], 9080).peer == GATEWAY[6]


def test_tproxy_keeps_the_clients_address(pod: Pod, envoy: Started) -> None:
    """The application sees the client, through an Envoy that runs as the proxy's uid with NET_ADMIN."""
    captured(pod, "-m", "TPROXY")
    started = envoy("tproxy", capable=True)
    with serving(pod.inside, ADDRESSES[4], 9080, "app"):
        assert get(pod.outside, ADDRESSES[4], 9080).peer == GATEWAY[4]
        assert started.counted("tcp.inbound.downstream_cx_total") == 1
        released(pod)
        assert get(pod.outside, ADDRESSES[4], 9080).peer == GATEWAY[4]
        assert started.counted("tcp.inbound.downstream_cx_total") == 1


def test_dns(pod: Pod, envoy: Started) -> None:
    """A name of the mesh is answered by the proxy, whichever nameserver is asked. Without rules nobody knows it."""
    captured(pod, "-b", "", "--redirect-dns", "--capture-all-dns")
    envoy("dns")
    assert socket.inet_aton(V1) in asked(pod, "reviews.mesh.local")
    released(pod)
    assert asked(pod, "reviews.mesh.local") == b""


def asked(pod: Pod, name: str) -> bytes:
    """What 9.9.9.9 answers to a question for an address, if anything (RFC 1035)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    with entered(pod.inside):
        opened = open_socket("9.9.9.9", "udp", APP, APP)
    with opened:
        opened.settimeout(WAITED)
        try:
            opened.connect(("9.9.9.9", 53))
            opened.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01")
            return opened.recv(512)
        except OSError:
            return b""


def test_endpoints_by_rest(pod: Pod, envoy: Started) -> None:
    """The proxy itself asks for endpoints, and its calls go out; changes are followed; with none, 503."""
    captured(pod, "-b", "")
    with serving(pod.outside, V2, 2020, "endpoints") as control:
        control.endpoints = [V1]
        envoy("eds")
        assert get(pod.inside, "9.9.9.9", 8080).by == "v1"
        for endpoints, wanted in (([V2], "v2"), ([], "")):
            control.endpoints = endpoints
            until(lambda wanted=wanted: get(pod.inside, "9.9.9.9", 8080).by == wanted)  # type: ignore[misc] # bound here
        assert get(pod.inside, "9.9.9.9", 8080).status == 503
        released(pod)
        assert get(pod.inside, "9.9.9.9", 8080).status == 0


def test_static_clusters(pod: Pod, envoy: Started) -> None:
    """Requests go to the endpoints of the configuration in turn, and statistics are fetched past the rules by -d.
    Without rules nobody answers on port 8080; with -d left out nobody but the proxy's inbound side does on 15090."""
    captured(pod, "-d", "15090")
    envoy("static")
    assert [get(pod.inside, "9.9.9.9", 8080).by for _ in range(4)].count("v1") == 2
    assert "envoy_cluster_upstream" in get(pod.outside, ADDRESSES[4], 15090, "/stats/prometheus").body
    captured(pod)
    assert get(pod.outside, ADDRESSES[4], 15090, "/stats/prometheus").status == 0
    released(pod)
    assert get(pod.inside, "9.9.9.9", 8080).status == 0


def test_endpoints_by_grpc(pod: Pod, envoy: Started) -> None:
    """The same by a stream that the proxy opens: each change is told once, taken, and followed."""
    captured(pod, "-b", "")
    with discovering(pod.outside, V2, 2020, V1) as control:
        envoy("eds-grpc")
        assert get(pod.inside, "9.9.9.9", 8080).by == "v1"
        for endpoints, wanted in (([V2], "v2"), ([], "")):
            version = control.tell(*endpoints)
            until(lambda version=version: version in control.taken)  # type: ignore[misc] # bound here
            until(lambda wanted=wanted: get(pod.inside, "9.9.9.9", 8080).by == wanted)  # type: ignore[misc] # bound here
        assert get(pod.inside, "9.9.9.9", 8080).status == 503
        assert (control.taken, control.refused) == (["1", "2", "3"], [])
        released(pod)
        assert get(pod.inside, "9.9.9.9", 8080).status == 0


def test_quic_is_refused(pod: Pod, envoy: Started) -> None:
    """--udp 443=reject: a client of QUIC is refused at once and may fall back to TCP, which the proxy sees."""
    captured(pod, "-b", "", "--udp", "443=reject")
    started = envoy("allow-all")
    with entered(pod.inside):
        opened = open_socket("9.9.9.9", "udp", APP, APP)
    with opened, serving(pod.outside, "9.9.9.9", 443, "fallback"):
        opened.settimeout(2)
        opened.connect(("9.9.9.9", 443))
        with pytest.raises(PermissionError):  # the kernel tells who sends at once
            opened.send(b"\xc0 initial")
        assert get(pod.inside, "9.9.9.9", 443).by == "fallback"
        assert started.counted("tcp.outbound.downstream_cx_total") == 1
    released(pod)


def test_the_rule_that_is_deleted_and_repaired(pod: Pod, envoy: Started) -> None:
    """Without ISTIO_REDIRECT's rule calls pass the proxy by; verify says so, and another run repairs it."""
    captured(pod, "-b", "")
    started = envoy("allow-all")
    pod.inside.output("iptables-nft", "-t", "nat", "-D", "ISTIO_REDIRECT", "1")
    assert get(pod.inside, "9.9.9.9").by == "world"
    assert started.counted("tcp.outbound.downstream_cx_total") == 0
    found = pod.capture("verify", "-u", str(PROXY), "-b", "")
    assert (found.status, "ISTIO_REDIRECT" in found.stdout) == (4, True)
    captured(pod, "-b", "")
    assert get(pod.inside, "9.9.9.9").by == "world"
    assert started.counted("tcp.outbound.downstream_cx_total") == 1


def test_validation_and_trace_beside_a_proxy_at_work(pod: Pod, envoy: Started) -> None:
    """--run-validation proves the rules although Envoy has the ports, trace follows them, status sees it listen."""
    captured(pod)
    envoy("passthrough")
    assert pod.capture("-u", str(PROXY), "--run-validation", "--skip-rule-apply").status == 0
    assert "captured outbound" in pod.capture("trace", "--live", "9.9.9.9:80").stdout
    status = pod.capture("status")
    assert status.status == 0, status
    assert "envoy" in status.stdout
    assert "warning:" not in status.stdout


def test_two_captured_pods_through_both_proxies(pod: Pod, envoy: Started, tmp_path: Path) -> None:
    """A call from one to the other passes the caller's proxy, then that of the called, in both directions: each proxy
    logs it, and the application sees 127.0.0.6. Without rules in one of them, that one's proxy sees nothing."""
    captured(pod)
    first = envoy("passthrough")
    with SecondPod(pod) as other, Envoy(other, "passthrough", tmp_path) as second:
        captured(other)
        pods = ((pod, ADDRESSES[4], first), (other, SECOND, second))
        with serving(pod.inside, ADDRESSES[4], 9080, "one"), serving(other.inside, SECOND, 9080, "two"):
            for (caller, at, its), (_, called, theirs) in (pods, pods[::-1]):
                answer = get(caller.inside, called, 9080)
                assert (answer.status, answer.peer) == (200, "127.0.0.6")
                assert its.logged(f"outbound from {at}:", f"to {called}:9080 as {at}:")
                assert theirs.logged(f"inbound from {at}:", f"to {called}:9080 as 127.0.0.6:")
            before = second.counted("tcp.inbound.downstream_cx_total")
            released(other)
            assert get(pod.inside, SECOND, 9080).peer == ADDRESSES[4]
            assert second.counted("tcp.inbound.downstream_cx_total") == before
            assert get(other.inside, ADDRESSES[4], 9080).peer == "127.0.0.6"


class Wrong(NamedTuple):
    """A way of setting a proxy up wrongly."""

    said: str
    """What status and check warn of."""
    name: str = "passthrough"
    but: tuple[str, str] = ("", "")
    """A part of its configuration, and what stands there instead."""
    uid: int = PROXY
    arguments: tuple[str, ...] = ()
    """Of our run."""


WRONG = {
    "as another user": Wrong("uid 4711, on 0.0.0.0 is not the proxy", uid=4711),
    "without a listener for inbound": Wrong("inbound TCP → 15006: nobody listens", "allow-all"),
    "without a listener for outbound": Wrong("outbound TCP → 15001: nobody listens", "inbound"),
    "inbound on loopback alone": Wrong(
        "only on 127.0.0.1", but=("0.0.0.0, port_value: 15006", "127.0.0.1, port_value: 15006")
    ),
    "calling the application from its own address": Wrong(
        "127.0.0.6", but=("upstream_bind_config: {source_address:", "metadata: {filter_metadata: {a: {}}} # ")
    ),
    "not transparent": Wrong(
        "no listener is transparent", "tproxy", ("    transparent: true\n", ""), arguments=("-m", "TPROXY")
    ),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_proxy_that_is_set_up_wrongly_is_seen(pod: Pod, envoy: Started, how: str) -> None:
    """While it does harm, status and check warn of it, and with the words for what is wrong."""
    wrong = WRONG[how]
    captured(pod, *wrong.arguments)
    envoy(wrong.name, uid=wrong.uid, but=wrong.but, capable="TPROXY" in wrong.arguments)
    calls = (pod.outside, ADDRESSES[4], 9080), (pod.inside, "9.9.9.9", 80)
    with serving(pod.inside, ADDRESSES[4], 9080, "app"):
        with contextlib.ExitStack() as stack:
            for sender, host, port in calls:
                with entered(sender):
                    opened = stack.enter_context(open_socket(host, "tcp", APP, APP))
                opened.setblocking(False)
                opened.connect_ex((host, port))
            for command in (["status"], ["check", "-u", str(PROXY), *wrong.arguments]):
                until(lambda command=command: wrong.said in pod.capture(*command).stdout)  # type: ignore[misc] # bound here
        assert {get(sender, host, port).status for sender, host, port in calls} != {200}


def test_watch_shows_a_loop(pod: Pod, envoy: Started) -> None:
    """An Envoy as another user calls itself: one call of the application is hundreds of captured connections."""
    captured(pod)
    envoy("allow-all", uid=4711)
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift", against="the start")
        assert get(pod.inside, "9.9.9.9").status == 0
        counted = watch.event("counters")
        assert (counted["rule"]["chain"], counted["since_start"] > 100) == ("ISTIO_OUTPUT", True)
        watch.ended()


PAGE = (CONFIGURATIONS / "README.md").read_text()


def test_the_page_has_the_arguments_of_the_tests() -> None:
    """Each row with a configuration and our arguments is what a test runs; every configuration has a row."""
    tried = set()
    for name, function in globals().items():
        if name.startswith("test_"):
            source = inspect.getsource(function)
            given = re.search(r"captured\(pod(?:, )?(.*)\)", source)
            for started in re.findall(r'envoy\("([\w-]+)"', source):
                tried.add((started, tuple(re.findall(r'"([^"]*)"', given[1]) if given else ())))
    rows = re.findall(r"^\| \[([\w-]+)\]\(\1\.yaml\)[^|]* \| (.*?) ?\|", PAGE, re.M)
    assert {(name, tuple(shlex.split(given.strip("`")))) for name, given in rows} <= tried
    assert {name for name, _ in rows} == {path.stem for path in CONFIGURATIONS.glob("*.yaml")}
