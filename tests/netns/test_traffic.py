"""What each setting does to connections, one line for each: who calls what, and where it lands."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

import pytest

from tests.conftest import every_backend
from tests.rig import APP, PROXY, Call, Pod, entered

POD, SERVICE, OTHER = "10.244.0.5", "9.9.9.9", "10.0.7.7"
OUT, IN, APP_ITSELF = "pod:15001", "pod:15006", "pod:8080"


class Sent(NamedTuple):
    """A call from inside by this uid and gid, or from outside if the host is the pod's and `inbound`."""

    host: str
    port: int
    lands: str
    uid: int = APP
    gid: int = APP
    inbound: bool = False
    source: str | None = None


def comes_in(port: int, lands: str) -> Sent:
    return Sent(POD, port, lands, inbound=True)


CASES: dict[str, tuple[list[str], dict[str, str], list[Sent]]] = {
    "everything": (
        [],
        {},
        [
            Sent(SERVICE, 80, OUT),
            Sent(SERVICE, 80, "ext:80", PROXY, PROXY),
            Sent(SERVICE, 80, "ext:80", APP, PROXY),
            Sent("127.0.0.1", 8080, APP_ITSELF),
            Sent(POD, 8080, APP_ITSELF),
            Sent(POD, 8080, IN, PROXY, PROXY),
            Sent(POD, 15008, "pod:15008", PROXY, PROXY),
            Sent(POD, 8080, APP_ITSELF, PROXY, PROXY, source="127.0.0.6"),
            comes_in(8080, IN),
            comes_in(15008, "pod:15008"),
        ],
    ),
    "-b lists the captured ports": (
        ["-b", "80,9000-9100"],
        {},
        [comes_in(80, IN), comes_in(9080, IN), comes_in(22, "pod:22")],
    ),
    "-b empty captures nothing inbound": (["-b", ""], {}, [comes_in(80, "pod:80"), Sent(SERVICE, 80, OUT)]),
    "-d excludes inbound ports": (["-d", "15020-15022"], {}, [comes_in(15021, "pod:15021"), comes_in(80, IN)]),
    "-e is never captured": (["-e", "31000"], {}, [comes_in(31000, "pod:31000"), comes_in(15008, IN)]),
    "-i lists the captured destinations": (
        ["-i", "9.9.0.0/16"],
        {},
        [Sent(SERVICE, 80, OUT), Sent(OTHER, 80, "ext:80")],
    ),
    "-i empty captures nothing outbound": (["-i", ""], {}, [Sent(SERVICE, 80, "ext:80"), comes_in(80, IN)]),
    "-x beats -i and -q": (
        ["-i", "*", "-x", "9.9.9.9", "-q", "80"],
        {},
        [Sent(SERVICE, 80, "ext:80"), Sent(OTHER, 80, OUT)],
    ),
    "-q beats -i": (["-i", "", "-q", "443"], {}, [Sent(SERVICE, 443, OUT), Sent(SERVICE, 80, "ext:80")]),
    "-q alone is all there is": (["-q", "443"], {}, [Sent(SERVICE, 443, OUT), Sent(SERVICE, 80, "ext:80")]),
    "-o beats everything": (
        ["-i", "*", "-q", "22", "-o", "22"],
        {},
        [Sent(SERVICE, 22, "ext:22"), Sent(SERVICE, 80, OUT)],
    ),
    "-c in neither direction": (["-c", "eth+"], {}, [Sent(SERVICE, 80, "ext:80"), comes_in(80, "pod:80")]),
    "-k makes what arrives outbound": (["-k", "eth0"], {}, [comes_in(80, OUT)]),
    "-k lets go what is not captured": (["-k", "eth0", "-i", "9.9.0.0/16"], {}, [comes_in(80, "pod:80")]),
    "groups that are captured": (
        [],
        {"ISTIO_OUTBOUND_OWNER_GROUPS": "202,203"},
        [Sent(SERVICE, 80, OUT, APP, 202), Sent(SERVICE, 80, "ext:80")],
    ),
    "more groups than one rule holds": (
        [],
        {"ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(map(str, range(200, 264)))},
        [
            Sent(SERVICE, 80, OUT, APP, 200),
            Sent(SERVICE, 80, OUT, APP, 263),
            Sent(SERVICE, 80, "ext:80"),
            Sent(SERVICE, 80, "ext:80", PROXY, PROXY),
            Sent("127.0.0.1", 8080, APP_ITSELF, APP, 200),
        ],
    ),
    "groups that are not captured": (
        [],
        {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "202"},
        [Sent(SERVICE, 80, "ext:80", APP, 202), Sent(SERVICE, 80, OUT)],
    ),
    "a wider loopback": (
        [],
        {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"},
        [Sent("127.1.2.3", 8080, APP_ITSELF, PROXY, PROXY), Sent(POD, 8080, IN, PROXY, PROXY)],
    ),
    "a captured loopback address": (
        ["-i", "127.1.2.3/32"],
        {},
        [Sent("127.1.2.3", 8080, OUT), Sent("127.0.0.1", 8080, APP_ITSELF), Sent("127.1.2.4", 8080, APP_ITSELF)],
    ),
    "other ports of the proxy": (
        ["-p", "16001", "-z", "16006"],
        {},
        [Sent(SERVICE, 80, "pod:16001"), comes_in(80, "pod:16006")],
    ),
    "many ports in few rules": (
        ["-d", ",".join(map(str, [*range(15020, 15091, 2), 15021, *range(20000, 20040, 3)]))],
        {},
        [comes_in(15020, "pod:15020"), comes_in(15021, "pod:15021"), comes_in(15090, "pod:15090"), comes_in(31000, IN)],
    ),
}


@pytest.mark.parametrize(("arguments", "environ", "sent"), CASES.values(), ids=list(CASES))
def test_a_setting_does_what_its_help_says(
    ipv4_pod: Pod, backend: str, arguments: list[str], environ: dict[str, str], sent: list[Sent]
) -> None:
    """Each connection lands where the setting sends it; those that it does not concern land where they did."""
    pod = ipv4_pod
    pod.applied("-u", str(PROXY), *arguments, f"--force-iptables-binary={backend}", env=environ)
    pod.open_listeners()
    calls = [
        Call(pod.outside, each.host, each.port)
        if each.inbound
        else Call(pod.inside, each.host, each.port, each.uid, each.gid, source=each.source)
        for each in sent
    ]
    assert [str(landing) for landing in pod.land(calls)] == [each.lands for each in sent]


@every_backend
def test_a_captured_connection_remembers_where_it_was_going(pod: Pod, backend: str) -> None:
    """SO_ORIGINAL_DST names the service, in both directions and families."""
    pod.applied("--dual-stack", f"--force-iptables-binary={backend}")
    pod.open_listeners()
    for version, service, own in ((4, SERVICE, POD), (6, "2001:db8::1", "fd00:244::5")):
        assert pod.dial(service, 443).original == (service, 443)
        assert pod.dial_in(8080, version=version).original == (own, 8080)


def test_a_packet_that_conntrack_cannot_place_is_dropped(ipv4_pod: Pod, backend: str) -> None:
    """--drop-invalid: a segment with impossible flags goes no further; on an excluded interface it does."""
    pod = ipv4_pod
    forced = f"--force-iptables-binary={backend}"
    for exclusion, dropped in (([], 1), (["-c", "eth0"], 0)):
        pod.applied("--drop-invalid", *exclusion, forced)
        send_impossible_segment(pod)
        counted = pod.inside.output(f"iptables-{backend}-save", "-c", "-t", "mangle").splitlines()
        drop = next(line for line in counted if line.endswith("-A ISTIO_DROP -j DROP"))
        assert drop.startswith(f"[{dropped}:")
        pod.applied("--cleanup-only")


def send_impossible_segment(pod: Pod) -> None:
    """A TCP segment from outside that begins, ends and resets a connection at once."""
    source, destination = socket.inet_aton("10.244.0.9"), socket.inet_aton(POD)
    flags = 0x02 | 0x01 | 0x04
    header = struct.pack(">HHIIBBHHH", 40000, 8080, 1, 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = source + destination + struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(header))
    words = struct.unpack(f">{(len(pseudo) + len(header)) // 2}H", pseudo + header)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    with entered(pod.outside):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.sendto(header[:16] + struct.pack(">H", checksum) + header[18:], (POD, 0))
