"""The container of a proxy, from a file: what is read, and what in a pod contradicts it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from capture.errors import CaptureError
from capture.inject.manifests import items, member, text_at
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from capture.inject.manifests import Node, PodText

PROXIES = ("proxy", "envoy")
"""What is in the name or the image of a container that is taken for the proxy itself."""
LISTS = ("initContainers", "containers", "ephemeralContainers")


class BadProxy(CaptureError):
    """A file that has no container in it."""


class Proxy(Value):
    """A container that goes into every pod beside ours."""

    container: Mapping[str, Any]
    path: str

    @property
    def name(self) -> str:
        return str(self.container["name"])

    @property
    def goes_on(self) -> bool:
        """Whether it is a native sidecar: an init container that goes on, and so starts before all others."""
        return self.container.get("restartPolicy") == "Always"

    def reasons(self, pod: PodText, arguments: Mapping[str, str]) -> Iterator[str]:
        """Why it cannot be in this pod, captured with these arguments, in sentences."""
        its = f"the proxy container {self.name}"
        context = self.container.get("securityContext") or {}
        uid = str(context.get("runAsUser", "")) or text_at(member(pod.spec, "securityContext"), "runAsUser")
        uids = [each.strip() for each in arguments["-u"].split(",")]
        if not uid:
            yield f"{its} says no uid: give it securityContext.runAsUser: {uids[0]}, as -u"
        elif uid not in uids and all(map(str.isdigit, uids)):
            yield f"{its} runs as uid {uid}, and -u is {arguments['-u']}: what it sends would be captured, in a loop"
        others = [each for key in LISTS for each in items(member(pod.spec, key))]
        taken = {port: text_at(each, "name") for each in others for port in ports_of(each)}
        for each in others:
            name, image = text_at(each, "name"), text_at(each, "image")
            if name == self.name:
                yield f"{its} has the name of a container that is there"
            elif any(known in name or known in image for known in PROXIES):
                yield f"{its} would be a second proxy beside {name}"
        for said in self.container.get("ports") or ():
            port = (str(said.get("containerPort")), str(said.get("protocol", "TCP")))
            if port in taken:
                yield f"{its} has port {port[0]}/{port[1]}, which the container {taken[port]} has"
        for flag in ("-p", "-z"):
            if (app := taken.get((arguments[flag], "TCP"))) is not None:
                yield f"the container {app} has port {arguments[flag]}, where {flag} sends connections to the proxy"
        volumes = {text_at(each, "name") for each in items(member(pod.spec, "volumes"))}
        for mount in self.container.get("volumeMounts") or ():
            if mount.get("name") not in volumes:
                yield f"{its} mounts the volume {mount.get('name')}, which the pod has not"


def ports_of(container: Node) -> Iterator[tuple[str, str]]:
    """Each port of a container, and its protocol."""
    for port in items(member(container, "ports")):
        yield text_at(port, "containerPort"), text_at(port, "protocol") or "TCP"


def proxy_from(text: str, path: str) -> Proxy:
    """The container in a text of YAML or JSON. Raises BadProxy."""
    try:
        import yaml
    except ImportError:
        hint = "pip install 'traffic-capture[yaml]'"
        raise BadProxy(f"{path} is read with PyYAML, which is not installed", hint=hint) from None
    timestamp = "tag:yaml.org,2002:timestamp"  # which is a text to Kubernetes
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    known = {first: [each for each in its if each[0] != timestamp] for first, its in resolvers.items()}
    loader = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": known})
    try:
        found = yaml.load(text, loader)  # noqa: S506 # a safe one
        json.dumps(found, allow_nan=False)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise BadProxy(f"{path} is no container in YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("name", "image")):
        hint = "it holds what stands below `- ` in a pod's `containers`: name, image, args, …"
        raise BadProxy(f"{path} is no container: it is to be one mapping with a name and an image", hint=hint)
    if not all(well_formed(found.get(key)) for key in ("ports", "volumeMounts")):
        raise BadProxy(f"{path} is no container: its ports and volumeMounts are to be lists of mappings")
    if not isinstance(found.get("securityContext", {}), dict | None):
        raise BadProxy(f"{path} is no container: its securityContext is to be a mapping")
    return Proxy(found, path)


def well_formed(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, dict) for each in value))
