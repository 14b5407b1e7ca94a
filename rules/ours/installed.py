"""What live rules capture, told from the rules themselves: the settings that made them are not known."""

from __future__ import annotations

from rules.meaning.spoken import asked_of
from rules.netfilter.fields import GID, UID
from rules.netfilter.spans import points
from rules.netfilter.targets import Dnat, Drop, Jump, Redirect, Reject, Tproxy
from rules.netfilter.values import FILTER, MANGLE, NAT, OUTPUT, PREROUTING, Family
from rules.ours.recognition import entered_from
from rules.plan.names import (
    ISTIO_IN_REDIRECT,
    ISTIO_OUTPUT,
    ISTIO_OUTPUT_DNS,
    ISTIO_REDIRECT,
    MOST_OWNERS_IN_A_RULE,
)
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from rules.netfilter.matches import Match
    from rules.netfilter.rulesets import Rule, Ruleset, TableRules


class Installed(Value):
    """What the rules of one family capture in one backend, told from the rules themselves."""

    family: Family
    """Whose rules they are."""
    outbound_port: int | None
    """Where outbound TCP goes; None if none is captured."""
    all_outbound: bool
    """Whether that is all that is not excluded, and not only listed destinations or ports."""
    inbound_port: int | None
    """Where inbound TCP goes; None if none is captured."""
    all_inbound: bool
    """Whether that is all that is not excluded, and not only listed ports."""
    mode: Literal["REDIRECT", "TPROXY", ""]
    """How inbound TCP gets there; empty if none is captured."""
    dns: str
    """The port, or address and port, to which DNS queries go; empty if they are not captured."""
    proxy_uids: tuple[int, ...]
    """Who is taken for the proxy."""
    proxy_gids: tuple[int, ...]
    """The same by gid."""
    refuses: bool
    """Whether some of what leaves is refused: UDP that the proxy cannot take, or a family that is not captured."""

    @property
    def sentence(self) -> str:
        """All of this in a line."""
        parts = []
        if self.outbound_port:
            parts.append(f"{'' if self.all_outbound else 'listed '}outbound TCP → {self.outbound_port}")
        if self.inbound_port:
            some = "" if self.all_inbound else "listed "
            parts.append(f"{some}inbound TCP → {self.inbound_port} ({self.mode})")
        if self.dns:
            parts.append(f"DNS → {self.dns}")
        if self.refuses:
            parts.append("some of what leaves is refused")
        owners = [f"uid {uid}" for uid in self.proxy_uids] + [f"gid {gid}" for gid in self.proxy_gids]
        proxy = f"; the proxy is {', '.join(owners)}" if owners else ""
        return f"{', '.join(parts) or 'nothing is captured'}{proxy}"

    def __str__(self) -> str:
        return self.sentence


def installed(live: Ruleset) -> Installed:
    """What our chains of this family capture, as far as packets are sent there."""
    nat, mangle, refusing = live.table(NAT), live.table(MANGLE), live.table(FILTER)
    out, into, transparent = reached(nat, OUTPUT), reached(nat, PREROUTING), reached(mangle, PREROUTING)
    tproxy = first_port(transparent, Tproxy)
    inbound = tproxy or port_in(into, ISTIO_IN_REDIRECT)
    to_proxy, to_itself = Jump(ISTIO_REDIRECT), Jump(ISTIO_IN_REDIRECT)
    owners = [asked for rule in out.get(ISTIO_OUTPUT, ()) if rule.target == to_itself for asked in rule.matches]
    refused = [rule for rules in reached(refusing, OUTPUT).values() for rule in rules]
    return Installed(
        live.family,
        port_in(out, ISTIO_REDIRECT),
        any(not rule.matches and rule.target == to_proxy for rules in out.values() for rule in rules),
        inbound,
        takes_all(transparent if tproxy else into),
        "" if inbound is None else "TPROXY" if tproxy else "REDIRECT",
        dns(out.get(ISTIO_OUTPUT_DNS, ())),
        tuple(dict.fromkeys(named(UID, owners))),
        tuple(dict.fromkeys(named(GID, owners))),
        any(isinstance(rule.target, Reject | Drop) for rule in refused),
    )


def named(field: int, owners: Iterable[Match]) -> Iterator[int]:
    """The uids or gids that these ask for."""
    for span in asked_of(field, owners):
        yield from points(span, MOST_OWNERS_IN_A_RULE) or ()


def reached(table: TableRules, hook: str) -> dict[str, Sequence[Rule]]:
    """Our chains that packets get to from a built-in one, with their rules."""
    chains = table.chains()
    return {chain: chains.get(chain, ()) for chain in entered_from(table, hook)}


def port_in(chains: dict[str, Sequence[Rule]], chain: str) -> int | None:
    return next((rule.target.port for rule in chains.get(chain, ()) if isinstance(rule.target, Redirect)), None)


def first_port(chains: dict[str, Sequence[Rule]], kind: type[Tproxy]) -> int | None:
    return next(
        (rule.target.port for rules in chains.values() for rule in rules if isinstance(rule.target, kind)), None
    )


def takes_all(chains: dict[str, Sequence[Rule]]) -> bool:
    """Whether a chain ends with a rule that asks for no port: everything that was not excluded before."""
    return any(isinstance(rules[-1].target, Jump) and len(rules[-1].matches) == 1 for rules in chains.values() if rules)


def dns(rules: Sequence[Rule]) -> str:
    for rule in rules:
        match rule.target:
            case Redirect(port):
                return str(port)
            case Dnat(address, port):
                return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
            case _:
                continue
    return ""
