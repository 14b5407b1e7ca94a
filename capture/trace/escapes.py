"""What does not reach the proxy, by the rules that settings mean, or by all that the namespace holds."""

from __future__ import annotations

from capture.errors import LiveStateUnreadable
from capture.host.live import choice_of, chosen, read_live
from capture.host.neighbours import host_of, host_there
from capture.intent.here import looked_up, looked_up_or_without
from capture.iptables.iptables import BACKENDS, NATIVE, Iptables
from capture.kernel.rights import not_permitted
from capture.netlink.early import early
from capture.settings.declared import DECLARED_BY_NAME
from rules.analysis.probes import ELSEWHERE
from rules.journeys.journeys import TooMany, takes_in_passing
from rules.native.compiled import as_held
from rules.netfilter.values import Family
from rules.ours.reasons import explained
from rules.packets.packet import Local
from rules.plan.names import LOOPBACK_INTERFACE
from rules.plan.plan import plan
from rules.proof.escapes import Escape, escapes
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.intent.resolve import Resolved
    from capture.settings.declared import Settings
    from rules.packets.packet import Host


DEFAULT_LINK = "eth0"


class Escapes(Value):
    """Everything that does not reach the proxy."""

    escapes: tuple[Escape, ...]
    """By family and direction; each with the packets of one rule, or those that no rule takes."""
    notes: tuple[str, ...]
    """What was assumed, or could not be looked at."""
    backend: str
    """The backend that a run here uses, nft or legacy of iptables, or native; empty if it can use none. Without --live
    it is the one whose rules are looked at."""
    backend_reason: str
    """Why that backend, or why none."""


def found(settings: Settings, *, live: bool) -> Escapes:
    """What escapes these settings here; with `live`, what escapes what is in place. Raises CaptureError."""
    try:
        return of_live(settings) if live else of_settings(settings)
    except TooMany as error:
        raise LiveStateUnreadable(
            "what becomes of all packets cannot be told: the rules ask for too many things at once",
            hint="`capture trace` follows one connection",
        ) from error


def of_settings(settings: Settings) -> Escapes:
    known, resolved = looked_up(settings)
    planned = plan(resolved.intent)
    host, notes = with_links(host_of(known.addresses or (), planned.routing))
    choice = choice_of(settings)
    if choice.backend == NATIVE:
        notes = (*notes, choice.sentence)
    listed: list[Escape] = []
    for ruleset in (as_held(choice.backend, each) for each in planned.rulesets):
        rulesets = (("", ruleset),)
        listed += escapes(rulesets, ruleset.family, host, passing=takes_in_passing(ruleset))
    return Escapes(tuple(with_options(listed, settings, resolved)), notes, choice.backend, choice.reason)


def with_links(host: Host) -> tuple[Host, tuple[str, ...]]:
    """The host, with an address that others reach in each family; settings mean something in pods that have one."""
    local = [its.but(interface=its.interface or DEFAULT_LINK) for its in host.addresses]
    notes = []
    for family in Family:
        lo, assumed = LOOPBACK_INTERFACE, ELSEWHERE[family][1]
        alike = (its for its in local if its.address.version == assumed.version and its.interface != lo)
        if not any(not its.address.is_link_local for its in alike):
            local.append(Local(DEFAULT_LINK, assumed, 0))
            notes.append(f"{family.value}: {DEFAULT_LINK} is taken to have the address {assumed}")
    outside = next(its.interface for its in local if its.interface != LOOPBACK_INTERFACE)
    return host.but(addresses=tuple(local), default_interface=outside), tuple(notes)


def of_live(settings: Settings) -> Escapes:
    settings, _, resolved = looked_up_or_without(settings)
    live = read_live()
    if isinstance(live.nft_error, PermissionError):
        raise not_permitted()
    notes = []
    if not live.legacy_is_known:
        notes.append("only uid 0 may see whether there are legacy tables; if there are, they are left out")
    notes += map(str, early())
    planned = plan(resolved.intent)
    choice = chosen(live, settings, planned)
    notes.append(choice.sentence)
    host = host_there(live, live.addresses)
    listed: list[Escape] = []
    for family in Family:
        wanted = next((each for each in planned.rulesets if each.family is family), None)
        held = [
            (name, explained(live.saved(Iptables(name, family)).ruleset, as_held(name, wanted) if wanted else None))
            for name in BACKENDS
        ]
        passing = any(takes_in_passing(ruleset) for _, ruleset in held)
        listed += escapes(held, family, host, live.natives.get(family, ()), passing=passing)
    return Escapes(tuple(with_options(listed, settings, None)), tuple(notes), choice.backend, choice.reason)


def with_options(listed: list[Escape], settings: Settings, resolved: Resolved | None) -> Iterator[Escape]:
    """Each with the setting that asked for its rule, as it was said; of live rules only the flag is known."""
    for escape in listed:
        declared = DECLARED_BY_NAME.get(escape.setting)
        if declared is None:
            yield escape
            continue
        option = declared.shown
        if resolved:
            origin = resolved.derived.get(escape.setting, settings.origins[escape.setting])
            option = f'{origin} "{origin.text}"' if origin.text is not None else f"{option} by default"
        yield escape.but(option=option)
