"""Connections that are half open when REDIRECT takes the place of TPROXY: conntrack forgets them.

A listener that has no room drops a SYN, and the client sends it again. Conntrack knows it from the first time, when it
met TPROXY and no rule of nat changed it, and nat is not asked again about what conntrack knows (nf_nat_inet_fn of
net/netfilter/nf_nat_core.c): without TPROXY's rules it would go to the application. Forgotten, it is redirected.
"""

from __future__ import annotations

from capture.netlink import ctnetlink, rtnetlink
from capture.steps.passing import LetPacketsPass
from capture.steps.pickup import rules_in
from rules.connections.captured import is_half_open
from rules.netfilter.targets import Redirect, Tproxy
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.host.live import Live
    from capture.log import Log
    from capture.steps.acts import Act
    from rules.netfilter.values import Family
    from rules.plan.plan import Plan


class ForgetHalfOpen(Value):
    """Forget what came from outside in these families and was not answered yet."""

    families: tuple[Family, ...]

    def __str__(self) -> str:
        names = " and ".join(family.value for family in self.families)
        return f"conntrack -D, for each inbound {names} connection that nobody has answered: its next SYN is redirected"

    def do(self, log: Log) -> None:
        """What cannot be forgotten is said, and no failure: a capture is worth more than a connection."""
        try:
            here = {address.ip for address in rtnetlink.addresses()}
            ctnetlink.forget([it.began for it in ctnetlink.entries() if is_half_open(it, here, self.families)])
        except OSError as error:
            log.warn(
                "an inbound connection that TPROXY's listener had no room for may reach the application: "
                f"conntrack does not forget it: {error.strerror}"
            )

    def undo(self, log: Log) -> None:  # one signature for all steps
        """Whoever calls sends its SYN again, and conntrack has it anew."""


def without_half_open(doing: Sequence[Act], live: Live, planned: Plan) -> list[Act]:
    """The same acts. Where they put REDIRECT in the place of TPROXY, ours or another mesh's, what is half open is
    forgotten behind each pause: by then new connections are redirected, and TPROXY has not let go of them yet."""
    families = tuple(
        ruleset.family
        for ruleset in planned.rulesets
        if any(isinstance(rule.target, Redirect) for rule in ruleset.kinds())
        and not any(isinstance(rule.target, Tproxy) for rule in ruleset.kinds())
        and any(isinstance(rule.target, Tproxy) for rule in rules_in(live, ruleset.family))
    )
    if not families:
        return list(doing)
    forget = ForgetHalfOpen(families)
    acts: list[Act] = []
    for act in doing:
        acts += [act, forget] if isinstance(act, LetPacketsPass) else [act]
    return acts
