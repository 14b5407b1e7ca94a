"""Command lines that apply takes, and calls between a pod and its outside, drawn by chance from what the rig can do.

Every call has a source port of its own, so that conntrack remembers nothing of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.rig.pod import ADDRESSES, GATEWAY, OUTSIDE, PROXY
from tests.rig.traffic import Call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from tests.rig.pod import Pod

CIDRS = (
    "9.9.9.9/32",
    "1.1.1.1/32",
    "10.0.0.0/8",
    "10.96.0.0/16",
    "172.16.0.0/12",
    "10.244.0.0/24",
    "127.1.2.3/32",
    "0.0.0.0/0",
    "2001:db8::/32",
    "2001:db8::1/128",
    "fd00:96::/64",
    "fd00:244::/64",
    "::/0",
)
PORT_LISTS = (
    "",
    "80",
    "22,443",
    "443-9080",
    "8080:9080,53",
    "22,25,53,80,111,443,500,993,3306,5432,6379,8080,9080,11211,27017,31000-31005",
)
INTERFACES = ("eth9", "eth0", "eth+", "lo", "veth+,eth9")
TCP_PORTS = (22, 53, 80, 443, 3306, 5432, 8080, 9080, 15008, 15020, 15090, 31000)
USERS = ((1000, 1000), (PROXY, PROXY), (1000, PROXY), (PROXY, 1000), (3, 3), (0, 0), (1000, 202), (2000, 1), (1500, 5))
SOURCE_PORTS = range(20000, 30000)
CLOSED = 7777


@dataclass(frozen=True)
class CommandLine:
    """A command line and its environment."""

    arguments: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def is_transparent(self) -> bool:
        return "TPROXY" in self.arguments

    def __str__(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.environ.items()), *map(repr, self.arguments)])


def settings(random: Random) -> CommandLine:
    """A command line, each setting as likely left out as not."""
    said: list[str] = ["-u", random.choice([str(PROXY), str(PROXY), f"{PROXY},3"])]
    said += drawn_list(random)
    environ: dict[str, str] = {}
    if maybe(random, 0.15):
        environ["ISTIO_OUTBOUND_OWNER_GROUPS"] = random.choice(
            ["202", "1,202", "5,1000,1", ",".join(map(str, range(45)))]
        )
    if maybe(random, 0.15):
        environ["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"] = random.choice(["202", "1,5"])
    if maybe(random, 0.15):
        environ["ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"] = random.choice(["127.0.0.0/8", "127.1.2.3/32"])
    if maybe(random, 0.15):
        environ["SSH_CONNECTION"] = f"{GATEWAY[4]} 50000 {ADDRESSES[4]} 22"
    return CommandLine(tuple(said), environ)


def drawn_list(random: Random) -> Iterator[str]:
    """The optional flags."""
    options: dict[str, tuple[float, Sequence[str]]] = {
        "-g": (0.2, (str(PROXY), "202", f"{PROXY},5")),
        "-m": (0.5, ("TPROXY", "TPROXY", "REDIRECT")),
        "-b": (0.4, ("*", "", "80,8080", "22-9080")),
        "-d": (0.3, PORT_LISTS),
        "-o": (0.3, PORT_LISTS),
        "-q": (0.25, PORT_LISTS),
        "-e": (0.15, ("31000", "80")),
        "-c": (0.15, INTERFACES),
        "-k": (0.15, ("eth0", "eth9", "eth+")),
        "-t": (0.2, ("7", "0x539")),
        "-r": (0.2, ("200",)),
        "--udp": (0.3, ("443=reject", "443=drop", "53=leave,400-7800=reject", "7777=drop,443=leave")),
        "--exclude-uids": (0.2, ("3", "1000-1400", "0,1500")),
        "--exclude-outbound-ports-for-uids": (0.2, ("tcp:80,443:1000-2000", "udp:53:1500", "1500;22:3")),
        "--exclude-inbound-cidrs": (0.2, ("192.0.2.0/24", "2001:db8::/48,10.244.0.9", "9.9.9.9")),
        "--log-connections": (0.15, ("nflog", "log")),
    }
    for flag, (likelihood, values) in options.items():
        if maybe(random, likelihood):
            yield from (flag, random.choice(values))
    for flag in ("-i", "-x"):
        if maybe(random, 0.45):
            few = ",".join(random.sample(CIDRS, random.randint(0, 3)))
            yield from (flag, random.choice(["*", few, few]) if flag == "-i" else few)
    yield random.choice(["--dual-stack", "--dual-stack", "--dual-stack", "--ipv6=off", "--ipv6=reject"])
    if maybe(random, 0.45):
        yield "--redirect-dns"
        if maybe(random, 0.4):
            yield "--capture-all-dns"
    if maybe(random, 0.2):
        yield "--drop-invalid"
    if maybe(random, 0.3):
        yield "--capture-ssh"
    if maybe(random, 0.15):
        yield from ("-p", "16001", "-z", "16006")


def maybe(random: Random, likelihood: float) -> bool:
    return random.random() < likelihood


@dataclass
class Calls:
    """A source of calls, which uses each source port once in ten thousand."""

    pod: Pod
    random: Random
    numbers: Iterator[int] = field(default_factory=lambda: itertools.cycle(SOURCE_PORTS))

    def draw(self, count: int) -> list[Call]:
        return [self.one() for _ in range(count)]

    def one(self) -> Call:
        random = self.random
        version = random.choice((4, 4, 6))
        proto = random.choice(("tcp", "tcp", "tcp", "udp"))
        if maybe(random, 0.25):
            return self.from_outside(version, proto)
        return self.from_inside(version, proto)

    def from_outside(self, version: int, proto: str) -> Call:
        random = self.random
        source = random.choice((GATEWAY[version], *OUTSIDE[version]))
        port = random.choice((*TCP_PORTS, 15001, 15006, CLOSED) if proto == "tcp" else (53, 443, CLOSED))
        return Call(self.pod.outside, ADDRESSES[version], port, 0, 0, proto, source, next(self.numbers))

    def from_inside(self, version: int, proto: str) -> Call:
        random = self.random
        uid, gid = random.choice(USERS)
        localhost = {4: "127.0.0.1", 6: "::1"}[version]
        hosts = [*OUTSIDE[version], ADDRESSES[version], ADDRESSES[version], localhost]
        if proto == "tcp" and version == 4:
            hosts += ["127.1.2.3", GATEWAY[4]]
        host = random.choice(hosts)
        is_own = host not in (*OUTSIDE[version], GATEWAY[version])
        ports: tuple[int, ...] = (*TCP_PORTS, CLOSED) if proto == "tcp" else (53, 53, 443, CLOSED)
        if is_own:
            ports += (15001, 15006) if proto == "tcp" else (15053,) if host == localhost else ()
        source, mark = None, 0
        if proto == "tcp" and is_own and maybe(random, 0.3):
            source = random.choice(["127.0.0.6", "127.0.0.1", ADDRESSES[4]]) if version == 4 else ADDRESSES[6]
        if maybe(random, 0.1):
            mark = random.choice((1337, 1338, 8)) if host == ADDRESSES[version] else 8
        port = random.choice(ports)
        return Call(self.pod.inside, host, port, uid, gid, proto, source, next(self.numbers), mark)
