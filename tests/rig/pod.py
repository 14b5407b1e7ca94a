"""A pod and the host outside it: two namespaces, a veth pair, addresses of both families, listeners everywhere."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.namespace import Namespace, entered
from tests.rig.traffic import Call, Landing, Traffic
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

ROOT = Path(__file__).parents[2]
PROXY, APP = 1337, 1000
"""Uids (and gids) in the pod."""
ADDRESSES = {4: "10.244.0.5", 6: "fd00:244::5"}
"""The pod's."""
GATEWAY = {4: "10.244.0.9", 6: "fd00:244::9"}
"""The other end of the veth pair."""
OUTSIDE = {
    4: ("1.1.1.1", "9.9.9.9", "10.96.0.10", "10.0.7.7", "172.16.1.1", "192.0.2.10"),
    6: ("2001:db8::1", "2001:db8:5::7", "fd00:96::a"),
}
"""Addresses of services outside. They exist inside the rig only."""
TCP_PORTS = (22, 53, 80, 443, 3306, 5432, 8080, 9080, 15008, 15020, 15021, 15090, 31000, 32000)
UDP_PORTS = (53, 443)
PROXY_PORTS = (15001, 15006, 15053, 16001, 16006)
COUNTERS = re.compile(r" \[\d+:\d+\]|\bcounter packets \d+ bytes \d+ ?")
CARRIER = re.compile(r"NO-CARRIER,|(?<= state )(UP|DOWN)\b|\blinkdown ?")
"""Whether the other end of a veth pair is up already, which it is a moment later."""
UP, DOWN = "link set eth0 up", "link set eth0 down"
PREFIX, NODAD = {4: 24, 6: 64}, {4: "", 6: " nodad"}
ACCEPT_DAD = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
DISABLE_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")

IF_INET6 = Path("/proc/thread-self/net/if_inet6")
"""The IPv6 addresses of the namespace that this thread is in, in hex."""


@dataclass(frozen=True)
class Result:
    """How a run of capture ended."""

    status: int
    stdout: str
    stderr: str


