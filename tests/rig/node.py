"""The folders of a node on which the CNI plugin is installed, and a chain of other plugins in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.rig.pod import PROXY

if TYPE_CHECKING:
    from pathlib import Path

BRIDGE = {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "subnet": "10.244.0.0/24"}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "说明": "端口"}
CHAIN: dict[str, Any] = {"cniVersion": "1.0.0", "name": "pods", "plugins": [BRIDGE, PORTMAP]}
SETTINGS = ("--", "-u", str(PROXY), "-d", "15090")


class Folders:
    """Where plugins are, and where networks are configured."""

    def __init__(self, root: Path) -> None:
        self.bin, self.conf = root / "bin", root / "net.d"
        self.bin.mkdir()
        self.conf.mkdir()

    def write(self, name: str, config: object) -> None:
        (self.conf / name).write_text(json.dumps(config))

    def config(self, name: str) -> Any:
        return json.loads((self.conf / name).read_text())

    def types(self, name: str) -> list[str]:
        return [plugin["type"] for plugin in self.config(name)["plugins"]]
