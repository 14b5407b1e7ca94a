"""The narrow seam: the few acts and questions through which everything asks the kernel or changes it.

Each is a function marked `@primitive`. On a host they are what they say; in a test a kernel in memory stands in for all
of them at once, so that the order of acts, undoing and every sentence can be tried in seconds and without root. What a
stand-in has to answer for is `Kernel`.
"""

from __future__ import annotations

from capture.kernel.blocks import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import ParamSpec, Protocol, TypeVar

    from capture.kernel.process import Completed
    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.values import Family

    P = ParamSpec("P")
    R = TypeVar("R")

    class Kernel(Protocol):
        """What stands behind the seam."""

        def run(
            self,
            program: str,
            *arguments: str,
            text: str = "",
            lines: Iterable[str] = (),
            environ: Mapping[str, str] | None = None,
        ) -> Completed:
            """A program run to its end: iptables-save, iptables-restore."""

        def locate(self, program: str) -> str | None:
            """The full path of an executable; None if it is not installed."""

        def dump(self, protocol: int, question: int, payload: bytes) -> Sequence[bytes]:
            """The messages that answer a netlink dump. Raises OSError."""

        def acknowledged(self, protocol: int, requests: Sequence[tuple[int, int, bytes]]) -> list[OSError | None]:
            """Netlink requests, each a type, flags and a payload: the error number of each, or 0. Raises OSError."""

        def sent(self, requests: Sequence[bytes], flags: int = ...) -> int:
            """A batch of nf_tables requests, done as a whole or not at all: the error number, or 0."""

        def chosen_source(
            self, family: Family, destination: IPv4Address | IPv6Address, port: int
        ) -> IPv4Address | IPv6Address:
            """The address of ours that the kernel would send from. Raises OSError if it knows no way."""

        def be_apart(self) -> None:
            """Be in a network namespace that is nobody else's. Raises OSError."""

        def processes(self) -> Iterable[object]:
            """The others that share this network namespace, as far as we may look."""

        def exchange(self, path: str, value: str) -> str:
            """Give a setting of the kernel this value; the one from before. Raises OSError."""

        def enter(self, namespace: str) -> None:
            """Work in that network namespace from now on. Raises NamespaceUnusable."""

        def read_words(self, path: str) -> list[str] | None:
            """The words in a file of the kernel; none if it does not exist, None if it may not be read."""

        def lo_is_up(self) -> bool | None:
            """Whether the loopback interface is up; None if that is not told."""

        def add_rule(self, family: Family, priority: int, mark: int, table: int) -> None: ...
        def remove_rule(self, family: Family, priority: int, mark: int, table: int) -> None: ...
        def add_route(self, family: Family, table: int) -> None: ...
        def remove_route(self, family: Family, table: int) -> None: ...
        def add_passthrough_address(self) -> None: ...
        def remove_passthrough_address(self) -> None: ...

        def let_packets_pass(self) -> None:
            """Return when every packet that is in netfilter has left it."""

        def locked(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
            """Keep other runs of ours out of this namespace."""

        def flocked(
            self, lock: str, path: str, longest: float, say: Callable[[str], None], *, unseen: float, must: bool
        ) -> AbstractContextManager[None]:
            """Hold a lock of this file."""


_standing_in: list[Kernel] = []


def primitive(function: Callable[P, R]) -> Callable[P, R]:
    """A function of the seam: this one, or the method of that name of whatever stands in for the kernel."""

    def through(*arguments: P.args, **named: P.kwargs) -> R:
        if _standing_in:
            stand_in: Callable[P, R] = getattr(_standing_in[-1], function.__name__)
            return stand_in(*arguments, **named)
        return function(*arguments, **named)

    through.__doc__, through.__name__ = function.__doc__, function.__name__
    return through


@contextmanager
def standing_in(kernel: Kernel) -> Iterator[Kernel]:
    """Within the block, this stands in for the kernel of the host, or what it `enter`s does."""
    _standing_in.append(kernel)
    try:
        yield kernel
    finally:
        _standing_in.pop()
