"""What a pod's annotations say of its capture, in the words of Istio's injector.

https://istio.io/latest/docs/reference/config/annotations; how the injector turns them into flags is read from its
template of a sidecar, and which pods are captured from istio-cni (cni/pkg/plugin).
"""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INJECT = "sidecar.istio.io/inject"
STATUS = "sidecar.istio.io/status"
"""Written by the injector: the mark of a pod that has a sidecar."""
MODE = "sidecar.istio.io/interceptionMode"
NO_CAPTURE = "NONE"
STATUS_PORT = "status.sidecar.istio.io/port"
TRAFFIC = "traffic.sidecar.istio.io/"
EXCLUDED_INBOUND = f"{TRAFFIC}excludeInboundPorts"
FLAGS = {
    MODE: "-m",
    f"{TRAFFIC}includeInboundPorts": "-b",
    EXCLUDED_INBOUND: "-d",
    f"{TRAFFIC}includeOutboundIPRanges": "-i",
    f"{TRAFFIC}excludeOutboundIPRanges": "-x",
    f"{TRAFFIC}includeOutboundPorts": "-q",
    f"{TRAFFIC}excludeOutboundPorts": "-o",
    f"{TRAFFIC}excludeInterfaces": "-c",
    f"{TRAFFIC}kubevirtInterfaces": "-k",
    "istio.io/redirect-virtual-interfaces": "-k",
    "istio.io/reroute-virtual-interfaces": "-k",
}
"""Each annotation that is a setting, and its flag; of those with one flag the last one that is there wins."""
PROXY_PORTS = ("15020", "15021", "15090")
"""Ports that a sidecar answers itself, which the injector always excludes: metrics, readiness, Envoy's statistics."""

YES, NO = ("y", "yes", "true", "on", "1", "t"), ("n", "no", "false", "off", "0", "f")


class Said(Value):
    """A setting that an annotation gives."""

    annotation: str
    flag: str
    value: str


class Misread(Exception):
    """Annotations that cannot mean anything: each with its value and what would be right."""

    def __init__(self, refusals: list[tuple[str, str, str]]) -> None:
        super().__init__("; ".join(f"annotation {name} {value!r}: {reason}" for name, value, reason in refusals))
        self.refusals = tuple(refusals)


def reason_to_leave_alone(annotations: Mapping[str, str]) -> str:
    """Why a pod with these annotations is not captured; empty if it is. Raises Misread."""
    asked = annotations.get(INJECT, "").strip().lower()
    if asked and asked not in YES + NO:
        raise Misread([(INJECT, annotations[INJECT], "is neither true nor false")])
    if asked in NO:
        return f"its annotation {INJECT} is {annotations[INJECT]!r}"
    if STATUS not in annotations:
        return f"it has no annotation {STATUS}, the mark of a sidecar"
    if annotations.get(MODE, "").strip() == NO_CAPTURE:
        return f"its annotation {MODE} is {NO_CAPTURE}"
    return ""


def settings_said(annotations: Mapping[str, str], excluded: str) -> Iterator[Said]:
    """The settings that a pod's annotations give, each with its flag.

    `excluded` is what the plugin's configuration excludes inbound: an annotation takes its place, but for the ports
    that the proxy answers itself. Raises Misread, also for what begins as those that are known and is none of them: a
    misspelt exclusion would capture what it was to spare. An annotation is a pod's word: @PATH in it would have the
    plugin read files of the node, and tell what is in them.
    """
    unknown = [name for name in annotations if name.startswith(TRAFFIC) and name not in FLAGS]
    if unknown:
        known = ", ".join(name.removeprefix(TRAFFIC) for name in FLAGS if name.startswith(TRAFFIC))
        raise Misread(
            [(name, annotations[name], f"is not known; behind {TRAFFIC} stands one of {known}") for name in unknown]
        )
    files = [name for name in (*FLAGS, STATUS_PORT) if any(each[:1] == "@" for each in entries(annotations, name))]
    if files:
        reason = "names a file, which would be read where the pod is not: list what it holds"
        raise Misread([(name, annotations[name], reason) for name in files])
    for name, flag in FLAGS.items():
        if name in annotations and name != EXCLUDED_INBOUND:
            yield Said(name, flag, annotations[name].strip())
    port = annotations.get(STATUS_PORT, "").strip()
    status_port = [port] if port and port != "0" else []
    if EXCLUDED_INBOUND in annotations:
        yield Said(EXCLUDED_INBOUND, "-d", joined(annotations[EXCLUDED_INBOUND], *PROXY_PORTS, *status_port))
    elif status_port:
        yield Said(STATUS_PORT, "-d", joined(excluded, *status_port))


def joined(listed: str, *more: str) -> str:
    """A comma separated list with these entries behind its own, none of them twice."""
    entries = [entry.strip() for entry in listed.split(",")]
    return ",".join(dict.fromkeys(entry for entry in (*entries, *more) if entry))


def contradictions(annotations: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """What annotations of one pod say and unsay, each with its value and the other one."""
    asked, label = (each.get(INJECT, "").strip().lower() for each in (annotations, labels))
    if asked and label and (asked in YES) != (label in YES):
        yield INJECT, annotations[INJECT], f"the label of that name is {labels[INJECT]!r}"
    traffic = [name for name in annotations if name.startswith(TRAFFIC)]
    if annotations.get(MODE, "").strip() == NO_CAPTURE and traffic:
        yield MODE, annotations[MODE], f"nothing is captured, and yet there is {traffic[0]}"
    interfaces = [name for name in FLAGS if FLAGS[name] == "-k" and name in annotations]
    if len({joined(annotations[name]) for name in interfaces}) > 1:
        yield interfaces[0], annotations[interfaces[0]], f"{interfaces[-1]} is {annotations[interfaces[-1]]!r}"
    for what in ("InboundPorts", "OutboundPorts", "OutboundIPRanges"):
        include, exclude = (f"{TRAFFIC}{verb}{what}" for verb in ("include", "exclude"))
        both = [each for each in entries(annotations, include) if each in entries(annotations, exclude)]
        if both:
            yield include, annotations[include], f"{both[0]} is in {exclude} as well"


def entries(annotations: Mapping[str, str], name: str) -> list[str]:
    return joined(annotations.get(name, "")).split(",") if annotations.get(name, "").strip() else []
