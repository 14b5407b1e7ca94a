"""The configuration of a node's network: a chain of plugins, with ours behind the last of the others."""

from __future__ import annotations

from rules.cni.network import CAPABILITY, KEY
from rules.cni.spec import VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

TYPE = "capture-cni"
"""Of our plugin, which is the name of its executable."""
LIST = ".conflist"
ENDINGS = (".conf", LIST, ".json")
"""How the files end that runtimes read, the first of them by name (libcni's ConfFiles)."""
OF_THE_LIST = ("cniVersion", "name", "disableCheck")
"""What a chain says once for all its plugins."""


def ours(args: Sequence[str], exclude_namespaces: Sequence[str] | None) -> dict[str, Any]:
    """Our place in a chain, with these settings."""
    its: dict[str, Any] = {"args": list(args)}
    if exclude_namespaces is not None:
        its["excludeNamespaces"] = list(exclude_namespaces)
    return {"type": TYPE, "capabilities": {CAPABILITY: True}, KEY: its}


def plugins_of(config: object) -> list[dict[str, Any]]:
    """The plugins of a chain, in order; of a configuration of one plugin, that. Raises ValueError for neither."""
    if not isinstance(config, dict):
        raise ValueError("it is not an object")
    listed = config.get("plugins", [config] if "type" in config else None)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ValueError("it has neither a list of plugins nor a type")
    return listed


def holds_ours(config: object) -> bool:
    """Whether our plugin is in it. Raises ValueError."""
    return any(each.get("type") == TYPE for each in plugins_of(config))


def with_ours(config: Mapping[str, Any], its: Mapping[str, Any]) -> dict[str, Any]:
    """The chain with our plugin behind all others, once, and everything else as it was.

    A configuration of one plugin becomes a chain of two. Raises ValueError where there can be no chain.
    """
    others = [each for each in plugins_of(config) if each.get("type") != TYPE]
    if not others:
        raise ValueError("there is no other plugin in it that ours could stand behind")
    if config.get("cniVersion", VERSIONS[0]) not in VERSIONS:
        raise ValueError(f"its cniVersion is {config['cniVersion']!r}; chains are spoken in {', '.join(VERSIONS)}")
    if "plugins" in config:
        return {**config, "plugins": [*others, dict(its)]}
    whole = {key: config[key] for key in OF_THE_LIST if key in config}
    (single,) = others
    return {**whole, "plugins": [{key: single[key] for key in single if key not in OF_THE_LIST}, dict(its)]}


def without_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The chain of the others alone. Raises ValueError."""
    return {**config, "plugins": [each for each in plugins_of(config) if each.get("type") != TYPE]}
