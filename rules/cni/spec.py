"""The protocol: versions, verbs, parameters and error codes, from the specification's words.

https://github.com/containernetworking/cni/blob/main/SPEC.md, versions 0.3.0 to 1.1.0.
"""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""The versions that are spoken, oldest first. Before 0.3.0 plugins were not chained."""
NEWEST = VERSIONS[-1]

ADD, DEL, CHECK, GC, STATUS, VERSION = "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"
SINCE = {ADD: "0.3.0", DEL: "0.3.0", VERSION: "0.3.0", CHECK: "0.4.0", GC: "1.1.0", STATUS: "1.1.0"}
"""Every verb, and the version of the specification that brought it."""
OF_A_CONTAINER = (ADD, DEL, CHECK)
"""The verbs that are about one attachment of one container."""

# "Error Codes" of the specification; those from 100 on are the plugin's own.
INCOMPATIBLE_VERSION, INVALID_ENVIRONMENT, IO_FAILURE, UNDECODABLE, INVALID_CONFIG = 1, 4, 5, 6, 7
INVALID_NAMESPACE = 8
"""CNI_NETNS is the namespace that the plugin itself is in (libcni's ErrInvalidNetNS)."""
TRY_AGAIN = 11
NOT_AVAILABLE = 50
NOT_CAPTURED, NOT_AS_PLANNED = 100, 101

LONGEST_INTERFACE_NAME = 15
"""Characters (IFNAMSIZ of linux/if.h, less the terminating zero)."""


class Failure(Exception):
    """An error that the runtime is told, by code and sentence."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def result(self, version: str) -> dict[str, Any]:
        """The JSON object of the specification's "Error" result."""
        told = {"cniVersion": version, "code": self.code, "msg": self.message}
        return {**told, "details": self.details} if self.details else told


class Call(Value):
    """What the environment says that a plugin is to do."""

    verb: str
    container: str = ""
    netns: str = ""
    interface: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    """CNI_ARGS, such as K8S_POD_NAME, in their order."""

    def argument(self, name: str) -> str:
        """The value of an argument; empty if it was not given."""
        return dict(self.arguments).get(name, "")


def read_call(environ: Mapping[str, str]) -> Call:
    """The call that these variables make. Raises Failure, which names those that are missing or mean nothing."""
    verb = environ.get("CNI_COMMAND", "")
    if verb not in SINCE:
        what = f"is {verb!r}; it has to be one of {', '.join(SINCE)}" if verb else "is not set"
        raise Failure(INVALID_ENVIRONMENT, f"CNI_COMMAND {what}")
    if verb not in OF_A_CONTAINER:
        return Call(verb)
    needed = ["CNI_CONTAINERID", "CNI_IFNAME", *(["CNI_NETNS"] if verb != DEL else [])]
    missing = [name for name in needed if not environ.get(name)]
    if missing:
        raise Failure(INVALID_ENVIRONMENT, f"{verb} needs {' and '.join(missing)} in the environment")
    container, interface = environ["CNI_CONTAINERID"], environ["CNI_IFNAME"]
    if not is_identifier(container):
        reason = "begins with a letter or digit, followed by letters, digits, dots, dashes and underscores"
        raise Failure(INVALID_ENVIRONMENT, f"CNI_CONTAINERID is {container!r}; one {reason}")
    if not is_interface(interface):
        reason = f"has at most {LONGEST_INTERFACE_NAME} characters, none of them a slash, a colon or white space"
        raise Failure(INVALID_ENVIRONMENT, f"CNI_IFNAME is {interface!r}; the name of an interface {reason}")
    netns = environ.get("CNI_NETNS", "")
    if netns and "/" not in netns:
        raise Failure(INVALID_ENVIRONMENT, f"CNI_NETNS is {netns!r}; it has to be a path, such as /run/netns/{netns}")
    return Call(verb, container, netns, interface, tuple(read_arguments(environ.get("CNI_ARGS", ""))))


def read_arguments(text: str) -> list[tuple[str, str]]:
    """CNI_ARGS, `FOO=BAR;ABC=123`. Raises Failure."""
    pairs = []
    for part in filter(None, text.split(";")):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise Failure(INVALID_ENVIRONMENT, f"CNI_ARGS has {part!r}; it is a list of NAME=VALUE;NAME=VALUE")
        pairs.append((name, value))
    return pairs


def is_identifier(text: str) -> bool:
    """Whether this may be the name of a network or the id of a container."""
    return text[:1].isalnum() and text.isascii() and text.translate(dict.fromkeys(map(ord, "._-"))).isalnum()


def is_interface(name: str) -> bool:
    """Whether the kernel takes this for the name of an interface (dev_valid_name in net/core/dev.c)."""
    is_short = 0 < len(name.encode()) <= LONGEST_INTERFACE_NAME
    return is_short and name not in (".", "..") and not any(c in "/:" or c.isspace() for c in name)


def version_of(config: Mapping[str, Any], verb: str) -> str:
    """The version in which a configuration is written. Raises Failure if it is not spoken, or lacks the verb."""
    version = config.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        spoken = f"this plugin speaks {', '.join(VERSIONS)}"
        raise Failure(INCOMPATIBLE_VERSION, f"the configuration's cniVersion is {version!r}; {spoken}")
    if VERSIONS.index(version) < VERSIONS.index(SINCE[verb]):
        came = f"which came with {SINCE[verb]}"
        raise Failure(INCOMPATIBLE_VERSION, f"cniVersion {version} of the configuration has no {verb}, {came}")
    return str(version)


def version_result(asked: object) -> dict[str, Any]:
    """What VERSION answers, in the version that was asked in."""
    return {"cniVersion": asked if isinstance(asked, str) and asked else NEWEST, "supportedVersions": list(VERSIONS)}
