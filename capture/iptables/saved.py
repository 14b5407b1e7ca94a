"""What a namespace holds of one family in one backend, as it was told."""

from __future__ import annotations

from rules.iptables.quoting import lines
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from capture.iptables.native import Native
    from capture.log import Log
    from rules.iptables.counters import Count, Place
    from rules.netfilter.rulesets import Ruleset


class Saved(Value):
    """What a namespace holds, as a value and in the kernel's words."""

    ruleset: Ruleset
    text: str
    native: dict[tuple[str, str], Native] = {}  # noqa: RUF012 # a default that nobody changes
    """Of nf_tables, rules in our chains, and such that lead to them, that iptables has no words for: see `MARKER`.

    By table and handle.
    """
    counts: Mapping[Place, tuple[int, int]] = {}  # a default that nobody changes
    """Packets and bytes, by table, chain and position, where they are not in the text."""

    def counted(self) -> dict[Place, Count]:
        """What each rule counted, if it was read with counters."""
        from rules.iptables.counters import Count, counters

        return {place: Count(*count) for place, count in self.counts.items()} or counters(self.text)

    def said_by(self, teller: str, log: Log) -> None:
        """Say what it holds, line by line: a comment may have line breaks in it, which end none."""
        text = self.text.strip("\n")
        if '"' in text:
            log.info(f"{teller} says:", *(line for _, line in lines(text)))
        else:
            log.info(f"{teller} says:", text=text)
