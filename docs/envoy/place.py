"""A place to try the experiments in: two pods and what is outside of them, as network namespaces of this host.

`python3 place.py`, as root, makes them and serves in them until Ctrl-C, and then removes them. Nothing else is touched.
"""

from __future__ import annotations

import json
import signal
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler

SERVICES = {
    "outside": (
        *("v1=10.107.42.16:80", "v1=10.107.42.16:8080", "v2=10.107.42.17:80", "world=9.9.9.9:80", "world=9.9.9.9:443"),
        *("world=[2001:db8::1]:80", "auth=10.107.42.17:8099", "endpoints=10.107.42.17:2020"),
    ),
    "pod": ("app=0.0.0.0:9080", "app=[::]:9080", "app=127.0.0.1:80"),
    "other-pod": ("other=0.0.0.0:9080",),
}
"""Who answers, where."""
LINKS = {
    "outside": """
        link add eth0 type veth peer name eth0 netns pod
        link add eth1 type veth peer name eth0 netns other-pod
        link set lo up
        link set eth0 up
        link set eth1 up
        addr add 10.244.0.9/24 dev eth0
        addr add fd00:10:244::9/64 dev eth0 nodad
        addr add 10.244.1.9/24 dev eth1
        addr add 9.9.9.9/32 dev lo
        addr add 10.96.0.10/32 dev lo
        addr add 10.107.42.16/32 dev lo
        addr add 10.107.42.17/32 dev lo
        addr add 2001:db8::1/128 dev lo nodad
    """,
    "pod": """
        link set lo up
        link set eth0 up
        addr add 10.244.0.5/24 dev eth0
        addr add fd00:10:244::5/64 dev eth0 nodad
        route add default via 10.244.0.9
        route add default via fd00:10:244::9
    """,
    "other-pod": """
        link set lo up
        link set eth0 up
        addr add 10.244.1.5/24 dev eth0
        route add default via 10.244.1.9
    """,
}
"""What `ip -n NAMESPACE -batch -` is given."""
READY = "Ready: `ip netns exec pod bash` in another terminal is a shell in the pod. Ctrl-C removes it all."


class Service(BaseHTTPRequestHandler):
    """Says its name, and who asked."""

    protocol_version = "HTTP/1.1"
    server: Server
    endpoints: tuple[str, ...] = ("10.107.42.16",)
    """What the control plane tells Envoy; a PUT changes it."""

    def do_GET(self) -> None:
        """Envoy's authorization asks for /check, and takes 200 for yes."""
        allowed = self.path != "/check" or self.headers.get("x-token") == "good"
        peer = self.client_address[0].removeprefix("::ffff:")
        self.answer(200 if allowed else 403, f"{self.server.name}, asked by {peer}\n")

    def do_POST(self) -> None:
        """Envoy asks for the endpoints of a cluster: a DiscoveryRequest, and its answer."""
        self.body()
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        ends = [{"endpoint": {"address": {"socket_address": {"address": a, "port_value": 80}}}} for a in self.endpoints]
        found = {"@type": kind, "cluster_name": "service", "endpoints": [{"lb_endpoints": ends}]}
        told = {"version_info": " ".join(self.endpoints), "type_url": kind, "resources": [found]}
        self.answer(200, json.dumps(told))

    def do_PUT(self) -> None:
        """The addresses that stand in the body are the endpoints from now on."""
        Service.endpoints = tuple(self.body().split())
        self.answer(200, f"endpoints: {' '.join(self.endpoints) or 'none'}\n")

    def body(self) -> str:
        return self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the library's signature
        """Nothing: the answers say it."""


class Server(socketserver.ThreadingTCPServer):
    """One service at one address."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, described: str) -> None:
        self.name, _, where = described.partition("=")
        host, _, port = where.rpartition(":")
        self.address_family = socketserver.socket.AF_INET6 if "[" in host else socketserver.socket.AF_INET
        super().__init__((host.strip("[]"), int(port)), Service, bind_and_activate=False)
        if "[" in host:
            self.socket.setsockopt(socketserver.socket.IPPROTO_IPV6, socketserver.socket.IPV6_V6ONLY, 1)
        self.server_bind()
        self.server_activate()


def serve(*described: str) -> None:
    """Serve all of these, say so, and go on until stdin ends, as it does when who started this is gone."""
    for each in described:
        threading.Thread(target=Server(each).serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def ip(*arguments: str, lines: str = "") -> None:
    if subprocess.run(["ip", *arguments], input=lines, text=True, check=False).returncode:
        sys.exit(1)  # it said why


def main() -> None:
    """Make it all, and wait for a signal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    made: list[str] = []
    servers: list[subprocess.Popen[str]] = []
    try:
        for name in LINKS:
            ip("netns", "add", name)
            made.append(name)
        for name, lines in LINKS.items():
            ip("-n", name, "-batch", "-", lines=lines)
        ip("netns", "exec", "outside", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for name, services in SERVICES.items():
            server = subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, __file__, *services],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for this process, which ends them
            )
            servers.append(server)
            if server.stdout is None or server.stdout.readline() != "ready\n":
                sys.exit(f"the services in {name} did not start")
        print(READY, flush=True)
        servers[0].wait()
    finally:
        for server in servers:
            server.kill()
            server.wait()
        for name in made:
            ip("netns", "del", name)


if __name__ == "__main__":
    serve(*sys.argv[1:]) if sys.argv[1:] else main()
