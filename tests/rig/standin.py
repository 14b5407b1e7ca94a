"""A stand-in for a proxy, as a process of its own: `python standin.py SETTINGS`, where SETTINGS is a JSON object.

    listen   pairs of an address and a port; `::` hears IPv6 alone, `::+` IPv4 as well
    pass_on  the address from which inbound connections are passed on; empty for the kernel's choice, null for none
    inbound  the port of inbound connections
    dns      pairs of an address and a port where UDP is heard
    upstream where what is heard there is asked, `address:port`

It says `ready` when it listens, and then a line for each connection or query.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys

SO_ORIGINAL_DST = 80
MOST = 30
"""Connections that are passed on, and queries that are asked: a loop ends there."""


def main() -> None:
    said = json.loads(sys.argv[1])
    listeners = [tcp(host, port) for host, port in said.get("listen", [])]
    resolvers = [udp(host, port) for host, port in said.get("dns", [])]
    kept: list[socket.socket] = []
    done = 0
    print("ready", flush=True)
    while True:
        for ready in select.select([*listeners, *resolvers], [], [])[0]:
            done += 1
            if ready in resolvers:
                query = ready.recv(1000)
                print("query", flush=True)
                if done <= MOST:
                    host, _, port = said["upstream"].rpartition(":")
                    with socket.socket(ready.family, socket.SOCK_DGRAM) as asking:
                        asking.sendto(query, (host, int(port)))
                continue
            accepted, _ = ready.accept()
            kept.append(accepted)
            print(f"connection at {accepted.getsockname()[1]}", flush=True)
            is_inbound = accepted.getsockname()[1] == said.get("inbound")
            if is_inbound and said.get("pass_on") is not None and done <= MOST:
                raw = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
                going_to = (socket.inet_ntoa(raw[4:8]), struct.unpack("!H", raw[2:4])[0])
                kept.append(socket.create_connection(going_to, 2, (said["pass_on"], 0)))


def tcp(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::+")
    opened.bind((host.removesuffix("+"), port))
    opened.listen()
    return opened


def udp(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((host, port))
    return opened


if __name__ == "__main__":
    main()