class Pod:
    """A pod with an outside, and the traffic between them. Use as a context manager."""

    def __init__(self, *, ipv6: bool = True) -> None:
        self.ipv6 = ipv6
        self.versions = (4, 6) if ipv6 else (4,)
        self.inside = Namespace("pod")
        self.outside = Namespace("out")
        self.traffic = Traffic()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for namespace in (self.inside, self.outside):
                stack.enter_context(namespace)
            self._join()
            stack.enter_context(self.traffic)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _join(self) -> None:
        inside, outside = self.inside, self.outside
        for namespace in (inside, outside):
            with entered(namespace):
                # A link-local address that is still being probed for would change by itself what a test compares.
                ACCEPT_DAD.write_text("0")
                if not self.ipv6:
                    DISABLE_IPV6.write_text("1")
        pair = f"link add eth0 type veth peer name eth0 netns {outside.name}"
        routes = [f"route add default via {GATEWAY[version]}" for version in self.versions]
        inside.ip_batch(pair, *self._addresses(ADDRESSES), UP, *routes)
        services = (f"{address} dev lo{NODAD[version]}" for version in self.versions for address in OUTSIDE[version])
        # That a link has its other end is known at once where it was up before, else a second later (linkwatch).
        outside.ip_batch(UP, DOWN, UP, *self._addresses(GATEWAY), *(f"addr add {service}" for service in services))
        for namespace in (inside, outside) if self.ipv6 else ():
            # The kernel gives it when it learns that the other end is up, and does not answer for others before.
            with entered(namespace):
                until(lambda: "fe80" in IF_INET6.read_text())

    def _addresses(self, addresses: Mapping[int, str]) -> Iterator[str]:
        """The words of ip(8) that give an end of the veth pair its addresses."""
        for version in self.versions:
            yield f"addr add {addresses[version]}/{PREFIX[version]} dev eth0{NODAD[version]}"

    # --- capture ------------------------------------------------------------------------------------------

    def capture(self, *arguments: str, env: Mapping[str, str] | None = None, path: str | None = None) -> Result:
        """Run our tool in the pod, as a container would: with no environment but this."""
        environ = {**self.environ(), **({"PATH": path} if path else {}), **(env or {})}
        done = self.inside.run(*self.command(*arguments), env=environ)
        return Result(done.returncode, done.stdout, done.stderr)

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """The command line that runs our tool."""
        return [sys.executable, "-m", "capture", *arguments]

    @staticmethod
    def environ() -> dict[str, str]:
        """All that our tool is given of an environment."""
        return {"PATH": os.environ["PATH"], "PYTHONPATH": readable_source()}

    def applied(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """The same where it must succeed."""
        result = self.capture(*arguments, env=env)
        assert result.status == 0, result.stderr
        return result

    def saved(self, backend: str = "nft", *, version: int = 4) -> list[str]:
        """What iptables-save says, without comments and counters; of our own tables what nft says."""
        if backend == "native":
            return self.saved_natively(version)
        program = f"{'iptables' if version == 4 else 'ip6tables'}-{backend}-save"
        lines = self.inside.output(program).splitlines()
        return [line.partition(" [")[0] if line.startswith(":") else line for line in lines if not line.startswith("#")]

    def saved_natively(self, version: int) -> list[str]:
        family = "ip" if version == 4 else "ip6"
        done = self.inside.run("nft", "-nn", "list", "table", family, "istio-capture")
        tables: dict[str, list[str]] = {}
        table = chain = ""
        for line in map(str.strip, COUNTERS.sub("", done.stdout).splitlines()):
            words = line.split()
            if words[:1] == ["chain"]:
                table, _, chain = words[1].partition("-")
                declared = [f":{chain} -"] if chain.startswith("ISTIO") else []
                tables.setdefault(table, [f"*{table}"]).extend(declared)
            elif words and words[0] not in ("table", "type", "}"):
                tables[table].append(f"-A {chain} {line}")
        return [line for lines in tables.values() for line in (*lines, "COMMIT")]

    def state(self) -> str:
        """Everything that a run could change, in words: rules of both backends, addresses, routes, ip rules.

        Without counters, which packets change. One nft per family, because it shows the targets of iptables only in the
        first family that it meets; and their parameters not at all, so what iptables-nft says is here as well.
        """
        commands = [
            ["nft", "list", "tables"],
            *(["nft", "list", "ruleset", family] for family in ("ip", "ip6", "inet")),
            ["iptables-nft-save"],
            ["ip6tables-nft-save"],
            ["iptables-legacy-save"],
            ["ip6tables-legacy-save"],
            ["ip", "addr"],
            ["ip", "rule"],
            ["ip", "-6", "rule"],
            ["ip", "route", "show", "table", "all"],
            ["ip", "-6", "route", "show", "table", "all"],
        ]
        script = "; ".join(f"echo '[{' '.join(command)}]'; {' '.join(command)}" for command in commands)
        return "\n".join(
            CARRIER.sub("", COUNTERS.sub("", line))
            for line in self.inside.output("sh", "-ec", script).splitlines()
            if not line.startswith("#")
        )

    def meaning(self) -> dict[tuple[str, str], list[str]]:
        """The same by table and chain: in which order chains are listed, that of their making, means nothing."""
        chains: dict[tuple[str, str], list[str]] = {}
        section = table = chain = ""
        for line in self.state().splitlines():
            words = line.split()
            if line.startswith("["):
                section = table = line
                chain = ""
            elif line.startswith(("table ", "*")):
                table, chain = f"{section} {line}", ""
            elif line in ("COMMIT", "}"):
                table, chain = section, ""
            elif words[:1] in (["chain"], ["-A"]):
                chain = words[1]
            elif line.startswith(":"):
                chain = words[0][1:]
            if words and line not in ("COMMIT", "}"):
                chains.setdefault((table, chain), []).append(line)
        return {key: sorted(lines) if "list tables" in key[0] else lines for key, lines in chains.items()}

    # --- traffic ------------------------------------------------------------------------------------------

    def open_listeners(self, *, proxy_uid: int = PROXY, transparent: bool = False) -> None:
        """The proxy's listeners and an application on every port inside, services on every port outside."""
        any_address = ["0.0.0.0", "::"][: len(self.versions)]
        loopback = ["127.0.0.1", "::1"][: len(self.versions)]
        traffic, inside, outside = self.traffic, self.inside, self.outside
        for port in PROXY_PORTS:
            keeps_client = transparent and port in (15006, 16006)
            traffic.listen(inside, [port], where="pod", hosts=any_address, uid=proxy_uid, transparent=keeps_client)
        # A resolver answers from the address that it was asked at, so it listens on loopback itself.
        traffic.listen(inside, [15053], where="pod", proto="udp", hosts=loopback, uid=proxy_uid)
        traffic.listen(inside, TCP_PORTS, where="pod", hosts=any_address)
        traffic.listen(inside, UDP_PORTS, where="pod", proto="udp", hosts=any_address)
        traffic.listen(outside, TCP_PORTS, where="ext", hosts=any_address)
        for version in self.versions:
            hosts = (*OUTSIDE[version], GATEWAY[version])
            traffic.listen(outside, UDP_PORTS, where="ext", proto="udp", hosts=hosts)

    def dial(
        self,
        host: str,
        port: int,
        *,
        uid: int = APP,
        gid: int | None = None,
        proto: str = "tcp",
        source: str | None = None,
    ) -> Landing:
        """A call from inside the pod."""
        return self.traffic.call(Call(self.inside, host, port, uid, uid if gid is None else gid, proto, source))

    def dial_in(self, port: int, *, version: int = 4, proto: str = "tcp") -> Landing:
        """A call from outside to the pod."""
        return self.traffic.call(Call(self.outside, ADDRESSES[version], port, proto=proto))

    def end_connections(self) -> None:
        """So that none of them says anything more, as those do whose answers were lost."""
        for namespace in (self.inside, self.outside):
            namespace.output("ss", "-tanK", "state", "all", "exclude", "listening")

    def land(self, calls: Iterable[Call]) -> list[Landing]:
        """Many calls at once."""
        return self.traffic.land(calls)


def without_empty_legacy_tables(meaning: dict[tuple[str, str], list[str]]) -> dict[tuple[str, str], list[str]]:
    """A meaning as if the kernel took back the legacy tables that nobody needs any more, which it never does."""
    used = {
        table
        for (table, _), lines in meaning.items()
        if any(line.startswith("-A") or "ISTIO" in line for line in lines)
    }
    return {key: lines for key, lines in meaning.items() if "legacy-save] *" not in key[0] or key[0] in used}


@functools.cache
def readable_source() -> str:
    """A folder with our code that every user may read: the repository, or a copy if it is in somebody's home.

    Where they may not read the repository they may not read its virtual environment: what we need of that comes along.
    """
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in (ROOT, *ROOT.parents)):
        return str(ROOT)
    copy = Path(tempfile.mkdtemp(prefix="capture-source-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for package in ("capture", "rules", "tests/rig"):
        shutil.copytree(ROOT / package, copy / package)
    for needed in distributions_needed():
        for file in distribution(needed).files or ():
            if not file.parts[0].startswith((".", "__pycache__")) and file.suffix != ".pth":
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), copy / file)
    copy.chmod(0o755)
    return str(copy)


def distributions_needed() -> set[str]:
    """The distributions that our code requires, and all that those do, by name."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        wanted: list[str] = tomllib.load(file)["project"]["dependencies"]
    found: set[str] = set()
    while wanted:
        match = re.match(r"[\w.-]+", wanted.pop())
        if match and match[0] not in found and is_installed(match[0]):
            found.add(match[0])
            wanted += [line for line in distribution(match[0]).requires or () if "extra ==" not in line]
    return found


def is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:  # for another platform
        return False
    return True


def is_root() -> bool:
    return os.geteuid() == 0


def has(*programs: str) -> list[str]:
    """Those of these programs that are missing."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [program for program in programs if shutil.which(program, path=places) is None]
