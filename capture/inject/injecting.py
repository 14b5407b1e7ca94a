"""From a manifest and settings to a manifest in which every pod is captured; or what is in the way, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capture.errors import BadSettings, Refusal
from capture.inject.editing import CONTAINERS, KEY, NAME, Edit, edited, insertion, removals
from capture.inject.manifests import BadManifest, items, member, pods_in, text_at, texts
from capture.inject.proxy import PROXIES
from capture.settings.argv import Argument, read_argv
from capture.settings.declared import FLAGS, OF_THE_LOG, SWITCHES, Settings
from rules.cni.annotations import INJECT, MODE, NO, NO_CAPTURE, STATUS, Misread, contradictions, settings_said

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.inject.manifests import PodText
    from capture.inject.proxy import Proxy

FIRST = {"-p": "15001", "-z": "15006", "-u": "1337", "-m": "REDIRECT", "-i": "*", "-x": "", "-b": "*"} | {
    "-d": "15090,15021,15020"
}
"""What Istio's injector gives to a container, as long as nobody says anything else."""
NOT_OF_THE_POD = OF_THE_LOG | {"config", "network_namespace"}
"""Settings that mean the run that writes, not the one that is written."""
OTHER_CAPTURES = (
    "istio-init",
    "istio-validation",
    "linkerd-init",
    "kuma-init",
    "consul-connect-inject-init",
    "osm-init",
)
"""Init containers that capture, by name."""
PROGRAMS = ("istio-iptables", "pilot-agent", "capture")
IMAGES = ("traffic-capture", "proxy_init", "proxy-init", "kuma-init")
PROXY_MARK = "CAPTURE_INJECTED_PROXY"
"""A variable of our container: the name of the proxy's, by which that is taken out again."""
CONTEXT = {
    "runAsUser": 0,
    "runAsGroup": 0,
    "runAsNonRoot": False,
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
}
RESOURCES = {"requests": {"cpu": "10m", "memory": "10Mi"}, "limits": {"cpu": "100m", "memory": "50Mi"}}


def undone(text: str) -> str:
    """The text as it was before our container was written into it. Raises CaptureError."""
    edits = list[Edit]()
    for pod in pods_in(text):
        proxies = proxies_of(pod)
        edits += removals(text, pod, {NAME, *proxies})
        edits += removals(text, pod, proxies, CONTAINERS)
    return edited(text, edits)


def proxies_of(pod: PodText) -> set[str]:
    """The name of the proxy's container that was written with ours, if one was."""
    ours = [each for each in items(member(pod.spec, KEY)) if text_at(each, "name") == NAME]
    said = [variable for each in ours for variable in items(member(each, "env"))]
    return {text_at(variable, "value") for variable in said if text_at(variable, "name") == PROXY_MARK}


def injected(text: str, settings: Settings, image: str, proxy: Proxy | None = None) -> str:
    """The text with our container in every pod, with these settings and what the pod's annotations say, and a proxy's.

    What is there already is written anew. Raises BadManifest with all that is refused, or NotRead.
    """
    text = undone(text)
    edits, refusals = [], list[Refusal]()
    for pod in pods_in(text):
        annotations = texts(member(member(pod.pod, "metadata"), "annotations"))
        labels = texts(member(member(pod.pod, "metadata"), "labels"))
        refusals += (Refusal(f"{pod}: annotation {n}", v, r) for n, v, r in contradictions(annotations, labels))
        if left_alone(annotations, labels):
            continue
        try:
            arguments, environ = arguments_for(settings, annotations)
            refusals += (pod.refused(reason) for reason in reasons(pod, annotations, arguments))
            if proxy:
                refusals += (pod.refused(reason) for reason in proxy.reasons(pod, arguments))
                environ[PROXY_MARK] = proxy.name
            ours, beside = [container(image, arguments, environ)], [proxy.container] if proxy else []
            edits.append(insertion(text, pod, ours + beside if proxy and proxy.goes_on else ours))
            if proxy and not proxy.goes_on:
                edits.append(insertion(text, pod, beside, CONTAINERS))
        except BadSettings as refused:
            refusals += (
                each if isinstance(refused, BadManifest) else Refusal(f"{pod}: {each.source}", each.value, each.reason)
                for each in refused.refusals
            )
    if refusals:
        raise BadManifest(refusals)
    return edited(text, edits)


def left_alone(annotations: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a pod says itself that it is not to be captured."""
    asked = {each.get(INJECT, "").strip().lower() for each in (annotations, labels)}
    return not asked.isdisjoint(NO) or annotations.get(MODE, "").strip() == NO_CAPTURE


def container(image: str, arguments: dict[str, str], environ: dict[str, str]) -> dict[str, Any]:
    args = [word for flag, value in arguments.items() for word in words(flag, value)]
    env = {"env": [{"name": name, "value": value} for name, value in environ.items()]} if environ else {}
    return {"name": NAME, "image": image, "args": args, **env, "securityContext": CONTEXT, "resources": RESOURCES}


def words(flag: str, value: str) -> tuple[str, ...]:
    return (f"{flag}={value}",) if flag.startswith("--") else (flag, value)


def arguments_for(settings: Settings, annotations: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The flags of one pod's container with their values, and its variables. Raises BadSettings."""
    arguments, environ = dict(FIRST), {}
    for declared, _, origin in settings.given():
        if declared.name in NOT_OF_THE_POD:
            continue
        if declared.long:
            arguments[declared.short or declared.long] = origin.text or ""
        else:
            environ[declared.env[0]] = origin.text or ""
    try:
        said = [Argument(its.flag, its.value, its.annotation) for its in settings_said(annotations, arguments["-d"])]
    except Misread as misread:
        refusals = [Refusal(f"annotation {name}", value, reason) for name, value, reason in misread.refusals]
        raise BadSettings(refusals) from misread
    flags, unreadable = read_argv([w for f, v in arguments.items() for w in words(f, v)], FLAGS, switches=SWITCHES)
    Settings.from_arguments([*flags, *said], unreadable, environ)
    return arguments | {its.flag: its.value for its in said}, environ


def reasons(pod: PodText, annotations: dict[str, str], arguments: dict[str, str]) -> Iterator[str]:
    """Why our container would do harm in this pod, in sentences."""
    if text_at(pod.spec, "hostNetwork").lower() in ("true", "yes", "on"):
        yield "it is on the host's network (hostNetwork: true), where it would capture the node"
    if STATUS in annotations:
        yield f"it has a capture already: its annotation {STATUS} says that an injector wrote one"
    for each in items(member(pod.spec, "initContainers")):
        name, image = text_at(each, "name"), text_at(each, "image")
        said = [str(word.value) for key in ("command", "args") for word in items(member(each, key))][:1]
        program = said[0].rpartition("/")[2] if said else ""
        if name in OTHER_CAPTURES or program in PROGRAMS or any(known in image for known in IMAGES):
            yield f"it has a capture already: the init container {name}"
    uids = arguments["-u"].split(",")
    inherited = text_at(member(pod.spec, "securityContext"), "runAsUser")
    for each in items(member(pod.spec, "containers")):
        name, image = text_at(each, "name"), text_at(each, "image")
        uid = text_at(member(each, "securityContext"), "runAsUser") or inherited
        if uid in uids and not any(known in name or known in image for known in PROXIES):
            yield f"the container {name} runs as uid {uid}, the proxy's: nothing of it would be captured"
