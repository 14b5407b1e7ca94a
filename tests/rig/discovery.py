"""A control plane in a few lines: it tells Envoys the endpoints of a service by gRPC, and again when they change.

`StreamEndpoints` of envoy.service.endpoint.v3: HTTP/2 by h2, messages of protobuf written here (https://protobuf.dev/
programming-guides/encoding), for the package of gRPC is larger than all the tests.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from tests.rig.namespace import entered
from tests.rig.traffic import open_socket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from h2.connection import H2Connection

    from tests.rig.namespace import Namespace

KIND = b"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
PATH = b"/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
PORT = 80
"""Of every endpoint."""
VERSION_INFO, ERROR_DETAIL = 1, 6
"""Fields of a DiscoveryRequest: the version that is in use, and why the last answer was refused."""


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """A message of these fields; a text and a message within are bytes."""
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that has texts and messages alone, as a DiscoveryRequest has."""

    def number() -> int:
        value = shift = 0
        while True:
            byte = next(left)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    left = iter(data)
    with contextlib.suppress(StopIteration):
        while True:
            key, length = number(), number()
            yield key >> 3, bytes(next(left) for _ in range(length))


def assignment(hosts: Sequence[str], version: str) -> bytes:
    """A DiscoveryResponse: the endpoints of the cluster `service`."""

    def address(host: str) -> bytes:
        at = message((1, message((2, host.encode()), (3, PORT))))  # Address.socket_address
        return message((1, message((1, at))))  # LbEndpoint.endpoint, Endpoint.address

    ends = message(*((2, address(host)) for host in hosts))
    resource = message((1, KIND), (2, message((1, b"service"), (2, ends))))
    return message((VERSION_INFO, version.encode()), (2, resource), (4, KIND), (5, version.encode()))


class Discovery:
    """What Envoys are told, and which versions of it they took."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.taken: list[str] = []
        self.refused: list[bytes] = []
        self._endpoints, self._version = list(endpoints), 1
        self._streams: list[tuple[socket.socket, H2Connection, int]] = []
        self._lock = threading.Lock()

    def tell(self, *endpoints: str) -> str:
        """These are the endpoints from now on; the version that says so."""
        with self._lock:
            self._endpoints, self._version = list(endpoints), self._version + 1
            for stream in self._streams:
                self._send(*stream)
            return str(self._version)

    def _send(self, client: socket.socket, connection: H2Connection, stream: int) -> None:
        body = assignment(self._endpoints, str(self._version))
        connection.send_data(stream, b"\0" + len(body).to_bytes(4, "big") + body)
        client.sendall(connection.data_to_send())

    def answer(self, client: socket.socket) -> None:
        """One connection of an Envoy, to its end."""
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        from h2.events import DataReceived, RequestReceived

        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        client.sendall(connection.data_to_send())
        unread = b""
        while data := client.recv(65536):
            with self._lock:
                for event in connection.receive_data(data):
                    if isinstance(event, RequestReceived):
                        assert (b":path", PATH) in event.headers
                        answered = [(":status", "200"), ("content-type", "application/grpc")]
                        connection.send_headers(event.stream_id, answered)
                        self._streams.append((client, connection, event.stream_id))
                        self._send(*self._streams[-1])
                    elif isinstance(event, DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        unread = self._read(unread + event.data)
                client.sendall(connection.data_to_send())

    def _read(self, data: bytes) -> bytes:
        """Note what Envoy says of answers; what is left is the beginning of a message."""
        while len(data) >= 5 and len(data) >= (end := 5 + int.from_bytes(data[1:5], "big")):
            said = dict(fields(data[5:end]))
            if ERROR_DETAIL in said:
                self.refused.append(said[ERROR_DETAIL])
            elif VERSION_INFO in said:
                self.taken.append(said[VERSION_INFO].decode())
            data = data[end:]
        return data


@contextlib.contextmanager
def discovering(where: Namespace, host: str, port: int, *endpoints: str) -> Iterator[Discovery]:
    """A control plane at this address."""
    control, clients = Discovery(endpoints), list[socket.socket]()
    with entered(where):
        server = open_socket(host, "tcp", 0, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen()

    def answer(client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it goes when Envoy does, or when we do
            control.answer(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                clients.append(client)
                threads.append(threading.Thread(target=answer, args=[client]))
                threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield control
    finally:
        server.shutdown(socket.SHUT_RDWR)
        threads[0].join()
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for each in (server, *clients):
            each.close()
