"""What `capture trace` answers: what becomes of the packet, and the rules that decide it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from capture.errors import BadSettings, CaptureError, Refusal
from capture.host.listening import listeners
from capture.host.live import choice_of, chosen, read_live
from capture.host.neighbours import host_of, host_there
from capture.inspect.reach import lost_on_lo
from capture.inspect.verify import others_routing
from capture.intent.here import looked_up, looked_up_or_without
from capture.iptables.iptables import BACKENDS, NATIVE, NFT, Iptables
from capture.kernel.conntrack import fullness
from capture.kernel.rights import not_permitted
from capture.kernel.seam import primitive
from capture.netlink import sockets
from capture.netlink.early import early
from capture.settings.declared import DECLARED_BY_NAME
from capture.style import style
from capture.trace.question import Question, is_outside, quoted
from rules.addresses import ip_address
from rules.analysis.probes import ELSEWHERE
from rules.explain.listeners import NONE_IS_TRANSPARENT
from rules.iptables.writing import rule_text
from rules.native.compiled import as_held
from rules.netfilter.hooks import INPUT
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import PREROUTING, All, Family
from rules.ours.reasons import explained
from rules.ours.recognition import ours_in
from rules.packets.packet import NEW, Direction, Host, Local, Packet, written
from rules.packets.trace import Became
from rules.plan.names import LOOPBACK
from rules.plan.plan import plan
from rules.routing.policy import NUMBERS, Flow
from rules.simulator.conclusions import conclusion
from rules.simulator.simulate import in_any_order
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import ClassVar

    from capture.host.choice import Choice
    from capture.host.facts import Facts
    from capture.host.live import Live
    from capture.settings.declared import Settings
    from rules.packets.trace import Step, Trace
    from rules.plan.plan import Plan
    from rules.simulator.simulate import Address


FIRST_APPLICATION = 1000


SOCKETS = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}


FAMILIES = {4: Family.V4, 6: Family.V6}


BOUND_SOCKET = (
    "a socket that is bound to an interface (SO_BINDTODEVICE, `curl --interface eth0`) hangs instead: what is captured "
    "goes over lo"
)


class Answered(Value):
    """What becomes of a packet, and why."""

    trace: Trace
    notes: tuple[str, ...]
    """What was assumed."""
    sentence: str
    """The answer in one sentence."""
    choice: Choice
    """The backend that a run here uses, and why."""

    TOLD: ClassVar = (
        "outcome",
        "to_address",
        "to_port",
        "decided_by",
        "trace.packet",
        "trace.steps",
        "trace.depends_on",
        "notes",
        "sentence",
        "backend",
        "backend_reason",
    )

    @property
    def backend(self) -> str:
        """The backend that a run here uses, nft or legacy of iptables, or native; empty if it can use none. Without
        --live it is the one whose rules are followed."""
        return self.choice.backend

    @property
    def backend_reason(self) -> str:
        """Why that backend, or why none."""
        return self.choice.reason

    @property
    def outcome(self) -> Became:
        """What becomes of it: captured, redirected by others, let go, stopped, or that it depends."""
        return self.trace.became

    @property
    def to_address(self) -> Address | None:
        """Where it goes in the end; None if nowhere, or if that depends."""
        return self.trace.address

    @property
    def to_port(self) -> int | None:
        """To which port; None if nowhere, or if that depends."""
        return self.trace.port

    @property
    def decided_by(self) -> Step | None:
        """The rule that decided it; None if it fell through them all, or something other than a rule decided."""
        return self.trace.decided


class Answer:
    """What becomes of the packet, in words."""

    def __init__(self, question: Question, settings: Settings) -> None:
        self.question = question
        self.notes = list(question.notes)
        self.settings = settings
        if question.live:
            self.settings, known, self.resolved = looked_up_or_without(settings)
        else:
            known, self.resolved = looked_up(settings)
        planned = plan(self.resolved.intent)
        self.backends: tuple[str, ...] = ("",)
        self.is_as_planned = True
        live = self.read_live() if question.live else None
        self.choice = chosen(live, self.settings, planned) if live else choice_of(settings)
        if live or self.choice.backend == NATIVE:
            self.notes.append(self.choice.sentence)
        self.host = self.host_of(known, planned, live)
        self.packet = self.packet_of(known)
        wanted = self.ruleset(planned)
        of_family = self.explained(live, wanted) if live else (as_held(self.choice.backend, wanted),)
        natives = live.natives.get(self.packet.family, ()) if live else ()
        self.trace = in_any_order(of_family, self.packet, self.host, natives)
        self.sentence = conclusion(self.trace, self.said)
        self.notes += (*self.lost_on_lo(live), *self.unheard()) if live else ()
        if self.trace.bound and self.trace.became.is_captured and self.packet.direction is Direction.OUT:
            self.notes.append(BOUND_SOCKET)

    def lost_on_lo(self, live: Live) -> Iterator[str]:
        """Why what is sent from here and is to end here does not."""
        address = self.trace.address
        if self.packet.direction is not Direction.OUT or address is None:
            return
        if not (address.is_loopback or self.host.is_local(address)):
            return
        yield from filter(None, [lost_on_lo(address, live.addresses)])

    def unheard(self) -> Iterator[str]:
        """That nobody listens where it ends."""
        packet, address, port = self.packet, self.trace.address, self.trace.port
        if packet.state != NEW or address is None or port is None or packet.protocol not in ("tcp", "udp"):
            return
        if not (self.trace.became.is_captured or self.trace.became is Became.DELIVERED or self.host.is_local(address)):
            return
        try:
            found = [each for each in sockets.listeners() if (each.protocol, each.port) == (packet.protocol, port)]
        except OSError:
            return
        hearing = [each for each in listeners(found, ()) if each.hears_at(address)]
        is_handed_over = self.trace.bound is None and port != packet.port
        if not hearing:
            yield f"nobody listens at {packet.protocol.upper()} port {port} of {address} now, so it fails"
        elif is_handed_over and not any(each.is_transparent for each in hearing):
            yield f"port {port}: {NONE_IS_TRANSPARENT}"

    def ruleset(self, planned: Plan) -> Ruleset:
        """What the settings mean for the family of the packet."""
        return next(ruleset for ruleset in planned.rulesets if ruleset.family is self.packet.family)

    def read_live(self) -> Live:
        """What the namespace holds, in whatever backend; what of it cannot be followed is noted."""
        live = read_live()
        if isinstance(live.nft_error, PermissionError):
            raise not_permitted()
        self.backends = tuple(name for name in BACKENDS if live.holds_rules(name))
        if not live.legacy_is_known:
            self.notes.append("only uid 0 may see whether there are legacy tables; if there are, they are not followed")
        natives = [table for tables in live.natives.values() for table in tables]
        if not self.backends and not natives:
            self.notes.append("the namespace holds no rules")
        for table in dict.fromkeys(str(table) for table in natives if table.is_dormant):
            self.notes.append(f"the table {table} is dormant: the kernel asks none of its chains")
        self.notes += map(str, others_routing(live))
        self.notes += map(str, early())
        self.notes += filter(None, [fullness(1)])
        return live

    def explained(self, live: Live, wanted: Ruleset) -> tuple[Ruleset, ...]:
        """The live rules for the packet, of each backend, with their reasons."""
        held = [live.saved(Iptables(name, wanted.family)).ruleset for name in self.backends]
        planned = [as_held(name, wanted) for name in self.backends]
        nothing = Ruleset(wanted.family)
        self.is_as_planned = all(ours_in(its) in (of, nothing) for its, of in zip(held, planned, strict=True))
        return tuple(explained(its, of) for its, of in zip(held, planned, strict=True))

    def backend_of(self, step: Step) -> str:
        if not self.question.live:
            return ""
        return self.backends[step.layer] if step.layer < len(self.backends) else NFT

    # --- the packet ---------------------------------------------------------------------------------------

    def host_of(self, known: Facts, planned: Plan, live: Live | None) -> Host:
        addresses = known.addresses or ()
        if live:
            return host_there(live, addresses)
        return host_of(addresses, planned.routing, passthrough=planned.passthrough_address)

    def packet_of(self, known: Facts) -> Packet:
        question, destination = self.question, self.question.address
        if question.direction is Direction.IN or destination is None:
            return self.arriving(known)
        family = FAMILIES[destination.version]
        uid, gid = self.sender()
        chosen = question.source or self.own_address_to(family, destination, uid)
        interface = question.interface or self.way_to(family, destination, chosen)
        return Packet(
            Direction.OUT,
            family,
            question.protocol,
            chosen,
            destination,
            question.port,
            interface,
            question.source_port,
            uid,
            gid,
            question.mark,
            question.state,
            is_bound=question.source is not None,
        )

    def own_address_to(self, family: Family, destination: Address, uid: int) -> Address:
        """The source address that the kernel would choose; one of ours if it knows no way.

        Raises CaptureError if it knows no way and is the one that is asked about.
        """
        if self.host.is_local(destination):
            return self.host.source_to(family, destination)
        try:
            return chosen_source(family, destination, self.question.port)
        except OSError as error:
            by_rule = self.own_address_by_rule(family, destination, uid)
            if by_rule:
                return by_rule
            what = f"there is no way to {destination} from here ({error.strerror})"
            if self.question.live and not self.question.interface:
                raise CaptureError(f"{what}, so nothing is sent", hint="--iface asks all the same") from error
            own = self.host.addresses
            outside = [at.address for at in own if FAMILIES[at.address.version] is family and is_outside(at.address)]
            source = outside[0] if outside else ELSEWHERE[family][1]
            self.notes.append(f"{what}; taken to be sent from {source}")
            return source

    def own_address_by_rule(self, family: Family, destination: Address, uid: int) -> Address | None:
        """One of ours, if an ip rule of others sends this sender's packets away, or refuses them.

        The kernel was asked on behalf of the user that we are, for whom other ip rules may hold.
        """
        question, host = self.question, self.host
        number = NUMBERS[question.protocol]
        flow = Flow(family, question.mark, destination, None, "lo", "", number, question.port, None, uid, 0)
        ways = [way for way in host.policy.way(flow) if way.by] if host.policy else []
        outside = [local.interface for local in host.addresses if local.interface != "lo"]
        for device in (*(way.device for way in ways if way.device), *(outside if ways else ())):
            found = host.address_of(device, family, destination)
            if found:
                return found
        return None

    def way_to(self, family: Family, destination: Address, source: Address) -> str:
        """The interface by which it leaves: that of its source, if it is one of ours outside."""
        host = self.host
        if host.is_local(destination) or host.is_kept(Flow(family, self.question.mark, destination, source, "lo", "")):
            return "lo"
        of_source = [local.interface for local in host.addresses if local.address == source and local.interface != "lo"]
        return of_source[0] if of_source else host.leaves_on(family, destination, self.question.mark)

    def sender(self) -> tuple[int, int]:
        """Who sends it: as asked, or an application."""
        question, intent = self.question, self.resolved.intent
        uid, gid = question.uid, question.gid
        if uid is None:
            taken = {*intent.proxy_uid, *intent.proxy_gid}
            uid = next(i for i in range(FIRST_APPLICATION, 1 << 32) if i not in taken)
            self.notes.append(f"sent by an application, taken to be uid {uid}; --uid says another")
        return uid, uid if gid is None else gid

    def arriving(self, known: Facts) -> Packet:
        question, host = self.question, self.host
        destination = question.address
        wanted = question.source.version if question.source else None
        if destination is None:
            usable = known.usable(FAMILIES[wanted] if wanted else None)
            if not usable:
                of_family = f" of IPv{wanted}" if wanted else ""
                reason = f"names no host, and there is no address{of_family} here that others could reach; name one"
                raise BadSettings([Refusal("argument", f":{question.port}", reason)])
            destination = usable[0].ip
        family = FAMILIES[destination.version]
        interface = question.interface
        if not interface:
            own = [local.interface for local in host.addresses if local.address == destination]
            interface = next((name for name in own if name != "lo"), host.default_interface)
        if destination.is_loopback and interface != "lo":
            reason = "is a loopback address: the kernel lets nothing arrive there from outside"
            raise BadSettings([Refusal("argument", str(destination), reason)])
        if not question.live and not any(local.interface == interface for local in host.addresses):
            assumed = Local(interface, ELSEWHERE[family][1], 0)
            self.host = host.but(addresses=(*host.addresses, assumed))
            self.notes.append(f"{interface} has no address here; taken to have one, {assumed.address}")
        source = question.source
        if source is None:
            source = LOOPBACK[family].network_address if interface == "lo" else ELSEWHERE[family][0]
            self.notes.append(f"sent by a client taken to be {source}; --src says another")
        return Packet(
            Direction.IN,
            family,
            question.protocol,
            source,
            destination,
            question.port,
            interface,
            question.source_port,
            mark=question.mark,
            state=question.state,
        )

    # --- words --------------------------------------------------------------------------------------------

    def told(self) -> Answered:
        """The answer, each step with what the operator said and the backend that holds it."""

        def known(step: Step) -> Step:
            option = self.said(step.rule.setting) if step.rule.setting else ""
            return step.but(option=option, backend=self.backend_of(step))

        trace = self.trace
        decided = known(trace.decided) if trace.decided else None
        steps, depends_on = tuple(map(known, trace.steps)), tuple(map(known, trace.depends_on))
        followed = trace.but(steps=steps, depends_on=depends_on, decided=decided)
        return Answered(followed, tuple(self.notes), self.sentence, self.choice)

    def said(self, name: str) -> str:
        """How the operator said a setting: `flag -x "10.0.0.0/8"`.

        Of live rules that differ from what these settings mean, only the flag is known.
        """
        setting = DECLARED_BY_NAME[name]
        if not self.is_as_planned:
            return setting.shown
        origin = self.resolved.derived.get(name, self.settings.origins[name])
        if origin.text is not None:
            return f"{origin} {quoted(origin.text)}"
        how = "by default" if origin.kind == "default" else str(origin)
        return f"{setting.shown} {quoted(shown(getattr(self.resolved.intent, name)))} {how}"

    def lines(self, *, all_rules: bool) -> Iterator[str]:
        """The answer as text."""
        yield style(described(self.packet), bold=True)
        yield from (style(f"  {note}", dim=True) for note in self.notes)
        yield ""
        steps = [step for step in self.trace.steps if all_rules or step.matched is not False]
        heading = ""
        for step in steps:
            backend = self.backend_of(step)
            back = self.packet.direction is Direction.OUT and step.hook in (PREROUTING, INPUT)
            title = f"{step.table} {step.hook}{f' ({backend})' if backend else ''}{' over lo' if back else ''}"
            if title != heading:
                heading = title
                yield style(title, bold=True)
            sign = {True: style("✓", fg="green"), False: " ", None: style("?", fg="yellow")}[step.matched]
            yield f"  {sign} {step.chain} {step.position}: {rule_text(step.rule)}"
            if step.matched is not False and step.rule.why:
                setting = f" [{self.said(step.rule.setting)}]" if step.rule.setting else ""
                yield style(f"      {step.rule.why}{setting}", dim=True)
        if not steps:
            yield "no rule matches it"
        yield ""
        yield style(self.sentence, fg=colour_of(self.trace.became), bold=True)


@primitive
def chosen_source(family: Family, destination: Address, port: int) -> Address:
    """The address that the kernel chooses to send UDP from. Nothing is sent. Raises OSError if it knows no way."""
    with socket.socket(SOCKETS[family], socket.SOCK_DGRAM) as unsent:
        unsent.connect((str(destination), port))
        return ip_address(unsent.getsockname()[0])


def colour_of(became: Became) -> str:
    """Of an outcome: captured, past the proxy, stopped, or not to be told."""
    if became.is_captured:
        return "green"
    return {Became.DEPENDS: "yellow", Became.DROPPED: "red", Became.REFUSED: "red"}.get(became, "cyan")


def described(packet: Packet) -> str:
    """The packet that is asked about."""
    port = f":{packet.source_port}" if packet.source_port else ""
    place = written if port else str
    parts = [f"{packet.family.value} {packet.protocol.upper()} to {written(packet.destination)}:{packet.port}"]
    parts.append(f"from {place(packet.source)}{port}")
    if packet.direction is Direction.OUT:
        parts += [f"by uid {packet.uid}, gid {packet.gid}", f"leaving on {packet.interface}"]
    else:
        parts.append(f"arriving on {packet.interface}")
    if packet.mark:
        parts.append(f"with mark {packet.mark:#x}")
    first = packet.state == NEW
    parts.append("the first packet of its connection" if first else f"state {packet.state}")
    return ", ".join(parts)


def shown(value: object) -> str:
    """A value of an intent as one would write it on a command line."""
    if isinstance(value, All):
        return "*"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
