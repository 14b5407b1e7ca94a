"""Network namespaces with unique names, which are gone when the `with` block is left, however it is left."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from capture.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

PREFIX = "capture-rig"
_numbers = itertools.count()


class Namespace:
    """A named network namespace of our own, with lo up."""

    def __init__(self, role: str) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}-{role}"

    def __enter__(self) -> Self:
        ip("netns", "add", self.name)
        try:
            ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove(self.name)

    def set_resolv_conf(self, text: str) -> None:
        """Give the namespace a resolv.conf of its own, which `run` shows in place of the host's (ip-netns(8))."""
        self._etc.mkdir(parents=True, exist_ok=True)
        (self._etc / "resolv.conf").write_text(text)

    @property
    def _etc(self) -> Path:
        return Path("/etc/netns") / self.name

    @property
    def path(self) -> str:
        return f"{netns.NAMED}/{self.name}"

    def run(self, *command: str, text: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program in this namespace, to its end, whatever its exit status. Bytes that are no UTF-8 are kept.

        iptables-legacy waits for its lock, also in a script: other tests may hold it, as it is the machine's, not the
        namespace's.
        """
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *that_waits(command)],
            input=text.encode(errors="surrogateescape"),
            env=env,
            capture_output=True,
            timeout=60,
            check=False,
        )
        said = (stream.decode(errors="surrogateescape") for stream in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, *said)

    def output(self, *command: str, text: str = "") -> str:
        """The same for a program that must succeed; its stdout."""
        done = self.run(*command, text=text)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def ip(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)

    def ip_batch(self, *commands: str) -> None:
        """Many commands of ip(8) by one process, each of which must succeed."""
        ip("-n", self.name, "-batch", "-", text="\n".join(commands))


LEGACY = re.compile(r"\bip6?tables-legacy(-restore)?(?=\s|$)")


def that_waits(command: Sequence[str]) -> list[str]:
    """The same command, in which iptables-legacy waits for half a minute at most."""
    if command[0] == "sh":
        return [LEGACY.sub(r"\g<0> -w 30", word) for word in command]
    return [command[0], *(["-w", "30"] if LEGACY.fullmatch(command[0]) else []), *command[1:]]


def ip(*arguments: str, text: str = "") -> None:
    """ip(8), which must succeed."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, input=text)


@contextlib.contextmanager
def entered(namespace: Namespace) -> Iterator[None]:
    """Sockets opened in this block belong to that namespace, also afterwards. For a single-threaded caller."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        netns.enter(namespace.path)
        yield
    finally:
        netns.setns(home)
        os.close(home)


def made_by(pid: int) -> list[str]:
    """The namespaces that rigs of this process made and have not removed."""
    return [name for name in listed() if name.startswith(f"{PREFIX}-{pid}-")]


def remove_those_of_the_dead() -> None:
    """Remove the namespaces of rigs that were killed before they could do so themselves."""
    for name in listed():
        pid = name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if name.startswith(f"{PREFIX}-") and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            remove(name)


def remove(name: str) -> None:
    """Remove a namespace, unless somebody else does: all workers of a run look for those of the dead at once.

    :raise AssertionError: if it is still there.
    """
    done = subprocess.run(["ip", "netns", "del", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or name not in listed(), done.stderr
    shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)


def listed() -> list[str]:
    """The names of this machine's namespaces."""
    lines = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[0] for line in lines]
