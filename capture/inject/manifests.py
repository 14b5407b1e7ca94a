"""The pods in a text of YAML or JSON, each with where in the text its parts stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from capture.errors import BadSettings, CaptureError, Refusal
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Node: TypeAlias = Any
    """A node of PyYAML: its tag, its value, and the marks between which it stands."""

TEMPLATES = (("template",), ("spec", "template"), ("spec", "jobTemplate", "spec", "template"))
"""Where the kinds have their pod: PodTemplate; Deployment and its like, Knative's Service; CronJob."""
MERGE = "<<"


class NotRead(CaptureError):
    """A text that is no YAML, or a library that is not there to read it."""


class BadManifest(BadSettings):
    """Manifests that our container cannot be written into."""

    what_it_is = "manifest"


class PodText(Value):
    """A pod, or the template of pods, in a text."""

    kind: str
    name: str
    line: int
    pod: Node
    """The mapping that has `metadata` and `spec`."""
    key: Node
    """The key of its `spec`, below which a new line begins."""
    spec: Node

    def __str__(self) -> str:
        return f"{self.kind} {self.name or '(no name)'}, line {self.line}"

    def refused(self, reason: str) -> Refusal:
        return Refusal(str(self), None, reason)


def pods_in(text: str) -> list[PodText]:
    """Every pod of every document and list, in order; one that an alias repeats is there once. Raises NotRead."""
    try:
        import yaml
    except ImportError:
        hint = "pip install 'traffic-capture[yaml]'"
        raise NotRead("manifests are read with PyYAML, which is not installed", hint=hint) from None
    try:
        found = [pod for document in yaml.compose_all(text, Loader=yaml.SafeLoader) for pod in pods_of(document)]
    except RecursionError:
        raise NotRead("the manifest is nested too deeply") from None
    except yaml.YAMLError as error:
        raise NotRead(f"the manifest is no YAML: {' '.join(str(error).split())}") from None
    return list({id(pod.spec): pod for pod in reversed(found)}.values())[::-1]


def pods_of(document: Node, above: Sequence[Node] = ()) -> Iterator[PodText]:
    """The pods of an object, or of the items of a list."""
    if not is_mapping(document) or any(document is each for each in above):
        return
    kind = text_at(document, "kind")
    items = member(document, "items")
    if kind.endswith("List") and items is not None and items.id == "sequence":
        for item in items.value:
            yield from pods_of(item, (*above, document))
        return
    name = text_at(member(document, "metadata"), "name") or text_at(member(document, "metadata"), "generateName")
    for path in ((), *TEMPLATES):
        pod = document
        for step in path:
            pod = member(pod, step)
        key, spec = entry(pod, "spec")
        if spec is not None and (path or kind == "Pod") and member(spec, "containers") is not None:
            yield PodText(kind or "object", name, spec.start_mark.line + 1, pod, key, spec)


def is_mapping(node: Node) -> bool:
    return node is not None and node.id == "mapping"


def entry(node: Node, name: str) -> tuple[Node, Node]:
    """The key and the value of this name, which stand in the mapping itself; None and None if there is none."""
    found = [(key, value) for key, value in node.value if key.value == name] if is_mapping(node) else []
    return found[-1] if found else (None, None)


def member(node: Node, name: str) -> Node:
    """The value of this name, which may be merged in; None if there is none."""
    _, value = entry(node, name)
    if value is not None or not is_mapping(node):
        return value
    _, merged = entry(node, MERGE)
    sources = merged.value if merged is not None and merged.id == "sequence" else [merged]
    return next((found for each in sources if each is not node and (found := member(each, name)) is not None), None)


def text_at(node: Node, name: str) -> str:
    """The scalar of this name as it is written; empty if there is none."""
    value = member(node, name)
    return str(value.value) if value is not None and value.id == "scalar" else ""


def texts(node: Node) -> dict[str, str]:
    """A mapping of scalars, such as annotations and labels."""
    if not is_mapping(node):
        return {}
    return {str(key.value): str(value.value) for key, value in node.value if value.id == "scalar"}


def items(node: Node) -> list[Node]:
    return node.value if node is not None and node.id == "sequence" else []
