"""The chains that other meshes' tools leave in a pod, known by how their names begin."""

from __future__ import annotations

from rules.live.changes import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.rulesets import Ruleset

PREFIXES = {
    "KUMA_": "Kuma",
    "PROXY_INIT_": "Linkerd",
    "CONSUL_": "Consul",
    "OSM_": "Open Service Mesh",
    "ISTIO_": "Istio in ambient mode",
}
"""Whose a chain is. One that begins with ISTIO_ is ambient's if it is none of ours, nor of istio-iptables."""
NATIVE_TABLES = ("istio-proxy-", "istio-ambient-")
"""How the nf_tables tables begin that istio programs without iptables."""


def mesh_of(table: str, chain: str) -> str | None:
    """Whose chain this is, if it is another mesh's."""
    if is_ours(table, chain):
        return None
    return next((mesh for prefix, mesh in PREFIXES.items() if chain.startswith(prefix)), None)


def chains_of_other_meshes(live: Ruleset) -> Iterator[tuple[str, str, str]]:
    """Each chain of another mesh: the mesh, the table, the chain."""
    for table in live.tables:
        for chain in table.declared:
            mesh = mesh_of(table.table, chain)
            if mesh:
                yield mesh, table.table, chain


def native_tables(names: Iterable[str]) -> list[str]:
    """Those of these nf_tables tables that are another mesh's."""
    return sorted({name for name in names if name.startswith(NATIVE_TABLES)})
