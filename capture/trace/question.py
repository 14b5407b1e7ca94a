"""What `capture trace` is asked: a packet, read from the command line and checked."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from capture.errors import BadSettings, Refusal
from capture.host import facts
from capture.settings import parsers
from rules.addresses import ip_address
from rules.netfilter.values import Family
from rules.packets.packet import Direction
from rules.plan.names import PASSTHROUGH

if TYPE_CHECKING:
    from collections.abc import Callable

    from rules.simulator.simulate import Address


RESOLVER_OPTIONS = "timeout:1 attempts:1"
"""For resolv.conf(5): a name that nobody knows is not waited for."""


class Question:
    """The command line, read and checked. Raises BadSettings for what cannot be asked."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.refusals: list[Refusal] = []
        self.notes: list[str] = []
        self.direction = Direction.IN if options["inward"] else Direction.OUT
        self.protocol: str = options["protocol"]
        self.state: str = options["state"].upper()
        self.live: bool = options["live"]
        self.mark: int = self.read("--mark", options["mark"], parsers.mark) or 0
        self.interface: str = self.read("--iface", options["interface"], one_interface) or ""
        if options["inward"] and options["outward"]:
            self.refuse("flag --out", None, "contradicts --in; give one of the two")
        self.uid = self.read("--uid", options["user"], lambda text: an_id(text, facts.uid_of, "user"))
        self.gid = self.read("--gid", options["group"], lambda text: an_id(text, facts.gid_of, "group"))
        if self.direction is Direction.IN:
            for flag, given in (("--uid", options["user"]), ("--gid", options["group"])):
                if given is not None:
                    self.refuse(f"flag {flag}", given, "is without meaning for --in: what arrives has no owner here")
        came_from: tuple[Address | None, int | None] = self.read("--src", options["source"], a_source) or (None, None)
        self.source, self.source_port = came_from
        self.address: Address | None = None
        self.port = 0
        self.read_destination(options["to"])
        if self.refusals:
            raise BadSettings(self.refusals)

    def refuse(self, where: str, value: str | None, reason: str) -> None:
        self.refusals.append(Refusal(where, value, reason))

    def read(self, flag: str, text: str | None, reader: Callable[[str], Any]) -> Any:
        """A flag's value, read; None if it was not given, or was refused."""
        try:
            return None if text is None else reader(text)
        except ValueError as refused:
            self.refuse(f"flag {flag}", text, str(refused))
            return None

    def read_destination(self, words: tuple[str, ...]) -> None:
        if len(words) != 1:
            given = f"{len(words)} are given" if words else "none is given"
            self.refuse(
                "argument [HOST]:PORT", None, f"{given}; give one, such as 9.9.9.9:80, [2001:db8::1]:443 or :80"
            )
            return
        (text,) = words
        try:
            host, self.port = host_and_port(text)
            if host or self.direction is Direction.OUT:
                self.address, *others = addresses_of(host)
                if others:
                    listed = ", ".join(map(str, others))
                    self.notes.append(f"{host} is {self.address}; it is also {listed}, which is not traced")
                elif host != str(self.address):
                    self.notes.append(f"{host} is {self.address}")
            if self.address and self.source and self.address.version != self.source.version:
                self.refuse("flag --src", str(self.source), f"is not of the family of {self.address}")
        except ValueError as refused:
            self.refuse("argument", text, str(refused))


def quoted(text: str) -> str:
    return f'"{text}"'


def host_and_port(text: str) -> tuple[str, int]:
    """`9.9.9.9:80`, `[2001:db8::1]:443`, `example.org:443`, `:80` or `80`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("is not HOST:PORT; an IPv6 address goes in brackets, as in [2001:db8::1]:443")
    if not colon and not port.isdigit():
        raise ValueError("has no port; give HOST:PORT, such as 9.9.9.9:80")
    try:
        return host.strip("[]"), parsers.port(port)
    except ValueError:
        raise ValueError("has no port from 1 to 65535 behind the last colon; give HOST:PORT") from None


def addresses_of(host: str) -> list[Address]:
    """The addresses that a name stands for, or the one that it is. Raises ValueError."""
    if not host:
        raise ValueError("names no host; give HOST:PORT, such as 9.9.9.9:80")
    try:
        return [usable(parsers.address(host))]
    except ValueError as refused:
        if all(char in "0123456789abcdefABCDEF:." for char in host) and not any(map(str.isalpha, host.split(":")[0])):
            raise ValueError(f"has {host} for a host, which {refused}") from None
    os.environ.setdefault("RES_OPTIONS", RESOLVER_OPTIONS)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError(f"has {host} for a host, a name that is not known here; give its address") from None
    return [usable(ip_address(address)) for address in dict.fromkeys(str(entry[4][0]) for entry in found)]


def usable(address: Address) -> Address:
    """An address that one host has. Raises ValueError."""
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError("is the address of no single host; give one")
    return address


def a_source(text: str) -> tuple[Address, int | None]:
    """`10.0.0.1`, `10.0.0.1:5353`, `fd00::1` or `[fd00::1]:5353`."""
    try:
        return usable(parsers.address(text.strip("[]"))), None
    except ValueError as refused:
        host, colon, port = text.rpartition(":")
        if not colon or (":" in host and not host.startswith("[")):
            raise ValueError(str(refused)) from None
        return usable(parsers.address(host.strip("[]"))), parsers.port(port)


def an_id(text: str, lookup: Callable[[str], int | None], kind: str) -> int:
    """A number, or the name of somebody on this host."""
    owner = parsers.owner(text)
    number = lookup(owner.name) if isinstance(owner, parsers.Name) else owner
    if number is None:
        raise ValueError(f"is no {kind} on this host; give the number")
    return number


def one_interface(text: str) -> str:
    (name,) = parsers.interfaces(text) or ("",)
    if not name or name.endswith("+"):
        raise ValueError("is not the name of one interface")
    return name


def is_outside(address: Address) -> bool:
    """Whether others could answer to it."""
    return not (address.is_loopback or address.is_link_local or address in PASSTHROUGH[Family.V6])
