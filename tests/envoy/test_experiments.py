"""What no page of docs/envoy walks: a control plane that speaks gRPC, two pods both ways, proxies set up wrongly."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.netns.test_watch import watching
from tests.rig.discovery import discovering
from tests.rig.envoy import SECOND, V1, V2, Envoy, SecondPod, get, serving
from tests.rig.namespace import entered
from tests.rig.pod import ADDRESSES, APP, PROXY, Pod
from tests.rig.traffic import open_socket
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Started = Callable[..., Envoy]


def captured(pod: Pod, *arguments: str) -> None:
    pod.applied("-p", "15001", "-z", "15006", "-u", str(PROXY), *arguments)


def released(pod: Pod) -> None:
    pod.applied("--cleanup-only")


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


def counters(said: str) -> list[dict[str, Any]]:
    """What the lines of `watch` tell of counters."""
    events = [json.loads(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]
    return [each for each in events if each["event"] == "counters"]


def test_watch_shows_a_loop(pod: Pod, envoy: Started) -> None:
    """An Envoy as another user calls itself: one call of the application is hundreds of captured connections."""
    captured(pod)
    envoy("allow-all", uid=4711)
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift", against="the start")
        assert get(pod.inside, "9.9.9.9").status == 0
        watch.until(lambda said: any(each["since_start"] > 100 for each in counters(said)))
        assert {each["rule"]["chain"] for each in counters(watch.text.decode())} == {"ISTIO_OUTPUT"}
        watch.ended()
