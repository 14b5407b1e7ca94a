"""The configuration that a runtime hands to the plugin with each call, checked."""

from __future__ import annotations

from rules.cni.annotations import PROXY_PORTS
from rules.cni.spec import INVALID_CONFIG, Failure, is_identifier
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

KEY = "capture"
"""Of the configuration: the object that is ours."""
CAPABILITY = "io.kubernetes.cri.pod-annotations"
"""By this name containerd (1.5 and later) and CRI-O (1.28) hand over annotations, if the configuration declares it."""
NAMESPACES_LEFT_ALONE = ("kube-system", "istio-system")
"""As istio-cni's default: what the cluster itself runs on has no sidecar."""
KNOWN = ("args", "env", "excludeNamespaces")


class Network(Value):
    """What the configuration says of the capture, and what is known of the pod."""

    name: str
    args: tuple[str, ...] = ()
    """Flags, as an init container's arguments have them."""
    env: tuple[tuple[str, str], ...] = ()
    """Variables, for the settings that have no flag. The runtime's own environment means nothing."""
    namespaces_left_alone: tuple[str, ...] = NAMESPACES_LEFT_ALONE
    annotations: tuple[tuple[str, str], ...] | None = None
    """The pod's, or None if the runtime does not hand them over."""
    previous: dict[str, Any] | None = None
    """The result of the plugin before this one."""


def read_network(config: Mapping[str, Any]) -> Network:
    """Raises Failure, which names the key that means nothing."""
    name = config.get("name")
    if not isinstance(name, str) or not is_identifier(name):
        raise wrong("name", name, "a network has a name of letters, digits, dots, dashes and underscores")
    ours = mapping(config, KEY)
    for unknown in ours.keys() - set(KNOWN):
        raise wrong(f"{KEY}.{unknown}", ours[unknown], f"is not known; {KEY} may have {', '.join(KNOWN)}")
    annotations = pairs(mapping(config, "runtimeConfig"), CAPABILITY, within="runtimeConfig.")
    left_alone = ours.get("excludeNamespaces")
    return Network(
        name,
        strings(ours, "args"),
        pairs(ours, "env", within=f"{KEY}.") or (),
        NAMESPACES_LEFT_ALONE if left_alone is None else strings(ours, "excludeNamespaces"),
        annotations,
        mapping(config, "prevResult") if config.get("prevResult") is not None else None,
    )


def mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object at this key; an empty one if there is none."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(key, value, "it has to be an object")
    return value


def strings(ours: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = ours.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise wrong(f"{KEY}.{key}", value, 'it has to be a list of strings, such as ["-p", "15001"]')
    return tuple(value)


def pairs(of: Mapping[str, Any], key: str, *, within: str) -> tuple[tuple[str, str], ...] | None:
    value = of.get(key)
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise wrong(f"{within}{key}", value, "it has to be an object whose values are strings")
    return tuple(value.items())


def wrong(key: str, value: object, reason: str) -> Failure:
    shown = repr(value)
    return Failure(INVALID_CONFIG, f"{key} of the configuration is {shown[:100]}; {reason}")


def excluded_inbound(args: Sequence[tuple[str, str]]) -> str:
    """The inbound exclusions of the configuration, whose flags with their values these are; else the proxy's ports."""
    said = [value for flag, value in args if flag in ("-d", "--istio-local-exclude-ports")]
    return said[-1] if said else ",".join(PROXY_PORTS)
