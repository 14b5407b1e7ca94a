"""A pause between two commits."""

from __future__ import annotations

from capture.kernel.rcu import let_packets_pass
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.log import Log
    from rules.netfilter.values import Family


class LetPacketsPass(Value):
    """Between two commits of which the second lets go what the first takes over: see `capture.kernel.rcu`."""

    family: Family

    @property
    def families(self) -> tuple[Family]:
        return (self.family,)

    def __str__(self) -> str:
        return "membarrier(2): packets that met the former rules get through before the next commit"

    def do(self, log: Log) -> None:  # noqa: ARG002 # one signature for all steps
        let_packets_pass()

    def undo(self, log: Log) -> None:
        """The same on the way back."""
        self.do(log)
