"""The kernel in memory (`tests/rig/memory.py`) against the kernel of this host, act by act: tests lean on it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from capture import init
from capture.iptables.iptables import LEGACY, NFT, Iptables
from capture.kernel import netns
from capture.kernel.process import LEGACY_TABLES, read_words, run
from capture.kernel.seam import standing_in
from capture.netlink import nftables, routing, rtnetlink, tidying
from rules.iptables.reading import tables
from rules.netfilter.values import Family
from tests.rig import Namespace
from tests.rig.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BACKENDS = (NFT, LEGACY)
RESTORES = (
    "*nat\n:OTHER - [0:0]\n-A OUTPUT -p tcp -m tcp --dport 80 -j OTHER\n-A OTHER -j RETURN\nCOMMIT\n",
    "*nat\n-N ISTIO_OUTPUT\n-N ISTIO_REDIRECT\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n"
    "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n",
    "*nat\n-N ISTIO_OUTPUT\nCOMMIT\n",
    "*nat\n-X ISTIO_REDIRECT\nCOMMIT\n",
    "*nat\n:ISTIO_OUTPUT - [0:0]\n-A ISTIO_OUTPUT -j RETURN\n-D OUTPUT -p tcp -j ISTIO_OUTPUT\n"
    "-I OUTPUT 1 -p tcp -j ISTIO_OUTPUT\nCOMMIT\n",
    "*nat\n-D OUTPUT -p udp -j ISTIO_OUTPUT\nCOMMIT\n",
    "*nat\n-A OUTPUT -j ISTIO_INBOUND\nCOMMIT\n",
    "*raw\n-N ISTIO_INBOUND\n-A PREROUTING -j ISTIO_INBOUND\nCOMMIT\n*mangle\n-X ISTIO_DIVERT\nCOMMIT\n",
    "*nat\n-D OUTPUT -p tcp -j ISTIO_OUTPUT\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n-X ISTIO_OUTPUT\n"
    "-X ISTIO_REDIRECT\nCOMMIT\n",
)
"""Rules of others, ours, and what is refused: a chain twice, one in use, a rule that is not there, a missing chain."""
RUNS = (
    ("-u", "1337"),
    ("-u", "1337", "--dual-stack", "-m", "TPROXY"),
    ("-u", "1338", "-o", "22", "--redirect-dns", "--capture-all-dns", "--ipv6", "on"),
    ("--cleanup-only",),
)


def restored(tool: Iptables, text: str) -> Callable[[], bool]:
    return lambda: not run(tool.command("restore"), "--noflush", text=text, environ=tool.environ()).status


def captured(backend: str, argv: Sequence[str]) -> Callable[[], bool]:
    environ = {"LOG_OUTPUT_LEVEL": "none", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    return lambda: init.run([f"--force-iptables-binary={backend}", *argv], environ) == 0


def acts(backend: str) -> list[Callable[[], object]]:
    """What both kernels are asked for, one after the other. Each says whether it was done."""
    tool = Iptables(backend, Family.V4)
    chains = ("PREROUTING", "OUTPUT")
    return [
        *(restored(tool, text) for text in RESTORES),
        lambda: tidying.take_away(Family.V4, "nat", ("OUTPUT",), whole=False),
        lambda: tidying.take_away(Family.V4, "raw", chains, whole=True),
        lambda: routing.add_route(Family.V4, 133),
        lambda: routing.add_route(Family.V4, 133),
        lambda: routing.add_rule(Family.V6, 100, 1337, 133),
        lambda: routing.add_passthrough_address(),
        lambda: routing.remove_rule(Family.V6, 100, 1337, 133),
        lambda: routing.remove_route(Family.V4, 133),
        lambda: routing.remove_passthrough_address(),
        *(captured(backend, argv) for argv in RUNS),
    ]


def as_told(chains: dict[str, nftables.NftChain]) -> dict[str, object]:
    """Of handles only the order is of interest."""
    order = sorted(chains, key=lambda name: chains[name].handle)
    return {name: (order.index(name), chain.use, chain.base) for name, chain in chains.items()}


def observed() -> dict[str, object]:
    """All that those ask for who lean on the kernel."""
    found: dict[str, object] = {
        "nf_tables": nftables.nft_tables(),
        "chains": {place: as_told(chains) for place, chains in nftables.nft_chains().items()},
        "ip rules": sorted(rtnetlink.policy_rules(), key=repr),
        "routes": sorted((route for route in rtnetlink.routes()), key=repr),
        "addresses": sorted(str(address) for address in rtnetlink.addresses() if not address.is_usable),
    }
    for family in Family:
        names = read_words(LEGACY_TABLES[family]) or []
        found[f"legacy {family.value}"] = sorted(names)
        for backend in (NFT, *([LEGACY] if names else [])):
            saved = Iptables(backend, family).save().text
            found[f"{backend} {family.value}"] = {
                table.table: (sorted(table.declared), sorted(table.policies), table.chains()) for table in tables(saved)
            }
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_kernel_in_memory_does_what_the_kernel_does(backend: str) -> None:
    """After every act both hold the same, and both have done it or refused it."""

    def told(act: Callable[[], object]) -> tuple[object, dict[str, object]]:
        return act(), observed()

    memory = Memory("127.0.0.1/8", "::1/128", "10.244.0.5/32", "fd00:244::5/128")
    with (
        Namespace("seam") as namespace,
        ThreadPoolExecutor(1, initializer=netns.enter, initargs=(namespace.path,)) as host,
    ):
        namespace.ip("addr", "add", "10.244.0.5/32", "dev", "lo")
        namespace.ip("addr", "add", "fd00:244::5/128", "dev", "lo", "nodad")
        for at, act in enumerate(acts(backend)):
            did, holds = host.submit(told, act).result()
            with standing_in(memory):
                pretended, held = told(act)
            assert pretended == did, f"act {at}"
            for question, answer in holds.items():
                assert held[question] == answer, f"{question} after act {at}"
