"""Whoever is the proxy: what it passes on and asks for itself comes back to it by no rule."""

from __future__ import annotations

import pytest

from tests.rig import ADDRESSES, APP, Call, Pod
from tests.rig.pod import GATEWAY

OWNERS = [
    (["-u", "1337"], 1337, 1337),
    (["-u", "1337"], 0, 1337),
    (["-u", "0"], 0, 0),
    (["-u", "2102", "-g", "7"], 2102, 2102),
    (["-u", "1337,42", "-g", "1337,43"], 42, 42),
    (["-u", "1337,42", "-g", "1337,43"], 5, 43),
]
"""Settings, and a proxy that they name: its uid and gid."""


@pytest.mark.parametrize("mark", ["1337", "0x77"])
@pytest.mark.parametrize(("owners", "uid", "gid"), OWNERS)
def test_a_proxy_that_keeps_the_clients_address_reaches_the_application(
    pod: Pod, backend: str, owners: list[str], uid: int, gid: int, mark: str
) -> None:
    """With TPROXY, whatever its uid: from the client's address and with the mark, as Envoy's original_src does it."""
    pod.applied(*owners, "-m", "TPROXY", "-t", mark, "--dual-stack", f"--force-iptables-binary={backend}")
    pod.open_listeners(proxy_uid=uid, transparent=True)
    for version in pod.versions:
        arrived = pod.dial_in(8080, version=version)
        assert (arrived.port, arrived.peer) == (15006, GATEWAY[version])
        upstream = Call(pod.inside, ADDRESSES[version], 8080, uid, gid, source=GATEWAY[version], mark=int(mark, 0))
        landed = pod.traffic.call(upstream)
        assert (landed.port, landed.peer) == (8080, GATEWAY[version])


@pytest.mark.parametrize(
    ("uid", "gid", "port"),
    [(1337, 1337, 53), (42, 42, 53), (42, 43, 53), (1337, 5, 53), (5, 43, 15006), (APP, APP, 15053)],
)
def test_one_of_several_proxies_asks_a_nameserver_in_the_pod(
    pod: Pod, backend: str, uid: int, gid: int, port: int
) -> None:
    """By TCP over lo: who is the proxy by its uid gets there; who is so by its gid alone does not, as with one."""
    asked = ["-u", "1337,42", "-g", "1337,43", "--redirect-dns", "--capture-all-dns", "--dual-stack"]
    pod.applied(*asked, f"--force-iptables-binary={backend}")
    pod.open_listeners()
    for version in pod.versions:
        assert pod.dial(ADDRESSES[version], 53, uid=uid, gid=gid).port == port
