"""What the plugin answers: each verb, with the namespace that it is about.

ADD runs the init path, and is paid for by every pod: neither click, json nor re is imported here.
"""

from __future__ import annotations

import os

from capture.cni import plain_json
from capture.errors import BadSettings, CaptureError, LockHeld, NamespaceUnusable, Outside, Refusal, in_words
from capture.kernel import netns
from capture.log import Log
from capture.settings.argv import Argument, read_argv
from capture.settings.declared import DECLARED_BY_FLAG, FLAGS, SWITCHES, Origin, Settings
from capture.text import on_one_line
from rules.cni import spec
from rules.cni.annotations import Misread, reason_to_leave_alone, settings_said
from rules.cni.network import CAPABILITY, KEY, Network, excluded_inbound, read_network
from rules.cni.spec import Call, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

QUIET = Argument("--log_output_level", "warn")
"""A runtime passes on what a plugin says, for every pod: by default only what will surprise."""
NOT_HERE = {
    "network_namespace": "the runtime says which namespace, in CNI_NETNS",
    "dry_run": "stdout is the runtime's",
    "dry_run_file": "nothing is dry here",
    "cleanup_only": "DEL removes",
    "skip_rule_apply": "a plugin without rules is one to take out of the chain",
}
"""Settings that mean nothing in a plugin's configuration, and why."""


def answer(environ: Mapping[str, str], text: str) -> tuple[int, dict[str, Any] | None]:
    """The exit status of a call, and the JSON object for stdout, if there is one."""
    version = spec.NEWEST
    try:
        call = spec.read_call(environ)
        config = read_config(text, may_be_empty=call.verb == spec.VERSION)
        if config.get("cniVersion") in spec.VERSIONS:
            version = config["cniVersion"]
        return 0, obeyed(call, config, may_be_ours="CNI_NETNS_OVERRIDE" in environ)
    except Failure as failure:
        return 1, failure.result(version)
    except Exception as error:
        known = in_words(error)
        if known is None:
            raise
        return 1, failure_of(known).result(version)


def read_config(text: str, *, may_be_empty: bool) -> dict[str, Any]:
    """Raises Failure."""
    if may_be_empty and not text.strip():
        return {}
    try:
        config = plain_json.read(text)
    except ValueError as refused:
        raise Failure(spec.UNDECODABLE, f"the configuration on stdin is not JSON: {refused}") from refused
    if not isinstance(config, dict):
        raise Failure(spec.UNDECODABLE, f"the configuration on stdin is a {type(config).__name__}, not an object")
    return config


def obeyed(call: Call, config: dict[str, Any], *, may_be_ours: bool) -> dict[str, Any] | None:
    """Do what is asked; the result, for the verbs that have one. Raises Failure or CaptureError."""
    if call.verb == spec.VERSION:
        return spec.version_result(config.get("cniVersion"))
    spec.version_of(config, call.verb)
    if call.verb == spec.DEL:
        if call.netns and os.path.exists(call.netns):
            refuse_ours(call, may_be_ours=may_be_ours)
            removed(call)
        return None
    network = read_network(config)
    match call.verb:
        case spec.GC:
            return None  # nothing of ours is outside of the containers' namespaces, and that goes with them
        case spec.STATUS:
            ready(network)
            return None
        case spec.CHECK:
            if network.previous is None:
                raise not_chained()
            checked(call, network)
            return None
        case _:
            if network.previous is None:
                raise not_chained()
            refuse_ours(call, may_be_ours=may_be_ours)
            captured(call, network)
            return network.previous


def not_chained() -> Failure:
    reason = "this plugin stands behind another one in a chain, and hands on that one's result"
    return Failure(spec.INVALID_CONFIG, f"prevResult is missing in the configuration; {reason}")


def refuse_ours(call: Call, *, may_be_ours: bool) -> None:
    """Raises Failure if the namespace is that of the plugin: nobody means to capture the node."""
    try:
        is_ours = os.path.samestat(os.stat(call.netns), os.stat(netns.OURS))
    except OSError:
        return  # entering it says why
    if is_ours and not may_be_ours:
        raise Failure(
            spec.INVALID_NAMESPACE, f"CNI_NETNS {call.netns} is the namespace that this plugin runs in, not a pod's"
        )


def settings_for(call: Call, network: Network, log: Log) -> Settings | None:
    """The settings of this pod, or None if it is left alone, which is said. Raises Failure or CaptureError."""
    namespace = call.argument("K8S_POD_NAMESPACE")
    pod = "/".join(filter(None, (namespace, call.argument("K8S_POD_NAME")))) or call.container or network.name
    said: list[Argument] = []
    arguments, unreadable = read_argv(network.args, FLAGS, switches=SWITCHES)
    if namespace and namespace in network.namespaces_left_alone:
        log.info(f"{pod} is left alone: its namespace is one of {KEY}.excludeNamespaces")
        return None
    if network.annotations is None:
        if call.verb == spec.ADD:
            how = f"runtimeConfig has no {CAPABILITY}; the configuration has to declare it in capabilities"
            log.warn(f"{pod} is captured by the plugin's configuration alone: {how}")
    else:
        annotations = dict(network.annotations)
        try:
            reason = reason_to_leave_alone(annotations)
            if reason:
                log.info(f"{pod} is left alone: {reason}")
                return None
            excluded = excluded_inbound([(argument.flag, argument.value) for argument in arguments])
            said = [Argument(its.flag, its.value, its.annotation) for its in settings_said(annotations, excluded)]
        except Misread as misread:
            refusals = [Refusal(f"annotation {name}", value, reason) for name, value, reason in misread.refusals]
            raise BadSettings(refusals) from misread
    first = [QUIET, Argument("-d", excluded_inbound([]))]
    within = [Argument("--network-namespace", call.netns)] if call.netns else []
    unreadable += misplaced(settings_named(arguments))
    settings = Settings.from_arguments([*first, *arguments, *said, *within], unreadable, dict(network.env))
    refusals = list(misplaced(settings.origins | {"network_namespace": Origin("default")}))
    if refusals:
        raise BadSettings(refusals)
    return settings


