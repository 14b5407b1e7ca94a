"""What istio-iptables did with each of its recorded connections, we do too."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import SHARED, every_backend
from tests.rig import Call, Landing, Pod

if TYPE_CHECKING:
    from tests.rig import Namespace

RECORDS = SHARED / "conformance"
USERS = {
    "app": (1000, 1000),
    "proxy": (1337, 1337),
    "u3": (3, 3),
    "u4": (4, 4),
    "g1": (1000, 1),
    "root": (0, 0),
    "g888": (1000, 888),
    "g202": (1000, 202),
}
"""Who sends, by the name that the records give them."""

_ports = itertools.cycle(range(20000, 30000))
"""No two connections come from one port: to conntrack both would be the same one, once REDIRECT has sent them to one
place, and the first packet of the second is dropped.
"""


def recorded() -> list[Any]:
    """Each case with its record, or one placeholder that skips where there are none."""
    if not RECORDS.is_dir():
        skipped = pytest.mark.skip(reason="the records of the reference are not here")
        return [pytest.param({}, {}, marks=skipped, id="no-records")]
    cases = [json.loads(line) for line in (RECORDS / "cases.jsonl").read_text().splitlines()]
    results = {r["id"]: r for r in map(json.loads, (RECORDS / "reference.jsonl").read_text().splitlines())}
    return [pytest.param(case, results[case["id"]], id=case["id"]) for case in cases]


def call_of(label: str, pod: Pod) -> Call:
    """The connection that a record's label describes: `app tcp src=127.0.0.6 10.244.0.5:8080`."""
    who, proto, *source, destination = label.split()
    host, _, port = destination.rpartition(":")
    sender: Namespace = pod.outside if who == "in" else pod.inside
    uid, gid = USERS.get(who, (0, 0))
    bound = source[0].removeprefix("src=") if source else None
    own_port = next(_ports) if proto == "tcp" else 0
    return Call(sender, host.strip("[]"), int(port), uid, gid, proto, bound, own_port)


def landed(label: str, landing: Landing) -> str:
    """A landing in the words of the records."""
    if " udp " in label:
        return f"{landing.where}:udp{landing.port}"
    text = f"{landing.where}:{landing.port}"
    if landing.port in (15001, 15006, 16001, 16006) and landing.original:
        host, port = landing.original
        text += f" orig=[{host}]:{port}" if ":" in host else f" orig={host}:{port}"
    if landing.where == "pod" and landing.port in (15006, 16006):
        text += f" src={landing.peer}"
    return text


@every_backend
@pytest.mark.parametrize(("case", "record"), recorded())
def test_every_connection_lands_where_the_reference_sent_it(
    case: dict[str, Any], record: dict[str, Any], backend: str
) -> None:
    """Through both backends, all connections of a case land as recorded, original destination and client included."""
    owner = dict(zip(case["args"], case["args"][1:], strict=False)).get("-u") or "1337"
    transparent = "TPROXY" in case["args"]
    with Pod(ipv6=case["v6"]) as pod:
        pod.inside.set_resolv_conf(case["resolv"])
        pod.applied(*case["args"], f"--force-iptables-binary={backend}", env=case["env"])
        pod.open_listeners(proxy_uid=int(owner.split(",")[0]), transparent=transparent)
        labels = list(record["landed"])
        landings = pod.land(call_of(label, pod) for label in labels)
    found = {label: landed(label, landing) for label, landing in zip(labels, landings, strict=True)}
    assert found == record["landed"]
