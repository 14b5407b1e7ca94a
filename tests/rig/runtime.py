"""A container runtime, as far as a plugin sees one: variables, a configuration on stdin, JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.rig.pod import ROOT, readable_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.rig.namespace import Namespace

PROGRAM = ROOT / "capture/programs/capture-cni"
CAPABILITY = "io.kubernetes.cri.pod-annotations"
PREVIOUS: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "mac": "0a:58:0a:f4:00:05", "sandbox": "/run/netns/pod"}],
    "ips": [{"address": "10.244.0.5/24", "gateway": "10.244.0.9", "interface": 0}],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {"nameservers": ["10.96.0.10"], "search": ["网格.local"]},
}
"""What the main plugin of a chain answered."""
SIDECAR = {"sidecar.istio.io/status": '{"containers":["istio-proxy"]}'}


@dataclass(frozen=True)
class Answer:
    """How a call of the plugin ended."""

    status: int
    result: Any
    """The JSON on stdout, or None if there was nothing."""
    stderr: str


def configuration(
    *args: str, annotations: Mapping[str, str] | None = None, version: str = "1.0.0", **more: Any
) -> dict[str, Any]:
    """What a runtime hands to the last plugin of a chain; keys that are given as None are left out."""
    config: dict[str, Any] = {
        "cniVersion": version,
        "name": "pods",
        "type": "capture-cni",
        "capabilities": {CAPABILITY: True},
        "capture": {"args": list(args)},
        "prevResult": {**PREVIOUS, "cniVersion": version},
    }
    if annotations is not None:
        config["runtimeConfig"] = {CAPABILITY: dict(annotations)}
    return {key: value for key, value in (config | more).items() if value is not None}


def environment(verb: str, netns: str, **more: str | None) -> dict[str, str]:
    """The variables of a call, as containerd and CRI-O set them; those that are given as None are left out."""
    its: dict[str, str | None] = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "3f9c0d6a7b1e",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0",
    }
    return {name: value for name, value in (its | more).items() if value is not None}


def call(node: Namespace, environ: Mapping[str, str], config: object) -> Answer:
    """Call the plugin on a node. A configuration that is text already is given as it stands."""
    text = config if isinstance(config, str) else json.dumps(config)
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": readable_source()}
    done = node.run(sys.executable, str(PROGRAM), env=own | dict(environ), text=text)
    return Answer(done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr)