def settings_named(arguments: Sequence[Argument]) -> dict[str, Origin]:
    """Which settings these flags give, those that we give ourselves afterwards among them."""
    return {DECLARED_BY_FLAG[it.flag].name: Origin("flag", it.flag, it.value) for it in arguments}


def misplaced(origins: Mapping[str, Origin]) -> Iterator[Refusal]:
    """What the configuration asks for, and a plugin cannot do."""
    for name, why in NOT_HERE.items():
        origin = origins.get(name, Origin("default"))
        if origin.kind != "default":
            yield Refusal(str(origin), origin.text, f"is of no use in a plugin: {why}")


def captured(call: Call, network: Network) -> None:
    """Make the pod's namespace hold what its settings ask for. Raises Failure or CaptureError."""
    settings = settings_for(call, network, Log("warn"))
    if settings is not None:
        from capture.init import follow

        follow(settings, dict(network.env), Log(settings.log_output_level, as_json=settings.log_as_json))


def checked(call: Call, network: Network) -> None:
    """Raises Failure with all that is otherwise than ADD left it."""
    log = Log("error")
    settings = settings_for(call, network, log)
    if settings is None:
        return
    from capture.host.facts import read_facts
    from capture.inspect.verify import AS_PLANNED, compared
    from capture.intent.resolve import resolve
    from rules.plan.plan import plan

    netns.enter(call.netns)
    resolved = resolve(settings, read_facts(dict(network.env), settings.nameservers_file))
    found = compared(settings, plan(resolved.intent), log)
    if found.verdict != AS_PLANNED:
        lines = [on_one_line(str(finding)) for finding in found.findings]
        more = f", and {len(lines) - 1} more" if len(lines) > 1 else ""
        what = "nothing of the capture is there" if found.verdict == "nothing" else f"{lines[0]}{more}"
        said = f"the capture is not as planned: {what}"
        raise Failure(spec.NOT_AS_PLANNED, said, unsaid(said, lines))


def removed(call: Call) -> None:
    """Remove what is ours from a namespace that is still there, unless other interfaces of the pod stay.

    What cannot be removed is said and is no failure: it goes with the namespace, and a runtime that is told of a
    failure keeps the pod.
    """
    log = Log("warn")
    try:
        netns.enter(call.netns)
        others = [name for name in other_interfaces() if name != call.interface]
        if others:
            log.info(f"the capture stays, for {', '.join(others)} of {call.container} stays")
            return
        from capture.apply.clean import clean

        clean(Settings({}, {}), log).raise_if_any_remains()
    except (CaptureError, OSError) as error:
        known = in_words(error)
        if known is None:
            raise
        log.warn(f"the capture of {call.container} goes with its namespace, and not before: {known.what}")


def other_interfaces() -> Iterator[str]:
    """The interfaces with an address that other hosts could reach, beside lo."""
    import _socket

    from capture.netlink import rtnetlink

    for number in dict.fromkeys(address.interface for address in rtnetlink.addresses() if address.is_usable):
        yield _socket.if_indextoname(number)


def ready(network: Network) -> None:
    """Raises Failure or CaptureError if ADD would fail for every pod: settings are refused, or no program can write."""
    settings_for(Call(spec.STATUS), network.but(annotations=None), Log("none"))
    from capture.iptables.iptables import NATIVE, OF_IPTABLES, Iptables
    from rules.netfilter.values import Family

    tools = [Iptables(NATIVE, Family.V4).path(""), *(Iptables(its, Family.V4).path("restore") for its in OF_IPTABLES)]
    if not any(tools):
        raise Failure(
            spec.NOT_AVAILABLE, "neither iptables-restore nor nft is installed on this node; install one of them"
        )


def unsaid(said: str, lines: Iterable[str]) -> str:
    """Those that are not in the message: runtimes show details behind it, on the same line."""
    return "\n".join(line for line in lines if line.strip().removeprefix("hint: ") not in said)


def failure_of(error: CaptureError) -> Failure:
    """The error in the specification's codes, with our sentence first."""
    details = unsaid(error.in_one_line, error.lines())
    if isinstance(error, NamespaceUnusable):
        return Failure(spec.INVALID_ENVIRONMENT, f"CNI_NETNS: {error.in_one_line}", details)
    codes = ((BadSettings, spec.INVALID_CONFIG), (LockHeld, spec.TRY_AGAIN), (Outside, spec.IO_FAILURE))
    code = next((code for kind, code in codes if isinstance(error, kind)), spec.NOT_CAPTURED)
    return Failure(code, error.in_one_line, details)
