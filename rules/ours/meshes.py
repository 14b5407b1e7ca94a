"""The chains that other meshes' tools leave in a pod, known by how their names begin."""

from __future__ import annotations

from rules.ours.recognition import is_ours
from rules.plan.names import ISTIO_OUTPUT, OURS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.rulesets import Ruleset, TableRules

PREFIXES = {
    "KUMA_": "Kuma",
    "PROXY_INIT_": "Linkerd",
    "CONSUL_": "Consul",
    "OSM_": "Open Service Mesh",
}
"""Whose a chain is, by how its name begins."""
AMBIENT = "Istio in ambient mode"
ISTIO_PRERT = "ISTIO_PRERT"
AMBIENT_CHAINS = frozenset({ISTIO_PRERT, "ISTIO_POSTRT"})
"""Ambient's own names. Its third chain is called ISTIO_OUTPUT, as one of ours."""
NATIVE_TABLES = {
    "istio-proxy-": "Istio with nftables",
    "istio-ambient-": AMBIENT,
    "consul_tproxy": "Consul",
}
"""Whose a table of nf_tables is in which a mesh captures without iptables, by how its name begins."""
REMEDY = "--take-over removes them without a gap as ours come; or keep that mesh out of this pod"
"""What to do about another mesh that captures here."""


def mesh_of(table: TableRules, chain: str) -> str | None:
    """Whose chain this is, if it is another mesh's."""
    if is_ours(table, chain):
        return None
    if chain in AMBIENT_CHAINS or chain in table.not_ours:
        return AMBIENT
    return next((mesh for prefix, mesh in PREFIXES.items() if chain.startswith(prefix)), None)


def is_of_ambient(live: Ruleset) -> bool:
    """Whether ambient mode has chains here. Not every table of its own has an ISTIO_PRERT, nor need both families."""
    return any(ISTIO_PRERT in table.declared for table in live.tables)


def beside_ambient(live: Ruleset) -> Ruleset:
    """The same in a namespace that ambient mode has taken: ISTIO_OUTPUT is its own there.

    Unless the table holds other chains of ours and no ISTIO_PRERT: ambient and a sidecar may share a namespace.
    """

    def judged(table: TableRules) -> TableRules:
        ours = OURS.get(table.table, frozenset()) - {ISTIO_OUTPUT}
        is_shared = ISTIO_PRERT in table.declared or ours.isdisjoint(table.declared)
        return table.but(not_ours=frozenset({ISTIO_OUTPUT})) if is_shared else table

    return live.but(tables=tuple(map(judged, live.tables)))


def chains_of_other_meshes(live: Ruleset) -> Iterator[tuple[str, str, str]]:
    """Each chain of another mesh: the mesh, the table, the chain."""
    for table in live.tables:
        for chain in table.declared:
            mesh = mesh_of(table, chain)
            if mesh:
                yield mesh, table.table, chain


def tables_by_mesh(names: Iterable[str]) -> dict[str, list[str]]:
    """The same tables, by the mesh that they are of."""
    found: dict[str, list[str]] = {}
    for table, mesh in native_tables(names).items():
        found.setdefault(mesh, []).append(table)
    return found


def native_tables(names: Iterable[str]) -> dict[str, str]:
    """Those of these nf_tables tables that are another mesh's, in order, each with that mesh."""
    meshes = NATIVE_TABLES.items()
    return {name: mesh for name in sorted(set(names)) for prefix, mesh in meshes if name.startswith(prefix)}
